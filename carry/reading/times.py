"""The times of a table's rows: in one column or in several. Knows nothing of what else the table holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from carry.reading.columns import is_text, is_time
from carry.reading.placing import time_text
from carry.reading.series import DataError
from carry.reading.tables import Cells, Reader
from carry.times.dates import NotDates, ParsedDates, is_time_name, parse_dates
from carry.times.parts import date_parts, join_dates
from carry.times.zones import resolve_repeated_hours


@dataclass(frozen=True)
class Times:
    """The times of a table's rows, and the columns that they are from."""

    dates: ParsedDates
    columns: tuple[str, ...]


def find_times(reader: Reader, excluded: Sequence[str]) -> Times | None:
    """The times of the rows; None if no column holds any.

    Raises:
        DataError: a column that holds dates has cells that are none.
    """
    names = [name for name in reader.table.names if name not in excluded and not reader.is_nested(name)]
    candidates = sorted(names, key=lambda name: (name != "ds", not is_time_name(name)))
    refused: tuple[str, NotDates] | None = None
    single: Times | None = None
    numeric: Times | None = None
    unread: list[str] = []
    for name in candidates:
        named = name == "ds" or is_time_name(name)
        cells = reader.table.column(name)
        if pa.types.is_boolean(cells.type) or cells.null_count == len(cells):
            continue
        if not named and not is_time(cells) and not (is_text(cells) and not reader.mostly_numbers(name)):
            continue
        dates = parse_dates(reader.cells[name], reader.options.dates)
        if isinstance(dates, NotDates):
            if name == "ds" or (dates.bad and refused is None):
                refused = refused or (name, dates)
            elif named and is_text(cells) and not reader.mostly_numbers(name):
                unread.append(f"`{name}` is not read as times: {reader.place_rows(dates.reason)}")
            continue
        if dates.numbers:
            if named and numeric is None and (name == "ds" or _has_values(reader, name)):
                numeric = Times(dates, (name,))
            if named and isinstance(dates.times, pd.DatetimeIndex):
                reader.dated.add(name)
            continue
        reader.dated.add(name)
        if single is None or _is_better(dates, single):
            single = Times(dates, (name,))
    parts = date_parts(Cells(reader.table, names)) if single is None or "ds" not in single.columns else {}
    if not parts and single is None and numeric is None:
        parts = _numbered_parts(reader, names)
    joined = _join(reader, parts, single, numeric)
    if joined is not None:
        return joined
    if refused is not None and (single is None or refused[0] == "ds"):
        name, dates = refused
        if (single is None and numeric is None) or name == "ds":
            raise DataError(f"{reader.place}: column {name!r}: {reader.place_rows(_reason(reader, name, dates))}")
    reader.report.note(*unread)
    return single or numeric


def _is_better(dates: ParsedDates, than: Times) -> bool:
    """Whether a column tells the rows apart that a column before it, which is not called a time, does not."""
    return not than.dates.times.is_unique and dates.times.is_unique and not is_time_name(than.columns[0])


def _join(reader: Reader, parts: Mapping[str, str], single: Times | None, numeric: Times | None) -> Times | None:
    """The times of several columns, where no single column has them."""
    if not parts or len(parts) < 2:
        return None
    if single is not None and not set(parts.values()) & set(single.columns):
        return None  # year and month beside a column of whole dates
    if single is not None and single.dates.times.is_unique and "time" not in parts:
        return None
    joined = join_dates(reader.cells, parts, reader.options.dates)
    if isinstance(joined, NotDates):
        if joined.bad:
            raise DataError(
                f"{reader.place}: columns {', '.join(map(repr, parts.values()))}: {reader.place_rows(joined.reason)}"
            )
        return None
    return Times(joined, tuple(parts.values()))


def _numbered_parts(reader: Reader, names: Sequence[str]) -> dict[str, str]:
    """The years and months, and days, in the first columns of a file without names."""
    first = [name for name in names[:3] if name.startswith("column ") and reader.is_numeric(name)]
    values = [reader.numbers(name).values for name in first]
    limits = ((1500, 2200), (1, 12), (1, 31))
    fits = [
        bool(((cells >= low) & (cells <= high) & (cells % 1 == 0)).all())
        for cells, (low, high) in zip(values, limits, strict=False)
    ]
    if fits[:2] != [True, True] or len(reader.table) < 3 or (np.diff(values[0]) < 0).any():
        return {}
    if len(np.unique(values[0] * 12 + values[1])) == len(reader.table):
        return {"year": first[0], "month": first[1]}
    return {"year": first[0], "month": first[1], "day": first[2]} if fits[2:] == [True] else {}


def _has_values(reader: Reader, name: str) -> bool:
    """Whether another column holds numbers, so that this one may be the times."""
    return any(other != name and reader.is_numeric(other) for other in reader.table.names)


def _reason(reader: Reader, name: str, dates: NotDates) -> str:
    if dates.bad:
        first = dates.bad[0]
        more = f" (and {len(dates.bad) - 1} more)" if len(dates.bad) > 1 else ""
        return f"{first.text!r} in {reader.table.place(first.row)} is no date like the others{more}"
    return dates.reason


def keep_rows(reader: Reader, times: Times) -> "pd.Index[Any]":
    """The times of the rows, once lines of totals and rows without a time are left out of the table.

    Raises:
        DataError: a row with values has no time.
    """
    keep = np.ones(len(reader.table), dtype=bool)
    if times.dates.totals:
        keep[list(times.dates.totals)] = False
    stamps = times.dates.times
    empty = np.asarray(stamps.isna()) & keep
    if empty.any():
        row = int(np.flatnonzero(empty)[0])
        if empty[row:].all() and len(empty) - row <= 3 and row:
            reader.report.note(f"{reader.table.place(row)} and below have no time: left out")
            keep[row:] = False
        else:
            raise DataError(
                f"{reader.place}: {reader.table.place(row)} has no time in column {times.columns[0]!r} (empty cells)"
            )
    notes = [reader.place_rows(note) for note in times.dates.notes]
    reader.keep(keep)
    reader.report.note(*notes)
    stamps = stamps[keep]
    return stamps if isinstance(stamps, pd.DatetimeIndex) else stamps.astype(np.int64)


def describe_times(reader: Reader, times: Times, stamps: "pd.Index[Any]") -> None:
    form = f", {times.dates.form}" if times.dates.form else ""
    reader.report.times = f"{', '.join(f'`{name}`' for name in times.columns)}{form}"
    if len(stamps):
        reader.report.first, reader.report.last = (time_text(time) for time in (stamps.min(), stamps.max()))


def with_repeated_hours(
    reader: Reader, stamps: "pd.Index[Any]", series: "NDArray[np.intp] | None" = None
) -> "pd.Index[Any]":
    """Times by a clock that was put back, so that an hour comes twice, in the zone of such clocks; other times as they
    are. series: which one each row is of."""
    if not isinstance(stamps, pd.DatetimeIndex) or stamps.tz is not None or stamps.is_unique:
        return stamps
    resolved = resolve_repeated_hours(stamps, series)
    if resolved is None:
        return stamps
    reader.report.note(resolved[1])
    return resolved[0]
