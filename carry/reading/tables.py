"""What the columns of a table hold, for those who look for series in it: numbers, texts, categories. Says in a report
what it read as missing. Knows nothing of layouts.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from carry.reading.columns import Decimal, Numbers, Table, find_sentinel, is_text, is_time, read_numbers
from carry.reading.report import Report
from carry.reading.series import DataError
from carry.times.dates import Order
from carry.times.frequencies import Grid

ACCEPTED = "numbers and empty cells (missing) are accepted"


@dataclass(frozen=True)
class ReadOptions:
    """What to read of a file. target, features: columns. categories: of features, the texts of each. freq: its name.
    id: the columns that name the series. dates: the order of day and month. decimal: the mark of decimals. missing:
    further texts, and numbers, that stand for a missing value; ("none",): no number does. sheet: of an Excel file."""

    target: str | None = None
    features: tuple[str, ...] = ()
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    freq: str | None = None
    id: tuple[str, ...] = ()
    dates: Order | None = None
    decimal: Decimal | None = None
    missing: tuple[str, ...] = ()
    sheet: str | None = None


class Reader:
    """One table, and what its columns hold. place: the file, for messages; stem: names a file's only series."""

    def __init__(self, table: Table, options: ReadOptions, report: Report, place: str, stem: str) -> None:
        self.table, self.options, self.report, self.place, self.stem = table, options, report, place, stem
        self.cells = Cells(table, table.names)
        self._numbers: dict[str, Numbers] = {}
        self._numeric: dict[str, bool] = {}
        self._sentinels: set[float] = set()
        self.dated: set[str] = set()  # columns of dates
        self.grids: dict[bytes, Grid | str] = {}

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Go on with these rows alone."""
        if not rows.all():
            self.table = self.table.take(rows)
            self.cells = Cells(self.table, self.table.names)
            self._numbers.clear()
            self._numeric.clear()

    def forget(self, name: str) -> None:
        """Free what was kept of a column."""
        self._numbers.pop(name, None)

    def described_columns(self) -> str:
        names = self.table.names
        more = f" and {len(names) - 30} more" if len(names) > 30 else ""
        return f"its columns are {', '.join(map(repr, names[:30]))}{more}"

    def check_columns(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self.table.names]
        if missing:
            raise DataError(f"{self.place}: no column {', '.join(map(repr, missing))}; {self.described_columns()}")

    def cell_text(self, name: str, row: int) -> str:
        return self.table.cell(name, row)

    def numbers(self, name: str) -> Numbers:
        """A column as numbers. `bad` has the rows whose cell is none."""
        if name not in self._numbers:
            words = tuple(word for word in self.options.missing if word != "none")
            table = self.table
            self._numbers[name] = read_numbers(
                table.column(name), self.options.decimal, table.style(), table.decimal, words
            )
        return self._numbers[name]

    def is_numeric(self, name: str) -> bool:
        """Whether at least half of a column's cells are numbers. Fast to tell that a column is text."""
        if name not in self._numeric:
            cells = self.table.column(name)
            numeric = True
            if is_text(cells) and len(cells) > 2000:
                sample = read_numbers(cells.slice(0, 1000), self.options.decimal, self.table.style())
                numeric = sample.count > 0 or not len(sample.bad)
            if numeric:
                numbers = self.numbers(name)
                numeric = numbers.count >= max(1, len(numbers.bad)) and not numbers.truth
            self._numeric[name] = numeric
        return self._numeric[name]

    def use(self, name: str) -> NDArray[np.float64]:
        """The values (N,) of a column, NaN where missing; the report gets what was read as missing."""
        numbers = self.numbers(name)
        values, words = numbers.values, dict(numbers.words)
        empty = int(np.count_nonzero(np.isnan(values))) - sum(words.values()) - len(numbers.bad)
        if empty > 0:
            words = {"": empty} | words
        sentinel = None if "none" in self.options.missing else find_sentinel(values, frozenset(self._sentinels))
        if sentinel is not None:
            number, count = sentinel
            self._sentinels.add(number)
            values = np.where(values == number, np.nan, values)
            words[f"{number:g}"] = count
            self.report.note(
                f"`{name}`: {number:g} stands for a missing value: it lies far from all others "
                "(--missing none reads it as a value)"
            )
        self.report.miss(name, words)
        self.report.note(*(f"`{name}`: {note}" for note in numbers.notes))
        return values

    def bad_cell(self, name: str) -> str:
        """The first cell of a column that is no number, for a message."""
        row = int(self.numbers(name).bad[0])
        return f"{self.cell_text(name, row)!r} in {self.table.place(row)}"

    def values(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """The values (N, F) of the target and its features.

        Raises:
            DataError: a column holds text.
        """
        result = np.empty((len(self.table), len(columns)))
        for i, name in enumerate(columns):
            if name in self.options.categories:
                index = {text: float(j) for j, text in enumerate(self.options.categories[name])}
                texts = category_names(self.table.column(name))
                result[:, i] = [np.nan if text is None else index.get(text, np.nan) for text in texts]
                known = {text for text in texts if text is not None}
                unknown = sorted(known - set(index))
                if unknown:
                    self.report.note(f"`{name}`: {', '.join(map(repr, unknown[:5]))} is no category of it: missing")
                continue
            numbers = self.numbers(name)
            if len(numbers.bad) and (i > 0 or not self.is_numeric(name)):
                hint = f"; --categorical {name} makes a category of each text" if i else ""
                raise DataError(f"{self.place}: column {name!r} holds text, {self.bad_cell(name)}; {ACCEPTED}{hint}")
            result[:, i] = self.use(name)
        return result

    def mostly_numbers(self, name: str) -> bool:
        """Whether text looks like numbers, as values do; 20240131 does as well."""
        cells = self.table.column(name)
        if not is_text(cells):
            return False
        sample = read_numbers(cells.slice(0, 200), self.options.decimal, self.table.style())
        return sample.count > len(sample.bad)

    def place_rows(self, reason: str) -> str:
        """A reason that names rows, with the lines of the file."""

        def place(match: "re.Match[str]") -> str:
            return self.table.place(int(match[1]) - 1)

        return re.sub(r"\brow (\d+) after the header\b", place, reason)

    def is_nested(self, name: str) -> bool:
        kind = self.table.column(name).type
        return bool(pa.types.is_nested(kind))


class Cells(Mapping[str, "pd.Series[Any]"]):
    """The columns of a table as pandas has them, made when they are asked for."""

    def __init__(self, table: Table, names: Sequence[str]) -> None:
        self._table, self._names = table, list(names)
        self._made: dict[str, pd.Series[Any]] = {}

    def __getitem__(self, name: str) -> "pd.Series[Any]":
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = as_pandas(self._table.column(name))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def as_pandas(cells: pa.ChunkedArray) -> "pd.Series[Any]":
    """Cells as pandas has them: text as str, times as timestamps."""
    if pa.types.is_date(cells.type):
        cells = cells.cast(pa.timestamp("s"))
    if pa.types.is_decimal(cells.type):
        cells = cells.cast(pa.float64(), safe=False)
    if pa.types.is_integer(cells.type) and cells.null_count:
        return pd.Series(cells.to_pandas(integer_object_nulls=True))
    return pd.Series(cells.to_pandas())


def category_names(cells: pa.ChunkedArray) -> list[str | None]:
    """Cells as the file writes them: whole numbers without a point; None where empty."""
    if is_text(cells):
        text = pc.utf8_trim_whitespace(cells)
        return [cell or None for cell in text.to_pylist()]
    if pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
        return [
            None if value is None or value != value else f"{value:.15g}"
            for value in cells.cast(pa.float64()).to_pylist()
        ]
    if is_time(cells):
        return [None if value is None else value.isoformat() for value in cells.to_pylist()]
    return [None if value is None else str(value) for value in cells.to_pylist()]
