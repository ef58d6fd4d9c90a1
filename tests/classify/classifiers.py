"""Small classifiers with random weights, exported as trained ones are, and calls of them."""

from pathlib import Path
from typing import Any

import torch
from starlette.testclient import TestClient
from torch import nn

from service.classify.manifest import ClassifyManifest
from service.manifest import Int8
from service.tokenizer import Tokenizer
from tests.builders import CHARACTERS, character_model, forecaster
from training.nets.cells import Cell
from training.nets.classifier import Classifier, SeriesInput, TextInput
from training.nets.frozen import FrozenClassifier, FrozenSeries, FrozenText
from training.nets.global_forecaster import GlobalForecaster
from training.nets.quantisation import round_matrices
from training.nets.scaling import StandardScaler
from training.onnx import classify as _registers_classifiers  # noqa: F401
from training.onnx import frozen as _registers_frozen_classifiers  # noqa: F401
from training.onnx.export import GraphSpec, build_graphs, write_folder
from training.onnx.layers import Precision
from training.provenance import Run, provenance

CLASSES = ("rising", "falling", "flat")
FEATURES = ("speed", "height")


def classifier(
    cell: Cell = "gru",
    text: bool = False,
    features: int = 2,
    directions: int = 1,
    tokenizer: Tokenizer = CHARACTERS,
) -> Classifier:
    """An untrained classifier of series, or of texts."""
    torch.manual_seed(6)
    scaler = StandardScaler(torch.full((features,), 5.0), torch.full((features,), 2.0))
    reader = TextInput(tokenizer.size, 8) if text else SeriesInput(scaler)
    network = Classifier(reader, cell, 12, 2, 0.0, len(CLASSES), directions)
    nn.init.normal_(network.head.weight, std=0.5)
    network.temperature.fill_(1.5)
    return network.eval()


def frozen_classifier(text: bool = False, features: int = 2) -> FrozenClassifier:
    """A classifier with a random head over the layers of an untrained forecaster, or of a text model."""
    if text:
        model = character_model(ngrams=4)
        round_matrices(model)
        trunk: FrozenSeries | FrozenText = FrozenText(model)
    else:
        base = forecaster()
        assert isinstance(base, GlobalForecaster)
        trunk = FrozenSeries(base, features)
    torch.manual_seed(7)
    network = FrozenClassifier(trunk, len(CLASSES))
    nn.init.normal_(network.head.weight, std=0.5)
    nn.init.normal_(network.center, std=0.2)
    network.temperature.fill_(1.5)
    return network.eval()


def write_classifier(
    network: Classifier | FrozenClassifier,
    models: Path,
    name: str,
    precision: Precision = "float32",
    tokenizer: Tokenizer = CHARACTERS,
) -> Path:
    """Write a model folder as `carry train classify` does, without its card; the service serves `precision`."""
    run = Run(name, "a test model", models, models, (), "carry train", {})
    run_provenance = provenance(run, network, [], 1, network.recurrent.cell, 2, network.recurrent.hidden)
    if isinstance(network, FrozenClassifier):
        features, directions = network.trunk.features if isinstance(network.trunk, FrozenSeries) else 0, 1
    else:
        features = network.reader.scaler.features if isinstance(network.reader, SeriesInput) else 0
        directions = 1 if network.backward_layers is None else 2

    def manifest(version: int, spec: GraphSpec) -> ClassifyManifest:
        return ClassifyManifest(
            name=name,
            version=version,
            graph=spec.graph,
            metrics={},
            provenance=run_provenance,
            classes=CLASSES,
            features=FEATURES[:features],
            unit=tokenizer.level,
            vocabulary=() if features else tokenizer.vocabulary,
            directions=directions,
        )

    def finalize(folder: Path, unmeasured: ClassifyManifest, spec: GraphSpec) -> ClassifyManifest:
        int8 = Int8(graph=spec.graph, decode=None, loss=0.0, speedup=1.0, default=precision == "int8")
        return unmeasured.model_copy(update={"int8": int8})

    return write_folder(models, name, build_graphs(network), manifest, finalize)


def classify(client: TestClient, **body: Any) -> dict[str, Any]:
    """The answer to a request that is not refused."""
    response = client.post("/classify", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
