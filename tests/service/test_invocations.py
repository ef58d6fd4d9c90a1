"""The contracts of SageMaker and Vertex AI: where they call, what they send, and what they read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings

SERIES = [3, 4, 6, 5, 7, 8, 1, 2]
HEALTH, PREDICT = "/v1/endpoints/7/deployedModels/8", "/v1/endpoints/7/deployedModels/8:predict"
SECRET = "a-key-of-an-operator"


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[TestClient]:
    """A client of the small models."""
    with TestClient(create_app(Settings(models_dir=models, session_store="memory://"))) as client:
        yield client


def answer(client: TestClient, path: str, body: Any, **headers: str) -> Any:
    """The JSON of an answer that is not refused."""
    response = client.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def test_sagemaker_finds_the_service_well(client: TestClient) -> None:
    """GET /ping is answered with 200 and an empty body."""
    response = client.get("/ping")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/forecast", {"series": SERIES, "horizon": 3}),
        ("/forecast/batch", {"requests": [{"series": SERIES}, {"series": [None]}]}),
        ("/generate", {"prompt": "a", "max_length": 4, "seed": 1}),
        ("/predict", {"text": "ab", "top_k": 2}),
    ],
)
def test_the_fields_of_a_body_say_which_call_it_is_for(client: TestClient, path: str, body: Any) -> None:
    """The answer of /invocations is that of the call."""
    assert without_ids(answer(client, "/invocations", body)) == without_ids(answer(client, path, body))


def without_ids(value: Any) -> Any:
    """A problem within an answer has the ids of its request."""
    if isinstance(value, dict):
        return {name: without_ids(item) for name, item in value.items() if name not in ("request_id", "trace_id")}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


def test_custom_attributes_name_the_other_calls(client: TestClient) -> None:
    """Those whose bodies look alike; and only calls for predictions."""
    body = {"series": SERIES, "level": 80}
    header = {"X-Amzn-SageMaker-Custom-Attributes": "/anomalies"}
    assert answer(client, "/invocations", body, **header) == answer(client, "/anomalies", body)
    response = client.post("/invocations", json={}, headers={"X-Amzn-SageMaker-Custom-Attributes": "/models/reload"})
    assert response.status_code == 422
    assert "/cross_validation" in response.json()["detail"]


def test_a_stream_is_a_stream(client: TestClient) -> None:
    """A text arrives as server-sent events, as from /generate."""
    body = {"prompt": "a", "max_length": 4, "seed": 1, "stream": True}
    with client.stream("POST", "/invocations", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        streamed = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    whole = answer(client, "/generate", {**body, "stream": False})
    assert "".join(event.get("text", "") for event in streamed) == whole["text"]


def test_instances_are_answered_in_order_with_their_parameters(client: TestClient) -> None:
    """An instance's own field wins over the parameter; kinds may be mixed; more than run at once are answered."""
    series = [[*SERIES, i] for i in range(100)]
    instances: list[dict[str, Any]] = [{"series": values} for values in series]
    instances[7]["horizon"] = 5
    predictions = answer(client, "/invocations", {"instances": instances, "parameters": {"horizon": 2}})["predictions"]
    assert [prediction["horizon"] for prediction in predictions] == [2] * 7 + [5] + [2] * 92
    assert predictions[99] == answer(client, "/forecast", {"series": series[99], "horizon": 2})
    mixed: list[dict[str, Any]] = [{"series": SERIES}, {"prompt": "a", "max_length": 4, "seed": 1}]
    predictions = answer(client, "/invocations", {"instances": mixed})["predictions"]
    assert predictions == [answer(client, "/forecast", mixed[0]), answer(client, "/generate", mixed[1])]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$"),
        ({"horizon": 3}, "$"),
        ({"series": SERIES, "prompt": "a"}, "$"),
        ({"instances": []}, "$.instances"),
        ({"instances": {}}, "$.instances"),
        ({"instances": [SERIES]}, "$.instances[0]"),
        ({"instances": [{"series": SERIES}, {"horizon": 3}]}, "$.instances[1]"),
        ({"instances": [{"series": SERIES}, {"series": [1, "two"]}]}, "$.instances[1].series[1]"),
        ({"instances": [{"prompt": "a", "stream": True}]}, "$.instances[0].stream"),
        ({"instances": [{"series": SERIES}] * 10_001}, "$.instances"),
        ({"instances": [{"series": SERIES}], "parameters": 3}, "$.parameters"),
        ({"instances": [{"series": SERIES}], "parameter": {}}, "$.parameter"),
    ],
)
def test_a_faulty_body_names_its_field(client: TestClient, body: Any, path: str) -> None:
    """As a problem, with the path in the whole body."""
    response = client.post("/invocations", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in response.json()["errors"]] == [path]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"instances": [{"series": [1, NaN]}]}', "$.instances[0].series[1]"),
        (b'{"instances": [{"prompt": "\\ud83d"}]}', "$.instances[0].prompt"),
        (b"[]", "$"),
    ],
)
def test_what_json_cannot_say_is_refused_as_by_the_call_itself(client: TestClient, body: bytes, path: str) -> None:
    """NaN is no missing value, and half of a surrogate pair is no character."""
    response = client.post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422, response.text
    assert [error["path"] for error in response.json()["errors"]] == [path]


def test_a_refused_instance_of_another_api_has_that_apis_error(client: TestClient) -> None:
    """As the call alone has it."""
    faulty = {"model": "forecast", "inputs": [], "options": {"horizon": 2}}
    alone = client.post("/v1/timeseries/forecast", json=faulty)
    response = client.post("/invocations", json={"instances": [faulty]})
    assert (response.status_code, response.headers["content-type"]) == (400, "application/json")
    assert response.json() == alone.json()


def test_vertex_ai_names_its_routes(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AIP_HTTP_PORT, AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE win over an image's settings. Health needs no key."""
    monkeypatch.setenv("CARRY_PORT", "8000")
    for name, value in {"AIP_HTTP_PORT": "8080", "AIP_HEALTH_ROUTE": HEALTH, "AIP_PREDICT_ROUTE": PREDICT}.items():
        monkeypatch.setenv(name, value)
    settings = Settings(models_dir=models, session_store="memory://", api_keys=[SECRET])
    assert settings.port == 8080
    body = {"instances": [{"series": SERIES}], "parameters": {"horizon": 2}}
    with TestClient(create_app(settings)) as client:
        assert client.get(HEALTH).status_code == 200
        assert client.post(PREDICT, json=body).status_code == 401
        predictions = answer(client, PREDICT, body, authorization=f"Bearer {SECRET}")["predictions"]
        assert [len(prediction["median"]) for prediction in predictions] == [2]


def test_a_route_is_a_path() -> None:
    """A wrong one is refused at the start."""
    with pytest.raises(ValueError, match="predict_route"):
        Settings(predict_route="predict")


def test_the_memory_of_instances_is_released(client: TestClient) -> None:
    """Of those that are answered, and of those that are refused."""
    answer(client, "/invocations", {"instances": [{"series": SERIES}] * 3})
    client.post("/invocations", json={"instances": [{"series": SERIES}, {"series": [1, "two"]}]})
    assert client.app.state.carry.memory.held == 0  # type: ignore[attr-defined]
