"""Writes a trained network as a model folder: checked against PyTorch first, and whole or not at all."""

import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.engine.runner import Array, Runner
from service.manifest import MANIFEST_FILE, DType, Graph, Int8, M, Manifest, State, Tensor, Weights, sha256_of
from training.nets.forecaster import Forecaster
from training.nets.global_forecaster import GlobalForecaster
from training.nets.quantisation import round_matrices
from training.nets.scaling import MAX_STEPS
from training.nets.text import TextModel
from training.onnx.architecture import Architecture, architecture_of, write_architecture
from training.onnx.forecast import forecast_graph
from training.onnx.operations import OPSET, ExportedGraph, Port, share_weights
from training.onnx.text import decode_graph, text_graph

REFERENCE_FILE = "agreement.npz"
TOLERANCE = 1e-4
WITHOUT_TIME = frozenset({"future", "future_mask"})
"""Inputs without an axis of time: each piece of a series takes all of them."""


class DisagreementError(Exception):
    """The exported graph does not compute what PyTorch computes."""


@dataclass(frozen=True)
class Graphs:
    """A network in both precisions, and its facts; `decode` of a text model. shared: whether the graphs hold the same
    constants, to be stored once."""

    architecture: Architecture
    float32: ExportedGraph
    int8: ExportedGraph
    decode: ExportedGraph | None = None
    int8_decode: ExportedGraph | None = None
    shared: bool = False


@dataclass(frozen=True)
class GraphSpec:
    """The manifest's description of a network's graphs in one precision; `decode` of a text model."""

    graph: Graph
    decode: Graph | None


def build_graphs(network: nn.Module) -> Graphs:
    """The network as ONNX graphs, after `check_agreement` of the one in float32. The matrices of a text model are
    rounded in place to those that its graphs hold.

    Raises:
        DisagreementError: the graph does not compute what PyTorch computes.
    """
    network.eval().cpu()
    graphs = graphs_of(network)
    check_agreement(network, graphs.float32)
    return graphs


@singledispatch
def graphs_of(network: nn.Module) -> Graphs:
    """The graphs of a network. Each class of networks registers how they are made."""
    raise TypeError(f"no graph is written of a {type(network).__name__}")


@graphs_of.register
def _text_graphs(network: TextModel) -> Graphs:
    facts = architecture_of(network)
    round_matrices(network)
    prefill = text_graph(network), text_graph(network, "int8")
    return Graphs(facts, *prefill, decode_graph(network), decode_graph(network, "int8"), shared=True)


@graphs_of.register
def _forecast_graphs(network: Forecaster | GlobalForecaster) -> Graphs:
    return Graphs(architecture_of(network), forecast_graph(network), forecast_graph(network, "int8"))


@dataclass(frozen=True)
class Reference:
    """An input of a graph, and PyTorch's outputs by name: first that after the last step, then that after every step
    (batch, steps, ...), unless the network reads whole sequences only. `decided` (batch, steps): the steps whose output
    does not hang on rounding, as it does where two lags score the same and either may be selected."""

    feeds: dict[str, Array]
    expected: dict[str, Array]
    decided: NDArray[np.bool_]


BATCH, STEPS = 3, 48
"""Of a reference."""


@singledispatch
def reference(network: nn.Module, seed: int = 0) -> Reference:
    """Random input with gaps, and what PyTorch computes from it. Each class of networks registers its own."""
    raise TypeError(f"no input is known of a {type(network).__name__}")


@reference.register
def _text_reference(network: TextModel, seed: int = 0) -> Reference:
    tokens = np.random.default_rng(seed).integers(0, network.head.out_features, (BATCH, STEPS))
    with torch.no_grad():
        logits, _ = network.predict(torch.from_numpy(tokens), network.initial_state(BATCH))
    expected = {"logits": logits[:, -1].numpy(), "logits_all": logits.numpy()}
    return Reference({"tokens": tokens}, expected, np.ones((BATCH, STEPS), bool))


@reference.register
def _forecast_reference(network: Forecaster | GlobalForecaster, seed: int = 0) -> Reference:
    feeds = _series(network, np.random.default_rng(seed), BATCH, STEPS)
    decided = np.ones((BATCH, STEPS), bool)
    with torch.no_grad():
        values, mask, *known = (torch.from_numpy(array) for array in feeds.values())
        state = network.initial_state(BATCH)
        if isinstance(network, Forecaster):
            last, one_step, _ = network.predict(values, mask, state)
        else:
            prediction = network.predict(values, mask, state, known)
            last, one_step, decided = prediction.quantiles, prediction.one_step, prediction.decided.numpy()
    return Reference(feeds, {"quantiles": last.numpy(), "one_step": one_step.numpy()}, decided)


def _series(
    network: Forecaster | GlobalForecaster, rng: np.random.Generator, batch: int, steps: int
) -> dict[str, Array]:
    """A forecaster's inputs, in the order of the graph's."""

    def sample(location: torch.Tensor, scale: torch.Tensor, sizes: Sequence[int], length: int) -> NDArray[np.float64]:
        shape = (batch, length, len(sizes))
        numbers = location.numpy() + scale.numpy() * rng.normal(size=shape)
        return np.where(sizes, rng.integers(0, np.maximum(1, sizes), shape), numbers)

    def masked(name: str, mask: str, values: NDArray[np.float64]) -> dict[str, Array]:
        return {name: values, mask: (rng.random(values.shape) > 0.1).astype(np.float32)}

    if isinstance(network, Forecaster):
        scaler = network.scaler
        return masked("values", "mask", sample(scaler.location, scaler.scale, [0] * scaler.features, steps))
    covariates = network.covariates
    target = 100.0 + 10.0 * rng.normal(size=(batch, steps, 1))
    others = sample(covariates.location, covariates.scale, covariates.sizes, steps)
    feeds = masked("values", "mask", np.concatenate([target, others], axis=2))
    known = list(covariates.known_ahead)
    for name, length in (("ahead", steps), ("future", network.horizon)) if known else ():
        sizes = [covariates.sizes[i] for i in known]
        values = sample(covariates.location[known], covariates.scale[known], sizes, length)
        feeds |= masked(name, f"{name}_mask", values)
    return feeds


def save_reference(network: nn.Module, folder: Path) -> None:
    """Write an input and PyTorch's output beside the graph, so that anyone can check the graph without PyTorch."""
    known = reference(network)
    np.savez_compressed(folder / REFERENCE_FILE, allow_pickle=False, **known.feeds, **known.expected)


def check_agreement(network: nn.Module, graph: ExportedGraph) -> None:
    """Check that the graph computes what PyTorch computes.

    Raises:
        DisagreementError: their `difference` is above TOLERANCE.
    """
    worst = difference(network, open_graph(graph))
    if not worst <= TOLERANCE:
        raise DisagreementError(f"the exported graph differs from PyTorch by {worst:.2e} (at most {TOLERANCE:.0e})")


def open_graph(graph: ExportedGraph) -> Runner:
    """A graph, open."""
    with tempfile.TemporaryDirectory() as folder:
        return Runner(Path(folder), _write_graph(graph, Path(folder) / "model.onnx", None), threads=0)


def difference(network: nn.Module, runner: Runner, seed: int = 0) -> float:
    """Largest relative difference between PyTorch and the open graph on random input with gaps, in pieces and in a
    batch."""
    known = reference(network, seed)
    outputs = list(known.expected)
    states, pieces = runner.initial_states(BATCH), []
    whole = len(outputs) == 1
    for start, end in itertools.pairwise([0, STEPS] if whole else [0, 1, 17, STEPS]):
        piece = {name: array if name in WITHOUT_TIME else array[:, start:end] for name, array in known.feeds.items()}
        arrays, states = runner.prefill(piece, np.full(BATCH, end - start), states, outputs)
        pieces.append(arrays)
    actual = [pieces[-1][0]]
    if not whole:
        actual.append(np.concatenate([every_step for _, every_step in pieces], axis=1))
    differences = [
        float(np.abs(a.astype(float) - b)[compared].max(initial=0.0) / max(1e-12, np.abs(b).max()))
        for a, b, compared in zip(actual, known.expected.values(), (known.decided[:, -1], known.decided), strict=False)
    ]
    return max(differences)


def state_of(graph: ExportedGraph) -> tuple[State, ...]:
    """The manifest's description of the graph's state."""
    return tuple(
        State(name=before.name, output=after.name, dtype=_dtype(before), shape=_sizes(before), initial=before.initial)
        for before, after in graph.state
    )


def write_folder(
    models: Path,
    name: str,
    graphs: Graphs,
    manifest: Callable[[int, GraphSpec], M],
    finalize: Callable[[Path, M, GraphSpec], M],
) -> Path:
    """Write `models/<name>/<next version>/` in one move: a killed export leaves no folder that looks like a model.

    manifest: from the version and the float32 graphs to a manifest without metrics. finalize: from the unfinished
    folder, that manifest and the int8 graphs to the whole manifest; it measures the model and adds the card and the
    pictures.
    """
    (models / name).mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=models / name))
    try:
        float32, int8 = write_graphs(partial, graphs)
        version = 1 + max((int(f.name) for f in (models / name).iterdir() if f.name.isdecimal()), default=0)
        write_manifest(partial, finalize(partial, manifest(version, float32), int8))
        partial.chmod(0o755)
        folder = models / name / str(version)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into a model folder."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def write_graphs(folder: Path, graphs: Graphs) -> tuple[GraphSpec, GraphSpec]:
    """Write the files of the graphs and `network.json`. Returns the graphs' descriptions in float32 and in int8.

    Graphs that hold the same constants, such as the four of a text model, share one file of them.
    """
    write_architecture(folder, graphs.architecture)
    weights = None
    if graphs.shared:
        path = folder / "model.weights"
        every = (graphs.float32, graphs.decode, graphs.int8, graphs.int8_decode)
        weights = Weights(file=path.name, sha256=share_weights([graph.model for graph in every if graph], path))

    def write(precision: str, graph: ExportedGraph, decode: ExportedGraph | None) -> GraphSpec:
        model, writes = (folder / f"{name}{precision}.onnx" for name in ("model", "decode"))
        return GraphSpec(
            _write_graph(graph, model, weights), None if decode is None else _write_graph(decode, writes, weights)
        )

    return write("", graphs.float32, graphs.decode), write(".int8", graphs.int8, graphs.int8_decode)


def _write_graph(graph: ExportedGraph, path: Path, weights: Weights | None) -> Graph:
    path.write_bytes(graph.model.SerializeToString())
    return Graph(
        file=path.name,
        sha256=sha256_of(path),
        weights=weights,
        opset=OPSET,
        inputs=_tensors(graph.inputs),
        outputs=_tensors(graph.outputs),
        state=state_of(graph),
        max_steps=MAX_STEPS,
    )


MAX_INT8_LOSS = 0.005
"""Relative loss of quality below which the service uses the int8 graph, if it is faster."""


def evaluate_int8(folder: Path, float32: GraphSpec, int8: GraphSpec, losses: tuple[float, float] | None) -> Int8:
    """The manifest's entry of the int8 graphs. losses: the test loss in float32 and in int8, None without a test
    part."""
    speedup = _seconds(folder, float32.graph) / _seconds(folder, int8.graph)
    loss = None if losses is None else (losses[1] - losses[0]) / losses[0] if losses[0] else None
    default = loss is not None and loss < MAX_INT8_LOSS and speedup > 1
    return Int8(graph=int8.graph, decode=int8.decode, loss=loss, speedup=speedup, default=default)


def _seconds(folder: Path, graph: Graph) -> float:
    """The median time of a typical call for a batch of 16: one step of texts, or 200 values of series."""
    runner = Runner(folder, graph, threads=1)
    steps = 1 if any(tensor.name == "tokens" for tensor in graph.inputs) else 200
    feeds: dict[str, Array] = {}
    for tensor in graph.inputs:
        if tensor.name not in ("lengths", "per_step"):
            shape = (16, *(size if isinstance(size, int) else steps for size in tensor.shape))
            feeds[tensor.name] = np.random.default_rng(0).integers(1, 2, shape).astype(tensor.dtype)
    states, output = runner.initial_states(16), graph.outputs[0].name
    lengths, times = np.full(16, steps), []
    for _ in range(25):
        started = time.perf_counter()
        runner.prefill(feeds, lengths, states, [output])
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _dtype(port: Port) -> DType:
    assert port.dtype in get_args(DType)
    return port.dtype  # type: ignore[return-value]  # mypy does not narrow str to Literal by `in`


def _sizes(port: Port) -> tuple[int, ...]:
    return tuple(int(size) for size in port.shape)


def _tensors(ports: tuple[Port, ...]) -> tuple[Tensor, ...]:
    return tuple(Tensor.model_validate({"name": p.name, "dtype": p.dtype, "shape": p.shape}) for p in ports)


def standardise(series: list[NDArray[np.float64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each feature over all observed values; a constant feature has scale 1, one that is
    nowhere observed counts as 0."""
    stacked = np.concatenate(series)
    stacked[:, ~np.isfinite(stacked).any(axis=0)] = 0.0
    scale = np.nanstd(stacked, axis=0)
    return torch.from_numpy(np.nanmean(stacked, axis=0)), torch.from_numpy(np.where(scale > 0, scale, 1.0))
