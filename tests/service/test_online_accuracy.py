"""Sessions score the forecasts that they made, as the values arrive."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.app import create_app
from service.engine.request import Request
from service.engine.scheduler import Scheduler
from service.engine.sequence import EMPTY_STATE, Prefill, SequenceState, Task
from service.forecast.anomalies import AnomalyRequest, detect_anomalies
from service.forecast.intervals import Floats
from service.forecast.kind import FORECAST
from service.forecast.manifest import ForecastManifest
from service.forecast.online_accuracy import HALF_LIFE, INTERVALS, NO_SCORES, SIZE, read_accuracy, score
from service.forecast.task import ACCURACY, ForecastRequest, forecast
from service.kind import codec_of
from service.sessions.state import sign_state, verify_state
from service.settings import Settings
from tests.builders import forecaster, new_scheduler, open_graphs, run, write_model

LEVELS = (0.05, 0.1, 0.5, 0.9)
FRESH = np.zeros(SIZE)
NUMBERS = st.one_of(st.just(math.nan), st.floats(-1e30, 1e30), st.integers(-3, 3).map(float))


def quantiles(rng: np.random.Generator, count: int, levels: int = len(LEVELS)) -> Floats:
    """Forecasts of so many values."""
    return np.sort(rng.normal(size=(count, levels)), axis=1)


@pytest.mark.parametrize("levels", [LEVELS, (0.5,), (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)])
@given(
    values=st.lists(NUMBERS, min_size=1, max_size=30),
    cuts=st.sets(st.integers(1, 29)),
    seed=st.integers(0, 2**32),
)
def test_values_in_pieces_are_scored_as_at_once_to_the_bit(
    levels: tuple[float, ...], values: list[float], cuts: set[int], seed: int
) -> None:
    target, forecasts = np.array(values), quantiles(np.random.default_rng(seed), len(values), len(levels))
    whole, scores = score(FRESH, target, forecasts, levels)
    numbers, parts = FRESH, []
    for start, end in itertools.pairwise(sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})):
        numbers, part = score(numbers, target[start:end], forecasts[start:end], levels)
        parts.append(part)
    assert numbers.tobytes() == whole.tobytes()
    assert sum(part.values for part in parts) == scores.values
    assert math.isclose(sum(part.scaled_error for part in parts), scores.scaled_error, rel_tol=1e-12)
    for level in INTERVALS:
        assert sum(part.inside.get(level, 0) for part in parts) == scores.inside.get(level, 0)


@given(values=st.lists(NUMBERS, max_size=200), seed=st.integers(0, 2**32))
def test_the_fading_sums_are_those_of_the_definition(values: list[float], seed: int) -> None:
    target, forecasts = np.array(values), quantiles(np.random.default_rng(seed), len(values))
    numbers, _ = score(FRESH, target, forecasts, LEVELS)
    rows: list[tuple[int, float]] = []
    last = math.nan
    for row, value in enumerate(values):
        if math.isnan(value):
            continue
        if not math.isnan(last) and (rows or value != last):
            rows.append((row, abs(value - last)))
        last = value
    answer = read_accuracy(numbers, LEVELS)
    if not rows:
        assert answer is None
        return
    index, changes = np.array([row for row, _ in rows]), np.array([change for _, change in rows])
    weights = 0.5 ** (np.arange(len(rows))[::-1] / HALF_LIFE)
    scale = weights @ changes
    gaps = target[index, None] - forecasts[index]
    losses = 2 * np.maximum(np.array(LEVELS) * gaps, (np.array(LEVELS) - 1) * gaps).mean(axis=1)
    inside_80 = (gaps[:, 1] >= 0) & (gaps[:, 3] <= 0)
    assert answer is not None
    assert answer.values == len(rows)
    assert answer.mase == pytest.approx(weights @ np.abs(gaps[:, 2]) / scale)
    assert answer.scaled_quantile_loss == pytest.approx(weights @ losses / scale)
    assert answer.coverage["80"] == pytest.approx(weights @ inside_80 / weights.sum())


def test_a_missing_value_changes_nothing() -> None:
    numbers, _ = score(FRESH, np.array([1.0, 2.0, 4.0]), quantiles(np.random.default_rng(1), 3), LEVELS)
    after, scores = score(numbers, np.array([np.nan]), np.zeros((1, len(LEVELS))), LEVELS)
    assert np.array_equal(after, numbers)
    assert scores == NO_SCORES


def test_the_first_value_and_those_before_the_first_change_are_not_scored() -> None:
    """There is no forecast before the first, and nothing to scale the error of the others by."""
    target = np.array([np.nan, 5.0, 5.0, np.nan, 5.0, 6.0, 6.0])
    numbers, scores = score(FRESH, target, np.full((7, len(LEVELS)), 5.5), LEVELS)
    assert scores.values == 2
    answer = read_accuracy(numbers, LEVELS)
    assert answer is not None
    assert answer.mase == pytest.approx((0.5 + 0.5 * 2 ** (-1 / HALF_LIFE)) / 2 ** (-1 / HALF_LIFE))


def test_to_repeat_the_last_value_has_a_scaled_error_of_one() -> None:
    values = np.random.default_rng(2).normal(size=500).cumsum()
    last = np.repeat(np.append(0.0, values[:-1])[:, None], len(LEVELS), axis=1)
    numbers, scores = score(FRESH, values, last, LEVELS)
    answer = read_accuracy(numbers, LEVELS)
    assert answer is not None
    assert answer.mase == pytest.approx(1)
    assert answer.coverage == {"50": 0, "80": 0, "95": 0}
    assert 0.9 < scores.scaled_error / scores.values < 1.1


def test_what_happened_fades() -> None:
    """After ten half-lives, a bad time counts for a thousandth."""
    rng = np.random.default_rng(3)
    bad, _ = score(FRESH, rng.normal(size=HALF_LIFE), np.full((HALF_LIFE, len(LEVELS)), 100.0), LEVELS)
    count = 10 * HALF_LIFE
    good, _ = score(bad, rng.normal(size=count), np.tile([-1.64, -1.28, 0.0, 1.28], (count, 1)), LEVELS)
    before, after = read_accuracy(bad, LEVELS), read_accuracy(good, LEVELS)
    assert before is not None
    assert before.coverage["80"] == 0
    assert after is not None
    assert after.coverage["80"] == pytest.approx(0.8, abs=0.08)


def test_the_size_of_a_series_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    values, forecasts = rng.normal(size=50), quantiles(rng, 50)
    small, _ = score(FRESH, values, forecasts, LEVELS)
    large, _ = score(FRESH, values * 2.0**40, forecasts * 2.0**40, LEVELS)
    assert read_accuracy(large, LEVELS) == read_accuracy(small, LEVELS)


def test_forecasts_of_a_constant_are_right_however_long_it_lasts() -> None:
    """They are wrong by rounding alone, and the mean change becomes smaller than that, at last zero."""
    numbers, _ = score(FRESH, np.array([1.0, 7.0, 7.0]), np.full((3, len(LEVELS)), 6.0), LEVELS)
    constant = np.full(120_000, 7.0)
    numbers, scores = score(numbers, constant, np.tile(np.nextafter(constant, 8)[:, None], len(LEVELS)), LEVELS)
    answer = read_accuracy(numbers, LEVELS)
    assert answer is not None
    assert (answer.values, answer.mase, answer.scaled_quantile_loss) == (120_002, None, None)
    assert answer.coverage == pytest.approx({"50": 1, "80": 1, "95": 1})
    assert scores.scaled_error == 0


def test_a_model_of_one_quantile_has_no_intervals() -> None:
    numbers, _ = score(FRESH, np.array([1.0, 2.0, 3.0]), np.zeros((3, 1)), (0.5,))
    answer = read_accuracy(numbers, (0.5,))
    assert answer is not None
    assert answer.coverage == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained forecaster."""
    return write_model(forecaster(), tmp_path_factory.mktemp("models"), "forecast")


@pytest.fixture(scope="module")
def opened(folder: Path) -> tuple[ForecastManifest, Scheduler]:
    manifest, _, scheduler = new_scheduler(open_graphs(folder))
    assert isinstance(manifest, ForecastManifest)
    return manifest, scheduler


def series(seed: int, length: int) -> Floats:
    """A random walk with gaps (T, 1)."""
    rng = np.random.default_rng(seed)
    values = rng.normal(20, 5, (length, 1)).cumsum(axis=0)
    values[1:][rng.random((length - 1, 1)) < 0.1] = np.nan
    return values


def read(
    opened: tuple[ForecastManifest, Scheduler],
    values: Floats,
    start: SequenceState = EMPTY_STATE,
    history: bool = False,
) -> SequenceState:
    manifest, scheduler = opened
    request = ForecastRequest(values, 1, manifest.quantile_levels, history)
    return run(scheduler, forecast(manifest, request, start)).after


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), cuts=st.sets(st.integers(1, 29), max_size=5))
def test_calls_that_forecast_each_value_score_each_however_the_series_is_cut(
    opened: tuple[ForecastManifest, Scheduler], seed: int, cuts: set[int]
) -> None:
    """The forecasts themselves are the same to a rounding of the graph."""
    manifest, scheduler = opened
    values = series(seed, 30)
    whole = read(opened, values, history=True)
    state = EMPTY_STATE
    for i, (start, end) in enumerate(itertools.pairwise(sorted({0, 30, *cuts}))):
        if i % 2:
            state = read(opened, values[start:end], state, history=True)
        else:
            request = AnomalyRequest(values[start:end], 99.0)
            state = run(scheduler, detect_anomalies(manifest, request, state)).after
    single = EMPTY_STATE
    for value in values:
        single = read(opened, value[None], single)
    for other in (state, single):
        assert other.states[ACCURACY][0, 0] == whole.states[ACCURACY][0, 0] > 0
        np.testing.assert_allclose(other.states[ACCURACY][0, :5], whole.states[ACCURACY][0, :5], rtol=1e-3)


def test_a_call_with_several_values_scores_the_first(opened: tuple[ForecastManifest, Scheduler]) -> None:
    """The session made no forecast before the others. The graph is not asked for one: it would cost more than all that
    the call costs."""
    values = np.array([[20.0], [21.0], [19.0], [22.0], [20.5]])
    start = read(opened, values[:2])
    assert start.states[ACCURACY][0, 0] == 0
    together, first = read(opened, values[2:], start), read(opened, values[2:3], start)
    assert np.array_equal(together.states[ACCURACY][0, :-1], first.states[ACCURACY][0, :-1])
    assert (together.states[ACCURACY][0, 0], together.states[ACCURACY][0, -1]) == (1, 20.5)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), rows=st.integers(2, 12))
def test_a_series_in_a_batch_is_scored_as_alone_to_the_bit(
    opened: tuple[ForecastManifest, Scheduler], seed: int, rows: int
) -> None:
    manifest, scheduler = opened
    many = [series(seed + row, 20) for row in range(rows)]
    starts = [read(opened, values[:10], history=True) for values in many]
    requests = [
        Request(
            forecast(manifest, ForecastRequest(values[10:], 1, manifest.quantile_levels, True), start), 11, math.inf
        )
        for values, start in zip(many, starts, strict=True)
    ]
    for request in requests:
        scheduler.add(request)
    while not all(request.future.done() for request in requests):
        scheduler.step()
    for request, values, start in zip(requests, many, starts, strict=True):
        alone = read(opened, values[10:], start, history=True)
        assert request.future.result().after.states[ACCURACY].tobytes() == alone.states[ACCURACY].tobytes()


def test_one_more_value_asks_the_graph_for_nothing_more(opened: tuple[ForecastManifest, Scheduler]) -> None:
    """Its forecast is in the state: also its history, and whether it is an anomaly."""
    manifest, _ = opened
    start, value = read(opened, np.array([[20.0], [21.0]])), np.array([[22.0]])
    tasks: list[Task[Any]] = [
        forecast(manifest, ForecastRequest(value, 1, manifest.quantile_levels), start),
        forecast(manifest, ForecastRequest(value, 1, manifest.quantile_levels, True), start),
        detect_anomalies(manifest, AnomalyRequest(value, 99.0), start),
    ]
    for task in tasks:
        asked = next(task)
        assert isinstance(asked, Prefill)
        assert asked.output_names == ("quantiles", "seasons")


STATE_KEY = "a-state-key-of-this-test"


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    chosen = Settings.model_validate({"models_dir": folder.parent.parent, "state_key": STATE_KEY})
    with TestClient(create_app(chosen)) as opened:
        yield opened


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code < 300, response.text
    answer: dict[str, Any] = response.json()
    return answer


def accuracy(client: TestClient, id: str) -> Any:
    return client.get(f"/sessions/{id}").json()["accuracy"]


def test_a_session_shows_its_accuracy(client: TestClient) -> None:
    id = post(client, "/sessions", series=[20, 21])["id"]
    assert accuracy(client, id) is None
    answer = post(client, "/forecast", session_id=id, series=[], horizon=1, quantiles=[0.1, 0.5, 0.9])
    low, median, high = (answer["quantiles"][level][0] for level in ("0.1", "0.5", "0.9"))
    value = high + 100 * (high - low)
    post(client, "/forecast", session_id=id, series=[value], horizon=1, include_history=True)
    loss = 2 * (0.1 * (value - low) + 0.5 * (value - median) + 0.9 * (value - high)) / 3
    assert accuracy(client, id) == {
        "values": 1,
        "mase": pytest.approx((value - median) / abs(value - 21)),
        "scaled_quantile_loss": pytest.approx(loss / abs(value - 21)),
        "coverage": {"50": 0, "80": 0, "95": 0},
    }
    post(client, "/forecast", session_id=id, series=[None], horizon=1)
    assert accuracy(client, id)["values"] == 1
    post(client, "/anomalies", session_id=id, series=[22, 23])
    assert accuracy(client, id)["values"] == 3


def test_calls_that_change_nothing_and_refused_calls_score_nothing(client: TestClient) -> None:
    id = post(client, "/sessions", series=[20, 21])["id"]
    post(client, "/forecast", session_id=id, series=[22], horizon=1, commit=False)
    post(client, "/anomalies", session_id=id, series=[22], commit=False)
    assert client.post("/forecast", json={"session_id": id, "series": [22], "horizon": -1}).status_code == 422
    assert accuracy(client, id) is None


def test_accuracy_goes_with_forks_rewinds_exports_and_imports(client: TestClient) -> None:
    id = post(client, "/sessions", series=[20, 21])["id"]
    history = []
    for value in (23, 20, 26):
        post(client, "/forecast", session_id=id, series=[value], horizon=1)
        history.append(accuracy(client, id))
    assert [each["values"] for each in history] == [1, 2, 3]
    fork = post(client, f"/sessions/{id}/fork", version=2)["id"]
    assert accuracy(client, fork) == history[1]
    state = client.get(f"/sessions/{id}/state").json()["state"]
    assert accuracy(client, post(client, "/sessions", state=state)["id"]) == history[2]
    post(client, f"/sessions/{id}/rewind", version=1)
    assert accuracy(client, id) == history[0]
    assert client.put(f"/sessions/{id}/state", json={"state": state}).status_code == 200
    assert accuracy(client, id) == history[2]


def test_a_state_of_the_caller_has_its_accuracy(client: TestClient) -> None:
    state = ""
    for value in (20, 21, 23):
        state = post(client, "/forecast", state=state, series=[value], horizon=1)["state"]
    assert accuracy(client, post(client, "/sessions", state=state)["id"])["values"] == 2


def test_a_state_of_an_earlier_release_is_scored_from_its_second_value_on(client: TestClient, folder: Path) -> None:
    """It has neither an accuracy nor the last value. The first value after it has nothing to be compared with."""
    manifest, *_ = open_graphs(folder)
    assert isinstance(manifest, ForecastManifest)
    codec = codec_of(FORECAST, manifest, manifest.graphs("float32"))
    state = post(client, "/forecast", state="", series=[20, 21, 19], horizon=1)["state"]
    after = codec.decode(verify_state(state, STATE_KEY.encode())[0])
    tensors = {name: array for name, array in after.states.items() if name != ACCURACY}
    payload = codec.encode(SequenceState(after.position, tensors))
    assert payload.startswith(b"carry\x01")
    id = post(client, "/sessions", state=sign_state(payload, STATE_KEY.encode()))["id"]
    expected = post(client, "/forecast", state=state, series=[22], horizon=3)
    assert accuracy(client, id) is None
    answer = post(client, "/forecast", session_id=id, series=[22], horizon=3)
    assert answer["quantiles"] == expected["quantiles"]
    assert accuracy(client, id) is None
    post(client, "/forecast", session_id=id, series=[21], horizon=1)
    assert accuracy(client, id)["values"] == 1


INSIDE = "carry_session_values_inside_total"


def counted(client: TestClient) -> dict[tuple[str, str], float]:
    """The counters of accuracy in /metrics, by name and interval."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    names = ("carry_session_scored_values_total", "carry_session_scaled_error_total", INSIDE)
    return {
        (sample.name, sample.labels.get("interval", "")): sample.value
        for sample in samples
        if sample.name in names and (sample.labels["model"], sample.labels["version"]) == ("forecast", "1")
    }


def test_metrics_count_each_value_that_a_session_stored_once(folder: Path) -> None:
    chosen = Settings.model_validate({"models_dir": folder.parent.parent, "state_key": STATE_KEY})
    with TestClient(create_app(chosen)) as client:
        id = post(client, "/sessions", series=[20, 21])["id"]
        post(client, "/forecast", session_id=id, series=[25], horizon=1, commit=False)
        state = post(client, "/forecast", state="", series=[20, 21], horizon=1)["state"]
        post(client, "/forecast", state=state, series=[25], horizon=1)
        assert counted(client) == {}
        body, key = {"session_id": id, "series": [25], "horizon": 1}, {"Idempotency-Key": "once"}
        first = client.post("/forecast", json=body, headers=key)
        again = client.post("/forecast", json=body, headers=key)
        assert again.json() == first.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        assert client.post("/forecast", json=body, headers={"If-Match": '"0"'}).status_code == 412
        after_one, measured = counted(client), accuracy(client, id)
        assert after_one["carry_session_scored_values_total", ""] == 1
        assert after_one["carry_session_scaled_error_total", ""] == pytest.approx(measured["mase"])
        for level, share in measured["coverage"].items():
            assert after_one[INSIDE, level] == share
        post(client, "/anomalies", session_id=id, series=[24, None, 22])
        assert counted(client)["carry_session_scored_values_total", ""] == 3
