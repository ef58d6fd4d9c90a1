"""From prompt to text, below HTTP."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduler import Scheduler
from service.generation import (
    Continuation,
    GenerateRequest,
    Prediction,
    Row,
    Tokenizer,
    continuation,
    generate,
    predict,
    prediction,
)
from service.manifest import TextManifest
from service.sampling import SamplingParams
from tests.builders import CHARACTERS, open_scheduler, run

Opened = tuple[Tokenizer, Scheduler]


@pytest.fixture(scope="module")
def opened(models: Path) -> Opened:
    manifest, _, scheduler = open_scheduler(models / "text/1")
    assert isinstance(manifest, TextManifest)
    return Tokenizer(manifest), scheduler


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
        before = predicted(opened, text[:at], len(CHARACTERS.characters), per_position=False)
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


@given(
    written=st.text("ab", min_size=1, max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3).map(tuple),
)
def test_what_is_sent_early_is_never_taken_back_and_nothing_else_is_held(written: str, stops: tuple[str, ...]) -> None:
    """Against the plain way: the text ends before the first stop text; what could be the beginning of one waits."""
    row = Row(GenerateRequest("", len(written), SamplingParams(), 0, stop=stops), 0, 0, False, None)
    for count, character in enumerate(written, 1):
        assert row.take([character]) == 1
        so_far = written[:count]
        ends = [i for i in range(count + 1) for stop in stops if so_far[:i].endswith(stop)]
        if ends:
            longest = max(len(stop) for stop in stops if so_far[: min(ends)].endswith(stop))
            assert "".join(row.text) == so_far[: min(ends) - longest]
            assert row.stopped
            assert (row.ready, row.left) == (len(row.text), 0)
            break
        assert "".join(row.text) == so_far
        assert row.left == len(written) - count
        held = so_far[row.ready :]
        begins = [so_far[i:] for i in range(count) if any(stop.startswith(so_far[i:]) for stop in stops)]
        assert held == (max(begins, key=len, default="") if row.left else "")
    several = Row(GenerateRequest("", len(written), SamplingParams(), 0, stop=stops), 0, 0, False, None)
    read = several.take([*written, "x"])
    assert (several.text, several.stopped, several.ready) == (row.text, row.stopped, row.ready)
    assert read == count
