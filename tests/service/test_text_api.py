"""POST /generate and POST /predict, through the real application."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient


def post(client: TestClient, route: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(route, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_greedy_text_is_the_most_probable_character_each_time(client: TestClient) -> None:
    text = post(client, "/generate", prompt="Hello", max_length=8, temperature=0)["text"]
    for i in range(8):
        expected = post(client, "/predict", text="Hello" + text[:i], top_k=1)["next"][0]["character"]
        assert text[i] == expected


def test_a_seed_is_told_and_reproduces_the_text(client: TestClient) -> None:
    first = post(client, "/generate", prompt="Once", max_length=30)
    again = post(client, "/generate", prompt="Once", max_length=30, seed=first["seed"])
    assert first["text"] == again["text"]
    assert first["usage"] == {"prompt_characters": 4, "generated_characters": 30}
    assert first["finish_reason"] == "length"


def test_n_texts_are_the_first_ones_of_more(client: TestClient) -> None:
    one = post(client, "/generate", prompt="a", max_length=20, seed=5, temperature=1.0)
    three = post(client, "/generate", prompt="a", max_length=20, seed=5, temperature=1.0, n=3)
    assert one["choices"] is None
    assert three["text"] == one["text"] == three["choices"][0]["text"]
    assert len({choice["text"] for choice in three["choices"]}) == 3


def test_a_stop_text_ends_before_itself(client: TestClient) -> None:
    whole = post(client, "/generate", prompt="b", max_length=40, seed=1)["text"]
    stop = whole[10:12]
    cut = post(client, "/generate", prompt="b", max_length=40, seed=1, stop=[stop], logprobs=1)
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"
    assert len(cut["logprobs"]) == len(cut["text"])


def test_logprobs_are_those_of_predict(client: TestClient) -> None:
    found = post(client, "/generate", prompt="xy", max_length=3, seed=2, logprobs=4)
    expected = post(client, "/predict", text="xy", top_k=4)["next"]
    top = found["logprobs"][0]["top"]
    assert [c["character"] for c in top] == [c["character"] for c in expected]
    assert [2.718281828459045 ** c["logprob"] for c in top] == pytest.approx([c["probability"] for c in expected])


def test_positions_tell_what_each_character_cost(client: TestClient) -> None:
    import math

    text = "the quick brown fox"
    found = post(client, "/predict", text=text, per_position=True, top_k=3)
    assert "".join(p["character"] for p in found["positions"]) == text
    assert found["positions"][0]["probability"] is None
    costs = [-math.log2(p["probability"]) for p in found["positions"][1:]]
    assert found["bits_per_character"] == pytest.approx(sum(costs) / len(costs))
    for i, position in enumerate(found["positions"]):
        alone = post(client, "/predict", text=text[: i + 1], top_k=3)["next"]
        assert [c["character"] for c in position["next"]] == [c["character"] for c in alone]
        assert [c["probability"] for c in position["next"]] == pytest.approx(
            [c["probability"] for c in alone], abs=1e-5
        )


def test_unknown_characters_are_told_and_typographic_ones_understood(client: TestClient) -> None:
    found = post(client, "/generate", prompt="na\u00efve \u2019 \U0001f600\U0001f600", max_length=2, temperature=0)
    assert found["unknown_characters"] == ["\u00ef", "\U0001f600"]
    curly = post(client, "/predict", text="don\u2019t")["next"]
    assert curly == post(client, "/predict", text="don't")["next"]


def test_an_empty_prompt_starts_a_new_text(client: TestClient) -> None:
    assert len(post(client, "/generate", prompt="", max_length=5)["text"]) == 5
    assert post(client, "/predict", text="")["next"] == post(client, "/predict", text="\n")["next"]
    assert post(client, "/predict", text="", per_position=True)["positions"] == []


@given(temperature=st.floats(0, 10), top_k=st.integers(0, 80), top_p=st.floats(0.001, 1), min_p=st.floats(0, 1))
def test_every_setting_of_the_sampler_gives_a_text(
    client: TestClient, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    body: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": 1.3,
    }
    assert len(post(client, "/generate", prompt="x", max_length=4, seed=1, **body)["text"]) == 4


def test_more_candidates_than_there_are_characters_are_all_of_them(client: TestClient) -> None:
    whole = post(client, "/generate", prompt="x", max_length=9, seed=1)["text"]
    for top_k in (1000, 2**63, 2**64 - 1):
        assert post(client, "/generate", prompt="x", max_length=9, seed=1, top_k=top_k)["text"] == whole


BAD: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "no prompt": ("/generate", {}, "$.prompt", "required"),
    "a number": ("/generate", {"prompt": 5}, "$.prompt", "string"),
    "a lone surrogate": ("/generate", {"prompt": "\ud800"}, "$.prompt", "unicode"),
    "too long": ("/generate", {"prompt": "x" * 5001}, "$.prompt", "at most 5000"),
    "too much": ("/generate", {"prompt": "x", "max_length": 100, "n": 5}, "$.max_length", "at most 400"),
    "cold": ("/generate", {"prompt": "x", "temperature": -1}, "$.temperature", "greater than or equal to 0"),
    "no mass": ("/generate", {"prompt": "x", "top_p": 0}, "$.top_p", "greater than 0"),
    "a negative seed": ("/generate", {"prompt": "x", "seed": -1}, "$.seed", "greater than or equal to 0"),
    "an empty stop": ("/generate", {"prompt": "x", "stop": [""]}, "$.stop[0]", "at least 1 character"),
    "a later option": ("/generate", {"prompt": "x", "echo": True}, "$.echo", "not permitted"),
    "a streamed option": ("/generate", {"prompt": "x", "stream": True, "logprobs": 2}, "$.logprobs", "stream"),
    "a forecaster": ("/generate", {"prompt": "x", "model": "forecast"}, "$.model", "is a forecast model"),
    "no text": ("/predict", {}, "$.text", "required"),
    "top of nothing": ("/predict", {"text": "x", "top_k": 0}, "$.top_k", "greater than or equal to 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_field_and_what_is_accepted(client: TestClient, name: str) -> None:
    import json

    route, body, path, message = BAD[name]
    answer = client.post(route, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    errors = {error["path"]: error["message"] for error in answer.json()["errors"]}
    assert message in errors[path]
