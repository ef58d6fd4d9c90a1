"""The engine as clients see it over HTTP: streams, batches, deadlines, a full queue, disconnects."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import Message

from service.app import create_app
from service.forecast.schemas import ForecastAnswer, ForecastBatchAnswer
from service.settings import Settings
from service.text.schemas import GenerateAnswer, PredictAnswer


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events as (name, data)."""
    parsed = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        parsed.append((fields.get("event", "message"), json.loads(fields["data"])))
    return parsed


@settings(max_examples=15)
@given(
    prompt=st.text("ab c", max_size=9),
    length=st.integers(1, 60),
    seed=st.integers(0, 2**53),
    n=st.integers(1, 4),
    stop=st.lists(st.text("aebt ", min_size=1, max_size=3), max_size=2),
)
def test_a_stream_is_the_same_text(
    client: TestClient, prompt: str, length: int, seed: int, n: int, stop: list[str]
) -> None:
    body = {"prompt": prompt, "max_length": length, "seed": seed, "n": n, "stop": stop, "temperature": 1.0}
    whole = client.post("/generate", json=body).json()
    streamed = client.post("/generate", json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *deltas, (_, last) = events(streamed.text)
    texts = ["".join(data["text"] for _, data in deltas if data["index"] == i) for i in range(n)]
    assert texts == [choice["text"] for choice in whole["choices"] or [whole]]
    assert last["finish_reason"] == whole["finish_reason"]
    assert last["usage"] == whole["usage"]
    assert last["seed"] == seed
    if n > 1:
        assert [c["finish_reason"] for c in last["choices"]] == [c["finish_reason"] for c in whole["choices"]]


def test_a_text_is_streamed_in_several_events(client: TestClient) -> None:
    body = {"prompt": "a", "max_length": 400, "seed": 1, "stream": True}
    assert len(events(client.post("/generate", json=body).text)) > 2


def test_answers_match_their_schemas(client: TestClient) -> None:
    """The service does not validate them."""
    series = {"series": [1, 2, None, 4], "horizon": 9, "include_history": True, "start": "2020-01-01", "freq": "D"}
    ForecastAnswer.model_validate_json(client.post("/forecast", json=series).content, extra="forbid")
    batch = client.post("/forecast/batch", json={"requests": [series, {"series": [None]}]})
    ForecastBatchAnswer.model_validate_json(batch.content, extra="forbid")
    text = {"prompt": "a", "n": 2, "logprobs": 3, "max_length": 5, "echo": True}
    GenerateAnswer.model_validate_json(client.post("/generate", json=text).content, extra="forbid")
    position = {"text": "abc", "per_position": True, "candidates": ["d", "ef"]}
    PredictAnswer.model_validate_json(client.post("/predict", json=position).content, extra="forbid")


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(1, 150), min_size=1, max_size=30))
def test_a_batch_answers_each_request_as_if_it_were_alone(client: TestClient, seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    requests = [
        {"series": rng.normal(5, 2, length).cumsum().tolist(), "horizon": int(rng.integers(1, 9))} for length in lengths
    ]
    together = client.post("/forecast/batch", json={"requests": requests})
    assert together.status_code == 200
    assert together.json()["results"] == [client.post("/forecast", json=request).json() for request in requests]


def test_a_bad_item_of_a_batch_gets_its_path_and_the_others_are_answered(client: TestClient) -> None:
    good = {"series": [1, 2, 3], "horizon": 2}
    items: list[Any] = [
        good,
        {"series": [1, "x"]},
        7,
        {"series": [1], "model": "nobody"},
        {**good, "levels": [99.95]},
        good,
    ]
    results = client.post("/forecast/batch", json={"requests": items}).json()["results"]
    assert results[0] == results[5] == client.post("/forecast", json=good).json()
    assert [result.get("status") for result in results] == [None, 422, 422, 404, 422, None]
    paths = [result["errors"][0]["path"] for result in results[1:5]]
    assert paths == ["$.requests[1].series[1]", "$.requests[2]", "$.requests[3].model", "$.requests[4].levels"]


@pytest.mark.parametrize(
    ("body", "path"), [({}, "$.requests"), ({"requests": []}, "$.requests"), ({"requests": 3}, "$.requests")]
)
def test_an_empty_batch_is_refused(client: TestClient, body: dict[str, Any], path: str) -> None:
    answer = client.post("/forecast/batch", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == path


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_batch_requests": 2}, "at most 2 requests"),
        ({"max_batch_answer_items": 26}, "at most 26 numbers in one answer, and these are more"),
        ({"max_waiting_steps": 17}, "at most 17 steps of all items together, and these are more"),
    ],
)
def test_a_batch_that_is_too_large_is_refused_whole(models: Path, limits: dict[str, int], message: str) -> None:
    body = {"requests": [{"series": [1, 2, 3], "horizon": 3}] * 3}
    with TestClient(create_app(Settings.model_validate({"models_dir": models, **limits}))) as client:
        answer = client.post("/forecast/batch", json=body)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["path"] == "$.requests"
    assert message in error["message"]


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon", ""])
def test_an_invalid_timeout_is_refused(client: TestClient, timeout: str) -> None:
    answer = client.post("/generate", json={"prompt": "a"}, headers={"X-Request-Timeout": timeout})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"path": "X-Request-Timeout", "message": "must be a number of seconds above 0"}]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_fails_at_its_deadline(client: TestClient, stream: bool) -> None:
    body = {"prompt": "a", "max_length": 400, "stream": stream}
    answer = client.post("/generate", json=body, headers={"X-Request-Timeout": "1e-6"})
    if stream:
        assert answer.status_code == 200
        [(name, problem)] = events(answer.text)
        assert name == "error"
    else:
        assert answer.status_code == 504
        problem = answer.json()
    assert (problem["status"], problem["code"]) == (504, "deadline_exceeded")


@pytest.fixture
def narrow(models: Path) -> Iterator[TestClient]:
    """A service with room for 300 steps."""
    chosen = Settings(models_dir=models, max_waiting_steps=300)
    with TestClient(create_app(chosen), raise_server_exceptions=False) as opened:
        yield opened


def test_a_full_queue_refuses_and_says_when_to_retry(narrow: TestClient) -> None:
    """A request larger than the queue is accepted when it is alone; while it runs, others are refused."""

    def ask(i: int) -> Any:
        return narrow.post("/generate", json={"prompt": "a", "max_length": 9000, "seed": i, "n": 1})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(refused) < 8
    for answer in refused:
        assert answer.status_code == 429
        assert answer.json()["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) >= 1
    assert ask(1).status_code == 200


def dropped(client: TestClient) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(s.value for s in samples if s.name == "carry_engine_dropped_total" and s.labels["reason"] == "cancelled")


@asynccontextmanager
async def disconnecting(app: Any, body: dict[str, Any]) -> AsyncIterator[tuple[list[Message], asyncio.Event]]:
    """A request whose client disconnects when the event is set; yields the messages sent to it, and the event."""
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
    }
    scope |= {"path": "/generate", "raw_path": b"/generate", "query_string": b"", "root_path": "", "headers": headers}
    disconnect, sent, received = asyncio.Event(), [], False

    async def receive() -> Message:
        nonlocal received
        if not received:
            received = True
            return {"type": "http.request", "body": content, "more_body": False}
        await disconnect.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    running = asyncio.create_task(app(scope, receive, send))
    yield sent, disconnect
    disconnect.set()
    await asyncio.wait_for(running, 20)


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_of_a_client_that_disconnects_is_dropped_at_once(models: Path, stream: bool) -> None:
    """The text would take minutes; then the queue has room again."""
    chosen = Settings(models_dir=models, max_generated_length=10**7, max_waiting_steps=10**7)
    with TestClient(create_app(chosen)) as client:
        app: Any = client.app
        engine = app.state.carry.registry.find("text").engine

        async def play() -> None:
            body = {"prompt": "a", "max_length": 10**7, "stream": stream}
            async with disconnecting(app, body) as (sent, disconnect):
                while engine.waiting_steps == 0 or (stream and len(sent) < 3):  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0)
                disconnect.set()

        assert client.portal is not None
        client.portal.call(play)
        while engine.waiting_steps:
            pass
        assert dropped(client) == 1
        assert client.post("/generate", json={"prompt": "a", "max_length": 5}).status_code == 200
