"""What a text model starts from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from service.manifest import read_manifest
from service.text.manifest import TextManifest
from tests.builders import character_model
from tests.conftest import Run
from training.data.texts import Parts
from training.models import shipped_model
from training.recipes.text_start import CHARACTERS, SMALL_TEXT, WORDS, reason_against, usual_sizes

ENGLISH = "It was a bright cold day in April, and the clocks were striking thirteen. "


def parts(text: str) -> Parts:
    return Parts([text], [text], [text])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ENGLISH, None),
        ("Ein kalter Märztag, und die Uhren schlugen zwölf. ", None),
        ("これはとても短い文章です", "does not know"),
        (ENGLISH * (1 + SMALL_TEXT // len(ENGLISH)), "large"),
    ],
)
def test_small_texts_in_its_script_start_from_the_shipped_model(text: str, reason: str | None) -> None:
    shipped = shipped_model("text")
    assert shipped is not None
    said = reason_against(shipped, parts(text))
    assert (said is None) == (reason is None)
    assert (reason or "") in (said or "")


@pytest.mark.parametrize(("characters", "epochs"), [(100, 10), (100_000, 5), (400_000, 1), (4_000_000, 1)])
def test_the_smaller_the_text_the_more_epochs_go_on_from_a_model(characters: int, epochs: int) -> None:
    shipped = shipped_model("text")
    assert usual_sizes(parts("a" * characters), "character", shipped).epochs == epochs
    assert usual_sizes(parts("a"), "character", None) == CHARACTERS
    assert usual_sizes(parts("a"), "word", None) == WORDS


def test_added_tokens_leave_the_scores_of_the_others_and_are_expected_like_their_mean() -> None:
    network = character_model().eval()
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 20, (2, 9)))
    with torch.no_grad():
        before, _ = network.predict(tokens, network.initial_state(2))
        network.add_tokens(3)
        after, _ = network.predict(tokens, network.initial_state(2))
    torch.testing.assert_close(after[..., :-3], before)
    torch.testing.assert_close(after[..., -3:], before[..., 1:].mean(dim=2, keepdim=True).expand(-1, -1, 3))


def test_a_small_text_starts_from_the_shipped_model_with_its_own_characters(
    carry: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("Ω and ψ are letters. " * 60 + ENGLISH * 20)
    status, _, err = carry("train", "text", "notes.txt", "--name", "notes", "--epochs", "1", "--no-baselines")
    assert status == 0
    said = "starting from the network and the characters of text-fast@1, and 2 characters more that this text has: Ω ψ"
    assert f"carry: {said}\n" in err
    manifest = read_manifest(Path("models/notes/1"), TextManifest)
    shipped = shipped_model("text")
    assert shipped is not None
    assert isinstance(shipped.manifest, TextManifest)
    assert manifest.vocabulary == (*shipped.manifest.vocabulary, "Ω", "ψ")
    card = Path("models/notes/1/CARD.md").read_text()
    assert "Starting from the network and the characters of text-fast@1" in card
    assert "| the shipped text-fast@1 |" in card
    status, out, err = carry("generate", "Ω and", "--model", "notes", "--max-length", "5", "--models-dir", "models")
    assert (status, out[:5]) == (0, "Ω and")


def test_an_option_of_the_network_or_none_trains_from_nothing(
    carry: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("she sells sea shells by the sea shore.\n" * 30)
    small = ["--context", "8", "--epochs", "1", "--no-baselines", "--rows", "4"]
    for name, options in (("a", ["--hidden", "4"]), ("b", ["--start-from", "none"])):
        status, _, err = carry("train", "text", "a.txt", "--name", name, *small, *options)
        assert status == 0
        assert "carry: training from nothing\n" in err
        assert len(read_manifest(Path(f"models/{name}/1"), TextManifest).vocabulary) < 20
