"""The times of a series, from when it starts and how often it has a value; and what seasons such a series has."""

import re
from datetime import datetime, timedelta

from dateutil.parser import isoparse
from dateutil.relativedelta import relativedelta

from service.errors import InvalidRequestError

FREQUENCIES = "Y, Q, M, W, D, B (weekdays), H, min or S, and pandas' variants, with a count before if need be (15min)"
_PATTERN = re.compile(r"^([1-9][0-9]{0,3})?(?:(Y|YS|YE|A|AS|Q|QS|QE|W)(?:-[A-Z]{3})?|(M|MS|ME|D|B|H|h|min|T|S|s))$")
_MONTHS = {"Y": 12, "Q": 3, "M": 1}
_SPANS = {
    "W": timedelta(weeks=1),
    "D": timedelta(days=1),
    "H": timedelta(hours=1),
    "T": timedelta(minutes=1),
    "S": timedelta(seconds=1),
}


def timestamps_after(start: str, freq: str, given: int, count: int) -> list[str]:
    """ISO 8601 times of the `count` values that follow a series of `given` values, the first of which was at `start`.

    A monthly series that starts on the last day of a month stays on last days. Dates stay dates unless the frequency is
    finer than a day.

    Raises:
        InvalidRequestError: `start` or `freq` cannot be read, or the times leave the calendar.
    """
    times, unit = _read(freq)
    try:
        first = isoparse(start)
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            "not an ISO 8601 date or time, such as 2024-01-31 or 2024-01-31T12:00", "$.start"
        ) from None
    try:
        found = [_after(first, unit, times * step) for step in range(given, given + count)]
    except (OverflowError, ValueError):
        raise InvalidRequestError("the forecast would end after the year 9999", "$.start") from None
    only_date = len(start) <= 10 and unit not in ("H", "T", "S")
    return [(time.date() if only_date else time).isoformat() for time in found]


_CYCLES: dict[str, tuple[int, ...]] = {"Y": (1,), "Q": (4,), "M": (12,), "W": (52,), "D": (7,), "B": (5,)}
"""Values per season, and per second, longer season, of a value each unit."""
_DAY = 86_400


def seasons_of(freq: str) -> tuple[int, ...] | None:
    """The seasons that series of a frequency have as a rule, in values: the week of daily ones, the day and the week of
    hourly ones; (1,) is none. None where there is no rule, as where a season is no whole number of values.

    Raises:
        InvalidRequestError: `freq` cannot be read.
    """
    times, unit = _read(freq)
    cycles = _CYCLES.get(unit)
    if cycles is None:
        seconds = int(_SPANS[unit].total_seconds())
        cycles = (_DAY // seconds, 7 * _DAY // seconds)
    found = tuple(cycle // times for cycle in cycles)
    if unit != "Y" and [times * season for season in found] != [*cycles]:
        return None
    return tuple(season for season in found if season > 1) or (1,)


def _read(freq: str) -> tuple[int, str]:
    """How many of which unit: Y, Q, M, W, D, B, H, T (minutes) or S."""
    match = _PATTERN.match(freq)
    if match is None:
        raise InvalidRequestError(f"not a frequency; accepted are {FREQUENCIES}", "$.freq")
    unit = match[2] or match[3]
    unit = {"min": "T", "h": "H", "s": "S"}.get(unit, unit)
    unit = "Y" if unit[0] == "A" else unit[0]
    return int(match[1] or 1), unit


def _after(first: datetime, unit: str, steps: int) -> datetime:
    if unit in _MONTHS:
        at_end = (first + timedelta(days=1)).month != first.month
        return first + relativedelta(months=_MONTHS[unit] * steps, day=31 if at_end else None)
    if unit == "B":
        if first.weekday() > 4:
            first += timedelta(days=7 - first.weekday())
        weeks, days = divmod(first.weekday() + steps, 5)
        return first + timedelta(weeks=weeks, days=days - first.weekday())
    return first + _SPANS[unit] * steps
