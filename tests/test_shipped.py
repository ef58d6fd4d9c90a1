"""The models that Carry ships do what their cards say."""

import math
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.classify.manifest import ClassifyManifest
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from service.text.manifest import TextManifest
from tests.conftest import SHIPPED
from training.data.control_charts import PATTERNS, chart
from training.data.dates import sample_pairs

# What followed examples/co2.csv, the monthly carbon dioxide at Mauna Loa, from 1969 on (Keeling and Whorf). None of the
# shipped models was trained on it.
AFTER = [
    323.83, 324.26, 325.47, 326.5, 327.21, 326.54, 325.72, 323.5, 322.22, 321.62, 322.69, 323.95,
    324.89, 325.82, 326.77, 327.97, 327.91, 327.5, 326.18, 324.53, 322.93, 322.9, 323.85, 324.96,
]  # fmt: skip

SHIPPED_MODELS = (
    "sine",
    "walk",
    "stock",
    "forecast",
    "text",
    "text-fast",
    "shakespeare",
    "control-charts",
    "languages",
    "dates",
)


def post(client: TestClient, route: str, **body: Any) -> dict[str, Any]:
    answer = client.post(route, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_all_are_loaded_and_none_refused(shipped: TestClient) -> None:
    found = shipped.get("/models").json()
    assert found["refused"] == []
    assert {m["name"] for m in found["models"]} == set(SHIPPED_MODELS)
    assert {m["name"] for m in found["models"] if m["default"]} == {"forecast", "text"}


def test_sine_goes_on_by_itself(shipped: TestClient) -> None:
    given = [math.sin(i) for i in range(36)]
    found = post(shipped, "/forecast", model="sine", series=given, horizon=36)["median"]
    error = np.abs(np.array(found) - np.sin(np.arange(36, 72))).mean()
    assert error <= 0.05


def test_walk_is_close_to_the_best_possible(shipped: TestClient) -> None:
    rng = np.random.default_rng(99)
    steps = rng.normal(0, 0.1, (40, 100))
    walks = steps.cumsum(axis=1)
    errors = []
    for walk in walks:
        body = {"model": "walk", "series": walk.tolist(), "horizon": 1, "quantiles": [0.5], "include_history": True}
        history = post(shipped, "/forecast", **body)["history"]["quantiles"]["0.5"]
        errors.append((np.array(history[1:]) - walk[1:]) ** 2)
    best = (steps[:, 1:] ** 2).mean()
    assert np.mean(errors) < 1.25 * best


def test_forecast_beats_the_seasonal_naive_on_a_series_it_never_saw(shipped: TestClient) -> None:
    lines = (SHIPPED.parent / "examples/co2.csv").read_text().splitlines()[1:]
    series = [float(line.split(",")[1]) for line in lines]
    found = post(shipped, "/forecast", series=series, horizon=24, freq="MS", levels=[95])
    truth = np.array(AFTER)
    naive = np.array(series[-12:] * 2)
    assert np.abs(np.array(found["median"]) - truth).mean() < np.abs(naive - truth).mean()
    inside = (truth >= found["quantiles"]["0.025"]) & (truth <= found["quantiles"]["0.975"])
    assert inside.mean() >= 0.9


@pytest.mark.parametrize(
    ("name", "prompt", "nats"),
    [("text", "The old house ", 0.97), ("text-fast", "The old house ", 1.01), ("shakespeare", "ROMEO:\n", 1.47)],
)
def test_text_models_spell_words_of_their_authors(shipped: TestClient, name: str, prompt: str, nats: float) -> None:
    found = post(shipped, "/generate", model=name, prompt=prompt, max_length=300, seed=7)
    words = [word for word in found["text"].lower().replace("\n", " ").split() if word.isalpha()]
    common = {"the", "and", "to", "of", "i", "you", "my", "a", "that", "in", "is", "not", "me", "it", "be", "he"}
    assert len(common & {*words}) >= 5
    assert read_manifest(SHIPPED / name / "1", TextManifest).metrics["nats_per_character"] <= nats


@pytest.mark.parametrize("pattern", PATTERNS)
def test_control_charts_are_told_apart(shipped: TestClient, pattern: str) -> None:
    """Charts of another seed than those of training and of the card."""
    rng = np.random.default_rng(99)
    charts = [chart(pattern, rng).tolist() for _ in range(50)]
    body = {"model": "control-charts", "requests": [{"series": values} for values in charts]}
    found = post(shipped, "/classify/batch", **body)["results"]
    assert np.mean([each["label"] == pattern for each in found]) >= 0.85


def test_a_shift_of_a_process_is_seen_within_a_few_values(shipped: TestClient) -> None:
    usual = [0.3, -1.1, 0.8, 0.1, -0.6, 1.2, -0.4, 0.5, -0.9, 0.2, -0.3, 0.7]
    shifted = [2.6, 1.9, 2.2, 3.1, 1.4, 2.7]
    created = shipped.post("/sessions", json={"model": "control-charts", "series": usual}).json()["id"]
    labels = [post(shipped, "/classify", session_id=created, series=[value])["label"] for value in shifted]
    assert post(shipped, "/classify", model="control-charts", series=usual)["label"] == "normal"
    assert labels[-1] == "shift up"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("English", "Where is the nearest station?"),
        ("German", "Wo ist der nächste Bahnhof?"),
        ("French", "Je voudrais un café, s'il vous plaît."),
        ("Norwegian", "Jeg vil gjerne ha en kopp kaffe."),
        ("Polish", "Gdzie jest najbliższa stacja?"),
        ("Greek", "Πού είναι ο σταθμός;"),  # noqa: RUF001
        ("Turkish", "Bir fincan kahve lütfen, teşekkür ederim."),
    ],
)
def test_the_language_of_a_sentence_is_known(shipped: TestClient, language: str, text: str) -> None:
    assert post(shipped, "/classify", model="languages", text=text)["label"] == language


def test_dates_are_read_in_formats_that_the_model_never_saw(shipped: TestClient) -> None:
    pairs = list(sample_pairs(3, 200, unseen=True))
    written = [post(shipped, "/generate", model="dates", source=source, temperature=0)["text"] for source, _ in pairs]
    wrong = [(source, text) for (source, target), text in zip(pairs, written, strict=True) if text != target]
    assert len(wrong) <= 4, wrong


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("3/4/2021", "2021-04-03"),
        ("4/13/2021", "2021-04-13"),
        ("2021/4/3", "2021-04-03"),
        ("3.4.69", "1969-04-03"),
        ("3.4.68", "2068-04-03"),
        ("Tuesday, 3 May 2021", "2021-05-03"),
    ],
)
def test_dates_that_can_mean_two_days_follow_the_rules(shipped: TestClient, source: str, target: str) -> None:
    assert post(shipped, "/generate", model="dates", source=source, temperature=0)["text"] == target


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_a_card_tells_how_the_model_was_made_and_measured(name: str) -> None:
    [folder] = (SHIPPED / name).iterdir()
    card = (folder / "CARD.md").read_text()
    manifest = read_manifest(folder, ForecastManifest, TextManifest, ClassifyManifest)
    assert manifest.provenance.command in card
    assert ("## Benchmarks" if name == "forecast" else "## Test part") in card
    assert manifest.metrics
    for picture in (folder / "pictures").glob("*.png"):
        assert f"pictures/{picture.name}" in card
        assert picture.with_suffix(".csv").exists()


def test_what_is_shipped_stays_small() -> None:
    sizes = {path: path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 35_000_000
    for name in ("text", "text-fast", "shakespeare"):
        assert sum(size for path, size in sizes.items() if path.is_relative_to(SHIPPED / name)) <= 12_000_000
    for name in ("control-charts", "languages", "dates"):
        assert sum(size for path, size in sizes.items() if path.is_relative_to(SHIPPED / name)) <= 2_000_000
