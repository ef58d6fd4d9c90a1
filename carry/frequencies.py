"""Frequencies of series: the one that times follow, the grid without gaps, the times after the last. Knows nothing of
files.

Frequencies of a day or longer count by the clock on the wall, shorter ones by the time that passes: when clocks change,
a day at midnight stays at midnight, and an hour lasts an hour. No grid is built before its length is known.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry import times as old_times

RANK = "rank"
"""As a `freq`: times are irregular; each row is a step."""


class FrequencyError(ValueError):
    """No such frequency; the message says which are accepted."""


class IrregularTimesError(ValueError):
    """The times of a series follow no frequency, or not the one asked for; the message says what stands in the way (a
    time far from the others, the steps that there are) and what to do."""


@dataclass(frozen=True)
class Grid:
    """Every time from the first to the last of a series.

    times (T,): without gaps, in the zone of the series, a DatetimeIndex; or an Index of int64.
    indices (N,): where each of the series' times is among `times`.
    freq: its name: one of pandas' ("MS", "QE-DEC", "W-MON", "15min", "B"); M, Q or Y if the times are on another day of
        their months than the first or last (the 15th); our own for what pandas cannot say ("445-L-SEP-SAT": months of
        4, 4 and 5 weeks). None for integers that are no years, and for times that are taken by their rank.
    snapped: of how many times the place was moved to the grid; `notes` says by how much.
    notes: sentences for the report.
    """

    times: "pd.Index[Any]"
    indices: NDArray[np.intp]
    freq: str | None
    snapped: int = 0
    notes: tuple[str, ...] = ()


def regular_grid(times: "pd.Index[Any]", freq: str | None = None, panel_freq: str | None = None) -> Grid:
    """The grid of ascending, unique times (N,): a DatetimeIndex, or an Index of integers.

    freq: what the caller says; else the frequency is found. panel_freq: of the file (`panel_frequency`, or
    `ParsedDates.freq`); it serves series that are too short to tell theirs, and those that it fits.

    Raises:
        FrequencyError: there is no such frequency.
        IrregularTimesError: the times follow none, or not `freq`.
    """
    grid = old_times.regular_times(pd.DatetimeIndex(times), freq or (panel_freq if len(times) < 3 else None))
    if grid is None:
        raise IrregularTimesError("its times do not follow a frequency")
    return Grid(grid.times, grid.indices(pd.DatetimeIndex(times)), grid.freq)


def panel_frequency(times: "pd.Index[Any]", starts: NDArray[np.int64]) -> str | None:
    """The frequency that most values of a long table follow; None if its series follow none.

    times (N,): of all series, one after another, ascending within each. starts (S,): where each series starts.
    """
    longest = int(np.argmax(np.diff([*starts, len(times)])))
    end = [*starts, len(times)][longest + 1]
    try:
        return regular_grid(times[starts[longest] : end]).freq
    except IrregularTimesError:
        return None


def times_after(times: "pd.Index[Any]", freq: str | None, count: int) -> "pd.Index[Any]":
    """The next `count` times of a series (T,) at the frequency of its grid, in its zone; integers go on by their step.
    By rank (freq None or "rank"): 1, 2, 3, ...

    Raises:
        ValueError: they leave the calendar.
    """
    return old_times.times_after(times[-1], freq, count)


def usual_season(freq: str | None) -> int:
    """Values per season at a frequency, by its name: MS 12, W-SUN 52, h 24; 1 where none is known."""
    from carry.files import _season

    return 1 if freq is None else _season(freq)
