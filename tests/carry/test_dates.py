"""Columns read as times: every form of date, the order of day and month, zones, cells that are none."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from carry.times.dates import NotDates, Order, ParsedDates, is_time_name, parse_dates
from carry.times.frequencies import regular_grid, times_after
from carry.times.parts import date_parts, join_dates
from carry.times.zones import resolve_repeated_hours

MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # noqa: SIM905
DAYS = pd.date_range("2023-01-01", periods=365)


def read(cells: Any, order: Order | None = None) -> ParsedDates:
    dates = parse_dates(pd.Series(cells), order)
    assert isinstance(dates, ParsedDates), dates
    return dates


def next_times(dates: ParsedDates, count: int = 2) -> list[str]:
    """What a forecast of the column's series is stamped with, without a clock at midnight."""
    times = dates.times.dropna().unique().sort_values()
    grid = regular_grid(times, None, dates.freq)
    return [str(time).removesuffix(" 00:00:00") for time in times_after(grid.times, grid.freq, count)]


def table(columns: dict[str, Any]) -> dict[str, "pd.Series[Any]"]:
    frame = pd.DataFrame(columns)
    return {str(name): frame[name] for name in frame.columns}


def strftime(form: str) -> Callable[[pd.Timestamp], str]:
    return lambda time: time.strftime(form)


def unpadded(form: str) -> Callable[[pd.Timestamp], str]:
    """A form in which %-d, %-m and %-H have no leading zeros, on every system."""

    def write(time: pd.Timestamp) -> str:
        text = form.replace("%-d", str(time.day)).replace("%-m", str(time.month)).replace("%-H", str(time.hour))
        return time.strftime(text)

    return write


def excel(time: pd.Timestamp) -> float:
    return (time - pd.Timestamp("1899-12-30")) / pd.Timedelta(days=1)


def seconds(time: pd.Timestamp) -> int:
    return int((time - pd.Timestamp("1970-01-01")) // pd.Timedelta(seconds=1))


DATES: dict[str, Callable[[pd.Timestamp], Any]] = {
    **{
        form: strftime(form)
        for form in (
            *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d/%m/%y"),
            *("%m/%d/%y", "%d %b %Y", "%B %d, %Y", "%d-%b-%y", "%b. %d %Y", "%A, %d %B %Y", "%a %b %d %Y", "%Y-%b-%d"),
            *("%Y-%j", "%Y%j", "%G-W%V-%u", "%d%m%Y", "%d. %B %Y", "%dth of %B %Y"),
        )
    },
    **{form: unpadded(form) for form in ("%-d/%-m/%Y", "%-m/%-d/%Y", "%-d.%-m.%y", "%-m/%-d/%y", "%Y-%-m-%-d")},
    "Excel": lambda time: int(excel(time)),
    "objects": lambda time: time.date(),
    "numbers": lambda time: int(time.strftime("%Y%m%d")),
    "with clocks": lambda time: f"{time:%d/%m/%Y} 00:00:00",
}
CLOCKS: dict[str, Callable[[pd.Timestamp], Any]] = {
    **{
        form: strftime(form)
        for form in (
            *(
                "%Y-%m-%d %H:%M:%S",
                "%Y-%m-%dT%H:%M:%S",
                "%Y-%m-%d %H:%M",
                "%Y%m%dT%H%M%S",
                "%Y%m%d%H%M",
                "%Y%m%d%H%M%S",
            ),
            *("%d/%m/%Y %H:%M", "%d.%m.%Y %H.%M.%S", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M%p", "%d/%b/%Y:%H:%M:%S"),
            *("%a %b %d %H:%M:%S %Y", "%H:%M %d/%m/%Y", "%Y-%m-%d-%H.%M.%S", "%Y-%m-%d %Hh%M", "%Y%m%d %H%M"),
        )
    },
    "%-d/%-m/%Y %-H:%M": unpadded("%-d/%-m/%Y %-H:%M"),
    "seconds": seconds,
    "milliseconds": lambda time: 1000 * seconds(time),
    "microseconds": lambda time: 10**6 * seconds(time),
    "nanoseconds": lambda time: str(10**9 * seconds(time)),
    "Excel": lambda time: round(excel(time), 6),
    "text of numbers": lambda time: str(seconds(time)),
}
PERIODS: dict[str, tuple[str, Callable[[pd.Timestamp], Any]]] = {
    **{
        form: ("MS", strftime(form))
        for form in ("%Y-%m", "%m/%Y", "%Y%m", "%YM%m", "%b-%Y", "%B %Y", "%Y %b", "%b-%y", "%Y.%m", "%m-%Y", "%b %Y")
    },
    "%-m-%Y": ("MS", unpadded("%-m-%Y")),
    "decimal years": ("MS", lambda time: round(time.year + (time.month - 1) / 12, 3)),
    "whole decimal years": ("MS", lambda time: time.year + (time.month - 1) / 12),
    "2015Q1": ("QS-JAN", lambda time: f"{time.year}Q{time.quarter}"),
    "2015-Q1": ("QS-JAN", lambda time: f"{time.year}-Q{time.quarter}"),
    "Q1 2015": ("QS-JAN", lambda time: f"Q{time.quarter} {time.year}"),
    "Q1/15": ("QS-JAN", lambda time: f"Q{time.quarter}/{time:%y}"),
    "1Q2015": ("QS-JAN", lambda time: f"{time.quarter}Q{time.year}"),
    "2015-1": ("QS-JAN", lambda time: f"{time.year}-{time.quarter}"),
    "quarters of decimal years": ("QS-JAN", lambda time: time.year + (time.quarter - 1) / 4),
    "2024-W05": ("W-MON", strftime("%G-W%V")),
    "2024W05": ("W-MON", strftime("%GW%V")),
    "week 5 2024": ("W-MON", lambda time: f"week {time.isocalendar().week} {time.isocalendar().year}"),
    "2015-S1": ("6MS", lambda time: f"{time.year}-S{1 + (time.month > 6)}"),
    "2015H1": ("6MS", lambda time: f"{time.year}H{1 + (time.month > 6)}"),
    "2015/16": ("YS-JAN", lambda time: f"{time.year}/{(time.year + 1) % 100:02}"),
}


@given(
    form=st.sampled_from(sorted(DATES)),
    freq=st.sampled_from(["D", "B", "W-WED", "MS", "ME", "QE-DEC", "3D"]),
    start=st.dates(dt.date(1955, 1, 1), dt.date(2030, 1, 1)),
    count=st.integers(40, 90),
    backwards=st.booleans(),
)
def test_days_written_in_any_form_are_read_back(
    form: str, freq: str, start: dt.date, count: int, backwards: bool
) -> None:
    times = pd.date_range(start, periods=count, freq=freq)
    assume("y" not in form or times[-1].year < 2050)  # two digits are no later year
    assume(not (form == "Excel" and times[0].year < 1955))
    times = times[::-1] if backwards else times
    write = DATES[form]
    dates = read([write(time) for time in times])
    if dates.ambiguous:
        dates = read([write(time) for time in times], "monthfirst" if dates.order == "dayfirst" else "dayfirst")
        assert not dates.ambiguous
        if not dates.times.equals(pd.DatetimeIndex(times)):
            dates = read([write(time) for time in times])
    assert list(dates.times) == list(times)
    assert next_times(dates, 1) == [str(pd.date_range(times.max(), periods=2, freq=freq)[1].date())]


@given(
    form=st.sampled_from(sorted(CLOCKS)),
    freq=st.sampled_from(["h", "15min", "90min", "12h", "D"]),
    start=st.dates(dt.date(1990, 1, 1), dt.date(2030, 1, 1)),
    hour=st.integers(0, 23),
)
def test_times_written_in_any_form_are_read_back(form: str, freq: str, start: dt.date, hour: int) -> None:
    times = pd.date_range(pd.Timestamp(start) + pd.Timedelta(hours=hour), periods=1500, freq=freq)
    dates = read([CLOCKS[form](time) for time in times])
    assert list(dates.times) == list(times)
    assert not dates.ambiguous


@given(
    form=st.sampled_from(sorted(PERIODS)),
    year=st.integers(1960, 2030),
    count=st.integers(13, 60),
    shuffle=st.booleans(),
)
def test_periods_written_in_any_form_are_read_back(form: str, year: int, count: int, shuffle: bool) -> None:
    freq, write = PERIODS[form]
    times = pd.date_range(f"{year}-01-01", periods=count, freq=freq)
    assume(("y" not in form and "/15" not in form) or times[-1].year < 2050)
    rows = np.random.default_rng(0).permutation(count) if shuffle and "y" not in form else np.arange(count)
    dates = read([write(time) for time in times[rows]])
    assert list(dates.times) == list(times[rows])
    assert next_times(dates, 1) == [str(pd.date_range(times[-1], periods=2, freq=freq)[1].date())]


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m/%d/%Y", "%d/%m/%y"])
def test_a_year_of_days_is_not_shuffled(form: str) -> None:
    """Case 2 and A3."""
    dates = read([day.strftime(form) for day in DAYS])
    assert list(dates.times) == list(DAYS)
    assert (dates.order, dates.ambiguous, dates.notes) == (
        "dayfirst" if form.startswith("%d") else "monthfirst",
        False,
        (),
    )
    assert next_times(dates) == ["2024-01-01", "2024-01-02"]


@pytest.mark.parametrize(
    ("cells", "order", "following"),
    [
        ([f"01/{month:02}/2023" for month in range(1, 13)], "dayfirst", "2024-01-01"),  # case 3
        ([f"{day:02}.01.2025" for day in range(1, 13)], "dayfirst", "2025-01-13"),
        ([f"{month}/1/{year}" for year in (2022, 2023) for month in range(1, 13)], "monthfirst", "2024-01-01"),
        ([f"{month:02}/{day:02}/2024" for month in (1, 2) for day in range(1, 13)], "monthfirst", "2024-02-13"),
        ([f"{day:02}/{month:02}/2024" for month in (1, 2, 3) for day in range(1, 13)], "dayfirst", "2024-03-13"),
    ],
)
def test_of_two_orders_the_regular_one_is_taken_and_said(cells: list[str], order: str, following: str) -> None:
    dates = read(cells)
    assert (dates.order, dates.ambiguous) == (order, True)
    assert next_times(dates, 1) == [following]
    [note] = dates.notes
    other: Order = "monthfirst" if order == "dayfirst" else "dayfirst"
    assert note.startswith(f"dates are read {order.removesuffix('first')} first")
    assert f"--dates {other}" in note
    forced = read(cells, other)
    assert (forced.order, forced.ambiguous, forced.notes) == (other, False, ())
    assert not forced.times.equals(dates.times)


def test_an_order_that_does_not_fit_is_refused_at_its_row() -> None:
    dates = parse_dates(["01/01/2024", "02/01/2024", "13/01/2024"], "monthfirst")
    assert isinstance(dates, NotDates)
    assert [(cell.row, cell.text) for cell in dates.bad] == [(2, "13/01/2024")]
    assert "MM/DD/YYYY" in dates.reason


@pytest.mark.parametrize(
    ("cells", "first", "following"),
    [
        ([f"{year}-{month:02}" for year in (1, 2, 3) for month in range(1, 13)], "0001-01-01", "0004-01-01"),  # case 8
        ([f"{name}-{year:02}" for year in range(1, 24) for name in MONTHS], "2001-01-01", "2024-01-01"),
        ([f"{name}-{year:02}" for year in range(49, 61) for name in MONTHS], "1949-01-01", "1961-01-01"),
        (
            [f"{name}-{day:02}" for name, end in (("Jan", 32), ("Feb", 29)) for day in range(1, end)],
            "0001-01-01",
            "0001-03-01",
        ),
        ([f"{month:02}/{year:02}" for year in (98, 99, 0, 1) for month in range(1, 13)], "1998-01-01", "2002-01-01"),
        ([f"{day}-{name}" for name in ("Mar",) for day in range(1, 32)], "0001-03-01", "0001-04-01"),
        ([f"2024-{week}" for week in range(1, 53)], "2024-01-01", "2024-12-30"),
        ([f"{year}.{month}" for year in (2015, 2016) for month in range(1, 13)], "2015-01-01", "2017-01-01"),
        ([2015 + month / 100 for month in range(1, 13)], "2015-01-01", "2016-01-01"),
        ([round(1958 + (month + 0.5) / 12, 4) for month in range(36)], "1958-01-01", "1961-01-01"),
        ([2001 + week / 52 for week in range(110)], "2001-01-01", "2003-02-10"),
        (["1. Januar 2024", "1. Februar 2024", "1. M\u00e4rz 2024", "1. April 2024"], "2024-01-01", "2024-05-01"),
        (["janv. 2024", "f\u00e9vr. 2024", "mars 2024", "avr. 2024"], "2024-01-01", "2024-05-01"),
        (
            ["2024\u5e741\u670831\u65e5", "2024\u5e742\u67081\u65e5", "2024\u5e742\u67082\u65e5"],
            "2024-01-31",
            "2024-02-03",
        ),
        (["3-Jan-2024 ", " 4-JAN-2024", "5-jan-2024"], "2024-01-03", "2024-01-06"),
        ([int(f"2024{week:02}") for week in range(1, 53)], "2024-01-01", "2024-12-30"),
        ([int(f"{year}{quarter}") for year in (2015, 2016) for quarter in (1, 2, 3, 4)], "2015-01-01", "2017-01-01"),
        (
            ["\u0662\u0660\u0662\u0664-01-01", "\u0662\u0660\u0662\u0664-01-02", "2024-01-03"],
            "2024-01-01",
            "2024-01-04",
        ),
        ([f"{year}{month:02}" for year in (15, 16) for month in range(1, 13)], "2015-01-01", "2017-01-01"),
        (["2024-01-01/2024-01-07", "2024-01-08/2024-01-14", "2024-01-15/2024-01-21"], "2024-01-01", "2024-01-22"),
        ([f"07/01/{year}" for year in range(2005, 2025)], "2005-07-01", "2025-07-01"),
        (["1T2015", "2T2015", "3T2015"], "2015-01-01", "2015-10-01"),
    ],
)
def test_forms_that_need_their_column_to_be_read(cells: list[Any], first: str, following: str) -> None:
    dates = read(cells)
    assert str(dates.times[0].date()) == first
    assert next_times(dates, 1) == [following]


@pytest.mark.parametrize(
    ("cells", "following"),
    [
        ([f"10/03/2004 {hour:02}.00.00" for hour in range(24)], "2004-03-11"),
        ([f"2024-01-{day:02} {hour:02}:00" for day in (1, 2) for hour in range(1, 25)], "2024-01-03 01:00:00"),
        ([f"20240101{hour:02}" for hour in range(24)], "2024-01-02"),
        ([int(f"202401{day:02}{hour:02}00") for day in (1, 2) for hour in range(24)], "2024-01-03"),
        (["1/31/2024 11:00 a.m.", "1/31/2024 12:00 p.m.", "1/31/2024 1:00 p.m."], "2024-01-31 14:00:00"),
        (["1/31/2024 12 AM", "1/31/2024 1 AM", "1/31/2024 2 AM"], "2024-01-31 03:00:00"),
        (["2024-01-31 12:00:00,250", "2024-01-31 12:00:00,500", "2024-01-31 12:00:00,750"], "2024-01-31 12:00:01"),
        (["2024-01-31 00:00", "2024-01-31 06:00", "2024-01-31 12"], "2024-01-31 18:00:00"),
        (["2024-01-01", "2024-01-01 12:00:00", "2024-01-02"], "2024-01-02 12:00:00"),
        ([1704067200.0 + 0.5 * step for step in range(10)], "2024-01-01 00:00:05"),
        ([45292 + hour / 24 for hour in range(24)], "2024-01-02"),
        (["45292", "45293", "45294"], "2024-01-04"),
    ],
)
def test_clocks_of_any_form_are_read(cells: list[Any], following: str) -> None:
    assert next_times(read(cells), 1) == [following]


def test_cases_of_numbers() -> None:
    """Case 10."""
    assert next_times(read([int(f"{day:%Y%m%d}") for day in pd.date_range("2024-01-01", periods=40)])) == [
        "2024-02-10",
        "2024-02-11",
    ]
    air = read([1949.0, 1949.08333333333, 1949.16666666667, 1949.25])
    assert (air.freq, next_times(air)) == ("MS", ["1949-05-01", "1949-06-01"])
    days = read(range(45292, 45332))
    assert (next_times(days, 1), days.form, days.numbers) == (["2024-02-10"], "Excel's serial numbers", True)


@pytest.mark.parametrize(
    ("cells", "form", "freq", "following"),
    [
        (list(range(1990, 2010)), "years", "YS", ["2010", "2011"]),
        ([str(year) for year in range(1990, 2010)], "years", "YS", ["2010", "2011"]),
        ([1990.0, 1991.0, None, 1993.0], "years", "YS", ["1994", "1995"]),
        ([1, 2, 3, 5, 6, 7, 8], "counted steps", None, ["9", "10"]),
        (["007", "008", "009"], "counted steps", None, ["10", "11"]),
        ([-2, -1, 0, 1], "counted steps", None, ["2", "3"]),
    ],
)
def test_years_and_counted_steps_stay_numbers(
    cells: list[Any], form: str, freq: str | None, following: list[str]
) -> None:
    """Case 25."""
    dates = read(cells)
    assert (dates.form, dates.freq, dates.numbers) == (form, freq, True)
    assert not isinstance(dates.times, pd.DatetimeIndex)
    assert next_times(dates) == following


@pytest.mark.parametrize("wrong", ["2024-13-01", "Total", "2024-02-30", "20240301", "?", "01/03/2024"])
@pytest.mark.parametrize("row", [0, 2, 4])
def test_a_cell_that_is_no_date_is_named(wrong: str, row: int) -> None:
    """Case 6."""
    cells = ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01", "2024-05-01"]
    cells[row] = wrong
    dates = parse_dates(cells)
    if wrong == "Total" and row == 4:
        assert isinstance(dates, ParsedDates)
        return
    assert isinstance(dates, NotDates)
    assert [(cell.row, cell.text) for cell in dates.bad] == [(row, wrong)]
    assert dates.reason.startswith(f"{wrong!r} in row {row + 1} after the header is no date")


@pytest.mark.parametrize("lines", [["Total"], ["total 2024"], ["Summe", "Durchschnitt"], ["Grand Total", None, ""]])
def test_lines_of_totals_at_the_end_are_said(lines: list[str | None]) -> None:
    for months in (
        ["2024-01-01", "2024-02-01", "2024-03-01"],
        ["01/01/2024", "01/02/2024", "01/03/2024"],
        ["2020", "2021", "2022"],
        ["2024-Q1", "2024-Q2", "2024-Q3"],
        ["1", "2", "3"],
    ):
        dates = read([*months, *lines])
        named = [line for line in lines if line]
        assert dates.totals == tuple(range(3, 3 + len(named)))
        assert dates.times.isna().tolist() == [False] * 3 + [True] * len(lines)
        for row, line in zip(dates.totals, named, strict=True):
            assert f"row {row + 1} after the header ({line!r}) is no date: it is left out" in dates.notes
        assert next_times(dates, 1)[0] in ("2024-04-01", "2023", "2024-10-01", "4")


@pytest.mark.parametrize(
    "cells",
    [
        *(["a", "b", "c"], ["hello 2024", "hello 2025"], ["1.234.567", "2.345.678"], ["1,5", "2,5"], ["-5", "3"]),
        *([True, False], [None, None], ["", " "], ["1-2", "3-0", "2-2", "5-1"], ["007", "008", "A1"]),
        *(["555-1234", "555-9999"], ["1.2.3.4", "10.0.0.1"], ["12:30", "12:45"], ["January", "February"]),
        *([[1, 2], [3, 4]], [dt.timedelta(1), dt.timedelta(2)], ["$5", "$6"], ["A-1", "B-2"], [float("inf"), 1.0]),
        *(["x" * 500, "y" * 500], ["2024-01-01" * 8], ["\U0001f600", "\u4e2d\u6587"]),
    ],
)
def test_what_is_no_date_is_not_read_as_one(cells: list[Any]) -> None:
    dates = parse_dates(cells)
    assert isinstance(dates, NotDates)
    assert not dates.bad


@pytest.mark.parametrize("year", ["0000", "12024"])
def test_years_outside_the_calendar_are_no_dates(year: str) -> None:
    dates = parse_dates(["2024-01-01", "2024-01-02", f"{year}-01-03"])
    assert isinstance(dates, NotDates)
    assert [cell.row for cell in dates.bad] == [2]


def test_empty_cells_have_no_time() -> None:
    for empty in (None, "", "NaN", " ", pd.NaT):
        dates = read(["2024-01-01", empty, "2024-01-03"])
        assert dates.times.isna().tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["category", "string", "object"])
def test_columns_of_any_type_are_read(kind: Any) -> None:
    column = pd.Series(["2024-01-01", "2024-01-02", "2024-01-01"]).astype(kind)
    assert read(column).times.tolist() == [pd.Timestamp(day) for day in ("2024-01-01", "2024-01-02", "2024-01-01")]
    stamps = pd.Series(pd.date_range("2024-01-01", periods=3, freq="MS", tz="Europe/Berlin"))
    assert list(read(stamps).times) == list(stamps)
    assert next_times(read(pd.Series(pd.period_range("2024-01", periods=3, freq="M"))), 1) == ["2024-04-01"]
    assert read([dt.datetime(2024, 1, 1, 5), dt.datetime(2024, 1, 1, 6)]).times[1].hour == 6


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Sydney", "Europe/London"])
@pytest.mark.parametrize("freq", ["D", "h", "30min"])
@pytest.mark.parametrize("start", ["2024-03-05", "2024-10-01"])
def test_offsets_that_change_are_those_of_a_zone(zone: str, freq: str, start: str) -> None:
    """Case 4 and A10: days at midnight stay at midnight; hours come back in their zone."""
    whole = pd.date_range(start, periods=40 * {"D": 1, "h": 24, "30min": 48}[freq], freq=freq, tz=zone)
    seen = len(whole) - 4
    for texts in ([time.isoformat() for time in whole[:seen]], [str(time) for time in whole[:seen]]):
        dates = read(texts)
        assert isinstance(dates.times, pd.DatetimeIndex)
        assert [time.isoformat() for time in dates.times] == [time.isoformat() for time in whole[:seen]]
        following = next_times(dates, 4)
        assert following == [str(time) for time in whole[seen:]]
        assert any("times go on in that zone" in note for note in dates.notes)


@pytest.mark.parametrize(
    ("cells", "following"),
    [
        (["2024-01-30T00:00:00Z", "2024-01-31T00:00:00Z", "2024-02-01T00:00:00Z"], "2024-02-02 00:00:00+00:00"),
        (["2024-01-30 00:00+0530", "2024-01-31 00:00+0530", "2024-02-01 00:00+0530"], "2024-02-02 00:00:00+05:30"),
        (["2024-01-30T00:00:00-05", "2024-01-31T00:00:00-05", "2024-02-01T00:00:00-05"], "2024-02-02 00:00:00-05:00"),
        (["2024-03-30 00:00 CET", "2024-03-31 00:00 CET", "2024-04-01 00:00 CEST"], "2024-04-02 00:00:00+02:00"),
        (["2024-01-30 00:00 UTC", "2024-01-31 00:00 UTC", "2024-02-01 00:00 UTC"], "2024-02-02 00:00:00+00:00"),
        ([f"2024-03-{day}T00:00:00+01:00[Europe/Berlin]" for day in (29, 30, 31)], "2024-04-01 00:00:00+02:00"),
        ([f"2024-03-{day} 00:00 America/New_York" for day in (8, 9, 10)], "2024-03-11 00:00:00-04:00"),
        ([f"{day}/Jan/2024:12:30:00 +0100" for day in (29, 30, 31)], "2024-02-01 12:30:00+01:00"),
        (
            ["Tue Jan 30 2024 00:00:00 GMT+0100 (CET)", "Wed Jan 31 2024 00:00:00 GMT+0100 (CET)"],
            "2024-02-01 00:00:00+01:00",
        ),
    ],
)
def test_zones_and_offsets_of_any_form_are_kept(cells: list[str], following: str) -> None:
    assert next_times(read(cells), 1) == [following]


def test_a_time_without_an_offset_among_others_is_named() -> None:
    dates = parse_dates(["2024-03-30T00:00:00+01:00", "2024-03-31T00:00:00", "2024-04-01T00:00:00+02:00"])
    assert isinstance(dates, NotDates)
    assert [cell.row for cell in dates.bad] == [1]


@pytest.mark.parametrize(
    ("zone", "start"),
    [("Europe/Berlin", "2024-10-26"), ("Europe/London", "2024-10-26"), ("America/New_York", "2024-11-02")],
)
@pytest.mark.parametrize("freq", ["h", "30min", "15min"])
def test_hours_that_clocks_repeat_are_resolved(zone: str, start: str, freq: str) -> None:
    """Case 5."""
    whole = pd.date_range(start, periods=60 * {"h": 1, "30min": 2, "15min": 4}[freq], freq=freq, tz=zone)
    resolved = resolve_repeated_hours(whole.tz_localize(None))
    assert resolved is not None
    times, note = resolved
    assert note.endswith(f"comes twice, as clocks of {zone} show it: times go on in that zone")
    assert list(times.tz_localize(None)) == list(whole.tz_localize(None))
    grid = regular_grid(times)
    assert (grid.freq, len(grid.times)) == (freq, len(whole))
    panel = pd.DatetimeIndex([*whole.tz_localize(None), *whole.tz_localize(None)])
    both = resolve_repeated_hours(panel, np.repeat(["a", "b"], len(whole)))
    assert both is not None
    assert list(both[0]) == [*times, *times]


def test_other_times_that_occur_twice_are_not_explained_by_clocks() -> None:
    for texts in (
        ["2024-01-01 05:00"] * 2,
        ["2024-01-01", "2024-01-01"],
        ["2024-10-27 02:00"] * 3,
        ["2024-10-27 02:00"],
    ):
        assert resolve_repeated_hours(pd.DatetimeIndex(texts)) is None


HOURS = [(day, hour) for day in (10, 11) for hour in range(24)]


@pytest.mark.parametrize(
    ("columns", "parts", "first", "following"),
    [
        (
            {"Date": [f"{day}/03/2004" for day, _ in HOURS], "Time": [f"{hour:02}.00.00" for _, hour in HOURS]},
            {"date": "Date", "time": "Time"},
            "2004-03-10",
            "2004-03-12",
        ),
        (
            {"Date": [f"2004-03-{day}" for day, _ in HOURS], "Hour": [hour + 1 for _, hour in HOURS]},
            {"date": "Date", "hour": "Hour"},
            "2004-03-10 01:00:00",
            "2004-03-12 01:00:00",
        ),
        (
            {
                "No": range(48),
                "year": 2010,
                "month": 3,
                "day": [day for day, _ in HOURS],
                "hour": [h for _, h in HOURS],
            },
            {"year": "year", "month": "month", "day": "day", "hour": "hour"},
            "2010-03-10",
            "2010-03-12",
        ),
        ({"Year": [2010] * 12, "Month": MONTHS}, {"year": "Year", "month": "Month"}, "2010-01-01", "2011-01-01"),
        ({"yr": [2010] * 12, "mo": range(1, 13)}, {"year": "yr", "month": "mo"}, "2010-01-01", "2011-01-01"),
        (
            {"Jahr": ["2010"] * 4, "Quartal": ["1", "2", "3", "4"]},
            {"year": "Jahr", "quarter": "Quartal"},
            "2010-01-01",
            "2011-01-01",
        ),
        (
            {
                "SettlementDate": "x",
                "date": [20240101] * 48 + [20240102] * 48,
                "Settlement Period": [*range(1, 49)] * 2,
            },
            {"date": "date", "period": "Settlement Period"},
            "2024-01-01",
            "2024-01-03",
        ),
        (
            {"Date": [f"2004-03-{day}" for day, _ in HOURS], "Time": [100 * hour for _, hour in HOURS]},
            {"date": "Date", "time": "Time"},
            "2004-03-10",
            "2004-03-12",
        ),
        (
            {"YEAR": [2024] * 366, "DOY": range(1, 367)},
            {"year": "YEAR", "dayofyear": "DOY"},
            "2024-01-01",
            "2025-01-01",
        ),
        (
            {"YEAR": 2024, "MO": 1, "DY": range(1, 32)},
            {"year": "YEAR", "month": "MO", "day": "DY"},
            "2024-01-01",
            "2024-02-01",
        ),
        ({"yr": [98, 99, 0, 1], "qtr": 1}, {"year": "yr", "quarter": "qtr"}, "1998-01-01", "2002-01-01"),
        ({"year": [2020] * 53, "week": range(1, 54)}, {"year": "year", "week": "week"}, "2019-12-30", "2021-01-04"),
    ],
)
def test_columns_that_are_together_a_time_are_joined(
    columns: dict[str, Any], parts: dict[str, str], first: str, following: str
) -> None:
    together = table({**columns, "y": 1.5})
    assert date_parts(together) == parts
    dates = join_dates(together, parts)
    assert isinstance(dates, ParsedDates)
    assert str(dates.times[0]).removesuffix(" 00:00:00") == first
    assert next_times(dates, 1) == [following]
    assert f"columns {', '.join(map(repr, parts.values()))} are together the times" in dates.notes


@pytest.mark.parametrize(
    "columns",
    [
        {"date": ["2024-01-01", "2024-01-02"], "year": [2024, 2024], "month": [1, 1]},
        {"year": [2010, 2011], "sales": [3, 4]},
        {"year": [2.5, 3.5], "month": [1, 2]},
        {"year": [2010, 2011], "month": [13, 14]},
        {"date": ["2024-01-01", "2024-01-02"], "hour": [5, 5]},
        {"ds": ["2024-01-01 05:00", "2024-01-01 06:00"], "hour": [5, 6]},
        {"month": [1, 2], "day": [3, 4]},
    ],
)
def test_columns_that_are_no_parts_of_a_time_are_left_alone(columns: dict[str, Any]) -> None:
    assert date_parts(table(columns)) == {}


@pytest.mark.parametrize(
    ("columns", "row", "text"),
    [
        ({"year": [2023, 2023], "month": [2, 2], "day": [28, 30]}, 1, "2023 2 30"),
        ({"year": [2023] * 5, "month": [1, 2, 13, 4, 5]}, 2, "2023 13"),
        ({"year": ["2023"] * 5, "month": ["1", "2", "x", "4", "5"]}, 2, "2023 x"),
        ({"date": ["2023-01-01"] * 5, "time": ["01:00", "02:00", "25:00", "04:00", "05:00"]}, 2, "2023-01-01 25:00"),
    ],
)
def test_a_row_that_is_no_date_is_named_in_joined_columns(columns: dict[str, Any], row: int, text: str) -> None:
    together = table(columns)
    dates = join_dates(together, date_parts(together))
    assert isinstance(dates, NotDates)
    assert [(cell.row, cell.text) for cell in dates.bad] == [(row, text)]
    assert f"row {row + 1} after the header" in dates.reason


@pytest.mark.parametrize(
    "columns",
    [
        {"year": ["2023"] * 4 + ["Total"], "month": ["1", "2", "3", "4", None]},
        {
            "date": ["2023-01-01"] * 2 + ["2023-01-02"] * 2 + ["Total"],
            "time": ["00:00", "12:00", "00:00", "12:00", None],
        },
    ],
)
def test_totals_below_joined_columns_are_said(columns: dict[str, Any]) -> None:
    together = table(columns)
    dates = join_dates(together, date_parts(together))
    assert isinstance(dates, ParsedDates)
    assert (dates.totals, dates.times.isna().tolist()) == ((4,), [False] * 4 + [True])
    assert "row 5 after the header ('Total') is no date: it is left out" in dates.notes
    assert next_times(dates, 1)[0] in ("2023-05-01", "2023-01-03")


def test_names_of_times() -> None:
    for name in ("ds", "Date", "Order Date", "timestamp_utc", "Monat", "year", "invoiceDate", "A\u00f1o", "yyyymm"):
        assert is_time_name(name), name
    for name in ("y", "sales", "NO", "price", "update", "lead_time", "monthly_sales", "candidate"):
        assert not is_time_name(name), name


@given(
    st.lists(st.text(max_size=20) | st.none() | st.floats() | st.integers() | st.dates() | st.booleans(), max_size=20)
)
def test_no_column_breaks_the_reading(cells: list[Any]) -> None:
    dates = parse_dates(pd.Series(cells, dtype=object))
    if isinstance(dates, ParsedDates):
        assert len(dates.times) == len(cells)
    parts = date_parts({name: pd.Series(cells, dtype=object) for name in ("date", "time", "year", "month")})
    assert set(parts) <= {"date", "time", "year", "month"}


@given(st.lists(st.text("0123456789-/:. TZ+JanfebQW", max_size=24), max_size=8))
def test_no_text_that_looks_like_dates_breaks_the_reading(cells: list[str]) -> None:
    dates = parse_dates(cells)
    if isinstance(dates, NotDates):
        assert all(cells[cell.row].strip() == cell.text.strip() for cell in dates.bad)
