"""Writes a trained network as a model folder: checked against PyTorch first, and whole or not at all."""

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from service.manifest import MANIFEST_FILE, DType, ForecastManifest, Graph, State, Tensor, TextManifest, sha256_of
from training.inference import Array, GraphSession
from training.networks import Forecaster, TextModel
from training.onnx_graph import OPSET, ExportedGraph, Port, forecast_graph, text_graph
from training.scaling import MAX_STEPS, StandardScaler

GRAPH_FILE = "model.onnx"
REFERENCE_FILE = "agreement.npz"
TOLERANCE = 1e-4

Made = TypeVar("Made", ForecastManifest, TextManifest)


class DisagreementError(Exception):
    """The exported graph does not compute what PyTorch computes."""


def build_graph(network: Forecaster | TextModel) -> ExportedGraph:
    """The network as an ONNX graph, after `check_agreement`."""
    network.eval().cpu()
    graph = forecast_graph(network) if isinstance(network, Forecaster) else text_graph(network)
    check_agreement(network, graph)
    return graph


def reference(network: Forecaster | TextModel, seed: int = 0) -> tuple[dict[str, Array], dict[str, Array]]:
    """Random input with gaps, and what PyTorch makes of it: the outputs after the last step and after every step."""
    rng = np.random.default_rng(seed)
    batch, steps = 3, 48
    feeds: dict[str, Array]
    if isinstance(network, Forecaster):
        scaler = network.scaler
        values = 100.0 + 10.0 * rng.normal(size=(batch, steps, scaler.features))
        if isinstance(scaler, StandardScaler):
            values = scaler.location.numpy() + scaler.scale.numpy() * (values - 100.0) / 10.0
        feeds = {"values": values, "mask": (rng.random(values.shape) > 0.1).astype(np.float32)}
    else:
        feeds = {"tokens": rng.integers(0, network.head.out_features, (batch, steps))}
    with torch.no_grad():
        inputs = [torch.from_numpy(array) for array in feeds.values()]
        if isinstance(network, Forecaster):
            last, every, _ = network.predict(inputs[0], inputs[1], network.fresh_state(batch))
            return feeds, {"quantiles": last.numpy(), "one_step": every.numpy()}
        every, _ = network.predict(inputs[0], network.fresh_state(batch))
    return feeds, {"logits": every[:, -1].numpy(), "logits_all": every.numpy()}


def save_reference(network: Forecaster | TextModel, folder: Path) -> None:
    """Keep an input and PyTorch's output beside the graph, so that anyone can check their agreement without PyTorch."""
    feeds, expected = reference(network)
    np.savez_compressed(folder / REFERENCE_FILE, allow_pickle=False, **feeds, **expected)


def check_agreement(network: Forecaster | TextModel, graph: ExportedGraph, seed: int = 0) -> float:
    """Largest relative difference between PyTorch and the graph on random input with gaps, in pieces and in a batch.

    Raises:
        DisagreementError: it is above 1e-4.
    """
    session = GraphSession(graph.model.SerializeToString(), state_of(graph), MAX_STEPS)
    feeds, expected = reference(network, seed)
    outputs = list(expected)
    batch, steps = next(iter(feeds.values())).shape[:2]
    state, pieces = session.fresh_state(batch), []
    cuts = [0, 1, 17, steps]
    for start, end in itertools.pairwise(cuts):
        piece = {name: array[:, start:end] for name, array in feeds.items()}
        piece["lengths"] = np.full(batch, end - start, dtype=np.int64)
        results, state = session.step(piece, state, outputs)
        pieces.append(results)
    found = [pieces[-1][outputs[0]], np.concatenate([piece[outputs[1]] for piece in pieces], axis=1)]
    differences = [
        float(np.abs(a.astype(float) - b).max() / max(1e-12, np.abs(b).max()))
        for a, b in zip(found, expected.values(), strict=True)
    ]
    worst = max(differences)
    if not worst <= TOLERANCE:
        raise DisagreementError(f"the exported graph differs from PyTorch by {worst:.2e} (at most {TOLERANCE:.0e})")
    return worst


def state_of(graph: ExportedGraph) -> tuple[State, ...]:
    """The manifest's description of the graph's state."""
    return tuple(
        State(name=before.name, output=after.name, dtype=_dtype(before), shape=_sizes(before))
        for before, after in graph.state
    )


def write_folder(
    models: Path,
    name: str,
    graph: ExportedGraph,
    manifest: Callable[[int, Graph], Made],
    fill: Callable[[Path, Made], Made],
) -> Path:
    """Write `models/<name>/<next version>/` in one move: a killed export leaves no folder that looks like a model.

    `manifest` makes the manifest from the version and the graph's description; `fill` measures what was written, adds
    the card and the pictures, and returns the manifest with its metrics.
    """
    (models / name).mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=models / name))
    try:
        (partial / GRAPH_FILE).write_bytes(graph.model.SerializeToString())
        described = Graph(
            file=GRAPH_FILE,
            sha256=sha256_of(partial / GRAPH_FILE),
            opset=OPSET,
            inputs=_tensors(graph.inputs),
            outputs=_tensors(graph.outputs),
            state=state_of(graph),
            max_steps=MAX_STEPS,
        )
        version = 1 + max((int(f.name) for f in (models / name).iterdir() if f.name.isdecimal()), default=0)
        made = fill(partial, manifest(version, described))
        (partial / MANIFEST_FILE).write_text(
            json.dumps(made.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        )
        partial.chmod(0o755)
        folder = models / name / str(version)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def _dtype(port: Port) -> DType:
    assert port.dtype in ("float32", "float64", "int64")
    return port.dtype  # type: ignore[return-value]  # mypy does not narrow str to Literal by `in`


def _sizes(port: Port) -> tuple[int, ...]:
    return tuple(int(size) for size in port.shape)


def _tensors(ports: tuple[Port, ...]) -> tuple[Tensor, ...]:
    return tuple(Tensor.model_validate({"name": p.name, "dtype": p.dtype, "shape": p.shape}) for p in ports)


def standardise(series: list[NDArray[np.float64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each feature over all observed values; a constant feature has scale 1."""
    stacked = np.concatenate(series)
    scale = np.nanstd(stacked, axis=0)
    return torch.from_numpy(np.nanmean(stacked, axis=0)), torch.from_numpy(np.where(scale > 0, scale, 1.0))
