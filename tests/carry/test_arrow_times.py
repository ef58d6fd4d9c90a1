"""Frequencies of many series at once, against pandas' calendars."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from carry.arrow.times import Panel, Step, place, step_of, times_after
from service.errors import InvalidRequestError

CALENDAR = ("MS", "ME", "QS-FEB", "QE-MAR", "YS-JAN", "YE-JUN", "BMS", "BME", "2MS", "2YS-JAN", "QS-APR", "B")
FREQUENCIES = (*CALENDAR, "W-SUN", "W-WED", "2W-MON", "D", "3D", "h", "6h", "30min", "15min", "min", "s")


def panel(series: Sequence[NDArray[np.int64]], unit: str) -> Panel:
    starts = np.concatenate([[0], np.cumsum([len(times) for times in series])])
    return Panel(np.concatenate(series), starts, unit)


def stamps(freq: str, unit: str, count: int) -> NDArray[np.int64]:
    dates = pd.date_range("2011-01-28", periods=count, freq=freq).to_numpy()
    ticks: NDArray[np.int64] = dates.astype(f"datetime64[{unit}]").astype(np.int64)
    return ticks


@pytest.mark.parametrize("unit", ["D", "s", "ms", "us", "ns"])
def test_times_follow_the_frequency_that_made_them_and_go_on_at_it(unit: str) -> None:
    freqs = [freq for freq in FREQUENCIES if unit != "D" or freq[-1] not in "hns"]
    series = panel([stamps(freq, unit, 37) for freq in freqs], unit)
    places = place(series, None)
    assert places.errors == [None] * len(freqs)
    assert [step.name for step in places.steps if step] == freqs
    for i, freq in enumerate(freqs):
        step = places.steps[i]
        assert step is not None
        after, within = times_after(series.firsts[[i]], places.lengths[[i]], step, unit, 3)
        np.testing.assert_array_equal(after[0], stamps(freq, unit, 40)[37:])
        assert within.all()


@pytest.mark.parametrize("freq", FREQUENCIES)
def test_missing_times_leave_their_places_empty(freq: str) -> None:
    times = stamps(freq, "us", 40)
    kept = np.delete(np.arange(40), [3, 17, 18, 30])
    places = place(panel([times[kept]], "us"), None)
    assert places.errors == [None]
    np.testing.assert_array_equal(places.indices, kept)
    assert places.lengths.tolist() == [40]


def test_days_without_weekends_are_weekdays_and_a_week_alone_is_days() -> None:
    places = place(panel([stamps("B", "D", 11), stamps("D", "D", 5)], "D"), None)
    assert [step.name for step in places.steps if step] == ["B", "D"]


def test_the_fifteenth_of_each_month_is_a_frequency_of_months() -> None:
    fifteenth = np.array([f"2024-{month:02}-15" for month in range(1, 8)], dtype="datetime64[D]").astype(np.int64)
    places = place(panel([fifteenth], "D"), None)
    assert places.steps == [Step("months", 1, "", "M")]
    after, _ = times_after(fifteenth[:1], places.lengths, Step("months", 1, "", "M"), "D", 2)
    assert [str(day) for day in after[0].astype("datetime64[D]")] == ["2024-08-15", "2024-09-15"]


def test_a_newcomer_takes_the_frequency_of_the_panel() -> None:
    series = panel([stamps("MS", "us", 1), stamps("MS", "us", 2), stamps("h", "us", 50)], "us")
    alone = place(series, None)
    assert alone.errors[0] == "has one value, whose time alone shows no frequency: give freq"
    served = place(series, None, panel_freq="MS")
    assert [step.name for step in served.steps if step] == ["MS", "MS", "h"]


def test_counters_go_on_by_their_own_step() -> None:
    series = panel([np.array([3, 4, 6]), np.array([10, 20, 40]), np.array([7])], "")
    places = place(series, None)
    assert [step.count for step in places.steps if step] == [1, 10, 1]
    assert places.lengths.tolist() == [4, 4, 1]


@pytest.mark.parametrize(
    ("times", "freq", "reason"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-02"], None, "has two values at 2024-01-02"),
        (["2024-01-01", "2024-01-02", "2024-07-02"], None, "has 3 values from 2024-01-01 to 2024-07-02: too few"),
        (
            ["2024-01-01", "2024-02-01", "2024-02-15"],
            "MS",
            "do not follow the frequency MS: 2024-02-15 is none of them",
        ),
        (["2024-01-01", "2024-01-08"], "W-SUN", "do not follow the frequency W-SUN: 2024-01-01 is none of them"),
        (["2024-01-06", "2024-01-08"], "B", "do not follow the frequency B: 2024-01-06 is none of them"),
    ],
)
def test_a_series_that_follows_no_frequency_is_told_why(times: list[str], freq: str | None, reason: str) -> None:
    ticks = np.array(times, dtype="datetime64[D]").astype(np.int64)
    places = place(panel([ticks], "D"), freq)
    assert places.steps == [None]
    assert reason in str(places.errors[0])


def test_a_frequency_finer_than_dates_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="h is finer than the times"):
        step_of("h", "D")


@pytest.mark.parametrize(("unit", "freq"), [("D", "D"), ("ns", "D"), ("us", "MS")])
def test_times_beyond_the_calendar_are_marked(unit: str, freq: str) -> None:
    first = np.array(["9999-12-01" if unit != "ns" else "2262-04-01"], dtype=f"datetime64[{unit}]").astype(np.int64)
    after, within = times_after(first, np.array([1]), step_of(freq, unit), unit, 50)
    assert after.shape == (1, 50)
    assert not within.any()
