"""Writes a trained classifier as an ONNX graph, and registers its class with the export. Knows nothing of manifests."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper

from service.manifest import Size
from training.nets.cells import Recurrent
from training.nets.classifier import Classifier, SeriesInput, TextInput
from training.onnx.architecture import Architecture, architecture_of, layers_of
from training.onnx.backend import OnnxBackend, Value, before_end
from training.onnx.export import BATCH, STEPS, Graphs, Reference, graphs_of, reference
from training.onnx.layers import (
    Hidden,
    Precision,
    StatePorts,
    dequantise,
    float_inputs,
    float_layers,
    int8_layers,
    linear,
    table_inputs,
)
from training.onnx.operations import (
    DTYPES,
    LENGTHS,
    PER_STEP,
    Builder,
    ExportedGraph,
    Port,
    finish,
    optional_output,
)
from training.onnx.pooling import Pool


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
    pools: list[Pool] = []
    outputs: list[str] = []
    last: list[str] = []
    for stack in network.stacks:
        hidden = read(stack, stack is network.backward_layers, precision)
        in_float = partial(dequantise, g) if hidden.precision == "int8" else str
        outputs.append(in_float(hidden.every(g)))
        pools.append(Pool(f, stack.prefix, stack.hidden, outputs[-1]))
        last += [in_float(hidden.last), *pools[-1].at_end(after)]
        state += [*hidden.state, *pools[-1].state]
    weight, bias = network.head.weight / network.temperature, network.head.bias / network.temperature
    # In three axes, as after every step: of two, ONNX Runtime adds the bias before the last products (Gemm), and the
    # last bits would differ.
    at_end = g.op("Unsqueeze", g.op("Concat", *last, axis=1), g.const([0]))
    g.op("Squeeze", linear(g, at_end, weight, bias, "float32"), g.const([0]), name="logits")
    logits = Port("logits", "float32", (classes,))
    if network.backward_layers is not None:
        _fill_state(g, state)
        return finish(g, (*inputs, LENGTHS, PER_STEP), (logits,), [])
    every = Port("logits_all", "float32", ("T", classes))

    def scores(b: Builder) -> str:
        pooled = b.op("Concat", outputs[0], *pools[0].at_every_step(b, count), axis=2)
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
