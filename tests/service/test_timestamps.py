"""Times after a series, against pandas' calendar."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.timestamps import timestamps_after

SAME = {"D": "D", "2D": "2D", "W": "7D", "H": "h", "15min": "15min", "S": "s", "B": "B", "MS": "MS", "QS": "QS-JAN"}


@pytest.mark.parametrize("freq", SAME)
@given(
    day=st.dates(min_value=pd.Timestamp("1950-01-01").date(), max_value=pd.Timestamp("2090-01-01").date()),
    given_so_far=st.integers(1, 400),
)
def test_times_are_those_of_pandas(freq: str, day: object, given_so_far: int) -> None:
    first = pd.date_range(str(day), periods=1, freq=SAME[freq])[0]
    expected = pd.date_range(first, periods=given_so_far + 5, freq=SAME[freq])[given_so_far:]
    found = timestamps_after(first.isoformat(), freq, given_so_far, 5)
    assert [pd.Timestamp(time) for time in found] == list(expected)


@given(month=st.integers(1, 12), steps=st.integers(1, 60))
def test_a_series_of_month_ends_stays_on_month_ends(month: int, steps: int) -> None:
    first = pd.Timestamp(2023, month, 1) + pd.offsets.MonthEnd(0)
    expected = pd.date_range(first, periods=steps + 1, freq="ME")[steps:]
    assert timestamps_after(str(first.date()), "M", steps, 1) == [str(expected[0].date())]


def test_days_keep_their_form_and_times_theirs() -> None:
    assert timestamps_after("2024-02-28", "D", 1, 2) == ["2024-02-29", "2024-03-01"]
    assert timestamps_after("2024-02-28", "12H", 1, 2) == ["2024-02-28T12:00:00", "2024-02-29T00:00:00"]
    assert timestamps_after("2024-02-28T10:00+02:00", "D", 1, 1) == ["2024-02-29T10:00:00+02:00"]
    assert timestamps_after("2020-02-29", "Y", 1, 4)[-1] == "2024-02-29"
