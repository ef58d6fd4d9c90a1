"""`carry train classify`: it learns what can be told apart, calibrates, resumes, and says what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carry.classifier import Classifier
from service.classify.manifest import ClassifyManifest
from service.classify.task import softmax
from service.manifest import read_manifest
from tests.conftest import Run
from training import loop
from training.evaluation.classify import calibrated_temperature, measures

SMALL = ["--hidden", "8", "--epochs", "6", "--learning-rate", "0.01", "--dropout", "0", "--no-baselines"]
LONG = ["moves.csv", "--label", "kind", "--id", "id", "--name", "moves"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_moves(name: str = "moves.csv", count: int = 60, seed: int = 0) -> None:
    """A long table of series of two features: of the class `up` they rise, of `down` they fall."""
    rng = np.random.default_rng(seed)
    rows = ["id,kind,speed,height"]
    for i in range(count):
        kind, slope = [("up", 1.0), ("down", -1.0)][i % 2]
        for step in range(rng.integers(6, 12)):
            speed, height = rng.normal(size=2) * 0.2 + slope * step + [5, -5]
            rows.append(f"{name}{i},{kind},{speed:.3f},{height:.3f}")
    Path(name).write_text("\n".join(rows) + "\n")


def write_texts() -> None:
    """JSON lines of texts of three classes, each of words of its own."""
    rng = np.random.default_rng(0)
    words = {1: ["sun", "fine", "warm"], 2: ["rain", "cold", "storm"], 10: ["dusk", "moon", "night"]}
    lines = [
        {"mood": kind, "text": " ".join(rng.choice(choice, rng.integers(2, 6)))}
        for kind, choice in words.items()
        for _ in range(25)
    ]
    Path("texts.jsonl").write_text("\n".join(map(json.dumps, lines)))


def manifest_of(name: str, version: int = 1) -> ClassifyManifest:
    """The manifest of a model that a test trained."""
    return read_manifest(Path("models") / name / str(version), ClassifyManifest)


def test_series_that_can_be_told_apart_are(carry: Run) -> None:
    """From the command to probabilities of new series, and to their measures on a file of its own."""
    write_moves()
    write_moves("new.csv", 20, seed=1)
    status, out, err = carry("train", "classify", *LONG, *SMALL, "--valid", "0.2", "--weighted")
    assert (status, out) == (0, "wrote models/moves/1; `carry serve` loads it\n"), err
    assert "2 classes; 36 sequences to train on, 12 to choose the weights on, 12 to measure" in err
    manifest = manifest_of("moves")
    assert (manifest.classes, manifest.features) == (("down", "up"), ("speed", "height"))
    assert manifest.metrics["accuracy"] == 1.0
    assert {*manifest.metrics} >= {"balanced_accuracy", "macro_f1", "log_loss", "calibration_error"}
    card = Path("models/moves/1/CARD.md").read_text()
    for picture in ("loss", "confusion"):
        assert f"pictures/{picture}.png" in card
        assert Path(f"models/moves/1/pictures/{picture}.png").stat().st_size > 1000
    steps, base = np.arange(8.0)[:, None], np.array([5, -5])
    for model in Classifier.open(Path("models/moves/1")).values():
        shares = model.probabilities([base + steps, base - steps, base + steps[:3]])
        assert shares.argmax(axis=1).tolist() == [1, 0, 1]
    status, out, _ = carry("evaluate", "moves", "new.csv", "--label", "kind", "--id", "id", "--json")
    assert status == 0
    rows: dict[str, dict[str, float]] = json.loads(out)
    assert [(row["accuracy"], row["sequences"]) for row in rows.values()] == [(1.0, 20.0)] * 2


def test_texts_are_read_in_both_directions_if_so_told(carry: Run) -> None:
    """Then there is no state; classes that are numbers are in their order."""
    write_texts()
    options = ["--label", "mood", "--name", "moods", "--directions", "2", "--unit", "word", "--cell", "lstm"]
    status, _, err = carry("train", "classify", "texts.jsonl", *options, *SMALL, "--test", "0.2", "--valid", "0.2")
    assert status == 0, err
    manifest = manifest_of("moods")
    assert (manifest.classes, manifest.directions, manifest.unit) == (("1", "2", "10"), 2, "word")
    assert (manifest.features, manifest.graph.state) == ((), ())
    assert manifest.metrics["accuracy"] == 1.0
    [model, _] = Classifier.open(Path("models/moods/1")).values()
    texts = ["sun warm", "storm cold rain", "night moon"]
    shares = model.probabilities([manifest.tokenizer.encode(text)[1] for text in texts])
    assert [manifest.classes[i] for i in shares.argmax(axis=1)] == ["1", "2", "10"]


class KilledError(Exception):
    """Ends a run in the middle."""


def test_a_killed_run_goes_on_to_the_same_weights(carry: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it had not been killed."""
    write_moves(count=24)
    command = ("train", "classify", *LONG, *SMALL[:2], "--epochs", "2", "--no-baselines")
    write_log = loop.write_log

    def killed(history: Any, path: Path) -> None:
        write_log(history, path)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_log", killed)
        with pytest.raises(KilledError):
            carry(*command)
    status, _, err = carry(*command)
    assert status == 0
    assert "resuming at epoch 2 of 2" in err
    assert carry(*command, "--run-dir", "runs/whole")[0] == 0
    assert manifest_of("moves", 1).graph == manifest_of("moves", 2).graph
    assert "nothing to do" in carry(*command)[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "class", "--id", "id"], "no column 'class'; its columns are 'id', 'kind', 'speed', 'height'"),
        (["--label", "kind", "--id", "who"], "no column 'who'"),
        (["--label", "kind", "--id", "id", "--features", "width"], "no column 'width'"),
        (["--label", "kind", "--unit", "syllable"], "character"),
        (["--label", "kind", "--directions", "3"], "--directions"),
        (["--label", "kind"], "in the column 'id' is no number"),
        (["--label", "kind", "--id", "id", "--test-on", "one.csv"], "classes that the training part lacks: sideways"),
        (
            ["--label", "kind", "--id", "id", "--test-on", "narrow.csv"],
            "--test-on: holds series of 'speed';",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(carry: Run, options: list[str], message: str) -> None:
    """And no model is written."""
    write_moves(count=6)
    Path("one.csv").write_text("id,kind,speed,height\na,sideways,1,2\n")
    Path("narrow.csv").write_text("id,kind,speed\na,up,1\n")
    status, out, err = carry("train", "classify", "moves.csv", "--name", "moves", *SMALL, *options)
    assert (status, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert not Path("models").exists()


def test_one_class_cannot_be_told_from_another(carry: Run) -> None:
    """Nor can one sequence of each class be held out: it is trained on."""
    Path("one.csv").write_text("kind,0,1\nup,1,2\nup,2,3\n")
    command = ("train", "classify", "--label", "kind", "--name", "few", "--hidden", "4", "--epochs", "1")
    status, _, err = carry(*command, "one.csv")
    assert (status, "the labels are 1: 'up'" in " ".join(err.replace("│", " ").split())) == (2, True)
    Path("two.csv").write_text("kind,0,1\nup,1,2\ndown,2,1\n")
    status, _, err = carry(*command, "two.csv")
    assert status == 0, err
    assert "2 sequences to train on, 0 to choose the weights on, 0 to measure" in err
    assert "not measured: nothing was held out" in err
    assert manifest_of("few").metrics == {}


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(5, 60), classes=st.integers(2, 5))
def test_the_temperature_calibrates(seed: int, count: int, classes: int) -> None:
    """No worse than none on the part that it is found on; the more certain the scores, the higher it is."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    scores = rng.normal(size=(count, classes)) + 2 * np.eye(classes)[labels] * (rng.random((count, 1)) < 0.7)

    def loss(at: float) -> float:
        return measures(labels, softmax(scores / at))["log_loss"]

    temperature = calibrated_temperature(labels, scores)
    assert 0.5 <= temperature <= 5
    assert loss(temperature) <= loss(1.0) + 1e-4
    assert calibrated_temperature(labels, 2 * scores) >= temperature
