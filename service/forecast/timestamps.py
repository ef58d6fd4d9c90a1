"""The times of a series, from its start and its frequency; and its usual seasons, from its frequency."""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
from dateutil.parser import isoparse
from numpy.typing import NDArray

from service.errors import InvalidRequestError
from service.forecast.seasons import UNIT_SECONDS, usual_seasons

FREQUENCIES = "Y, Q, M, W, D, B (weekdays), H, min or S, and pandas' variants, with a count before if need be (15min)"
_PATTERN = re.compile(r"([1-9][0-9]{0,3})?([A-Za-z]{1,3})(?:-([A-Z]{3}))?")
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
MONTHS_OF = {"Y": 12, "Q": 3, "M": 1}
_NAMES = {
    **{name: (name[:1], "") for name in ("Y", "Q", "M", "W", "D", "B", "H", "T", "S")},
    **{"A": ("Y", ""), "h": ("H", ""), "min": ("T", ""), "s": ("S", "")},
    **{f"{unit}{day}": (unit, day) for unit in "YQM" for day in "SE"},
    **{f"B{unit}{day}": (unit, f"B{day}") for unit in "YQM" for day in "SE"},
    **{"AS": ("Y", "S"), "BM": ("M", "BE"), "BQ": ("Q", "BE"), "BY": ("Y", "BE"), "BA": ("Y", "BE")},
    "BAS": ("Y", "BS"),
}
"""pandas' names, old and new -> the unit (Y, Q, M, W, D, B, H, T for minutes, or S), and the day of its months that the
times are on: S the first, E the last, BS the first weekday (Monday to Friday), BE the last weekday."""
_DAYS = {"S": "the first day", "E": "the last day", "BS": "the first weekday", "BE": "the last weekday"}
_FIRST, _LAST = np.datetime64("0001-01-01"), np.datetime64("9999-12-31")

Times = NDArray[np.datetime64]


@dataclass(frozen=True)
class Frequency:
    """A value every `count` units. `day`: the day of its months that the times are on, "" for any. `anchor`: the month,
    from 0, in which a year or quarter begins (day S) or ends (day E), or the day of the week; None for any."""

    name: str
    count: int
    unit: str
    day: str
    anchor: int | None


def timestamps_after(start: str, freq: str, before: int, count: int) -> list[str]:
    """ISO 8601 times of `count` values; `before` values precede them, the first of which was at `start`.

    They are the times of pandas' date_range. If the frequency names no day (M, Q, Y, W), they count from the start,
    whatever day it is; a series that starts on the last day of a month stays on last days. Dates stay dates unless the
    frequency is finer than a day.

    Raises:
        InvalidRequestError: `start` or `freq` cannot be read, or the start is no time of that frequency, or the times
            leave the calendar.
    """
    times, first, unit = _times_after(start, freq, before, count)
    if len(start) <= 10 and unit not in ("H", "T", "S"):
        dates: list[str] = np.datetime_as_string(times.astype("datetime64[D]")).tolist()
        return dates
    suffix = first.isoformat()[19:]  # the fraction of a second, and the time zone
    to_seconds: list[str] = np.datetime_as_string(times).tolist()
    return [time + suffix for time in to_seconds] if suffix else to_seconds


def times_of(start: str, freq: str, count: int) -> Times:
    """The first `count` times of a series, to the second, in its own time zone.

    Raises:
        InvalidRequestError: as `timestamps_after`.
    """
    return _times_after(start, freq, 0, count)[0]


def _times_after(start: str, freq: str, before: int, count: int) -> tuple[Times, datetime, str]:
    """The times to the second, the start, and the frequency's unit."""
    frequency = read_frequency(freq)
    try:
        first = isoparse(start)
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            "not an ISO 8601 date or time, such as 2024-01-31 or 2024-01-31T12:00", "$.start"
        ) from None
    _check_anchor(first, frequency)
    steps = frequency.count * np.arange(before, before + count, dtype=np.int64)
    if frequency.unit in UNIT_SECONDS:
        seconds = np.datetime64(first.replace(tzinfo=None, microsecond=0), "s").astype(np.int64)
        times = (seconds + UNIT_SECONDS[frequency.unit] * steps).astype("datetime64[s]")
    else:
        days = _weekdays(first, steps) if frequency.unit == "B" else _month_days(first, frequency, steps)
        seconds_of_day = 3600 * first.hour + 60 * first.minute + first.second
        times = days.astype("datetime64[s]") + np.timedelta64(seconds_of_day, "s")
    if len(times) and not _FIRST <= times[-1].astype("datetime64[D]") <= _LAST:
        raise InvalidRequestError("the times would end after the year 9999", "$.start")
    return times, first, frequency.unit


def seasons_of(freq: str) -> tuple[int, ...] | None:
    """The usual seasons of a frequency, as `usual_seasons` has them.

    Raises:
        InvalidRequestError: `freq` cannot be read.
    """
    frequency = read_frequency(freq)
    return usual_seasons(frequency.unit, frequency.count)


@lru_cache(maxsize=256)
def read_frequency(freq: str) -> Frequency:
    """What the name of a frequency says.

    Raises:
        InvalidRequestError: it is none.
    """
    match = _PATTERN.fullmatch(freq)
    unit, day = _NAMES.get(match[2], ("", "")) if match else ("", "")
    known = WEEKDAYS if unit == "W" else MONTHS if unit in ("Q", "Y") else ()
    if match is None or not unit or (match[3] is not None and match[3] not in known):
        raise InvalidRequestError(f"not a frequency; accepted are {FREQUENCIES}", "$.freq")
    if unit in ("Q", "Y") and match[3] is not None:
        day = day or "E"  # Q-FEB and A-JUN have always meant the end
    anchor = None if match[3] is None else known.index(match[3])
    if anchor is None and unit in ("Q", "Y") and day:
        anchor = 0 if day.endswith("S") else 11
    return Frequency(freq, int(match[1] or 1), unit, day, anchor)


def _check_anchor(first: datetime, frequency: Frequency) -> None:
    """Reject a start that is no time of the frequency: it is unclear which days the values belong to.

    Raises:
        InvalidRequestError: it is none.
    """
    unit, day, anchor = frequency.unit, frequency.day, frequency.anchor
    if unit == "W":
        matches = anchor in (None, first.weekday())
        days = "" if anchor is None else f"on {WEEKDAYS[anchor]}"
    elif day:
        months = range(12) if anchor is None else [(anchor + more) % 12 for more in range(0, 12, MONTHS_OF[unit])]
        matches = first.month - 1 in months and np.datetime64(first.date()) == _day_of(first, day)
        of_months = "a month" if anchor is None else ", ".join(MONTHS[month] for month in sorted(months))
        days = f"on {_DAYS[day]} of {of_months}"
    else:
        return
    if not matches:
        raise InvalidRequestError(
            f"a series at the frequency {frequency.name} has its times {days}; {first.date()} is none of them. "
            f"{unit} alone counts from any day",
            "$.start",
        )


def _day_of(time: datetime, day: str) -> np.datetime64:
    month = np.array([(time.year - 1970) * 12 + time.month - 1])
    first: np.datetime64 = days_of_months(month, day)[0]
    return first


def days_of_months(months: NDArray[np.int64], day: str) -> Times:
    """The first or last day, or weekday, of months counted from 1970."""
    firsts = months.astype("datetime64[M]").astype("datetime64[D]")
    nexts = (months + 1).astype("datetime64[M]").astype("datetime64[D]")
    match day:
        case "S":
            days = firsts
        case "E":
            days = nexts - np.timedelta64(1, "D")
        case "BS":
            days = np.busday_offset(firsts, 0, roll="forward")
        case _:
            days = np.busday_offset(nexts, -1, roll="forward")
    return days


def _month_days(first: datetime, frequency: Frequency, steps: NDArray[np.int64]) -> Times:
    months = (first.year - 1970) * 12 + first.month - 1 + MONTHS_OF[frequency.unit] * steps
    if len(months) and months[-1] >= (10_000 - 1970) * 12:
        raise InvalidRequestError("the times would end after the year 9999", "$.start")
    if frequency.day:
        return days_of_months(months, frequency.day)
    firsts, lasts = days_of_months(months, "S"), days_of_months(months, "E")
    if np.datetime64(first.date()) == _day_of(first, "E"):
        return lasts
    days: Times = np.minimum(firsts + np.timedelta64(first.day - 1, "D"), lasts)
    return days


def _weekdays(first: datetime, steps: NDArray[np.int64]) -> Times:
    """A series that starts on a weekend has its first value on the Monday after it."""
    days: Times = np.busday_offset(np.datetime64(first.date()), steps, roll="forward")
    return days
