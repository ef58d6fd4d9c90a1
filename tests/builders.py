"""Small models with random weights, exported as trained models are."""

import math
from pathlib import Path

import torch
from torch import nn

from service.engine.decode import DecodeGraph
from service.engine.prefill import CHUNK
from service.engine.request import Request
from service.engine.runner import Runner
from service.engine.scheduler import Scheduler
from service.engine.sequence import Answer, Task
from service.forecast.manifest import ForecastManifest
from service.manifest import Int8, M, Manifest, read_manifest
from service.metrics import Metrics
from service.text.decoder import TextDecoder
from service.text.manifest import Pairs, TextManifest
from service.tokenizer import Tokenizer
from training.data.texts import learn_tokenizer
from training.nets.cells import Cell
from training.nets.covariates import Covariates
from training.nets.forecaster import Forecaster
from training.nets.global_forecaster import GlobalForecaster
from training.nets.scaling import StandardScaler
from training.nets.series_scan import LAGS
from training.nets.text import TextModel
from training.onnx.export import GraphSpec, build_graphs, write_folder
from training.onnx.layers import Precision
from training.provenance import Run, provenance

AnyForecaster = Forecaster | GlobalForecaster

LEVELS = (0.1, 0.5, 0.9)
CHARACTERS = learn_tokenizer(["\n !,.'?abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"], 1, "character", None)
WORDS = learn_tokenizer(["a b ab ba bab, abba. it's\nit's\nb a"], 1, "word", None)


def forecaster(cell: Cell = "lstm", features: int = 1, scaling: str = "causal", horizon: int = 4) -> AnyForecaster:
    """An untrained forecaster. With causal scaling, the last of several features has three categories and is known
    ahead."""
    torch.manual_seed(3)
    sizes = cell, 12, 2, 0.0, horizon, LEVELS
    if scaling == "standard":
        scaler = StandardScaler(torch.full((features,), 5.0), torch.full((features,), 2.0))
        return Forecaster(scaler, *sizes).eval()
    count = features - 1
    categories = (0,) * (count - 1) + (3,) if count else ()
    known_ahead = (count - 1,) if count else ()
    covariates = Covariates(torch.full((count,), 5.0), torch.full((count,), 2.0), categories, known_ahead)
    network = GlobalForecaster(covariates, *sizes)
    nn.init.normal_(network.head.weight, std=0.05)
    return network.eval()


def character_model(cell: Cell = "lstm", ngrams: int = 0) -> TextModel:
    """An untrained character model; with n-gram features, it also has residual layers."""
    torch.manual_seed(4)
    network = TextModel(cell, CHARACTERS.size, 8, 24, 2, 0.0, residual=ngrams > 0, ngrams=ngrams)
    nn.init.normal_(network.head.weight, std=1.0)
    return network.eval()


def word_model() -> TextModel:
    """An untrained word model, for `write_model` with WORDS."""
    torch.manual_seed(5)
    network = TextModel("lstm", WORDS.size, 8, 24, 2, 0.0)
    nn.init.normal_(network.head.weight, std=1.0)
    return network.eval()


def write_model(
    network: AnyForecaster | TextModel,
    models: Path,
    name: str,
    precision: Precision = "float32",
    tokenizer: Tokenizer = CHARACTERS,
    pairs: Pairs | None = None,
) -> Path:
    """Write a model folder as `carry train` does, without its card; the service serves `precision`."""
    run = Run(name, "a test model", models, models, (), "carry train", {})
    run_provenance = provenance(run, network, [], 1, network.recurrent.cell, 2, network.recurrent.hidden)
    graphs = build_graphs(network)

    def add_int8(folder: Path, manifest: M, spec: GraphSpec) -> M:
        default = precision == "int8"
        int8 = Int8(graph=spec.graph, decode=spec.decode, loss=0.0, speedup=1.0, default=default)
        return manifest.model_copy(update={"int8": int8})

    if not isinstance(network, TextModel):
        if isinstance(network, GlobalForecaster):
            count, longest_season = 1 + len(network.covariates.sizes), int(LAGS[-1])
        else:
            count, longest_season = network.scaler.features, 0
        features = tuple(f"f{i}" for i in range(count))
        known_ahead = features[-1:] if longest_season and count > 1 else ()

        def forecast_manifest(version: int, spec: GraphSpec) -> ForecastManifest:
            return ForecastManifest(
                name=name,
                version=version,
                graph=spec.graph,
                metrics={},
                provenance=run_provenance,
                features=features,
                known_ahead=known_ahead,
                categories=dict.fromkeys(known_ahead, ("a", "b", "c")),
                longest_season=longest_season,
                horizon=network.horizon,
                quantile_levels=LEVELS,
                context=8,
            )

        return write_folder(models, name, graphs, forecast_manifest, add_int8)

    def text_manifest(version: int, spec: GraphSpec) -> TextManifest:
        return TextManifest(
            name=name,
            version=version,
            graph=spec.graph,
            decode=spec.decode,
            metrics={},
            provenance=run_provenance,
            unit=tokenizer.level,
            vocabulary=tokenizer.vocabulary,
            replacements=dict(tokenizer.replacements),
            context=8,
            pairs=pairs,
        )

    return write_folder(models, name, graphs, text_manifest, add_int8)


Graphs = tuple[Manifest, Runner, DecodeGraph | None]
"""A model folder's manifest and its open graphs."""


def open_scheduler(
    folder: Path, precision: Precision = "float32", chunk: int = CHUNK
) -> tuple[Manifest, Runner, Scheduler]:
    """A model folder's manifest, its graph and a scheduler on it."""
    return new_scheduler(open_graphs(folder, precision), chunk)


def new_scheduler(graphs: Graphs, chunk: int = CHUNK) -> tuple[Manifest, Runner, Scheduler]:
    """As `open_scheduler`, on open graphs. They hold nothing of a request, so that schedulers may share them."""
    manifest, runner, decode_graph = graphs
    split_invariant = isinstance(manifest, TextManifest)
    return manifest, runner, Scheduler(runner, decode_graph, split_invariant, Metrics().engine("test"), chunk=chunk)


def open_graphs(folder: Path, precision: Precision = "float32") -> Graphs:
    """A model folder's manifest and graphs."""
    manifest = read_manifest(folder, ForecastManifest, TextManifest)
    assert manifest.int8 is not None
    runner = Runner(folder, manifest.graph if precision == "float32" else manifest.int8.graph, threads=1)
    decode_graph = None
    if isinstance(manifest, TextManifest):
        graph = manifest.decode if precision == "float32" else manifest.int8.decode
        assert graph is not None
        decode_graph = DecodeGraph(Runner(folder, graph, threads=1), TextDecoder(manifest.vocabulary))
    return manifest, runner, decode_graph


def run(scheduler: Scheduler, task: Task[Answer]) -> Answer:
    """Run a task on a scheduler: its answer."""
    request = Request(task, 1, math.inf)
    scheduler.add(request)
    while not request.future.done():
        scheduler.step()
    answer: Answer = request.future.result()
    return answer
