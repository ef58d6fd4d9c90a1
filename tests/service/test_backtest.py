"""POST /cross_validation, on the model that Carry ships."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.forecast.backtest import BacktestRequest

SERIES = np.round(100 + 10 * np.sin(np.arange(80) * np.pi / 6) + np.arange(80) / 4, 3).tolist()


def post(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post("/cross_validation", json=body)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


@given(horizon=st.integers(1, 30), windows=st.integers(1, 4), step=st.integers(1, 12))
def test_each_window_is_the_forecast_of_the_values_before_it(
    shipped: TestClient, horizon: int, windows: int, step: int
) -> None:
    answer = post(shipped, series=SERIES, horizon=horizon, windows=windows, step=step, levels=[80])
    assert [window["cutoff"] for window in answer["windows"]] == [
        80 - horizon - step * back for back in reversed(range(windows))
    ]
    for window in answer["windows"]:
        cutoff = window["cutoff"]
        body = {"series": SERIES[:cutoff], "horizon": horizon, "levels": [80]}
        alone = shipped.post("/forecast", json=body).json()
        assert window["actual"] == SERIES[cutoff : cutoff + horizon]
        np.testing.assert_allclose(window["median"], alone["median"], rtol=1e-4)
        for level, row in alone["quantiles"].items():
            np.testing.assert_allclose(window["quantiles"][level], row, rtol=1e-4)


def test_windows_follow_each_other_without_a_step_and_have_times(shipped: TestClient) -> None:
    answer = post(shipped, series=SERIES, horizon=5, windows=3, start="2020-01-31", freq="M")
    assert [window["cutoff"] for window in answer["windows"]] == [65, 70, 75]
    assert answer["windows"][2]["timestamps"][-1] == "2026-08-31"
    assert set(answer["metrics"]) == {"mase", "smape", "scaled_quantile_loss", "coverage"}
    assert 0 < answer["metrics"]["mase"] < 2


def test_bounds_clip_every_window_before_it_is_measured(shipped: TestClient) -> None:
    body = {"series": SERIES, "horizon": 6, "windows": 2, "quantiles": [0.001, 0.31, 0.5, 0.999], "season_length": 1}
    free, bounded = post(shipped, **body), post(shipped, **body, lower=110, upper=120)
    for before, after in zip(free["windows"], bounded["windows"], strict=True):
        assert after["median"] == np.clip(before["median"], 110, 120).tolist()
        assert after["quantiles"] == {k: np.clip(row, 110, 120).tolist() for k, row in before["quantiles"].items()}
    before, after = (
        np.abs([np.subtract(window["median"], window["actual"]) for window in answer["windows"]]).mean()
        for answer in (free, bounded)
    )
    assert before != after
    assert bounded["metrics"]["mase"] / free["metrics"]["mase"] == pytest.approx(after / before, rel=1e-2)


def test_gaps_are_no_part_of_the_measures(shipped: TestClient) -> None:
    series = [*SERIES[:70], *[None] * 10]
    answer = post(shipped, series=series, horizon=5, windows=2, levels=[80])
    assert answer["windows"][0]["actual"] == [None] * 5
    assert answer["metrics"] == {
        "mase": None, "smape": None, "scaled_quantile_loss": None, "coverage": {"80": None},
    }  # fmt: skip


def test_the_steps_of_a_request_are_those_it_reads_and_forecasts() -> None:
    request = BacktestRequest(np.zeros((20, 1)), 4, 3, 2, (0.5,))
    assert request.cutoffs == [12, 14, 16]
    assert request.cost_steps == 16 + 12


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "too short": ({"series": [1, 2, 3, 4], "horizon": 2, "windows": 2}, "$.series", "at least 5 values"),
    "nothing before": ({"series": [None, None, 3, 4], "horizon": 2}, "$.series", "no number precedes"),
    "no windows": ({"series": SERIES, "windows": 0}, "$.windows", "greater than or equal to 1"),
    "too many windows": ({"series": SERIES, "windows": 10**9, "step": 1}, "$.windows", "at most"),
    "step zero": ({"series": SERIES, "step": 0}, "$.step", "greater than or equal to 1"),
    "too far": ({"series": SERIES, "horizon": 10**6}, "$.horizon", "at most 1000"),
    "a session": ({"series": SERIES, "session_id": "x"}, "$.session_id", "not permitted"),
    "refit": ({"series": SERIES, "refit": True}, "$.refit", "not permitted"),
    "both": ({"series": SERIES, "levels": [80], "quantiles": [0.5]}, "$.levels", "not both"),
    "two lower bounds": ({"series": SERIES, "non_negative": True, "lower": 1}, "$.lower", "`non_negative`"),
    "past the calendar": ({"series": SERIES, "start": "9990-01-01", "freq": "Y"}, "$.start", "9999"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_field(shipped: TestClient, name: str) -> None:
    body, path, message = BAD[name]
    problem = post(shipped, 422, **body)
    errors = {error["path"]: error["message"] for error in problem["errors"]}
    assert message in errors[path]
