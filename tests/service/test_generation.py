"""Generating and scoring, below HTTP, of character models and of word models."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduler import Scheduler
from service.engine.sequence import EMPTY_STATE, Prefill, PrefillResult, SequenceState, Task
from service.errors import InvalidRequestError
from service.manifest import read_manifest
from service.text.decoder import DECODE_STEPS, FinishReason, Row, TextDecoder
from service.text.logprobs import TokenLogprob, logprob_blocks
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams
from service.text.scoring import Position, bits_per_character, next_candidates, position_blocks, predict
from service.text.stopping import StopTexts
from service.text.task import GenerateRequest, generate
from service.tokenizer import Candidate, Ids, Tokenizer
from tests.builders import CHARACTERS, WORDS, open_scheduler, run, word_model, write_model

Opened = tuple[Tokenizer, Scheduler]


@pytest.fixture(scope="module")
def opened(models: Path) -> Opened:
    manifest, _, scheduler = open_scheduler(models / "text/1")
    assert isinstance(manifest, TextManifest)
    return manifest.tokenizer, scheduler


@dataclass
class Generated:
    """A text, with its echo."""

    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob]


def generated(opened: Opened, request: GenerateRequest, start: SequenceState = EMPTY_STATE) -> list[Generated]:
    """The texts of a request."""
    tokenizer, scheduler = opened
    rows, task = generate(tokenizer, request, start)
    run(scheduler, task)
    return [
        Generated(
            row.returned_text,
            row.finish_reason,
            list(chain.from_iterable(logprob_blocks(tokenizer, row, request.logprobs))),
        )
        for row in rows
    ]


def predicted(opened: Opened, text: str, top_k: int) -> list[Candidate]:
    """The candidates after a text."""
    tokenizer, scheduler = opened
    return next_candidates(tokenizer, run(scheduler, predict(tokenizer, text, False)).scores, top_k)


def positions_of(
    opened: Opened, text: str, top_k: int, start: SequenceState = EMPTY_STATE
) -> tuple[list[Position], float | None]:
    """The positions of a text, and its bits per character."""
    tokenizer, scheduler = opened
    scored = run(scheduler, predict(tokenizer, text, True, start))
    blocks = list(position_blocks(tokenizer, text, scored.scores, top_k))
    bits = bits_per_character(sum(block.nats for block in blocks), sum(block.characters for block in blocks))
    return list(chain.from_iterable(block.positions for block in blocks)), bits


@pytest.mark.parametrize("repeats", [26, 60])
def test_positions_of_a_text_longer_than_a_chunk_have_no_seam(opened: Opened, repeats: int) -> None:
    text = "the quick brown fox jumps over the lazy dog, " * repeats
    positions, bits = positions_of(opened, text, 3)
    assert "".join(position.token for position in positions) == text
    nats = 0.0
    for position in positions[1:]:
        assert position.probability is not None
        nats -= np.log(position.probability)
    assert bits == pytest.approx(nats / np.log(2) / (len(text) - 1))
    for i in {1, 511, 512, 513, 1023, 1024, 1025, len(text) - 1}:
        candidates = predicted(opened, text[:i], CHARACTERS.size)
        assert positions[i].probability == pytest.approx(dict(candidates)[text[i]], rel=1e-3)
        assert positions[i - 1].candidates[0] == pytest.approx(candidates[0])


def test_of_two_stop_texts_completed_at_once_the_one_that_began_first_cuts(opened: Opened) -> None:
    params = SamplingParams(temperature=1.0)
    [whole] = generated(opened, GenerateRequest("a", 40, params, seed=3))
    long, short = whole.text[20:24], whole.text[22:24]
    assert short not in whole.text[:23]
    for stop in ((long, short), (short, long)):
        [cut] = generated(opened, GenerateRequest("a", 40, params, seed=3, stop=stop))
        assert (cut.text, cut.finish_reason) == (whole.text[:20], "stop")


def test_rows_that_stop_leave_the_others_as_they_are(opened: Opened) -> None:
    params = SamplingParams(temperature=1.0)
    free = generated(opened, GenerateRequest("a", 30, params, seed=3, n=5))
    stop = free[2].text[4]
    cut = generated(opened, GenerateRequest("a", 30, params, seed=3, n=5, stop=(stop,)))
    for whole, row in zip(free, cut, strict=True):
        assert row.text == whole.text.split(stop)[0]
        assert row.finish_reason == ("stop" if stop in whole.text else "length")


TOKENS = st.lists(st.sampled_from("ab"), min_size=1, max_size=30) | st.lists(
    st.sampled_from(["a", "b", "ab", "ba", " a", " bab"]), min_size=1, max_size=20
)
STOPS = st.lists(st.text("ab ", min_size=1, max_size=5), max_size=3).map(tuple)


def whole_tokens(tokens: Sequence[str], length: int) -> int:
    """How many tokens the first `length` characters hold whole."""
    return sum(len("".join(tokens[: count + 1])) <= length for count in range(len(tokens)))


def cut_plainly(tokens: Sequence[str], stops: tuple[str, ...]) -> tuple[int, int] | None:
    """The plain way, on the whole text: how many tokens stay before the stop text that is complete first, and how many
    complete it."""
    text = "".join(tokens)
    ends = [end for end in range(1, len(text) + 1) if text[:end].endswith(stops)]
    if not ends:
        return None
    begin = ends[0] - max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
    return whole_tokens(tokens, begin), whole_tokens(tokens, ends[0] - 1) + 1


def row_of(length: int, stops: tuple[str, ...]) -> Row:
    automaton = StopTexts(stops) if stops else None
    return Row(SamplingParams(), 0, 0, length, stops=automaton)


@given(tokens=TOKENS, stops=STOPS, more=st.booleans(), size=st.integers(1, 16))
def test_a_text_ends_before_a_stop_text_and_only_its_possible_beginning_is_held(
    tokens: list[str], stops: tuple[str, ...], more: bool, size: int
) -> None:
    """As the plain way says, after each token; and the same in calls of any size."""
    row = row_of(len(tokens) + more, stops)
    for count, token in enumerate(tokens, 1):
        assert row.append([token]) == 1
        so_far = tokens[:count]
        cut = cut_plainly(so_far, stops)
        if cut:
            assert row.stopped
            assert cut == (len(row.tokens), count)
            assert (row.tokens, row.num_flushable, row.remaining) == (so_far[: cut[0]], cut[0], 0)
            break
        assert (row.tokens, row.remaining, row.stopped) == (so_far, len(tokens) + more - count, False)
        text = "".join(so_far)
        begun = [i for i in range(len(text)) if any(stop.startswith(text[i:]) for stop in stops)]
        assert row.num_flushable == (whole_tokens(so_far, min(begun)) if row.remaining and begun else count)
    other, taken = row_of(len(tokens) + more, stops), 0
    while taken < len(tokens) and other.remaining:
        taken += other.append(tokens[taken : taken + size])
    assert (other.tokens, other.stopped, other.num_flushable) == (row.tokens, row.stopped, row.num_flushable)
    assert taken == count


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = write_model(word_model(), tmp_path_factory.mktemp("models"), "words", tokenizer=WORDS)
    manifest, _, scheduler = open_scheduler(folder)
    assert isinstance(manifest, TextManifest)
    return manifest.tokenizer, scheduler


@pytest.mark.parametrize("level", ["character", "word"])
@given(
    prompt=st.text("ab ,\n", max_size=20),
    seed=st.integers(0, 2**53),
    stop=st.lists(st.text("ab ,", min_size=1, max_size=3), max_size=3).map(tuple),
    temperature=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_the_state_is_that_at_the_end_of_the_returned_text(
    opened: Opened, words: Opened, level: str, prompt: str, seed: int, stop: tuple[str, ...], temperature: float
) -> None:
    """The returned text is the free text, cut. To continue from the state is to continue from a prefill of it."""
    tokenizer, scheduler = opened if level == "character" else words
    params = SamplingParams(temperature, top_k=6, repetition_penalty=1.2, frequency_penalty=0.2, presence_penalty=0.5)
    if level == "character":
        params = replace(params, logit_bias=tokenizer.biases(dict.fromkeys("ab ,", 4.0), ""))
    whole = GenerateRequest(prompt, 40, params, seed)
    [free], task = generate(tokenizer, whole)
    run(scheduler, task)
    [row], task = generate(tokenizer, replace(whole, stop=stop), returns_state=True)
    after = run(scheduler, task)
    cut = cut_plainly(free.tokens, stop)
    assert row.tokens == (free.tokens[: cut[0]] if cut else free.tokens)
    assert row.finish_reason == ("stop" if cut else "length")
    ids = np.concatenate([tokenizer.encode(prompt or "\n")[1], tokenizer.ids(row.tokens)])
    result: PrefillResult = run(scheduler, prefilled(ids))
    assert after.position == len(ids)
    np.testing.assert_allclose(after.states["logits"], result.outputs["logits"], atol=1e-5)
    expected = SequenceState(len(ids), {**result.states, **result.outputs, "seen": after.states["seen"]})
    more = GenerateRequest("", 9, params, seed)
    [one], [other] = (generated((tokenizer, scheduler), more, start) for start in (after, expected))
    assert one.text == other.text


def prefilled(ids: Ids) -> Task[PrefillResult]:
    result: PrefillResult = yield Prefill({"tokens": ids[None]}, ("logits",))
    return result


ANY_TEXT = st.text("ab ,\t\r\n'_<>eE\u0301\u0323\u00e9\u1100\u1161\u2014\u2019\u212b\U0001f600") | st.text()


@pytest.mark.parametrize("tokenizer", [CHARACTERS, WORDS], ids=["character", "word"])
@given(text=ANY_TEXT)
def test_a_text_is_the_concatenation_of_its_tokens(tokenizer: Tokenizer, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    tokens, ids = tokenizer.encode(text)
    assert "".join(tokens) == tokenizer.normalize(text) == tokenizer.normalize(tokenizer.normalize(text))
    assert np.array_equal(ids, tokenizer.ids(tokens))
    unknown = (id == 0 and "<unk>" not in token for token, id in zip(tokens, ids, strict=True))
    assert bool(tokenizer.unknown(text)) == any(unknown)


@given(text=ANY_TEXT)
def test_an_error_has_the_position_of_the_first_unknown_character_as_sent(opened: Opened, text: str) -> None:
    tokenizer = opened[0]
    text = text.encode("utf-8", "ignore").decode()
    unknown = tokenizer.unknown(text)
    if not unknown:
        tokenizer.check_known(text, "$.prompt")
        return
    with pytest.raises(InvalidRequestError, match=re.escape(f"(U+{ord(unknown[0]):04X})")) as refusal:
        tokenizer.check_known(text, "$.prompt")
    assert refusal.value.path == "$.prompt"
    position = int(refusal.value.detail.rsplit(" ", 1)[1])
    assert not tokenizer.unknown(text[:position])
    assert tokenizer.unknown(text[: position + 1]) or text[position + 1] >= "\u0300"


@pytest.mark.parametrize(
    ("text", "name", "position"),
    [
        ("na\u00efve", "'\u00ef' (U+00EF)", 2),
        ("a\r\nna\u0308ive", "'\u00e4' (U+00E4)", 4),
        ("wait\u2026 \U0001f600", "'\U0001f600' (U+1F600)", 6),
        ("\u212b", "'\u00c5' (U+00C5)", 0),
    ],
)
def test_an_error_names_the_unknown_character(opened: Opened, text: str, name: str, position: int) -> None:
    """After characters that the model reads as fewer or more than were sent."""
    with pytest.raises(InvalidRequestError) as refusal:
        opened[0].check_known(text, "$.prompt")
    assert refusal.value.detail == f"the model does not know the character {name}, at position {position}"


def test_unknown_words_are_listed_without_their_space_and_the_unknown_token_is_not(words: Opened) -> None:
    tokenizer = words[0]
    assert tokenizer.unknown("a cat, <unk> a cat's\r\nab ba") == ["cat", "cat's", "ab"]
    assert tokenizer.unknown("a  bab") == [" "]
    with pytest.raises(InvalidRequestError, match="does not know the word 'cat', at position 9"):
        tokenizer.check_known("a <unk>\r\ncat", "$.prompt")


@pytest.mark.parametrize("level", ["character", "word"])
@given(
    before=st.text("ab ,", max_size=9),
    prompt=st.text("ab ,\u2019\u00e9", max_size=20),
    length=st.integers(0, 5),
    top=st.integers(1, 4),
    n=st.integers(1, 3),
)
def test_an_echo_is_the_prompt_as_read_with_the_models_log_probabilities(
    opened: Opened, words: Opened, level: str, before: str, prompt: str, length: int, top: int, n: int
) -> None:
    tokenizer, scheduler = opened if level == "character" else words
    start = run(scheduler, predict(tokenizer, before, False)).after
    request = GenerateRequest(prompt, length, SamplingParams(), 3, n=n, logprobs=top)
    plain = generated((tokenizer, scheduler), request, start)
    echoed = generated((tokenizer, scheduler), replace(request, echo=True), start)
    positions, _ = positions_of((tokenizer, scheduler), prompt, top, start)
    for whole, alone in zip(echoed, plain, strict=True):
        assert whole.text == tokenizer.normalize(prompt) + alone.text
        echo = whole.logprobs[: len(positions)]
        assert [logprob.token for logprob in echo] == [position.token for position in positions]
        assert [logprob.probability for logprob in echo] == [pytest.approx(p.probability) for p in positions]
        assert [logprob.candidates for logprob in echo[1:]] == [position.candidates for position in positions[:-1]]
        assert whole.logprobs[len(positions) :] == alone.logprobs
        if echo and not before:
            assert (echo[0].probability, echo[0].candidates) == (None, [])


@pytest.mark.parametrize("level", ["character", "word"])
@given(
    before=st.text("ab ,", max_size=5),
    text=st.text("ab ,", max_size=9),
    continuations=st.lists(st.text("ab ,\u00e9", min_size=1, max_size=9), min_size=1, max_size=40),
)
def test_a_continuation_is_as_probable_as_its_positions_say(
    opened: Opened, words: Opened, level: str, before: str, text: str, continuations: list[str]
) -> None:
    tokenizer, scheduler = opened if level == "character" else words
    start = run(scheduler, predict(tokenizer, before, False)).after
    scored = run(scheduler, predict(tokenizer, text, False, start, continuations))
    plain = run(scheduler, predict(tokenizer, text, False, start))
    assert np.array_equal(scored.scores, plain.scores)
    assert scored.after.position == plain.after.position
    assert [r.logprob for r in scored.ranked] == sorted((r.logprob for r in scored.ranked), reverse=True)
    assert sorted(r.index for r in scored.ranked) == list(range(len(continuations)))
    begun = plain.after if plain.after.position else run(scheduler, predict(tokenizer, "\n", False)).after
    for ranked in scored.ranked:
        continuation = continuations[ranked.index]
        positions, _ = positions_of((tokenizer, scheduler), continuation, 1, begun)
        expected = sum(math.log(p.probability) for p in positions if p.probability is not None)
        assert ranked.logprob == pytest.approx(expected, abs=1e-6)
        assert ranked.logprob_per_character == pytest.approx(expected / len(continuation), abs=1e-6)


@pytest.mark.parametrize(
    "vocabulary",
    [
        ("", "two words"),
        ("", "a", "a"),
        ("", "<unk>"),
        ("", " <unk>"),
        ("", "a", ""),
        ("a", "b"),
        ("", "  "),
        ("", " _"),
    ],
)
def test_a_vocabulary_with_a_token_that_is_no_word_is_refused(vocabulary: tuple[str, ...], tmp_path: Path) -> None:
    manifest = read_manifest(write_model(word_model(), tmp_path, "words", tokenizer=WORDS), TextManifest)
    with pytest.raises(ValueError, match="vocabulary"):
        TextManifest.model_validate(manifest.model_dump() | {"vocabulary": vocabulary})
    with pytest.raises(ValueError, match="single characters"):
        TextManifest.model_validate(manifest.model_dump() | {"unit": "character"})


def test_bits_of_a_word_model_are_per_character_of_the_predicted_words(words: Opened) -> None:
    text = "abba, a bab. ba"
    positions, bits = positions_of(words, text, 1)
    assert [position.token for position in positions] == ["abba", ",", " a", " bab", ".", " ba"]
    nats = -sum(math.log(p.probability) for p in positions if p.probability is not None)
    assert bits == pytest.approx(nats / math.log(2) / (len(text) - len("abba")))


def test_biases_that_ban_every_token_are_refused(words: Opened) -> None:
    tokenizer = words[0]
    biases = tokenizer.biases(dict.fromkeys(WORDS.vocabulary[1:], -100.0), "$.logit_bias")
    with pytest.raises(InvalidRequestError, match="bans every token"):
        generate(tokenizer, GenerateRequest("a", 5, SamplingParams(logit_bias=biases), 1))
    [text] = generated(words, GenerateRequest("a", 5, SamplingParams(logit_bias=biases[1:]), 1))
    assert text.text == WORDS.vocabulary[1] * 5
    for unknown in ("", "cat", "<unk>"):
        with pytest.raises(InvalidRequestError, match=f"vocabulary has no word {unknown!r}"):
            tokenizer.biases({"a": 1.0, unknown: 1.0}, "$.logit_bias")


def test_a_streamed_row_gets_its_first_token_without_waiting_for_more(opened: Opened) -> None:
    decoder = TextDecoder(CHARACTERS.vocabulary)
    request = GenerateRequest("abc", 40, SamplingParams(), 1)
    streamed, _ = generate(opened[0], request, listener=lambda rows: None)
    alone, _ = generate(opened[0], request)
    for rows in (streamed, alone):
        rows[0].prompt = [1, 2, 3]
    assert len(decoder.inputs(alone)["uniforms"]) == DECODE_STEPS
    both = [*alone, *streamed]
    assert len(decoder.inputs(both)["uniforms"]) == len("abc") + 1
    streamed[0].append(["x"])
    assert len(decoder.inputs(both)["uniforms"]) == DECODE_STEPS
