"""The measures of forecasts of windows, against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.eval_windows import EvalWindow
from training.evaluation.metrics import relative_mae, score_forecasts


def test_measures_are_what_they_are_called() -> None:
    window = EvalWindow("a", np.array([[1.0], [3], [2], [4]]), np.array([5.0, np.nan, 7]))
    quantiles = np.array([[[4.0, 6, 9], [0, 0, 0], [1, 4, 6]]])
    scores = score_forecasts([window], quantiles, [0.1, 0.5, 0.9])
    scale = (2 + 1 + 2) / 3
    assert scores["mae"] == pytest.approx(2)
    assert scores["mse"] == pytest.approx(5)
    assert scores["mase"] == pytest.approx(2 / scale)
    assert scores["smape"] == pytest.approx(200 * (1 / 11 + 3 / 11) / 2)
    pinball = [(0.1 * 1 + 0.1 * 6) / 2, (0.5 * 1 + 0.5 * 3) / 2, (0.1 * 4 + 0.9 * 1) / 2]
    assert scores["scaled_quantile_loss"] == pytest.approx(2 * np.mean(pinball) / scale)
    assert scores["coverage_80"] == pytest.approx(0.5)


def windows_of(truths: list[list[float]], series: list[str]) -> list[EvalWindow]:
    return [
        EvalWindow(str(i), np.ones((2, 1)), np.array(truth), series=name)
        for i, (truth, name) in enumerate(zip(truths, series, strict=True))
    ]


def test_the_relative_mae_is_the_geometric_mean_over_series() -> None:
    windows = windows_of([[1, 2], [3, np.nan], [5], [7]], ["a", "a", "b", "c"])
    median = np.array([[2.0, 2], [3, 9], [5, 9], [8, 9]])
    naive = np.array([[3.0, 4], [1, 9], [1, 9], [7, 9]])
    # Of a 1 of 6, in both of its windows; of b nothing, which counts as a hundredth; the naive forecast of c is right.
    ratio, without_ratio = relative_mae(windows, median, naive)
    assert ratio == pytest.approx(math.sqrt(1 / 6 * 0.01))
    assert without_ratio == 1
    assert relative_mae(windows[3:], median[3:], naive[3:]) == (None, 1)


@given(
    errors=st.lists(st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)), min_size=1, max_size=8),
    units=st.floats(0.01, 100),
)
def test_the_relative_mae_of_two_methods_is_that_of_the_other_turned_over(
    errors: list[tuple[float, float]], units: float
) -> None:
    windows = windows_of([[0.0]] * len(errors), [str(i // 2) for i in range(len(errors))])
    first, second = units * np.array(errors)[:, :1], units * np.array(errors)[:, 1:]
    there, back = (relative_mae(windows, *pair)[0] for pair in ((first, second), (second, first)))
    assert there is not None
    assert back is not None
    assert there * back == pytest.approx(1)
    assert relative_mae(windows, first / units, second / units)[0] == pytest.approx(there)
