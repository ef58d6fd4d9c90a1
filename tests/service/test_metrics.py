"""What /metrics says of requests, models and processes, through the real application."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from service.app import create_app
from service.errors import CarryError
from service.metrics import LoadedModel, Metrics, Moment, StreamedSteps
from service.settings import Settings

KEY = "a-key-of-this-test"
FORECAST = {"model": "forecast", "version": "1"}
TEXT = {"model": "text", "version": "1"}
MOMENT = Moment(models=(), build={}, processes=1, ready=1, restarts=0, pids={})


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[TestClient]:
    settings = Settings(models_dir=models, session_store="memory://", api_keys=(SecretStr(KEY),))
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


class Values:
    """The values of all samples at one moment."""

    def __init__(self, client: TestClient) -> None:
        families = text_string_to_metric_families(client.get("/metrics").text)
        self.samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    def labels(self, name: str) -> list[dict[str, str]]:
        return [s.labels for s in self.samples if s.name == name]


def test_a_request_is_counted_and_timed_with_its_model(client: TestClient) -> None:
    before = Values(client)
    client.post("/forecast", json={"series": [1, 2, 3], "horizon": 2})
    after = Values(client)
    for name, labels, more in [
        ("carry_http_requests_total", {"method": "POST", "route": "/forecast", "status": "200", **FORECAST}, 1),
        ("carry_http_request_duration_seconds_count", {"route": "/forecast", "status": "2xx", **FORECAST}, 1),
        ("carry_steps_read_total", FORECAST, 3),
        ("carry_steps_predicted_total", FORECAST, 2),
        ("carry_engine_queue_wait_seconds_count", FORECAST, 1),
        ("carry_engine_batch_rows_count", {"phase": "prefill", **FORECAST}, 1),
        ("carry_engine_batch_rows_sum", {"phase": "prefill", **FORECAST}, 1),
        ("carry_engine_steps_total", {"phase": "prefill", **FORECAST}, 3),
    ]:
        assert after(name, **labels) == before(name, **labels) + more, name
    seconds = {"phase": "prefill", **FORECAST}
    assert after("carry_engine_busy_seconds_total", **seconds) > before("carry_engine_busy_seconds_total", **seconds)
    assert after("carry_engine_queue_wait_seconds_sum", **FORECAST) > 0


def test_a_request_that_runs_no_model_has_no_model(client: TestClient) -> None:
    client.get("/nowhere/at/all")
    client.post("/forecast", json={"series": "no list"})
    nothing = {"model": "", "version": ""}
    values = Values(client)
    assert values("carry_http_requests_total", route="unmatched", status="404", **nothing) == 1
    assert values("carry_http_requests_total", route="/forecast", status="422", **nothing) == 1


def test_the_scrape_itself_is_the_only_request_in_flight(client: TestClient) -> None:
    client.post("/generate", json={"prompt": "a", "max_length": 3})
    assert Values(client)("carry_http_requests_in_flight") == 1


def test_problems_are_counted_by_their_code_and_begin_at_zero(client: TestClient) -> None:
    def codes(error: type[CarryError]) -> set[str]:
        return {error.code}.union(*map(codes, error.__subclasses__()))

    before = Values(client)
    assert {labels["code"] for labels in before.labels("carry_http_problems_total")} >= codes(CarryError) - {"error"}
    client.get("/models", headers={"Authorization": "Bearer not-the-key-at-all"})
    client.post("/generate", json={"prompt": 1})
    after = Values(client)
    for code in ("unauthorized", "invalid_request"):
        name = "carry_http_problems_total"
        assert after(name, code=code) == before(name, code=code) + 1


def test_a_refused_request_of_a_batch_is_no_problem_of_the_whole(client: TestClient) -> None:
    before = Values(client)("carry_http_problems_total")
    answer = client.post("/forecast/batch", json={"requests": [{"series": [1, 2]}, {"series": ["x"]}]})
    assert answer.status_code == 200
    assert Values(client)("carry_http_problems_total") == before


def test_a_stream_is_timed_to_its_first_byte_and_counts_steps_while_it_runs(client: TestClient) -> None:
    before = Values(client)
    bodies = {
        "/generate": {"prompt": "ab", "max_length": 40, "stream": True},
        "/v1/completions": {"model": "text", "prompt": "ab", "max_tokens": 40, "stream": True},
    }
    for route, body in bodies.items():
        with client.stream("POST", route, json=body) as answer:
            assert answer.status_code == 200
            answer.read()
    after = Values(client)
    assert after("carry_steps_predicted_total", **TEXT) == before("carry_steps_predicted_total", **TEXT) + 80
    assert after("carry_steps_read_total", **TEXT) == before("carry_steps_read_total", **TEXT) + 4
    for route in bodies:
        assert after("carry_http_stream_first_byte_seconds_count", route=route, **TEXT) == 1
    assert after("carry_http_streams_broken_total") == before("carry_http_streams_broken_total") == 0
    assert len(after.labels("carry_http_streams_broken_total")) == 2


def test_a_stop_text_that_takes_steps_back_breaks_no_stream() -> None:
    """A counter cannot fall: the steps were run, and count."""
    metrics = Metrics()
    steps = StreamedSteps(metrics, "text@1")
    for predicted in (5, 3, 6):
        steps.count(2, predicted)
    shown = LoadedModel("text", "1", "text", "int8")
    text = metrics.exposition(replace(MOMENT, models=[shown]))[0].decode()
    assert 'carry_steps_predicted_total{model="text",version="1"} 6.0' in text
    assert 'carry_steps_read_total{model="text",version="1"} 2.0' in text


def test_a_stream_that_an_error_ends_is_broken(client: TestClient) -> None:
    body = {"prompt": "ab", "max_length": 9000, "stream": True}
    with client.stream("POST", "/generate", json=body, headers={"X-Request-Timeout": "0.05"}) as answer:
        assert b"event: error" in b"".join(answer.iter_bytes())
    values = Values(client)
    assert values("carry_http_streams_broken_total", reason="error") == 1
    assert values("carry_http_problems_total", code="deadline_exceeded") == 1
    assert values("carry_engine_dropped_total", reason="deadline", **TEXT) == 1


def test_the_limits_stand_beside_what_they_limit(client: TestClient) -> None:
    values = Values(client)
    settings = Settings()
    assert values("carry_engine_max_waiting_steps", **TEXT) == settings.max_waiting_steps
    assert values("carry_engine_waiting_steps", **TEXT) == 0
    assert values("carry_max_held_bytes") == settings.max_waiting_bytes


def test_models_and_processes_are_shown_as_they_are(client: TestClient) -> None:
    values = Values(client)
    assert {**TEXT, "kind": "text", "precision": "float32"} in values.labels("carry_model_info")
    assert values("carry_model_up", **TEXT) == 1
    assert values("carry_models_last_reload_successful") == 1
    assert values("carry_models_last_reload_success_timestamp_seconds") > 1e9
    assert values("carry_build_info") == values("carry_processes") == 1
    assert values("carry_process_restarts_total") == 0
    assert values.labels("process_resident_memory_bytes") == [{"process": "0"}]
    assert values("process_resident_memory_bytes") > 1e6
    assert values("process_cpu_seconds_total") > 0
    assert values("process_open_fds") <= values("process_max_fds")


def test_series_of_models_that_are_not_loaded_are_not_shown() -> None:
    metrics = Metrics()
    for label in ("text@1", "text@2"):
        metrics.count(label, 1, 1)
    moment = Moment([LoadedModel("text", "2", "text", "int8")], {}, 1, 1, 0, {"0": os.getpid()})
    page = metrics.exposition(moment)[0].decode()
    shown = [s for family in text_string_to_metric_families(page) for s in family.samples if "model" in s.labels]
    assert {sample.labels["version"] for sample in shown} == {"2"}


def test_openmetrics_is_answered_to_those_who_ask_for_it(client: TestClient) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    parsed = openmetrics.text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]  # has no types
    families = {family.name for family in parsed}
    plain = client.get("/metrics", headers={"Accept": "text/plain"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert {"carry_http_requests", "carry_model_info", "process_cpu_seconds"} <= families


def test_a_scrape_is_made_beside_the_event_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    original = Metrics.exposition

    def exposition(metrics: Metrics, moment: Moment, accept: str = "") -> tuple[bytes, str]:
        threads.append(threading.current_thread().name)
        return original(metrics, moment, accept)

    monkeypatch.setattr(Metrics, "exposition", exposition)
    client.get("/metrics")
    assert len(threads) == 1
    assert threads[0].startswith("asyncio_")


def test_the_metrics_may_have_a_port_of_their_own(models: Path) -> None:
    settings = Settings(models_dir=models, session_store="memory://", metrics_port=9)
    with TestClient(create_app(settings)) as outside:
        inside = TestClient(outside.app, base_url="http://testserver:9")
        assert [inside.get(path).status_code for path in ("/metrics", "/health/live", "/health/ready")] == [200] * 3
        assert outside.get("/health/ready").status_code == 200
        for client, path in [(outside, "/metrics"), (inside, "/models"), (inside, "/")]:
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")
        assert inside.post("/forecast", json={"series": [1, 2]}).status_code == 404
