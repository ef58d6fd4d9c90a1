"""Classifiers over the states of a trained model (`--features-of`): they have the properties of every classifier, learn
in seconds, and are served as any other."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from carry.classifier import Classifier
from service.app import create_app
from service.classify.manifest import ClassifyManifest
from service.engine.runner import Array, Runner
from service.manifest import read_manifest
from service.settings import Settings
from tests.builders import CHARACTERS, character_model, forecaster, write_model
from tests.classify.classifiers import classify, frozen_classifier, write_classifier
from tests.classify.test_classify_properties import check_pieces, check_rows
from tests.conftest import Run

ALL = [f"{form}-{precision}" for form in ("one", "two", "text") for precision in ("float32", "int8")]


@cache
def open_model(name: str) -> tuple[ClassifyManifest, Runner]:
    """A classifier of series of one or two features, or of texts, over an untrained model."""
    form, precision = name.split("-")
    network = frozen_classifier(form == "text", 2 if form == "two" else 1)
    folder = write_classifier(network, Path(mkdtemp()), "frozen")
    manifest = read_manifest(folder, ClassifyManifest)
    assert manifest.int8 is not None
    return manifest, Runner(folder, manifest.graph if precision == "float32" else manifest.int8.graph, threads=1)


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32), steps=st.integers(2, 40), cuts=st.sets(st.integers(1, 39), max_size=5))
def test_a_sequence_in_pieces_has_the_bits_of_the_whole(name: str, seed: int, steps: int, cuts: set[int]) -> None:
    """Though the forecaster itself rounds differently where a series is cut, and reads it in patches."""
    check_pieces(*open_model(name), seed, steps, cuts)


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(1, 20), min_size=2, max_size=17))
def test_a_row_is_the_same_to_the_bit_alone_and_in_a_batch(name: str, seed: int, lengths: list[int]) -> None:
    """Beside rows of other lengths, whose features have other gaps."""
    check_rows(*open_model(name), seed, lengths)


def test_before_the_first_whole_patch_a_class_is_as_probable_as_in_training() -> None:
    """The layers have read nothing: the scores are the head's biases. A feature that is missing stays out."""
    network = frozen_classifier()
    bias = (network.head.bias / network.temperature).detach().numpy()
    _, runner = open_model("two-float32")

    def scores(values: Array, mask: Array) -> Array:
        inputs = {"values": values, "mask": mask.astype(np.float32)}
        [output], _ = runner.prefill(inputs, np.array([values.shape[1]]), runner.initial_states(1), ["logits"])
        row: Array = output[0]
        return row

    assert np.array_equal(scores(np.ones((1, 3, 2)), np.ones((1, 3, 2))), bias)
    values, mask = np.random.default_rng(0).normal(size=(1, 12, 2)), np.ones((1, 12, 2)) * [1, 0]
    assert not np.array_equal(scores(values, mask), bias)
    assert np.array_equal(scores(values, mask), scores(values * [1, 7], mask))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of untrained models."""
    folder = tmp_path_factory.mktemp("bases")
    write_model(forecaster(), folder, "base")
    write_model(forecaster(features=2), folder, "wide")
    write_model(character_model(ngrams=4), folder, "letters")
    return folder


def write_waves(path: Path, count: int = 40) -> None:
    """A series a row: of the class `fast` or `slow` by its period, at any level and scale."""
    rng = np.random.default_rng(0)
    rows = ["kind," + ",".join(f"t{i}" for i in range(48))]
    for i in range(count):
        kind, period = [("fast", 5), ("slow", 24)][i % 2]
        wave = np.sin(2 * np.pi * (np.arange(48) / period + rng.random())) + 0.1 * rng.normal(size=48)
        rows.append(f"{kind}," + ",".join(f"{x:.4f}" for x in 10 ** rng.uniform(0, 2) * (wave + rng.normal())))
    path.write_text("\n".join(rows))


@pytest.fixture(scope="module")
def trained(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to train in, with a table of waves."""
    folder = tmp_path_factory.mktemp("waves")
    write_waves(folder / "waves.csv")
    return folder


WAVES = ("train", "classify", "waves.csv", "--label", "kind", "--name", "waves", "--no-baselines", "--features-of")


def test_a_head_over_an_untrained_forecaster_tells_waves_apart(
    carry: Run, models: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one go; the same command again does nothing."""
    monkeypatch.chdir(trained)
    status, out, err = carry(*WAVES, str(models / "base"))
    assert (status, out) == (0, "wrote models/waves/1; `carry serve` loads it\n"), err
    manifest = read_manifest(Path("models/waves/1"), ClassifyManifest)
    assert manifest.metrics["accuracy"] == 1.0
    assert "those of base@1 and did not learn" in Path("models/waves/1/CARD.md").read_text()
    assert "nothing to do" in carry(*WAVES, str(models / "base"))[2]


@pytest.fixture
def client(trained: Path) -> Iterator[TestClient]:
    """The application on the trained model."""
    with TestClient(create_app(Settings(models_dir=trained / "models", session_store="memory://"))) as opened:
        yield opened


def test_a_session_fed_value_by_value_ends_as_the_whole(client: TestClient) -> None:
    """To the bit; and so does what `per_step` says at each of these values."""
    series = (100 + 20 * np.sin(np.arange(30) / 2)).tolist()
    whole = classify(client, series=series, per_step=True)
    session = client.post("/sessions", json={"model": "waves"}).json()["id"]
    for i, value in enumerate(series):
        answer = classify(client, series=[value], session_id=session)
        assert answer["probabilities"] == {name: steps[i] for name, steps in whole["per_step"].items()}
    assert answer["probabilities"] == whole["probabilities"]
    assert answer["steps"] == 30


def test_texts_are_told_apart_by_the_states_of_a_text_model(
    carry: Run, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier has the tokens of the text model; all its graphs hold is in its own folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    words = {"weather": ["sun", "rain", "storm"], "night": ["moon", "dusk", "dark"]}
    lines = [
        {"label": kind, "text": " ".join(rng.choice(choice, rng.integers(2, 6)))}
        for kind, choice in words.items()
        for _ in range(25)
    ]
    Path("texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = ("train", "classify", "texts.jsonl", "--name", "themes", "--no-baselines", "--models-dir", "out")
    status, _, err = carry(*command, "--features-of", str(models / "letters"))
    assert status == 0, err
    manifest = read_manifest(Path("out/themes/1"), ClassifyManifest)
    assert manifest.vocabulary == CHARACTERS.vocabulary
    [model, _] = Classifier.open(Path("out/themes/1")).values()
    shares = model.probabilities([manifest.tokenizer.encode(text)[1] for text in ("rain storm sun", "dark moon")])
    assert [manifest.classes[i] for i in shares.argmax(axis=1)] == ["weather", "night"]


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        ("letters", [], "these are series: --features-of needs a forecaster of any series, and letters@1 is none"),
        ("wide", [], "only forecasters of lstm layers without features can be read"),
        ("nowhere", [], "no such file"),
        ("base", ["--hidden", "8"], "--hidden: the layers of --features-of are trained already"),
    ],
)
def test_what_has_no_states_for_these_sequences_is_refused(
    carry: Run,
    models: Path,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    options: list[str],
    message: str,
) -> None:
    """In a sentence."""
    monkeypatch.chdir(trained)
    status, out, err = carry(*WAVES, str(models / base), *options, "--models-dir", "refused")
    assert (status, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert not Path("refused").exists()
