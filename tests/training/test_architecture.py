"""The facts of a network in a model folder, and networks that are read back from one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.classify.manifest import ClassifyManifest
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from service.text.manifest import TextManifest
from tests.builders import AnyForecaster, character_model, forecaster, write_model
from tests.conftest import SHIPPED
from training.nets.text import TextModel
from training.onnx.architecture import (
    NETWORK_FILE,
    A,
    ForecasterArchitecture,
    GlobalForecasterArchitecture,
    TextArchitecture,
    architecture_of,
    read_architecture,
)
from training.onnx.classify import ClassifierArchitecture
from training.onnx.export import REFERENCE_FILE
from training.onnx.weights import read_forecaster, read_text_model


def change(folder: Path, **facts: Any) -> None:
    path = folder / NETWORK_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        (character_model("gru"), TextArchitecture),
        (character_model(ngrams=4), TextArchitecture),
        (forecaster("elman", 2, "standard"), ForecasterArchitecture),
        (forecaster("jordan", 3), GlobalForecasterArchitecture),
    ],
)
def test_the_facts_that_are_read_are_those_that_were_exported(
    network: AnyForecaster | TextModel, kind: type[A], tmp_path: Path
) -> None:
    facts = read_architecture(write_model(network, tmp_path, "made"), kind)
    assert facts == architecture_of(network)
    assert (facts.cell, facts.layers, facts.hidden) == (network.recurrent.cell, 2, network.recurrent.hidden)
    assert facts.residual == network.recurrent.residual


def test_a_network_that_is_read_back_has_the_facts_of_the_exported_one(tmp_path: Path) -> None:
    text = character_model(ngrams=4)
    assert architecture_of(read_text_model(write_model(text, tmp_path, "text"))[0]) == architecture_of(text)
    series = forecaster()
    network = read_forecaster(write_model(series, tmp_path, "series"))
    assert architecture_of(network) == architecture_of(series)
    for name, tensor in series.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_a_folder_without_the_facts_of_its_network_is_refused(tmp_path: Path) -> None:
    folder = write_model(character_model(), tmp_path, "old")
    (folder / NETWORK_FILE).unlink()
    with pytest.raises(ValueError, match=r"old/1 has no network\.json, .* before 0\.2\.0"):
        read_text_model(folder)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"layers": 0}, "describes no network of this version of Carry: layers: "),
        ({"network": "transformer"}, "describes no network of this version of Carry: "),
        ({"ngram_buckets": 7}, "ngram_buckets is 7; this version of Carry knows only 65521"),
        ({"cell": "gru"}, "holds gru layers; only weights of lstm layers can be read"),
        ({"embedding": 9}, r"model\.onnx holds weights of another network: of the shape \(60, 8\), not \(60, 9\)"),
    ],
)
def test_facts_that_are_not_those_of_the_weights_are_refused(
    facts: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_model(character_model(), tmp_path, "made")
    change(folder, **facts)
    with pytest.raises(ValueError, match=message):
        read_text_model(folder)


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = write_model(forecaster(scaling="standard"), tmp_path, "made")
    with pytest.raises(ValueError, match="describes a network 'forecaster', not 'global_forecaster'"):
        read_forecaster(folder)
    with pytest.raises(ValueError, match="only forecasters of lstm layers without features"):
        read_forecaster(write_model(forecaster(features=2), tmp_path, "features"))


SHIPPED_MANIFESTS = sorted(path for path in SHIPPED.glob("*/*/manifest.json") if path.parent.parent.name != "stock")


@pytest.mark.parametrize("path", SHIPPED_MANIFESTS, ids=lambda path: path.parent.parent.name)
def test_the_facts_of_a_shipped_network_are_those_of_its_manifest(path: Path) -> None:
    manifest = read_manifest(path.parent, ForecastManifest, TextManifest, ClassifyManifest)
    made_by = manifest.provenance
    facts: TextArchitecture | ForecasterArchitecture | GlobalForecasterArchitecture | ClassifierArchitecture
    if isinstance(manifest, TextManifest):
        facts = read_architecture(path.parent, TextArchitecture)
        assert facts.vocabulary == len(manifest.vocabulary)
    elif isinstance(manifest, ClassifyManifest):
        facts = read_architecture(path.parent, ClassifierArchitecture)
        assert (facts.features, facts.vocabulary) == (len(manifest.features), len(manifest.vocabulary))
        assert (facts.classes, facts.directions) == (len(manifest.classes), manifest.directions)
    else:
        assert isinstance(manifest, ForecastManifest)
        if manifest.longest_season:
            facts = read_architecture(path.parent, GlobalForecasterArchitecture)
            assert 1 + len(facts.categories) == len(manifest.features)
        else:
            facts = read_architecture(path.parent, ForecasterArchitecture)
            assert facts.features == len(manifest.features)
        assert (facts.horizon, facts.quantile_levels) == (manifest.horizon, manifest.quantile_levels)
    assert (facts.cell, facts.layers, facts.hidden) == (made_by.cell, made_by.layers, made_by.hidden)


def test_a_network_that_this_version_cannot_build_is_refused() -> None:
    """The shipped model `stock` is of the forecaster's first generation (docs/decisions/0009)."""
    with pytest.raises(ValueError, match=r"describes no network of this version of Carry: .*'seasonal_forecaster'"):
        read_forecaster(SHIPPED / "stock/1")


def test_shipped_networks_that_are_read_back_compute_what_they_did_at_export() -> None:
    text, _ = read_text_model(SHIPPED / "text-fast/1")
    forecast = read_forecaster(SHIPPED / "forecast/2")
    with torch.no_grad(), np.load(SHIPPED / "text-fast/1" / REFERENCE_FILE) as saved:
        logits, _ = text.eval().predict(torch.from_numpy(saved["tokens"]), text.initial_state(len(saved["tokens"])))
        np.testing.assert_allclose(logits, saved["logits_all"], atol=1e-4)
    with torch.no_grad(), np.load(SHIPPED / "forecast/2" / REFERENCE_FILE) as saved:
        values, mask = (torch.from_numpy(saved[name]) for name in ("values", "mask"))
        prediction = forecast.predict(values, mask, forecast.initial_state(len(values)))
        np.testing.assert_allclose(prediction.quantiles, saved["quantiles"], rtol=1e-4)
