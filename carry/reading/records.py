"""Series and rows in JSON: a line, or an element of an array, for each series or for each row. Knows nothing of
frequencies but their names.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from carry.reading.columns import MISSING_WORDS, Table
from carry.reading.series import DataError

VALUES = ("values", "target", "train", "y", "series", "value", "data")
IDS = ("unique_id", "item_id", "id", "series_id", "name", "key")
TIMES = ("timestamps", "timestamp", "times", "ds", "dates", "date", "index")
NEEDS = "needs `values` (or `target`, `train`), a list of finite numbers and nulls"
_KNOWN = {"start", "freq", "frequency", "season", "season_length"}


@dataclass(frozen=True)
class Record:
    """One series of a file that has one a line. place: where it stands, for messages. values (T,), or why there are
    none. start: its first time, as the file has it; times: all of them (T,)."""

    id: str
    place: str
    values: NDArray[np.float64] | str
    start: str | None = None
    times: list[str] | None = None
    freq: str | None = None
    season: int | None = None


@dataclass(frozen=True)
class Records:
    """Of one file. ignored: the fields that are not used, in how many records."""

    records: list[Record]
    ignored: Mapping[str, int]


def read_json(data: bytes, place: str, stem: str) -> Table | Records:
    """JSON lines, or one JSON text: series, or rows of a table.

    Raises:
        DataError: it is no JSON, or holds neither.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    start = data.lstrip()[:1]
    if start == b"[":
        items = _load(data, place)
        return _from_items([(f"item {n}", item) for n, item in enumerate(items, 1)], place, stem, "item")
    lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    if len(lines) > 1:
        try:
            _loads(lines[0][1])
        except ValueError:  # the first line is no object: one object over many lines
            if lines[0][1].strip() == b"{":
                lines = [(1, data)]
    loaded = [(f"line {number}", _load_line(line)) for number, line in lines]
    if loaded and isinstance(loaded[0][1], ValueError):
        raise DataError(f"{place}, {loaded[0][0]}: not readable as JSON: {loaded[0][1]}")
    if len(loaded) == 1 and isinstance(loaded[0][1], dict):
        single = _of_one_object(loaded[0][1])
        if isinstance(single, list):
            return _from_items([(f"item {n}", item) for n, item in enumerate(single, 1)], place, stem, "item")
    return _from_items(loaded, place, stem, "line")


def _of_one_object(record: dict[str, Any]) -> list[Any] | None:
    """The rows, or series, of an object that wraps them: {"data": [{...}, ...]}, {"ds": [...], "y": [...]}."""
    for value in record.values():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            return value
    lists = {name: value for name, value in record.items() if isinstance(value, list)}
    named = any(name in record for name in VALUES[:3])
    if len(lists) == len(record) > 1 and len({len(value) for value in lists.values()}) == 1 and not named:
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    nested = [value for value in record.values() if isinstance(value, dict)]
    if nested and len(nested) == len(record):  # pandas' to_json: {"ds": {"0": ..., "1": ...}, "y": {...}}
        return [{name: column.get(row) for name, column in record.items()} for row in nested[0]]
    return None


def _from_items(items: Sequence[tuple[str, Any]], place: str, stem: str, origin: str) -> Table | Records:
    if not items:
        raise DataError(f"{place}: holds no series")
    first = items[0][1]
    if all(isinstance(item, (int, float)) or item is None for _, item in items) and len(items) > 1:
        return Records([_record({"values": [item for _, item in items]}, "item 1", stem, {})], {})
    if isinstance(first, dict) and not any(isinstance(value, list) for value in first.values()):
        return _rows(items, place, origin)
    ignored: dict[str, int] = {}
    records = []
    for number, (where, item) in enumerate(items, 1):
        default_id = f"{stem}:{number}"
        if isinstance(item, list):
            item = {"values": item}
        if isinstance(item, dict):
            records.append(_record(item, where, default_id, ignored))
        else:
            records.append(
                Record(default_id, where, f"not readable as JSON: {item}" if isinstance(item, ValueError) else NEEDS)
            )
    return Records(records, ignored)


def _rows(items: Sequence[tuple[str, Any]], place: str, origin: str) -> Table:
    """An object for each row."""
    names: dict[str, None] = {}
    for where, item in items:
        if not isinstance(item, dict):
            raise DataError(f"{place}, {where}: must be an object, as the first is")
        names |= dict.fromkeys(item)
    if not names:
        raise DataError(f"{place}: holds no series")
    columns = [_column([item.get(name) for _, item in items]) for name in names]
    rows = np.arange(1, len(items) + 1)
    return Table(list(names), columns, rows, origin, ".")


def _column(values: list[Any]) -> pa.ChunkedArray:
    """As numbers if all are numbers, else as text."""
    present = [value for value in values if value is not None]
    if any(isinstance(value, (dict, list)) for value in present):
        return pa.chunked_array([pa.array([None if value is None else [str(value)] for value in values])])
    if present and all(isinstance(value, bool) for value in present):
        return pa.chunked_array([pa.array(values, pa.bool_())])
    if present and all(type(value) is int and -(2**63) <= value < 2**63 for value in present):
        return pa.chunked_array([pa.array(values, pa.int64())])
    if present and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present):
        return pa.chunked_array([pa.array([None if value is None else float(value) for value in values], pa.float64())])
    return pa.chunked_array([pa.array(["" if value is None else str(value) for value in values], pa.string())])


def _record(item: dict[str, Any], place: str, default_id: str, ignored: dict[str, int]) -> Record:
    field = next((name for name in VALUES if isinstance(item.get(name), list)), None)
    identity = next((name for name in IDS if item.get(name) is not None), None)
    times = next((name for name in TIMES if isinstance(item.get(name), list)), None)
    for name in item:
        if name not in _KNOWN | {field, identity, times}:
            ignored[name] = ignored.get(name, 0) + 1
    id = default_id if identity is None else str(item[identity])
    freq = item.get("freq", item.get("frequency"))
    season = item.get("season", item.get("season_length"))
    if season is not None and (not isinstance(season, int) or season < 1):
        return Record(id, place, "`season` must be a whole number from 1, the values per season")
    numbers = None if field is None else _numbers(item[field])
    if numbers is None:
        return Record(id, place, NEEDS)
    stamps = None if times is None else [str(time) for time in item[times]]
    if stamps is not None and len(stamps) != len(numbers):
        return Record(id, place, f"`{times}` has {len(stamps)} times for {len(numbers)} values")
    start = item.get("start")
    return Record(
        id,
        place,
        numbers,
        None if start is None else str(start),
        stamps,
        None if freq is None else str(freq),
        season,
    )


def _numbers(values: Any) -> NDArray[np.float64] | None:
    """A list of numbers and nulls; None if it holds something else."""
    try:
        array = np.array(values)
    except (ValueError, TypeError, OverflowError):  # lists of unequal lengths
        return None
    if array.ndim == 1 and array.dtype.kind in "iuf":
        return array.astype(np.float64)
    if array.ndim != 1 or array.dtype.kind not in "OU":
        return np.empty(0) if not len(values) else None
    plain = [None if isinstance(value, str) and value.strip().lower() in MISSING_WORDS else value for value in values]
    if any(isinstance(value, (str, bool, dict, list)) for value in plain):
        return None
    try:
        return np.array(plain, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return None


def _load(data: bytes, place: str) -> Any:
    loaded = _load_line(data)
    if isinstance(loaded, ValueError):
        raise DataError(f"{place}: not readable as JSON: {loaded}")
    return loaded


def _load_line(data: bytes) -> Any:
    """What it holds; a ValueError if it is no JSON."""
    try:
        return _loads(data)
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("it is nested too deeply")


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data)  # which knows NaN


@functools.lru_cache(maxsize=1024)
def default_frequency(freq: str) -> str:
    """The unit of a frequency alone, without the day that it counts from: W-SUN is W, MS is M."""
    unit = freq.split("-")[0]
    for ending in ("S", "E"):
        if len(unit) > 1 and unit.endswith(ending) and unit[:-1].lstrip("0123456789") in ("Y", "Q", "M", "A"):
            unit = unit[:-1]
    return unit
