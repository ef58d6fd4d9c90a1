"""POST /anomalies, on the model that Carry ships and on one whose answers are plain arithmetic."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.app import create_app
from service.forecast.intervals import TAIL_LEVELS, interpolate, level_of
from service.settings import Settings
from tests.echo import write_echo

LEVELS = [0.1, 0.25, 0.5, 0.9]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    models = tmp_path_factory.mktemp("models")
    write_echo(models)
    settings = Settings(
        models_dir=models, default_forecast_model="echo", session_store="memory://", max_answer_items=99
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


def post(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post("/anomalies", json=body)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def wave(length: int, spikes: dict[int, float | None]) -> list[float | None]:
    values: list[float | None] = np.round(50 + 5 * np.sin(np.arange(length) * np.pi / 6), 3).tolist()
    for at, value in spikes.items():
        values[at] = value
    return values


def of(y: list[float | None], **more: Any) -> dict[str, Any]:
    return {"series": {"y": y, "price": [None] * len(y), "day": [None] * len(y)}, "season_length": 1, **more}


def test_a_spike_is_an_anomaly_and_usual_values_are_not(shipped: TestClient) -> None:
    answer = post(shipped, series=wave(120, {80: 95.0, 100: None}), level=80, freq="M", start="2020-01-01")
    assert answer["anomaly"][80]
    assert answer["score"][80] == max(score for score in answer["score"] if score is not None)
    assert sum(answer["anomaly"][36:80]) <= 0.3 * 44
    assert answer["anomaly"][0] is answer["anomaly"][100] is answer["lower"][0] is answer["score"][100] is None
    assert answer["lower"][100] <= answer["median"][100] <= answer["upper"][100]
    assert answer["timestamps"][80] == "2026-09-01"
    assert len({len(answer[name]) for name in ("anomaly", "lower", "upper", "median", "score", "timestamps")}) == 1


def test_the_interval_is_the_one_step_history_of_a_forecast(shipped: TestClient) -> None:
    series = wave(50, {20: None})
    answer = post(shipped, series=series, level=80, non_negative=True)
    history = shipped.post(
        "/forecast", json={"series": series, "levels": [80], "include_history": True, "non_negative": True}
    ).json()["history"]["quantiles"]
    assert [answer["lower"], answer["upper"]] == [history["0.1"], history["0.9"]]


def test_bounds_clip_the_interval_and_a_value_beyond_them_is_out_of_the_ordinary(shipped: TestClient) -> None:
    series = wave(50, {30: 20.0})
    free, bounded = (post(shipped, series=series, level=99, **bounds) for bounds in ({}, {"lower": 40, "upper": 60}))
    for name in ("lower", "median", "upper"):
        assert bounded[name][1:] == np.clip(free[name][1:], 40, 60).tolist()
    assert min(free["lower"][1:]) < 40 < 60 < max(free["upper"][1:])
    assert bounded["anomaly"][30]
    assert bounded["score"][30] == 0.001


@given(cuts=st.sets(st.integers(1, 39), max_size=4))
def test_a_session_gives_one_value_at_a_time_the_verdicts_of_all_at_once(shipped: TestClient, cuts: set[int]) -> None:
    series, fields = wave(40, {30: 80.0, 35: None}), {"level": 80, "season_length": 1}
    whole = post(shipped, series=series, **fields)
    session = shipped.post("/sessions", json={"model": "forecast"}).json()["id"]
    pieces = [
        post(shipped, series=series[a:b], session_id=session, **fields)
        for a, b in itertools.pairwise([0, *sorted(cuts), 40])
    ]
    assert [verdict for piece in pieces for verdict in piece["anomaly"]] == whole["anomaly"]
    for name in ("lower", "upper", "median"):
        joined = np.array([number for piece in pieces for number in piece[name]], dtype=float)
        np.testing.assert_allclose(joined, np.array(whole[name], dtype=float), rtol=1e-4, atol=1e-4)
    assert pieces[-1]["session"]["position"] == 40


def test_an_uncommitted_call_does_not_move_the_session(echo: TestClient) -> None:
    id = echo.post("/sessions", json={"series": of([1.0, 2.0])["series"], "season_length": 1}).json()["id"]
    uncommitted = post(echo, **of([3.0], session_id=id, commit=False))
    assert uncommitted == post(echo, **of([3.0], session_id=id, commit=False))
    assert post(echo, **of([3.0], session_id=id))["session"]["position"] == 3


def test_the_feature_of_the_next_step_counts_where_it_is_known(echo: TestClient) -> None:
    state = post(echo, **of([1.0], state="", future={"price": [100]}))["state"]
    assert post(echo, **of([2.0], state=state))["median"] == pytest.approx([1 + 1_001_000 + 1.0])


def test_the_level_is_99_and_may_be_wider(echo: TestClient, shipped: TestClient) -> None:
    assert post(echo, **of([1.0]))["level"] == 99
    series = [float(i % 5) for i in range(40)]
    widths = [
        np.subtract(answer["upper"][5:], answer["lower"][5:])
        for answer in (post(shipped, series=series, level=level) for level in (98, 99, 99.5, 99.8))
    ]
    assert all((np.diff(widths, axis=0) > 0).ravel())


@pytest.mark.parametrize("value", [0.1, 7.5, 1e-9, 1e12, 0.0, -3.3])
def test_a_constant_series_has_no_anomaly_until_it_changes(shipped: TestClient, value: float) -> None:
    for changed in (value + 1 + abs(value), value * 1.0001 or 0.001):
        answer = post(shipped, series=[value] * 30 + [changed])
        assert answer["anomaly"] == [None, *[False] * 29, True]


def test_a_step_is_an_anomaly_and_rounding_is_not_however_high_the_level(shipped: TestClient) -> None:
    series = [1.7e12 + 100 * (i % 2) for i in range(40)]
    assert post(shipped, series=[*series, 1.7e12 + 5000])["anomaly"][-1] is True


@given(
    value=st.integers(-3, 12).map(float),
    quantiles=st.lists(st.integers(0, 9), min_size=4, max_size=4).map(lambda answer: sorted(map(float, answer))),
)
def test_the_score_is_the_level_at_which_the_value_lies(value: float, quantiles: list[float]) -> None:
    (score,) = level_of(np.array([value]), np.array([quantiles]), LEVELS)
    levels = (*TAIL_LEVELS, *LEVELS, *(1 - level for level in reversed(TAIL_LEVELS)))
    drawn = interpolate(np.array(quantiles), LEVELS, levels)
    equal = [level for level, quantile in zip(levels, drawn, strict=True) if quantile == value]
    expected = (equal[0] + equal[-1]) / 2 if equal else np.interp(value, drawn, levels)
    assert score == pytest.approx(expected)


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no value": (of([]), "$.series.y", "at least one"),
    "a level too wide": (of([1.0], level=99.9), "$.level", "99.8 %"),
    "level zero": (of([1.0], level=0), "$.level", "greater than 0"),
    "a list of levels": (of([1.0], level=[80]), "$.level", "number"),
    "a horizon": (of([1.0], horizon=3), "$.horizon", "not permitted"),
    "too long": (of([1.0] * 20), "$.series", "at most 99"),
    "start alone": (of([1.0], start="2020-01-01"), "$.freq", "both"),
    "a text model": (of([1.0], model="nobody"), "$.model", "no such model"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_field(echo: TestClient, name: str) -> None:
    body, path, message = BAD[name]
    problem = post(echo, status=404 if name == "a text model" else 422, **body)
    errors = {error["path"]: error["message"] for error in problem["errors"]}
    assert message in errors[path]


def test_a_resumed_call_without_a_value_is_refused(echo: TestClient) -> None:
    state = post(echo, **of([1.0], state=""))["state"]
    assert post(echo, 422, **of([], state=state))["errors"][0]["path"] == "$.series"
