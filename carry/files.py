"""Reads series from the files that users have: CSV, Parquet and JSON lines. `carry train`, `carry evaluate` and `carry
forecast` all read a file by `read_series`, and so the same series."""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.times import parse_times, regular_times
from service.forecast.seasons import usual_seasons

_SEASONAL = re.compile("([QMWDBH])|([QM])[SE]|(5|10|15|30)(?:MIN|T)")
"""Frequencies of which files have a season, in capitals."""
ROW_NUMBER_COLUMNS = {"rownames", "index", "no", "row", "row_number"}
TIME_COLUMNS = {"ds", "time", "date", "datetime", "timestamp"}
"""Columns of these names are times even if they hold numbers, if these rise from row to row."""
MAX_CATEGORIES = 100
"""Categories of a feature: each is an input of the network."""
ACCEPTED = "numbers and empty cells (missing) are accepted"


class DataError(ValueError):
    """A file cannot be used; the message names the file, what is wrong and what is accepted."""


@dataclass(frozen=True)
class Series:
    """One series: values (T, F), NaN = missing; feature 0 is the target, whose last value is known. season: values per
    season, 1 = none known. times (T,): without gaps, at the frequency `freq` (pandas' name); JSON lines have a
    frequency and no times. future (K, F): the rows after the target's last value, with the features known ahead.
    source: the collection that the series is from."""

    id: str
    values: NDArray[np.float64]
    times: pd.DatetimeIndex | None = None
    season: int = 1
    freq: str | None = None
    future: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 1)))
    source: str = ""


def read_series(
    paths: Sequence[Path],
    target: str | None = None,
    features: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] | None = None,
    freq: str | None = None,
) -> tuple[list[Series], tuple[str, ...]]:
    """Read files of series; returns them and the names of their features, the target first.

    CSV (also gzipped) and Parquet, in one of three layouts:
    - long: a column `unique_id`, a time column `ds`, the target (`y` unless named) and the feature columns;
    - one series: with `target`, each named column is a feature of the file's one series;
    - wide: otherwise; each numeric column is a series by itself.
    JSON lines (also gzipped), one series a line: `values` (or `train`), optionally `id`, `season`, `start`, `freq`.
    Features with `categories` become indices into them; any other category is missing. A series of a table has a row
    for each time at its frequency (`freq`, if given); a time that the file lacks is a missing value. It ends with the
    last value of its target.

    Raises:
        DataError: a file cannot be read, or lacks what it should have, a time occurs twice, or times follow no
            frequency.
    """
    series: list[Series] = []
    names = (target or "y", *features)
    for path in paths:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            if features:
                raise DataError(f"{path}: JSON lines hold one value a step; --features needs CSV or Parquet")
            lines = _read_json_lines(path)
            series += lines if freq is None else [replace(line, freq=freq, season=_season(freq)) for line in lines]
        else:
            table = _to_indices(_read_table(path, categories or {}), categories or {})
            series += _from_table(path, table, target, features, freq)
    if not series:
        raise DataError(f"no series in {', '.join(map(str, paths))}")
    return series, names


def find_categories(paths: Sequence[Path], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The categories of the columns `names` in all files together, sorted.

    Raises:
        DataError: a file cannot be read or lacks a column, or a column holds none or more than `MAX_CATEGORIES`.
    """
    categories: dict[str, set[str]] = {name: set() for name in names}
    for path in paths if names else ():
        table = _read_table(path, names)
        _check_columns(path, table, names)
        for name in names:
            categories[name] |= set(_category_names(table[name].dropna()))
            if not 0 < len(categories[name]) <= MAX_CATEGORIES:
                raise DataError(f"{path}: column {name!r} must hold 1 to {MAX_CATEGORIES} categories")
    return {name: tuple(sorted(categories[name])) for name in names}


def _to_indices(table: pd.DataFrame, categories: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    for name in set(categories) & set(table.columns):
        index = {category: float(i) for i, category in enumerate(categories[name])}
        known = table[name].notna()
        table = table.assign(**{name: _category_names(table[name]).where(known).map(index)})
    return table


def _category_names(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """As text. Whole numbers have no point, although a gap among them makes pandas read 1 as 1.0."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.astype(str)


def _read_table(path: Path, categorical: Iterable[str] = ()) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype=dict.fromkeys(categorical, str))  # 01 is not 1
        if path.suffix == ".parquet" and not isinstance(table.index, pd.RangeIndex):
            table = table.reset_index()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zlib.error) as error:  # pandas' and pyarrow's parse errors are ValueErrors
        raise DataError(
            f"{path}: not readable as {'Parquet' if path.suffix == '.parquet' else 'CSV'}: {error}"
        ) from error
    if table.empty:
        raise DataError(f"{path}: holds no rows")
    table.columns = [str(name) for name in table.columns]
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(f"{path}: rows have more cells than the header; cells are separated by commas, 1.5 has a point")
    # Whole numbers may name columns: years, or the numbers of shops.
    may_be_names = len(table.columns) > 1 and not any("." in name for name in table.columns)
    if not may_be_names and all(map(_is_number, table.columns)):
        raise DataError(f"{path}: its first row holds numbers; it must hold the names of the columns")
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_table(
    path: Path, table: pd.DataFrame, target: str | None, features: Sequence[str], freq: str | None
) -> list[Series]:
    if "unique_id" in table.columns:
        time = "ds" if "ds" in table.columns else _time_column(table, ("unique_id", target or "y", *features))
        if time is None:
            raise DataError(f"{path}: a long table (it has unique_id) needs a time column `ds`; {_columns(table)}")
        columns = [target or "y", *features]
        _check_columns(path, table, columns)
        table = table.assign(**{time: _parsed(table[time])})
        if not pd.api.types.is_datetime64_any_dtype(table[time]) and not pd.api.types.is_numeric_dtype(table[time]):
            raise DataError(f"{path}: column {time!r} holds neither dates nor numbers, e.g. {table[time].iloc[0]!r}")
        for name in ("unique_id", time):
            if table[name].isna().any():
                raise DataError(f"{path}: column {name!r} has empty cells")
        _check_repeats(path, table, ["unique_id", time])
        table = table.sort_values(["unique_id", time], kind="stable")
        ids, times, values = table["unique_id"].to_numpy(), _times(table, time), _numbers(path, table, columns)
        starts = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1), len(ids)]
        return [
            _series(
                path, str(ids[start]), values[start:end], None if times is None else times[start:end], columns, freq
            )
            for start, end in pairwise(starts)
        ]
    if features and target is None:
        raise DataError(f"{path}: features need a target, the column to forecast; {_columns(table)}")
    time = _time_column(table, (target, *features))
    if time is not None:
        table = table.assign(**{time: _parsed(table[time])})
        if table[time].isna().any():
            raise DataError(f"{path}: column {time!r} has empty cells")
        _check_repeats(path, table, [time])
        table = table.sort_values(time, kind="stable")
    if target is not None:
        columns = [target, *features]
        _check_columns(path, table, columns)
        values = _numbers(path, table, columns)
        return [_series(path, path.name.split(".")[0], values, _times(table, time), columns, freq)]
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
    times = _times(table, time)
    return [_series(path, name, _numbers(path, table, [name]), times, [name], freq) for name in numeric]


def _check_repeats(path: Path, table: pd.DataFrame, keys: list[str]) -> None:
    """Refuse a table in which a series has two values at a time. Its rows must be in the order of the file."""
    repeated = table[keys].duplicated(keep=False)
    if not repeated.any():
        return
    first = table[keys].iloc[int(np.flatnonzero(repeated)[0])]
    rows = np.flatnonzero((table[keys] == first).all(axis=1))[:2] + 1
    *series, time = first
    of = f" of series {series[0]!r}" if series else ""
    hint = "" if series else "; several series need a column `unique_id`"
    if isinstance(time, pd.Timestamp) and time.tz is None and time.hour:
        hint += "; an hour that clocks repeat needs its offset, such as +02:00"
    raise DataError(
        f"{path}: the time {time} in {keys[-1]!r}{of} is in rows {rows[0]} and {rows[1]} after the header; "
        f"each series has one value a time{hint}"
    )


def _numbers(path: Path, table: pd.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    values = np.empty((len(table), len(columns)))
    for i, column in enumerate(columns):
        try:
            values[:, i] = pd.to_numeric(table[column]).to_numpy(dtype=np.float64, na_value=np.nan)
        except (ValueError, TypeError):
            raise DataError(f"{path}: column {column!r} holds text; {ACCEPTED}") from None
    return values


def _times(table: pd.DataFrame, time: str | None) -> pd.DatetimeIndex | None:
    return pd.DatetimeIndex(table[time]) if time and pd.api.types.is_datetime64_any_dtype(table[time]) else None


def _series(
    path: Path,
    id: str,
    values: NDArray[np.float64],
    times: pd.DatetimeIndex | None,
    columns: list[str],
    freq: str | None,
) -> Series:
    for column, column_values in zip(columns, values.T, strict=True):
        if np.isnan(column_values).all():
            raise DataError(f"{path}: column {column!r} of series {id!r} holds no value at all")
        if np.isinf(column_values).any():
            raise DataError(f"{path}: column {column!r} of series {id!r} holds infinity; {ACCEPTED}")
    if times is not None:
        values, times, freq = _without_gaps(path, id, values, times, freq)
    end = int(np.flatnonzero(np.isfinite(values[:, 0]))[-1]) + 1
    season = 1 if freq is None else _season(freq)
    return Series(id, values[:end], None if times is None else times[:end], season, freq, values[end:])


def _without_gaps(
    path: Path, id: str, values: NDArray[np.float64], times: pd.DatetimeIndex, freq: str | None
) -> tuple[NDArray[np.float64], pd.DatetimeIndex, str]:
    """The values with a row for each time at the frequency, these times, and the frequency."""
    try:
        grid = regular_times(times, freq)
    except ValueError:
        raise DataError(f"--freq: {freq!r} is not a frequency that pandas knows, such as MS, D or h") from None
    if grid is None:
        expected = "a frequency" if freq is None else f"the frequency {freq}"
        raise DataError(
            f"{path}: the times of {id} do not follow {expected}; give theirs with --freq (such as MS, D or h), or "
            "leave the times out, so that each row is a step"
        )
    whole = np.full((len(grid.times), values.shape[1]), np.nan)
    whole[grid.indices(times)] = values
    return whole, grid.times, grid.freq


def _time_column(table: pd.DataFrame, excluded: Sequence[str | None]) -> str | None:
    """The first column, none of the `excluded`, of dates, or of rising numbers under one of `TIME_COLUMNS`."""
    for name in map(str, table.columns):
        column = table[name]
        if name in excluded:
            continue
        if pd.api.types.is_numeric_dtype(column):
            if name.lower() in TIME_COLUMNS and column.is_monotonic_increasing and column.is_unique:
                return name
        elif pd.api.types.is_datetime64_any_dtype(_parsed(column)):
            return name
    return None


def _parsed(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """As times, if all of it is times; else unchanged, since `ds` may be whole numbers."""
    times = parse_times(column)
    return column if times is None else times


def _season(freq: str) -> int:
    """Values per season of pandas' name for a frequency, such as MS, QE-DEC, W-SUN or 30min."""
    name = _SEASONAL.fullmatch(freq.split("-")[0].upper())
    if name is None:
        return 1
    seasons = usual_seasons(name[1] or name[2] or "T", int(name[3] or 1))
    return seasons[0] if seasons else 1


def _check_columns(path: Path, table: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise DataError(f"{path}: no column {', '.join(map(repr, missing))}; {_columns(table)}")


def _columns(table: pd.DataFrame) -> str:
    return f"its columns are {', '.join(map(repr, table.columns))}"


def _read_json_lines(path: Path) -> list[Series]:
    series = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                series.append(_from_record(f"{path}, line {number}", line, f"{path.name}:{number}"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise DataError(f"{path}: not readable as JSON lines: {error}") from error
    return series


def _from_record(place: str, line: str, default_id: str) -> Series:
    try:
        record = json.loads(line)
        values = np.array(record.get("values", record.get("train")), dtype=np.float64)
    except (ValueError, TypeError, AttributeError, OverflowError):
        values = np.empty(0)
    if values.ndim != 1 or not np.isfinite(values).any() or np.isinf(values).any():
        raise DataError(f"{place}: needs `values` (or `train`), a list of finite numbers and nulls")
    freq, season = record.get("freq"), record.get("season")
    if season is None:
        season = _season(str(freq))
    if not isinstance(season, int) or season < 1:
        raise DataError(f"{place}: `season` must be a whole number from 1, the values per season")
    return Series(str(record.get("id", default_id)), values[:, None], None, season, None if freq is None else str(freq))
