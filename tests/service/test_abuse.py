"""Small bodies that request much work: each is refused at once, before the model runs or a list of errors is made."""

from typing import Any

import pytest
from starlette.testclient import TestClient

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ('{"series":[' + "[]," * 20_000 + "[]]}", "$.series[0]", "finite number"),
        ("{" + ",".join(f'"{i}":0' for i in range(8000)) + "}", "$", "more than 64 fields"),
        ('{"series":{' + ",".join(f'"{i}":0' for i in range(8000)) + "}}", "$.series", "more than 64 fields"),
    ],
)
def test_a_body_full_of_errors_gets_the_first_ones(client: TestClient, body: str, path: str, message: str) -> None:
    answer = client.post("/forecast", content=body, headers=JSON)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["path"] == path
    assert message in error["message"]


@pytest.mark.parametrize(
    ("route", "body", "path"),
    [
        ("/predict", {"text": "ab" * 2500, "per_position": True, "top_k": 1000}, "$.top_k"),
        ("/generate", {"prompt": "a", "max_length": 100, "n": 4, "logprobs": 100}, "$.logprobs"),
        ("/forecast", {"series": [1.0] * 5000, "include_history": True}, "$.include_history"),
    ],
)
def test_an_answer_of_too_many_numbers_is_refused(
    client: TestClient, route: str, body: dict[str, Any], path: str
) -> None:
    answer = client.post(route, json=body)
    assert answer.status_code == 422, answer.text[:300]
    problem = answer.json()
    assert problem["code"] == "limit_exceeded"
    assert problem["errors"][0]["path"] == path


def test_a_body_without_the_type_of_json_is_told_the_header_to_send(client: TestClient) -> None:
    answer = client.post("/forecast", content='{"series":[1]}', headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_problems_are_documented_as_problems(client: TestClient) -> None:
    """Except under /v1, where errors have OpenAI's form, which is KServe's, too."""
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        media, schema = ("json", "ErrorAnswer") if path.startswith("/v1/") else ("problem+json", "Problem")
        schema = "TimeSeriesError" if path.startswith("/v1/timeseries/") else schema
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert answer["content"] == {
                        f"application/{media}": {"schema": {"$ref": f"#/components/schemas/{schema}"}}
                    }
