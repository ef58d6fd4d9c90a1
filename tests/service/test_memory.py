"""A request reserves the memory that it may hold before it runs, and releases it in any case."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Gauge
from starlette.testclient import TestClient

from service import app
from service.app import create_app
from service.errors import LimitExceededError, NotReadyError, QueueFullError
from service.http.state import AppState
from service.memory import HeldMemory, MemoryBudget
from service.settings import Settings

SERIES = [float(i % 7) for i in range(300)]
CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "forecast": ("/forecast", {"series": SERIES, "horizon": 3, "include_history": True}, "$.include_history"),
    "batch": ("/forecast/batch", {"requests": [{"series": SERIES}] * 20}, "$.requests"),
    "anomalies": ("/anomalies", {"series": SERIES}, "$.series"),
    "cross-validation": ("/cross_validation", {"series": SERIES, "horizon": 5, "windows": 50}, "$.windows"),
    "generate": ("/generate", {"prompt": "a", "max_length": 300, "n": 2, "logprobs": 3, "seed": 1}, "$.logprobs"),
    "stream": ("/generate", {"prompt": "a", "max_length": 300, "logprobs": 3, "stream": True}, "$.logprobs"),
    "predict": ("/predict", {"text": "a b" * 100, "per_position": True}, "$.per_position"),
    "session": ("/sessions", {"prompt": "a b" * 100}, "$.prompt"),
    "completions": ("/v1/completions", {"prompt": ["a"] * 50, "max_tokens": 5, "logprobs": 2}, "logprobs"),
    "nixtla": ("/v2/forecast", {"series": {"y": SERIES * 2, "sizes": [300, 300]}, "h": 3, "freq": "D"}, "$.series"),
}


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models_dir=models)), raise_server_exceptions=False) as opened:
        yield opened


def budget_of(client: TestClient) -> MemoryBudget:
    state: AppState = client.app.state.carry  # type: ignore[attr-defined]  # set by the lifespan
    return state.memory


def test_a_budget_refuses_a_request_that_never_fits_or_does_not_fit_now() -> None:
    budget = MemoryBudget(1000, Gauge("held", "", registry=None))
    first, second = HeldMemory(budget), HeldMemory(budget)
    with pytest.raises(LimitExceededError) as too_large:
        first.hold(1001, "$.logprobs", 1)
    assert too_large.value.path == "$.logprobs"
    first.hold(600, "$", 1)
    with pytest.raises(QueueFullError) as full:
        second.hold(401, "$", 7)
    assert full.value.retry_after == 7
    second.hold(400, "$", 1)
    first.hold(300, "$", 1)  # instead of the 600
    second.hold(700, "$", 1)
    first.release()
    first.release()
    second.release()
    assert budget.held == 0


@pytest.mark.parametrize("name", CALLS)
def test_a_call_holds_memory_until_it_is_answered(
    name: str, service: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    route, body, path = CALLS[name]
    budget, changes = budget_of(service), []
    change = MemoryBudget.change

    def record(self: MemoryBudget, before: int, after: int, *rest: Any) -> None:
        changes.append((before, after))
        change(self, before, after, *rest)

    monkeypatch.setattr(MemoryBudget, "change", record)
    answer = service.post(route, json=body)
    assert answer.status_code in (200, 201), answer.text
    (start, held), (released, end) = changes
    assert (start, end) == (0, 0)
    assert released == held > len(answer.content)
    assert budget.held == 0
    # More than the whole budget: refused, with the field.
    monkeypatch.setattr(budget, "limit", held - 1)
    refused = service.post(route, json=body)
    assert refused.status_code == (400 if route.startswith("/v1") else 422)
    assert path in refused.text
    # Others hold the budget: retry later.
    monkeypatch.setattr(budget, "limit", held)
    monkeypatch.setattr(budget, "held", 1)
    later = service.post(route, json=body)
    assert later.status_code == 429
    assert int(later.headers["retry-after"]) >= 1
    assert budget.held == 1


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_fails_or_is_late_releases_its_memory(
    name: str, service: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    route, body, _ = CALLS[name]
    service.post(route, json=body, headers={"X-Request-Timeout": "0.000001"})
    assert budget_of(service).held == 0

    def broken(*_: object, **__: object) -> None:
        raise NotReadyError("the model is being closed")

    monkeypatch.setattr("service.engine.engine.Engine.submit", broken)
    answer = service.post(route, json=body)
    assert answer.status_code == 503 or b"not_ready" in answer.content
    assert budget_of(service).held == 0


def test_requests_that_hold_too_much_together_are_refused_and_accepted_later(models: Path) -> None:
    body = {"prompt": "a", "max_length": 5000, "logprobs": 5, "seed": 1}
    with TestClient(create_app(Settings(models_dir=models, max_waiting_bytes=16 * 2**20))) as client:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.post("/generate", json=body), range(8)))
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert answer.json()["code"] == "queue_full"
        assert budget_of(client).held == 0
        assert client.post("/generate", json=body).status_code == 200


@pytest.mark.parametrize(("held", "waits"), [(0, 0), (app.QUIET_BYTES + 1, app.MAX_POSTPONED)])
def test_the_search_for_garbage_waits_while_a_large_request_runs(held: int, waits: int) -> None:
    """The search stops the process; but it does not wait for ever."""
    budget = MemoryBudget(2**30, Gauge("held", "", registry=None))
    budget.change(0, held, "", 0)
    this_thread, searches = threading.get_ident(), []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2 and threading.get_ident() == this_thread:
            searches.append(info)

    async def rounds_until_searched() -> int:
        searching = asyncio.create_task(app.collect_garbage(budget, pause=0))
        rounds = 0
        while not searches and rounds < 3 * app.MAX_POSTPONED:
            for _ in range(10):  # makes a search among all objects due
                gc.collect(1)
            await asyncio.sleep(0)
            rounds += 1
        searching.cancel()
        return rounds

    gc.callbacks.append(note)
    gc.disable()
    try:
        rounds = asyncio.run(rounds_until_searched())
    finally:
        gc.enable()
        gc.callbacks.remove(note)
    assert waits <= rounds <= waits + 5
    assert len(searches) == 1
