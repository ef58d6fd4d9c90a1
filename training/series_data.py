"""Reads series from the files that users have, and cuts them chronologically into train, validation and test parts."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SEASONS = {"Y": 1, "A": 1, "Q": 4, "M": 12, "W": 52, "D": 7, "B": 5, "H": 24, "H30": 48}
ROW_NUMBER_COLUMNS = {"rownames", "index", "no", "row", "row_number"}


class DataError(ValueError):
    """A file cannot be used as it is; the message names the file, what is wrong and what is accepted."""


@dataclass(frozen=True)
class Series:
    """One series: values (T, F), NaN = missing, feature 0 the target; `season` values per season, 1 = none known."""

    id: str
    values: NDArray[np.float64]
    times: pd.DatetimeIndex | None = None
    season: int = 1


@dataclass(frozen=True)
class Split:
    """Chronological parts: [0, train_end) train, [train_end, valid_end) validation, [valid_end, T) test."""

    train_end: int
    valid_end: int


def split(series: Series, horizon: int, valid: float = 0.1, test: float = 0.1) -> Split | None:
    """Hold out shares of the end, each at least `horizon` long; None where less would be left than is held out."""
    steps = len(series.values)
    test_steps = max(horizon, round(test * steps)) if test else 0
    valid_steps = max(horizon, round(valid * steps)) if valid else 0
    train_end = steps - test_steps - valid_steps
    if train_end < test_steps + valid_steps:
        return None
    return Split(train_end, steps - test_steps)


def read_series(
    paths: Sequence[Path], target: str | None = None, features: Sequence[str] = ()
) -> tuple[list[Series], tuple[str, ...]]:
    """Read files of series; returns them and the names of their features, the target first.

    CSV (also gzipped) and Parquet, in one of three layouts:
    - long: a column `unique_id`, a time column `ds`, the target (`y` unless named) and the feature columns;
    - one series: with `target`, each column named is a feature of the file's one series;
    - wide: otherwise, where every numeric column is a series by itself.
    JSON lines (also gzipped), one series a line: `values` (or `train`), optionally `id`, `season`, `start`, `freq`.

    Raises:
        DataError: a file cannot be read, or lacks what it should have.
    """
    found: list[Series] = []
    names = (target or "y", *features)
    for path in paths:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            if features:
                raise DataError(f"{path}: JSON lines hold one value a step; --features needs CSV or Parquet")
            found += _read_json_lines(path)
        else:
            found += _from_table(path, _read_table(path), target, features)
    if not found:
        raise DataError(f"no series in {', '.join(map(str, paths))}")
    for series in found:
        if np.isinf(series.values).any():
            raise DataError(f"series {series.id}: infinite values; numbers and empty cells (missing) are accepted")
    return found, names


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, UnicodeError) as error:  # pandas' and pyarrow's parse errors are ValueErrors
        raise DataError(
            f"{path}: not readable as {'Parquet' if path.suffix == '.parquet' else 'CSV'}: {error}"
        ) from error
    if table.empty:
        raise DataError(f"{path}: holds no rows")
    table.columns = [str(name) for name in table.columns]
    return table


def _from_table(path: Path, table: pd.DataFrame, target: str | None, features: Sequence[str]) -> list[Series]:
    if "unique_id" in table.columns:
        time = "ds" if "ds" in table.columns else _time_column(table, ("unique_id", target or "y", *features))
        if time is None:
            raise DataError(f"{path}: a long table (it has unique_id) needs a time column `ds`; {_columns(table)}")
        columns = [target or "y", *features]
        _check_columns(path, table, columns)
        if table.duplicated(["unique_id", time]).any():
            raise DataError(f"{path}: some (unique_id, {time}) occur twice; each series has one value a time")
        table = table.assign(**{time: _parsed(table[time])}).sort_values(["unique_id", time], kind="stable")
        return [_series(path, str(id), part, time, columns) for id, part in table.groupby("unique_id", sort=False)]
    time = _time_column(table, (target, *features))
    if time is not None:
        table = table.assign(**{time: _parsed(table[time])}).sort_values(time, kind="stable")
    if target is not None:
        columns = [target, *features]
        _check_columns(path, table, columns)
        return [_series(path, path.name.split(".")[0], table, time, columns)]
    numeric = [
        name
        for name in table.columns
        if name != time
        and pd.api.types.is_numeric_dtype(table[name])
        and not (name.startswith("Unnamed") or name.lower() in ROW_NUMBER_COLUMNS)
        and table[name].notna().any()
    ]
    if not numeric:
        raise DataError(f"{path}: no column of numbers; {_columns(table)}")
    return [_series(path, name, table, time, [name]) for name in numeric]


def _series(path: Path, id: str, table: pd.DataFrame, time: str | None, columns: list[str]) -> Series:
    values = np.empty((len(table), len(columns)))
    for i, column in enumerate(columns):
        try:
            values[:, i] = pd.to_numeric(table[column]).to_numpy(dtype=np.float64, na_value=np.nan)
        except (ValueError, TypeError):
            raise DataError(f"{path}: column {column!r} of series {id!r} is not all numbers or empty") from None
        if np.isnan(values[:, i]).all():
            raise DataError(f"{path}: column {column!r} of series {id!r} holds no value at all")
    times = pd.DatetimeIndex(table[time]) if time and pd.api.types.is_datetime64_any_dtype(table[time]) else None
    return Series(id, values, times, _season(times))


def _time_column(table: pd.DataFrame, taken: Sequence[str | None]) -> str | None:
    """The first column of text or dates, not named otherwise, that reads as times."""
    for name in table.columns:
        column = table[name]
        if name in taken or pd.api.types.is_numeric_dtype(column):
            continue
        if pd.api.types.is_datetime64_any_dtype(_parsed(column)):
            return str(name)
    return None


def _parsed(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """As times where all of it reads so, else as it is (`ds` may also be whole numbers)."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    try:
        return pd.to_datetime(column, format="mixed" if column.dtype == object else None)
    except (ValueError, TypeError):
        return column


def _season(times: pd.DatetimeIndex | None) -> int:
    if times is None or len(times) < 3:
        return 1
    freq = pd.infer_freq(times)
    if freq is None:
        # Daily series that leave out weekends and holidays, as exchanges do.
        step = np.diff(times.to_numpy()).astype("timedelta64[h]").astype(int)
        return 5 if np.median(step) == 24 and step.max() > 24 else 1
    name = freq.split("-")[0].upper()
    if name in ("30MIN", "30T"):
        return 48
    for suffix in ("MS", "ME", "QS", "QE", "YS", "YE"):
        name = suffix[0] if name == suffix else name
    return SEASONS.get(name, 1)


def _check_columns(path: Path, table: pd.DataFrame, wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise DataError(f"{path}: no column {', '.join(map(repr, missing))}; {_columns(table)}")


def _columns(table: pd.DataFrame) -> str:
    return f"its columns are {', '.join(map(repr, table.columns))}"


def _read_json_lines(path: Path) -> list[Series]:
    found = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                    values = np.array(record.get("values", record.get("train")), dtype=np.float64)
                except (ValueError, TypeError, AttributeError):
                    values = np.empty(0)
                if values.ndim != 1 or not np.isfinite(values).any():
                    raise DataError(f"{path}, line {number}: needs `values` (or `train`), a list of numbers and nulls")
                id = str(record.get("id", f"{path.name}:{number}"))
                found.append(Series(id, values[:, None], None, int(record.get("season", 1))))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeError) as error:
        raise DataError(f"{path}: not readable as JSON lines: {error}") from error
    return found
