"""The times that several columns of a table hold together: date and time of day, year and month. Knows no files."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.times.calendars import DAY, HOUR, MINUTE, Ints
from carry.times.column import MISSING, SAMPLE, TOTALS, BadCell, NotDates, ParsedDates, as_index
from carry.times.dates import bare_name, cell_text, parse_dates
from carry.times.numbers import NAT
from carry.times.readings import Bools, Order, days_of, full_years, iso_days, year_days
from carry.times.text import cut, plain

MIN_SHARE = 0.75
"""Share of cells that are years, months, ... at least, for a column to be meant as them."""
_PART_NAMES = {
    "year": "year yr yyyy jahr ano annee anno jaar",
    "month": "month mo mon mm monat mes mois mese maand",
    "day": "day dd dy dom tag dia jour giorno dag mday dayofmonth",
    "dayofyear": "dayofyear doy yday jday",
    "period": "period settlementperiod halfhour interval",
    "quarter": "quarter qtr q quartal trimestre",
    "week": "week wk kw isoweek woche semana semaine weekofyear weeknumber weekno",
    "hour": "hour hr hh stunde std hora heure ora uur hourending he",
    "minute": "minute min mi minuto",
    "second": "second sec ss",
    "date": "date datum fecha data ds day dag dia jour giorno tag",
    "time": "time zeit uhrzeit hora heure ora tijd clock timeofday",
}
"""Names of columns, as `bare_name` has them."""
_LIMITS = {
    "month": (1, 12),
    "quarter": (1, 4),
    "week": (1, 53),
    "dayofyear": (1, 366),
    "day": (1, 31),
    "hour": (0, 24),
    "minute": (0, 59),
}
_PERIODS_A_DAY = {24: HOUR, 48: 30 * MINUTE, 96: 15 * MINUTE}
"""Numbered periods of a day, the first from midnight, as markets for electricity have them."""


def date_parts(columns: "Mapping[str, pd.Series[Any]]") -> dict[str, str]:
    """Which columns of a table are together its times, by their names and their values: {"date": "Date", "time":
    "Time"}, {"year": "year", "month": "mo", "day": "day", "hour": "hour"}. Empty if there are none: a column of whole
    dates needs no others but a clock."""
    named: dict[str, list[str]] = {
        part: [column for column in columns if bare_name(column) in names.split()]
        for part, names in _PART_NAMES.items()
    }
    for name in named["date"]:
        dates = _whole_dates(columns[name])
        if dates is None:
            continue
        if (dates == dates.normalize()).all():
            for part in ("time", "hour", "period"):
                for other in named[part]:
                    clocks = None if other == name else _clocks(columns[other], part)
                    if clocks is not None and (part == "time" or len(np.unique(clocks)) > 1):
                        return {"date": name, part: other}
        return {}
    years = next((name for name in named["year"] if _is_years(columns[name])), None)
    if years is None:
        return {}
    parts = {"year": years}
    for part, above in (
        *(("month", "year"), ("quarter", "year"), ("week", "year"), ("dayofyear", "year")),
        *(("day", "month"), ("hour", "day"), ("hour", "dayofyear"), ("minute", "hour")),
    ):
        column = next((name for name in named[part] if above in parts and _is_part(columns[name], part)), None)
        if column is not None and column not in parts.values() and (above != "year" or len(parts) == 1):
            parts[part] = column
    return parts if len(parts) > 1 else {}


def _whole_dates(column: "pd.Series[Any]") -> pd.DatetimeIndex | None:
    """The dates of a column that needs no other for them, but perhaps a clock."""
    parsed = parse_dates(column.head(SAMPLE))
    if isinstance(parsed, NotDates) or not isinstance(parsed.times, pd.DatetimeIndex):
        return None
    if parsed.numbers and parsed.form != "YYYYMMDD":
        return None
    return parsed.times.dropna().tz_localize(None)


def _is_years(column: "pd.Series[Any]") -> bool:
    numbers = _numbers(column)
    known = numbers[np.isfinite(numbers)]
    within = ((known >= 1500) & (known < 2200)) | ((known >= 0) & (known < 100))
    return _mostly(column, within & (known % 1 == 0))


def _is_part(column: "pd.Series[Any]", part: str) -> bool:
    numbers = _numbers(column, part)
    low, high = _LIMITS[part]
    return _mostly(column, (numbers >= low) & (numbers <= high) & (numbers % 1 == 0))


def _mostly(column: "pd.Series[Any]", fitting: Bools) -> bool:
    present = int(column.notna().sum())
    return present > 0 and int(fitting.sum()) >= MIN_SHARE * present


def _numbers(column: "pd.Series[Any]", part: str = "") -> NDArray[np.float64]:
    """The numbers (N,) of a column; of months those that names have, too; NaN where a cell has none."""
    if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_bool_dtype(column):
        return np.full(len(column), np.nan)
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    if part != "month" or np.isfinite(numbers).any():
        return numbers
    codes, uniques = pd.factorize(column)
    parts = cut(np.array([f"{plain(cell_text(value))} 2000" for value in uniques], dtype=np.bytes_))
    months = np.where(parts.understood & (parts.month > 0), parts.month, np.nan)
    return np.where(codes >= 0, months[codes], np.nan) if len(uniques) else numbers


def _clocks(column: "pd.Series[Any]", part: str) -> Ints | None:
    """The times of day (N,) of a column, in microseconds; `NAT` where a cell has none; None if it holds no clocks.

    Whole numbers are hours, or hours and minutes (1830); of a "period" they are numbered from 1.
    """
    numbers = _numbers(column)
    known = numbers[np.isfinite(numbers)]
    if len(known) >= MIN_SHARE * column.notna().sum() > 0:
        last = known.max()
        if (known < 0).any() or (known % 1).any():
            return None
        if part == "period":
            length = next((length for count, length in _PERIODS_A_DAY.items() if last == count), None)
            clocks = None if length is None or (known < 1).any() else (numbers - 1) * length
        elif last <= 24:
            clocks = numbers * HOUR
        elif 100 <= last <= 2400 and (known % 100 < 60).all():
            clocks = numbers // 100 * HOUR + numbers % 100 * MINUTE
        else:
            clocks = None
        return None if clocks is None else np.where(np.isfinite(clocks), np.nan_to_num(clocks), NAT).astype(np.int64)
    if part == "period" or pd.api.types.is_datetime64_any_dtype(column):
        return None
    codes, uniques = pd.factorize(column)
    texts = [cell_text(value) for value in uniques]
    parts = cut(np.array([f"2000-01-01 {plain(text)}" for text in texts], dtype=np.bytes_))
    valid = parts.understood & (parts.clock >= 0)
    if not len(texts) or not _mostly(column, valid[codes[codes >= 0]]):
        return None
    return np.where((codes >= 0) & valid[codes], parts.clock[codes], NAT)


def join_dates(
    columns: "Mapping[str, pd.Series[Any]]", parts: Mapping[str, str], order: Order | None = None
) -> ParsedDates | NotDates:
    """Read the columns that `date_parts` names as one column of times (N,)."""
    note = f"columns {', '.join(map(repr, parts.values()))} are together the times"
    if "date" in parts:
        return _dates_and_clocks(columns, parts, order, note)
    numbers = {part: _numbers(columns[name], part) for part, name in parts.items()}
    known = np.all([np.isfinite(values) for values in numbers.values()], axis=0)
    whole = {part: np.nan_to_num(values).astype(np.int64) for part, values in numbers.items()}
    ones = np.ones(len(known), dtype=np.int64)
    years = whole["year"]
    if known.any() and 9 < years[known].max() < 100:
        years = full_years(years)
    freq: str | None = None
    if "week" in parts:
        days, valid = iso_days(years, whole["week"], ones)
        freq = "W-MON"
    elif "dayofyear" in parts:
        days, valid = year_days(years, whole["dayofyear"])
    else:
        months = whole["month"] if "month" in parts else 3 * whole["quarter"] - 2
        days, valid = days_of(years, months, whole.get("day", ones))
        freq = None if "day" in parts else "MS" if "month" in parts else "QS-JAN"
    hours, minutes = whole.get("hour", 0 * ones), whole.get("minute", 0 * ones)
    valid &= (hours >= 0) & (hours <= 24) & (minutes >= 0) & (minutes < 60)
    times = as_index(np.where(known & valid, days * DAY + hours * HOUR + minutes * MINUTE, NAT))
    return _checked(columns, parts, ParsedDates(times, " and ".join(parts), freq=freq, notes=(note,)), known & valid)


def _dates_and_clocks(
    columns: "Mapping[str, pd.Series[Any]]", parts: Mapping[str, str], order: Order | None, note: str
) -> ParsedDates | NotDates:
    dates = parse_dates(columns[parts["date"]], order)
    if isinstance(dates, NotDates):
        return dates
    part = next(part for part in parts if part != "date")
    clocks = _clocks(columns[parts[part]], part)
    if clocks is None or not isinstance(dates.times, pd.DatetimeIndex):
        return NotDates(f"column {parts[part]!r} holds no times of day")
    wall: Ints = dates.times.as_unit("us").tz_localize(None).asi8
    known = (wall != NAT) & (clocks != NAT)
    times = as_index(np.where(known, wall + clocks, NAT))
    if dates.times.tz is not None:
        times = times.tz_localize(dates.times.tz, ambiguous="NaT", nonexistent="shift_forward")
    return _checked(columns, parts, replace(dates, times=times, freq=None, notes=(*dates.notes, note)), known)


def _checked(
    columns: "Mapping[str, pd.Series[Any]]", parts: Mapping[str, str], dates: ParsedDates, known: Bools
) -> ParsedDates | NotDates:
    """The times, if all rows that are not empty have one (`known`); but for lines of totals at the end."""
    cells = pd.DataFrame({name: columns[name].reset_index(drop=True) for name in parts.values()})
    wrong = np.flatnonzero(~known & cells.notna().any(axis=1).to_numpy())
    rows = wrong[~np.isin(wrong, dates.totals)].tolist()
    totals = list(dates.totals)
    texts = {
        row: [cell_text(cell) for cell in cells.iloc[row] if not pd.isna(cell) and cell != ""]
        for row in rows[-5:] + rows[:1]
    }
    last = int(np.flatnonzero(cells.notna().any(axis=1).to_numpy()).max(initial=-1))
    while rows and rows[-1] == last - len(totals) and rows[-1] in texts:
        words = re.findall(r"[a-z]+", " ".join(texts[rows[-1]]).lower())
        if not words or words[0] not in TOTALS:
            break
        totals.insert(0, rows.pop())
    rows = [row for row in rows if row in texts and any(text.lower() not in MISSING for text in texts[row])]
    if rows:
        text = " ".join(texts[rows[0]])
        return NotDates(
            f"{text!r} in row {rows[0] + 1} after the header is no date ({', '.join(map(repr, parts.values()))})",
            (BadCell(rows[0], text),),
        )
    notes = tuple(
        f"row {row + 1} after the header ({' '.join(texts[row])!r}) is no date: it is left out"
        for row in totals
        if row in texts
    )
    return replace(dates, totals=tuple(totals), notes=(*dates.notes, *notes))
