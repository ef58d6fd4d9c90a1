"""Tables with a row for each series: the columns are its times or steps, or a cell holds a list; and tables with years
down and months across.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from carry.reading.columns import find_sentinel, is_number_type, is_text, is_time
from carry.reading.identifiers import ID_NAMES, number_rows
from carry.reading.placing import (
    Calendar,
    as_integers,
    find_grid,
    place_values,
    series_of_record,
    time_text,
    usual_season_of,
    why_unusable,
)
from carry.reading.records import IDS, VALUES, Record
from carry.reading.report import Failure
from carry.reading.series import DataError, Series
from carry.reading.tables import ACCEPTED, Reader, category_names
from carry.times.dates import ParsedDates, parse_dates

_MONTHS = (
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    ("jan", "feb", "mär", "apr", "mai", "jun", "jul", "aug", "sep", "okt", "nov", "dez"),
)

_NUMBERED = re.compile(r"(\D*?)0*(\d+)")


def read_transposed(reader: Reader) -> tuple[list[Series], list[Failure]] | None:
    """The series of a table of one of these layouts, and those that cannot be used; None if it is of another."""
    options = reader.options
    lists = [name for name in reader.table.names if _is_list(reader, name)]
    if lists:
        return _read_lists(reader, lists)
    if options.features or options.target is not None:
        return None
    months = _month_names(reader)
    if months is not None:
        return _read_calendar(reader, *months)
    if "unique_id" in reader.table.names or "ds" in reader.table.names:
        return None
    steps = _step_names(reader)
    if steps is None:
        return None
    month = _months_down(reader, *steps)
    if month is not None and steps[1] is not None:
        return _read_years_across(reader, month, steps[0], steps[1].times)
    return _read_rows(reader, *steps)


def _step_names(reader: Reader) -> tuple[list[str], ParsedDates | None] | None:
    """The columns whose names are times, or numbers that count; None if the table is not of this layout."""
    names = reader.table.names
    if len(names) < 3:
        return None
    plain = {name: re.sub(r"\s*\[.*\]$", "", name.strip()) for name in names}
    dated = [name for name in names if re.search(r"\d", plain[name]) and len(plain[name]) <= 30]
    dated = [name for name in dated if _looks_dated(plain[name])]
    if (
        len(dated) >= 2
        and 2 * len(dated) >= sum(map(reader.is_numeric, names[:50]))
        and all(_holds_numbers(reader, name) for name in dated[:20])
    ):
        dates = parse_dates(pd.Series([plain[name] for name in dated]), reader.options.dates)
        rest = [name for name in names if name not in dated]
        if isinstance(dates, ParsedDates) and dates.times.is_unique and not dates.times.hasnans:
            years = isinstance(dates.times, pd.DatetimeIndex) or bool(
                ((dates.times >= 1000) & (dates.times <= 2500)).all()
            )
            if years and not _has_times(reader, rest):
                return dated, dates
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match:
            groups.setdefault(match[1], []).append((int(match[2]), name))
    for members in groups.values():
        numbered = [name for number, name in sorted(members)]
        numbers = sorted(number for number, _ in members)
        if len(numbered) < 3 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            continue
        if not _holds_numbers(reader, numbered[0]) and _holds_numbers(reader, numbered[1]):
            numbered = numbered[1:]  # M4: V1 names the series
        rest = [name for name in names if name not in numbered]
        texts = [name for name in rest if not reader.is_numeric(name)]
        if (
            len(numbered) >= 2
            and all(_holds_numbers(reader, name) for name in numbered[:20])
            and (reader.options.id or texts)
            and len(rest) <= len(numbered)
            and not _has_times(reader, rest)
        ):
            return numbered, None
    return None


def _holds_numbers(reader: Reader, name: str) -> bool:
    return reader.is_numeric(name) or not len(reader.numbers(name).bad)


def _has_times(reader: Reader, names: Sequence[str]) -> bool:
    """Whether a column holds times: then the names of columns are none."""
    for name in names:
        cells = reader.table.column(name)
        if is_time(cells):
            return True
        if is_text(cells) and not reader.mostly_numbers(name):
            dates = parse_dates(reader.cells[name], reader.options.dates)
            if isinstance(dates, ParsedDates) and not dates.numbers and not dates.times.hasnans:
                return True
    return False


def _read_rows(reader: Reader, columns: list[str], dates: ParsedDates | None) -> tuple[list[Series], list[Failure]]:
    """A series in each row, from its first value to its last."""
    labels, keys = _row_labels(reader, [name for name in reader.table.names if name not in columns])
    report, freq = reader.report, reader.options.freq
    report.layout = "one row a series: the columns are " + ("times" if dates else "steps")
    matrix, bad = _cells(reader, columns)
    times: pd.Index[Any] | None = None
    if dates is not None:
        report.times = f"the names of columns, {dates.form}"
        report.note(*dates.notes)
        report.first, report.last = time_text(dates.times.min()), time_text(dates.times.max())
        order = np.argsort(as_integers(dates.times), kind="stable")
        ordered = dates.times[order]
        grid = find_grid(ordered, freq, dates.freq, reader.grids)
        if isinstance(grid, str) or len(grid.times) > 2 * len(columns):
            return _rows_alone(reader, labels, keys, matrix[:, order], bad, ordered, dates)
        report.note(*grid.notes)
        columns_of_grid = np.full((len(matrix), len(grid.times)), np.nan)
        columns_of_grid[:, grid.indices] = matrix[:, order]
        if len(grid.times) > len(columns):
            report.note(f"{len(grid.times) - len(columns)} times have no column: missing values")
        matrix, times, freq = columns_of_grid, grid.times, grid.freq
    season = usual_season_of(freq)
    series: list[Series] = []
    failures: list[Failure] = []
    for row, (label, key) in enumerate(zip(labels, keys, strict=True)):
        reason = bad.get(row) or why_unusable(matrix[row])
        if reason:
            failures.append(Failure(label, f"{reader.table.place(row)}: {reason}"))
            continue
        present = np.flatnonzero(np.isfinite(matrix[row]))
        start, end = int(present[0]), int(present[-1]) + 1
        values = matrix[row, start:end, None]
        mine = None if times is None else times[start:end]
        stamps, steps = (mine, None) if isinstance(mine, pd.DatetimeIndex) else (None, mine)
        series.append(Series(label, values, stamps, season, freq, steps=steps, key=key))
    return series, failures


def _rows_alone(
    reader: Reader,
    labels: Sequence[str],
    keys: Sequence[tuple[Any, ...]],
    matrix: NDArray[np.float64],
    bad: dict[int, str],
    stamps: "pd.Index[Any]",
    dates: ParsedDates,
) -> tuple[list[Series], list[Failure]]:
    """As `_read_rows`, where the columns follow no frequency together: each series by the times of its own values."""
    series: list[Series] = []
    failures: list[Failure] = []
    for row, (label, key) in enumerate(zip(labels, keys, strict=True)):
        reason = bad.get(row) or why_unusable(matrix[row])
        known = np.isfinite(matrix[row])
        result: Series | Failure
        if reason:
            result = Failure(label, f"{reader.table.place(row)}: {reason}")
        else:
            values = matrix[row, known, None]
            freq = reader.options.freq
            result = place_values(
                label, values, stamps[known], dates, freq, dates.freq, reader.report, reader.grids, key
            )
        (series if isinstance(result, Series) else failures).append(result)  # type: ignore[arg-type]
    return series, failures


def _cells(reader: Reader, columns: Sequence[str]) -> tuple[NDArray[np.float64], dict[int, str]]:
    """The values (rows, columns), and why a row has a cell that is no number."""
    matrix = np.empty((len(reader.table), len(columns)))
    bad: dict[int, str] = {}
    words: dict[str, int] = {}
    for i, name in enumerate(columns):
        numbers = reader.numbers(name)
        matrix[:, i] = numbers.values
        reader.report.note(*numbers.notes)
        for row in map(int, numbers.bad):
            bad.setdefault(row, f"{reader.cell_text(name, row)!r} in column {name!r} is no number")
        for word, count in numbers.words.items():
            words[word] = words.get(word, 0) + count
        reader.forget(name)
    sentinel = None if "none" in reader.options.missing else find_sentinel(matrix.ravel())
    if sentinel is not None:
        number, words[f"{sentinel[0]:g}"] = sentinel
        matrix[matrix == number] = np.nan
        reader.report.note(
            f"{number:g} stands for a missing value: it lies far from all others (--missing none keeps it)"
        )
    reader.report.miss("all columns", words)
    return matrix, bad


def _row_labels(reader: Reader, rest: Sequence[str]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The name of each row's series, and its cells."""
    ids = reader.options.id
    texts = {name: category_names(reader.table.column(name)) for name in rest if not reader.is_numeric(name)}
    if not ids:
        unique = [name for name, cells in texts.items() if None not in cells and len(set(cells)) == len(cells)]
        ids = (next((name for name in ID_NAMES if name in unique), unique[0]),) if unique else ()
    if not ids and len(texts) > 1:
        joint = list(zip(*texts.values(), strict=True))
        ids = tuple(texts) if len(set(joint)) == len(joint) else ()
    if not ids:
        whole = [name for name in rest if reader.is_numeric(name) and _names_rows(reader, name)]
        ids = (whole[0],) if whole else ()
    for name in rest:
        if name not in ids:
            reader.report.ignored[name] = "no time, and not the name of a series"
    if not ids:
        if rest:
            reader.report.note("no column names each row: the series are named by their rows")
        labels = [reader.table.place(row) for row in range(len(reader.table))]
        return labels, [()] * len(labels)
    reader.report.ids = ids
    codes, keys, labels = number_rows(reader, ids)
    repeated = np.flatnonzero(np.bincount(codes) > 1)
    if len(repeated):
        rows = np.flatnonzero(codes == repeated[0])[:2]
        raise DataError(
            f"{reader.place}: {labels[int(repeated[0])]!r} is in {reader.table.place(int(rows[0]))} and "
            f"{reader.table.place(int(rows[1]))}; each row is a series with a name of its own: --id NAME,NAME"
        )
    return [labels[code] for code in codes], [keys[code] for code in codes]


def _names_rows(reader: Reader, name: str) -> bool:
    """Whether a column has another whole number, as the file writes it, in each row."""
    values = reader.numbers(name).values
    cells = category_names(reader.table.column(name))
    return not np.isnan(values).any() and bool((values % 1 == 0).all()) and len(set(cells)) == len(cells)


def _month_names(reader: Reader) -> tuple[str, list[str]] | None:
    """The column of years, and the twelve columns of months."""
    names = reader.table.names
    for months in _MONTHS:
        columns = [
            next((name for name in names if name.strip().lower()[:3] == month and name.strip().isalpha()), None)
            for month in months
        ]
        chosen = [name for name in columns if name is not None]
        if len(chosen) == 12 and len(set(chosen)) == 12:
            for name in names:
                if name in chosen or not reader.is_numeric(name):
                    continue
                years = reader.numbers(name).values
                if ((years >= 1000) & (years <= 2500) & (years % 1 == 0)).all() and len(np.unique(years)) == len(years):
                    return name, chosen
    return None


def _months_down(reader: Reader, columns: Sequence[str], dates: ParsedDates | None) -> str | None:
    """The column of twelve months, where the names of the other columns are years."""
    if dates is None or isinstance(dates.times, pd.DatetimeIndex) or len(reader.table) != 12:
        return None
    for name in reader.table.names:
        if name in columns:
            continue
        if reader.is_numeric(name):
            named_months = "month" in name.lower() and np.array_equal(reader.numbers(name).values, np.arange(1.0, 13))
        else:
            cells = [str(cell or "").lower()[:3] for cell in category_names(reader.table.column(name))]
            named_months = any(tuple(cells) == months for months in _MONTHS)
        if named_months:
            return name
    return None


def _read_calendar(reader: Reader, year: str, months: list[str]) -> tuple[list[Series], list[Failure]]:
    """One series, of a table with a row for each year."""
    reader.report.layout = "one series: years down, months across"
    reader.report.times = f"`{year}` and the names of columns"
    reader.report.ignored |= {name: "no month" for name in reader.table.names if name not in (year, *months)}
    years = reader.numbers(year).values.astype(int)
    return _one_calendar(reader, years, _matrix(reader, months))


def _read_years_across(
    reader: Reader, month: str, columns: list[str], years: "pd.Index[Any]"
) -> tuple[list[Series], list[Failure]]:
    """One series, of a table with a row for each month."""
    reader.report.layout = "one series: months down, years across"
    reader.report.times = f"`{month}` and the names of columns"
    reader.report.ignored |= {name: "no year" for name in reader.table.names if name not in (month, *columns)}
    return _one_calendar(reader, years.to_numpy(dtype=int), _matrix(reader, columns).T)


def _matrix(reader: Reader, columns: Sequence[str]) -> NDArray[np.float64]:
    """The values (rows, columns).

    Raises:
        DataError: a cell is no number.
    """
    for name in columns:
        if len(reader.numbers(name).bad):
            raise DataError(f"{reader.place}: column {name!r} holds text, {reader.bad_cell(name)}; {ACCEPTED}")
    return np.column_stack([reader.use(name) for name in columns])


def _one_calendar(
    reader: Reader, years: NDArray[Any], matrix: NDArray[np.float64]
) -> tuple[list[Series], list[Failure]]:
    """The series of values (years, 12)."""
    order = np.argsort(years, kind="stable")
    values = matrix[order].ravel()
    stamps = pd.DatetimeIndex([pd.Timestamp(year=y, month=m, day=1) for y in years[order] for m in range(1, 13)])
    reason = why_unusable(values)
    if reason:
        return [], [Failure(reader.stem, reason)]
    present = np.flatnonzero(np.isfinite(values))
    keep = slice(int(present[0]), int(present[-1]) + 1)
    report, freq = reader.report, reader.options.freq
    report.first, report.last = time_text(stamps[keep][0]), time_text(stamps[keep][-1])
    dates = ParsedDates(stamps, "years and months", freq="MS")
    result = place_values(reader.stem, values[keep, None], stamps[keep], dates, freq, "MS", report, {}, ())
    return ([result], []) if isinstance(result, Series) else ([], [result])


def _is_list(reader: Reader, name: str) -> bool:
    kind = reader.table.column(name).type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and is_number_type(kind.value_type))


def _read_lists(reader: Reader, lists: list[str]) -> tuple[list[Series], list[Failure]]:
    """One row a series, its values in a list."""
    if reader.options.features:
        raise DataError(f"{reader.place}: a row with a series holds one value a step; features need a long table")
    target = reader.options.target or next((name for name in VALUES if name in lists), lists[0])
    if target not in lists:
        raise DataError(f"{reader.place}: column {target!r} holds no lists of numbers; {reader.described_columns()}")
    names = reader.table.names
    times = next(
        (
            name
            for name in names
            if name not in lists and reader.is_nested(name) and _is_list_of_times(reader.table.column(name).type)
        ),
        None,
    )
    start = next(
        (
            name
            for name in names
            if name.lower() in ("start", "start_date", "ds") and name != times and not reader.is_nested(name)
        ),
        None,
    )
    freq = next((name for name in names if name.lower() in ("freq", "frequency")), None)
    ids = reader.options.id or next(((name,) for name in IDS if name in names), ())
    if not ids:
        texts = [
            n for n in names if n not in (start, freq) and not reader.is_nested(n) and is_text(reader.table.column(n))
        ]
        ids = tuple(texts[:1])
    for name in names:
        if name not in (target, times, start, freq, *ids):
            reader.report.ignored[name] = "not read"
    reader.report.layout = "one row a series, its values in a list"
    reader.report.used = [target]
    if ids:
        codes, keys, labels = number_rows(reader, ids)
    else:
        codes, keys, labels = (
            np.arange(len(reader.table)),
            [()] * len(reader.table),
            [reader.table.place(row) for row in range(len(reader.table))],
        )
    cells = reader.table.column(target)
    series: list[Series] = []
    failures: list[Failure] = []
    calendar = Calendar(reader.options, reader.report)
    texts_of = {name: category_names(reader.table.column(name)) if name else None for name in (start, freq)}
    stamps = reader.table.column(times) if times else None
    for row in range(len(reader.table)):
        cell = cells[row]
        values: NDArray[np.float64] | str
        if cell.as_py() is None:
            values = "it holds no value at all"
        else:
            values = np.array(cell.values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        starts, freqs = texts_of[start], texts_of[freq]
        when = None
        if stamps is not None and stamps[row].as_py() is not None:
            when = [str(time) for time in stamps[row].as_py()]
        record = Record(
            labels[int(codes[row])],
            reader.table.place(row),
            values,
            None if starts is None else starts[row],
            when,
            None if freqs is None else freqs[row],
        )
        result = series_of_record(record, reader.options, reader.report, calendar)
        (series if isinstance(result, Series) else failures).append(result)  # type: ignore[arg-type]
    del keys
    return series, failures


def _is_list_of_times(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    return bool(pa.types.is_temporal(kind.value_type) or pa.types.is_string(kind.value_type))


def _looks_dated(name: str) -> bool:
    """Whether a name may be a time: 2015, 2015-07-01, 1/22/20, Jan 2015, 2015Q1, 20150701."""
    if re.fullmatch(r"\d{4}|\d{6}|\d{8}", name):
        return True
    return bool(
        re.search(r"\d{1,4}[-/. :]\d|\d{4}|\d{1,2}.*[A-Za-z]{3}|[A-Za-z]{3}.*\d{2}", name)
    ) and not re.fullmatch(r"[A-Za-z_]+\d{1,3}", name)
