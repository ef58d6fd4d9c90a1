"""Finds how far intervals have to be widened, by the kind of season that the model is told, on series that it never
saw.

    python -m training.evaluation.calibration MODEL m3.jsonl.gz m1.jsonl.gz [, OTHER_MODEL FILES ...]

prints what `carry train global --widening` takes. Of files with a split it forecasts the ends of the training parts, so
that the test parts stay unseen. Each file counts alike.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carry.files import read_series
from carry.models import ForecastModel
from training.data.forking_batches import kind_of
from training.evaluation.eval_windows import EvalWindow, is_benchmark, read_benchmark, rolling_windows, usual_horizon
from training.evaluation.forecasts import Hint, forecast_windows, hinted_season

INTERVALS = {0.8: (0.1, 0.9), 0.95: (0.025, 0.975)}
FACTORS = np.arange(0.7, 2.01, 0.01)
WINDOWS = 5
"""Of each series without a split."""
MIN_WINDOWS = 100
"""Windows of a kind that a file needs to count for the kind."""

Floats = NDArray[np.float64]


def end_windows(path: Path, horizon: int) -> list[EvalWindow]:
    """The last windows of each series, without those of a test part."""
    if not is_benchmark(path):
        return [
            window
            for series in read_series([path])[0]
            for window in rolling_windows([series], min(horizon, usual_horizon(series.season)), WINDOWS)
        ]
    windows = []
    for window in read_benchmark(path):
        size = len(window.truth)
        if len(window.history) > size + max(3, window.season):
            history, truth = window.history[:-size], window.history[-size:, 0]
            windows.append(replace(window, history=history, truth=truth))
    return windows


def needed_factors(model: ForecastModel, windows: Sequence[EvalWindow], hint: Hint) -> Iterator[tuple[int, Floats]]:
    """Of each window the kind of season that the model is told, and the factors (INTERVALS, H) by which each interval
    would have to be wider for the truth to lie just inside; NaN where the truth is missing or the interval is empty."""
    levels = (0.5, *(level for pair in INTERVALS.values() for level in pair))
    horizon = max(len(window.truth) for window in windows)
    for window, quantiles in zip(windows, forecast_windows(model, windows, horizon, levels, hint), strict=True):
        median, *bounds = quantiles[: len(window.truth)].T
        error = window.truth - median
        season = hinted_season(model.manifest, window, hint)
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = zip(bounds[::2], bounds[1::2], strict=True)
            rows = [error / (np.where(error > 0, high, low) - median) for low, high in pairs]
        yield kind_of(season[0] if season else 1), np.where(np.isfinite(rows), rows, np.nan)


def best_factors(files: Sequence[Sequence[tuple[int, Floats]]]) -> dict[int, float]:
    """Kind -> the factor with which the coverage of all intervals, at the mean over files, is nearest to what they say.
    files: the `needed_factors` of each file's windows."""
    by_kind = {}
    for kind in sorted({kind for file in files for kind, _ in file}):
        coverages = []
        for file in files:
            rows = [row for row_kind, row in file if row_kind == kind]
            if len(rows) >= MIN_WINDOWS:
                whole = np.concatenate(rows, axis=1)
                coverages.append([(whole[:, np.isfinite(whole[0])] <= factor).mean(axis=1) for factor in FACTORS])
        if coverages:
            miss = np.abs(np.mean(coverages, axis=0) - list(INTERVALS)).sum(axis=1)
            by_kind[kind] = round(float(FACTORS[miss.argmin()]), 2)
    return by_kind


def main(arguments: Sequence[str]) -> None:
    """Print the factors; those of each file go to standard error."""
    hints: tuple[Hint, ...] = ("usual", "none")
    files = []
    parts = [list(part) for comma, part in groupby(arguments, lambda word: word == ",") if not comma]
    for folder, *paths in parts:
        model = ForecastModel.open(Path(folder))[Path(folder).parent.name]
        for path in map(Path, paths):
            windows = end_windows(path, model.manifest.horizon)
            files.append([row for hint in hints for row in needed_factors(model, windows, hint)])
            sys.stderr.write(f"{path.name}, {len(windows)} windows: {best_factors(files[-1:])}\n")
        model.close()
    sys.stdout.write(",".join(f"{kind}:{factor:g}" for kind, factor in best_factors(files).items()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
