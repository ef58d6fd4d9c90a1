"""The times that follow a series, from when it starts and how often it has a value."""

import re
from datetime import datetime, timedelta

from dateutil.parser import isoparse
from dateutil.relativedelta import relativedelta

from service.errors import InvalidRequestError

FREQUENCIES = "Y, Q, M, W, D, B (weekdays), H, min or S, with a count before it if need be (15min)"
_PATTERN = re.compile(r"^([1-9][0-9]{0,3})?(Y|YS|YE|A|Q|QS|QE|M|MS|ME|W|D|B|H|h|min|T|S|s)$")
_MONTHS = {"Y": 12, "A": 12, "Q": 3, "M": 1}
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
    match = _PATTERN.match(freq)
    if match is None:
        raise InvalidRequestError(f"not a frequency; accepted are {FREQUENCIES}", "$.freq")
    try:
        first = isoparse(start)
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            "not an ISO 8601 date or time, such as 2024-01-31 or 2024-01-31T12:00", "$.start"
        ) from None
    times = int(match[1] or 1)
    unit = {"min": "T", "h": "H", "s": "S"}.get(match[2], match[2])
    unit = unit[0] if unit[0] in _MONTHS else unit
    try:
        found = [_after(first, unit, times * step) for step in range(given, given + count)]
    except (OverflowError, ValueError):
        raise InvalidRequestError("the forecast would end after the year 9999", "$.start") from None
    only_date = len(start) <= 10 and unit not in ("H", "T", "S")
    return [(time.date() if only_date else time).isoformat() for time in found]


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
