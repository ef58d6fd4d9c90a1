"""How far intervals are to be widened, by the kind of season that is told: found on series that the model never saw.

    python -m training.evaluation.calibration MODEL m3.jsonl.gz m1.jsonl.gz [, OTHER_MODEL FILES ...]

prints what `carry train global --widening` takes. Of files with a split the ends of the training parts are forecast, so
that the test parts stay unseen. Each file counts alike.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carry.local import ForecastModel, Hint, hinted_season
from training.data.forking_batches import kind_of
from training.data.series import read_series
from training.evaluation.windows import Window, is_benchmark, read_benchmark, rolling_windows, usual_horizon

INTERVALS = {0.8: (0.1, 0.9), 0.95: (0.025, 0.975)}
FACTORS = np.arange(0.7, 2.01, 0.01)
WINDOWS = 5
"""Of each series without a split."""
LEAST = 100
"""Windows of a kind in a file, for the file to count."""

Floats = NDArray[np.float64]


def ends(path: Path, horizon: int) -> list[Window]:
    """The last windows of each series, without those of a test part."""
    if not is_benchmark(path):
        series, _ = read_series([path])
        return [
            window
            for one in series
            for window in rolling_windows([one], min(horizon, usual_horizon(one.season)), WINDOWS)
        ]
    found = []
    for window in read_benchmark(path):
        size = len(window.truth)
        if len(window.history) > size + max(3, window.season):
            history, truth = window.history[:-size], window.history[-size:, 0]
            found.append(replace(window, history=history, truth=truth))
    return found


def needed(model: ForecastModel, windows: Sequence[Window], hint: Hint) -> Iterator[tuple[int, Floats]]:
    """Of each window the kind of season that the model is told, and by how much each interval would have to be wider,
    (INTERVALS, H), for the truth to lie just inside; NaN where it is missing or there is no interval."""
    levels = (0.5, *(level for pair in INTERVALS.values() for level in pair))
    horizon = max(len(window.truth) for window in windows)
    for window, found in zip(windows, model.forecast(windows, horizon, levels, hint), strict=True):
        median, *bounds = found[: len(window.truth)].T
        off = window.truth - median
        told = hinted_season(model.manifest, window, hint)
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = zip(bounds[::2], bounds[1::2], strict=True)
            rows = [off / (np.where(off > 0, high, low) - median) for low, high in pairs]
        yield kind_of(told[0] if told else 1), np.where(np.isfinite(rows), rows, np.nan)


def factors(found: Sequence[Sequence[tuple[int, Floats]]]) -> dict[int, float]:
    """Kind -> the factor with which the coverage of all intervals is nearest to what they say, at the mean over
    files."""
    result = {}
    for kind in sorted({kind for file in found for kind, _ in file}):
        off = []
        for file in found:
            rows = [row for one, row in file if one == kind]
            if len(rows) >= LEAST:
                whole = np.concatenate(rows, axis=1)
                off.append([(whole[:, np.isfinite(whole[0])] <= factor).mean(axis=1) for factor in FACTORS])
        if off:
            miss = np.abs(np.mean(off, axis=0) - list(INTERVALS)).sum(axis=1)
            result[kind] = round(float(FACTORS[miss.argmin()]), 2)
    return result


def main(arguments: Sequence[str]) -> None:
    found = []
    parts = [list(part) for comma, part in groupby(arguments, lambda word: word == ",") if not comma]
    for folder, *files in parts:
        model = ForecastModel.open(Path(folder))[Path(folder).parent.name]
        for path in map(Path, files):
            windows = ends(path, model.manifest.horizon)
            hints: tuple[Hint, ...] = ("usual", "none")
            found.append([one for hint in hints for one in needed(model, windows, hint)])
            sys.stderr.write(f"{path.name}, {len(windows)} windows: {factors(found[-1:])}\n")
        model.close()
    sys.stdout.write(",".join(f"{kind}:{factor:g}" for kind, factor in factors(found).items()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
