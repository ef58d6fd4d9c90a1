"""A model of pairs: a source becomes its target, sampled or searched, over HTTP and from Python."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.testclient import TestClient
from torch import nn

import carry
from carry.exchange import Wire
from carry.interface import Interface
from carry.transport import Http
from service.app import create_app
from service.errors import InvalidRequestError
from service.manifest import read_manifest
from service.settings import Settings
from service.text.manifest import Pairs, TextManifest
from service.tokenizer import Tokenizer
from tests.builders import CHARACTERS, character_model, write_model
from tests.served import KEY, served
from tests.service.test_serving import events
from tests.service.test_text_api import post
from training.data.texts import learn_tokenizer
from training.nets.text import TextModel

SOURCES = learn_tokenizer(["ab cd\t\n"], 1, "character", None)
PAIR_WORDS = learn_tokenizer(["a b ab ba bab, abba.\t\n"], 1, "word", None)
MARKS = Pairs()


def pair_model(tokenizer: Tokenizer, seed: int) -> TextModel:
    """Untrained. By its seed, its targets depend on the source and end after some tokens."""
    torch.manual_seed(seed)
    network = TextModel("lstm", tokenizer.size, 8, 24, 2, 0.0)
    with torch.no_grad():
        for weights in network.recurrent.parameters():
            weights.mul_(2)
    nn.init.normal_(network.head.weight, std=2.0)
    return network.eval()


@pytest.fixture(scope="module")
def pair_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pairs`, of characters; `translator`, of words; and `text`, which knows no pairs."""
    folder = tmp_path_factory.mktemp("models")
    write_model(pair_model(SOURCES, 15), folder, "pairs", tokenizer=SOURCES, pairs=MARKS)
    write_model(pair_model(PAIR_WORDS, 11), folder, "translator", tokenizer=PAIR_WORDS, pairs=MARKS)
    write_model(character_model(), folder, "text", tokenizer=CHARACTERS)
    return folder


@pytest.fixture(scope="module")
def pairs(pair_models: Path) -> Iterator[TestClient]:
    """The application on these models, of which `pairs` is the default."""
    chosen = Settings(
        models_dir=pair_models, default_text_model="pairs", max_generated_length=1000, max_text_length=5000
    )
    with TestClient(create_app(chosen), raise_server_exceptions=False) as client:
        yield client


LETTERS = st.text("abcd ", max_size=8)
KINDS = st.sampled_from(
    [{"temperature": 0}, {"beams": 1}, {"beams": 3}, {"beams": 4, "n": 2}, {"n": 2, "seed": 5, "temperature": 1.0}]
)
MODELS = st.sampled_from(["pairs", "translator"])


def without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without the random seed."""
    return {name: value for name, value in answer.items() if name != "seed"}


@given(source=LETTERS, options=KINDS, model=MODELS, echo=st.booleans(), logprobs=st.integers(0, 2))
def test_a_source_is_a_prompt_with_the_separator_and_the_end_as_stop_text(
    pairs: TestClient, source: str, options: dict[str, Any], model: str, echo: bool, logprobs: int
) -> None:
    shared = {"model": model, "max_length": 12, "echo": echo, "logprobs": logprobs, **options}
    target = post(pairs, "/generate", source=source, **shared)
    plain = post(pairs, "/generate", prompt=source + MARKS.separator, stop=[MARKS.end], **shared)
    assert without_ids(target) == without_ids(plain)
    assert MARKS.end not in target["text"]
    if echo:
        assert target["text"].startswith(source + MARKS.separator)


def test_a_target_ends_at_the_mark_of_the_pairs_or_at_the_length(pairs: TestClient) -> None:
    answers = [post(pairs, "/generate", source=source) for source in ("a", "ab", "abc", "d c", "")]
    assert {answer["finish_reason"] for answer in answers} == {"stop"}
    assert len({answer["text"] for answer in answers}) > 1
    cut = post(pairs, "/generate", source="a", temperature=0, max_length=0)
    assert (cut["text"], cut["finish_reason"], cut["usage"]["prompt_characters"]) == ("", "length", 2)


def test_a_target_is_the_most_probable_text_unless_the_request_wants_chance(pairs: TestClient) -> None:
    target = post(pairs, "/generate", source="ab")["text"]
    assert target == post(pairs, "/generate", source="ab", temperature=0)["text"]
    drawn = {post(pairs, "/generate", source="ab", temperature=1.0, seed=seed)["text"] for seed in range(8)}
    assert len(drawn) > 1


@given(source=LETTERS, model=MODELS, n=st.integers(1, 3))
def test_a_streamed_target_is_the_whole_target(pairs: TestClient, source: str, model: str, n: int) -> None:
    body: dict[str, Any] = {"model": model, "source": source, "seed": 4, "n": n, "max_length": 20, "temperature": 1.0}
    whole = post(pairs, "/generate", **body)
    stream = [data for _, data in events(pairs.post("/generate", json={**body, "stream": True}).text)]
    for i, choice in enumerate(whole["choices"] or [whole]):
        assert "".join(event["text"] for event in stream if event.get("index") == i) == choice["text"]
    assert stream[-1]["finish_reason"] == whole["finish_reason"]


@given(source=LETTERS, beams=st.integers(1, 6), data=st.data())
def test_the_best_texts_of_a_search_come_in_the_order_of_their_scores(
    pairs: TestClient, source: str, beams: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, beams))
    answer = post(pairs, "/generate", source=source, beams=beams, n=n, max_length=15)
    choices = answer["choices"] or [answer]
    scores = [choice["score"] for choice in choices]
    assert len(scores) == n
    assert scores == sorted(scores, reverse=True)
    assert (answer["text"], answer["score"]) == (choices[0]["text"], scores[0])
    # The same text, with its end, as /predict ranks it.
    ends = [choice["text"] + MARKS.end * (choice["finish_reason"] == "stop") for choice in choices]
    ranked = post(pairs, "/predict", text=source + MARKS.separator, candidates=ends)["candidates"]
    means = {candidate["index"]: candidate["logprob_per_character"] for candidate in ranked}
    assert scores == pytest.approx([means[i] for i in range(n)], rel=1e-4, abs=1e-5)


def test_a_sampled_text_has_no_score(pairs: TestClient) -> None:
    assert post(pairs, "/generate", source="a")["score"] is None


@pytest.mark.parametrize("options", [{"temperature": 0}, {"beams": 3}])
def test_a_session_that_has_read_nothing_takes_a_source_and_goes_on_after_the_target(
    pairs: TestClient, options: dict[str, Any]
) -> None:
    """With the state in the store, and in the caller's hands. The mark of the end is not read yet."""
    whole = post(pairs, "/generate", source="abc", **options)
    session = pairs.post("/sessions", json={"model": "pairs"}).json()["id"]
    first = post(pairs, "/generate", source="abc", session_id=session, **options)
    carried = post(pairs, "/generate", source="abc", state="", **options)
    assert whole["text"] == first["text"] == carried["text"]
    assert first["session"]["position"] == len("abc\t" + whole["text"])
    expected = post(pairs, "/predict", text="abc\t" + whole["text"])["next"]
    assert post(pairs, "/predict", text="", session_id=session, commit=False)["next"] == expected
    assert post(pairs, "/predict", text="", state=carried["state"])["next"] == expected
    for where in ({"session_id": session}, {"state": carried["state"]}, {"session_id": session, "commit": False}):
        refused = post(pairs, "/generate", 422, source="a", **where, **options)
        assert refused["errors"][0]["path"] == "$.source"
        assert "has read" in refused["errors"][0]["message"]
    assert pairs.get(f"/sessions/{session}").json()["version"] == first["session"]["version"]


@given(prompt=LETTERS, cut=st.integers(0, 8), beams=st.integers(1, 4))
def test_a_search_in_a_session_is_that_of_the_whole_prompt(
    pairs: TestClient, prompt: str, cut: int, beams: int
) -> None:
    whole = post(pairs, "/generate", prompt=prompt, beams=beams, max_length=6)
    session = pairs.post("/sessions", json={"prompt": prompt[:cut]}).json()["id"]
    resumed = post(pairs, "/generate", prompt=prompt[cut:], beams=beams, max_length=6, session_id=session)
    assert (resumed["text"], resumed["score"]) == (whole["text"], whole["score"])


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "neither": ({}, "$.prompt", "is required"),
    "both": ({"prompt": "a", "source": "a"}, "$.source", "not both"),
    "a model without pairs": ({"source": "a", "model": "text"}, "$.source", "was not trained on pairs"),
    "a separator": ({"source": "a\tb"}, "$.source", "contains '\\t'"),
    "an end": ({"source": "a\r\n"}, "$.source", "contains '\\n'"),
    "marks without end": ({"source": "a" + "\u0301" * 40}, "$.source", "combining marks"),
    "an unknown character": ({"source": "abx", "unknown": "error"}, "$.source", "at position 2"),
    "a long source": ({"source": "a" * 5001}, "$.source", "at most"),
    "no beams": ({"source": "a", "beams": 0}, "$.beams", "greater than or equal to 1"),
    "many beams": ({"source": "a", "beams": 17}, "$.beams", "less than or equal to 16"),
    "a number in quotes": ({"source": "a", "beams": "4"}, "$.beams", "integer"),
    "more texts than beams": ({"source": "a", "beams": 2, "n": 3}, "$.n", "at most so many texts: 2"),
    "a temperature": ({"source": "a", "beams": 2, "temperature": 0.5}, "$.temperature", "does not go with `beams`"),
    "a penalty": ({"prompt": "a", "beams": 2, "repetition_penalty": 1.1}, "$.repetition_penalty", "leave it out"),
    "a bias": ({"prompt": "a", "beams": 2, "logit_bias": {"a": 1}}, "$.logit_bias", "leave it out"),
    "a stream": ({"prompt": "a", "beams": 2, "stream": True}, "$.stream", "at the end"),
    "too much": ({"prompt": "a", "beams": 4, "max_length": 251}, "$.max_length", "over all beams"),
    "several texts for a state": ({"prompt": "a", "beams": 4, "n": 2, "state": ""}, "$.n", "n is 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_field_and_what_is_accepted(pairs: TestClient, name: str) -> None:
    body, path, message = BAD[name]
    problem = post(pairs, "/generate", 422, **body)
    [error] = [error for error in problem["errors"] if error["path"] == path]
    assert message in error["message"]


def test_the_platforms_send_sources_too(pairs: TestClient) -> None:
    body: dict[str, Any] = {"source": "abc", "beams": 2}
    assert without_ids(post(pairs, "/invocations", **body)) == without_ids(post(pairs, "/generate", **body))


class Places(NamedTuple):
    """The same models in this process and as a service."""

    local: Interface
    service: Interface


@pytest.fixture(scope="module")
def places(pair_models: Path) -> Iterator[Places]:
    with served(pair_models, default_text_model="pairs") as url, carry.load("pairs", pair_models) as local:
        http = Http(url, Wire(api_key=KEY))
        yield Places(local, Interface(http))
        http.close()


def test_python_turns_sources_into_targets_here_and_there(places: Places, pairs: TestClient) -> None:
    for beams, n in ((1, 1), (4, 1), (4, 3)):
        body = post(pairs, "/generate", source="abc", beams=beams, n=n)
        for place in places:
            answer = place.generate(source="abc", beams=beams, n=n)
            assert (answer.text, answer.finish_reason) == (body["text"], body["finish_reason"])
            assert answer.scores == [choice["score"] for choice in body["choices"] or [body]]
            assert len(answer.texts) == n
    greedy = [place.generate(source="abc", temperature=0) for place in places]
    assert {answer.text for answer in greedy} == {places.local.generate(source="abc", beams=1).text}
    assert [answer.scores for answer in greedy] == [None, None]
    for place in places:
        assert "".join(place.generate(source="abc", temperature=0, stream=True)) == greedy[0].text


def test_python_sessions_take_one_source(places: Places) -> None:
    for place in places:
        with place.session(model="pairs") as session:
            target = session.generate(source="abc", beams=2)
            assert session.position == len("abc\t" + target.text)
            with pytest.raises(InvalidRequestError, match="has read"):
                session.generate(source="abc")
            assert len(session.generate(beams=2, max_length=3).text) == 3


def test_python_refuses_what_the_service_refuses(places: Places) -> None:
    for place in places:
        with pytest.raises(InvalidRequestError, match="is required"):
            place.generate()
        with pytest.raises(InvalidRequestError, match="not both"):
            place.generate("a", source="a")
        with pytest.raises(InvalidRequestError, match="does not go with `beams`"):
            place.generate("a", beams=2, temperature=1.0)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({"separator": "\n"}, "must differ"),
        ({"separator": "|"}, "must have '\\|'"),
        ({"end": "ab"}, "one token"),
        ({"end": ""}, "one token"),
        ({"separator": "\u2019"}, "one token"),
        ({"separator": "\u0301"}, "one token"),
    ],
)
def test_a_manifest_names_marks_that_the_model_reads_as_one_token_each(
    pair_models: Path, marks: dict[str, str], message: str
) -> None:
    manifest = read_manifest(pair_models / "pairs/1", TextManifest).model_dump()
    vocabulary = (*manifest["vocabulary"], "\u0301")
    changed = {**manifest, "vocabulary": vocabulary, "replacements": {"\u2019": "'"}, "pairs": marks}
    with pytest.raises(ValidationError, match=message):
        TextManifest.model_validate(changed)


def test_a_mark_of_a_word_model_is_no_part_of_a_word(pair_models: Path) -> None:
    manifest = read_manifest(pair_models / "translator/1", TextManifest).model_dump()
    TextManifest.model_validate(manifest)
    for mark in (",", " ", "a", " a"):
        with pytest.raises(ValidationError, match="one token"):
            TextManifest.model_validate({**manifest, "pairs": {"separator": mark}})


def test_models_without_pairs_say_so_in_their_manifest(pairs: TestClient) -> None:
    known = {name: pairs.get(f"/models/{name}").json()["manifest"]["pairs"] for name in ("text", "pairs")}
    assert known == {"text": None, "pairs": {"separator": "\t", "end": "\n"}}
