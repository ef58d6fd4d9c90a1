"""Reads series from the files that users have: CSV in any dialect, JSON, JSON lines, Parquet, Arrow and Excel, also
compressed. `carry train`, `carry evaluate` and `carry forecast` all read a file by `read_files`: the same series.
"""

import bz2
import gzip
import io
import logging
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from carry.reading.columns import Decimal, Numbers, Table, is_text, read_numbers
from carry.reading.dialects import as_utf8, read_text, table_of_rows
from carry.reading.layouts import series_of_table
from carry.reading.placing import series_of_records
from carry.reading.records import Records, read_json
from carry.reading.report import Failure, Report
from carry.reading.series import DataError, Series
from carry.reading.tables import ReadOptions, category_names
from carry.times.dates import Order

__all__ = [
    "MAX_CATEGORIES",
    "DataError",
    "Decimal",
    "Failure",
    "Numbers",
    "Order",
    "ReadOptions",
    "Reading",
    "Records",
    "Report",
    "Series",
    "Table",
    "find_categories",
    "read_content",
    "read_files",
    "read_numbers",
    "read_series",
    "read_table",
    "read_text_file",
]
MAX_CATEGORIES = 100
"""Categories of a feature: each is an input of the network."""
_FOREIGN = {
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an Excel file of the old kind (.xls); save it as .xlsx or CSV",
    b"\x89HDF": "an HDF5 file",
    b"CDF\x01": "a NetCDF file",
    b"CDF\x02": "a NetCDF file",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; `git lfs pull` fetches it",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"\x80\x04\x95": "a Python pickle",
    b"\x80\x05\x95": "a Python pickle",
    b"RDX": "a file of R (.rda); write.csv writes one that can be read",
}
"""How files begin that are not read."""


@dataclass(frozen=True)
class Reading:
    """What was read of files: the series that can be used; the names of their features, the target first; the series
    that cannot be used; a report for each file."""

    series: list[Series]
    names: tuple[str, ...]
    failures: list[Failure] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)


def read_files(paths: Sequence[Path], options: ReadOptions) -> Reading:
    """Read files of series. A series that cannot be used is a failure; the others are read.

    The layout of a table is found:
    - long: columns that name the series (`unique_id`, or columns whose values repeat over the same times), a column of
      times, the target (`y` unless named) and the feature columns;
    - one series: with `target`, each named column is a feature of the file's one series;
    - one row a series: the names of the columns are times or numbers, or the cells are lists;
    - wide: otherwise; each column of numbers is a series by itself.
    JSON, and JSON lines, have an object for each series (`values`, `target` or `train`; optionally `id`, `start`,
    `freq`, `season`) or for each row.
    Features with categories become indices into them; any other category is missing. A series of a table has a row for
    each time at its frequency; a time that the file lacks is a missing value. It ends with its target's last value.

    Raises:
        DataError: a file cannot be read, or lacks what the options name.
    """
    names = (options.target or "y", *options.features)
    reading = Reading([], names)
    for path in paths:
        content = read_table(path, options)
        report = Report(path.name)
        stem = path.name.split(".")[0]
        if isinstance(content, Records):
            if options.features:
                raise DataError(f"{path}: a file with a series a line holds one value a step; features need a table")
            series, failures = series_of_records(content, options, report)
        else:
            series, failures = series_of_table(content, options, report, str(path), stem)
        report.series, report.failures = len(series), failures
        for each in series:
            if each.freq is not None:
                report.freqs[each.freq] = report.freqs.get(each.freq, 0) + 1
        reading.series.extend(series)
        reading.failures.extend(failures)
        reading.reports.append(report)
    return reading


def read_series(
    paths: Sequence[Path],
    target: str | None = None,
    features: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] | None = None,
    freq: str | None = None,
) -> tuple[list[Series], tuple[str, ...]]:
    """The series of `read_files`, and the names of their features, the target first. What was read is logged; so are
    the series that cannot be used.

    Raises:
        DataError: as `read_files`; or no series can be used.
    """
    reading = read_files(paths, ReadOptions(target, tuple(features), categories or {}, freq))
    logger = logging.getLogger(__name__)
    for report in reading.reports:
        for line in report.lines():
            logger.info("%s", line)
        for line in report.failure_lines():
            logger.warning("%s: %s", report.path, line)
    if not reading.series:
        first = reading.failures[0] if reading.failures else None
        why = f": {first.id}: {first.reason}" if first else ""
        raise DataError(f"{', '.join(map(str, paths))}: no series can be used{why}")
    return reading.series, reading.names


def find_categories(paths: Sequence[Path], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The categories of the columns `names` in all files together, as the files write them, sorted.

    Raises:
        DataError: a file cannot be read or lacks a column, or a column holds none or more than `MAX_CATEGORIES`.
    """
    categories: dict[str, set[str]] = {name: set() for name in names}
    for path in paths if names else ():
        table = read_table(path, ReadOptions())
        if isinstance(table, Records):
            raise DataError(f"{path}: a file with a series a line holds one value a step; features need a table")
        for name in names:
            if name not in table.names:
                raise DataError(f"{path}: no column {name!r}; its columns are {', '.join(map(repr, table.names))}")
            categories[name] |= {text for text in category_names(table.column(name)) if text is not None}
            if not 0 < len(categories[name]) <= MAX_CATEGORIES:
                raise DataError(f"{path}: column {name!r} must hold 1 to {MAX_CATEGORIES} categories")
    return {name: tuple(sorted(categories[name])) for name in names}


def read_table(path: Path, options: ReadOptions) -> Table | Records:
    """The content of a file of any format that is read; the format is found in the file, not in its name.

    Raises:
        DataError: it cannot be read.
    """
    with _readable(path):
        with path.open("rb") as file:
            head = file.read(64)
        if head.startswith(b"PAR1"):
            return _read_parquet(path)
    data = read_content(path)
    for start, kind in _FOREIGN.items():
        if data[: len(start) + 3].lstrip().lower().startswith(start.lower()):
            raise DataError(f"{path}: it is {kind}. CSV, JSON, JSON lines, Parquet, Arrow and Excel files are read")
    if data.startswith(b"PAR1"):
        return _read_parquet(path, data)
    if path.name.split(".")[-1] == "parquet":
        raise DataError(f"{path}: not readable as Parquet: it does not begin as one")
    if data.startswith((b"ARROW1", b"FEA1")):
        return _read_arrow(path, data)
    if data.startswith(b"PK\x03\x04"):
        return _read_excel(path, data, options.sheet)
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[") or ".jsonl" in path.name or ".ndjson" in path.name:
        return read_json(data, str(path), path.name)
    return read_text(data, str(path))


def read_content(path: Path) -> bytes:
    """The bytes of a file, decompressed.

    Raises:
        DataError: it cannot be read.
    """
    with _readable(path):
        return _decompressed(path.read_bytes(), str(path))


def read_text_file(path: Path) -> str:
    """The text of a file in any encoding that can be told, also compressed.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    notes: list[str] = []
    text = as_utf8(read_content(path), str(path), notes).decode()
    for note in notes:
        logging.getLogger(__name__).info("%s: %s", path, note)
    return text


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns the errors of reading a file into a `DataError`."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a file") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not readable: {error}") from error


def _decompressed(data: bytes, place: str) -> bytes:
    """The content of a file, whichever way it is compressed; a spreadsheet, which is a zip file as well, as it is."""
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"BZh"):
        return bz2.decompress(data)
    if data.startswith(b"\xfd7zXZ\x00"):
        return lzma.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as stream:
                return stream.read()
        except zstandard.ZstdError as error:
            raise DataError(f"{place}: not readable: {error}") from error
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [
                info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith("__MACOSX")
            ]
            if any(info.filename == "[Content_Types].xml" for info in members):
                return data
            if len(members) != 1:
                names = ", ".join(info.filename for info in members[:8])
                raise DataError(f"{place}: holds {len(members)} files ({names}); a zip file with one is read")
            try:
                return _decompressed(archive.read(members[0]), f"{place}: {members[0].filename}")
            except RuntimeError as error:  # a password
                raise DataError(f"{place}: not readable: {error}") from None
    return data


def _read_parquet(path: Path, data: bytes | None = None) -> Table:
    try:
        file = pq.ParquetFile(path if data is None else io.BytesIO(data))
        table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable as Parquet: {error}") from error
    return _of_arrow(path, table)


def _read_arrow(path: Path, data: bytes) -> Table:
    import pyarrow.feather as feather

    try:
        table = feather.read_table(io.BytesIO(data))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable as an Arrow file: {error}") from error
    return _of_arrow(path, table)


def _of_arrow(path: Path, table: pa.Table) -> Table:
    """A typed table. pandas' index is a column like any other, unless it only counts the rows."""
    if not table.num_rows:
        raise DataError(f"{path}: holds no rows")
    names, columns, notes = [], [], []
    seen: set[str] = set()
    for name, column in zip(table.column_names, table.columns, strict=True):
        while name in seen:
            notes.append(f"several columns have the name {name!r}: the second is called {name + '.1'!r}")
            name += ".1"
        seen.add(name)
        if name.startswith("__index_level_") and not (pa.types.is_temporal(column.type) or is_text(column)):
            continue
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_large_string(column.type) or str(column.type) in ("string_view",):
            column = column.cast(pa.string())
        names.append("index" if name.startswith("__index_level_") else name)
        columns.append(column)
    return Table(names, columns, np.arange(1, table.num_rows + 1), "row", ".", notes)


def _read_excel(path: Path, data: bytes, sheet: str | None) -> Table:
    """The cells of a sheet as text, as a CSV file would have them: numbers with a point, dates in ISO 8601."""
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(f"{path}: Excel files need openpyxl: pip install 'carry-rnn[files]'") from error
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and validations, which are not read
        try:
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        except Exception as error:  # of its many readers
            raise DataError(f"{path}: not readable as an Excel file: {error}") from error
        names = [each.title for each in book.worksheets]
        if sheet is not None and sheet not in names:
            raise DataError(f"{path}: no sheet {sheet!r}; its sheets are {', '.join(map(repr, names))}")
        filled: list[str] = []
        rows: list[list[str]] = []
        for each in book.worksheets:
            if sheet not in (None, each.title):
                continue
            if rows:
                if any(any(cell is not None for cell in row) for row in each.iter_rows(max_row=20, values_only=True)):
                    filled.append(each.title)
                continue
            each.reset_dimensions()
            candidate = [[_excel_text(cell) for cell in row] for row in each.iter_rows(values_only=True)]
            if sum(any(row) for row in candidate) > 1 or sheet is not None:
                rows, used = candidate, each.title
    if not rows:
        raise DataError(f"{path}: holds no rows")
    table = table_of_rows(rows, str(path))
    table.decimal = "."
    if filled:
        table.notes.append(f"sheet {used!r} is read; not {', '.join(map(repr, filled))} (--sheet NAME reads another)")
    return table


def _excel_text(cell: Any) -> str:
    match cell:
        case None:
            return ""
        case bool():
            return "TRUE" if cell else "FALSE"
        case float():
            return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
        case datetime():
            return cell.date().isoformat() if cell.time() == time.min else cell.isoformat(" ")
        case date() | time():
            return cell.isoformat()
        case _:
            return str(cell).strip()
