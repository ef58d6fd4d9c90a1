"""The times of a series, from when it starts and how often it has a value; and what seasons such a series has."""

import re
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from dateutil.parser import isoparse
from numpy.typing import NDArray

from service.errors import InvalidRequestError

FREQUENCIES = "Y, Q, M, W, D, B (weekdays), H, min or S, and pandas' variants, with a count before if need be (15min)"
_PATTERN = re.compile(r"([1-9][0-9]{0,3})?([A-Za-z]{1,3})(?:-([A-Z]{3}))?")
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_MONTHS_OF = {"Y": 12, "Q": 3, "M": 1}
_SECONDS_OF = {"W": 7 * 86_400, "D": 86_400, "H": 3600, "T": 60, "S": 1}
_NAMES = {
    **{name: (name[:1], "") for name in ("Y", "Q", "M", "W", "D", "B", "H", "T", "S")},
    **{"A": ("Y", ""), "h": ("H", ""), "min": ("T", ""), "s": ("S", "")},
    **{f"{unit}{day}": (unit, day) for unit in "YQM" for day in "SE"},
    **{f"B{unit}{day}": (unit, f"B{day}") for unit in "YQM" for day in "SE"},
    **{"AS": ("Y", "S"), "BM": ("M", "BE"), "BQ": ("Q", "BE"), "BY": ("Y", "BE"), "BA": ("Y", "BE")},
    "BAS": ("Y", "BS"),
}
"""pandas' names, old and new -> the unit: Y, Q, M, W, D, B, H, T (minutes) or S; and the day of a month's period that
its times are on: S the first, E the last, BS and BE the first and last that are no Saturday or Sunday."""
_DAYS = {"S": "the first day", "E": "the last day", "BS": "the first weekday", "BE": "the last weekday"}
_FIRST, _LAST = np.datetime64("0001-01-01"), np.datetime64("9999-12-31")

Days = NDArray[np.datetime64]


@dataclass(frozen=True)
class _Frequency:
    """`count` units, such as M. Times are on a `day` of a month's period ("": any), and on an `anchor`: the month, from
    0, in which a year or quarter begins (S) or ends (E), or the day of the week; None: any."""

    name: str
    count: int
    unit: str
    day: str
    anchor: int | None


def timestamps_after(start: str, freq: str, given: int, count: int) -> list[str]:
    """ISO 8601 times of the `count` values that follow a series of `given` values, the first of which was at `start`.

    They are those of pandas' date_range. Where the frequency names no day (M, Q, Y, W), they are counted from the
    start, whatever day it is; a series that starts on the last day of a month stays on last days. Dates stay dates
    unless the frequency is finer than a day.

    Raises:
        InvalidRequestError: `start` or `freq` cannot be read, or the start is no time of that frequency, or the times
            leave the calendar.
    """
    times, first, unit = _times_after(start, freq, given, count)
    if len(start) <= 10 and unit not in ("H", "T", "S"):
        only_dates: list[str] = np.datetime_as_string(times.astype("datetime64[D]")).tolist()
        return only_dates
    rest = first.isoformat()[19:]  # the fraction of a second, and the time zone
    found: list[str] = np.datetime_as_string(times).tolist()
    return [time + rest for time in found] if rest else found


def times_of(start: str, freq: str, count: int) -> Days:
    """The first `count` times of a series, to the second, as its own clock has them.

    Raises:
        InvalidRequestError: as of `timestamps_after`.
    """
    return _times_after(start, freq, 0, count)[0]


def _times_after(start: str, freq: str, given: int, count: int) -> tuple[Days, datetime, str]:
    """To the second; and the start and the unit that were read."""
    frequency = _read(freq)
    try:
        first = isoparse(start)
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            "not an ISO 8601 date or time, such as 2024-01-31 or 2024-01-31T12:00", "$.start"
        ) from None
    _check_anchor(first, frequency)
    steps = frequency.count * np.arange(given, given + count, dtype=np.int64)
    if frequency.unit in _SECONDS_OF:
        seconds = np.datetime64(first.replace(tzinfo=None, microsecond=0), "s").astype(np.int64)
        times = (seconds + _SECONDS_OF[frequency.unit] * steps).astype("datetime64[s]")
    else:
        days = _weekdays(first, steps) if frequency.unit == "B" else _in_months(first, frequency, steps)
        within = 3600 * first.hour + 60 * first.minute + first.second
        times = days.astype("datetime64[s]") + np.timedelta64(within, "s")
    if len(times) and not _FIRST <= times[-1].astype("datetime64[D]") <= _LAST:
        raise InvalidRequestError("the times would end after the year 9999", "$.start")
    return times, first, frequency.unit


_CYCLES: dict[str, tuple[int, ...]] = {"Y": (1,), "Q": (4,), "M": (12,), "W": (52,), "D": (7,), "B": (5,)}
"""Values per season, and per second, longer season, of a value each unit."""
_DAY = 86_400


def seasons_of(freq: str) -> tuple[int, ...] | None:
    """The seasons that series of a frequency have as a rule, in values: the week of daily ones, the day and the week of
    hourly ones; (1,) is none. None where there is no rule, as where a season is no whole number of values.

    Raises:
        InvalidRequestError: `freq` cannot be read.
    """
    frequency = _read(freq)
    times, unit = frequency.count, frequency.unit
    cycles = _CYCLES.get(unit)
    if cycles is None:
        cycles = (_DAY // _SECONDS_OF[unit], 7 * _DAY // _SECONDS_OF[unit])
    found = tuple(cycle // times for cycle in cycles)
    if unit != "Y" and [times * season for season in found] != [*cycles]:
        return None
    return tuple(season for season in found if season > 1) or (1,)


def counts_months(freq: str) -> bool:
    """Whether series of a frequency have a value every few months.

    Raises:
        InvalidRequestError: `freq` cannot be read.
    """
    return _read(freq).unit in ("Q", "M")


def _read(freq: str) -> _Frequency:
    match = _PATTERN.fullmatch(freq)
    unit, day = _NAMES.get(match[2], ("", "")) if match else ("", "")
    known = _WEEKDAYS if unit == "W" else _MONTHS if unit in ("Q", "Y") else ()
    if match is None or not unit or (match[3] is not None and match[3] not in known):
        raise InvalidRequestError(f"not a frequency; accepted are {FREQUENCIES}", "$.freq")
    if unit in ("Q", "Y") and match[3] is not None:
        day = day or "E"  # as Q-FEB and A-JUN have always meant the end
    anchor = None if match[3] is None else known.index(match[3])
    if anchor is None and unit in ("Q", "Y") and day:
        anchor = 0 if day.endswith("S") else 11
    return _Frequency(freq, int(match[1] or 1), unit, day, anchor)


def _check_anchor(first: datetime, frequency: _Frequency) -> None:
    """Refuse a start that is no time of the frequency: of the values given, it is unclear which day they are of.

    Raises:
        InvalidRequestError: it is none.
    """
    unit, day, anchor = frequency.unit, frequency.day, frequency.anchor
    if unit == "W":
        good = anchor in (None, first.weekday())
        where = "" if anchor is None else f"on {_WEEKDAYS[anchor]}"
    elif day:
        months = range(12) if anchor is None else [(anchor + more) % 12 for more in range(0, 12, _MONTHS_OF[unit])]
        good = first.month - 1 in months and np.datetime64(first.date()) == _day_of(first, day)
        where = f"on {_DAYS[day]} of " + (
            "a month" if anchor is None else ", ".join(_MONTHS[m] for m in sorted(months))
        )
    else:
        return
    if not good:
        raise InvalidRequestError(
            f"a series at the frequency {frequency.name} has its times {where}; {first.date()} is none of them. "
            f"{unit} alone counts from any day",
            "$.start",
        )


def _day_of(time: datetime, day: str) -> np.datetime64:
    month = np.array([(time.year - 1970) * 12 + time.month - 1])
    found: np.datetime64 = _days(month, day)[0]
    return found


def _days(months: NDArray[np.int64], day: str) -> Days:
    """The first or last day, or weekday, of months counted from 1970."""
    begins = months.astype("datetime64[M]").astype("datetime64[D]")
    ends = (months + 1).astype("datetime64[M]").astype("datetime64[D]")
    match day:
        case "S":
            found = begins
        case "E":
            found = ends - np.timedelta64(1, "D")
        case "BS":
            found = np.busday_offset(begins, 0, roll="forward")
        case _:
            found = np.busday_offset(ends, -1, roll="forward")
    return found


def _in_months(first: datetime, frequency: _Frequency, steps: NDArray[np.int64]) -> Days:
    months = (first.year - 1970) * 12 + first.month - 1 + _MONTHS_OF[frequency.unit] * steps
    if len(months) and months[-1] >= (10_000 - 1970) * 12:
        raise InvalidRequestError("the times would end after the year 9999", "$.start")
    if frequency.day:
        return _days(months, frequency.day)
    begins, ends = _days(months, "S"), _days(months, "E")
    if np.datetime64(first.date()) == _day_of(first, "E"):
        return ends
    found: Days = np.minimum(begins + np.timedelta64(first.day - 1, "D"), ends)
    return found


def _weekdays(first: datetime, steps: NDArray[np.int64]) -> Days:
    """Of a weekend, the series begins on the Monday after it."""
    found: Days = np.busday_offset(np.datetime64(first.date()), steps, roll="forward")
    return found
