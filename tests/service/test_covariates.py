"""Seasons and features known ahead, from the request to the graph, on a model whose answers show its inputs."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.app import create_app
from service.engine.request import Request
from service.engine.runner import Runner
from service.engine.scheduler import Scheduler
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest, forecast, initial_state
from service.manifest import read_manifest
from service.metrics import Metrics
from service.settings import Settings
from tests.echo import DAYS, HORIZON, write_echo

SERIES = {"y": [1, 2, None, 4], "price": [5, 6, 7, 8], "day": ["work", "fast", None, "feast"]}


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application on the echo model."""
    models = tmp_path_factory.mktemp("models")
    write_echo(models)
    settings = Settings(models_dir=models, default_forecast_model="echo", session_store="memory://")
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


def post(client: TestClient, route: str = "/forecast", status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post(route, json=body)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def added(price: float = 0.0, day: float = 0.0, season: tuple[int, int] = (1, 1)) -> float:
    """What the model adds to a forecast for the features and the season of a step."""
    return 1e3 * season[0] + 1e6 * season[1] + 1e-2 * price + 1e-4 * day


def test_the_future_reaches_the_graph_in_the_models_order_and_absent_values_are_missing(echo: TestClient) -> None:
    future = {"day": ["fast", None, "feast"], "price": [30, 40]}
    answer = post(echo, series=SERIES, future=future, horizon=4, season_length=1)
    expected = [7 + added(30, 2), 7 + added(40), 7 + added(0, 1), 7 + added()]
    assert answer["median"] == pytest.approx(expected)
    assert answer["season_length"] == [1]


def test_beyond_the_models_horizon_each_block_gets_its_part_of_the_future(echo: TestClient) -> None:
    prices = [10.0 * step for step in range(1, 11)]
    answer = post(echo, series=SERIES, future={"price": prices}, horizon=10, season_length=1)["median"]
    total = 7.0
    for step, price in enumerate(prices):
        if step and step % HORIZON == 0:
            total += sum(answer[step - HORIZON : step])
        assert answer[step] == pytest.approx(total + added(price))


def test_each_step_gets_the_features_of_the_next_and_the_last_gets_the_future(echo: TestClient) -> None:
    answer = post(echo, series=SERIES, future={"price": [9]}, horizon=1, include_history=True, season_length=1)
    after = post(echo, series=SERIES, horizon=1, include_history=True, season_length=1)
    history = [None, 1 + added(6, 2), 3 + added(7), 3 + added(8, 1)]
    assert answer["history"]["quantiles"]["0.5"] == after["history"]["quantiles"]["0.5"] == pytest.approx(history)
    assert answer["median"] == pytest.approx([7 + added(9)])


def test_a_session_with_a_future_in_each_call_answers_as_one_call(echo: TestClient) -> None:
    first = {"y": [1, 2], "price": [5, 6], "day": ["work", "fast"]}
    rest = {"y": [None, 4], "price": [7, 8], "day": [None, "feast"]}
    future = {"price": [9, 10], "day": ["fast"]}
    whole = post(echo, series=SERIES, future=future, horizon=2, include_history=True, season_length=12)
    session = echo.post("/sessions", json={"model": "echo"}).json()["id"]
    post(echo, series=first, future={"price": [7]}, session_id=session, season_length=12)
    answer = post(echo, series=rest, future=future, horizon=2, session_id=session, include_history=True)
    assert answer["median"] == pytest.approx(whole["median"])
    assert answer["season_length"] == whole["season_length"] == [12]
    assert answer["history"]["quantiles"]["0.5"] == pytest.approx(whole["history"]["quantiles"]["0.5"][2:])


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[ForecastManifest, Runner]:
    folder = write_echo(tmp_path_factory.mktemp("models"))
    manifest = read_manifest(folder, ForecastManifest)
    return manifest, Runner(folder, manifest.graph, threads=1)


@given(rows=st.integers(1, 3), steps=st.integers(1, 40), chunk=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_inputs_without_time_are_whole_in_every_piece(
    graph: tuple[ForecastManifest, Runner], rows: int, steps: int, chunk: int, seed: int
) -> None:
    """Several requests at once, each with a future and a season of its own, read in pieces."""
    manifest, runner = graph
    rng = np.random.default_rng(seed)
    scheduler = Scheduler(runner, None, False, Metrics().engine("test"), chunk=chunk)
    pending, expected = [], []
    for row in range(rows):
        values = np.where(rng.random((steps, 3)) < 0.8, rng.integers(0, 3, (steps, 3)), np.nan)
        future = rng.integers(0, 3, (HORIZON, 2)).astype(float)
        request = ForecastRequest(values, HORIZON, (0.5,), future=future)
        start = initial_state(manifest, (row + 2,))
        pending.append(Request(forecast(manifest, request, start), request.cost_steps, math.inf))
        scheduler.add(pending[-1])
        from_inputs = 1e-2 * future[:, 0] + 1e-4 * future[:, 1] + added(season=(row + 2, 1))
        expected.append(np.nansum(values[:, 0]) + from_inputs)
    while scheduler.busy:
        scheduler.step()
    np.testing.assert_allclose([request.future.result().median for request in pending], expected)


MONTHLY = np.round(100 + 10 * np.sin(np.arange(72) * np.pi / 6), 3).tolist()


def of(y: list[float], **more: Any) -> dict[str, Any]:
    """A request for a series whose other features are missing."""
    return {"series": {"y": y, "price": [None] * len(y), "day": [None] * len(y)}, "horizon": 1, **more}


@pytest.mark.parametrize(
    ("fields", "season"),
    [
        ({"season_length": 7}, [7]),
        ({"season_length": [7]}, [7]),
        ({"season_length": [4, 12]}, [4, 12]),
        ({"season_length": 1}, [1]),
        ({"freq": "QS"}, [4]),
        ({"freq": "W"}, [1]),  # the model has no room for the year's 52 weeks
        ({"freq": "H"}, [24]),
        ({"freq": "Y"}, [1]),
        ({"freq": "M", "season_length": 6}, [6]),
        ({"freq": "7H"}, [1]),
        ({}, [1]),
    ],
)
def test_the_season_is_that_of_the_request_else_of_its_frequency_else_none(
    echo: TestClient, fields: dict[str, Any], season: list[int]
) -> None:
    answer = post(echo, **of(MONTHLY, **fields))
    assert answer["season_length"] == season
    pair = (season[0], season[1] if len(season) > 1 else 1)
    assert answer["median"][0] == pytest.approx(sum(MONTHLY) + added(season=pair))


def test_a_sequence_keeps_its_season_and_refuses_another(echo: TestClient) -> None:
    state = post(echo, **of(MONTHLY, state="", season_length=12))["state"]
    assert post(echo, **of([1.0], state=state))["season_length"] == [12]
    assert post(echo, **of([1.0], state=state, freq="D", season_length=12))["season_length"] == [12]
    assert post(echo, **of([], state=state))["season_length"] == [12]
    refused = post(echo, status=422, **of([1.0], state=state, season_length=7))
    assert refused["errors"] == [{"path": "$.season_length", "message": "the sequence began with [12] and keeps it"}]


def test_a_session_begun_with_a_series_has_its_season(echo: TestClient) -> None:
    series = of(MONTHLY)["series"]
    for fields, season in (({}, [1]), ({"freq": "Q"}, [4]), ({"season_length": [7, 14]}, [7, 14])):
        id = echo.post("/sessions", json={"series": series, **fields}).json()["id"]
        assert post(echo, **of([1.0], session_id=id))["season_length"] == season
    refused = echo.post("/sessions", json={"model": "echo", "season_length": 7})
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.season_length")


def test_fields_of_a_batch_are_defaults_of_its_items(echo: TestClient) -> None:
    items = [of([0.0] * 24 + [1.0]), of([0.0] * 8 + [2.0], freq="Q"), of([3.0], quantiles=[0.9], season_length=5)]
    for item in items[:2]:
        del item["horizon"]
    answer = post(echo, "/forecast/batch", requests=items, horizon=3, levels=[80], freq="M")["results"]
    assert [len(item["median"]) for item in answer] == [3, 3, 1]
    assert [list(item["quantiles"]) for item in answer] == [["0.1", "0.9"], ["0.1", "0.9"], ["0.9"]]
    assert [item["season_length"] for item in answer] == [[12], [4], [5]]
    assert [item["median"][0] - added(season=(s, 1)) for item, s in zip(answer, (12, 4, 5), strict=True)] == [1, 2, 3]


@pytest.mark.parametrize("season", [[4], [4, 12]])
def test_a_batch_may_have_one_season_for_all(echo: TestClient, season: list[int]) -> None:
    answer = post(echo, "/forecast/batch", requests=[of([1.0]), of([2.0])], season_length=season)["results"]
    assert [item["season_length"] for item in answer] == [season, season]


def test_a_batch_of_unequal_series_answers_each_in_its_place(echo: TestClient) -> None:
    lengths = [3, 700, 1, 20, 90, 2, 21, 300]
    items = [of([1.0] * length) for length in lengths]
    items.insert(4, of([]))
    answer = post(echo, "/forecast/batch", requests=items, season_length=1)["results"]
    assert answer.pop(4)["status"] == 422
    assert [item["median"][0] - added() for item in answer] == pytest.approx(lengths)


def test_a_backtest_gets_only_the_features_known_ahead_of_each_window(echo: TestClient) -> None:
    y, price = [1, 2, 3, None, 5, 6], [1, 2, 3, 4, 5, 6]
    series = {"y": y, "price": price, "day": [None] * 6}
    answer = post(echo, "/cross_validation", series=series, horizon=2, windows=3, step=1, season_length=3, levels=[80])
    assert [window["cutoff"] for window in answer["windows"]] == [2, 3, 4]
    for window, total in zip(answer["windows"], (3, 6, 6), strict=True):
        at = window["cutoff"]
        expected = [total + added(price[at + step], season=(3, 1)) for step in (0, 1)]
        assert window["median"] == pytest.approx(expected)
        assert window["actual"] == y[at : at + 2]
    assert answer["season_length"] == [3]


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown category": (
        {"series": SERIES | {"day": ["work", "holiday", None, None]}},
        "$.series.day[1]",
        ", ".join(DAYS),
    ),
    "a number for a category": (
        {"series": SERIES | {"day": [1, None, None, None]}},
        "$.series.day[0]",
        "not a category",
    ),
    "a list for a category": (
        {"series": SERIES | {"day": [None, [], None, None]}},
        "$.series.day[1]",
        "not a category",
    ),
    "a category for a number": (
        {"series": SERIES | {"price": ["work", 1, 2, 3]}},
        "$.series.price[0]",
        "finite number",
    ),
    "too large a number": ({"series": SERIES | {"price": [1e31, 1, 2, 3]}}, "$.series.price[0]", "less than"),
    "no list": ({"series": SERIES | {"price": 3}}, "$.series.price", "list"),
    "a future of the target": ({"series": SERIES, "future": {"y": [1]}}, "$.future.y", "knows ahead only: price, day"),
    "an unknown future": ({"series": SERIES, "future": {"wind": [1]}}, "$.future.wind", "price, day"),
    "a future category": ({"series": SERIES, "future": {"day": ["x"]}}, "$.future.day[0]", "work, feast, fast"),
    "a future string": ({"series": SERIES, "future": {"price": [1, "x"]}}, "$.future.price[1]", "finite number"),
    "no future": ({"series": SERIES, "future": {}}, "$.future", "at least 1"),
    "too long a season": ({"series": SERIES, "season_length": 25}, "$.season_length", "at most 24"),
    "too long a second season": ({"series": SERIES, "season_length": [7, 28]}, "$.season_length", "at most 24"),
    "three seasons": ({"series": SERIES, "season_length": [7, 14, 21]}, "$.season_length", "or two that ascend"),
    "no seasons": ({"series": SERIES, "season_length": []}, "$.season_length", "or two that ascend"),
    "a season in none": ({"series": SERIES, "season_length": [1, 7]}, "$.season_length", "ascend from at least 2"),
    "descending seasons": ({"series": SERIES, "season_length": [12, 4]}, "$.season_length", "ascend"),
    "season zero": ({"series": SERIES, "season_length": 0}, "$.season_length", "of at least 1"),
    "a season that is a truth": ({"series": SERIES, "season_length": True}, "$.season_length", "of at least 1"),
    "a season without end": ({"series": SERIES, "season_length": 10**30}, "$.season_length", ""),
    "a fraction of a season": ({"series": SERIES, "season_length": 6.5}, "$.season_length", ""),
    "a bad freq alone": ({"series": SERIES, "freq": "fortnight"}, "$.freq", "accepted"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_features_and_seasons_are_refused_by_their_field(echo: TestClient, name: str) -> None:
    body, path, message = BAD[name]
    problem = post(echo, status=422, **body)
    errors = {error["path"]: error["message"] for error in problem["errors"]}
    assert message in errors[path]


def test_a_future_without_a_value_before_it_is_refused(echo: TestClient) -> None:
    state = post(echo, series=SERIES, state="")["state"]
    refused = post(echo, status=422, **of([], state=state, future={"price": [1]}))
    assert refused["errors"][0]["path"] == "$.future"
