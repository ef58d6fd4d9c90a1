"""Writes a classifier over the states of a forecaster or of a text model as an ONNX graph, and registers its class with
the export. Knows nothing of manifests.

All of it has the same bits however a sequence is cut. The sums that a forecaster takes of many steps at once would not:
here they are taken step by step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from service.manifest import Size
from training.nets.classifier import LOWEST
from training.nets.frozen import POOLS, FrozenClassifier, FrozenSeries, FrozenText
from training.nets.series_scan import (
    DECAY,
    PATCH,
    STEP_INPUTS,
    level_after,
    level_shapes,
    read_so_far,
    rows_of,
    scan_level,
)
from training.onnx.architecture import Architecture, architecture_of, layers_of
from training.onnx.backend import OnnxBackend, Value, before_end
from training.onnx.export import BATCH, STEPS, Graphs, Reference, graphs_of, reference
from training.onnx.forecast import patch_layers
from training.onnx.layers import Precision, StatePorts, linear, row_ends
from training.onnx.operations import F64, LENGTHS, PER_STEP, Builder, ExportedGraph, Port, finish, optional_output
from training.onnx.pooling import Pool
from training.onnx.text import text_layers


class FrozenArchitecture(Architecture):
    """Of a `FrozenClassifier` over a forecaster, of `features` of a series, or over a text model."""

    network: Literal["frozen_classifier"] = "frozen_classifier"
    features: int
    classes: Size


@architecture_of.register
def _of_frozen(network: FrozenClassifier) -> Architecture:
    features = network.trunk.features if isinstance(network.trunk, FrozenSeries) else 0
    return FrozenArchitecture(**layers_of(network.recurrent), features=features, classes=network.head.out_features)


@graphs_of.register
def _frozen_graphs(network: FrozenClassifier) -> Graphs:
    graphs = frozen_graph(network), frozen_graph(network, "int8")
    return Graphs(architecture_of(network), *graphs, shared=isinstance(network.trunk, FrozenText))


@reference.register
def _frozen_reference(network: FrozenClassifier, seed: int = 0) -> Reference:
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]]
    if isinstance(network.trunk, FrozenSeries):
        shape = BATCH, STEPS, network.trunk.features
        feeds = {"values": 100 + rng.normal(size=shape).cumsum(axis=1)}
        feeds["mask"] = (rng.random(shape) > 0.1).astype(np.float32)
    else:
        feeds = {"tokens": rng.integers(0, network.trunk.model.embedding.num_embeddings, (BATCH, STEPS))}
    with torch.no_grad():
        scores = network.scores(*map(torch.from_numpy, feeds.values())).numpy()
    return Reference(feeds, {"logits": scores[:, -1], "logits_all": scores}, np.ones((BATCH, STEPS), bool))


def frozen_graph(network: FrozenClassifier, precision: Precision = "float32") -> ExportedGraph:
    """A sequence, lengths, state -> the scores of the classes after each row's last step, those after every step, and
    the new state."""
    g = Builder()
    states = _states(g, network.trunk, precision)
    classes = network.head.out_features
    weight, bias = network.head.weight / network.temperature, network.head.bias / network.temperature
    head = _Head(weight.detach(), bias.detach(), network.center)
    g.op("Squeeze", states.scores_at_end(head), g.const([0]), name="logits")
    every = Port("logits_all", "float32", ("T", classes))
    optional_output(g, every, lambda b: b.op("Transpose", states.scores_at_every_step(b, head), perm=[1, 0, 2]))
    outputs = Port("logits", "float32", (classes,)), every
    return finish(g, (*states.inputs, LENGTHS, PER_STEP), outputs, states.state_ports())


def pooled_graph(trunk: FrozenSeries | FrozenText) -> ExportedGraph:
    """A sequence, lengths, state -> what the head reads after each row's last step, `pooled` (B, width), NaN where the
    layers have read nothing yet, and the new state. To train the head."""
    g = Builder()
    states = _states(g, trunk, "float32")
    g.op("Identity", states.pooled_at_end(), name="pooled")
    outputs = (Port("pooled", "float32", (trunk.width,)),)
    return finish(g, (*states.inputs, LENGTHS, PER_STEP), outputs, states.state_ports())


@dataclass(frozen=True)
class _Head:
    """weight (C, width), bias (C,); center (width,): what is subtracted from what the head reads."""

    weight: Tensor
    bias: Tensor
    center: Tensor


class _States(Protocol):
    """The layers of a trunk over a sequence, with their state, and what a head reads of them."""

    inputs: tuple[Port, ...]

    def pooled_at_end(self) -> str:
        """(B, width), NaN where the layers have read nothing yet."""

    def scores_at_end(self, head: _Head) -> str:
        """(1, B, C)."""

    def scores_at_every_step(self, b: Builder, head: _Head) -> str:
        """(T, B, C), in a branch of the graph."""

    def state_ports(self) -> StatePorts:
        """The ports of the state, after all else is written."""


def _states(g: Builder, trunk: FrozenSeries | FrozenText, precision: Precision) -> _States:
    return _TextStates(g, trunk, precision) if isinstance(trunk, FrozenText) else _SeriesStates(g, trunk, precision)


def _kept(name: str, dtype: str, width: int) -> tuple[Port, Port]:
    return Port(name, dtype, (width,)), Port(f"{name}_out", dtype, (width,))


class _TextStates:
    """Of a text model: a head reads its layers after every token."""

    inputs: tuple[Port, ...]

    def __init__(self, g: Builder, trunk: FrozenText, precision: Precision) -> None:
        self._g = g
        hidden, _, recent = text_layers(g, trunk.model, precision)
        self._every = g.op("Concat", *(every(g) for every in hidden.layers), axis=2)
        self._count = Value(g, "count", "int64")
        after = self._count + OnnxBackend(g).unsqueeze(Value(g, "lengths", "int64"), 1)
        self._pool = Pool(
            OnnxBackend(g), "token", trunk.width // POOLS, self._every, minimum=True, lowest=_lowest(trunk)
        )
        last = g.op("GatherND", self._every, row_ends(g))
        self._pooled = g.op("Concat", last, *self._pool.at_end(after.as_output("count_out")), axis=1)
        self._ports = [*hidden.state, *recent, _kept("count", "int64", 1), *self._pool.state]
        self.inputs = (Port("tokens", "int64", ("T",)),)

    def pooled_at_end(self) -> str:
        return self._pooled

    def scores_at_end(self, head: _Head) -> str:
        return self._scores(self._g, self._g.op("Unsqueeze", self._pooled, self._g.const([0])), head)

    def scores_at_every_step(self, b: Builder, head: _Head) -> str:
        pooled = b.op("Concat", self._every, *self._pool.at_every_step(b, self._count), axis=2)
        return self._scores(b, pooled, head)

    def _scores(self, b: Builder, pooled: str, head: _Head) -> str:
        return linear(b, b.op("Sub", pooled, b.const(head.center)), head.weight, head.bias, "float32")

    def state_ports(self) -> StatePorts:
        return self._ports


def _lowest(trunk: FrozenSeries | FrozenText) -> float:
    """No output of a layer is lower: each adds numbers within (-1, 1), residual ones to the outputs below."""
    return LOWEST * (len(trunk.recurrent.layers) if trunk.recurrent.residual else 1)


OUTPUTS = "outputs"
"""The state that holds the layers' outputs of the last whole patch."""


class _SeriesStates:
    """Of a forecaster of any series: a head reads its layers after every whole patch.

    Each feature of each series is a row of its own, R = B * F of them; the scores are the sum of what the head makes of
    each. In the state of the graph, rows are features of a sequence again.
    """

    inputs: tuple[Port, ...]

    def __init__(self, g: Builder, trunk: FrozenSeries, precision: Precision) -> None:
        f = self._f = OnnxBackend(g)
        features = self._features = trunk.features
        self._width = trunk.width // features
        self.inputs = Port("values", "float64", ("T", features)), Port("mask", "float32", ("T", features))
        shown = f.cast(Value(g, "mask", "float32"), "float64") * f.unsqueeze(before_end(f), 2)
        values, observed = (
            f.transpose(f.reshape(f.transpose(x, 1, 0, 2), 0, -1), 1, 0) for x in (Value(g, "values", "float64"), shown)
        )
        lengths = f.unsqueeze(Value(g, "lengths", "int64"), 1) + f.constant(np.zeros((1, features)), "int64")
        end = f.reshape(lengths, -1, 1) - 1
        shapes = level_shapes(STEP_INPUTS)
        state = {name: Value(g, name, dtype) for name, (_, dtype, _) in shapes.items()}
        level, carried = scan_level(f, values, observed, state, running=partial(_running, f, observed))
        layers = patch_layers(f, trunk.recurrent, level, state["open"], STEP_INPUTS, end, precision)
        self._level, self._before = level, f.cast(state["age"], "int64") // PATCH
        self._every = g.op("Concat", *(every(g) for every in layers.hidden.layers), axis=2)
        self._pool = Pool(
            f,
            "patch",
            self._width // POOLS,
            self._every,
            f.reshape(layers.count, -1).name,
            minimum=True,
            lowest=_lowest(trunk),
        )
        so_far = self._before + layers.count
        self._known = so_far > 0
        newest = g.op("GatherND", self._every, row_ends(g, f.reshape(f.maximum(layers.count, 1), -1).name))
        last = f.where(layers.count > 0, Value(g, newest, "float32"), Value(g, OUTPUTS, "float32"))
        pooled = [last.as_output(f"{OUTPUTS}_out").name, *self._pool.at_end(f.maximum(so_far, 1))]
        self._pooled = Value(g, g.op("Concat", *pooled, axis=1), "float32")
        after = level_after(f, level, carried, end, state, STEP_INPUTS)
        outputs = _kept(OUTPUTS, "float32", self._width // POOLS)
        self._ports = [*layers.hidden.state, *self._pool.state, outputs]
        for name, (shape, dtype, initial) in shapes.items():
            after[name].as_output(f"{name}_out")
            self._ports.append((Port(name, dtype, shape, initial), Port(f"{name}_out", dtype, shape)))

    def pooled_at_end(self) -> str:
        f = self._f
        return f.reshape(f.where(self._known, self._pooled, float("nan")), -1, self._features * self._width).name

    def scores_at_end(self, head: _Head) -> str:
        f = self._f
        return self._sum(f, self._parts(f, f.unsqueeze(self._pooled, 0), f.unsqueeze(self._known, 0), head), head)

    def scores_at_every_step(self, b: Builder, head: _Head) -> str:
        f, classes = self._f.within(b), len(head.bias)
        level, before = self._level.mapped(lambda value: value.within(b)), self._before.within(b)
        start = b.op("Concat", OUTPUTS, *self._pool.before(b, f.maximum(before, 1)), axis=1)
        every = b.op("Concat", self._every, *self._pool.at_every_step(b, before), axis=2)
        pooled = f.concat([f.unsqueeze(Value(b, start, "float32"), 0), Value(b, every, "float32")], 0)
        known = f.unsqueeze(before, 0) + f.reshape(f.positions(pooled, 0), -1, 1, 1) > 0
        parts = f.reshape(self._parts(f, pooled, known, head), 0, -1, classes)  # (1 + N, R, C)
        at = f.reshape(f.positions(level.newest, 1), 1, -1) + 0 * level.held
        at_steps = rows_of(f, f.transpose(parts, 1, 0, 2), read_so_far(level, at, f) // PATCH, classes)
        at_steps = f.reshape(f.transpose(at_steps, 1, 0, 2), 0, -1, self._features, classes)
        return self._sum(f, at_steps, head)

    def _parts(self, f: OnnxBackend, pooled: Value, known: Value, head: _Head) -> Value:
        """pooled (N, R, width) and where the layers have read anything, (N, R, 1) -> what the head makes of each
        feature, (N, B, F, C)."""
        shape = self._features, self._width
        x = f.reshape(pooled, 0, -1, *shape) - f.constant(head.center.numpy().reshape(shape), "float32")
        x = f.where(f.reshape(known, 0, -1, self._features, 1), x, 0.0)
        parts = []
        # A product with a matrix of two axes has the same bits for one row as for many; one of more axes has not.
        for i in range(self._features):
            weight = head.weight[:, i * self._width : (i + 1) * self._width]
            product = linear(f.g, f.take(x, i, 2).name, weight, None, "float32")
            parts.append(f.unsqueeze(Value(f.g, product, "float32"), 2))
        return f.concat(parts, 2)

    def _sum(self, f: OnnxBackend, parts: Value, head: _Head) -> str:
        """parts (N, B, F, C) -> the scores (N, B, C)."""
        scores = f.constant(head.bias.numpy(), "float32")
        for i in range(self._features):
            scores = scores + f.take(parts, i, 2)
        return scores.name

    def state_ports(self) -> StatePorts:
        g, front = self._f.g, Builder(prefix="rows_")
        ports = []
        for before, after in self._ports:
            sizes = [int(size) for size in before.shape]
            shape = self._features, *sizes
            outer = [replace(port, name=f"feature_{port.name}", shape=shape) for port in (before, after)]
            front.op("Reshape", outer[0].name, front.const([-1, *sizes]), name=before.name)
            g.op("Reshape", after.name, g.const([-1, *shape]), name=outer[1].name)
            ports.append((outer[0], outer[1]))
        g.nodes[:0] = front.nodes
        g.constants += front.constants
        return ports


def _running(f: OnnxBackend, observed: Value, before: Sequence[Value], added: Sequence[Value]) -> list[Value]:
    """The decayed sums of a level, step by step: as `series_scan.Running`. observed (R, T)."""
    g, body = f.g, Builder(prefix="decay_step_")
    body.op("Add", body.op("Mul", "before", "rate"), "added", name="after")
    body.op("Identity", "after", name="sums")
    ports = {
        name: helper.make_tensor_value_info(name, F64, None) for name in ("before", "rate", "added", "after", "sums")
    }
    graph = helper.make_graph(
        body.nodes, "decay", [ports[n] for n in ("before", "rate", "added")], [ports["after"], ports["sums"]]
    )
    rate = f.unsqueeze(f.transpose(observed * DECAY + (1.0 - observed), 1, 0), 2)
    steps = f.transpose(f.concat([f.unsqueeze(part, 2) for part in added], 2), 1, 0, 2)
    carried = f.concat(list(before), 1)
    _, sums = g.ops("Scan", carried.name, rate.name, steps.name, names=[None, None], body=graph, num_scan_inputs=2)
    by_row = f.transpose(Value(g, sums, "float64"), 1, 0, 2)
    return [f.reshape(f.slice(by_row, 2, i, i + 1), 0, -1) for i in range(len(added))]
