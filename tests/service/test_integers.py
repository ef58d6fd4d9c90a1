"""Every integer of every request has bounds: Python refuses to print one of thousands of digits, even in an error."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

HUGE = "1" + 4300 * "0"
MARK = "the integer"
MINIMAL: dict[str, dict[str, Any]] = {
    "/forecast": {"series": [1, 2, 3]},
    "/forecast/batch": {"requests": [{"series": [1, 2, 3]}]},
    "/anomalies": {"series": [1, 2, 3]},
    "/cross_validation": {"series": [1, 2, 3], "horizon": 1},
    "/generate": {"prompt": "a"},
    "/predict": {"text": "a"},
    "/v1/completions": {"model": "text", "prompt": "a"},
    "/v1/chat/completions": {"model": "text", "messages": [{"role": "user", "content": "a"}]},
    "/v2/forecast": {"series": {"y": [1, 2, 3], "sizes": [3]}, "h": 1, "freq": "D"},
    "/v2/historic_forecast": {"series": {"y": [1, 2, 3], "sizes": [3]}, "freq": "D"},
    "/v2/cross_validation": {"series": {"y": [1, 2, 3], "sizes": [3]}, "h": 1, "freq": "D"},
    "/v2/anomaly_detection": {"series": {"y": [1, 2, 3], "sizes": [3]}, "freq": "D", "level": 80},
    "/v2/online_anomaly_detection": {
        "series": {"y": [1, 2, 3], "sizes": [3]}, "freq": "D", "level": 80, "h": 1, "detection_size": 1,
    },
}  # fmt: skip
"""The required fields of each route; other routes need none."""


def integers(schema: dict[str, Any], parts: dict[str, Any], depth: int = 4) -> Iterator[Any]:
    """Values with the mark in place of an integer or a number: one for each place in the schema."""
    if "$ref" in schema:
        schema = parts[schema["$ref"].rsplit("/", 1)[1]]
    if schema.get("type") in ("integer", "number"):
        yield MARK
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from integers(choice, parts, depth)
    if depth and "items" in schema:
        for item in integers(schema["items"], parts, depth - 1):
            yield [item]
    for name, field in schema.get("properties", {}).items():
        for item in integers(field, parts, depth - 1) if depth else ():
            yield {name: item}
    if depth and isinstance(schema.get("additionalProperties"), dict):
        for item in integers(schema["additionalProperties"], parts, depth - 1):
            yield {"a": item}


def merged(body: Any, field: Any) -> Any:
    if not isinstance(body, dict) or not isinstance(field, dict):
        return field
    return body | {name: merged(body.get(name), item) for name, item in field.items()}


def test_every_field_refuses_an_integer_of_thousands_of_digits(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    parts, tried = document["components"]["schemas"], 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                place = parameter["in"]
                if place == "query" and next(integers(parameter["schema"], parts), None) is not None:
                    answer = client.request(method, path, params={parameter["name"]: HUGE})
                    assert answer.status_code == 422, (path, parameter["name"], answer.text[:300])
                    tried += 1
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            for field in integers(body, parts) if body else ():
                sent = json.dumps(merged(MINIMAL.get(path, {}), field)).replace(f'"{MARK}"', HUGE)
                answer = client.request(method, path, content=sent, headers={"Content-Type": "application/json"})
                assert 400 <= answer.status_code < 500, (path, field, answer.status_code, answer.text[:300])
                tried += 1
    assert tried > 80


@pytest.mark.parametrize("field", ["horizon", "windows", "step"])
def test_a_product_of_two_large_integers_is_refused(client: TestClient, field: str) -> None:
    """Each of them may pass by itself where only their product has a limit."""
    sent = '{"series":[1,2,3],"horizon":1,"windows":2,"step":2}'.replace(f'"{field}":', f'"{field}":{"9" * 4299}')
    answer = client.post("/cross_validation", content=sent, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == f"$.{field}"
