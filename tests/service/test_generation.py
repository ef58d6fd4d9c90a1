"""From prompt to text, below HTTP, of character models and of word models."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.engine.scheduler import Scheduler
from service.engine.sequence import Prefill, PrefillResult, SequenceState, Task
from service.errors import InvalidRequestError
from service.manifest import read_manifest
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams
from service.text.stopping import StopTexts
from service.text.task import (
    DECODE_STEPS,
    CharacterDecoder,
    Continuation,
    GenerateRequest,
    Prediction,
    Row,
    continuation,
    generate,
    predict,
    prediction,
)
from service.text.tokenizer import Tokenizer
from tests.builders import CHARACTERS, WORDS, open_scheduler, run, word_model, write_model

Opened = tuple[Tokenizer, Scheduler]


@pytest.fixture(scope="module")
def opened(models: Path) -> Opened:
    manifest, _, scheduler = open_scheduler(models / "text/1")
    assert isinstance(manifest, TextManifest)
    return manifest.tokenizer, scheduler


def texts(opened: Opened, request: GenerateRequest) -> list[Continuation]:
    rows, task = generate(opened[0], request)
    run(opened[1], task)
    return [continuation(opened[0], row, request.logprobs) for row in rows]


def predicted(opened: Opened, text: str, top_k: int, per_position: bool) -> Prediction:
    scored = run(opened[1], predict(opened[0], text, per_position))
    return prediction(opened[0], text, scored.scores, top_k, per_position)


@pytest.mark.parametrize("repeats", [26, 60])
def test_positions_of_a_text_longer_than_a_chunk_have_no_seam(opened: Opened, repeats: int) -> None:
    text = "the quick brown fox jumps over the lazy dog, " * repeats
    found = predicted(opened, text, 3, per_position=True)
    assert found.positions is not None
    assert "".join(position.character for position in found.positions) == text
    nats = 0.0
    for at in range(1, len(text)):
        probability = found.positions[at].probability
        assert probability is not None
        nats -= np.log(probability)
    assert found.bits_per_character == pytest.approx(nats / np.log(2) / (len(text) - 1))
    for at in {1, 511, 512, 513, 1023, 1024, 1025, len(text) - 1}:
        before = predicted(opened, text[:at], CHARACTERS.size, per_position=False)
        expected = dict(before.candidates)[text[at]]
        assert found.positions[at].probability == pytest.approx(expected, rel=1e-3)
        assert found.positions[at - 1].candidates[0] == pytest.approx(before.candidates[0])


def test_of_two_stop_texts_completed_at_once_the_one_that_began_first_cuts(opened: Opened) -> None:
    params = SamplingParams(temperature=1.0)
    [whole] = texts(opened, GenerateRequest("a", 40, params, seed=3))
    long, short = whole.text[20:24], whole.text[22:24]
    assert short not in whole.text[:23]
    for stop in ((long, short), (short, long)):
        [cut] = texts(opened, GenerateRequest("a", 40, params, seed=3, stop=stop))
        assert (cut.text, cut.finish_reason) == (whole.text[:20], "stop")


def test_rows_that_stop_leave_the_others_as_they_are(opened: Opened) -> None:
    params = SamplingParams(temperature=1.0)
    free = texts(opened, GenerateRequest("a", 30, params, seed=3, n=5))
    stop = free[2].text[4]
    cut = texts(opened, GenerateRequest("a", 30, params, seed=3, n=5, stop=(stop,)))
    for whole, row in zip(free, cut, strict=True):
        assert row.text == whole.text.split(stop)[0]
        assert row.finish_reason == ("stop" if stop in whole.text else "length")


PIECES = st.lists(st.sampled_from("ab"), min_size=1, max_size=30) | st.lists(
    st.sampled_from(["a", "b", "ab", "ba", " a", " bab"]), min_size=1, max_size=20
)
STOPS = st.lists(st.text("ab ", min_size=1, max_size=5), max_size=3).map(tuple)


def whole_pieces(pieces: Sequence[str], length: int) -> int:
    """How many of the first pieces lie wholly in so many characters."""
    return sum(len("".join(pieces[: count + 1])) <= length for count in range(len(pieces)))


def cut_plainly(pieces: Sequence[str], stops: tuple[str, ...]) -> tuple[int, int] | None:
    """The plain way, of the whole text: how many pieces stay before the stop text that is complete first, and how many
    were read until then."""
    text = "".join(pieces)
    ends = [end for end in range(1, len(text) + 1) if text[:end].endswith(stops)]
    if not ends:
        return None
    begin = ends[0] - max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
    return whole_pieces(pieces, begin), whole_pieces(pieces, ends[0] - 1) + 1


def row_of(length: int, stops: tuple[str, ...]) -> Row:
    automaton = StopTexts(stops) if stops else None
    return Row(GenerateRequest("", length, SamplingParams(), 0), 0, 0, False, None, stops=automaton)


@given(pieces=PIECES, stops=STOPS, more=st.booleans(), size=st.integers(1, 16))
def test_a_text_ends_before_a_stop_text_and_only_its_possible_beginning_is_held(
    pieces: list[str], stops: tuple[str, ...], more: bool, size: int
) -> None:
    """Against the plain way, after each piece; and in calls of any size the same."""
    row = row_of(len(pieces) + more, stops)
    for count, piece in enumerate(pieces, 1):
        assert row.take([piece]) == 1
        so_far = pieces[:count]
        cut = cut_plainly(so_far, stops)
        if cut:
            assert row.stopped
            assert cut == (len(row.text), count)
            assert (row.text, row.ready, row.left) == (so_far[: cut[0]], cut[0], 0)
            break
        assert (row.text, row.left, row.stopped) == (so_far, len(pieces) + more - count, False)
        text = "".join(so_far)
        begun = [at for at in range(len(text)) if any(stop.startswith(text[at:]) for stop in stops)]
        assert row.ready == (whole_pieces(so_far, min(begun)) if row.left and begun else count)
    several, read = row_of(len(pieces) + more, stops), 0
    while read < len(pieces) and several.left:
        read += several.take(pieces[read : read + size])
    assert (several.text, several.stopped, several.ready) == (row.text, row.stopped, row.ready)
    assert read == count


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = write_model(word_model(), tmp_path_factory.mktemp("models"), "words", tokenizer=WORDS)
    manifest, _, scheduler = open_scheduler(folder)
    assert isinstance(manifest, TextManifest)
    return manifest.tokenizer, scheduler


@pytest.mark.parametrize("unit", ["character", "word"])
@given(
    prompt=st.text("ab ,\n", max_size=20),
    seed=st.integers(0, 2**53),
    stop=st.lists(st.text("ab ,", min_size=1, max_size=3), max_size=3).map(tuple),
    temperature=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_a_sequence_stands_at_the_end_of_the_text_that_was_given_back(
    opened: Opened, words: Opened, unit: str, prompt: str, seed: int, stop: tuple[str, ...], temperature: float
) -> None:
    """Which is the free text, cut; to go on from there is to go on from where those tokens were only read."""
    tokenizer, scheduler = opened if unit == "character" else words
    params = SamplingParams(temperature, top_k=6, repetition_penalty=1.2, frequency_penalty=0.2, presence_penalty=0.5)
    if unit == "character":
        params = replace(params, logit_bias=tokenizer.biases(dict.fromkeys("ab ,", 4.0), ""))
    whole = GenerateRequest(prompt, 40, params, seed)
    [free], task = generate(tokenizer, whole)
    run(scheduler, task)
    [row], task = generate(tokenizer, replace(whole, stop=stop), keeps=True)
    after = run(scheduler, task)
    cut = cut_plainly(free.text, stop)
    assert row.text == (free.text[: cut[0]] if cut else free.text)
    assert row.finish_reason == ("stop" if cut else "length")
    tokens = np.concatenate([tokenizer.encode(prompt or "\n")[1], tokenizer.tokens(row.text)])
    read: PrefillResult = run(scheduler, reading(tokens))
    assert after.position == len(tokens)
    np.testing.assert_allclose(after.states["logits"], read.outputs["logits"], atol=1e-5)
    fresh = SequenceState(len(tokens), {**read.states, **read.outputs, "seen": after.states["seen"]})
    on = [generate(tokenizer, GenerateRequest("", 9, params, seed), start) for start in (after, fresh)]
    for _, task in on:
        run(scheduler, task)
    assert on[0][0][0].text == on[1][0][0].text


def reading(tokens: NDArray[np.int64]) -> Task[PrefillResult]:
    result: PrefillResult = yield Prefill({"tokens": tokens[None]}, ("logits",))
    return result


ANY_TEXT = st.text("ab ,\t\r\n'_<>eE\u0301\u0323\u00e9\u1100\u1161\u2014\u2019\u212b\U0001f600") | st.text()


@pytest.mark.parametrize("tokenizer", [CHARACTERS, WORDS], ids=["character", "word"])
@given(text=ANY_TEXT)
def test_a_text_is_the_concatenation_of_its_pieces(tokenizer: Tokenizer, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    pieces, tokens = tokenizer.encode(text)
    assert "".join(pieces) == tokenizer.read(text) == tokenizer.read(tokenizer.read(text))
    assert np.array_equal(tokens, tokenizer.tokens(pieces))
    assert bool(tokenizer.unknown(text)) == any(tokens[i] == 0 and "<unk>" not in pieces[i] for i in range(len(pieces)))


@given(text=ANY_TEXT)
def test_an_unknown_character_is_found_where_it_was_sent(opened: Opened, text: str) -> None:
    tokenizer = opened[0]
    text = text.encode("utf-8", "ignore").decode()
    unknown = tokenizer.unknown(text)
    if not unknown:
        tokenizer.check_known(text, "$.prompt")
        return
    with pytest.raises(InvalidRequestError, match=re.escape(f"(U+{ord(unknown[0]):04X})")) as refused:
        tokenizer.check_known(text, "$.prompt")
    assert refused.value.path == "$.prompt"
    position = int(refused.value.detail.rsplit(" ", 1)[1])
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
def test_a_refusal_names_the_character_and_its_place(opened: Opened, text: str, name: str, position: int) -> None:
    """After what is read as fewer or more characters than were sent."""
    with pytest.raises(InvalidRequestError) as refused:
        opened[0].check_known(text, "$.prompt")
    assert refused.value.detail == f"the model does not know the character {name}, at position {position}"


def test_unknown_words_are_told_without_their_space_but_not_those_that_say_so(words: Opened) -> None:
    tokenizer = words[0]
    assert tokenizer.unknown("a cat, <unk> a cat's\r\nab ba") == ["cat", "cat's", "ab"]
    assert tokenizer.unknown("a  bab") == [" "]
    with pytest.raises(InvalidRequestError, match="does not know the word 'cat', at position 9"):
        tokenizer.check_known("a <unk>\r\ncat", "$.prompt")


@pytest.mark.parametrize("unit", ["character", "word"])
@given(
    before=st.text("ab ,", max_size=9),
    prompt=st.text("ab ,\u2019\u00e9", max_size=20),
    length=st.integers(0, 5),
    top=st.integers(1, 4),
    n=st.integers(1, 3),
)
def test_an_echo_is_the_prompt_as_read_with_what_was_expected_there(
    opened: Opened, words: Opened, unit: str, before: str, prompt: str, length: int, top: int, n: int
) -> None:
    tokenizer, scheduler = opened if unit == "character" else words
    start = run(scheduler, predict(tokenizer, before, False)).after
    request = GenerateRequest(prompt, length, SamplingParams(), 3, n=n, logprobs=top)
    rows, task = generate(tokenizer, request, start)
    run(scheduler, task)
    plain = [continuation(tokenizer, row, top) for row in rows]
    rows, task = generate(tokenizer, replace(request, echo=True), start)
    run(scheduler, task)
    scored = run(scheduler, predict(tokenizer, prompt, True, start))
    expected = prediction(tokenizer, prompt, scored.scores, top, per_position=True).positions
    assert expected is not None
    for row, alone in zip(rows, plain, strict=True):
        whole = continuation(tokenizer, row, top)
        assert whole.text == tokenizer.read(prompt) + alone.text
        told = whole.chosen[: len(expected)]
        assert [c.character for c in told] == [p.character for p in expected]
        assert [c.probability for c in told] == [pytest.approx(p.probability) for p in expected]
        assert [c.candidates for c in whole.chosen[1 : len(expected)]] == [p.candidates for p in expected[:-1]]
        assert whole.chosen[len(expected) :] == alone.chosen
        if told and not before:
            assert (told[0].probability, told[0].candidates) == (None, [])


@pytest.mark.parametrize("unit", ["character", "word"])
@given(
    before=st.text("ab ,", max_size=5),
    text=st.text("ab ,", max_size=9),
    continuations=st.lists(st.text("ab ,\u00e9", min_size=1, max_size=9), min_size=1, max_size=40),
)
def test_a_continuation_is_as_probable_as_its_positions_say(
    opened: Opened, words: Opened, unit: str, before: str, text: str, continuations: list[str]
) -> None:
    tokenizer, scheduler = opened if unit == "character" else words
    start = run(scheduler, predict(tokenizer, before, False)).after
    scored = run(scheduler, predict(tokenizer, text, False, start, continuations))
    plain = run(scheduler, predict(tokenizer, text, False, start))
    assert np.array_equal(scored.scores, plain.scores)
    assert scored.after.position == plain.after.position
    assert [r.log for r in scored.ranked] == sorted((r.log for r in scored.ranked), reverse=True)
    assert sorted(r.index for r in scored.ranked) == list(range(len(continuations)))
    begun = plain.after if plain.after.position else run(scheduler, predict(tokenizer, "\n", False)).after
    for ranked in scored.ranked:
        one = continuations[ranked.index]
        each = run(scheduler, predict(tokenizer, one, True, begun))
        positions = prediction(tokenizer, one, each.scores, 1, per_position=True).positions
        assert positions is not None
        expected = sum(math.log(p.probability) for p in positions if p.probability is not None)
        assert ranked.log == pytest.approx(expected, abs=1e-6)
        assert ranked.log_per_character == pytest.approx(expected / len(one), abs=1e-6)


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
def test_a_vocabulary_of_what_is_no_word_is_refused(vocabulary: tuple[str, ...], tmp_path: Path) -> None:
    manifest = read_manifest(write_model(word_model(), tmp_path, "words", tokenizer=WORDS), TextManifest)
    said = manifest.model_dump() | {"vocabulary": vocabulary}
    with pytest.raises(ValueError, match="vocabulary"):
        TextManifest.model_validate(said)
    with pytest.raises(ValueError, match="single characters"):
        TextManifest.model_validate(manifest.model_dump() | {"unit": "character"})


def test_bits_are_per_character_of_what_was_predicted_in_a_word_model_too(words: Opened) -> None:
    text = "abba, a bab. ba"
    found = predicted(words, text, 1, per_position=True)
    assert found.positions is not None
    assert [p.character for p in found.positions] == ["abba", ",", " a", " bab", ".", " ba"]
    nats = -sum(math.log(p.probability) for p in found.positions if p.probability is not None)
    assert found.bits_per_character == pytest.approx(nats / math.log(2) / (len(text) - len("abba")))


def test_a_bias_against_all_that_could_be_written_is_refused(words: Opened) -> None:
    tokenizer = words[0]
    biases = tokenizer.biases(dict.fromkeys(WORDS.pieces[1:], -100.0), "$.logit_bias")
    with pytest.raises(InvalidRequestError, match="bans all"):
        generate(tokenizer, GenerateRequest("a", 5, SamplingParams(logit_bias=biases), 1))
    [found] = texts(words, GenerateRequest("a", 5, SamplingParams(logit_bias=biases[1:]), 1))
    assert found.text == WORDS.pieces[1] * 5
    for unknown in ("", "cat", "<unk>"):
        with pytest.raises(InvalidRequestError, match=f"has no word {unknown!r} to write"):
            tokenizer.biases({"a": 1.0, unknown: 1.0}, "$.logit_bias")


def test_the_first_piece_that_somebody_waits_for_is_not_kept_for_the_next_ones(opened: Opened) -> None:
    decoder = CharacterDecoder(CHARACTERS.pieces)
    request = GenerateRequest("abc", 40, SamplingParams(), 1)
    watched, _ = generate(opened[0], request, listener=lambda rows: None)
    alone, _ = generate(opened[0], request)
    for rows in (watched, alone):
        rows[0].prompt = [1, 2, 3]
    assert len(decoder.inputs(alone)["uniforms"]) == DECODE_STEPS
    both = [*alone, *watched]
    assert len(decoder.inputs(both)["uniforms"]) == len("abc") + 1
    watched[0].take(["x"])
    assert len(decoder.inputs(both)["uniforms"]) == DECODE_STEPS
