"""Reads columns as times: text, numbers, stamps; one column, or several that are together a time. Knows no files.

A column is read one way. A year of four digits in front is ISO 8601; else it is the one order of day and month that
fits all cells. Where several fit, it is the one that gives a regular frequency, and the report says which was taken.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.calendars import DAY, HOUR, MINUTE, Ints
from carry.date_column import MISSING, SAMPLE, BadCell, Column, NotDates, ParsedDates, as_index
from carry.date_numbers import NAT
from carry.date_readings import FIRST_YEAR, Order, days_of, iso_days
from carry.date_text import cut, plain

__all__ = [
    "BadCell",
    "NotDates",
    "Order",
    "ParsedDates",
    "date_parts",
    "is_time_name",
    "join_dates",
    "parse_dates",
]


def parse_dates(
    column: "pd.Series[Any] | pd.Index[Any] | Sequence[Any]", order: Order | None = None
) -> ParsedDates | NotDates:
    """Read a column (N,) as times, all of it one way. Fast to refuse a column that holds something else.

    order: of day and month, if the caller says it; only forms that have the question heed it.
    """
    series = column if isinstance(column, pd.Series) else pd.Series(column)
    if pd.api.types.is_datetime64_any_dtype(series):
        return ParsedDates(pd.DatetimeIndex(series), "stamps")
    if isinstance(series.dtype, pd.PeriodDtype):
        stamps = pd.PeriodIndex(series).to_timestamp()
        return ParsedDates(stamps, "periods")
    if pd.api.types.is_bool_dtype(series) or pd.api.types.is_timedelta64_dtype(series):
        return NotDates("its cells are no dates")
    if pd.api.types.is_numeric_dtype(series):
        return _parse_numbers(series, order)
    try:
        codes, cells = _different(series)
    except TypeError:
        return NotDates("its cells are lists or the like")
    if pd.api.types.infer_dtype(cells) != "string":
        cells = np.array([_text(value) for value in cells], dtype=object)
    return Column(codes, cells, order).parse()


def _different(series: "pd.Series[Any]") -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    """The different cells of a column, and which of them each row has, -1 for none. Not sought where there are about as
    many as rows."""
    some = np.random.default_rng(0).integers(max(len(series), 1), size=SAMPLE)
    if len(series) > 100 * SAMPLE and series.iloc[np.unique(some)].is_unique:
        present = series.notna().to_numpy()
        cells = series.to_numpy(dtype=object)[present]
        return np.where(present, np.cumsum(present) - 1, -1), cells
    codes, uniques = pd.factorize(series)
    return codes, np.asarray(uniques, dtype=object)


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


def _parse_numbers(series: "pd.Series[Any]", order: Order | None) -> ParsedDates | NotDates:
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = values[~np.isnan(values)]
    if not len(numbers) or numbers.min() < 0 or numbers.max() > MAX_NUMBER:
        return NotDates("its numbers are no times")
    whole = bool((numbers % 1 == 0).all())
    if numbers.min() < FIRST_YEAR:  # no dates, but steps that somebody counted
        exact = whole and len(numbers) == len(values)
        index: pd.Index[Any] = pd.Index(values.astype(np.int64) if exact else values)
        return ParsedDates(index, "counted steps" if whole else "numbers", numbers=True)
    codes, uniques = pd.factorize(series.astype("Int64") if whole else series)
    cells = np.array([str(number) for number in np.asarray(uniques).tolist()], dtype=object)
    return Column(np.asarray(codes), cells, order).parse()


MAX_NUMBER = 5e18
"""Nanoseconds since 1970 of the year 2128."""


_PART_NAMES = {
    "year": "year yr yyyy jahr ano annee anno jaar",
    "month": "month mo mon mm monat mes mois mese maand",
    "day": "day dd dom tag dia jour giorno dag mday dayofmonth",
    "quarter": "quarter qtr q quartal trimestre",
    "week": "week wk kw isoweek woche semana semaine weekofyear weeknumber weekno",
    "hour": "hour hr hh stunde std hora heure ora uur hourending he",
    "minute": "minute min mi minuto",
    "second": "second sec ss",
    "date": "date datum fecha data ds day dag dia jour giorno tag",
    "time": "time zeit uhrzeit hora heure ora tijd clock timeofday",
}
_TIME_NAMES = set(
    "ds date datum fecha data time times datetime timestamp stamp ts day days month months year years yr week weeks "  # noqa: SIM905
    "quarter period periode hour zeit zeitpunkt zeitstempel tag monat jahr woche mes ano annee mois jour anno mese "
    "giorno yearmonth yearweek yyyymm yyyymmdd epoch unixtime unix season dt t".split()
)
_LIMITS = {"month": (1, 12), "day": (1, 31), "quarter": (1, 4), "week": (1, 53), "hour": (0, 24), "minute": (0, 59)}


def _bare(name: str) -> str:
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z]", "", text.lower())


def is_time_name(name: str) -> bool:
    """Whether the name of a column says that it holds times: ds, date, Datum, timestamp, year, "Order Date", ..."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return _bare(name) in _TIME_NAMES or any(
        word in ("date", "datum", "fecha", "timestamp", "datetime") for word in words
    )


def date_parts(columns: "Mapping[str, pd.Series[Any]]") -> dict[str, str]:
    """Which columns of a table are together its times, by their names and their values: {"date": "Date", "time":
    "Time"}, {"year": "year", "month": "mo", "day": "day", "hour": "hour"}. Empty if there are none: a column of whole
    dates needs no others but a clock."""
    named: dict[str, list[str]] = {
        part: [column for column in columns if _bare(column) in names.split()] for part, names in _PART_NAMES.items()
    }
    for name in named["date"]:
        dates = _whole_dates(columns[name])
        if dates is None:
            continue
        if pd.Index(dates).normalize().equals(pd.Index(dates)):
            for part in ("time", "hour"):
                for other in named[part]:
                    clocks = _clocks(columns[other], part == "hour")
                    if other != name and clocks is not None and (part == "time" or len(np.unique(clocks)) > 1):
                        return {"date": name, "time": other}
        return {}
    years = next((name for name in named["year"] if _is_years(columns[name])), None)
    if years is None:
        return {}
    parts = {"year": years}
    for part in ("month", "quarter", "week"):
        column = next((name for name in named[part] if _is_part(columns[name], part)), None)
        if column is not None:
            parts[part] = column
            break
    else:
        return {}
    for part, above in (("day", "month"), ("hour", "day"), ("minute", "hour")):
        column = next((name for name in named[part] if above in parts and _is_part(columns[name], part)), None)
        if column is None or column in parts.values():
            break
        parts[part] = column
    return parts


def _whole_dates(column: "pd.Series[Any]") -> pd.DatetimeIndex | None:
    """The dates of a column that needs no other for them, but perhaps a clock."""
    if pd.api.types.is_numeric_dtype(column):
        return None
    parsed = parse_dates(column.head(SAMPLE))
    if isinstance(parsed, NotDates) or not isinstance(parsed.times, pd.DatetimeIndex) or parsed.numbers:
        return None
    return parsed.times.dropna().tz_localize(None)


def _is_years(column: "pd.Series[Any]") -> bool:
    numbers = _numbers(column)
    return numbers is not None and bool(((numbers >= 1500) & (numbers < 2200) & (numbers % 1 == 0)).all())


def _is_part(column: "pd.Series[Any]", part: str) -> bool:
    numbers = _numbers(column)
    if numbers is None:
        return part == "month" and _month_numbers(column) is not None
    low, high = _LIMITS[part]
    return bool(((numbers >= low) & (numbers <= high) & (numbers % 1 == 0)).all())


def _numbers(column: "pd.Series[Any]") -> NDArray[np.float64] | None:
    """The numbers of a column without its empty cells; None if some are none, or there are none."""
    if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_bool_dtype(column):
        return None
    numbers = pd.to_numeric(column.dropna(), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return numbers if len(numbers) and np.isfinite(numbers).all() else None


def _month_numbers(column: "pd.Series[Any]") -> NDArray[np.float64] | None:
    """The months (N,) that a column of names has; NaN where empty."""
    codes, uniques = pd.factorize(column)
    try:
        cells = np.array([f"{plain(_text(value))} 2000" for value in uniques], dtype=np.bytes_)
    except UnicodeEncodeError:
        return None
    parts = cut(cells)
    if not len(cells) or not (parts.understood & (parts.month > 0)).all():
        return None
    return np.where(codes >= 0, parts.month[codes].astype(np.float64), np.nan)


def _clocks(column: "pd.Series[Any]", hours: bool) -> Ints | None:
    """The times of day (N,) of a column of clocks, in microseconds; `NAT` where empty; None if it holds no clocks.

    Whole numbers are hours, or hours and minutes (1830), where they may be `hours`.
    """
    numbers = _numbers(column)
    if numbers is not None:
        if not hours and numbers.max() <= 24:
            return None
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        if numbers.max() <= 24:
            clocks = values * HOUR
        elif (numbers <= 2400).all() and (numbers % 100 < 60).all():
            clocks = values // 100 * HOUR + values % 100 * MINUTE
        else:
            return None
        return np.where(np.isfinite(clocks), np.nan_to_num(clocks), NAT).astype(np.int64)
    if pd.api.types.is_datetime64_any_dtype(column):
        return None
    codes, uniques = pd.factorize(column)
    texts = [_text(value) for value in uniques]
    missing = np.array([text.lower() in MISSING for text in texts], dtype=bool)
    parts = cut(np.array([f"2000-01-01 {plain(text)}" for text in texts], dtype=np.bytes_))
    if not len(texts) or not (missing | (parts.understood & (parts.clock >= 0))).all():
        return None
    clocks = np.where(missing, NAT, parts.clock)
    return np.where(codes >= 0, clocks[codes], NAT)


def join_dates(
    columns: "Mapping[str, pd.Series[Any]]", parts: Mapping[str, str], order: Order | None = None
) -> ParsedDates | NotDates:
    """Read the columns that `date_parts` names as one column of times (N,)."""
    names = ", ".join(map(repr, parts.values()))
    note = f"columns {names} are together the times"
    if "date" in parts:
        dates = parse_dates(columns[parts["date"]], order)
        if isinstance(dates, NotDates):
            return dates
        clocks = _clocks(columns[parts["time"]], True)
        if clocks is None or not isinstance(dates.times, pd.DatetimeIndex):
            return NotDates(f"column {parts['time']!r} holds no times of day")
        wall: Ints = dates.times.as_unit("us").tz_localize(None).asi8
        times = as_index(np.where((wall == NAT) | (clocks == NAT), NAT, wall + clocks))
        if dates.times.tz is not None:
            times = times.tz_localize(dates.times.tz, ambiguous="NaT", nonexistent="shift_forward")
        return replace(dates, times=times, freq=None, notes=(*dates.notes, note))
    values: dict[str, NDArray[np.float64]] = {}
    for part, name in parts.items():
        numbers = None if _numbers(columns[name]) is not None else _month_numbers(columns[name])
        if numbers is None:
            numbers = pd.to_numeric(columns[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        values[part] = numbers
    known = np.all([np.isfinite(numbers) for numbers in values.values()], axis=0)
    whole = {part: np.nan_to_num(numbers).astype(np.int64) for part, numbers in values.items()}
    ones = np.ones(len(known), dtype=np.int64)
    if "week" in parts:
        days, valid = iso_days(whole["year"], whole["week"], ones)
        freq: str | None = "W-MON"
    else:
        month = whole["month"] if "month" in parts else 3 * whole["quarter"] - 2
        days, valid = days_of(whole["year"], month, whole.get("day", ones))
        freq = None if "day" in parts else "MS" if "month" in parts else "QS-JAN"
    bad = np.flatnonzero(known & ~valid)
    if len(bad):
        row = int(bad[0])
        text = "-".join(str(int(numbers[row])) for numbers in values.values())
        return NotDates(f"{text} in row {row + 1} after the header is no date ({names})", (BadCell(row, text),))
    clock = whole.get("hour", 0 * ones) * HOUR + whole.get("minute", 0 * ones) * MINUTE
    times = as_index(np.where(known, days * DAY + clock, NAT))
    return ParsedDates(times, " and ".join(parts), freq=freq, notes=(note,))
