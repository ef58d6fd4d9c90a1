"""Times after a series, against pandas' calendar."""

import datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequestError
from service.forecast.timestamps import seasons_of, timestamps_after

WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
PANDAS = [
    *("D", "B", "h", "min", "s", "MS", "ME", "BMS", "BME"),
    *(f"W-{day}" for day in WEEKDAYS),
    *(unit for unit in ("QS", "QE", "YS", "YE", "BQS", "BQE", "BYS", "BYE")),
    *(f"{unit}-{month}" for unit in ("QS", "QE", "YS", "YE", "BQS", "BQE", "BYS", "BYE") for month in MONTHS),
]
"""All names that are accepted and that pandas knows, too."""
OLD = {
    "H": "h",
    "T": "min",
    "S": "s",
    "AS": "YS",
    "BM": "BME",
    "Q-FEB": "QE-FEB",
    "A-JUN": "YE-JUN",
    "AS-MAR": "YS-MAR",
}
COUNTED = {"M": pd.DateOffset(months=1), "Q": pd.DateOffset(months=3), "Y": pd.DateOffset(years=1)}
"""Frequencies without a day in their name count from the start."""
DAYS = st.dates(min_value=datetime.date(1950, 1, 1), max_value=datetime.date(2060, 1, 1))


@pytest.mark.parametrize("freq", [*PANDAS, *OLD])
@given(day=DAYS, count=st.integers(1, 5), before=st.integers(1, 30))
def test_times_are_those_of_pandas(freq: str, day: datetime.date, count: int, before: int) -> None:
    first = pd.date_range(str(day), periods=1, freq=OLD.get(freq, freq))[0]
    expected = pd.date_range(first, periods=before + 3, freq=f"{count}{OLD.get(freq, freq)}")[before:]
    times = timestamps_after(first.isoformat(), f"{count}{freq}", before, 3)
    assert [pd.Timestamp(time) for time in times] == list(expected)


@pytest.mark.parametrize("freq", PANDAS)
@given(day=DAYS, count=st.integers(1, 3))
def test_a_start_between_the_times_of_a_frequency_is_refused(freq: str, day: datetime.date, count: int) -> None:
    """Either pandas' times, or an error: never times that the frequency does not have."""
    expected = pd.date_range(str(day), periods=4, freq=f"{count}{freq}")
    if freq == "B" or expected[0] == pd.Timestamp(day):
        assert [pd.Timestamp(time) for time in timestamps_after(str(day), f"{count}{freq}", 0, 4)] == list(expected)
    else:
        with pytest.raises(InvalidRequestError, match="none of them"):
            timestamps_after(str(day), f"{count}{freq}", 0, 4)


@pytest.mark.parametrize(
    ("start", "freq", "days"),
    [
        ("2024-01-03", "W-FRI", "on FRI"),
        ("2024-01-15", "MS", "on the first day of a month"),
        ("2024-01-01", "QS-FEB", "on the first day of FEB, MAY, AUG, NOV"),
        ("2024-06-30", "BME", "on the last weekday of a month"),
    ],
)
def test_a_refusal_of_a_start_names_the_days_of_its_frequency(start: str, freq: str, days: str) -> None:
    with pytest.raises(InvalidRequestError, match=days) as refused:
        timestamps_after(start, freq, 3, 1)
    assert refused.value.path == "$.start"


@pytest.mark.parametrize("freq", COUNTED)
@given(day=DAYS.filter(lambda day: day.day < 28), before=st.integers(1, 60))
def test_without_a_day_in_its_name_a_frequency_counts_from_the_start(
    freq: str, day: datetime.date, before: int
) -> None:
    expected = pd.date_range(str(day), periods=before + 3, freq=COUNTED[freq])[before:]
    assert timestamps_after(str(day), freq, before, 3) == [str(time.date()) for time in expected]


@given(month=st.integers(1, 12), steps=st.integers(1, 60))
def test_a_series_of_month_ends_stays_on_month_ends(month: int, steps: int) -> None:
    first = pd.Timestamp(2023, month, 1) + pd.offsets.MonthEnd(0)
    expected = pd.date_range(first, periods=steps + 1, freq="ME")[steps:]
    assert timestamps_after(str(first.date()), "M", steps, 1) == [str(expected[0].date())]


def test_days_keep_their_form_and_times_theirs() -> None:
    assert timestamps_after("2024-02-28", "D", 1, 2) == ["2024-02-29", "2024-03-01"]
    assert timestamps_after("2024-02-28", "12H", 1, 2) == ["2024-02-28T12:00:00", "2024-02-29T00:00:00"]
    assert timestamps_after("2024-02-28T10:00+02:00", "D", 1, 1) == ["2024-02-29T10:00:00+02:00"]
    assert timestamps_after("2024-02-01T10:00:00.5Z", "MS", 1, 1) == ["2024-03-01T10:00:00.500000+00:00"]
    assert timestamps_after("2020-02-29", "Y", 1, 4)[-1] == "2024-02-29"
    assert timestamps_after("2023-01-30", "M", 1, 2) == ["2023-02-28", "2023-03-30"]
    assert timestamps_after("0001-01-01", "D", 0, 1) == ["0001-01-01"]


@pytest.mark.parametrize("freq", ["D\n", "W-XYZ", "QS-FRI", "M-JAN", "D-MON", "0D", "-1D", "10000D", "bh", "", "٣D"])
def test_an_unknown_frequency_is_refused(freq: str) -> None:
    with pytest.raises(InvalidRequestError, match="not a frequency"):
        seasons_of(freq)


@pytest.mark.parametrize("freq", ["9999Y", "9999M", "9999W", "D", "B", "9999BYE", "9999S"])
def test_no_time_is_after_the_year_9999(freq: str) -> None:
    start = "9999-12-31T23:59:59" if "BYE" not in freq else "9999-12-31"
    assert timestamps_after(start, freq, 0, 1)
    with pytest.raises(InvalidRequestError, match="9999"):
        timestamps_after(start, freq, 200_000, 1000)
