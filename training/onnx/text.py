"""Writes a trained character model as ONNX graphs, operator by operator, exactly as PyTorch computes it once its
matrices are rounded (training/nets/quantisation.py): the graphs of both precisions hold the same whole numbers.

Built by hand rather than traced: standard LSTM, GRU and RNN operators with dynamic batch and time, rows of different
lengths, and the state as named inputs and outputs (why: docs/decisions/0001-graphs-built-by-hand.md). Knows nothing of
files or manifests.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper

from training.nets.networks import BUCKETS, FEATURE_STEPS, NgramFeatures, TextModel
from training.onnx.layers import (
    ZERO,
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
    either,
    finish,
    if_wanted,
)


def text_graph(network: TextModel, precision: Precision = "float32") -> ExportedGraph:
    """Tokens, lengths, state -> scores after each row's last token, scores after every token, new state."""
    g = Builder()
    vocabulary = network.head.out_features
    tokens, features, recent = g.op("Transpose", "tokens", perm=[1, 0]), None, []
    last_features = None
    if network.ngrams is not None:
        features, port = _features_of_rows(g, network.ngrams, precision)
        last_features = g.op("GatherND", features, row_ends(g))
        recent = [port]
    if precision == "int8":
        table = table_inputs(g, network.recurrent, network.embedding.weight, tokens, features)
        hidden = int8_layers(g, network.recurrent, table)
    else:
        embedded = g.op("Gather", g.const(network.embedding.weight), tokens, axis=0)
        hidden = float_layers(g, network.recurrent, _beside(g, embedded, features), network.input_widths)
    _scores(g, network, hidden.last, hidden.precision, last_features, precision, name="logits")
    every = Port("logits_all", "float32", ("T", vocabulary))

    def scores(b: Builder) -> str:
        return b.op(
            "Transpose", _scores(b, network, hidden.every(b), hidden.precision, features, precision), perm=[1, 0, 2]
        )

    if_wanted(g, every, scores)
    return finish(
        g,
        (Port("tokens", "int64", ("T",)), LENGTHS, PER_STEP),
        (Port("logits", "float32", (vocabulary,)), every),
        [*hidden.state, *recent],
    )


def _scores(
    g: Builder,
    network: TextModel,
    hidden: str,
    precision: Precision,
    features: str | None,
    features_precision: Precision,
    name: str | None = None,
) -> str:
    """The head, of the last layer's output and the n-gram features, each in its precision."""
    weights = torch.split(network.head.weight, list(network.head_widths), dim=1)
    own = linear(
        g, hidden, weights[0], network.head.bias, precision, None if features else name, network.head_widths[:1]
    )
    if features is None:
        return own
    if features_precision == "int8":
        beside = product(g, features, weights[1], step=1 / FEATURE_STEPS)
    else:
        beside = linear(g, features, weights[1], None, "float32", widths=network.head_widths[1:])
    return g.op("Add", own, beside, name=name)


def _beside(g: Builder, embedded: str, features: str | None) -> str:
    """What the first layer reads, (..., inputs) in float32."""
    return embedded if features is None else g.op("Concat", embedded, features, axis=-1)


def _features_of_rows(g: Builder, ngrams: NgramFeatures, precision: Precision) -> tuple[str, tuple[Port, Port]]:
    """The n-gram features of the graph's `tokens` (B, T) after those before, as (T, B, width); the state's ports."""
    ports = _recent(ngrams)
    before, after = ports
    every = g.op("Concat", before.name, "tokens", axis=1)
    steps = g.op("Range", g.const(0), g.op("Squeeze", g.shape_of("tokens", 1)), g.const(1))
    window = g.op("Add", g.op("Unsqueeze", steps, g.const([1])), g.const(np.arange(ngrams.longest)[None]))
    windows = g.op("Transpose", g.op("Gather", every, window, axis=1), perm=[1, 0, 2])
    last = g.op("Add", g.op("Unsqueeze", "lengths", g.const([1])), g.const(np.arange(ngrams.longest - 1)[None]))
    g.op("GatherElements", every, last, axis=1, name=after.name)
    return _features(g, ngrams, windows, [0, 0, -1], precision), ports


def _features(g: Builder, ngrams: NgramFeatures, windows: str, shape: list[int], precision: Precision) -> str:
    """Windows (..., longest) of tokens -> features of their n-grams, in a shape as of Reshape, in float32 or uint8."""
    rows = g.op("Mod", g.op("MatMul", windows, g.const(ngrams.multiples)), g.const(BUCKETS))
    rows = g.op("Add", rows, g.const(BUCKETS * np.arange(ngrams.longest - 1)))
    found = g.op("Gather", g.const(_table(ngrams)), rows, axis=0)
    if precision == "float32":
        # Not DequantizeLinear: ONNX Runtime 1.31 ends the process when it moves one past the Reshape.
        steps = g.op("Sub", g.op("Cast", found, to=F32), g.const(ZERO, "float32"))
        found = g.op("Mul", steps, g.const(1 / FEATURE_STEPS, "float32"))
    return g.op("Reshape", found, g.const(shape))


def _table(ngrams: NgramFeatures) -> NDArray[np.uint8]:
    """The features as whole numbers of their steps from ZERO."""
    steps = torch.round(FEATURE_STEPS * torch.tanh(ngrams.table.weight))
    table: NDArray[np.uint8] = (ZERO + steps).to(torch.uint8).numpy(force=True)
    return table


def _recent(ngrams: NgramFeatures) -> tuple[Port, Port]:
    """The last tokens, as state."""
    shape = (ngrams.longest - 1,)
    return Port("recent", "int64", shape), Port("recent_out", "int64", shape)


def decode_graph(network: TextModel, precision: Precision = "float32") -> ExportedGraph:
    """Scores, controls, random numbers and given tokens (N, B), state -> N tokens for each row, given or sampled, the
    scores that each was sampled from, those after the last, new state.

    Sampling inside of the graph, several steps in one call: between the calls of a small model, Python would take as
    long as the model. Given tokens let a row whose prompt is short read it beside others that write.
    """
    g, body = Builder(), Builder(prefix="step_")
    vocabulary = network.head.out_features
    g.op("Expand", g.const(1), g.shape_of("logits", 0), name="lengths")
    token = _sample(body)
    features, recent = None, []
    if network.ngrams is not None:
        before, after = _recent(network.ngrams)
        window = body.op("Concat", before.name, body.op("Unsqueeze", token, body.const([1])), axis=1)
        body.op(
            "Slice", window, body.const([1]), body.const([network.ngrams.longest]), body.const([1]), name=after.name
        )
        features, recent = _features(body, network.ngrams, window, [0, -1], precision), [(before, after)]
    if precision == "int8":
        table = table_inputs(body, network.recurrent, network.embedding.weight, token, features)
        hidden = int8_step(body, network.recurrent, table)
    else:
        embedded = body.op("Gather", body.const(network.embedding.weight), token, axis=0)
        x = _beside(body, embedded, features)
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
    # What occurred before stays as it is, and costs no step anything: with `counts`, it is what has occurred since.
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
    """The next token of each row, (B,) int64, given or sampled from `logits` by one number in [0, 1) each, `uniform`;
    `counts_out`, where a penalty may ask for it.

    Of exactly rounded operations and sums in order only, so that a row's choice does not depend on its neighbours.
    """

    def mass_of(b: Builder, scores: str) -> str:
        best = b.op("ReduceMax", scores, b.const([1]), keepdims=1)
        return b.op("Exp", b.op("Div", b.op("Sub", scores, best), "temperature"))

    def drawn(b: Builder, mass: str) -> str:
        cumulated = b.op("CumSum", mass, b.const(1))
        total = b.op("Gather", cumulated, b.const([-1]), axis=1)
        passed = b.op("LessOrEqual", cumulated, b.op("Mul", b.op("Unsqueeze", "uniform", b.const([1])), total))
        token = b.op("ReduceSum", b.op("Cast", passed, to=I64), b.const([1]), keepdims=0)
        return b.op("Where", b.op("Less", "given", b.const(0)), token, "given")

    def plain(b: Builder) -> list[str]:
        return [drawn(b, mass_of(b, b.op("Add", "logits", "bias"))), b.op("Identity", "counts")]

    def controlled(b: Builder) -> list[str]:
        token = drawn(b, _filtered(b, mass_of(b, b.op("Add", _penalised(b), "bias"))))
        size = b.op("Squeeze", b.shape_of("counts", 1))
        hot = b.op("OneHot", token, size, b.const([0, 1], "float32"), axis=-1)
        written = b.op("Cast", b.op("Less", "given", b.const(0)), to=F32)
        return [token, b.op("Add", "counts", b.op("Mul", hot, b.op("Unsqueeze", written, b.const([1]))))]

    # One branch for all: each costs as much as a small operator of a small batch.
    return either(g, "controlled", controlled, plain, [(I64, None), (F32, "counts_out")])[0]


def _penalised(g: Builder) -> str:
    """The scores less what the penalties take away: first the one for what occurred, then those for what was written,
    each exactly nothing where it is off."""
    nothing = g.const(0.0, "float32")
    positive = g.op("Greater", "logits", nothing)
    rarer = g.op("Where", positive, g.op("Div", "logits", "penalty"), g.op("Mul", "logits", "penalty"))
    frequent = g.op("Mul", "counts", "frequency_penalty")
    present = g.op("Mul", g.op("Min", "counts", g.const(1.0, "float32")), "presence_penalty")
    occurred = g.op("Or", "seen", g.op("Greater", "counts", nothing))
    return g.op("Sub", g.op("Where", occurred, rarer, "logits"), g.op("Add", frequent, present))


def _filtered(g: Builder, mass: str) -> str:
    """The mass that top-k, top-p and min-p leave, in this order."""
    size, nothing = g.shape_of(mass, 1), g.const(0.0, "float32")
    ranked = g.ops("TopK", mass, size, names=[None, None], axis=-1, largest=1, sorted=1)[0]
    limit = g.op("Min", g.op("Sub", "top_k", g.const(1)), g.op("Sub", size, g.const(1)))
    least = g.op("GatherElements", ranked, limit, axis=1)
    kept = g.op("Where", g.op("GreaterOrEqual", mass, least), mass, nothing)
    ranked = g.op("Where", g.op("GreaterOrEqual", ranked, least), ranked, nothing)
    cumulated = g.op("CumSum", ranked, g.const(1))
    total = g.op("Gather", cumulated, g.const([-1]), axis=1)
    inside = g.op("Less", g.op("Sub", cumulated, ranked), g.op("Mul", "top_p", total))
    count = g.op("ReduceSum", g.op("Cast", inside, to=I64), g.const([1]), keepdims=1)
    least = g.op("GatherElements", ranked, g.op("Sub", count, g.const(1)), axis=1)
    kept = g.op("Where", g.op("GreaterOrEqual", kept, least), kept, nothing)
    return g.op("Where", g.op("GreaterOrEqual", kept, "min_p"), kept, nothing)
