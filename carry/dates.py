"""Reads a whole column as times: text, numbers, stamps. Knows nothing of files, and nothing of frequencies but their names.

A column is read one way. ISO 8601 comes first; else the one order of day and month that fits all of its rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from carry.times import parse_times

Order = Literal["dayfirst", "monthfirst"]


@dataclass(frozen=True)
class BadCell:
    """A cell that is no date like the others of its column. row: from 0, of the column; text: as it stands."""

    row: int
    text: str


@dataclass(frozen=True)
class ParsedDates:
    """A column read as times.

    times (N,): a DatetimeIndex (in the zone that the file names, if it names one; NaT where the cell is empty or is a
        line of totals), or an Index of int64 for years alone and for counters (1, 2, 3, ...), which come back as they
        are: the answer's times are 2010, 2011, ...
    form: what was read, for the report: "ISO 8601", "DD/MM/YYYY", "YYYY-Qn", "Excel's serial numbers", "years", ...
    order: the order of day and month that was taken; None where the form has no such question.
    ambiguous: another order fits as well; `notes` says which was taken and how to say otherwise.
    freq: the frequency that the form itself tells (2015-Q1: "QS-JAN", 2024-W05: "W-MON", 2010M10: "MS", years: "YS");
        give it to `regular_grid` as `panel_freq`.
    numbers: the cells are mere numbers: so may be the values of a series. Take such a column as times only if its name
        says so (`is_time_name`), or nothing else can be the times.
    totals: rows (from 0) at the end that are lines of totals, not times: leave them out.
    local: the file writes no zone; it was found by the hours that occur twice. Write the answer's times without it.
    notes: sentences for the report.
    """

    times: "pd.Index[Any]"
    form: str
    order: Order | None = None
    ambiguous: bool = False
    freq: str | None = None
    numbers: bool = False
    totals: tuple[int, ...] = ()
    local: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotDates:
    """A column that is not read as times, and why (a clause for a message: "'2024-13-01' in row 12 is no date").

    bad: the cells that are no dates, the first few, where most of the cells are dates: then the file is to be refused,
    since the column is meant to be times. Empty where the column is something else.
    """

    reason: str
    bad: tuple[BadCell, ...] = ()


def parse_dates(column: "pd.Series[Any]", order: Order | None = None) -> ParsedDates | NotDates:
    """Read a column (N,) as times, all of it one way. Fast to refuse a column that holds something else.

    order: of day and month, if the caller says it; only forms that have the question heed it.
    """
    del order
    times = parse_times(column)
    if times is None:
        return NotDates("its cells are no dates")
    return ParsedDates(pd.DatetimeIndex(times), "dates")


def date_parts(columns: "Mapping[str, pd.Series[Any]]") -> dict[str, str]:
    """Which columns of a table are together its times, by their names and their values: {"date": "Date", "time":
    "Time"}, {"year": "year", "month": "mo", "day": "day", "hour": "hour"}. Empty if there are none."""
    del columns
    return {}


def join_dates(
    columns: "Mapping[str, pd.Series[Any]]", parts: Mapping[str, str], order: Order | None = None
) -> ParsedDates | NotDates:
    """Read the columns that `date_parts` names as one column of times."""
    del order
    return NotDates(f"columns {', '.join(parts.values())} of {len(columns)} are no times")


def is_time_name(name: str) -> bool:
    """Whether the name of a column says that it holds times: ds, date, Datum, timestamp, year, Month, ..."""
    return name.strip().lower() in ("ds", "time", "date", "datetime", "timestamp")
