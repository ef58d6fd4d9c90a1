"""Frequencies of series: the one that times follow, the grid without gaps, the times after the last. Knows nothing of
files.

Frequencies of a day or longer count by the clock on the wall, shorter ones by the time that passes: when clocks change,
a day at midnight stays at midnight, and an hour lasts an hour. No grid is built before its length is known.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.calendars import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    SEVERAL_A_MONTH,
    WEEK,
    WEEKDAYS,
    Fiscal,
    Frequency,
    FrequencyError,
    Ints,
    Months,
    Rule,
    Ticks,
    Weekdays,
    bind,
    days_in_month,
    month_of,
    read_frequency,
    season_of,
    single_step,
    time_of_day,
    usual_phase,
    weekday,
)

RANK = "rank"
"""As a `freq`: times are irregular; each row is a step."""
MAX_SPREAD = 2
"""Places of a grid per value, at most, if most values have gaps between them."""
MAX_SPREAD_DENSE = 10
"""The same, if at least half of the values follow upon the one before: there are a few long gaps."""
MAX_SPREAD_KNOWN = (20, 1000)
"""The same, per value and besides, of a frequency that the caller or the file names."""
MIN_SNAPPED = 4
"""Fewer times are not moved to a grid: they would fit too many."""
MAX_STRAY, MAX_USUAL_STRAY = 0.45, 0.25
"""How far times may be from their places, in steps: all of them, and 95 % of them."""
MAX_STRAY_MONTHS = 4 * DAY
"""The same for steps of months."""
NICE_MONTHS = (1, 2, 3, 4, 6, 12)
NICE_STEPS = (
    *(count * SECOND for count in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)),
    *(count * MINUTE for count in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)),
    *(count * HOUR for count in (1, 2, 3, 4, 6, 8, 12)),
    *(DAY, WEEK, 2 * WEEK, 4 * WEEK),
)
"""Steps that two times alone may have, and that straying times are moved to."""
_LAST = np.datetime64("9999-12-31T23:59:59", "us").astype(np.int64)

__all__ = [
    "RANK",
    "FrequencyError",
    "Grid",
    "IrregularTimesError",
    "panel_frequency",
    "regular_grid",
    "times_after",
    "times_from",
    "usual_season",
]


class IrregularTimesError(ValueError):
    """The times of a series follow no frequency, or not the one asked for; the message is a sentence about "its times"
    that says what stands in the way (a time far from the others, the steps that there are)."""


@dataclass(frozen=True)
class Grid:
    """Every time from the first to the last of a series.

    times (T,): without gaps, in the zone of the series, a DatetimeIndex; or an Index of numbers.
    indices (N,): where each of the series' times is among `times`.
    freq: its name: one of pandas' ("MS", "QE-DEC", "W-MON", "15min", "B"); M, Q or Y if the times are on another day of
        their months than the first or last (the 15th); our own for what pandas cannot say ("445-L-SEP-SAT": months of
        4, 4 and 5 weeks that end with the last Saturday of September). Of integers their step ("5"), None if it is 1.
        None for times that are taken by their rank.
    snapped: how many times were moved to their places; `notes` says by how much.
    notes: sentences for the report.
    """

    times: "pd.Index[Any]"
    indices: NDArray[np.intp]
    freq: str | None
    snapped: int = 0
    notes: tuple[str, ...] = ()


def regular_grid(times: "pd.Index[Any]", freq: str | None = None, panel_freq: str | None = None) -> Grid:
    """The grid of ascending, unique times (N,): a DatetimeIndex, or an Index of numbers.

    freq: what the caller says; else the frequency is found. panel_freq: of the file (`panel_frequency`, or
    `ParsedDates.freq`); it serves series that are too short to tell theirs, and those that it fits.

    Raises:
        FrequencyError: there is no such frequency.
        IrregularTimesError: the times follow none, or not `freq`.
    """
    if freq == RANK:
        return Grid(times, np.arange(len(times)), None)
    if not isinstance(times, pd.DatetimeIndex):
        return _number_grid(times, freq, panel_freq)
    if len(times) > MAX_CACHED:
        return _grid(_Clock(times), freq, panel_freq)
    return _cached_grid(_as_unit(times, "us").asi8.tobytes(), times.unit, times.tz, freq, panel_freq)


MAX_CACHED = 10_000
"""Series of more times are not cached."""


@functools.lru_cache(maxsize=256)
def _cached_grid(stamps: bytes, unit: str, zone: tzinfo | None, freq: str | None, panel_freq: str | None) -> Grid:
    """The series of a file often share their times: keyed by their bytes, since a cache holds what can be hashed."""
    ints = np.frombuffer(stamps, dtype=np.int64)
    return _grid(_Clock(_stamps(ints, unit if zone is None else "us", zone)), freq, panel_freq, unit)


def _stamps(ints: Ints, unit: str, zone: tzinfo | None) -> pd.DatetimeIndex:
    times = pd.DatetimeIndex(ints.view("datetime64[us]"))
    return _as_unit(times if zone is None else times.tz_localize("UTC").tz_convert(zone), unit)


def _as_unit(times: pd.DatetimeIndex, unit: str) -> pd.DatetimeIndex:
    """Times in nanoseconds, if `unit` is that and holds them (they end in the year 2262); else in microseconds."""
    try:
        return times.as_unit("ns" if unit == "ns" else "us")
    except pd.errors.OutOfBoundsDatetime:
        return times.as_unit("us")


@dataclass(frozen=True)
class _Clock:
    """The times of a series by both clocks, in microseconds since 1970: `wall` (N,), the clock on the wall, and
    `passed` (N,), the time that passes."""

    index: pd.DatetimeIndex
    wall: Ints = field(init=False)
    passed: Ints = field(init=False)

    def __post_init__(self) -> None:
        index = _as_unit(self.index, "us")
        wall: Ints = index.tz_localize(None).asi8
        object.__setattr__(self, "wall", wall)
        object.__setattr__(self, "passed", wall if index.tz is None else index.asi8)

    def of(self, rule: Rule) -> Ints:
        return self.wall if rule.by_wall else self.passed

    def stamps(self, rule: Rule, places: Ints, unit: str = "us") -> pd.DatetimeIndex:
        """The times of places, in the zone of the series. A time that clocks skip becomes the first after it; of one
        that they repeat, it takes the first."""
        return _localised(rule.times(places), rule.by_wall, self.index.tz, unit)

    def places(self, rule: Rule) -> Ints | None:
        """The ascending places (N,) of the times if the rule has all of them, else None."""
        times = self.of(rule)
        places = rule.places(times)
        if (np.diff(places) <= 0).any():
            return None
        wrong = np.flatnonzero(rule.times(places) != times)
        if not len(wrong):
            return places
        if self.index.tz is None or not rule.by_wall:
            return None
        moved = self.stamps(rule, places[wrong])  # midnight may be skipped: the day begins at one
        return places if (moved.asi8 == self.passed[wrong]).all() else None


def _localised(ints: Ints, by_wall: bool, zone: tzinfo | None, unit: str) -> pd.DatetimeIndex:
    times = pd.DatetimeIndex(ints.view("datetime64[us]"))
    if zone is not None and by_wall:
        times = times.tz_localize(zone, ambiguous=np.ones(len(times), dtype=bool), nonexistent="shift_forward")
    elif zone is not None:
        times = times.tz_localize("UTC").tz_convert(zone)
    return _as_unit(times, unit)


def _grid(clock: _Clock, freq: str | None, panel_freq: str | None, unit: str | None = None) -> Grid:
    unit = unit or clock.index.unit
    if freq is not None:
        rule, places = _follow(clock, read_frequency(freq))
        return _filled(clock, rule, places, unit)
    if panel_freq is not None:
        panel = _follow_panel(clock, read_frequency(panel_freq))
        if panel is not None:
            return _filled(clock, *panel, unit)
    elif len(clock.wall) < 2:
        raise IrregularTimesError("one time alone tells no frequency; give it with --freq (such as MS, D or h)")
    exact = _exact(clock) or _snapped(clock)
    if exact is None:
        raise IrregularTimesError(_why_irregular(clock))
    return _filled(clock, *exact, unit)


def _follow_panel(clock: _Clock, frequency: Frequency) -> tuple[Rule, Ints] | None:
    """The rule of the other series of a file, and the places of the times, if they follow it and no other one better.
    The days of a short series may be others than theirs: a week from Sunday among weeks from Monday."""
    exact: tuple[Rule, Ints] | None = None
    looked = False
    loose = replace(frequency, anchor=None, day="") if frequency.unit in ("W", "M", "Q", "Y") else read_frequency("D")
    for each in (frequency, loose)[: 2 if len(clock.wall) < 3 and (not frequency.step or frequency.unit == "W") else 1]:
        for rule in _bound(clock, each):
            places = clock.places(rule)
            if places is None or not _is_known_dense(places):
                continue
            if len(places) == _size(places):
                return rule, places
            if not looked:
                looked, exact = True, _exact(clock)
            regular = exact is not None and len(exact[1]) == _size(exact[1])
            if not regular or len(places) < (6 if _is_dense(places) else 4):
                return rule, places
    return exact


def _filled(clock: _Clock, rule: Rule, places: Ints, unit: str) -> Grid:
    times = clock.stamps(rule, np.arange(places[0], places[-1] + 1), unit)
    indices = (places - places[0]).astype(np.intp)
    moved = np.abs(_as_unit(times, "us").asi8[indices] - clock.passed)
    snapped = int((moved > 0).sum())
    notes: tuple[str, ...] = ()
    if snapped:
        notes = (
            f"{snapped} of {len(places)} times are not on the grid ({rule.name}): they were moved to it, by up to "
            f"{_length(int(moved.max()))}",
        )
    return Grid(times, indices, rule.name, snapped, notes)


def _size(places: Ints) -> int:
    return int(places[-1] - places[0]) + 1


def _is_dense(places: Ints) -> bool:
    """Whether the times follow a frequency that nobody named: its grid is not much longer than they are."""
    dense = len(places) > 2 and 2 * int((np.diff(places) == 1).sum()) >= len(places) - 1
    return _size(places) <= (MAX_SPREAD_DENSE if dense else MAX_SPREAD) * len(places) + 1


def _is_known_dense(places: Ints) -> bool:
    per_value, besides = MAX_SPREAD_KNOWN
    return _size(places) <= per_value * len(places) + besides


def _exact(clock: _Clock) -> tuple[Rule, Ints] | None:
    """The rule that has all times, exactly, and their places: of several the coarsest, whose grid is the shortest."""
    best: tuple[Rule, Ints] | None = None
    for rule in _candidates(clock):
        places = clock.places(rule)
        if places is not None and _is_dense(places) and (best is None or _size(places) < _size(best[1])):
            best = rule, places
            if _size(places) == len(places):
                break
    return best


def _candidates(clock: _Clock) -> Iterator[Rule]:
    """The rules that the times may follow. Of those that fit alike, the first is meant."""
    count = len(clock.wall)
    if count < 2:
        return
    wall, at = clock.wall, time_of_day(clock.wall)
    days = wall // DAY
    if (np.diff(days) > 0).all():
        yield from _monthly(wall, at)
        step = int(np.gcd.reduce(np.diff(days))) * DAY
        if count > 2 or step in NICE_STEPS:
            yield Ticks(step, (int(days[0]) * DAY + at) % step, True)
        if (weekday(wall) < 5).all() and (step // DAY in (1, 3)):
            yield Weekdays(at)
    for times, by_wall in ((clock.passed, False), (wall, True))[: 1 if clock.index.tz is None else 2]:
        steps = np.diff(times)
        step = int(np.gcd.reduce(steps)) if (steps > 0).all() else 0
        if step > 0 and step % DAY and (count > 2 or step in NICE_STEPS):
            yield Ticks(step, int(times[0]) % step, by_wall)
    yield from _fiscal(wall, at)


def _monthly(wall: Ints, at: int) -> Iterator[Rule]:
    """Rules of times that are in different months, or on a few days of each."""
    months, dates = month_of(wall), days_in_month(wall)
    if (np.diff(months) > 0).all():
        count = int(np.gcd.reduce(np.diff(months)))
        if len(wall) == 2 and count not in NICE_MONTHS:
            return
        yield from (Months(count, int(months[0]), (day,), at) for day in _days(wall, dates, count))
    elif len(np.unique(dates)) <= 6:  # the last days of months are four
        for days in SEVERAL_A_MONTH.values():
            yield Months(1, int(months[0]), days, at)


def _days(wall: Ints, dates: Ints, count: int) -> Iterator[str]:
    """The days of every `count`th month that times may all be on, as `day_of_month` calls them. The day of February is
    cut from that of the others. Quarters and years on one weekday have weeks (`_fiscal`)."""
    yield from ("S", "E")
    if dates.max() > 1:
        yield str(int(dates.max()))
    yield from ("BS", "BE")
    if len(wall) > 2 and count < 3 and (weekday(wall) == weekday(wall)[0]).all():
        day = WEEKDAYS[int(weekday(wall)[0])]
        nth = (dates - 1) // 7 + 1
        if nth[0] < 5:
            yield f"WOM-{nth[0]}{day}"
        yield f"LWOM-{day}"
    if len(wall) > 2:
        yield "MID"


def _fiscal(wall: Ints, at: int) -> Iterator[Rule]:
    """Rules of years of 52 or 53 weeks, for times that are whole weeks apart, but not always as many."""
    steps = np.diff(wall)
    if len(wall) < 4 or (steps % WEEK).any():
        return
    weeks = int(np.median(steps // WEEK))
    patterns = {4: RETAIL, 5: RETAIL, 13: ("REQ",), 52: ("RE",)}.get(weeks, ())
    days = {starts: int(weekday(wall[:1] - DAY * starts)[0]) for starts in (False, True)}
    years = [(ending, month) for month in (0, 11, 8, 5, 2, 1, 3, 4, 6, 7, 9, 10) for ending in "NL"]
    rules = [
        Fiscal(pattern, starts, ending, month, day, at)
        for ending, month in years
        for starts, day in days.items()
        for pattern in patterns
    ]
    # Until a year of 53 weeks tells them apart, several fit: retail's own calendar first, years that end on Saturday.
    yield from sorted(
        rules, key=lambda rule: ((rule.ending, rule.month, rule.weekday) != ("N", 0, 5), rule.weekday != 5)
    )


RETAIL = ("454", "445", "544")
"""The weeks of the months of a quarter."""


def _bound(clock: _Clock, frequency: Frequency) -> Iterator[Rule]:
    """The rule of a named frequency, by the clock that it counts by; hours, if not by that, by the one on the wall."""
    by_wall = not frequency.step or frequency.step % DAY == 0
    rule = bind(frequency, clock.wall if by_wall else clock.passed)
    yield rule
    if isinstance(rule, Ticks) and not by_wall and clock.index.tz is not None:
        yield replace(rule, phase=usual_phase(clock.wall, rule.step), by_wall=True)


def _follow(clock: _Clock, frequency: Frequency) -> tuple[Rule, Ints]:
    """The rule of the frequency that the caller names, and the places of the times.

    Raises:
        IrregularTimesError: the times are not those of it.
    """
    rules = list(_bound(clock, frequency))
    for rule in rules:
        places = clock.places(rule)
        if places is None:
            places = _strayed(rule, clock.of(rule))
        if places is None:
            continue
        if not _is_known_dense(places):
            raise IrregularTimesError(
                f"its times, from {_text(clock, 0)} to {_text(clock, -1)}, are {_size(places):,} steps of "
                f"{frequency.name} for {len(places)} values" + _outlier(clock, frequency)
            )
        return rule, places
    rule, times = rules[0], clock.of(rules[0])
    places = rule.places(times)
    same = np.flatnonzero(np.diff(places) <= 0)
    if len(same):
        first = int(same[0])
        raise IrregularTimesError(
            f"its times {_text(clock, first)} and {_text(clock, first + 1)} are in one step of {frequency.name}"
        )
    wrong = int(np.argmax(np.abs(rule.times(places) - times)))
    raise IrregularTimesError(f"its times do not follow the frequency {frequency.name}: {_text(clock, wrong)} is none")


def _snapped(clock: _Clock) -> tuple[Rule, Ints] | None:
    """The rule of times that stray from their places a little, and the places."""
    if len(clock.wall) < MIN_SNAPPED:
        return None
    best: tuple[float, Rule, Ints] | None = None
    for rule in _near_candidates(clock):
        times = clock.of(rule)
        places = _strayed(rule, times)
        if places is None or not _is_dense(places):
            continue
        stray = np.abs(rule.times(places) - times)
        score = float((stray > 0).mean() + stray.mean() / DAY / 1000)
        if best is None or score < best[0]:
            best = score, rule, places
    return None if best is None else best[1:]


def _near_candidates(clock: _Clock) -> Iterator[Rule]:
    wall, passed = clock.wall, clock.passed
    step = int(np.median(np.diff(passed)))
    if step > 25 * DAY:
        months = month_of(wall + 5 * DAY)  # the 29th may stand for the first
        count = max(int(np.gcd.reduce(np.diff(months))), 1)
        at, first = time_of_day(wall), int(month_of(wall[:1])[0])
        usual = str(int(np.median(days_in_month(wall))))
        weekdays = (weekday(wall) < 5).all()
        for day in (*(("BE", "BS") if weekdays else ()), "E", "S", usual, "MID"):
            yield Months(count, first, (day,), at)
        return
    for nice in NICE_STEPS:
        if 0.6 * nice < step < 1.6 * nice:
            by_wall = nice >= DAY
            yield Ticks(nice, usual_phase(wall if by_wall else passed, nice), by_wall)


def _strayed(rule: Rule, times: Ints) -> Ints | None:
    """The places (N,) nearest to the times, if none is far from its place and no two share one; else None."""
    places = rule.places(times)
    if len(times) < MIN_SNAPPED or (np.diff(places) <= 0).any():
        return None
    stray = np.abs(rule.times(places) - times)
    if isinstance(rule, Ticks):
        near = stray.max() <= MAX_STRAY * rule.step and np.quantile(stray, 0.95) <= MAX_USUAL_STRAY * rule.step
        near = near and (rule.step < DAY or 2 * (stray < DAY // 2).sum() >= len(times))
    else:
        near = isinstance(rule, Months) and len(rule.days) == 1 and stray.max() <= MAX_STRAY_MONTHS
    return places if near else None


def _why_irregular(clock: _Clock) -> str:
    outlier = _outlier(clock, None)
    if outlier:
        return f"its times do not follow a frequency{outlier}"
    steps, counts = np.unique(np.diff(clock.passed), return_counts=True)
    usual = ", ".join(
        f"{_length(int(steps[i]))} ({counts[i]}x)" for i in np.argsort(-counts, kind="stable")[:3].tolist()
    )
    more = f" and {len(steps) - 3} others" if len(steps) > 3 else ""
    return (
        f"its times do not follow a frequency: the steps between them are {usual}{more}; give theirs with --freq (such "
        "as MS, D or h), or --freq rank: each row is a step"
    )


def _outlier(clock: _Clock, frequency: Frequency | None) -> str:
    """What to say of a first or last time without which the others are regular; "" if there is none."""
    for wrong, rest in ((-1, slice(None, -1)), (0, slice(1, None))):
        others = _Clock(clock.index[rest])
        if len(others.wall) < 3:
            continue
        if frequency is None:
            exact = _exact(others)
        else:
            rule = next(_bound(others, frequency))
            places = others.places(rule)
            exact = (rule, places) if places is not None and _is_known_dense(places) else None
        if exact is not None:
            return (
                f": {_text(clock, wrong)} is far from the others, which are {exact[0].name} from {_text(others, 0)} to "
                f"{_text(others, -1)}"
            )
    return ""


def _text(clock: _Clock, i: int) -> str:
    stamp = clock.index[i]
    return str(stamp.date()) if stamp == stamp.normalize() else str(stamp)


def _length(microseconds: int) -> str:
    """A length of time in words."""
    for name, length in (("day", DAY), ("hour", HOUR), ("minute", MINUTE), ("second", SECOND)):
        if microseconds >= length:
            count = round(microseconds / length, 1)
            return f"{count:g} {name}{'s' * (count != 1)}"
    return f"{microseconds / SECOND:g} seconds"


def _number_grid(times: "pd.Index[Any]", freq: str | None, panel_freq: str | None) -> Grid:
    """The grid of times that are numbers: years, or counted steps."""
    numbers = times.to_numpy()
    if (numbers % 1 == 0).all():
        numbers = numbers.astype(np.int64)
    step = _number_step(freq or panel_freq)
    if len(numbers) > 1 and freq is None:
        found = _divisor(numbers)
        step = found if len(numbers) > 2 or not _divides(step, found) else step
    places = np.round((numbers - numbers[0]) / step).astype(np.int64)
    on_grid = np.allclose(numbers[0] + places * step, numbers, rtol=0, atol=1e-3 * step)
    known = freq is not None or len(numbers) < 3
    if not on_grid or not (_is_known_dense(places) if known else _is_dense(places)):
        raise IrregularTimesError(
            f"its times do not follow a step: from {numbers[0]} to {numbers[-1]} they are {len(numbers)} of "
            f"{_size(places):,} steps of {step:g}; --freq rank takes each row as a step"
        )
    whole = numbers[0] + step * np.arange(places[-1] + 1)
    if not np.issubdtype(numbers.dtype, np.integer):
        whole[places] = numbers
    name = freq or panel_freq
    if name is None or _is_step(name):
        name = None if step == 1 else f"{step:g}"
    elif _is_yearly(name):
        name = "YS" if step == 1 else f"{step:g}YS"
    return Grid(pd.Index(whole), places.astype(np.intp), name)


def _is_yearly(name: str) -> bool:
    return read_frequency(name).unit == "Y"


def _is_step(name: str) -> bool:
    """Whether a frequency is the step of numbers, such as 5 or 0.1."""
    return name.replace(".", "", 1).isdecimal()


def _number_step(name: str | None) -> Any:
    """The step of integers at a frequency: 5 for "5" or "5YS"; 1 for others."""
    if name is None:
        return 1
    if _is_step(name):
        return int(name) if name.isdecimal() else float(name)
    frequency = read_frequency(name)
    return frequency.count // 12 if frequency.unit == "Y" else 1


def _divides(step: float, other: float) -> bool:
    return abs(other / step - round(other / step)) < 1e-6


def _divisor(numbers: NDArray[Any]) -> Any:
    """The step of ascending numbers: their differences' greatest common divisor, or of fractions the median one."""
    steps = np.diff(numbers)
    if np.issubdtype(numbers.dtype, np.integer):
        return int(np.gcd.reduce(steps))
    whole = np.gcd.reduce(np.round(steps).astype(np.int64)) if (steps % 1 == 0).all() else 0
    return float(whole or np.median(steps))


def panel_frequency(times: "pd.Index[Any]", starts: NDArray[np.int64]) -> str | None:
    """The frequency that most values of a long table follow, by its longest series; None if there is none.

    times (N,): of all series, one after another, ascending within each. starts (S,): where each series starts.
    """
    lengths = np.diff([*starts, len(times)])
    votes: dict[str | None, int] = {}
    for series in np.argsort(-lengths, kind="stable")[:MAX_VOTES].tolist():
        start, length = int(starts[series]), int(lengths[series])
        if length < 2:
            break
        try:
            freq = regular_grid(times[start : start + length]).freq
        except IrregularTimesError:
            continue
        votes[freq] = votes.get(freq, 0) + length
    if votes:
        return max(votes, key=lambda freq: votes[freq])
    try:  # of series that are too short, what all their times follow together
        return regular_grid(times.unique().sort_values()).freq
    except IrregularTimesError:
        return None


MAX_VOTES = 50
"""Series that tell the frequency of their panel."""


def times_after(times: "pd.Index[Any]", freq: str | None, count: int) -> "pd.Index[Any]":
    """The next `count` times of a series (T,) at the frequency of its grid, in its zone; numbers go on by their step.
    By rank (freq None or "rank"): 1, 2, 3, ...

    Raises:
        FrequencyError: there is no such frequency.
        ValueError: they leave the calendar.
    """
    if not isinstance(times, pd.DatetimeIndex):
        if freq == RANK:
            return pd.RangeIndex(1, count + 1)
        numbers = times.to_numpy()[-2:]
        step = numbers[1] - numbers[0] if len(numbers) > 1 else _number_step(freq)
        following: pd.Index[Any] = pd.Index(numbers[-1] + step * np.arange(1, count + 1))
        return following
    if freq is None or freq == RANK:
        return pd.RangeIndex(1, count + 1)
    # The newest tell the day of the month (the 30th, which February lacks), and which clock hours count by.
    newest = _as_unit(times[-24:], "us")
    return _cached_after(newest.asi8.tobytes(), times.unit, times.tz, freq, count)


@functools.lru_cache(maxsize=256)
def _cached_after(stamps: bytes, unit: str, zone: tzinfo | None, freq: str, count: int) -> pd.DatetimeIndex:
    clock = _Clock(_stamps(np.frombuffer(stamps, dtype=np.int64), "us", zone))
    rules = list(_bound(clock, read_frequency(freq)))
    rule = next((rule for rule in rules if clock.places(rule) is not None), rules[0])
    last = clock.of(rule)[-1:]
    place = int(rule.places(last)[0])
    place -= int(rule.times(np.array([place]))[0] > last[0])
    return _within_calendar(clock, rule, np.arange(place + 1, place + count + 1), unit)


def _within_calendar(clock: _Clock, rule: Rule, places: Ints, unit: str) -> pd.DatetimeIndex:
    try:
        ints = rule.times(places)
    except (OverflowError, ValueError):
        ints = np.array([_LAST + 1])
    if len(ints) and (ints[-1] > _LAST or ints[-1] < ints[0]):
        raise ValueError("the times end after the year 9999")
    return clock.stamps(rule, places, unit)


def times_from(start: pd.Timestamp, freq: str, count: int) -> pd.DatetimeIndex:
    """The first `count` times of a series at a frequency, as pandas' date_range: the first is the start, or the next
    time after it that is one of the frequency.

    Raises:
        FrequencyError: there is no such frequency.
        ValueError: they leave the calendar.
    """
    clock, frequency = _Clock(pd.DatetimeIndex([start])), read_frequency(freq)
    single = next(_bound(clock, single_step(frequency)))
    times = clock.of(single)
    place = int(single.places(times)[0])
    place += int(single.times(np.array([place]))[0] < times[0])
    rule = bind(frequency, single.times(np.array([place])))
    place = int(rule.places(single.times(np.array([place])))[0])
    return _within_calendar(clock, rule, np.arange(place, place + count), start.unit)


def usual_season(freq: str | None) -> int:
    """Values per season at a frequency, by its name: MS 12, W-SUN 52, h 24; 1 where none is known, as of numbers.

    Raises:
        FrequencyError: there is no such frequency.
    """
    return 1 if freq is None or freq == RANK or _is_step(freq) else season_of(read_frequency(freq))
