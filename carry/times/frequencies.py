"""Frequencies of series: the one that times follow, the grid without gaps, the times after the last. Knows nothing of
files.

Frequencies of a day or longer count by the clock on the wall, shorter ones by the time that passes: when clocks change,
a day at midnight stays at midnight, and an hour lasts an hour. No grid is built before its length is known.
"""

import functools
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.times.calendars import FrequencyError, Ints, Rule, bind, read_frequency, season_of, single_step
from carry.times.clocks import Clock, as_unit, hidden_zone, stamps_of
from carry.times.detection import (
    IrregularTimesError,
    bound,
    find_near_rule,
    find_rule,
    follow,
    follow_panel,
    grid_size,
    is_dense,
    is_known_dense,
    length_text,
    why_irregular,
)

RANK = "rank"
"""As a `freq`: times are irregular; each row is a step."""
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
        return _grid(Clock(times), freq, panel_freq)
    return _cached_grid(as_unit(times, "us").asi8.tobytes(), times.unit, times.tz, freq, panel_freq)


MAX_CACHED = 10_000
"""Series of more times are not cached."""


@functools.lru_cache(maxsize=256)
def _cached_grid(stamps: bytes, unit: str, zone: tzinfo | None, freq: str | None, panel_freq: str | None) -> Grid:
    """The series of a file often share their times: keyed by their bytes, since a cache holds what can be hashed."""
    ints = np.frombuffer(stamps, dtype=np.int64)
    return _grid(Clock(stamps_of(ints, unit if zone is None else "us", zone)), freq, panel_freq, unit)


def _grid(clock: Clock, freq: str | None, panel_freq: str | None, unit: str | None = None) -> Grid:
    unit = unit or clock.index.unit
    zone = hidden_zone(clock)
    if zone is not None:
        try:
            grid = _grid(clock.in_zone(zone), freq, panel_freq, unit)
        except IrregularTimesError:
            grid = None
        if grid is not None and not grid.snapped:
            times = pd.DatetimeIndex(grid.times).tz_convert(clock.index.tz)
            note = f"the times are days of {zone}, by a clock that is not set for summer: they go on so"
            return replace(grid, times=times, notes=(*grid.notes, note))
    if freq is not None:
        rule, places = follow(clock, read_frequency(freq))
        return _filled(clock, rule, places, unit)
    if panel_freq is not None:
        panel = follow_panel(clock, read_frequency(panel_freq))
        if panel is not None:
            return _filled(clock, *panel, unit)
    elif len(clock.wall) < 2:
        raise IrregularTimesError("one time alone tells no frequency; give it with --freq (such as MS, D or h)")
    exact = find_rule(clock) or find_near_rule(clock)
    if exact is None:
        raise IrregularTimesError(why_irregular(clock))
    return _filled(clock, *exact, unit)


def _filled(clock: Clock, rule: Rule, places: Ints, unit: str) -> Grid:
    times = clock.stamps(rule, np.arange(places[0], places[-1] + 1), unit)
    indices = (places - places[0]).astype(np.intp)
    moved = np.abs(as_unit(times, "us").asi8[indices] - clock.passed)
    snapped = int((moved > 0).sum())
    notes: tuple[str, ...] = ()
    if snapped:
        notes = (
            f"{snapped} of {len(places)} times are not on the grid ({rule.name}): they were moved to it, by up to "
            f"{length_text(int(moved.max()))}",
        )
    return Grid(times, indices, rule.name, snapped, notes)


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
    if not on_grid or not (is_known_dense(places) if known else is_dense(places)):
        raise IrregularTimesError(
            f"its times do not follow a step: from {numbers[0]} to {numbers[-1]} they are {len(numbers)} of "
            f"{grid_size(places):,} steps of {step:g}; --freq rank takes each row as a step"
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
    newest = as_unit(times[-MAX_NEWEST:], "us")
    return _cached_after(newest.asi8.tobytes(), times.unit, times.tz, freq, count)


MAX_NEWEST = 1000
"""Times that tell how a series goes on."""


@functools.lru_cache(maxsize=256)
def _cached_after(stamps: bytes, unit: str, zone: tzinfo | None, freq: str, count: int) -> pd.DatetimeIndex:
    clock = Clock(stamps_of(np.frombuffer(stamps, dtype=np.int64), "us", zone))
    rules = list(bound(clock, read_frequency(freq)))
    rule = next((rule for rule in rules if clock.places(rule) is not None), None)
    hidden = hidden_zone(clock) if rule is None else None
    if hidden is not None:
        zoned = clock.in_zone(hidden)
        if zoned.places(next(bound(zoned, read_frequency(freq)))) is not None:
            following = _cached_after(stamps, unit, hidden, freq, count)
            return following.tz_convert(zone)
    rule = rule or rules[0]
    last = clock.of(rule)[-1:]
    place = int(rule.places(last)[0])
    place -= int(rule.times(np.array([place]))[0] > last[0])
    return _within_calendar(clock, rule, np.arange(place + 1, place + count + 1), unit)


def _within_calendar(clock: Clock, rule: Rule, places: Ints, unit: str) -> pd.DatetimeIndex:
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
    clock, frequency = Clock(pd.DatetimeIndex([start])), read_frequency(freq)
    single = next(bound(clock, single_step(frequency)))
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
