"""Writes a trained classifier as an ONNX graph, and registers its class with the export. Knows nothing of manifests."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper

from service.manifest import Size
from training.nets.cells import Recurrent
from training.nets.classifier import LOWEST, Classifier, SeriesInput, TextInput
from training.onnx.architecture import Architecture, architecture_of, layers_of
from training.onnx.backend import OnnxBackend, Value, before_end
from training.onnx.export import BATCH, STEPS, Graphs, Reference, graphs_of, reference
from training.onnx.layers import (
    Hidden,
    Precision,
    dequantise,
    float_inputs,
    float_layers,
    int8_layers,
    linear,
    row_ends,
    table_inputs,
)
from training.onnx.operations import (
    DTYPES,
    F32,
    LENGTHS,
    PER_STEP,
    Builder,
    ExportedGraph,
    Port,
    finish,
    optional_output,
)

StatePorts = list[tuple[Port, Port]]


class ClassifierArchitecture(Architecture):
    """Of a `Classifier`: of `features` of a series, or of a text of this `vocabulary`."""

    network: Literal["classifier"] = "classifier"
    features: int
    vocabulary: int
    classes: Size
    directions: Literal[1, 2]


@architecture_of.register
def _of_classifier(network: Classifier) -> Architecture:
    reader = network.reader
    return ClassifierArchitecture(
        **layers_of(network.recurrent),
        features=reader.scaler.features if isinstance(reader, SeriesInput) else 0,
        vocabulary=0 if isinstance(reader, SeriesInput) else reader.embedding.num_embeddings,
        classes=network.head.out_features,
        directions=1 if network.backward_layers is None else 2,
    )


@graphs_of.register
def _classifier_graphs(network: Classifier) -> Graphs:
    return Graphs(architecture_of(network), classify_graph(network), classify_graph(network, "int8"))


@reference.register
def _classifier_reference(network: Classifier, seed: int = 0) -> Reference:
    rng = np.random.default_rng(seed)
    reader = network.reader
    feeds: dict[str, NDArray[Any]]
    if isinstance(reader, SeriesInput):
        location, scale = reader.scaler.location.numpy(), reader.scaler.scale.numpy()
        shape = BATCH, STEPS, reader.scaler.features
        mask = (rng.random(shape) > 0.1).astype(np.float32)
        feeds = {"values": location + scale * rng.normal(size=shape), "mask": mask}
    else:
        feeds = {"tokens": rng.integers(0, reader.embedding.num_embeddings, (BATCH, STEPS))}
    with torch.no_grad():
        inputs = tuple(map(torch.from_numpy, feeds.values()))
        scores = network.scores(network.pooled(inputs, torch.full((BATCH,), STEPS))).numpy()
    expected = {"logits": scores[:, -1]}
    if network.backward_layers is None:
        expected["logits_all"] = scores
    return Reference(feeds, expected, np.ones((BATCH, STEPS), bool))


def classify_graph(network: Classifier, precision: Precision = "float32") -> ExportedGraph:
    """A sequence, lengths, state -> the scores of the classes after each row's last step, those after every step, and
    the new state. With two directions there is no state, and only the last scores: the sequence is whole."""
    g = Builder()
    f = OnnxBackend(g)
    classes = network.head.out_features
    inputs, state, read = _reader(f, network.reader)
    count = Value(g, "count", "int64")
    after = (count + f.unsqueeze(Value(g, "lengths", "int64"), 1)).as_output("count_out")
    state.append((Port("count", "int64", (1,)), Port("count_out", "int64", (1,))))
    pools: list[_Pool] = []
    last: list[str] = []
    for stack in network.stacks:
        pools.append(_Pool(f, stack, read(stack, stack is network.backward_layers, precision)))
        last += pools[-1].at_end(after)
        state += pools[-1].state
    weight, bias = network.head.weight / network.temperature, network.head.bias / network.temperature
    linear(g, g.op("Concat", *last, axis=1), weight, bias, "float32", name="logits")
    logits = Port("logits", "float32", (classes,))
    if network.backward_layers is not None:
        _fill_state(g, state)
        return finish(g, (*inputs, LENGTHS, PER_STEP), (logits,), [])
    every = Port("logits_all", "float32", ("T", classes))

    def scores(b: Builder) -> str:
        pooled = b.op("Concat", *pools[0].at_every_step(b, count), axis=2)
        return b.op("Transpose", linear(b, pooled, weight, bias, "float32"), perm=[1, 0, 2])

    optional_output(g, every, scores)
    return finish(g, (*inputs, LENGTHS, PER_STEP), (logits, every), state)


Read = Callable[[Recurrent, bool, Precision], Hidden]
"""Writes the layers of a stack over the sequence, in reverse if so."""


def _reader(f: OnnxBackend, reader: SeriesInput | TextInput) -> tuple[list[Port], StatePorts, Read]:
    """The ports of a sequence, of its state, and how layers read it."""
    g = f.g

    def directed(x: str, backward: bool) -> str:
        return g.op("ReverseSequence", x, "lengths", time_axis=0, batch_axis=1) if backward else x

    if isinstance(reader, TextInput):
        embedding = reader.embedding.weight
        tokens = g.op("Transpose", "tokens", perm=[1, 0])

        def read_text(stack: Recurrent, backward: bool, precision: Precision) -> Hidden:
            ids = directed(tokens, backward)
            if precision == "int8":
                return int8_layers(g, stack, table_inputs(g, stack, embedding, ids))
            return float_layers(g, stack, g.op("Gather", g.const(embedding), ids, axis=0))

        return [Port("tokens", "int64", ("T",))], [], read_text
    features = reader.scaler.features
    observed = f.cast(Value(g, "mask", "float32"), "float64") * f.unsqueeze(before_end(f), 2)
    x, newest = reader.scaler.network_inputs(
        f, Value(g, "values", "float64"), observed, {"last": Value(g, "last", "float64")}
    )
    f.take(newest, -1, 1).as_output("last_out")
    steps: str = f.transpose(x, 1, 0, 2).name

    def read_series(stack: Recurrent, backward: bool, precision: Precision) -> Hidden:
        sequence = directed(steps, backward)
        if precision == "int8":
            return int8_layers(g, stack, float_inputs(g, stack, sequence))
        return float_layers(g, stack, sequence)

    ports = [Port("values", "float64", ("T", features)), Port("mask", "float32", ("T", features))]
    last = Port("last", "float64", (features,)), Port("last_out", "float64", (features,))
    return ports, [last], read_series


class _Pool:
    """The running figures of a stack's outputs. Sums are taken in the order of the steps, so that they have the same
    bits however a sequence is cut."""

    def __init__(self, f: OnnxBackend, stack: Recurrent, hidden: Hidden) -> None:
        g = self._g = f.g
        self._f = f
        self._last = hidden.last if hidden.precision == "float32" else dequantise(g, hidden.last)
        every = hidden.every(g)
        self._every = every if hidden.precision == "float32" else dequantise(g, every)
        self._sum, self._largest = f"{stack.prefix}_sum", f"{stack.prefix}_largest"
        # The sum before the first step, and after every step.
        self._sums = g.op("CumSum", g.op("Concat", self._row(self._sum), self._every, axis=0), g.const(0))
        width = (stack.hidden,)
        self.state: StatePorts = [
            *hidden.state,
            (Port(self._sum, "float32", width), Port(f"{self._sum}_out", "float32", width)),
            (Port(self._largest, "float32", width, LOWEST), Port(f"{self._largest}_out", "float32", width)),
        ]

    def _row(self, name: str) -> str:
        return self._g.op("Unsqueeze", name, self._g.const([0]))

    def at_end(self, count: Value) -> list[str]:
        """The last output, the mean and the maximum at each row's end, each (B, hidden); writes the new state.

        count (B, 1): the steps read so far."""
        g = self._g
        after = g.op("Add", "lengths", g.const(1))
        total = g.op("GatherND", self._sums, row_ends(g, after), name=f"{self._sum}_out")
        steps = g.op("Unsqueeze", g.positions(self._every, 0), g.const([1]))
        inside = g.op("Unsqueeze", g.op("Less", steps, self._row("lengths")), g.const([2]))
        counted = g.op("Where", inside, self._every, g.const(LOWEST, "float32"))
        highest = g.op("ReduceMax", counted, g.const([0]), keepdims=0)
        largest = g.op("Max", self._largest, highest, name=f"{self._largest}_out")
        return [self._last, g.op("Div", total, self._f.cast(count, "float32").name), largest]

    def at_every_step(self, b: Builder, count: Value) -> list[str]:
        """The same after every step, each (T, B, hidden), in a branch of the graph. count (B, 1): the steps read
        before."""
        sums = b.op("Slice", self._sums, b.const([1]), b.const([np.iinfo(np.int64).max]), b.const([0]))
        step = b.op("Unsqueeze", b.positions(self._every, 0), b.const([1, 2]))
        counts = b.op("Add", b.op("Add", step, b.const(1)), count.name)  # (T, 1, 1) + (B, 1) -> (T, B, 1)
        body = Builder(prefix="largest_step_")
        body.op("Max", "before", "output", name="after")
        body.op("Identity", "after", name="largest")

        def row(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, F32, None)

        graph = helper.make_graph(
            body.nodes, "largest", [row("before"), row("output")], [row("after"), row("largest")], body.constants
        )
        _, largest = b.ops("Scan", self._largest, self._every, names=[None, None], body=graph, num_scan_inputs=1)
        return [self._every, b.op("Div", sums, b.op("Cast", counts, to=F32)), largest]


def _fill_state(g: Builder, state: StatePorts) -> None:
    """Let the graph itself begin every sequence with these states."""
    fresh = Builder(prefix="fresh_")
    rows = fresh.shape_of("lengths", 0)
    for before, _ in state:
        value = helper.make_tensor("value", DTYPES[before.dtype], [1], [before.initial])
        shape = fresh.op("Concat", rows, fresh.const([int(size) for size in before.shape]), axis=0)
        fresh.op("ConstantOfShape", shape, value=value, name=before.name)
    g.nodes[:0] = fresh.nodes
    g.constants += fresh.constants
