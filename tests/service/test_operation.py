"""Errors, ids, logs, metrics and documentation, through the real application."""

import inspect
import re
import time
from pathlib import Path

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from starlette.routing import Route
from starlette.testclient import TestClient

from service import errors
from service.app import create_app
from service.settings import Settings

ERRORS = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, errors.CarryError) and error is not errors.CarryError
]


def test_every_error_has_a_code_and_a_status_of_its_own_and_is_in_the_tree() -> None:
    assert len({error.code for error in ERRORS}) == len(ERRORS)
    for error in ERRORS:
        assert 400 <= error.status < 600
        assert error.__name__ in (errors.__doc__ or "")
        assert str(error.status) in (errors.__doc__ or "")


@pytest.mark.parametrize(("method", "route", "status"), [("GET", "/nothing", 404), ("GET", "/forecast", 405)])
def test_unknown_routes_and_methods_answer_with_a_problem(
    client: TestClient, method: str, route: str, status: int
) -> None:
    answer = client.request(method, route)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_request_keeps_its_id_and_an_unsafe_one_gets_another(client: TestClient) -> None:
    assert client.get("/health/live", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/health/live", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_a_request_is_one_log_line_with_its_id(client: TestClient) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        client.get("/health/live", headers={"x-request-id": "abc-2"})
    [line] = [line for line in lines if line["event"] == "request"]
    assert (line["request_id"], line["path"], line["status"]) == ("abc-2", "/health/live", 200)


def test_metrics_count_requests_and_steps(client: TestClient) -> None:
    def value(name: str, **labels: str) -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        samples = (sample for family in families for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    before = value("carry_steps_predicted_total", model="forecast", version="1")
    requests = value("carry_http_requests_total", route="/forecast", model="forecast", status="200")
    client.post("/forecast", json={"series": [1, 2, 3], "horizon": 7})
    assert value("carry_steps_predicted_total", model="forecast", version="1") == before + 7
    assert value("carry_http_requests_total", route="/forecast", model="forecast", status="200") == requests + 1
    assert value("carry_models", status="loaded") == 3


def test_a_failing_model_is_our_fault_is_not_ready_and_recovers(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret of the house")

    with monkeypatch.context() as patch:
        patch.setattr("onnxruntime.InferenceSession.run", broken)
        answer = client.post("/forecast", json={"series": [1]})
        assert (answer.status_code, answer.json()["code"]) == (500, "model_failed")
        assert "secret" not in answer.text
        assert client.get("/health/ready").status_code == 503
    # An unready replica gets no traffic, so the engine repeats the smoke test until it passes.
    deadline = time.monotonic() + 30
    while client.get("/health/ready").status_code == 503:
        assert time.monotonic() < deadline
    assert client.post("/forecast", json={"series": [1]}).status_code == 200


def test_an_unexpected_error_is_a_plain_500(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret of the house")

    monkeypatch.setattr("service.forecast.prepare.series_values", broken)
    answer = client.post("/forecast", json={"series": [1]})
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "body", ['{"series":{"\\ud800":[1],"b":[2]}}', '{"series":[1],"\\udfff":1}', '{"series":[1],"model":"\\ud800"}']
)
def test_half_a_surrogate_pair_anywhere_is_a_client_error(client: TestClient, body: str) -> None:
    answer = client.post("/forecast", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (404, 422)


def test_the_documentation_has_examples_and_problems_for_each_route(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/forecast", "/generate", "/predict", "/models", "/models/{name}", "/health/ready", "/metrics"} <= set(
        paths
    )
    for route in ("/forecast", "/generate", "/predict"):
        operation = paths[route]["post"]
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        for example in examples.values():
            answer = client.post(route, json=example["value"])
            # A model that is shipped, and not one of these: its example is one of docs/translating.md.
            assert answer.status_code == (404 if example["value"].get("model") == "dates" else 200), answer.text
        assert "application/problem+json" in operation["responses"]["422"]["content"]
    assert client.get("/docs").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/sessions", "GET, HEAD, OPTIONS, POST"),
        ("PATCH", "/sessions/abc", "DELETE, GET, HEAD, OPTIONS"),
        ("PATCH", "/sessions/abc/state", "GET, HEAD, OPTIONS, PUT"),
        ("GET", "/forecast", "OPTIONS, POST"),
        ("PUT", "/v1/models", "GET, HEAD, OPTIONS"),
        ("GET", "/v1/completions", "OPTIONS, POST"),
        ("GET", "/v2/forecast", "OPTIONS, POST"),
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("POST", "/ping", "GET, HEAD, OPTIONS"),
        ("POST", "/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_and_options_get_all_methods_of_the_path(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    answer = client.options(path)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allowed, b"")


def test_every_route_but_probes_and_documentation_needs_a_key(models: Path) -> None:
    app = create_app(Settings(models_dir=models, api_keys=(SecretStr("a-key-of-this-test"),)))
    routes = [*app.state.routes, *(route for route in app.routes if isinstance(route, Route))]
    with TestClient(app, follow_redirects=False) as client:

        def is_open(method: str, path: str) -> bool:
            return client.request(method, path).status_code != 401

        open_routes = {
            (method, route.path)
            for route in routes
            for method in route.methods or ()
            if is_open(method, re.sub("{[^}]*}", "0", route.path))
        }
        paths = {path for _, path in open_routes}
        assert paths == {
            *("/health", "/health/live", "/health/ready", "/metrics", "/ping", "/version"),
            *("/", "/docs", "/redoc", "/openapi.json"),
        }
        assert {method for method, _ in open_routes} <= {"GET", "HEAD"}
        assert not any(is_open("GET", path.rstrip("/") + end) for path in paths for end in ("x", "/x"))
