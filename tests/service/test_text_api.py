"""POST /generate and POST /predict, through the real application."""

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.app import create_app
from service.engine.engine import Engine
from service.http.streaming import StreamNotifier
from service.metrics import Metrics
from service.settings import Settings
from service.text.manifest import TextManifest
from service.text.prepare import PreparedGeneration
from service.text.sampling import SamplingParams
from service.text.streaming import TextDelta, stream_updates
from service.text.task import GenerateRequest, generate
from tests.builders import CHARACTERS, WORDS, open_graphs, word_model, write_model
from tests.service.test_generation import cut_plainly
from tests.service.test_serving import events


def post(client: TestClient, route: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(route, json=body)
    assert answer.status_code == status, answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_greedy_text_is_the_most_probable_character_each_time(client: TestClient) -> None:
    text = post(client, "/generate", prompt="Hello", max_length=8, temperature=0)["text"]
    for i in range(8):
        expected = post(client, "/predict", text="Hello" + text[:i], top_k=1)["next"][0]["character"]
        assert text[i] == expected


def test_the_seed_in_the_answer_reproduces_the_text(client: TestClient) -> None:
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
    answer = post(client, "/generate", prompt="xy", max_length=3, seed=2, logprobs=4)
    expected = post(client, "/predict", text="xy", top_k=4)["next"]
    top = answer["logprobs"][0]["top"]
    assert [c["character"] for c in top] == [c["character"] for c in expected]
    assert [2.718281828459045 ** c["logprob"] for c in top] == pytest.approx([c["probability"] for c in expected])


def test_positions_have_the_probability_of_each_character(client: TestClient) -> None:
    text = "the quick brown fox"
    answer = post(client, "/predict", text=text, per_position=True, top_k=3)
    assert "".join(p["character"] for p in answer["positions"]) == text
    assert answer["positions"][0]["probability"] is None
    costs = [-math.log2(p["probability"]) for p in answer["positions"][1:]]
    assert answer["bits_per_character"] == pytest.approx(sum(costs) / len(costs))
    for i, position in enumerate(answer["positions"]):
        alone = post(client, "/predict", text=text[: i + 1], top_k=3)["next"]
        assert [c["character"] for c in position["next"]] == [c["character"] for c in alone]
        assert [c["probability"] for c in position["next"]] == pytest.approx(
            [c["probability"] for c in alone], abs=1e-5
        )


def test_unknown_characters_are_listed_and_typographic_ones_read_as_plain_ones(client: TestClient) -> None:
    answer = post(client, "/generate", prompt="na\u00efve \u2019 \U0001f600\U0001f600", max_length=2, temperature=0)
    assert answer["unknown_characters"] == ["\u00ef", "\U0001f600"]
    curly = post(client, "/predict", text="don\u2019t")["next"]
    assert curly == post(client, "/predict", text="don't")["next"]


def test_an_empty_prompt_starts_a_new_text(client: TestClient) -> None:
    assert len(post(client, "/generate", prompt="", max_length=5)["text"]) == 5
    assert post(client, "/predict", text="")["next"] == post(client, "/predict", text="\n")["next"]
    assert post(client, "/predict", text="", per_position=True)["positions"] == []


@given(
    temperature=st.floats(0, 10),
    top_k=st.integers(0, 80),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    frequency_penalty=st.floats(-2, 2),
    presence_penalty=st.floats(-2, 2),
)
def test_every_setting_of_the_sampler_gives_a_text(
    client: TestClient,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    frequency_penalty: float,
    presence_penalty: float,
) -> None:
    body: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": 1.3,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
    }
    assert len(post(client, "/generate", prompt="x", max_length=4, seed=1, **body)["text"]) == 4


def test_a_top_k_above_the_vocabulary_keeps_every_character(client: TestClient) -> None:
    whole = post(client, "/generate", prompt="x", max_length=9, seed=1)["text"]
    for top_k in (1000, 2**63, 2**64 - 1):
        assert post(client, "/generate", prompt="x", max_length=9, seed=1, top_k=top_k)["text"] == whole


def streamed(client: TestClient, **body: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events with text, and the last one."""
    answer = client.post("/generate", json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    *deltas, (_, last) = events(answer.text)
    assert all(name == "message" for name, _ in deltas)
    return [data for _, data in deltas], last


@settings(max_examples=40)
@given(
    prompt=st.text("ab c\u2019\u00e9", max_size=9) | st.text("ab", min_size=127, max_size=130),
    length=st.integers(0, 40),
    seed=st.integers(0, 2**53),
    n=st.integers(1, 3),
    cuts=st.lists(st.tuples(st.integers(0, 39), st.integers(1, 18)), max_size=2),
    echo=st.booleans(),
    logprobs=st.integers(0, 3),
)
def test_a_stream_has_the_texts_of_the_whole_answer(
    client: TestClient,
    prompt: str,
    length: int,
    seed: int,
    n: int,
    cuts: list[tuple[int, int]],
    echo: bool,
    logprobs: int,
) -> None:
    """Both are the free text, cut the plain way, whichever step of a call of the graph completes a stop text."""
    body: dict[str, Any] = {"prompt": prompt, "max_length": length, "seed": seed, "n": n, "temperature": 1.0}
    free = post(client, "/generate", **body)
    stop = tuple(filter(None, (free["text"][begin : begin + size] for begin, size in cuts)))
    body |= {"stop": stop, "echo": echo, "logprobs": logprobs}
    whole = post(client, "/generate", **body)
    deltas, last = streamed(client, **body)
    echoed = prompt.replace("\u2019", "'") if echo else ""
    for i, choice in enumerate(whole["choices"] or [whole]):
        text = (free["choices"] or [free])[i]["text"]
        cut = cut_plainly(text, stop)
        assert choice["text"] == echoed + (text[: cut[0]] if cut else text)
        assert choice["finish_reason"] == ("stop" if cut else "length")
        own_deltas = [delta for delta in deltas if delta["index"] == i]
        assert "".join(delta["text"] for delta in own_deltas) == choice["text"]
        assert (last["choices"] or [last])[i]["finish_reason"] == choice["finish_reason"]
        if not logprobs:
            assert choice["logprobs"] is None
            assert all("logprobs" not in delta for delta in own_deltas)
            continue
        for delta in own_deltas:
            assert "".join(logprob["character"] for logprob in delta["logprobs"]) == delta["text"]
        logprobs_streamed = [logprob for delta in own_deltas for logprob in delta["logprobs"]]
        assert len(logprobs_streamed) == len(choice["logprobs"]) == len(choice["text"])
        for streamed_one, whole_one in zip(logprobs_streamed, choice["logprobs"], strict=True):
            assert streamed_one["logprob"] == pytest.approx(whole_one["logprob"])
            assert [c["character"] for c in streamed_one["top"]] == [c["character"] for c in whole_one["top"]]
    assert last["usage"] == whole["usage"]
    assert whole["usage"] == {
        "prompt_characters": len(prompt),
        "generated_characters": sum(len(c["text"]) - len(echoed) for c in whole["choices"] or [whole]),
    }


def test_an_echo_without_new_text_has_the_log_probabilities_of_the_prompt(client: TestClient) -> None:
    text = "the quick brown fox"
    answer = post(client, "/generate", prompt=text, max_length=0, echo=True, logprobs=2)
    assert (answer["text"], answer["finish_reason"]) == (text, "length")
    assert answer["usage"] == {"prompt_characters": 19, "generated_characters": 0}
    assert answer["logprobs"][0] == {"character": "t", "logprob": None, "top": []}
    positions = post(client, "/predict", text=text, per_position=True)["positions"]
    expected = [math.log(p["probability"]) for p in positions[1:]]
    assert [logprob["logprob"] for logprob in answer["logprobs"][1:]] == pytest.approx(expected)


def test_controls_do_not_change_logprobs(client: TestClient) -> None:
    plain = post(client, "/generate", prompt="xy", max_length=1, seed=2, logprobs=60)["logprobs"][0]
    expected = {c["character"]: c["logprob"] for c in plain["top"]}
    for controls in (
        {"temperature": 0},
        {"top_k": 1},
        {"logit_bias": {"Q": 50}},
        {"repetition_penalty": 9.0},
        {"presence_penalty": 2},
    ):
        logprob = post(client, "/generate", prompt="xy", max_length=1, seed=2, logprobs=60, **controls)["logprobs"][0]
        assert logprob["logprob"] == pytest.approx(expected[logprob["character"]])
        assert logprob["top"] == plain["top"]


def test_a_bias_makes_characters_likelier_rarer_or_impossible(client: TestClient) -> None:
    def text(**bias: float) -> str:
        generated: str = post(client, "/generate", prompt="a", max_length=200, seed=4, logit_bias=bias)["text"]
        return generated

    assert text(e=-100.0) == text(e=-100)
    assert "e" not in text(e=-100)
    assert text(e=100) == "e" * 200
    assert text(e=-2).count("e") <= text().count("e") < text(e=2).count("e")
    assert text(e=0) == text()


@pytest.mark.parametrize(("frequency", "presence"), [(0.5, 0), (0, 1.5), (2, -1), (-0.3, 0.4)])
def test_penalties_count_what_the_request_has_written(client: TestClient, frequency: float, presence: float) -> None:
    """Each character is the best by the model's log-probabilities less the penalties of the characters before it."""
    body: dict[str, Any] = {"prompt": "eeee aaaa", "max_length": 60, "temperature": 0}
    free = post(client, "/generate", **body)["text"]
    body |= {"frequency_penalty": frequency, "presence_penalty": presence}
    answer = post(client, "/generate", **body, logprobs=100)
    text = answer["text"]
    assert text != free
    for i, logprob in enumerate(answer["logprobs"]):
        counts = Counter(text[:i])
        scores = {
            candidate["character"]: candidate["logprob"]
            - frequency * counts[candidate["character"]]
            - presence * (counts[candidate["character"]] > 0)
            for candidate in logprob["top"]
        }
        assert len(scores) == CHARACTERS.size - 1
        assert text[i] == max(scores, key=lambda character: scores[character])
    three = post(client, "/generate", **body, n=3)
    assert [choice["text"] for choice in three["choices"]] == [text] * 3
    stop = text[30:33]
    cut = post(client, "/generate", **body, stop=[stop])
    assert cut["text"] == text[: text.index(stop)]


@pytest.mark.parametrize("by", ["session", "state"])
def test_each_call_counts_only_what_it_has_written_itself(client: TestClient, by: str) -> None:
    """A second call writes what it would write after the first call's text as a prompt."""
    body: dict[str, Any] = {"max_length": 40, "seed": 3, "frequency_penalty": 0.8, "presence_penalty": 0.5}
    resumed: dict[str, Any] = {"state": ""}
    if by == "session":
        resumed = {"session_id": client.post("/sessions", json={"model": "text"}).json()["id"]}
    first = post(client, "/generate", prompt="ab", **body, **resumed)
    if by == "state":
        resumed = {"state": first["state"]}
    second = post(client, "/generate", prompt="", **body, **resumed)
    assert second["text"] == post(client, "/generate", prompt="ab" + first["text"], **body)["text"]
    whole = post(client, "/generate", prompt="ab", **body | {"max_length": 80})["text"]
    assert whole.startswith(first["text"])
    assert whole != first["text"] + second["text"]


def test_top_p_0_takes_the_most_probable_character_each_time(client: TestClient) -> None:
    body: dict[str, Any] = {"prompt": "a", "max_length": 30, "frequency_penalty": 0.2}
    assert (
        post(client, "/generate", **body, top_p=0)["text"] == post(client, "/generate", **body, temperature=0)["text"]
    )


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63, 2**64 - 1])
def test_a_seed_is_any_integer_of_64_bits(client: TestClient, seed: int) -> None:
    body: dict[str, Any] = {"prompt": "a", "max_length": 30, "n": 2}
    answer = post(client, "/generate", **body, seed=seed)
    assert answer["seed"] == seed
    unsigned = post(client, "/generate", **body, seed=seed % 2**64)
    assert answer["choices"] == unsigned["choices"]
    assert answer["choices"] != post(client, "/generate", **body, seed=1)["choices"]


def test_n_may_be_128_as_in_the_openai_api(client: TestClient) -> None:
    choices = post(client, "/generate", prompt="a", max_length=3, n=128, seed=1)["choices"]
    assert len(choices) == 128
    assert len({choice["text"] for choice in choices}) > 64


def test_an_echo_has_only_the_calls_own_prompt_and_is_replayed(client: TestClient) -> None:
    session = client.post("/sessions", json={"prompt": "abc"}).json()["id"]
    body = {"prompt": "de", "max_length": 9, "seed": 1, "echo": True, "logprobs": 1, "session_id": session}
    alone = post(client, "/generate", prompt="abcde", max_length=9, seed=1, echo=True, logprobs=1)
    sent = {**body, "stream": True}
    first, again = (client.post("/generate", json=sent, headers={"Idempotency-Key": session}) for _ in range(2))
    assert first.headers.get("idempotency-replayed") is None
    assert again.headers["idempotency-replayed"] == "true"
    for answer in (first, again):
        *deltas, (_, last) = events(answer.text)
        assert "".join(delta["text"] for _, delta in deltas) == alone["text"][3:]
        logprobs = [logprob["logprob"] for _, delta in deltas for logprob in delta["logprobs"]]
        assert logprobs == pytest.approx([logprob["logprob"] for logprob in alone["logprobs"][3:]], abs=1e-5)
        assert last["session"]["position"] == 14


def test_candidates_are_ranked_and_move_no_session(client: TestClient) -> None:
    candidates = ["the", " fox", "x", "na\u00efve", "don\u2019t"]
    answer = post(client, "/predict", text="abc", candidates=candidates)
    assert answer["next"] == post(client, "/predict", text="abc")["next"]
    assert answer["unknown_characters"] == ["\u00ef"]
    ranked = answer["candidates"]
    logprobs = [candidate["logprob"] for candidate in ranked]
    assert logprobs == sorted(logprobs, reverse=True)
    assert [candidate["text"] for candidate in ranked] == [candidates[candidate["index"]] for candidate in ranked]
    for candidate in ranked:
        text, logprob = candidate["text"], candidate["logprob"]
        positions = post(client, "/predict", text="abc" + text, per_position=True, top_k=1)["positions"][3:]
        assert logprob == pytest.approx(sum(math.log(p["probability"]) for p in positions), abs=1e-4)
        assert candidate["logprob_per_character"] == pytest.approx(logprob / len(text))
    session = client.post("/sessions", json={"prompt": "a"}).json()["id"]
    moved = post(client, "/predict", text="bc", candidates=candidates, session_id=session)
    assert moved["session"]["position"] == 3
    assert [c["index"] for c in moved["candidates"]] == [c["index"] for c in ranked]
    again = post(client, "/predict", text="", candidates=candidates, session_id=session)
    assert again["session"]["position"] == 3
    assert again["candidates"] == moved["candidates"]
    assert post(client, "/predict", text="", candidates=["a"])["candidates"][0]["logprob"] < 0


def test_composed_and_decomposed_texts_and_line_ends_are_read_alike(client: TestClient) -> None:
    decomposed = post(client, "/generate", prompt="a\u0301\r\nb", max_length=9, seed=1, echo=True)
    composed = post(client, "/generate", prompt="\u00e1\nb", max_length=9, seed=1, echo=True)
    assert decomposed == composed
    assert composed["text"].startswith("\u00e1\nb")
    assert composed["usage"]["prompt_characters"] == 3
    assert composed["unknown_characters"] == ["\u00e1"]


def test_an_unexpected_error_in_a_stream_is_an_event_without_details(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: PreparedGeneration) -> dict[str, object]:
        raise KeyError("our own mistake")

    monkeypatch.setattr(PreparedGeneration, "summary", broken)
    answer = client.post("/generate", json={"prompt": "a", "max_length": 5, "stream": True})
    *deltas, (name, problem) = events(answer.text)
    assert (name, problem["status"], problem["code"]) == ("error", 500, "internal_error")
    assert "mistake" not in answer.text
    assert sum(len(delta["text"]) for _, delta in deltas) == 5


def test_a_slow_reader_gets_all_new_text_in_one_event(models: Path) -> None:
    manifest, runner, decode_graph = open_graphs(models / "text/1")
    assert isinstance(manifest, TextManifest)
    engine = Engine("test", runner, decode_graph, True, 1000, Metrics().engine("test"))
    tokenizer = manifest.tokenizer

    async def read() -> list[TextDelta]:
        notifier = StreamNotifier()
        request = GenerateRequest("a", 200, SamplingParams(), 3, n=2, logprobs=1)
        rows, task = generate(tokenizer, request, listener=notifier)
        pending = engine.submit(task, request.cost_steps)
        updates = stream_updates(notifier, tokenizer, rows, 1, [pending])
        first = await anext(updates)
        await asyncio.wrap_future(pending)
        return [first, *[delta async for delta in updates]]

    first, *others = asyncio.run(read())
    engine.close()
    # One of each text, beside the round that had begun.
    assert len(others) <= 3
    for i in range(2):
        deltas = [delta for delta in (first, *others) if delta.index == i]
        assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
        text = "".join(delta.text for delta in deltas)
        assert len(text) == 200
        assert "".join(logprob.token for delta in deltas for logprob in delta.logprobs) == text


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application on a word model."""
    folder = tmp_path_factory.mktemp("models")
    write_model(word_model(), folder, "text", tokenizer=WORDS)
    with TestClient(create_app(Settings(models_dir=folder)), raise_server_exceptions=False) as client:
        yield client


def test_a_word_model_counts_words(words: TestClient) -> None:
    body: dict[str, Any] = {"prompt": "a bab, cat", "max_length": 6, "seed": 1}
    answer = post(words, "/generate", **body, logprobs=2, echo=True)
    assert answer["usage"] == {"prompt_characters": 4, "generated_characters": 6}
    assert answer["unknown_characters"] == ["cat"]
    assert [logprob["character"] for logprob in answer["logprobs"][:4]] == ["a", " bab", ",", " cat"]
    assert "".join(logprob["character"] for logprob in answer["logprobs"]) == answer["text"]
    deltas, last = streamed(words, **body)
    assert "a bab, cat" + "".join(delta["text"] for delta in deltas) == answer["text"]
    assert last["usage"] == answer["usage"]
    assert post(words, "/generate", **body, logit_bias={" bab": 100})["text"] == " bab" * 6
    answer = post(words, "/predict", text="a bab", per_position=True, candidates=[" ba", " it's"])
    assert [p["character"] for p in answer["positions"]] == ["a", " bab"]
    assert answer["bits_per_character"] == pytest.approx(-math.log2(answer["positions"][1]["probability"]) / 4)
    assert {c["text"] for c in answer["candidates"]} == {" ba", " it's"}
    refused = post(words, "/generate", 422, prompt="a cat", unknown="error")
    assert "does not know the word 'cat', at position 2" in refused["detail"]


def test_a_session_of_a_word_model_ends_with_the_last_whole_word(words: TestClient) -> None:
    whole: dict[str, Any] = {"prompt": "a", "max_length": 12, "seed": 3, "temperature": 1.0}
    free = post(words, "/generate", **whole, logprobs=1)
    tokens = [logprob["character"] for logprob in free["logprobs"]]
    stop = tokens[5][-1] + tokens[6]  # begins within a word
    cut = cut_plainly(tokens, (stop,))
    assert cut
    session = words.post("/sessions", json={"model": "text"}).json()["id"]
    answer = post(words, "/generate", **whole, stop=[stop], session_id=session)
    assert (answer["text"], answer["finish_reason"]) == ("".join(tokens[: cut[0]]), "stop")
    assert answer["session"]["position"] == 1 + cut[0]
    rest = post(words, "/generate", prompt="", max_length=12 - cut[0], seed=3, temperature=1.0, session_id=session)
    assert answer["text"] + rest["text"] == free["text"]


BAD: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "no prompt": ("/generate", {}, "$.prompt", "required"),
    "a number": ("/generate", {"prompt": 5}, "$.prompt", "string"),
    "a lone surrogate": ("/generate", {"prompt": "\ud800"}, "$.prompt", "unicode"),
    "too long": ("/generate", {"prompt": "x" * 5001}, "$.prompt", "at most 5000"),
    "too much": ("/generate", {"prompt": "x", "max_length": 100, "n": 5}, "$.max_length", "at most 400"),
    "cold": ("/generate", {"prompt": "x", "temperature": -1}, "$.temperature", "greater than or equal to 0"),
    "a negative mass": ("/generate", {"prompt": "x", "top_p": -0.1}, "$.top_p", "greater than or equal to 0"),
    "a large seed": ("/generate", {"prompt": "x", "seed": 2**64}, "$.seed", ""),
    "a low seed": ("/generate", {"prompt": "x", "seed": -(2**63) - 1}, "$.seed", ""),
    "many copies": ("/generate", {"prompt": "x", "n": 129}, "$.n", "less than or equal to 128"),
    "a high penalty": (
        "/generate",
        {"prompt": "x", "frequency_penalty": 2.1},
        "$.frequency_penalty",
        "less than or equal to 2",
    ),
    "a penalty in quotes": ("/generate", {"prompt": "x", "presence_penalty": "1"}, "$.presence_penalty", "number"),
    "an empty stop": ("/generate", {"prompt": "x", "stop": [""]}, "$.stop[0]", "at least 1 character"),
    "a later option": ("/generate", {"prompt": "x", "typical_p": 0.9}, "$.typical_p", "not permitted"),
    "a bias on nothing": (
        "/generate",
        {"prompt": "x", "logit_bias": {"e": 1, "\u00e9": 1}},
        "$.logit_bias",
        "has no character '\u00e9' (U+00E9)",
    ),
    "a bias on a word": ("/generate", {"prompt": "x", "logit_bias": {"the": 1}}, "$.logit_bias", "character 'the'"),
    "a large bias": (
        "/generate",
        {"prompt": "x", "logit_bias": {"e": -101}},
        "$.logit_bias.e",
        "greater than or equal to -100",
    ),
    "many biases": (
        "/generate",
        {"prompt": "x", "logit_bias": {chr(i): 1 for i in range(300, 2000)}},
        "$.logit_bias",
        "more than 1024",
    ),
    "every token banned": (
        "/generate",
        {"prompt": "x", "logit_bias": dict.fromkeys(CHARACTERS.vocabulary[1:], -100)},
        "$.logit_bias",
        "bans every token",
    ),
    "an unknown character": (
        "/generate",
        {"prompt": "a\r\nna\u00efve", "unknown": "error"},
        "$.prompt",
        "does not know the character '\u00ef' (U+00EF), at position 5",
    ),
    "the same, streamed": (
        "/generate",
        {"prompt": "\u00ef", "unknown": "error", "stream": True},
        "$.prompt",
        "(U+00EF), at position 0",
    ),
    "a value of unknown": (
        "/generate",
        {"prompt": "x", "unknown": "drop"},
        "$.unknown",
        "'replace' or 'error'",
    ),
    "too many candidates": (
        "/generate",
        {"prompt": "x" * 4900, "echo": True, "logprobs": 50, "max_length": 10},
        "$.logprobs",
        "at most 10000 candidates",
    ),
    "an unknown character of a text": (
        "/predict",
        {"text": "\u00ef", "unknown": "error"},
        "$.text",
        "(U+00EF), at position 0",
    ),
    "an unknown character of a candidate": (
        "/predict",
        {"text": "x", "candidates": ["a", "b\u00ef"], "unknown": "error"},
        "$.candidates[1]",
        "(U+00EF), at position 1",
    ),
    "no candidates": ("/predict", {"text": "x", "candidates": []}, "$.candidates", "at least 1 item"),
    "an empty candidate": ("/predict", {"text": "x", "candidates": ["a", ""]}, "$.candidates[1]", "at least 1 char"),
    "a number as candidate": ("/predict", {"text": "x", "candidates": [1]}, "$.candidates[0]", "string"),
    "long candidates": (
        "/predict",
        {"text": "x", "candidates": ["x" * 10] * 501},
        "$.candidates",
        "at most 5000 characters",
    ),
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
