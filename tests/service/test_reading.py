"""What the routes make of texts before a model reads them: in linear time, and cut in two as in one piece."""

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
def test_a_run_of_combining_marks_is_refused_by_the_fields_name(client: TestClient, name: str) -> None:
    route, body, path = ROUTES[name]
    answer = client.post(route, json=body)
    assert answer.status_code == (400 if route.startswith("/v1") else 422), answer.text
    told = answer.json()
    where = told["error"]["param"] if route.startswith("/v1") else told["errors"][0]["path"].removeprefix("$.")
    assert where == path
    assert "more than 30 combining marks in a row" in answer.text


@pytest.mark.parametrize("stop", ["\t", "\u00a0", "`", "\u2014", "\u2019"])
def test_a_stop_text_that_the_model_cannot_write_is_never_met(client: TestClient, stop: str) -> None:
    """Though a prompt's would be read as one that it can."""
    body = {"prompt": "a", "max_length": 300, "seed": 1, "temperature": 1.0}
    free = client.post("/generate", json=body).json()
    assert {" ", "'"} <= {*free["text"]}
    found = client.post("/generate", json={**body, "stop": [stop]}).json()
    assert (found["text"], found["finish_reason"]) == (free["text"], "length")


TEXT = st.text("ae \r\n\u0301\u0323\u1100\u1161\u11a8\u00e9", min_size=1, max_size=8) | st.text("e\u0301", min_size=2)


@settings(max_examples=100)
@given(text=TEXT, cut=st.integers(0, 8), carried=st.booleans())
def test_a_text_in_two_calls_is_the_text_in_one_or_the_second_is_refused(
    client: TestClient, text: str, cut: int, carried: bool
) -> None:
    whole = client.post("/predict", json={"text": text, "top_k": 100}).json()
    if carried:
        before = client.post("/predict", json={"text": text[:cut], "state": ""}).json()
        begun: dict[str, Any] = {"state": before["state"]}
    else:
        begun = {"session_id": client.post("/sessions", json={"prompt": text[:cut], "model": "text"}).json()["id"]}
    told = client.post("/predict", json={"text": text[cut:], "top_k": 100, **begun})
    if told.status_code == 422:
        assert told.json()["errors"][0]["path"] == "$.text"
        assert "send the two in one text" in told.text
    else:
        assert told.json()["next"] == whole["next"]
        again = client.post("/predict", json={"text": "", "top_k": 100, **begun}) if not carried else told
        assert again.json()["next"] == whole["next"]


@pytest.mark.parametrize(("before", "after"), [("a cafe", "\u0301"), ("one\r", "\ntwo"), ("\u1100", "\u1161")])
def test_what_would_change_what_was_read_is_refused_and_moves_nothing(
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


def test_a_mark_after_what_was_written_is_refused_too(client: TestClient) -> None:
    session = client.post("/sessions", json={"model": "text"}).json()["id"]
    body = {"prompt": "", "max_length": 5, "logit_bias": {"e": 100}, "session_id": session}
    assert client.post("/generate", json=body).json()["text"] == "eeeee"
    assert client.post("/predict", json={"text": "\u0301", "session_id": session}).status_code == 422
    assert client.post("/predict", json={"text": "\u05b0", "session_id": session}).status_code == 200
