"""Reads columns as times: text, numbers, stamps; one column, or several that are together a time. Knows no files.

A column is read one way. A year of four digits in front is ISO 8601; else it is the one order of day and month that
fits all cells. Where several fit, it is the one that gives a regular frequency, and the report says which was taken.
"""

import re
import unicodedata
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.times.column import SAMPLE, BadCell, Column, NotDates, ParsedDates
from carry.times.readings import FIRST_YEAR, Order

__all__ = [
    "BadCell",
    "NotDates",
    "Order",
    "ParsedDates",
    "is_time_name",
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
        cells = np.array([cell_text(value) for value in cells], dtype=object)
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


def cell_text(value: object) -> str:
    """A cell as text."""
    return value.isoformat() if isinstance(value, date) else str(value)


def _parse_numbers(series: "pd.Series[Any]", order: Order | None) -> ParsedDates | NotDates:
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = values[~np.isnan(values)]
    if not len(numbers) or np.abs(numbers).max() > MAX_NUMBER:
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


_TIME_NAMES = set(
    "ds date datum fecha data time times datetime timestamp stamp ts day days month months year years yr week weeks "  # noqa: SIM905
    "quarter period periode hour zeit zeitpunkt zeitstempel tag monat jahr woche mes ano annee mois jour anno mese "
    "giorno yearmonth yearweek yyyymm yyyymmdd epoch unixtime unix season dt t".split()
)


def bare_name(name: str) -> str:
    """The letters of a name, without accents, in lower case."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z]", "", text.lower())


def is_time_name(name: str) -> bool:
    """Whether the name of a column says that it holds times: ds, date, Datum, timestamp, year, "Order Date", ..."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return bare_name(name) in _TIME_NAMES or any(
        word in ("date", "datum", "fecha", "timestamp", "datetime") for word in words
    )
