"""Beam search, below HTTP: what it finds, and that nobody else changes it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from service.engine.request import Request
from service.engine.scheduler import Scheduler
from service.engine.sequence import EMPTY_STATE, PrefillResult, SequenceState
from service.errors import DeadlineExceededError, NonFiniteOutputError
from service.text.decoder import Row
from service.text.sampling import SamplingParams, log_softmax
from service.text.scoring import predict
from service.text.task import GenerateRequest, generate
from service.tokenizer import TokenizedText, Tokenizer
from tests.builders import (
    CHARACTERS,
    WORDS,
    Graphs,
    character_model,
    new_scheduler,
    open_graphs,
    word_model,
    write_model,
)
from training.data.texts import learn_tokenizer
from training.nets.text import TextModel
from training.onnx.layers import Precision

LETTERS = learn_tokenizer(["ab\n"], 1, "character", None)
"""Three tokens that a model can write."""


class Model(NamedTuple):
    """A model's open graphs and its tokenizer."""

    graphs: Graphs
    tokenizer: Tokenizer

    def scheduler(self) -> Scheduler:
        return new_scheduler(self.graphs)[2]


def tiny_model() -> TextModel:
    """Of LETTERS, and sure enough of its letters that sums and means differ."""
    torch.manual_seed(8)
    network = TextModel("gru", LETTERS.size, 4, 8, 1, 0.0)
    nn.init.normal_(network.head.weight, std=2.0)
    return network.eval()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    networks: dict[str, tuple[TextModel, Tokenizer, Precision]] = {
        "characters": (character_model(), CHARACTERS, "float32"),
        "int8": (character_model("gru", ngrams=4), CHARACTERS, "int8"),
        "words": (word_model(), WORDS, "float32"),
        "letters": (tiny_model(), LETTERS, "float32"),
    }
    return {
        name: Model(open_graphs(write_model(network, folder, name, precision, tokenizer), precision), tokenizer)
        for name, (network, tokenizer, precision) in networks.items()
    }


def run_all(scheduler: Scheduler, requests: Sequence[Request]) -> int:
    """Run requests at once. Returns the steps of the graph."""
    for request in requests:
        scheduler.add(request)
    steps = 0
    while scheduler.busy:
        steps += sum(count for _, count in scheduler.step())
    return steps


def search(
    model: Model, request: GenerateRequest, start: SequenceState = EMPTY_STATE, returns_state: bool = False
) -> tuple[list[Row], SequenceState, int]:
    """The texts of a request alone, the state after it, and the steps that it took."""
    rows, task = generate(model.tokenizer, request, start, returns_state)
    submitted = Request(task, request.cost_steps, math.inf)
    steps = run_all(model.scheduler(), [submitted])
    return rows, submitted.future.result(), steps


def searching(prompt: str, max_length: int, beams: int, n: int = 1, **options: Any) -> GenerateRequest:
    """A request for a search."""
    return GenerateRequest(prompt, max_length, SamplingParams(), 0, n=n, beams=beams, **options)


NAMES = ["characters", "int8", "words"]
PROMPTS = st.text("ab ,\n", max_size=12)
STOPS = st.lists(st.text("ab e,", min_size=1, max_size=2), max_size=3).map(tuple)


@pytest.mark.parametrize("name", NAMES)
@given(prompt=PROMPTS, length=st.integers(0, 20), stop=STOPS)
def test_one_beam_is_greedy(
    opened: dict[str, Model], name: str, prompt: str, length: int, stop: tuple[str, ...]
) -> None:
    model = opened[name]
    greedy = GenerateRequest(prompt, length, SamplingParams(temperature=0), 0, stop, logprobs=1)
    [expected], _, _ = search(model, greedy)
    [row], _, _ = search(model, replace(greedy, params=SamplingParams(), beams=1))
    assert (row.text, row.finish_reason) == (expected.text, expected.finish_reason)


@pytest.mark.parametrize("name", ["letters", "words"])
@given(prompt=PROMPTS, beams=st.integers(1, 6), length=st.integers(1, 6), stop=STOPS, data=st.data())
def test_a_search_is_that_of_the_plain_way(
    opened: dict[str, Model],
    name: str,
    prompt: str,
    beams: int,
    length: int,
    stop: tuple[str, ...],
    data: st.DataObject,
) -> None:
    """Which reads each beginning of a text by itself, from its first token."""
    model, n = opened[name], data.draw(st.integers(1, beams))
    rows, _, _ = search(model, searching(prompt, length, beams, n, stop=stop))
    expected = plain_search(model, prompt, length, beams, stop)[:n]
    assert [row.score for row in rows] == pytest.approx([score for score, _, _ in expected], rel=1e-5)
    assert [(row.text, row.finish_reason) for row in rows] == [(text, reason) for _, text, reason in expected]


def plain_search(
    model: Model, prompt: str, max_length: int, beams: int, stops: tuple[str, ...]
) -> list[tuple[float, str, str]]:
    """The score, text and end of each text that ended, the best first."""
    tokenizer, scheduler = model.tokenizer, model.scheduler()
    vocabulary, read_before = tokenizer.vocabulary, tokenizer.tokenize(prompt or "\n").tokens

    @cache
    def logprobs_after(tokens: tuple[str, ...]) -> list[float]:
        sequence = [*read_before, *tokens]
        text = TokenizedText("", "", sequence, tokenizer.ids(sequence))
        request = Request(predict(tokenizer, text, False), 1, math.inf)
        run_all(scheduler, [request])
        logprobs: list[float] = log_softmax(request.future.result().scores)[0].tolist()
        return logprobs

    kept: list[tuple[float, tuple[str, ...]]] = [(0.0, ())]
    ended: list[tuple[float, str, str]] = []
    while kept and len(ended) < beams:
        extensions = [
            (total + logprob, (*tokens, token))
            for total, tokens in kept
            for token, logprob in list(zip(vocabulary, logprobs_after(tokens), strict=True))[1:]
        ]
        best = sorted(extensions, key=lambda extension: -extension[0])[: 2 * beams]
        kept = []
        for rank, (total, tokens) in enumerate(best):
            text = "".join(tokens)
            begin = min((text.index(stop) for stop in stops if stop in text), default=None)
            if begin is None and len(tokens) < max_length:
                kept.append((total, tokens))
            elif rank < beams:
                whole = [*tokens]
                while begin is not None and len("".join(whole)) > begin:
                    whole.pop()
                ended.append((total / len(tokens), "".join(whole), "length" if begin is None else "stop"))
        kept = kept[:beams]
    return sorted(ended, key=lambda end: -end[0])


@given(prompt=st.text("ab\n", max_size=5), length=st.integers(1, 4), stop=st.sampled_from(["\n", "ab", "c"]))
def test_with_as_many_beams_as_texts_all_texts_are_found_and_the_best_is_at_least_as_good_as_the_greedy_one(
    opened: dict[str, Model], prompt: str, length: int, stop: str
) -> None:
    model = opened["letters"]
    rows, _, _ = search(model, searching(prompt, length, 3**length, 3**length, stop=(stop,)))
    scores = [row.score for row in rows if row.score is not None]
    texts = {text.partition(stop)[0] for text in map("".join, product("ab\n", repeat=length))}
    assert {row.text for row in rows} == texts
    assert len(scores) == len(rows)
    assert scores == sorted(scores, reverse=True)
    [greedy], _, _ = search(model, searching(prompt, length, 1, stop=(stop,)))
    assert greedy.score is not None
    assert scores[0] >= greedy.score
    assert greedy.text in texts


@pytest.mark.parametrize("name", NAMES)
@given(prompt=PROMPTS.filter(bool), beams=st.integers(1, 8), length=st.integers(1, 12), echo=st.booleans())
def test_the_score_is_the_mean_of_the_log_probabilities_of_the_text(
    opened: dict[str, Model], name: str, prompt: str, beams: int, length: int, echo: bool
) -> None:
    """Those of the scores that the row holds, and those by which `predict` ranks the texts."""
    model = opened[name]
    rows, _, _ = search(model, searching(prompt, length, beams, beams, logprobs=1, echo=echo))
    for row in rows:
        assert row.scores is not None
        logprobs = log_softmax(np.stack(row.scores))
        ids = model.tokenizer.ids(row.tokens)
        assert len(ids) == len(row.scores) == length
        assert row.score == pytest.approx(float(logprobs[np.arange(length), ids].mean()), rel=1e-12)
    if name == "words":  # a text of theirs may have other tokens after the prompt
        return
    request = Request(predict(model.tokenizer, prompt, False, continuations=[row.text for row in rows]), 1, math.inf)
    run_all(model.scheduler(), [request])
    ranked = {each.index: each.logprob / length for each in request.future.result().ranked}
    assert [row.score for row in rows] == pytest.approx([ranked[i] for i in range(len(rows))], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@given(
    prompts=st.lists(PROMPTS, min_size=2, max_size=5),
    beams=st.lists(st.integers(0, 16), min_size=5, max_size=5),
    stop=STOPS,
)
def test_a_search_is_the_same_to_the_bit_whoever_else_is_served(
    opened: dict[str, Model], name: str, prompts: list[str], beams: list[int], stop: tuple[str, ...]
) -> None:
    model = opened[name]
    requests = [
        GenerateRequest(prompt, 9, SamplingParams(), 7, stop, n=max(1, count // 2), logprobs=1, beams=count)
        for prompt, count in zip(prompts, beams, strict=False)
    ]
    together = [generate(model.tokenizer, request) for request in requests]
    submitted = [Request(task, 1, math.inf) for _, task in together]
    run_all(model.scheduler(), submitted)
    for request, (rows, _) in zip(requests, together, strict=True):
        alone, _, _ = search(model, request)
        assert [(row.text, row.score) for row in rows] == [(row.text, row.score) for row in alone]
        for row, other in zip(rows, alone, strict=True):
            assert row.scores is not None
            assert other.scores is not None
            count = len(row.tokens)
            np.testing.assert_array_equal(row.scores[:count], other.scores[:count])


@pytest.mark.parametrize("name", NAMES)
@given(prompt=PROMPTS, beams=st.integers(1, 5), cut=st.integers(0, 12), stop=STOPS)
def test_the_state_is_that_at_the_end_of_the_best_text(
    opened: dict[str, Model], name: str, prompt: str, beams: int, cut: int, stop: tuple[str, ...]
) -> None:
    """To the bit that of the prompt and the text read at once; and a search may begin in the middle of a prompt."""
    model = opened[name]
    cut = 0 if name == "words" else cut
    before = read(model, prompt[:cut]) if prompt[:cut] else EMPTY_STATE
    request = searching(prompt[cut:], 6, beams, stop=stop)
    [row], after, _ = search(model, request, before, returns_state=True)
    assert after.position == len(model.tokenizer.encode(prompt or "\n")[1]) + len(row.tokens)
    [whole], _, _ = search(model, replace(request, prompt=prompt))
    assert (row.text, row.score) == (whole.text, whole.score)
    expected = read(model, (prompt or "\n") + row.text)
    if name != "words" or expected.position == after.position:
        for tensor, values in expected.states.items():
            np.testing.assert_array_equal(after.states[tensor], values)


def read(model: Model, text: str) -> SequenceState:
    """The state after a text."""
    request = Request(predict(model.tokenizer, text, False), 1, math.inf)
    run_all(model.scheduler(), [request])
    state: SequenceState = request.future.result().after
    return state


@given(
    prompt=PROMPTS,
    beams=st.integers(1, 16),
    length=st.integers(1, 8),
    stop=STOPS,
    saves=st.booleans(),
    echo=st.booleans(),
)
def test_a_search_takes_at_most_the_steps_that_it_declares(
    opened: dict[str, Model], prompt: str, beams: int, length: int, stop: tuple[str, ...], saves: bool, echo: bool
) -> None:
    request = searching(prompt, length, beams, stop=stop, echo=echo)
    _, _, steps = search(opened["characters"], request, returns_state=saves)
    assert 0 < steps <= max(1, request.cost_steps)


def test_texts_that_the_model_cannot_write_are_not_made_up(opened: dict[str, Model]) -> None:
    rows, _, _ = search(opened["letters"], searching("a", 1, 16, 16))
    assert sorted(row.text for row in rows) == ["\n", "a", "b"]


@pytest.fixture
def searches(opened: dict[str, Model]) -> tuple[Scheduler, list[Request]]:
    """A scheduler, and two searches under way."""
    model = opened["characters"]
    scheduler = model.scheduler()
    requests = [
        Request(generate(model.tokenizer, searching(prompt, 40, 4))[1], 1, deadline)
        for prompt, deadline in (("ab", monotonic() + 3600), ("ba", math.inf))
    ]
    for request in requests:
        scheduler.add(request)
    for _ in range(5):
        scheduler.step()
    return scheduler, requests


def test_a_cancelled_search_takes_no_further_step(searches: tuple[Scheduler, list[Request]]) -> None:
    scheduler, (first, second) = searches
    assert first.future.cancel()
    assert {request for request, _ in scheduler.step()} == {second}


def test_a_search_past_its_deadline_fails_and_the_other_goes_on(
    searches: tuple[Scheduler, list[Request]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, (first, second) = searches
    monkeypatch.setattr("service.engine.scheduler.monotonic", lambda: first.deadline + 1)
    scheduler.step()
    with pytest.raises(DeadlineExceededError):
        first.future.result(0)
    while scheduler.busy:
        scheduler.step()
    assert second.future.result(0).position


def test_scores_that_are_not_finite_are_the_fault_of_the_prompt(opened: dict[str, Model]) -> None:
    request = searching("ab", 3, 2, path="$.source")
    _, task = generate(opened["letters"].tokenizer, request)
    next(task)
    with pytest.raises(NonFiniteOutputError) as refusal:
        task.send(PrefillResult({"logits": np.full((1, LETTERS.size), np.nan, dtype=np.float32)}, {}))
    assert refusal.value.path == "$.source"
