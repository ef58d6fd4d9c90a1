"""Pictures of answers show what the answers say."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes

from carry.answer_plots import as_times
from carry.answers import Anomalies, Backtest, Forecast, Window

SERIES = [3.0, None, 6.0, 5.0]
TIMES = ["2024-01-29", "2024-01-30", "2024-01-31", "2024-02-01"]
AHEAD = ["2024-02-02", "2024-02-03"]


@pytest.fixture(autouse=True)
def pictures() -> Iterator[None]:
    """Without a window, and closed at the end."""
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def forecast(timestamps: list[str] | None = None) -> Forecast:
    """Of two values, with an interval and a quantile that has no counterpart."""
    quantiles = {level: np.array([level, 10 * level]) for level in (0.1, 0.9, 0.99)}
    return Forecast(np.array([0.5, 5.0]), quantiles, timestamps, None, None, "forecast@2")


def lines(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """The points of each line."""
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]


def legend(axes: Axes) -> list[str]:
    """The texts of the legend."""
    drawn = axes.get_legend()
    assert drawn is not None
    return [text.get_text() for text in drawn.get_texts()]


def test_a_forecast_follows_its_series() -> None:
    axes = forecast().plot(SERIES)
    (past_x, past_y), (ahead_x, median), (_, single) = lines(axes)
    assert past_x == [-3, -2, -1, 0]
    assert np.array_equal(past_y, [3, np.nan, 6, 5], equal_nan=True)
    assert (ahead_x, median, single) == ([1, 2], [0.5, 5], [0.99, 9.9])
    assert legend(axes) == ["80 %", "median", "quantile 0.99"]
    assert axes.get_xlabel() == "steps ahead"


def test_a_forecast_with_times_stands_over_them() -> None:
    axes = forecast(AHEAD).plot(SERIES, TIMES)
    (past, _), (ahead, _), _ = lines(axes)
    assert past + ahead == as_times(TIMES + AHEAD).tolist()


@pytest.mark.parametrize("timestamps", [None, AHEAD])
def test_a_forecast_is_drawn_without_its_series(timestamps: list[str] | None) -> None:
    axes = forecast(timestamps).plot()
    assert [len(x) for x, _ in lines(axes)] == [0, 2, 2]


def test_a_picture_goes_into_the_axes_of_the_caller() -> None:
    _, (left, right) = pyplot.subplots(1, 2)
    assert forecast().plot(axes=right) is right
    assert not left.lines


def test_anomalies_are_dots_on_the_series() -> None:
    numbers = np.array([np.nan, 1.0, 2.0, 3.0])
    anomalies = Anomalies(
        [None, None, True, False], numbers, numbers + 1, numbers, numbers, 99.0, TIMES, None, "forecast@2"
    )
    axes = anomalies.plot(SERIES)
    dots = axes.lines[1]
    assert np.asarray(dots.get_xdata()).tolist() == as_times(TIMES)[2:3].tolist()
    assert np.asarray(dots.get_ydata()).tolist() == [6]
    assert legend(axes) == ["99 %", "anomaly"]


def test_the_windows_of_a_backtest_lie_over_the_series() -> None:
    windows = [
        Window(cutoff, np.array([1.0]), {0.1: np.array([0.0]), 0.9: np.array([2.0])}, np.array([1.0]), None)
        for cutoff in (2, 3)
    ]
    axes = Backtest(windows, {"mase": 1.0}, None, "forecast@2").plot(SERIES)
    assert [x for x, _ in lines(axes)] == [[1, 2, 3, 4], [3], [4]]
    assert legend(axes) == ["80 %", "median"]


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-31T12:00:00+01:00"],
        ["2024-01-31T12:00:00"],
        [np.datetime64("2024-01-31T12")],
        np.array(["2024-01-31T12"], dtype="datetime64[ns]"),
    ],
    ids=["offset", "text", "stamp", "array"],
)
def test_times_are_those_on_the_clock(times: Any) -> None:
    assert as_times(times).tolist() == np.array(["2024-01-31T12"], dtype="datetime64[us]").tolist()
