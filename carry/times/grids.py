"""The regular grid that the times of one series lie on, with the service's own frequencies. Needs no library of data
frames, and knows nothing of frames.

Times are whole microseconds since 1970. A frequency of a day or longer counts by the clock on the wall, a shorter one
by the time that passes: when clocks change, a day at midnight stays at midnight, and an hour lasts an hour.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequestError
from service.forecast.timestamps import times_of

Ints = NDArray[np.int64]

SECOND = 1_000_000
DAY = 86_400 * SECOND
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
SPARSEST = 50
"""Places of a grid for each time on it, at most: a wrong year would make a grid of millions."""
_SUB_DAILY = ("H", "h", "T", "min", "S", "s")


@dataclass(frozen=True)
class Grid:
    """indices (T,): the place of each time, the first 0; step, for integers: between two places; freq: None for
    integers; by_wall: whether `freq` counts by the clock on the wall; start (ISO 8601): place 0."""

    indices: Ints
    freq: str | None
    by_wall: bool
    start: str | None
    first: int
    step: int

    @property
    def length(self) -> int:
        """Places from the first time to the last."""
        return int(self.indices[-1]) + 1

    def after(self, count: int) -> Ints:
        """The next `count` times, by the clock that the grid counts by.

        Raises:
            InvalidRequestError: they leave the calendar.
        """
        if self.start is None or self.freq is None:
            return self.first + self.step * np.arange(self.length, self.length + count, dtype=np.int64)
        return _places(self.start, self.freq, self.length + count)[self.length :] + self.first % SECOND


def integer_grid(times: Ints, step: int | None = None) -> Grid:
    """The grid of ascending integers (T,): by their usual step.

    Raises:
        InvalidRequestError: they have none.
    """
    step = step or _usual_step(times) or 1
    indices, rest = np.divmod(times - times[0], step)
    if rest.any():
        raise InvalidRequestError(f"are not at steps of {step}", "ds")
    _check_length(int(indices[-1]) + 1, len(times), str(step))
    return Grid(indices, None, False, None, int(times[0]), step)


def time_grid(wall: Ints, passing: Ints, freq: str | None = None) -> Grid:
    """The grid of ascending times (T,), by the clock on the wall and by the time that passes (UTC); both are the same
    for times without a zone. freq: what the caller says; else it is found.

    Raises:
        InvalidRequestError: there is no such frequency, or the times are not on its grid, or on none.
    """
    found = freq is None
    freq = freq or frequency(wall, passing)
    if freq is None:
        raise InvalidRequestError("the times follow no frequency: name one (`freq`), or make them regular", "ds")
    by_wall = freq.lstrip("0123456789").split("-")[0] not in _SUB_DAILY
    times = wall if by_wall else passing
    first = int(times[0])
    start = str(np.datetime64(first // SECOND, "s"))
    if by_wall and first % DAY == 0:
        start = start[:10]
    count = _count(times, freq)
    _check_length(count, len(times), freq)
    places = _places(start, freq, count + 1) + first % SECOND
    indices = np.searchsorted(places, times)
    wrong = np.flatnonzero(places[np.minimum(indices, count)] != times)
    if len(wrong):
        time = str(np.datetime64(int(wall[wrong[0]]), "us")).removesuffix(".000000")
        says = "found: name another one with `freq`" if found else "asked for"
        raise InvalidRequestError(f"{time} is not among the times of the frequency {freq}, which was {says}", "ds")
    return Grid(indices, freq, by_wall, start, first, 0)


def frequency(wall: Ints, passing: Ints) -> str | None:
    """The frequency of ascending times (T,), as the service names it; None if there is none, or one time only."""
    if len(wall) < 2:
        return None
    if (wall % DAY == wall[0] % DAY).all():
        return _frequency_of_days(wall // DAY)
    step = _usual_step(passing)
    if step is None or step % SECOND:
        return None
    seconds = step // SECOND
    for unit, length in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds % length == 0:
            return _counted(seconds // length, unit)
    return None


def _frequency_of_days(days: Ints) -> str | None:
    """The frequency of ascending days since 1970 (T,)."""
    steps = np.diff(days)
    if steps.min() >= 28 and (monthly := _frequency_of_months(days)) is not None:
        return monthly
    step = _usual_step(days)
    if step is None:
        return None
    if step == 1 and days[-1] - days[0] >= 7 and ((days + 3) % 7 < 5).all():  # 1970-01-01 was a Thursday
        return "B"
    return _counted(step // 7, "W") if step % 7 == 0 else _counted(step, "D")


def _frequency_of_months(days: Ints) -> str | None:
    """The frequency of days that lie at the same place of their months, as a multiple of months."""
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    firsts, nexts = months.astype("datetime64[D]"), (months + 1).astype("datetime64[D]")
    numbers = months.astype(np.int64)
    count = int(np.gcd.reduce(np.diff(numbers)))
    places = {
        "S": firsts,
        "E": nexts - 1,
        "BS": np.busday_offset(firsts, 0, roll="forward"),
        "BE": np.busday_offset(nexts, -1, roll="forward"),
    }
    for place, expected in places.items():
        if (dates == expected).all():
            return _months(count, place, _MONTHS[int(numbers[0]) % 12])
    day = (dates - firsts).astype(np.int64)
    # Of the 31st, a short month has its last day.
    if (day == np.minimum(day.max(), (nexts - firsts).astype(np.int64) - 1)).all() and day[0] == day.max():
        return _months(count, "", "")
    return None


def _months(count: int, place: str, anchor: str) -> str:
    business, end = place[:-1], place[-1:]
    unit, count = ("Y", count // 12) if count % 12 == 0 else ("Q", 1) if count == 3 else ("M", count)
    return _counted(count, f"{business}{unit}{end}" + (f"-{anchor}" if end and unit != "M" else ""))


def _counted(count: int, unit: str) -> str:
    return unit if count == 1 else f"{count}{unit}"


def _usual_step(numbers: Ints) -> int | None:
    """The step that at least half of the differences have, if it divides all of them; None if there is none."""
    steps = np.diff(numbers)
    if not len(steps):
        return None
    step = int(np.gcd.reduce(steps))
    return step if 2 * np.count_nonzero(steps == step) >= len(steps) else None


def _count(times: Ints, freq: str) -> int:
    """A bound of the places from the first time to the last, computed before any is made."""
    # Places are never closer than two of the first ones, but for months and weekdays.
    two = _places(str(np.datetime64(int(times[0]) // SECOND, "s")), freq, 2)
    step = int(two[1] - two[0])
    unit = freq.lstrip("0123456789").split("-")[0]
    if unit == "B":
        first, last = (times[[0, -1]] // DAY).astype("datetime64[D]")
        return int(np.busday_count(first, last)) + 1
    if unit not in ("D", "W", *_SUB_DAILY):
        step -= 4 * DAY  # the shortest month
    return int(times[-1] - times[0]) // step + 1


def _places(start: str, freq: str, count: int) -> Ints:
    """The first `count` times of a frequency.

    Raises:
        InvalidRequestError: as the service's `times_of`.
    """
    times: Ints = times_of(start, freq, count).astype(np.int64) * SECOND
    return times


def _check_length(places: int, times: int, freq: str) -> None:
    if places > max(1000, SPARSEST * times):
        detail = f"lie too far apart: {times} times on a grid of {places} ({freq}); is one of them wrong?"
        raise InvalidRequestError(detail, "ds")
