"""Series in a table: finds its layout, and reads the long and the wide. Knows nothing of files; says in a report what
it used, and what not.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from carry.reading.columns import Table, is_number_type, is_text, is_time
from carry.reading.identifiers import find_ids, named_ids, number_rows
from carry.reading.placing import as_integers, place_values, time_text, usual_season_of, why_unusable
from carry.reading.report import Failure, Report
from carry.reading.series import DataError, Series
from carry.reading.tables import ACCEPTED, Reader, ReadOptions
from carry.reading.times import Times, describe_times, find_times, keep_rows, with_repeated_hours
from carry.reading.transposed import read_transposed
from carry.times.frequencies import panel_frequency

TARGET_NAMES = ("y", "target")

_ROW_NUMBERS = re.compile(r"column \d+|unnamed.*|row_?names?|row|row_?(number|num|no|id)|index|no\.?", re.IGNORECASE)

_FIRST_ROW_NUMBERS = re.compile(
    r"idx|nr\.?|n|id|_id|#|x|obs|observation|record(_?(no|id))?|s[lr]?\.?[ _]?no\.?|serial([ _]?(no|number))?"
    r"|number|key|lfd\.? ?nr\.?",
    re.IGNORECASE,
)
"""Names of columns that count the rows, if their values do: the second, only of the first column."""

_PARTS: dict[str, tuple[str, ...]] = {
    "year": ("year", "yr", "yyyy", "jahr", "annee", "année", "ano", "año", "anno", "jaar"),
    "month": ("month", "mon", "mo", "mm", "mnth", "monat", "mois", "mes", "mese", "maand", "month_number"),
    "day": ("day", "dd", "dom", "day_of_month", "dayofmonth", "mday", "tag", "jour", "dia", "día", "giorno"),
    "hour": ("hour", "hr", "hh", "hour_of_day", "stunde", "heure", "hora", "ora", "uur"),
    "minute": ("minute", "min", "minutes"),
    "quarter": ("quarter", "qtr", "q", "quartal", "trimestre"),
    "week": ("week", "wk", "weekofyear", "week_of_year", "woche", "kw", "semaine", "semana", "week_number"),
    "weekday": ("weekday", "dow", "wday", "dayofweek", "day_of_week", "wochentag", "day"),
    "dayofyear": ("dayofyear", "doy", "yday", "day_of_year"),
}


def series_of_table(
    table: Table, options: ReadOptions, report: Report, place: str, stem: str
) -> tuple[list[Series], list[Failure]]:
    """The series of a table, and those that cannot be used. place: the file, for messages; stem: names a file's only
    series.

    Raises:
        DataError: the table lacks what the options name; its times cannot be read; no series can be told from another.
    """
    report.rows = len(table)
    report.note(*table.notes)
    return _read(Reader(table, options, report, place, stem))


def _read(reader: Reader) -> tuple[list[Series], list[Failure]]:
    options = reader.options
    reader.check_columns([*options.id, *([options.target] if options.target else []), *options.features])
    if options.features and options.target is None and not named_ids(reader):
        raise DataError(f"{reader.place}: features need a target, the column to forecast; {reader.described_columns()}")
    transposed = read_transposed(reader)
    return _read_columns(reader) if transposed is None else transposed


def _read_columns(reader: Reader) -> tuple[list[Series], list[Failure]]:
    options = reader.options
    ids = named_ids(reader)
    target = options.target
    if ids and target is None:
        target = next((name for name in TARGET_NAMES if name in reader.table.names), None)
        if options.features and target is None:
            raise DataError(f"{reader.place}: no column 'y'; {reader.described_columns()}")
    named = [*ids, *([target] if target else []), *options.features]
    times = find_times(reader, named)
    stamps: pd.Index[Any] | None = None
    if times is not None:
        stamps = keep_rows(reader, times)
        if not ids:
            stamps = with_repeated_hours(reader, stamps)
        describe_times(reader, times, stamps)
    taken = [*named, *(times.columns if times else ())]
    found: tuple[str, ...] = ()
    if not ids and stamps is not None and not stamps.is_unique:
        found = find_ids(reader, stamps, taken)
        taken = [*found, *taken]
    if ids or found:
        return _read_long(reader, ids or found, target, times, stamps, bool(found))
    if target is not None:
        columns = [target, *options.features]
        _ignore_others(reader, [*taken, *columns], stamps)
        reader.report.layout = "one series"
        reader.report.used = columns
        values = reader.values(columns)
        bad = reader.numbers(target).bad if target not in options.categories else np.empty(0, np.intp)
        if len(bad):
            return [], [Failure(reader.stem, f"{reader.bad_cell(target)} is no number; {ACCEPTED}")]
        return _group(reader, [(reader.stem, values)], times, stamps)
    return _read_wide(reader, taken, times, stamps)


def _read_wide(
    reader: Reader, taken: Sequence[str], times: Times | None, stamps: "pd.Index[Any] | None"
) -> tuple[list[Series], list[Failure]]:
    names = _ignore_others(reader, taken, stamps)
    failures = []
    items = []
    for name in names:
        if len(reader.numbers(name).bad):
            more = len(reader.numbers(name).bad) - 1
            others = f" (and {more} more)" if more else ""
            failures.append(Failure(name, f"{reader.bad_cell(name)} is no number{others}; {ACCEPTED}"))
        else:
            items.append((name, reader.use(name)[:, None]))
    if not names:
        texts = [name for name, why in reader.report.ignored.items() if why == "text"]
        examples = "".join(f"; {name!r} holds text, {reader.bad_cell(name)}" for name in texts[:3])
        raise DataError(f"{reader.place}: no column of numbers; {reader.described_columns()}{examples}")
    reader.report.layout = "each column of numbers is a series" if len(names) > 1 else "one series"
    reader.report.used = list(names)
    series, more_failures = _group(reader, items, times, stamps)
    return series, [*failures, *more_failures]


def _ignore_others(reader: Reader, taken: Sequence[str], stamps: "pd.Index[Any] | None") -> list[str]:
    """The columns of numbers that may be series; the report gets the others, and why they are none."""
    series = []
    for name in reader.table.names:
        if name in taken:
            continue
        why = _why_not(reader, name, stamps)
        if why:
            reader.report.ignored[name] = why
        else:
            series.append(name)
    numbers = [name for name in series if _counts_rows(reader, name, stamps)]
    if len(numbers) < len(series):
        for name in numbers:
            reader.report.ignored[name] = "numbers of rows"
            series.remove(name)
    if reader.options.target is not None:
        reader.report.ignored |= dict.fromkeys(series, "not asked for")
    return series


def _why_not(reader: Reader, name: str, stamps: "pd.Index[Any] | None") -> str:
    """Why a column is no series; "" if it may be one."""
    cells = reader.table.column(name)
    if reader.is_nested(name):
        return "nested values"
    if is_time(cells) or pa.types.is_temporal(cells.type) or name in reader.dated:
        return "other times"
    if not reader.is_numeric(name):
        if reader.numbers(name).truth if is_text(cells) and len(cells) <= 2000 else pa.types.is_boolean(cells.type):
            return "true or false"
        if is_text(cells) and pc.all(pc.equal(pc.utf8_trim_whitespace(cells), "")).as_py():
            return "no value"
        if not is_text(cells):
            return "no value" if is_number_type(cells.type) or pa.types.is_null(cells.type) else f"of type {cells.type}"
        words = reader.numbers(name)
        if not len(words.bad):
            return "true or false" if words.truth else "no value"
        if words.count:
            return f"text, {len(words.bad)} cells are no numbers"
        return "text"
    part = _part_of_time(reader, name, stamps)
    return f"the {part} of the time" if part else ""


def _part_of_time(reader: Reader, name: str, stamps: "pd.Index[Any] | None") -> str:
    """Which part of the times a column repeats: its name says so, and its values do."""
    kinds = [part for part, names in _PARTS.items() if name.strip().lower() in names]
    if not kinds or not isinstance(stamps, pd.DatetimeIndex):
        return ""
    values = reader.numbers(name).values
    for part in kinds:
        match part:
            case "week":
                expected = [stamps.isocalendar().week.to_numpy(dtype=float)]
            case "weekday":
                day = stamps.dayofweek.to_numpy(dtype=float)
                expected = [day, day + 1, (day + 1) % 7, (day + 1) % 7 + 1, (day + 2) % 7 + 1]
            case _:
                expected = [getattr(stamps, part).to_numpy(dtype=float)]
        if any(np.array_equal(values, each) for each in expected):
            return part
    return ""


def _counts_rows(reader: Reader, name: str, stamps: "pd.Index[Any] | None") -> bool:
    """Whether a column only counts the rows: its values do, and its name says so, or it stands before the times."""
    named = _ROW_NUMBERS.fullmatch(name.strip()) is not None
    if name == reader.table.names[0]:
        named = named or _FIRST_ROW_NUMBERS.fullmatch(name.strip()) is not None
        named = named or (stamps is not None and len(stamps) > 11)
    if not named:
        return False
    values = reader.numbers(name).values
    return len(values) > 1 and values[0] in (0, 1) and bool((np.diff(values) == 1).all())


def _read_long(
    reader: Reader,
    ids: tuple[str, ...],
    target: str | None,
    times: Times | None,
    stamps: "pd.Index[Any] | None",
    by_repeats: bool,
) -> tuple[list[Series], list[Failure]]:
    """by_repeats: the columns `ids` were found by the times that repeat."""
    options, report = reader.options, reader.report
    report.ids = ids
    taken = [*ids, *(times.columns if times else ())]
    if times is None:
        report.note("there are no times: the rows of a series are taken in their order")
    columns = [target, *options.features] if target is not None else []
    others = _ignore_others(reader, [*taken, *columns], stamps)
    if target is None:
        if not others:
            raise DataError(f"{reader.place}: no column of numbers to forecast; {reader.described_columns()}")
        value_columns = [[name] for name in others]
        if len(others) > 1:
            report.note("each column of numbers is a series by itself: --target NAME takes one")
    else:
        value_columns = [columns]
        for name in others:
            report.ignored[name] = "not asked for" if options.target or name not in TARGET_NAMES else "not read"
    report.used = [name for columns in value_columns for name in columns]
    codes, keys, labels = number_rows(reader, ids)
    if stamps is not None:
        stamps = with_repeated_hours(reader, stamps, codes)
    why = ", since times repeat (--id NAME takes another column)" if by_repeats else ""
    listed = ", ".join(f"`{name}`" for name in ids)
    report.layout = f"long: {listed} {'names' if len(ids) == 1 else 'name'} the series{why}"
    moments = np.arange(len(reader.table)) if stamps is None else as_integers(stamps)
    order = np.lexsort((moments, codes))
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    ordered = None if stamps is None else stamps[order]
    again = np.append(np.diff(moments[order]) == 0, False)
    again[ends - 1] = False
    any_repeats = np.logical_or.reduceat(again, starts) if len(starts) else again
    panel = times.dates.freq if times else None
    if ordered is not None and panel is None and len(starts) > 1 and options.freq is None:
        panel = panel_frequency(ordered, starts.astype(np.int64))
    series: list[Series] = []
    failures: list[Failure] = []
    for columns in value_columns:
        values = reader.values(columns)[order]
        bad = np.zeros(len(order), dtype=bool)
        if columns[0] not in options.categories:
            bad[reader.numbers(columns[0]).bad] = True
            bad = bad[order]
        for start, end, repeats in zip(starts, ends, any_repeats, strict=True):
            code = int(codes[order[start]])
            id = labels[code] if len(value_columns) == 1 else f"{labels[code]}/{columns[0]}"
            if bad[start:end].any():
                row = int(order[start + int(np.flatnonzero(bad[start:end])[0])])
                text = reader.cell_text(columns[0], row)
                failures.append(Failure(id, f"{text!r} in {reader.table.place(row)} is no number; {ACCEPTED}"))
                continue
            key = keys[code] if len(value_columns) == 1 else ()
            mine = None if ordered is None else ordered[start:end]
            result = _one(reader, id, values[start:end], mine, times, panel, order[start:end], key, bool(repeats))
            (series if isinstance(result, Series) else failures).append(result)  # type: ignore[arg-type]
    return series, failures


def _group(
    reader: Reader,
    items: Sequence[tuple[str, NDArray[np.float64]]],
    times: Times | None,
    stamps: "pd.Index[Any] | None",
) -> tuple[list[Series], list[Failure]]:
    """Series side by side, over the same rows."""
    order = np.arange(len(reader.table)) if stamps is None else np.argsort(as_integers(stamps), kind="stable")
    ordered = None if stamps is None else stamps[order]
    repeats = stamps is not None and not stamps.is_unique
    series: list[Series] = []
    failures: list[Failure] = []
    for id, values in items:
        panel = times.dates.freq if times else None
        result = _one(reader, id, values[order], ordered, times, panel, order, (), repeats)
        (series if isinstance(result, Series) else failures).append(result)  # type: ignore[arg-type]
    if failures and not series and len({failure.reason for failure in failures}) == 1:
        raise DataError(f"{reader.place}: {failures[0].id}: {failures[0].reason}")
    return series, failures


def _one(
    reader: Reader,
    id: str,
    values: NDArray[np.float64],
    stamps: "pd.Index[Any] | None",
    times: Times | None,
    panel: str | None,
    rows: NDArray[Any],
    key: tuple[Any, ...],
    repeats: bool,
) -> Series | Failure:
    """One series, of ascending times; with `repeats` a time may occur again. rows: where they stand in the table."""
    reason = why_unusable(values[:, 0]) or ("a feature holds infinity" if np.isinf(values).any() else "")
    if reason:
        return Failure(id, reason)
    if stamps is None or times is None:
        end = int(np.flatnonzero(np.isfinite(values[:, 0]))[-1]) + 1
        reader.report.future += len(values) - end
        freq = reader.options.freq
        return Series(id, values[:end], None, usual_season_of(freq), freq, values[end:], key=key)
    repeated = np.flatnonzero(np.diff(as_integers(stamps)) == 0).tolist() if repeats else []
    if repeated:
        differing = [at for at in repeated if not np.array_equal(values[at], values[at + 1], equal_nan=True)]
        if differing:
            first, second = (reader.table.place(int(rows[differing[0] + more])) for more in (0, 1))
            return Failure(
                id,
                f"the time {time_text(stamps[differing[0]])} is in {first} and {second}, with different values; "
                "each series has one value a time",
            )
        keep = np.ones(len(stamps), dtype=bool)
        keep[[at + 1 for at in repeated]] = False
        values, stamps = values[keep], stamps[keep]
        reader.report.duplicates += len(repeated)
    return place_values(id, values, stamps, times.dates, reader.options.freq, panel, reader.report, reader.grids, key)
