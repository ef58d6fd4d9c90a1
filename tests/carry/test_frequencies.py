"""Frequencies: the one that times follow, the grid without gaps, the times after the last."""

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from carry.times.frequencies import (
    FrequencyError,
    IrregularTimesError,
    panel_frequency,
    regular_grid,
    times_after,
    times_from,
    usual_season,
)

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Sydney", "Asia/Kolkata", "America/Sao_Paulo", "UTC", None]
STARTS = ["2024-03-28", "2024-10-25", "2023-11-01", "2024-01-31 08:30", "1899-12-30"]
FREQS = [
    *("YS-JAN", "YE-JUN", "QS-JAN", "QS-FEB", "QE-DEC", "QE-OCT", "BQS-MAR", "BQE-NOV", "BYE-APR", "BYS-JAN", "MS"),
    *("ME", "BMS", "BME", "2MS", "6ME", "WOM-3FRI", "LWOM-FRI", "W-WED", "2W-TUE", "B", "D", "3D", "12h", "h", "90min"),
    *("30min", "15min", "7min", "min", "s", "500ms", "RE-L-SEP-SAT", "RE-N-JAN-SAT", "REQ-L-SEP-SAT-4"),
]


def stamps(*texts: str) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(list(texts))


def next_times(times: "pd.Index[Any]", count: int = 2, **known: Any) -> list[str]:
    """The times after a series, as text without a clock at midnight."""
    grid = regular_grid(times, **known)
    return [str(time).removesuffix(" 00:00:00") for time in times_after(grid.times, grid.freq, count)]


def pandas_times(start: str, freq: str, zone: str | None, count: int) -> pd.DatetimeIndex:
    """Those of pandas, which stops where clocks skip or repeat a midnight."""
    assume(zone is None or start > "1970")
    try:
        return pd.date_range(start, periods=count, freq=freq, tz=zone)
    except ValueError:
        assume(False)
        raise


@given(
    freq=st.sampled_from(FREQS),
    zone=st.sampled_from(ZONES),
    start=st.sampled_from(STARTS),
    seed=st.integers(0, 999),
)
def test_gaps_are_found_and_times_go_on_as_pandas_has_them(freq: str, zone: str | None, start: str, seed: int) -> None:
    """Whatever interior rows are dropped, no time that is left changes its place."""
    whole = pandas_times(start, freq, zone, 100)
    seen = np.random.default_rng(seed).random(80) > 0.2
    seen[[0, 1, 2, -2, -1]] = True
    grid = regular_grid(whole[:80][seen])
    assert (grid.freq, grid.snapped, grid.notes) == (freq, 0, ())
    assert list(grid.times) == list(whole[:80])
    assert np.array_equal(grid.indices, np.flatnonzero(seen))
    assert list(times_after(grid.times, grid.freq, 20)) == list(whole[80:])
    assert list(regular_grid(whole[:80][seen], freq).times) == list(whole[:80])
    assert grid.times.dtype == whole.dtype


@given(freq=st.sampled_from(FREQS), zone=st.sampled_from(ZONES), start=st.sampled_from(STARTS))
def test_times_from_a_start_are_those_of_pandas(freq: str, zone: str | None, start: str) -> None:
    expected = pandas_times(start, freq, zone, 30)
    assert list(times_from(pd.Timestamp(start, tz=zone), freq, 30)) == list(expected)


@pytest.mark.parametrize(
    ("times", "freq", "following"),
    [
        ([f"{y}-{m:02}-15" for y in (2022, 2023) for m in range(1, 13)], "M", ["2024-01-15", "2024-02-15"]),
        ([f"{y}-{m:02}-03" for y in (2022, 2023) for m in (2, 5, 8, 11)], "Q", ["2024-02-03", "2024-05-03"]),
        ([f"{y}-07-04" for y in range(2010, 2024)], "Y", ["2024-07-04", "2025-07-04"]),
        (["2023-01-30", "2023-02-28", "2023-03-30", "2023-04-30", "2023-05-30"], "M", ["2023-06-30", "2023-07-30"]),
        (["2023-12-30", "2024-01-30", "2024-02-29"], "M", ["2024-03-30", "2024-04-30"]),
        (["2023-01-31", "2023-02-28", "2023-03-31"], "ME", ["2023-04-30", "2023-05-31"]),
        (["2024-01-01", "2024-01-15", "2024-02-01", "2024-02-15", "2024-03-01"], "SMS", ["2024-03-15", "2024-04-01"]),
        (["2024-01-15", "2024-01-31", "2024-02-15", "2024-02-29"], "SME", ["2024-03-15", "2024-03-31"]),
        (["2024-01-01", "2024-01-11", "2024-01-21", "2024-02-01"], "10D-S", ["2024-02-11", "2024-02-21"]),
        (["2001-01-16 12:00", "2001-02-15 00:00", "2001-03-16 12:00"], "M", ["2001-04-16", "2001-05-16 12:00:00"]),
        (["2024-01-05", "2024-01-12", "2024-01-26"], "W-FRI", ["2024-02-02", "2024-02-09"]),
        (["2024-01-01", "2024-01-29", "2024-02-26"], "4W-MON", ["2024-03-25", "2024-04-22"]),
        (["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-10"], "B", ["2024-01-11", "2024-01-12"]),
        (["2024-01-08", "2024-01-09", "2024-01-10", "2024-01-11"], "D", ["2024-01-12", "2024-01-13"]),
        (["2024-01-01 00:05", "2024-01-01 00:20", "2024-01-01 00:35"], "15min", ["2024-01-01 00:50:00"]),
    ],
)
def test_times_on_any_day_of_their_months_or_weeks(times: list[str], freq: str, following: list[str]) -> None:
    grid = regular_grid(stamps(*times))
    assert (grid.freq, grid.snapped) == (freq, 0)
    assert next_times(stamps(*times), len(following)) == following


@pytest.mark.parametrize(("pattern", "weeks"), [("445", (4, 4, 5)), ("454", (4, 5, 4)), ("544", (5, 4, 4))])
@pytest.mark.parametrize("starts", [False, True])
def test_months_of_whole_weeks_go_on_over_a_year_of_53(pattern: str, weeks: tuple[int, int, int], starts: bool) -> None:
    """The retail calendar: years end with the Saturday nearest to 31 January; that of 2023 has 53 weeks."""
    ends = [pd.Timestamp("2020-02-01")]
    for month in range(60):
        extra = 1 if month == 47 else 0
        ends.append(ends[-1] + pd.Timedelta(weeks=weeks[month % 3] + extra))
    times = pd.DatetimeIndex([end + pd.Timedelta(days=1) for end in ends]) if starts else pd.DatetimeIndex(ends)
    grid = regular_grid(times[:40])
    assert grid.freq == f"{pattern}{'S' * starts}-N-JAN-SAT"
    assert list(times_after(grid.times, grid.freq, 21)) == list(times[40:])
    assert usual_season(grid.freq) == 12


def test_weekdays_go_on_over_holidays() -> None:
    days = pd.bdate_range("2024-01-02", "2024-12-30")
    open_days = days[~days.isin(stamps("2024-03-29", "2024-05-27", "2024-07-04", "2024-12-25"))]
    grid = regular_grid(open_days)
    assert (grid.freq, len(grid.times) - len(open_days)) == ("B", 4)
    assert next_times(open_days) == ["2024-12-31", "2025-01-01"]


def test_a_week_without_sundays_is_daily() -> None:
    days = pd.date_range("2022-01-01", "2023-12-30")
    grid = regular_grid(days[days.dayofweek < 6])
    assert (grid.freq, len(grid.times)) == ("D", len(days))


@pytest.mark.parametrize("step", ["10min", "15min", "h"])
@pytest.mark.parametrize("offset", [0, 5 * 60])
def test_straying_times_are_moved_to_their_grid_and_it_is_said(step: str, offset: int) -> None:
    whole = pd.date_range("2024-01-01", periods=500, freq=step) + pd.Timedelta(seconds=offset)
    rng = np.random.default_rng(1)
    strayed = (whole + pd.to_timedelta(rng.integers(-20, 21, 500), unit="s")).delete([3, 77, 200])
    grid = regular_grid(strayed)
    assert grid.freq == step
    assert list(grid.times) == list(whole)
    assert grid.snapped > 400
    assert grid.notes == (
        f"{grid.snapped} of 497 times are not on the grid ({step}): they were moved to it, by up to 20 seconds",
    )


def test_loggers_that_are_late_have_their_grid_at_round_times() -> None:
    whole = pd.date_range("2024-01-01", periods=300, freq="10min")
    late = whole + pd.to_timedelta(np.random.default_rng(0).integers(0, 20, 300), unit="s")
    assert list(regular_grid(late).times) == list(whole)


def test_days_stray_by_minutes_weeks_and_months_by_days() -> None:
    rng = np.random.default_rng(1)
    days = pd.date_range("2024-01-01 08:00", periods=60) + pd.to_timedelta(rng.integers(-300, 300, 60), unit="s")
    assert next_times(days, 1) == ["2024-03-01 08:00:00"]
    weeks = pd.date_range("2024-01-04", periods=50, freq="W-THU").to_series()
    weeks.iloc[46] -= pd.Timedelta(days=1)  # the day before a holiday
    grid = regular_grid(pd.DatetimeIndex(weeks))
    assert (grid.freq, grid.snapped) == ("W-THU", 1)
    closes = pd.date_range("2023-01-31", periods=30, freq="BME").to_series()
    closes.iloc[14] -= pd.Timedelta(days=1)  # Good Friday
    grid = regular_grid(pd.DatetimeIndex(closes))
    assert (grid.freq, grid.snapped) == ("BME", 1)
    middles = stamps(*(f"2001-{month:02}-{15 if month == 2 else 16}" for month in range(1, 13)))
    assert regular_grid(middles).freq == "M"


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["2024-01-01"], "one time alone tells no frequency"),
        (["2024-01-01", "2024-02-09"], "the steps between them are 39 days"),
        (["2024-01-01", "2024-02-09", "2024-07-20"], r"39 days \(1x\), 162 days \(1x\); give theirs with --freq"),
        (["2024-01-01", "2024-01-03", "2024-02-09"], "2 days"),
        (["2024-01-01", "2024-01-02", "2024-01-03", "2204-01-01"], "2204-01-01 is far from the others, which are D"),
        (["2024-01-01", "2024-01-02", "9999-12-31"], "9999-12-31 is far from the others, which are D"),
        (["0224-01-01", "2024-01-01", "2024-01-02", "2024-01-03"], "0224-01-01 is far from the others, which are D"),
    ],
)
def test_irregular_times_are_refused_with_the_reason(times: list[str], message: str) -> None:
    index = pd.DatetimeIndex(np.array(times, dtype="datetime64[us]"))
    with pytest.raises(IrregularTimesError, match=message):
        regular_grid(index)
    grid = regular_grid(index, "rank")
    assert (grid.freq, list(grid.indices)) == (None, list(range(len(times))))
    assert list(times_after(grid.times, grid.freq, 3)) == [1, 2, 3]


def test_random_times_are_irregular() -> None:
    seconds = np.sort(np.random.default_rng(0).integers(0, 10_000_000, 300))
    with pytest.raises(IrregularTimesError):
        regular_grid(pd.Timestamp("2024-01-01") + pd.to_timedelta(seconds, unit="s"))


@pytest.mark.parametrize(
    ("freq", "message"),
    [
        ("MS", "do not follow the frequency MS: 2022-01-15 is none"),
        ("Y", "2022-01-15 and 2022-02-15 are in one step of Y"),
        ("s", "60,393,601 steps of s for 24 values"),
        ("fortnight", "'fortnight' is not a frequency; accepted are pandas' names"),
        ("0D", "is not a frequency"),
    ],
)
def test_a_frequency_that_does_not_fit_is_refused(freq: str, message: str) -> None:
    times = stamps(*(f"{y}-{m:02}-15" for y in (2022, 2023) for m in range(1, 13)))
    with pytest.raises((IrregularTimesError, FrequencyError), match=message):
        regular_grid(times, freq)


@pytest.mark.parametrize(
    ("freq", "times", "name"),
    [
        ("M", ["2024-01-31", "2024-02-29", "2024-03-31"], "ME"),
        ("M", ["2024-01-01", "2024-02-01", "2024-03-01"], "MS"),
        ("M", ["2024-01-09", "2024-02-09", "2024-03-09"], "M"),
        ("Q", ["2024-01-31", "2024-04-30", "2024-07-31"], "QE-OCT"),
        ("A-JUN", ["2022-06-30", "2023-06-30"], "YE-JUN"),
        ("W", ["2024-01-02", "2024-01-09", "2024-01-16"], "W-TUE"),
        ("H", ["2024-01-01 00:00", "2024-01-01 01:00"], "h"),
        ("15T", ["2024-01-01 00:00", "2024-01-01 01:00"], "15min"),
        ("1h30min", ["2024-01-01 00:00", "2024-01-01 01:30"], "90min"),
        ("D", ["2024-01-05", "2024-01-08"], "D"),
        ("B", ["2024-01-08", "2024-01-09"], "B"),
    ],
)
def test_a_given_frequency_has_older_names_and_any_day(freq: str, times: list[str], name: str) -> None:
    assert regular_grid(stamps(*times), freq).freq == name


def test_the_frequency_of_a_panel_serves_newcomers() -> None:
    """Case 23."""
    parts = [
        pd.date_range("2024-11-01", periods=62),
        stamps("2025-01-01"),
        stamps("2024-12-31", "2025-01-01"),
        stamps("2024-12-29"),
        stamps("2024-12-27", "2024-12-30"),
        stamps("2024-12-27", "2024-12-29", "2024-12-31"),
    ]
    whole = parts[0].append(parts[1:])
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    freq = panel_frequency(whole, starts)
    assert freq == "D"
    for part in parts:
        grid = regular_grid(part, None, freq)
        assert (grid.freq, grid.snapped) == ("D", 0)
        assert grid.times[-1] == part[-1]
    assert [len(regular_grid(part, None, freq).times) for part in parts] == [62, 1, 2, 1, 4, 5]


def test_series_of_one_value_each_have_the_frequency_of_all_their_times() -> None:
    times = stamps("2024-03-01", "2024-01-01", "2024-02-01", "2024-02-01")
    assert panel_frequency(times, np.arange(4)) == "MS"
    assert panel_frequency(stamps("2024-03-01", "2024-03-01"), np.arange(2)) is None


@pytest.mark.parametrize(
    ("panel", "times", "freq", "following"),
    [
        ("MS", ["2025-01-01"], "MS", "2025-02-01"),
        ("MS", ["2025-01-01", "2025-03-01"], "MS", "2025-04-01"),
        ("M", ["2025-01-15"], "M", "2025-02-15"),
        ("ME", ["2025-02-28"], "ME", "2025-03-31"),
        ("W-MON", ["2025-01-05"], "W-SUN", "2025-01-12"),
        ("QS-JAN", ["2025-02-01"], "QS-FEB", "2025-05-01"),
        ("B", ["2025-01-03"], "B", "2025-01-06"),
        ("15min", ["2025-01-03 10:15"], "15min", "2025-01-03 10:30:00"),
        ("445-N-JAN-SAT", ["2024-02-03"], "445-N-JAN-SAT", "2024-03-02"),
    ],
)
def test_newcomers_go_on_at_the_panels_frequency(panel: str, times: list[str], freq: str, following: str) -> None:
    assert regular_grid(stamps(*times), None, panel).freq == freq
    assert next_times(stamps(*times), 1, panel_freq=panel) == [following]


def test_series_of_another_frequency_keep_theirs() -> None:
    months = pd.date_range("2020-01-01", periods=24, freq="MS")
    weeks = pd.date_range("2020-01-06", periods=24, freq="W-MON")
    years = pd.date_range("2000-01-01", periods=5, freq="YS")
    assert [regular_grid(times, None, "D").freq for times in (months, weeks)] == ["MS", "W-MON"]
    assert regular_grid(years, None, "MS").freq == "YS-JAN"


@pytest.mark.parametrize(
    ("numbers", "freq", "length", "following"),
    [
        ([1, 2, 3, 5, 6, 7, 8], None, 8, [9, 10]),
        (list(range(1990, 2010)), "YS", 20, [2010, 2011]),
        ([1950, 1955, 1960, 1970], "YS", 5, [1975, 1980]),
        ([10, 20, 30, 50], None, 5, [60, 70]),
        ([7], None, 1, [8, 9]),
        ([2024], "YS", 1, [2025, 2026]),
        ([0.0, 0.5, 1.0, 2.0], None, 5, [2.5, 3.0]),
        ([1990.0, 1991.0], "YS", 2, [1992, 1993]),
    ],
)
def test_numbers_go_on_by_their_step(numbers: list[Any], freq: str | None, length: int, following: list[Any]) -> None:
    """Case 25."""
    grid = regular_grid(pd.Index(numbers), None, freq)
    assert len(grid.times) == length
    assert list(grid.times[grid.indices]) == numbers
    assert list(times_after(grid.times, grid.freq, 2)) == following
    assert usual_season(grid.freq) == 1


def test_numbers_without_a_step_are_refused() -> None:
    for numbers in ([1, 2, 3, 10**12], [0.1, 0.25, 0.9]):
        with pytest.raises(IrregularTimesError, match="do not follow a step"):
            regular_grid(pd.Index(numbers))


def test_a_day_whose_midnight_clocks_skip_is_a_day() -> None:
    days = pd.date_range("2017-10-10", periods=10).tz_localize("America/Sao_Paulo", nonexistent="shift_forward")
    assert days.hour.max() == 1
    grid = regular_grid(days)
    assert (grid.freq, grid.snapped) == ("D", 0)
    assert list(grid.times) == list(days)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Sydney"])
@pytest.mark.parametrize("clock", ["UTC", None])
def test_days_of_a_zone_that_are_written_in_utc_stay_its_days(zone: str, clock: str | None) -> None:
    whole = pd.date_range("2024-02-20", periods=300, tz=zone).tz_convert(clock)
    for days, following in ((whole[:60], whole[60:]), (whole[:60].delete([5, 40]), whole[60:])):
        for freq in (None, "D"):
            grid = regular_grid(days, freq)
            assert (grid.freq, grid.snapped, list(grid.times)) == ("D", 0, list(whole[:60]))
            assert "by a clock that is not set for summer" in grid.notes[0]
            assert list(times_after(grid.times, grid.freq, len(following))) == list(following)
    months = pd.date_range("2023-01-01", periods=30, freq="MS", tz=zone).tz_convert(clock)
    assert list(times_after(months[:20], regular_grid(months[:20]).freq, 10)) == list(months[20:])


def test_half_days_by_the_clock_on_the_wall_stay_there() -> None:
    half_days = pd.date_range("2024-03-28", periods=12, freq="12h").tz_localize("Europe/Berlin")
    grid = regular_grid(half_days)
    assert list(grid.times) == list(half_days)
    assert next_times(half_days, 1) == ["2024-04-03 00:00:00+02:00"]


def test_times_end_with_the_calendar() -> None:
    last = pd.DatetimeIndex(np.array(["9997-01-01", "9998-01-01", "9999-01-01"], dtype="datetime64[us]"))
    with pytest.raises(ValueError, match="end after the year 9999"):
        next_times(last)
    first = pd.DatetimeIndex(np.array([f"0001-{month:02}-01" for month in range(1, 13)], dtype="datetime64[us]"))
    assert next_times(first, 1) == ["0002-01-01"]


@pytest.mark.parametrize(
    ("freq", "season"),
    [
        *(("MS", 12), ("QE-FEB", 4), ("W-MON", 52), ("2W-TUE", 26), ("D", 7), ("B", 5), ("h", 24), ("12h", 2)),
        *(("15min", 96), ("min", 1), ("s", 1), ("YS", 1), ("6MS", 2), ("SMS", 24), ("445-N-JAN-SAT", 12), ("M", 12)),
        *((None, 1), ("rank", 1), ("5", 1), ("0.1", 1), ("BME", 12), ("REQ-L-SEP-SAT-4", 4), ("10D-S", 36)),
    ],
)
def test_frequencies_have_seasons(freq: str | None, season: int) -> None:
    assert usual_season(freq) == season


def test_a_wrong_year_takes_no_memory() -> None:
    """Case 1: in 4 GB of address space, most of which the libraries take."""
    program = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (4_000_000 * 1024,) * 2)
import numpy as np, pandas as pd
from carry.times.frequencies import IrregularTimesError, regular_grid
middles = pd.DatetimeIndex([f"{y}-{m:02}-15" for y in range(1984, 2024) for m in range(1, 13)])
assert regular_grid(middles).freq == "M"
wrong = ["2024-01-01", "2024-01-02", "2024-01-03 00:00:01", "9204-01-05"]
for unit in ("s", "us"):
    for freq in (None, "s", "min", "D", "us"):
        for panel in (None, "s", "us"):
            try:
                regular_grid(pd.DatetimeIndex(np.array(wrong, dtype=f"datetime64[{unit}]")), freq, panel)
            except IrregularTimesError:
                continue
            raise SystemExit(f"{unit} {freq} {panel} was accepted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
