"""Small models with random weights, exported as real ones are."""

import math
from pathlib import Path

import torch
from torch import nn

from service.engine.runner import Runner
from service.engine.scheduler import CHUNK, Decoding, Request, Scheduler
from service.engine.sequence import Answer, Task
from service.generation import CharacterDecoder
from service.manifest import ForecastManifest, Int8, TextManifest, read_manifest
from service.metrics import Metrics
from training.cells import Cell
from training.export import Described, Made, build_graphs, write_folder
from training.networks import Forecaster, TextModel
from training.onnx_layers import Precision
from training.provenance import Run, provenance
from training.scaling import CausalScaler, StandardScaler
from training.text_data import Vocabulary

LEVELS = (0.1, 0.5, 0.9)
CHARACTERS = Vocabulary.of(["\n !,.'?abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"])


def forecaster(cell: Cell = "lstm", features: int = 1, scaling: str = "causal", horizon: int = 4) -> Forecaster:
    """A forecaster that was never trained."""
    torch.manual_seed(3)
    scaler = (
        CausalScaler(features, lags=3)
        if scaling == "causal"
        else StandardScaler(torch.full((features,), 5.0), torch.full((features,), 2.0))
    )
    network = Forecaster(scaler, cell, 12, 2, 0.0, horizon, LEVELS)
    if network.mixing is not None:
        nn.init.normal_(network.mixing.weight, std=0.1)
    return network.eval()


def character_model(cell: Cell = "lstm") -> TextModel:
    """A character model that was never trained."""
    torch.manual_seed(4)
    network = TextModel(cell, len(CHARACTERS.characters), 8, 24, 2, 0.0)
    nn.init.normal_(network.head.weight, std=1.0)
    return network.eval()


def write_model(network: Forecaster | TextModel, models: Path, name: str, precision: Precision = "float32") -> Path:
    """Write a model folder as `carry train` does, without its card; `precision` is what is served."""
    run = Run(name, "made by a test", models, models, (), "carry train")
    made_by = provenance(run, network, [], 1, network.recurrent.cell, 2, network.recurrent.hidden)
    graphs = build_graphs(network)

    def int8(folder: Path, made: Made, described: Described) -> Made:
        return made.model_copy(
            update={
                "int8": Int8(
                    graph=described.graph, decode=described.decode, loss=0.0, speedup=1.0, default=precision == "int8"
                )
            }
        )

    if isinstance(network, Forecaster):
        features = tuple(f"f{i}" for i in range(network.scaler.features))

        def of_forecaster(version: int, described: Described) -> ForecastManifest:
            return ForecastManifest(
                name=name,
                version=version,
                graph=described.graph,
                metrics={},
                provenance=made_by,
                features=features,
                horizon=network.horizon,
                quantile_levels=LEVELS,
                context=8,
            )

        return write_folder(models, name, graphs, of_forecaster, int8)

    def of_text(version: int, described: Described) -> TextManifest:
        return TextManifest(
            name=name,
            version=version,
            graph=described.graph,
            decode=described.decode,
            metrics={},
            provenance=made_by,
            vocabulary=CHARACTERS.characters,
            replacements=CHARACTERS.replacements(),
            context=8,
        )

    return write_folder(models, name, graphs, of_text, int8)


def open_scheduler(
    folder: Path, precision: Precision = "float32", chunk: int = CHUNK
) -> tuple[ForecastManifest | TextManifest, Runner, Scheduler]:
    """A model folder's graph and a scheduler on it."""
    manifest = read_manifest(folder)
    assert manifest.int8 is not None
    runner = Runner(folder, manifest.graph if precision == "float32" else manifest.int8.graph, threads=1)
    text = isinstance(manifest, TextManifest)
    decoding = None
    if isinstance(manifest, TextManifest):
        graph = manifest.decode if precision == "float32" else manifest.int8.decode
        assert graph is not None
        decoding = Decoding(Runner(folder, graph, threads=1), CharacterDecoder(manifest.vocabulary))
    return manifest, runner, Scheduler(runner, decoding, text, Metrics().engine("test"), chunk=chunk)


def run(scheduler: Scheduler, task: Task[Answer]) -> Answer:
    """A task's answer, after as many turns as it takes."""
    request = Request(task, 1, math.inf)
    scheduler.add(request)
    while not request.future.done():
        scheduler.turn()
    answer: Answer = request.future.result()
    return answer
