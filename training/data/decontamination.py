"""Keeps training honest: finds the series of a training pool that hold values of a benchmark's test part, also when
they were rescaled, shifted or rounded on the way (the same panel often entered several collections).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.data.series import Series
from training.evaluation.windows import Window

RUNS = (8, 12, 24)
"""Lengths of the runs compared: short ones find short overlaps, long ones those of smooth or rounded series."""
GRID = 500
"""Each run is scaled to 0..GRID and rounded."""
LEAST_BITS = 24.0
"""Runs that tell less say nothing: constants, straight lines and small counts recur everywhere."""
CHUNK = 200_000

_MULTIPLIERS = np.random.default_rng(0).integers(1, 2**63 - 1, max(RUNS), dtype=np.int64) | 1


def drop_overlaps(pool: Sequence[Series], tests: Sequence[Window]) -> tuple[list[Series], list[Series]]:
    """Part a training pool into the series to keep and those to drop, in which values of a test part recur.

    A series is dropped if one of its runs of 8, 12 or 24 values without a gap equals, up to scale and shift, a run of a
    window's history and truth that reaches into the truth. A window's own history is not dropped for being there: its
    runs end before the truth begins. Runs that tell less than 24 bits (`_information`) count for nothing.
    """
    whole = [np.concatenate([window.history[:, 0], window.truth]) for window in tests]
    histories = np.array([len(window.history) for window in tests])
    columns = [column for series in pool for column in series.values.T]
    owners = np.repeat(np.arange(len(pool)), [series.values.shape[1] for series in pool])
    overlaps = np.zeros(len(pool), dtype=bool)
    for run in RUNS:
        known = np.unique(_prints(whole, run, histories)[0])
        found, column = _prints(columns, run, None)
        if len(known) and len(found):
            at = np.minimum(np.searchsorted(known, found), len(known) - 1)
            overlaps[owners[column[known[at] == found]]] = True
    return (
        [series for series, drop in zip(pool, overlaps, strict=True) if not drop],
        [series for series, drop in zip(pool, overlaps, strict=True) if drop],
    )


def _prints(
    arrays: Sequence[NDArray[np.float64]], run: int, after: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fingerprints of the arrays' runs of so many values, and the number of the array that each is from.

    after: of array i, only the runs that reach beyond its first after[i] values, and tell enough.
    """
    if not arrays:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    lengths = np.array([len(array) + 1 for array in arrays])
    joined = np.concatenate([part for array in arrays for part in (array, [np.nan])])
    owners = np.repeat(np.arange(len(arrays)), lengths)
    places = np.arange(len(joined)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    steps = None if after is None else np.array([_resolution(array) for array in arrays])
    windows = np.lib.stride_tricks.sliding_window_view(np.append(joined, [np.nan] * run), run)
    prints, sources = [], []
    for start in range(0, len(joined), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(joined)))
        if after is not None:
            rows = rows[places[rows] + run > after[owners[rows]]]
        rows = rows[np.isfinite(windows[rows]).all(axis=1)]
        values = windows[rows]
        low, width = values.min(axis=1), np.ptp(values, axis=1)
        moving = width > 1e-9 * np.abs(values).max(axis=1, initial=0.0)
        scaled = (values[moving] - low[moving, None]) / width[moving, None]
        rows, width = rows[moving], width[moving]
        if steps is not None:
            telling = _information(scaled, steps[owners[rows]] / width) >= LEAST_BITS
            rows, scaled = rows[telling], scaled[telling]
        prints.append((np.rint(scaled * GRID).astype(np.int64) * _MULTIPLIERS[:run]).sum(axis=1))
        sources.append(owners[rows])
    return np.concatenate(prints), np.concatenate(sources)


def _information(scaled: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """About how many bits the runs (N, run), scaled to 0..1, tell beyond a straight line: of each change of slope, how
    many steps (N,) of the series' resolution it spans."""
    bends = np.abs(np.diff(scaled, n=2, axis=1)) / 2
    bits: NDArray[np.float64] = np.log2(1 + bends / np.maximum(steps, 1 / GRID)[:, None]).sum(axis=1)
    return bits


def _resolution(array: NDArray[np.float64]) -> float:
    """The smallest difference between two values, e.g. 1 of counts; infinite for a constant."""
    values = np.unique(array[np.isfinite(array)])
    gaps = np.diff(values)
    gaps = gaps[gaps > 1e-9 * np.abs(values).max(initial=0.0)]
    return float(gaps.min()) if len(gaps) else np.inf
