"""From prompt to text, below HTTP."""

from pathlib import Path

import pytest

from service.engine.runner import Runner
from service.generation import GenerateRequest, generate, predict
from service.manifest import TextManifest, read_manifest
from service.sampling import SamplingParams

Opened = tuple[TextManifest, Runner]


@pytest.fixture(scope="module")
def opened(models: Path) -> Opened:
    manifest = read_manifest(models / "text/1")
    assert isinstance(manifest, TextManifest)
    return manifest, Runner(models / "text/1", manifest.graph, threads=1)


def test_positions_of_a_text_longer_than_a_chunk_have_no_seam(opened: Opened) -> None:
    manifest, runner = opened
    text = "the quick brown fox jumps over the lazy dog, " * 26
    found = predict(runner, manifest, text, 3, per_position=True)
    assert found.positions is not None
    assert "".join(position.character for position in found.positions) == text
    for at in (1, 511, 512, 513, 1024, len(text) - 1):
        before = predict(runner, manifest, text[:at], len(manifest.vocabulary), per_position=False)
        expected = dict(before.candidates)[text[at]]
        assert found.positions[at].probability == pytest.approx(expected, rel=1e-3)


def test_of_two_stop_texts_completed_at_once_the_one_that_began_first_cuts(opened: Opened) -> None:
    manifest, runner = opened
    params = SamplingParams(temperature=1.0)
    [whole] = generate(runner, manifest, GenerateRequest("a", 40, params, seed=3))
    long, short = whole.text[20:24], whole.text[22:24]
    assert short not in whole.text[:23]
    for stop in ((long, short), (short, long)):
        [cut] = generate(runner, manifest, GenerateRequest("a", 40, params, seed=3, stop=stop))
        assert (cut.text, cut.finish_reason) == (whole.text[:20], "stop")


def test_rows_that_stop_leave_the_others_as_they_are(opened: Opened) -> None:
    manifest, runner = opened
    params = SamplingParams(temperature=1.0)
    free = generate(runner, manifest, GenerateRequest("a", 30, params, seed=3, n=5))
    stop = free[2].text[4]
    cut = generate(runner, manifest, GenerateRequest("a", 30, params, seed=3, n=5, stop=(stop,)))
    for whole, row in zip(free, cut, strict=True):
        assert row.text == whole.text.split(stop)[0]
        assert row.finish_reason == ("stop" if stop in whole.text else "length")
