"""POST /classify and /classify/batch: the classes of series and of texts, and what is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.classify.classifiers import CLASSES, classify

SERIES = {"speed": [1, 4, 6, None, 7, 3], "height": [9, 8, 8, 2, None, 4]}
Numbers = st.lists(st.integers(-20, 20) | st.none(), min_size=1, max_size=12)


def test_the_answer_has_the_probabilities_of_all_classes(client: TestClient) -> None:
    """The most probable first; together they are 1."""
    answer = classify(client, model="moves", series=SERIES)
    shares = list(answer["probabilities"].values())
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert {*answer["probabilities"]} == {*CLASSES}
    assert answer["label"] == next(iter(answer["probabilities"]))
    assert (answer["model"], answer["steps"]) == ({"name": "moves", "version": 1}, 6)
    assert (answer["per_step"], answer["session"], answer["state"]) == (None, None, None)
    best = classify(client, model="moves", series=SERIES, top_k=1)["probabilities"]
    assert best == {answer["label"]: shares[0]}


@given(values=Numbers.filter(lambda values: any(value is not None for value in values)))
def test_per_step_are_the_probabilities_of_the_beginnings(client: TestClient, values: list[int | None]) -> None:
    """After every step those of the series so far; with a leading gap there is no beginning to classify alone."""
    whole = classify(client, model="shapes", series=values, per_step=True)["per_step"]
    for length in range(1, len(values) + 1):
        if any(value is not None for value in values[:length]):
            alone = classify(client, model="shapes", series=values[:length])["probabilities"]
            assert {name: shares[length - 1] for name, shares in whole.items()} == alone


def test_a_batch_answers_each_request_by_itself(client: TestClient) -> None:
    """The results of faulty items are problems, which name the field in the whole body."""
    requests: list[Any] = [{"series": [1, 2, 3]}, {"series": ["one"]}, {"text": "a"}, {"series": [3], "top_k": 2}, 7]
    body = {"requests": requests, "model": "shapes", "top_k": 1}
    results = client.post("/classify/batch", json=body).json()["results"]
    assert results[0] == classify(client, model="shapes", series=[1, 2, 3], top_k=1)
    assert [item["errors"][0]["path"] for item in (results[1], results[2], results[4])] == [
        "$.requests[1].series[0]",
        "$.requests[2].text",
        "$.requests[4]",
    ]
    assert len(results[3]["probabilities"]) == 2


def test_a_model_that_reads_both_ways_classifies_whole_sequences_only(client: TestClient) -> None:
    """Also long ones, which the engine must not cut; it refuses sessions, states and steps."""
    rng = np.random.default_rng(1)
    longs = [rng.normal(size=size).tolist() for size in (900, 40, 1500)]
    alone = [classify(client, model="whole", series=values) for values in longs]
    together = client.post("/classify/batch", json={"model": "whole", "requests": [{"series": v} for v in longs]})
    assert together.json()["results"] == alone
    for field, body in {
        "$.state": {"model": "whole", "state": "", "series": [1]},
        "$.per_step": {"model": "whole", "series": [1], "per_step": True},
        "$.series": {"model": "whole", "series": [1.0] * 4097},
    }.items():
        response = client.post("/classify", json=body)
        assert (response.status_code, response.json()["errors"][0]["path"]) == (422, field)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"model": "moves"}, "$.series"),
        ({"model": "moods"}, "$.text"),
        ({"model": "moods", "series": [1]}, "$.series"),
        ({"model": "shapes", "text": "a"}, "$.text"),
        ({"model": "moods", "text": ""}, "$.text"),
        ({"model": "moods", "text": "a" * 201}, "$.text"),
        ({"model": "moods", "text": "a" * 150, "per_step": True}, "$.per_step"),
        ({"model": "shapes", "series": []}, "$.series"),
        ({"model": "shapes", "series": [None]}, "$.series"),
        ({"model": "shapes", "series": [1, "two"]}, "$.series[1]"),
        ({"model": "moves", "series": [1, 2]}, "$.series"),
        ({"model": "moves", "series": {"speed": [1]}}, "$.series.height"),
        ({"model": "moves", "series": {"speed": [1], "height": [1, 2]}}, "$.series.height"),
        ({"model": "shapes", "series": [1], "top_k": 0}, "$.top_k"),
        ({"model": "shapes", "series": [1], "labels": 2}, "$.labels"),
        ({"model": "shapes", "series": [1], "per_step": "yes"}, "$.per_step"),
        ({"model": "shapes", "series": [1e31]}, "$.series[0]"),
        ({"model": "shapes", "series": [True]}, "$.series[0]"),
        ({"model": "shapes", "series": [[1]]}, "$.series[0]"),
        ({"model": "shapes", "series": [10**400]}, "$.series[0]"),
        ({"model": "moves", "series": {"speed": [1], "width": [1]}}, "$.series.height"),
        ({"model": "moves", "series": {"speed": [1], "height": [1], "width": [1]}}, "$.series.width"),
        ({"model": "moves", "series": {"speed": 1, "height": [1]}}, "$.series.speed"),
        ({"model": "moves", "series": {"speed": ["a"], "height": [1]}}, "$.series.speed[0]"),
        ({"model": "moves", "series": {"speed": [], "height": []}}, "$.series.speed"),
        ({"model": "moves", "series": {f"f{i}": [1] for i in range(65)}}, "$.series"),
        ({"model": "moods", "text": 5}, "$.text"),
        ({"model": "moods", "text": "a" + "\u0301" * 31}, "$.text"),
        ({"model": "shapes", "series": [1], "state": "x"}, "$.state"),
        ({"model": "forecast", "series": [1]}, "$.model"),
        ({"model": 5, "series": [1]}, "$.model"),
    ],
)
def test_a_faulty_request_names_its_field(client: TestClient, body: dict[str, Any], path: str) -> None:
    """As a problem with status 422."""
    response = client.post("/classify", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["path"] == path


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_numbers_that_json_has_not_are_refused(client: TestClient, number: str) -> None:
    """Never with status 500."""
    content = f'{{"model": "shapes", "series": [{number}]}}'
    response = client.post("/classify", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text


def test_long_sequences_are_classified(client: TestClient) -> None:
    """A hundred thousand steps in one call; after each step, only as many as an answer may hold."""
    long = [0.5] * 100_000
    assert classify(client, model="shapes", series=long)["steps"] == 100_000
    response = client.post("/classify", json={"model": "shapes", "series": long, "per_step": True, "top_k": 1})
    assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "$.per_step")
    body = {"model": "shapes", "requests": [{"series": [1, 2]}] * 3}
    for more, message in (({"requests": []}, "at least 1 item"), ({"top_n": 1}, "not permitted")):
        response = client.post("/classify/batch", json=body | more)
        assert response.status_code == 422
        assert message in response.json()["detail"]


def test_a_request_names_its_model_unless_there_is_one(client: TestClient) -> None:
    """None of several is the default; a model of another kind is refused elsewhere."""
    response = client.post("/classify", json={"series": [1]})
    assert response.status_code == 404
    assert "moods@1, moves@1, shapes@1, whole@1, words@1" in response.json()["detail"]
    response = client.post("/forecast", json={"model": "shapes", "series": [1]})
    assert response.json()["code"] == "wrong_model_kind"


def test_many_clients_get_what_each_gets_alone(client: TestClient) -> None:
    """Whatever else is in the batch."""
    rng = np.random.default_rng(2)
    bodies: list[dict[str, Any]] = [
        {"model": "shapes", "series": rng.normal(size=int(size)).tolist()} for size in rng.integers(1, 60, 150)
    ]
    alone = [classify(client, **body) for body in bodies]
    barrier = threading.Barrier(8)

    def run(share: int) -> list[dict[str, Any]]:
        barrier.wait()
        return [classify(client, **body) for body in bodies[share::8]]

    with ThreadPoolExecutor(8) as pool:
        for share, answers in enumerate(pool.map(run, range(8))):
            assert answers == alone[share::8]
