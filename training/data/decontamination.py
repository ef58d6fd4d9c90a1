"""Finds the series of a training pool that hold values of a benchmark's test part, also if they were rescaled, shifted
or rounded on the way: the same panel is often in several collections.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from carry.files import Series
from training.evaluation.eval_windows import EvalWindow

RUNS = (8, 12, 24)
"""Lengths of the compared runs: short ones find short overlaps, long ones those of smooth or rounded series."""
GRID = 500
"""Each run is scaled to 0..GRID and rounded."""
MIN_BITS = 24.0
"""Runs with less information match nothing: constants, straight lines and small counts recur everywhere."""
CHUNK = 200_000

_MULTIPLIERS = np.random.default_rng(0).integers(1, 2**63 - 1, max(RUNS), dtype=np.int64) | 1


def drop_overlaps(pool: Sequence[Series], tests: Sequence[EvalWindow]) -> tuple[list[Series], list[Series]]:
    """Divide a training pool into the series to keep and those to drop, in which values of a test part recur.

    A series is dropped if one of its runs of 8, 12 or 24 values without a gap equals, up to scale and shift, a run of a
    window's history and truth that reaches into the truth. A series that is a window's history stays: its runs end
    before the truth begins. Runs of less than 24 bits (`_information`) match nothing.
    """
    whole = [np.concatenate([window.history[:, 0], window.truth]) for window in tests]
    histories = np.array([len(window.history) for window in tests])
    columns = [column for series in pool for column in series.values.T]
    owners = np.repeat(np.arange(len(pool)), [series.values.shape[1] for series in pool])
    overlaps = np.zeros(len(pool), dtype=bool)
    for run in RUNS:
        test_prints = np.unique(_fingerprints(whole, run, histories)[0])
        prints, column = _fingerprints(columns, run, None)
        if len(test_prints) and len(prints):
            at = np.minimum(np.searchsorted(test_prints, prints), len(test_prints) - 1)
            overlaps[owners[column[test_prints[at] == prints]]] = True
    return (
        [series for series, drop in zip(pool, overlaps, strict=True) if not drop],
        [series for series, drop in zip(pool, overlaps, strict=True) if drop],
    )


def _fingerprints(
    arrays: Sequence[NDArray[np.float64]], run: int, after: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fingerprints of the arrays' runs of `run` values, and the index of the array that each is from.

    after: of array i, only the runs that reach beyond its first after[i] values and have `MIN_BITS`.
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
            informative = _information(scaled, steps[owners[rows]] / width) >= MIN_BITS
            rows, scaled = rows[informative], scaled[informative]
        prints.append((np.rint(scaled * GRID).astype(np.int64) * _MULTIPLIERS[:run]).sum(axis=1))
        sources.append(owners[rows])
    return np.concatenate(prints), np.concatenate(sources)


def _information(scaled: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """About how many bits the runs (N, run), scaled to 0..1, hold beyond a straight line: of each change of slope, how
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
