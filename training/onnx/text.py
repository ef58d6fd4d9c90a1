"""Writes a trained text model as ONNX graphs, whose float32 form computes what PyTorch computes with rounded matrices
(training/nets/quantisation.py). The graphs of both precisions hold the same whole numbers.

The graphs are built by hand, not traced: standard LSTM, GRU and RNN operators with dynamic batch and time, rows of
different lengths, and the state as named inputs and outputs (why: docs/decisions/0001-graphs-built-by-hand.md). Knows
nothing of files or manifests.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper

from training.nets.text import FEATURE_STEPS, NgramFeatures, TextModel
from training.onnx.backend import OnnxBackend, Value
from training.onnx.layers import (
    ZERO,
    Hidden,
    Precision,
    float_layers,
    int8_layers,
    int8_step,
    linear,
    product,
    row_ends,
    table_inputs,
)
from training.onnx.operations import (
    F32,
    I64,
    LENGTHS,
    PER_STEP,
    Builder,
    ExportedGraph,
    Port,
    finish,
    if_else,
    optional_output,
)


def text_graph(network: TextModel, precision: Precision = "float32") -> ExportedGraph:
    """Tokens, lengths, state -> scores after each row's last token, scores after every token, new state."""
    g = Builder()
    vocabulary = network.head.out_features
    hidden, features, recent = text_layers(g, network, precision)
    last_features = None if features is None else g.op("GatherND", features, row_ends(g))
    _scores(g, network, hidden.last, hidden.precision, last_features, precision, name="logits")
    every = Port("logits_all", "float32", ("T", vocabulary))

    def scores(b: Builder) -> str:
        return b.op(
            "Transpose", _scores(b, network, hidden.every(b), hidden.precision, features, precision), perm=[1, 0, 2]
        )

    optional_output(g, every, scores)
    return finish(
        g,
        (Port("tokens", "int64", ("T",)), LENGTHS, PER_STEP),
        (Port("logits", "float32", (vocabulary,)), every),
        [*hidden.state, *recent],
    )


def text_layers(
    g: Builder, network: TextModel, precision: Precision
) -> tuple[Hidden, str | None, list[tuple[Port, Port]]]:
    """The recurrent layers over the graph's `tokens` (B, T); with n-grams also their features (T, B, width), and the
    ports of the last tokens."""
    tokens, features, recent = g.op("Transpose", "tokens", perm=[1, 0]), None, []
    if network.ngrams is not None:
        features, port = _row_features(g, network.ngrams, precision)
        recent = [port]
    if precision == "int8":
        table = table_inputs(g, network.recurrent, network.embedding.weight, tokens, features)
        return int8_layers(g, network.recurrent, table), features, recent
    embedded = g.op("Gather", g.const(network.embedding.weight), tokens, axis=0)
    x = _first_input(g, embedded, features)
    return float_layers(g, network.recurrent, x, network.input_widths), features, recent


def _scores(
    g: Builder,
    network: TextModel,
    hidden: str,
    precision: Precision,
    features: str | None,
    features_precision: Precision,
    name: str | None = None,
) -> str:
    """The head's product with the last layer's outputs and with the n-gram features, each in its precision."""
    weights = torch.split(network.head.weight, list(network.head_widths), dim=1)
    from_hidden = linear(
        g, hidden, weights[0], network.head.bias, precision, None if features else name, network.head_widths[:1]
    )
    if features is None:
        return from_hidden
    if features_precision == "int8":
        from_features = product(g, features, weights[1], step=1 / FEATURE_STEPS)
    else:
        from_features = linear(g, features, weights[1], None, "float32", widths=network.head_widths[1:])
    return g.op("Add", from_hidden, from_features, name=name)


def _first_input(g: Builder, embedded: str, features: str | None) -> str:
    """What the first layer reads, (..., inputs) in float32."""
    return embedded if features is None else g.op("Concat", embedded, features, axis=-1)


def _row_features(g: Builder, ngrams: NgramFeatures, precision: Precision) -> tuple[str, tuple[Port, Port]]:
    """The n-gram features of the graph's `tokens` (B, T), as (T, B, width), and the ports of the last tokens, whose new
    state it writes."""
    f, (before, after) = OnnxBackend(g), _recent_ports(ngrams)
    tokens = Value(g, "tokens", "int64")
    history = f.concat([Value(g, before.name, "int64"), tokens], 1)
    windows = f.transpose(ngrams.windows(f, tokens, history), 1, 0, 2)
    last = f.unsqueeze(Value(g, "lengths", "int64"), 1) + f.constant(np.arange(ngrams.longest - 1)[None], "int64")
    g.op("GatherElements", history.name, last.name, axis=1, name=after.name)
    return _features(f, ngrams, windows, [0, 0, -1], precision), (before, after)


def _features(f: OnnxBackend, ngrams: NgramFeatures, windows: Value, shape: list[int], precision: Precision) -> str:
    """Windows (..., longest) of tokens -> the features of their n-grams, reshaped, in float32 or uint8."""
    rows = ngrams.rows(f, windows)
    features = f.take(f.constant(_table(ngrams), "uint8"), rows, 0)
    if precision == "float32":
        # Not DequantizeLinear: ONNX Runtime 1.31 ends the process when it moves one past the Reshape.
        features = (f.cast(features, "float32") - ZERO) * (1 / FEATURE_STEPS)
    return f.reshape(features, *shape).name


def _table(ngrams: NgramFeatures) -> NDArray[np.uint8]:
    """The table of features, each in whole steps from ZERO."""
    steps = torch.round(FEATURE_STEPS * torch.tanh(ngrams.table.weight))
    table: NDArray[np.uint8] = (ZERO + steps).to(torch.uint8).numpy(force=True)
    return table


def _recent_ports(ngrams: NgramFeatures) -> tuple[Port, Port]:
    """The last tokens, as state."""
    shape = (ngrams.longest - 1,)
    return Port("recent", "int64", shape), Port("recent_out", "int64", shape)


def decode_graph(network: TextModel, precision: Precision = "float32") -> ExportedGraph:
    """Scores, controls, random numbers and given tokens (N, B), state -> N tokens for each row, given or sampled, the
    scores that each was sampled from, the scores after the last token, new state.

    The graph samples, several steps in one call: between the calls of a small model, Python would take as long as the
    model. Given tokens let one row read a short prompt while other rows write.
    """
    g, body = Builder(), Builder(prefix="step_")
    vocabulary = network.head.out_features
    g.op("Expand", g.const(1), g.shape_of("logits", 0), name="lengths")
    token = _sample(body)
    features, recent = None, []
    if network.ngrams is not None:
        before, after = _recent_ports(network.ngrams)
        window = body.op("Concat", before.name, body.op("Unsqueeze", token, body.const([1])), axis=1)
        body.op(
            "Slice", window, body.const([1]), body.const([network.ngrams.longest]), body.const([1]), name=after.name
        )
        f, windows = OnnxBackend(body), Value(body, window, "int64")
        features, recent = _features(f, network.ngrams, windows, [0, -1], precision), [(before, after)]
    if precision == "int8":
        table = table_inputs(body, network.recurrent, network.embedding.weight, token, features)
        hidden = int8_step(body, network.recurrent, table)
    else:
        embedded = body.op("Gather", body.const(network.embedding.weight), token, axis=0)
        x = _first_input(body, embedded, features)
        hidden = float_layers(body, network.recurrent, body.op("Unsqueeze", x, body.const([0])), network.input_widths)
    _scores(body, network, hidden.last, hidden.precision, features, precision, name="logits_out")
    scores = Port("logits", "float32", (vocabulary,)), Port("logits_out", "float32", (vocabulary,))
    # In float32, to be multiplied as they are: whole numbers are exact up to 16,777,216.
    counts = Port("counts", "float32", (vocabulary,)), Port("counts_out", "float32", (vocabulary,))
    carried = [scores, counts, *hidden.state, *recent]
    token_row = helper.make_tensor_value_info(body.op("Identity", token), I64, ["B"])
    scores_row = helper.make_tensor_value_info(body.op("Identity", "logits"), F32, ["B", vocabulary])
    step = helper.make_graph(
        body.nodes,
        "step",
        [
            *(before.info() for before, _ in carried),
            helper.make_tensor_value_info("uniform", F32, ["B"]),
            helper.make_tensor_value_info("given", I64, ["B"]),
        ],
        [*(after.info() for _, after in carried), token_row, scores_row],
        body.constants,
    )
    g.ops(
        "Scan",
        *(before.name for before, _ in carried),
        "uniforms",
        "given_tokens",
        names=[*(after.name for _, after in carried), "tokens", "scores"],
        body=step,
        num_scan_inputs=2,
    )
    # `seen`, the tokens that occurred before, does not change; `counts` are those since. So a step need not carry it.
    seen = Port("seen", "bool", (vocabulary,)), Port("seen_out", "bool", (vocabulary,))
    g.op("Identity", "seen", name="seen_out")
    controls = (
        Port("uniforms", "float32", ("B",), axis="N"),
        Port("given_tokens", "int64", ("B",), axis="N"),
        Port("bias", "float32", (vocabulary,)),
        *(Port(name, "float32", (1,)) for name in ("temperature", "top_p", "min_p", "penalty")),
        *(Port(name, "float32", (1,)) for name in ("frequency_penalty", "presence_penalty")),
        Port("top_k", "int64", (1,)),
        Port("controlled", "bool", (), axis=None),
    )
    chosen = Port("tokens", "int64", ("B",), axis="N"), Port("scores", "float32", ("B", vocabulary), axis="N")
    return finish(g, controls, chosen, [*carried, seen])


def _sample(g: Builder) -> str:
    """The next token of each row, (B,) int64, given or sampled from `logits` by `uniform`, a number in [0, 1). Writes
    `counts_out`, which the penalties read.

    Only exactly rounded operations and sums in order, so that a row's token does not depend on its neighbours.
    """

    def mass_of(b: Builder, scores: str) -> str:
        best = b.op("ReduceMax", scores, b.const([1]), keepdims=1)
        return b.op("Exp", b.op("Div", b.op("Sub", scores, best), "temperature"))

    def choose(b: Builder, mass: str) -> str:
        cumulated = b.op("CumSum", mass, b.const(1))
        total = b.op("Gather", cumulated, b.const([-1]), axis=1)
        passed = b.op("LessOrEqual", cumulated, b.op("Mul", b.op("Unsqueeze", "uniform", b.const([1])), total))
        token = b.op("ReduceSum", b.op("Cast", passed, to=I64), b.const([1]), keepdims=0)
        return b.op("Where", b.op("Less", "given", b.const(0)), token, "given")

    def plain(b: Builder) -> list[str]:
        return [choose(b, mass_of(b, b.op("Add", "logits", "bias"))), b.op("Identity", "counts")]

    def controlled(b: Builder) -> list[str]:
        token = choose(b, _filtered(b, mass_of(b, b.op("Add", _penalised(b), "bias"))))
        size = b.op("Squeeze", b.shape_of("counts", 1))
        hot = b.op("OneHot", token, size, b.const([0, 1], "float32"), axis=-1)
        written = b.op("Cast", b.op("Less", "given", b.const(0)), to=F32)
        return [token, b.op("Add", "counts", b.op("Mul", hot, b.op("Unsqueeze", written, b.const([1]))))]

    # One branch for all controls: a branch costs as much as a small operator of a small batch.
    return if_else(g, "controlled", controlled, plain, [(I64, None), (F32, "counts_out")])[0]


def _penalised(g: Builder) -> str:
    """The scores less the penalties: first the repetition penalty on tokens that occurred, then the penalties on tokens
    that were written. A penalty that is off changes no bit."""
    zero = g.const(0.0, "float32")
    positive = g.op("Greater", "logits", zero)
    rarer = g.op("Where", positive, g.op("Div", "logits", "penalty"), g.op("Mul", "logits", "penalty"))
    frequent = g.op("Mul", "counts", "frequency_penalty")
    present = g.op("Mul", g.op("Min", "counts", g.const(1.0, "float32")), "presence_penalty")
    occurred = g.op("Or", "seen", g.op("Greater", "counts", zero))
    return g.op("Sub", g.op("Where", occurred, rarer, "logits"), g.op("Add", frequent, present))


def _filtered(g: Builder, mass: str) -> str:
    """The mass after top-k, top-p and min-p, in this order."""
    size, zero = g.shape_of(mass, 1), g.const(0.0, "float32")
    ranked = g.ops("TopK", mass, size, names=[None, None], axis=-1, largest=1, sorted=1)[0]
    limit = g.op("Min", g.op("Sub", "top_k", g.const(1)), g.op("Sub", size, g.const(1)))
    threshold = g.op("GatherElements", ranked, limit, axis=1)
    filtered = g.op("Where", g.op("GreaterOrEqual", mass, threshold), mass, zero)
    ranked = g.op("Where", g.op("GreaterOrEqual", ranked, threshold), ranked, zero)
    cumulated = g.op("CumSum", ranked, g.const(1))
    total = g.op("Gather", cumulated, g.const([-1]), axis=1)
    inside = g.op("Less", g.op("Sub", cumulated, ranked), g.op("Mul", "top_p", total))
    count = g.op("ReduceSum", g.op("Cast", inside, to=I64), g.const([1]), keepdims=1)
    threshold = g.op("GatherElements", ranked, g.op("Sub", count, g.const(1)), axis=1)
    filtered = g.op("Where", g.op("GreaterOrEqual", filtered, threshold), filtered, zero)
    return g.op("Where", g.op("GreaterOrEqual", filtered, "min_p"), filtered, zero)
