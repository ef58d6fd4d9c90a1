"""Classifiers in sessions and with states: what is read in pieces has the bits of the whole."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.builders import WORDS
from tests.classify.classifiers import classify

PLAIN = "abc. T"
MARKED = "e \r\n\u0301\u0323\u1100\u1161\u11a8\u00e9"
"""Marks, parts of Hangul syllables and of line ends: they change how the character before them is read."""
Cuts = st.sets(st.integers(1, 24), max_size=4)
Texts = st.text(PLAIN, min_size=1, max_size=25) | st.text(PLAIN + MARKED, min_size=1, max_size=12)


def pieces(text: Any, cuts: set[int]) -> list[Any]:
    """The text, or the series, in pieces."""
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


@settings(max_examples=100)
@given(text=Texts, cuts=Cuts, in_session=st.booleans())
def test_a_text_in_pieces_has_the_bits_of_the_whole_or_a_piece_is_refused(
    client: TestClient, text: str, cuts: set[int], in_session: bool
) -> None:
    """In a session, or with a state that the caller keeps. A piece is refused if it changes the piece before it."""
    whole = classify(client, model="moods", text=text)
    start: dict[str, Any] = {"model": "moods", "state": ""}
    if in_session:
        start = {"session_id": client.post("/sessions", json={"model": "moods"}).json()["id"]}
    for piece in pieces(text, cuts):
        response = client.post("/classify", json={**start, "text": piece})
        answer = response.json()
        if response.status_code == 422:
            assert any(mark in text for mark in MARKED)
            assert answer["errors"][0]["path"] == "$.text"
            assert "send the two in one text" in answer["detail"]
            return
        if not in_session:
            start["state"] = answer["state"]
    assert (answer["probabilities"], answer["steps"]) == (whole["probabilities"], whole["steps"])
    assert classify(client, **start, text="")["probabilities"] == whole["probabilities"]


@given(text=st.text("ab, .'\n", min_size=1, max_size=25), cuts=Cuts)
def test_a_text_in_words_has_the_bits_of_the_whole_if_it_is_cut_between_them(
    client: TestClient, text: str, cuts: set[int]
) -> None:
    """A word is one token with the space before it; one that is cut is two, as the documents say."""
    tokens = WORDS.encode(text)[0]
    whole = classify(client, model="words", text=text, per_step=True)
    assert whole["steps"] == len(tokens)
    start: dict[str, Any] = {"model": "words", "state": ""}
    for piece in pieces(tokens, cuts):
        answer = classify(client, **start, text="".join(piece))
        start["state"] = answer["state"]
        step = answer["steps"] - 1
        assert answer["probabilities"] == {name: shares[step] for name, shares in whole["per_step"].items()}
    assert answer["steps"] == len(tokens)


@given(values=st.lists(st.integers(-20, 20) | st.none(), min_size=2, max_size=25), cuts=Cuts)
def test_a_series_in_pieces_has_the_bits_of_the_whole(
    client: TestClient, values: list[int | None], cuts: set[int]
) -> None:
    """The session begins with the first piece."""
    values[0] = 3
    first, *others = pieces(values, cuts)
    session = client.post("/sessions", json={"model": "shapes", "series": first}).json()["id"]
    for piece in others:
        classify(client, session_id=session, series=piece)
    answer = classify(client, session_id=session, series=[])
    whole = classify(client, model="shapes", series=values)
    assert (answer["probabilities"], answer["steps"]) == (whole["probabilities"], whole["steps"])


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        ({"model": "shapes", "series": [1, 2, None]}, {"series": [4]}),
        ({"model": "moves", "series": {"speed": [1, 2], "height": [3, 4]}}, {"series": {"speed": [5], "height": [6]}}),
        ({"model": "moods", "text": "A fine"}, {"text": " day"}),
        ({"text": "A fine", "model": "moods@1"}, {"text": " day"}),
    ],
)
def test_a_session_begins_with_a_first_input_and_is_kept_as_any_other(
    client: TestClient, first: dict[str, Any], rest: dict[str, Any]
) -> None:
    """It is read, copied, rewound, exported, imported and deleted."""
    created = client.post("/sessions", json=first)
    assert created.status_code == 201, created.text
    path = f"/sessions/{created.json()['id']}"
    read = classify(client, **first)
    assert created.json()["position"] == read["steps"]
    copy = client.post(f"{path}/fork").json()["id"]
    after = classify(client, session_id=copy, **rest)
    assert after["probabilities"] != read["probabilities"]
    exported = client.get(f"/sessions/{copy}/state").json()["state"]
    assert client.post(f"/sessions/{copy}/rewind", json={"version": 0}).json()["position"] == read["steps"]
    nothing = dict.fromkeys(rest, "" if "text" in rest else [])
    assert classify(client, session_id=copy, **nothing)["probabilities"] == read["probabilities"]
    assert client.put(f"{path}/state", json={"state": exported}).json()["version"] == 1
    assert classify(client, session_id=created.json()["id"], **nothing)["probabilities"] == after["probabilities"]
    shown = client.get(path).json()
    assert (shown["model_loaded"], shown["accuracy"]) == (True, None)
    assert [version["version"] for version in shown["versions"]] == [1, 0]
    assert client.delete(path).status_code == 204
    assert client.post("/classify", json={"session_id": created.json()["id"], **rest}).status_code == 404


def test_the_model_says_who_reads_the_first_series(client: TestClient) -> None:
    """Without one, the default forecaster does."""
    for body, model in (({}, "forecast"), ({"model": "shapes"}, "shapes"), ({"model": "forecast"}, "forecast")):
        created = client.post("/sessions", json={"series": [1, 2, 3], **body}).json()
        assert (created["model"]["name"], created["position"]) == (model, 3)


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        ({"model": "moods", "series": [1]}, "$.series", "invalid_request"),
        ({"model": "shapes", "text": "a"}, "$.text", "invalid_request"),
        ({"model": "forecast", "text": "a"}, "$.model", "wrong_model_kind"),
        ({"model": "moods", "text": ""}, "$.text", "invalid_request"),
        ({"model": "moods", "text": "a" * 201}, "$.text", "limit_exceeded"),
        ({"model": "moods", "text": "a" + "\u0301" * 50}, "$.text", "invalid_request"),
        ({"model": "shapes", "series": [None]}, "$.series", "invalid_request"),
        ({"model": "shapes", "series": [1], "freq": "D"}, "$.freq", "invalid_request"),
        ({"model": "moods", "text": "a", "series": [1]}, "$.text", "invalid_request"),
        ({"model": "nothing", "series": [1]}, "$.model", "model_not_found"),
        ({"model": "whole", "series": [1]}, "$.model", "invalid_request"),
        ({"model": "whole"}, "$.model", "invalid_request"),
    ],
)
def test_a_faulty_first_input_names_its_field(client: TestClient, body: dict[str, Any], path: str, code: str) -> None:
    """Nothing is created."""
    response = client.post("/sessions", json=body)
    problem = response.json()
    assert response.status_code in (404, 422), problem
    assert (problem["errors"][0]["path"], problem["code"]) == (path, code)


def test_sessions_of_other_kinds_are_refused(client: TestClient) -> None:
    """With the kind that they belong to; and so are their states."""
    session = client.post("/sessions", json={"series": [1, 2, 3]}).json()["id"]
    state = client.get(f"/sessions/{session}/state").json()["state"]
    for start in ({"session_id": session}, {"state": state}):
        response = client.post("/classify", json={**start, "series": [4]})
        assert response.json()["code"] == "wrong_model_kind"
        assert "forecast@1, a forecast model" in response.json()["detail"]
    session = client.post("/sessions", json={"model": "shapes", "series": [1]}).json()["id"]
    assert client.post("/forecast", json={"session_id": session, "series": [1]}).json()["code"] == "wrong_model_kind"


def test_a_call_that_commits_nothing_leaves_the_session(client: TestClient) -> None:
    """It classifies what the session would be."""
    session = client.post("/sessions", json={"model": "moods", "text": "A fine"}).json()["id"]
    tried = classify(client, session_id=session, text=" day", commit=False)
    assert tried["session"]["version"] == 0
    assert classify(client, session_id=session, text=" day")["probabilities"] == tried["probabilities"]
