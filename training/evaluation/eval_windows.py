"""The windows that a forecaster is measured on, each a history and the values that followed it: from the benchmarks'
own splits, or cut from the ends of series.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carry.files import DataError, Series

HORIZONS = {1: 6, 12: 18, 52: 13}
"""Values to forecast of a series without a split, by its season: 6 without a season, 18 months, 13 weeks. Of any other
season it is two seasons, at most `LONGEST_HORIZON` values."""
LONGEST_HORIZON = 48
M4_SEASONS = {"Yearly": 1, "Quarterly": 4, "Monthly": 12, "Weekly": 1, "Daily": 1, "Hourly": 24}
"""Values per season as the M4 competition defined it, for its files `<name>-train.csv`."""


@dataclass(frozen=True)
class EvalWindow:
    """A history (T, F), NaN = missing, feature 0 the target, and the (H,) values that followed it.

    season: values per season, 1 = none, by which the measures scale. group: its row in a table of measures, the
    frequency where it is known, such as "M". future: all features (H, F) of the steps of the truth. series: the series
    that the window is cut from; "" if no other window is of it.
    """

    id: str
    history: NDArray[np.float64]
    truth: NDArray[np.float64]
    season: int = 1
    group: str = ""
    future: NDArray[np.float64] | None = None
    series: str = ""


def is_benchmark(path: Path) -> bool:
    """Whether a file has its own split: one of the M4 competition, or JSON lines with `test`."""
    if _m4_name(path) is not None:
        return True
    if not path.name.endswith((".jsonl", ".jsonl.gz")) or not path.is_file():
        return False
    first = next((line for line in _lines(path) if line.strip()), "")
    try:
        return "test" in json.loads(first)
    except (ValueError, TypeError):
        return False


def read_benchmark(path: Path) -> list[EvalWindow]:
    """Read a collection with its published split, a window for each series.

    Either JSON lines (also gzipped) with `train` and `test`, optionally `id`, `freq` (the group) and `season`; or the
    M4 competition's `<name>-train.csv` (also gzipped), its `<name>-test.csv` beside it.

    Raises:
        DataError: a file cannot be read, or lacks what it should have.
    """
    name = _m4_name(path)
    windows = _from_json_lines(path) if name is None else _from_m4(path, name)
    if not windows:
        raise DataError(f"{path}: holds no series")
    return windows


def rolling_windows(series: Sequence[Series], horizon: int, count: int = 1) -> list[EvalWindow]:
    """The last `count` windows of each series, `horizon` steps apart; all values before a window are its history. A
    window without a number in its truth, or with fewer than two in its history, is left out."""
    windows = []
    for each in series:
        for origin in range(len(each.values) - count * horizon, len(each.values), horizon):
            if origin < 2:
                continue
            history, future = each.values[:origin], each.values[origin : origin + horizon]
            if np.isfinite(history[:, 0]).sum() > 1 and np.isfinite(future[:, 0]).any():
                name = each.id if count == 1 else f"{each.id}, {origin}"
                windows.append(EvalWindow(name, history, future[:, 0], each.season, each.freq or "", future, each.id))
    return windows


def usual_horizon(season: int) -> int:
    """How many values to forecast at once of a series without a split."""
    return HORIZONS.get(season, min(2 * season, LONGEST_HORIZON))


def draw_series(series: Sequence[Series], limit: int) -> list[Series]:
    """At most `limit` series at random, in their order: the same ones each time."""
    indices = np.random.default_rng(0).permutation(len(series))[:limit]
    return [series[i] for i in sorted(indices.tolist())]


def _m4_name(path: Path) -> str | None:
    name, _, rest = path.name.partition("-train.csv")
    return name if name in M4_SEASONS and rest in ("", ".gz") else None


def _lines(path: Path) -> list[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            return list(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _from_json_lines(path: Path) -> list[EvalWindow]:
    windows = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            train, test = (np.array(record[part], dtype=np.float64) for part in ("train", "test"))
            season, id = int(record.get("season", 1)), str(record.get("id", f"{path.name}:{number}"))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            raise DataError(f"{path}, line {number}: needs `train` and `test`, lists of numbers and nulls") from None
        windows.append(_window(f"{path}, line {number}", id, train, test, season, str(record.get("freq", ""))))
    return windows


def _from_m4(path: Path, name: str) -> list[EvalWindow]:
    train = _m4_rows(path)
    test = _m4_rows(path.with_name(path.name.replace("-train", "-test")))
    missing = next((id for id in train if id not in test), None)
    if missing is not None:
        raise DataError(f"{path}: series {missing!r} is not in the test file beside it")
    return [_window(str(path), id, train[id], test[id], M4_SEASONS[name], name[0]) for id in train]


def _m4_rows(path: Path) -> dict[str, NDArray[np.float64]]:
    """A row for each series: its name, then its values; shorter rows are filled up with empty cells."""
    rows = list(csv.reader(_lines(path)))[1:]
    try:
        return {row[0]: np.array([cell for cell in row[1:] if cell], dtype=np.float64) for row in rows if row}
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _window(
    place: str, id: str, train: NDArray[np.float64], test: NDArray[np.float64], season: int, group: str
) -> EvalWindow:
    usable = all(part.ndim == 1 and np.isfinite(part).any() and not np.isinf(part).any() for part in (train, test))
    if not usable or season < 1:
        raise DataError(f"{place}: series {id!r} needs finite numbers to train and to test on, and a season from 1")
    return EvalWindow(id, train[:, None], test, season, group)
