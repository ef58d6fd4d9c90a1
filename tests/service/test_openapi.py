"""The OpenAPI document, as client generators read it."""

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.http.sessions import WholeSessionAnswer
from service.kinds import KINDS

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_operations_are_named_as_a_person_would_name_them(operations: list[Operation]) -> None:
    names = [operation["operationId"] for _, _, operation in operations]
    assert len(set(names)) == len(names)
    for (method, path, _), name in zip(operations, names, strict=True):
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+){0,4}", name)
        # FastAPI's own names end in the path and the method.
        assert not name.endswith(f"_{method}"), path


def test_every_operation_has_a_summary_of_its_own_that_is_short(operations: list[Operation]) -> None:
    summaries = [operation["summary"] for _, _, operation in operations]
    assert len(set(summaries)) == len(summaries)
    for summary in summaries:
        assert len(summary) <= 50, summary
        # FastAPI makes one of the function's name.
        assert not re.fullmatch(r"(Get|Post|Put|Delete)( [A-Z]\w*)+", summary), summary


def test_a_session_is_documented_with_an_example_that_has_its_form(document: dict[str, Any]) -> None:
    [example] = document["components"]["schemas"]["WholeSessionAnswer"]["examples"]
    assert WholeSessionAnswer.model_validate(example).model_dump(mode="json") == example


def test_every_operation_has_a_tag_that_is_described(document: dict[str, Any], operations: list[Operation]) -> None:
    described = {tag["name"] for tag in document["tags"]}
    assert {tag for _, _, operation in operations for tag in operation["tags"]} == described
    assert all(len(operation["tags"]) == 1 for _, _, operation in operations)


def test_the_document_names_the_server_and_the_licence(document: dict[str, Any]) -> None:
    assert document["servers"][0]["url"] == "/"
    assert document["info"]["license"]["identifier"] == "Apache-2.0"


def test_every_operation_says_whether_it_needs_a_key_and_which_scope(operations: list[Operation]) -> None:
    scopes = {("get", "/metrics"): ["metrics"], ("post", "/models/reload"): ["admin"]}
    scopes |= {("get", path): [] for _, path, _ in operations if re.match("/models(/{name}|$)", path)}
    for method, path, operation in operations:
        is_open = path in ("/health/live", "/health/ready", "/version", "/ping")
        key = {"key": scopes.get((method, path), ["use"])}
        assert operation["security"] == ([] if is_open else [key, {}]), path
        assert ({"401", "403"} <= operation["responses"].keys()) is not is_open


def test_every_operation_with_a_body_documents_the_errors_of_bodies(operations: list[Operation]) -> None:
    for _, path, operation in operations:
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= operation["responses"].keys(), path


def test_streams_have_a_schema_so_that_clients_do_not_parse_them_as_json(operations: list[Operation]) -> None:
    streamed = [
        answer["content"]["text/event-stream"]["schema"]["type"]
        for _, _, operation in operations
        for answer in operation["responses"].values()
        if "text/event-stream" in answer.get("content", {})
    ]
    assert streamed
    assert all("string" in types for types in streamed)


def test_every_schema_is_used(document: dict[str, Any]) -> None:
    text = str(document)
    for name in document["components"]["schemas"]:
        assert f"'#/components/schemas/{name}'" in text, name


def test_models_are_documented_with_the_manifests_of_all_kinds(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    names = [kind.manifest.__name__ for kind in KINDS]
    assert schemas["ModelAnswer"]["properties"]["manifest"]["anyOf"] == [
        {"$ref": f"#/components/schemas/{name}"} for name in names
    ]
    assert schemas["LoadedModel"]["properties"]["kind"]["enum"] == [kind.name for kind in KINDS]
