"""Plain series: lists, arrays and columns of numbers as JSON writes them. Knows no data frames as tables."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.errors import InvalidRequestError


def is_plain(data: Any) -> bool:
    """Whether data are series by themselves, not a data frame: a list, an array, a mapping, or a column."""
    if isinstance(data, list | tuple | range | np.ndarray | Mapping):
        return True
    return hasattr(data, "to_list") or (hasattr(data, "to_pylist") and not hasattr(data, "column_names"))


def is_several(data: Any) -> bool:
    """Whether plain data are several series: a list of lists, of arrays or of mappings."""
    if isinstance(data, np.ndarray):
        return data.ndim > 1
    return isinstance(data, list | tuple) and len(data) > 0 and not _is_item(data[0])


def _is_item(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | np.generic) or not hasattr(value, "__len__")


def is_number(value: Any) -> bool:
    """Whether it is one number, of Python or of NumPy."""
    return isinstance(value, int | float | np.number)


def python_of(value: Any) -> Any:
    """A number of NumPy as one of Python; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def json_series(series: Any, path: str = "$.series") -> Any:
    """A series as JSON: a list of numbers, null where missing; of a mapping, such a list for each feature, of strings
    where it is categorical. path: of the series, for the error.

    Raises:
        InvalidRequestError: a number is infinite.
    """
    if isinstance(series, Mapping):
        return {name: _items(column, f"{path}.{name}") for name, column in series.items()}
    return _items(series, path)


def number_of(new: Any) -> Any:
    """What a session reads: one number as a series of one."""
    return [new] if _is_item(new) else new


def _items(series: Any, path: str) -> Any:
    if isinstance(series, np.ndarray):
        if series.dtype.kind in "fiu" and series.ndim == 1:
            return _finite(series.astype(np.float64), path)
        items = series.tolist()
    elif hasattr(series, "to_list"):
        items = series.to_list()
    elif hasattr(series, "to_pylist"):
        items = series.to_pylist()
    else:
        items = [*series] if isinstance(series, tuple | range) else series
    if not isinstance(items, list):
        return items  # the service says what is wrong
    return [_item(item, path, i) for i, item in enumerate(items)]


def _finite(numbers: "np.typing.NDArray[np.float64]", path: str) -> list[float | None]:
    infinite = np.isinf(numbers)
    if infinite.any():
        raise _not_finite(path, int(infinite.argmax()))
    missing = np.isnan(numbers)
    items: list[float | None] = numbers.tolist()
    for i in np.flatnonzero(missing).tolist():
        items[i] = None
    return items


def _item(item: Any, path: str, i: int) -> Any:
    item = python_of(item)
    if isinstance(item, float):
        if math.isinf(item):
            raise _not_finite(path, i)
        return None if math.isnan(item) else item
    return None if item is None or _is_missing(item) else item


def _is_missing(item: Any) -> bool:
    """Whether it is pandas' NA or NaT."""
    return type(item).__name__ in ("NAType", "NaTType")


def _not_finite(path: str, i: int) -> InvalidRequestError:
    # JSON has no infinity: it would arrive as a missing value.
    return InvalidRequestError("must be a finite number, or null where the value is missing", f"{path}[{i}]")
