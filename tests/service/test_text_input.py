"""Routes normalize text in linear time, and a text in two calls gives what it gives in one."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

HOSTILE = "a" + "\u0301" * 2000 + "\u0323" * 2000

ROUTES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a prompt": ("/generate", {"prompt": HOSTILE}, "prompt"),
    "a prompt, streamed": ("/generate", {"prompt": HOSTILE, "stream": True}, "prompt"),
    "a prompt that must be known": ("/generate", {"prompt": HOSTILE, "unknown": "error"}, "prompt"),
    "a stop text": ("/generate", {"prompt": "a", "stop": ["b", "\u0301" * 50]}, "stop[1]"),
    "a text": ("/predict", {"text": HOSTILE}, "text"),
    "a candidate": ("/predict", {"text": "a", "candidates": ["b", HOSTILE]}, "candidates[1]"),
    "a session": ("/sessions", {"prompt": HOSTILE}, "prompt"),
    "a completion": ("/v1/completions", {"model": "text", "prompt": HOSTILE}, "prompt"),
    "one of several completions": ("/v1/completions", {"model": "text", "prompt": ["a", HOSTILE]}, "prompt[1]"),
    "a stop text of a completion": (
        "/v1/completions",
        {"model": "text", "prompt": "a", "stop": "\u0f73" * 50},
        "stop[0]",
    ),
}


@pytest.mark.parametrize("name", ROUTES)
def test_a_run_of_combining_marks_is_refused_with_the_fields_path(client: TestClient, name: str) -> None:
    route, body, path = ROUTES[name]
    answer = client.post(route, json=body)
    assert answer.status_code == (400 if route.startswith("/v1") else 422), answer.text
    error = answer.json()
    refused = error["error"]["param"] if route.startswith("/v1") else error["errors"][0]["path"].removeprefix("$.")
    assert refused == path
    assert "more than 30 combining marks in a row" in answer.text


@pytest.mark.parametrize("stop", ["\t", "\u00a0", "`", "\u2014", "\u2019"])
def test_a_stop_text_that_the_model_cannot_write_never_stops_it(client: TestClient, stop: str) -> None:
    """In a prompt, these characters are replaced by ones that the model knows."""
    body = {"prompt": "a", "max_length": 300, "seed": 1, "temperature": 1.0}
    unstopped = client.post("/generate", json=body).json()
    assert {" ", "'"} <= {*unstopped["text"]}
    answer = client.post("/generate", json={**body, "stop": [stop]}).json()
    assert (answer["text"], answer["finish_reason"]) == (unstopped["text"], "length")


TEXT = st.text("ae \r\n\u0301\u0323\u1100\u1161\u11a8\u00e9", min_size=1, max_size=8) | st.text("e\u0301", min_size=2)


@settings(max_examples=100)
@given(text=TEXT, cut=st.integers(0, 8), in_session=st.booleans())
def test_a_text_in_two_calls_is_the_text_in_one_or_the_second_is_refused(
    client: TestClient, text: str, cut: int, in_session: bool
) -> None:
    whole = client.post("/predict", json={"text": text, "top_k": 100}).json()
    start: dict[str, Any]
    if in_session:
        start = {"session_id": client.post("/sessions", json={"prompt": text[:cut], "model": "text"}).json()["id"]}
    else:
        start = {"state": client.post("/predict", json={"text": text[:cut], "state": ""}).json()["state"]}
    answer = client.post("/predict", json={"text": text[cut:], "top_k": 100, **start})
    if answer.status_code == 422:
        assert answer.json()["errors"][0]["path"] == "$.text"
        assert "send the two in one text" in answer.text
    else:
        assert answer.json()["next"] == whole["next"]
        if in_session:
            repeated = client.post("/predict", json={"text": "", "top_k": 100, **start})
            assert repeated.json()["next"] == whole["next"]


@pytest.mark.parametrize(("before", "after"), [("a cafe", "\u0301"), ("one\r", "\ntwo"), ("\u1100", "\u1161")])
def test_a_text_that_changes_the_text_before_it_is_refused_and_changes_no_session(
    client: TestClient, before: str, after: str
) -> None:
    session = client.post("/sessions", json={"prompt": before}).json()["id"]
    for route, field in (("/predict", "text"), ("/generate", "prompt")):
        answer = client.post(route, json={field: after, "session_id": session})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["path"] == f"$.{field}"
    assert client.get(f"/sessions/{session}").json()["version"] == 0
    ranked = client.post("/predict", json={"text": before, "candidates": ["x", after]})
    assert ranked.json()["errors"][0]["path"] == "$.candidates[1]"
    assert client.post("/predict", json={"text": "x" + after, "session_id": session}).status_code == 200


def test_a_mark_after_generated_text_is_refused(client: TestClient) -> None:
    session = client.post("/sessions", json={"model": "text"}).json()["id"]
    body = {"prompt": "", "max_length": 5, "logit_bias": {"e": 100}, "session_id": session}
    assert client.post("/generate", json=body).json()["text"] == "eeeee"
    assert client.post("/predict", json={"text": "\u0301", "session_id": session}).status_code == 422
    assert client.post("/predict", json={"text": "\u05b0", "session_id": session}).status_code == 200
