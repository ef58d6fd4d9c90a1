"""The times of many series at once, as integers: which frequency they follow, their places on its grid, the times after
the last. Uses NumPy alone, and knows nothing of Arrow and files.

Frequencies are those of the service (service/forecast/timestamps.py), so that a forecast has the same season and times
as over HTTP.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequestError
from service.forecast.seasons import UNIT_SECONDS
from service.forecast.timestamps import MONTHS, MONTHS_OF, WEEKDAYS, Frequency, days_of_months, read_frequency

Integers = NDArray[np.int64]

MAX_SPREAD = 2
"""Places of a grid per value, at most: values that are fewer do not follow the frequency."""
UNIT_TICKS = {"D": 1 / 86_400, "s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks of a second, by the unit of NumPy's datetime64."""
MONTHLY_DAYS = 28
"""Times that are all at least so many days apart are tried as months first."""
_LAST_DAY = np.datetime64("9999-12-31")


@dataclass(frozen=True)
class Step:
    """From one time of a series to the next: `count` ticks, months or weekdays. day: of the months, as `Frequency` has
    it. name: of the frequency, None if it has none: the times are counters, or the step is below a second."""

    kind: str
    count: int
    day: str = ""
    name: str | None = None


@dataclass
class Panel:
    """Times of S series, one after another.

    times (N,): ascending within each series, in ticks of `unit`: one of NumPy's datetime64, or "" for counters.
    starts (S + 1,): where each series starts, and N. No series is empty.
    """

    times: Integers
    starts: Integers
    unit: str

    @property
    def lengths(self) -> Integers:
        """(S,)"""
        return np.diff(self.starts)

    @property
    def firsts(self) -> Integers:
        """The first time of each series (S,)."""
        return self.times[self.starts[:-1]]

    @property
    def lasts(self) -> Integers:
        """The last time of each series (S,)."""
        return self.times[self.starts[1:] - 1]

    @property
    def ticks_per_day(self) -> int:
        """0 for counters."""
        return round(86_400 * UNIT_TICKS[self.unit]) if self.unit else 0

    def select(self, series: NDArray[np.intp]) -> "Panel":
        """These series alone."""
        rows = _rows(self.starts[series], self.lengths[series])
        return Panel(self.times[rows], np.concatenate([[0], np.cumsum(self.lengths[series])]), self.unit)

    def text(self, time: int) -> str:
        """A time for a message."""
        return str(np.array(time).astype(f"datetime64[{self.unit}]")) if self.unit else str(int(time))


@dataclass(frozen=True)
class Places:
    """Where the values of a panel are on the grids of their series. indices (N,): from 0; lengths (S,): of the grids.
    steps, errors: of each series one of the two, and None."""

    indices: Integers
    lengths: Integers
    steps: list[Step | None]
    errors: list[str | None]


def place(panel: Panel, freq: str | None, panel_freq: str | None = None) -> Places:
    """Find each series' grid: at `freq`; else at `panel_freq`, of the table that the series are from, where it fits;
    else at the frequency that its own times follow. Counters (1, 2, 3, ...) follow their own step.

    Raises:
        InvalidRequestError: there is no such frequency, or it is finer than the times.
    """
    count = len(panel.starts) - 1
    places = Places(np.zeros(len(panel.times), dtype=np.int64), panel.lengths.copy(), [None] * count, _disorder(panel))
    ordered = np.array([i for i in range(count) if places.errors[i] is None], dtype=np.intp)
    common = (freq or panel_freq) if panel.unit else None
    if common is not None:
        step = step_of(common, panel.unit)
        misfits = _take_step(panel, ordered, step, places)
        if freq is not None:
            _explain(panel, misfits, places)
            return places
        ordered = np.array(list(misfits), dtype=np.intp)
    by_step: dict[Step, list[int]] = {}
    for i, own in zip(ordered, infer_steps(panel.select(ordered)), strict=True) if len(ordered) else ():
        if own is None:
            places.errors[i] = "has one value, whose time alone shows no frequency: give freq"
        else:
            by_step.setdefault(own, []).append(int(i))
    for own, series in by_step.items():
        _explain(panel, _take_step(panel, np.array(series, dtype=np.intp), own, places), places)
    return places


@dataclass(frozen=True)
class _Misfit:
    """Why a series does not follow a step: the row of a time that is not on the grid; None: the grid has too many
    places."""

    step: Step
    row: int | None


def _take_step(panel: Panel, series: NDArray[np.intp], step: Step, places: Places) -> dict[int, _Misfit]:
    """Enter the places of those series that follow a step. Returns those that do not."""
    if not len(series):
        return {}
    whole = len(series) == len(places.steps)
    part = panel if whole else panel.select(series)
    numbers, exact = _places(part, step)
    last = numbers[part.starts[1:] - 1]
    fits = np.logical_and.reduceat(exact, part.starts[:-1])
    good = fits & (last <= MAX_SPREAD * part.lengths + 1)
    places.indices[slice(None) if whole else _rows(panel.starts[series], part.lengths)] = numbers
    places.lengths[series] = np.where(good, last + 1, part.lengths)
    misfits = {}
    for j, i in enumerate(series.tolist()):
        if good[j]:
            places.steps[i] = step
        else:
            start, end = int(part.starts[j]), int(part.starts[j + 1])
            row = None if fits[j] else int(panel.starts[i]) + int(np.argmin(exact[start:end]))
            misfits[i] = _Misfit(step, row)
    return misfits


def _explain(panel: Panel, misfits: dict[int, _Misfit], places: Places) -> None:
    """Enter why these series have no grid."""
    for i, misfit in misfits.items():
        name = misfit.step.name or f"of a step of {misfit.step.count}"
        if misfit.row is None:
            first, last = panel.text(int(panel.firsts[i])), panel.text(int(panel.lasts[i]))
            count = int(panel.lengths[i])
            places.errors[i] = f"has {count} values from {first} to {last}: too few for the frequency {name}"
        else:
            time = panel.text(int(panel.times[misfit.row]))
            places.errors[i] = f"its times do not follow the frequency {name}: {time} is none of them"


def times_after(
    firsts: Integers, lengths: Integers, step: Step, unit: str, horizon: int
) -> tuple[Integers, NDArray[np.bool_]]:
    """The times (S, horizon) of the values after grids that start at `firsts` (S,) and have `lengths` (S,) places; and
    of which series (S,) they are within the calendar, to the year 9999."""
    places = lengths[:, None] + np.arange(horizon)
    if step.kind == "ticks":
        times = firsts[:, None] + step.count * places
    else:
        counts = np.full(len(firsts), horizon)
        times = _calendar_times(firsts, counts, places.ravel(), step, unit).reshape(places.shape)
    within: NDArray[np.bool_] = np.all(times >= firsts[:, None], axis=1)  # integers that are too large wrap around
    if unit:
        last_days = times[:, -1].astype(f"datetime64[{unit}]").astype("datetime64[D]")
        within = np.logical_and(within, last_days <= _LAST_DAY)
    return times, within


def step_of(freq: str, unit: str) -> Step:
    """The step of a frequency, for times in ticks of `unit`.

    Raises:
        InvalidRequestError: there is no such frequency, or it is finer than the ticks.
    """
    frequency = read_frequency(freq)
    if frequency.unit == "B":
        return Step("weekdays", frequency.count, "", freq)
    if frequency.unit in MONTHS_OF:
        return Step("months", frequency.count * MONTHS_OF[frequency.unit], frequency.day, freq)
    ticks = round(frequency.count * UNIT_SECONDS[frequency.unit] * UNIT_TICKS[unit])
    if ticks == 0:
        raise InvalidRequestError(f"{freq} is finer than the times, which are dates", "$.freq")
    return Step("ticks", ticks, "", freq)


def infer_steps(panel: Panel) -> list[Step | None]:
    """The step of each series, by its times, which are all different; None where one time alone shows none."""
    count, starts, day = len(panel.starts) - 1, panel.starts, panel.ticks_per_day
    steps: list[Step | None] = [None if panel.unit else Step("ticks", 1)] * count
    several = panel.lengths > 1
    if not several.any():
        return steps
    # Differences within the series; those from one series to the next become neutral.
    diffs = np.diff(panel.times, append=panel.times[-1:])
    diffs[starts[1:] - 1] = 0
    inner = diffs != 0
    lowest = np.minimum.reduceat(np.where(inner, diffs, np.iinfo(np.int64).max), starts[:-1])
    even = lowest == np.maximum.reduceat(diffs, starts[:-1])
    divisors = lowest if even[several].all() else np.gcd.reduceat(diffs, starts[:-1])
    if not day:
        return [Step("ticks", int(divisors[i])) if several[i] else steps[i] for i in range(count)]
    _infer_months(panel, np.flatnonzero(several & (lowest >= MONTHLY_DAYS * day)), steps)
    of_days = (divisors % day == 0) & (divisors % (7 * day) != 0)
    _infer_weekdays(panel, np.flatnonzero(several & ~even & of_days), steps)
    weekdays = np.where(divisors % (7 * day) == 0, (panel.firsts // day + 3) % 7, 0)
    known: dict[tuple[int, int], Step] = {}
    for i in np.flatnonzero(several).tolist():
        if steps[i] is None:
            key = int(divisors[i]), int(weekdays[i])
            if key not in known:
                known[key] = Step("ticks", key[0], "", _name_of(key[0], day, key[1]))
            steps[i] = known[key]
    return steps


def _infer_months(panel: Panel, series: NDArray[np.intp], steps: list[Step | None]) -> None:
    """Enter the steps of those series whose times are on the same day of months."""
    for day in ("S", "E", "", "BS", "BE"):
        if not len(series):
            return
        part = panel.select(series)
        starts = part.starts[:-1]
        months = _as(part.times, part.unit, "M")
        since = months - np.repeat(months[starts], part.lengths)
        exact = _calendar_times(part.firsts, part.lengths, since, Step("months", 1, day), part.unit) == part.times
        fits = np.logical_and.reduceat(exact, starts)
        counts, first_months = np.gcd.reduceat(since, starts), months[starts]
        for i, j in zip(series[fits].tolist(), np.flatnonzero(fits).tolist(), strict=True):
            steps[i] = _month_step(int(counts[j]), day, int(first_months[j]) % 12)
        series = series[~fits]


def _infer_weekdays(panel: Panel, series: NDArray[np.intp], steps: list[Step | None]) -> None:
    """Enter the steps of those series whose times are all on weekdays."""
    series = series[[steps[i] is None for i in series]]
    if len(series):
        part = panel.select(series)
        on_weekdays = (part.times // part.ticks_per_day + 3) % 7 < 5
        for i in series[np.logical_and.reduceat(on_weekdays, part.starts[:-1])]:
            steps[i] = Step("weekdays", 1, "", "B")


def _name_of(tick: int, day: int, weekday: int) -> str | None:
    """The name of a frequency with a value every `tick` ticks, of which `day` make a day."""
    second = day / 86_400
    for unit, name in (("W", f"W-{WEEKDAYS[weekday]}"), ("D", "D"), ("H", "h"), ("T", "min"), ("S", "s")):
        ticks = UNIT_SECONDS[unit] * second
        if ticks >= 1 and tick % ticks == 0 and tick // ticks < 10_000:
            count = int(tick // ticks)
            return name if count == 1 else f"{count}{name}"
    return None


@lru_cache(maxsize=256)
def _month_step(count: int, day: str, month: int) -> Step:
    """The step of a frequency of `count` months on a day of them. month: of the first time, from 0."""
    unit = "Y" if count % 12 == 0 else "Q" if count % 3 == 0 else "M"
    number = count // MONTHS_OF[unit]
    letters = f"B{unit}{day[1:]}" if len(day) > 1 else f"{unit}{day}"
    anchor = f"-{MONTHS[month]}" if day and unit != "M" else ""
    return Step("months", count, day, f"{'' if number == 1 else number}{letters}{anchor}")


def _places(panel: Panel, step: Step) -> tuple[Integers, NDArray[np.bool_]]:
    """The place (N,) of each time on the grid of its series, and whether it is exactly there."""
    firsts, lengths, unit = panel.firsts, panel.lengths, panel.unit
    if step.kind == "ticks":
        places, rest = np.divmod(panel.times - np.repeat(firsts, lengths), step.count)
        exact = rest == 0
    else:
        if step.kind == "months":
            months = _as(panel.times, unit, "M")
            places = (months - np.repeat(months[panel.starts[:-1]], lengths)) // step.count
        else:
            days = _as(panel.times, unit, "D").astype("datetime64[D]")
            places = np.busday_count(np.repeat(days[panel.starts[:-1]], lengths), days) // step.count
        exact = _calendar_times(firsts, lengths, places, step, unit) == panel.times
    return places, exact & np.repeat(_anchored(firsts, step, unit), lengths)


def _anchored(firsts: Integers, step: Step, unit: str) -> NDArray[np.bool_]:
    """Whether the first time of a series is one that a named frequency has: W-SUN a Sunday, QS-FEB the first of
    February, May, ..."""
    frequency = Frequency("", 1, "", "", None) if step.name is None else read_frequency(step.name)
    anchor = frequency.anchor
    if frequency.unit == "W" and anchor is not None:
        return np.asarray((_as(firsts, unit, "D") + 3) % 7 == anchor)
    if frequency.unit in MONTHS_OF and anchor is not None:
        return np.asarray((_as(firsts, unit, "M") - anchor) % MONTHS_OF[frequency.unit] == 0)
    return np.ones(len(firsts), dtype=bool)


def _calendar_times(firsts: Integers, counts: Integers, places: Integers, step: Step, unit: str) -> Integers:
    """The times (N,) at places (N,) of grids that start at `firsts` (S,); of each grid `counts` (S,) places."""
    first_days = _as(firsts, unit, "D")
    of_day = np.repeat(firsts - _ticks(first_days, unit), counts)
    if step.kind == "weekdays":
        starts = np.repeat(first_days.astype("datetime64[D]"), counts)
        days = np.busday_offset(starts, places * step.count, roll="forward").astype(np.int64)
        return _ticks(days, unit) + of_day
    first_months = _as(firsts, unit, "M")
    months = np.repeat(first_months, counts) + places * step.count
    if step.day:
        return _ticks(_days_of(months, step.day), unit) + of_day
    ends = _days_of(months, "E")
    # As in the service: a series that starts on the last day of a month stays on last days.
    at_end = np.repeat(first_days == _days_of(first_months, "E"), counts)
    same_day = np.minimum(_days_of(months, "S") + np.repeat(first_days - _days_of(first_months, "S"), counts), ends)
    return _ticks(np.where(at_end, ends, same_day), unit) + of_day


def _days_of(months: Integers, day: str) -> Integers:
    """As `days_of_months`, in days since 1970; each month is looked up once."""
    low, high = int(months.min()), int(months.max())
    if high - low > len(months):
        return days_of_months(months, day).astype(np.int64)
    return days_of_months(np.arange(low, high + 1), day).astype(np.int64)[months - low]


def _as(times: Integers, unit: str, coarser: str) -> Integers:
    """Times in ticks of `unit`, in whole days or months since 1970."""
    days = times // round(86_400 * UNIT_TICKS[unit])
    return days if coarser == "D" else days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _ticks(days: Integers, unit: str) -> Integers:
    """Days since 1970 in ticks of `unit`."""
    return days * round(86_400 * UNIT_TICKS[unit])


def _rows(starts: Integers, lengths: Integers) -> Integers:
    """The rows of series that start at `starts` and have `lengths`."""
    return np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())


def _disorder(panel: Panel) -> list[str | None]:
    """Why a series has no grid at all: a time that occurs twice."""
    errors: list[str | None] = [None] * (len(panel.starts) - 1)
    same = np.flatnonzero(np.diff(panel.times) == 0)
    inside = same[~np.isin(same + 1, panel.starts)]
    for row in inside[::-1]:
        series = int(np.searchsorted(panel.starts, row, side="right")) - 1
        errors[series] = f"has two values at {panel.text(int(panel.times[row]))}"
    return errors
