"""Writes a trained network as an ONNX graph, operator by operator, exactly as PyTorch computed it.

Built by hand rather than traced: standard LSTM, GRU and RNN operators with dynamic batch and time, rows of different
lengths, and the state as named inputs and outputs (why: docs/decisions/0001-graphs-built-by-hand.md). Knows nothing of
files or manifests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import helper

from training.networks import Forecaster, TextModel
from training.onnx_builder import BOOL, DTYPES, F32, F64, I64, Builder, ExportedGraph, Port, finish
from training.onnx_layers import (
    Precision,
    float_inputs,
    float_layers,
    int8_layers,
    int8_operators,
    int8_step,
    linear,
    table_inputs,
)
from training.scaling import DECAY, LAG_LIMIT, MAX_STEPS, SQUASH, CausalScaler, StandardScaler

LENGTHS = Port("lengths", "int64", ())
PER_STEP = Port("per_step", "bool", (), axis=None)


def _if_wanted(g: Builder, port: Port, build: Callable[[Builder], str]) -> None:
    """An output of every step, made by `build` if `per_step` says so, else with no steps in it.

    ONNX Runtime computes every output of a graph, whichever are fetched; only a branch not taken costs nothing.
    """

    def nothing(b: Builder) -> str:
        sizes = [b.shape_of("lengths", 0), *(b.const([size if isinstance(size, int) else 0]) for size in port.shape)]
        zero = helper.make_tensor("zero", DTYPES[port.dtype], [1], [0])
        return b.op("ConstantOfShape", b.op("Concat", *sizes, axis=0), value=zero)

    _either(g, PER_STEP.name, lambda b: [build(b)], lambda b: [nothing(b)], [(DTYPES[port.dtype], port.name)])


def _either(
    g: Builder,
    condition: str,
    yes: Callable[[Builder], list[str]],
    no: Callable[[Builder], list[str]],
    results: Sequence[tuple[int, str | None]],
) -> list[str]:
    """What `yes` writes where the condition holds, else what `no` writes; of each result, type and name."""
    branches = {}
    for branch, build in (("then_branch", yes), ("else_branch", no)):
        b = Builder(prefix=f"{g.prefix}{branch}_{len(g.nodes)}_")
        outputs = [
            helper.make_tensor_value_info(made, dtype, None) for made, (dtype, _) in zip(build(b), results, strict=True)
        ]
        branches[branch] = helper.make_graph(b.nodes, branch, [], outputs, b.constants)
    return g.ops("If", condition, names=[name for _, name in results], **branches)


def text_graph(network: TextModel, precision: Precision = "float32") -> ExportedGraph:
    """Tokens, lengths, state -> scores after each row's last token, scores after every token, new state."""
    g = Builder()
    vocabulary = network.head.out_features
    if precision == "int8":
        tokens = g.op("Transpose", "tokens", perm=[1, 0])
        hidden = int8_layers(g, network.recurrent, table_inputs(g, network.recurrent, network.embedding.weight, tokens))
    else:
        embedded = g.op("Gather", g.const(network.embedding.weight), "tokens", axis=0)
        hidden = float_layers(g, network.recurrent, g.op("Transpose", embedded, perm=[1, 0, 2]))
    linear(g, hidden.last, network.head.weight, network.head.bias, hidden.precision, name="logits")
    every = Port("logits_all", "float32", ("T", vocabulary))

    def scores(b: Builder) -> str:
        x = linear(b, hidden.every(b), network.head.weight, network.head.bias, hidden.precision)
        return b.op("Transpose", x, perm=[1, 0, 2])

    _if_wanted(g, every, scores)
    return finish(
        g,
        (Port("tokens", "int64", ("T",)), LENGTHS, PER_STEP),
        (Port("logits", "float32", (vocabulary,)), every),
        hidden.state,
    )


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
    if precision == "int8":
        table = table_inputs(body, network.recurrent, network.embedding.weight, token)
        hidden = int8_step(body, network.recurrent, table)
    else:
        embedded = body.op("Gather", body.const(network.embedding.weight), token, axis=0)
        hidden = float_layers(body, network.recurrent, body.op("Unsqueeze", embedded, body.const([0])))
    linear(body, hidden.last, network.head.weight, network.head.bias, hidden.precision, name="logits_out")
    scores = Port("logits", "float32", (vocabulary,)), Port("logits_out", "float32", (vocabulary,))
    seen = Port("seen", "bool", (vocabulary,)), Port("seen_out", "bool", (vocabulary,))
    carried = [scores, seen, *hidden.state]
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
    controls = (
        Port("uniforms", "float32", ("B",), axis="N"),
        Port("given_tokens", "int64", ("B",), axis="N"),
        Port("bias", "float32", (vocabulary,)),
        *(Port(name, "float32", (1,)) for name in ("temperature", "top_p", "min_p", "penalty")),
        Port("top_k", "int64", (1,)),
        Port("controlled", "bool", (), axis=None),
    )
    chosen = Port("tokens", "int64", ("B",), axis="N"), Port("scores", "float32", ("B", vocabulary), axis="N")
    return finish(g, controls, chosen, carried)


def _sample(g: Builder) -> str:
    """The next token of each row, (B,) int64, given or sampled from `logits` by one number in [0, 1) each, `uniform`;
    `seen_out`, where a penalty asks for it.

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
        return [drawn(b, mass_of(b, b.op("Add", "logits", "bias"))), b.op("Identity", "seen")]

    def controlled(b: Builder) -> list[str]:
        positive = b.op("Greater", "logits", b.const(0.0, "float32"))
        rarer = b.op("Where", positive, b.op("Div", "logits", "penalty"), b.op("Mul", "logits", "penalty"))
        scores = b.op("Add", b.op("Where", "seen", rarer, "logits"), "bias")
        token = drawn(b, _filtered(b, mass_of(b, scores)))
        size = b.op("Squeeze", b.shape_of("seen", 1))
        hot = b.op("Cast", b.op("OneHot", token, size, b.const([0, 1]), axis=-1), to=BOOL)
        return [token, b.op("Or", "seen", hot)]

    # One branch for all: each costs as much as a small operator of a small batch.
    return _either(g, "controlled", controlled, plain, [(I64, None), (BOOL, "seen_out")])[0]


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


def forecast_graph(network: Forecaster, precision: Precision = "float32") -> ExportedGraph:
    """Values, mask, lengths, state -> quantiles after each row's last step, those one step ahead, new state."""
    g = Builder()
    scaler = network.scaler
    horizon, levels, lags = network.horizon, len(network.quantile_levels), scaler.lags
    # Steps past a row's end count as missing, so that the scaler's running figures stand still there.
    steps = g.op("Range", g.const(0), g.op("Squeeze", g.shape_of("values", 1)), g.const(1))
    inside = g.op("Less", g.op("Unsqueeze", steps, g.const([0])), g.op("Unsqueeze", "lengths", g.const([1])))
    inside = g.op("Unsqueeze", g.op("Cast", inside, to=F64), g.const([2]))
    observed = g.op("Mul", g.op("Cast", "mask", to=F64), inside)
    seen = g.op("Greater", observed, g.const(0.0))
    if isinstance(scaler, CausalScaler):
        scaled = _causal(g, scaler, observed, seen, inside, steps)
    else:
        scaled = _standard(g, scaler, observed, seen)

    inputs = g.op("Transpose", scaled.inputs, perm=[1, 0, 2])
    if precision == "float32":
        hidden = float_layers(g, network.recurrent, inputs)
    elif network.recurrent.cell == "lstm":
        hidden = int8_operators(g, network.recurrent, inputs, SQUASH)
    else:
        hidden = int8_layers(g, network.recurrent, float_inputs(g, network.recurrent, inputs))

    def head(g: Builder, x: str, lagged: str, rows: int, shape: list[int]) -> str:
        """The first `rows` horizons of the head after x, in the scale's units, sorted; `shape`: leading axes."""
        weight, bias = network.head.weight[: rows * levels], network.head.bias[: rows * levels]
        raw = g.op("Reshape", linear(g, x, weight, bias, hidden.precision), g.const([*shape, rows, levels]))
        if network.mixing is not None:
            weight, bias = network.mixing.weight[: rows * lags], network.mixing.bias[: rows * lags]
            mixing = g.op("Reshape", linear(g, x, weight, bias, hidden.precision), g.const([*shape, rows, lags]))
            # One product per step and row. A ReduceSum would round by where in memory a row happens to lie.
            raw = g.op("Add", raw, g.op("MatMul", mixing, g.op("Unsqueeze", lagged, g.const([-1]))))
        ordered = g.ops("TopK", raw, g.const([levels]), names=[None, None], axis=-1, largest=0, sorted=1)[0]
        return g.op("Cast", ordered, to=F64)

    after_last = head(g, hidden.last, scaled.last_lags, horizon, [0])
    g.op("Add", scaled.last_location, g.op("Mul", scaled.last_scale, after_last), name="quantiles")
    every = Port("one_step", "float64", ("T", levels))

    def one_step(b: Builder) -> str:
        x = b.op("Transpose", hidden.every(b), perm=[1, 0, 2])
        raw = b.op("Squeeze", head(b, x, scaled.lags(b), 1, [0, 0]), b.const([2]))
        return b.op("Add", scaled.location, b.op("Mul", scaled.scale, raw))

    _if_wanted(g, every, one_step)
    features = scaler.features
    state = [
        (Port(name, "float64", shape), Port(f"{name}_out", "float64", shape))
        for name, shape in scaler.state_shapes.items()
    ]
    return finish(
        g,
        (Port("values", "float64", ("T", features)), Port("mask", "float32", ("T", features)), LENGTHS, PER_STEP),
        (Port("quantiles", "float64", (horizon, levels)), every),
        [*state, *hidden.state],
    )


@dataclass(frozen=True)
class _Scaled:
    """Names of what `scaling.Scaled` holds; those after the last step have shapes (B, 1, 1) and (B, K). `lags` writes
    the operators that give them."""

    inputs: str
    lags: Callable[[Builder], str]
    location: str
    scale: str
    last_lags: str
    last_location: str
    last_scale: str


def _last_observed(g: Builder, x: str, observed: str, seen: str) -> tuple[str, str, str]:
    """`scaling._last_observed`: newest value, the one before, and their count, from the carried "last"."""
    count = g.op("CumSum", observed, g.const(1))
    rank = g.op("Cast", count, to=I64)
    spare = g.op("Add", g.shape_of(x, 1), g.const([1]))
    zeros = g.op("Pad", x, g.const([0, 0, 0, 0, 1, 0]))
    zeros = g.op("Mul", zeros, g.const(0.0))
    slots = g.op("Concat", g.op("Unsqueeze", "last", g.const([1])), zeros, axis=1)
    slots = g.op("ScatterElements", slots, g.op("Where", seen, rank, spare), x, axis=1)
    before = g.op("Max", g.op("Sub", rank, g.const([1])), g.const([0]))
    return g.op("GatherElements", slots, rank, axis=1), g.op("GatherElements", slots, before, axis=1), count


def _at_end(g: Builder, x: str, keep: bool = False, name: str | None = None) -> str:
    """The last step of (B, T, ...): (B, ...), or (B, 1, ...) with `keep`."""
    index = g.const([-1]) if keep else g.const(-1)
    return g.op("Gather", x, index, axis=1, name=name)


def _target(g: Builder, x: str) -> str:
    """Feature 0 of (..., F) as (..., 1)."""
    return g.op("Gather", x, g.const([0]), axis=-1)


def _standard(g: Builder, scaler: StandardScaler, observed: str, seen: str) -> _Scaled:
    """`StandardScaler.forward` as operators."""
    x = g.op("Div", g.op("Sub", "values", g.const(scaler.location)), g.const(scaler.scale))
    x = g.op("Where", seen, x, g.const(0.0))
    filled, _, _ = _last_observed(g, x, observed, seen)
    _at_end(g, filled, name="last_out")
    inputs = g.op("Cast", g.op("Concat", filled, observed, axis=2), to=F32)
    location, scale = (g.const(part[:1].reshape(1, 1, 1)) for part in (scaler.location, scaler.scale))
    return _Scaled(inputs, lambda _: "", location, scale, "", location, scale)


def _causal(g: Builder, scaler: CausalScaler, observed: str, seen: str, inside: str, steps: str) -> _Scaled:
    """`CausalScaler.forward` as operators, line by line."""
    lags = scaler.lags
    zero, one = g.const(0.0), g.const(1.0)
    powers = g.const(scaler.powers)

    def carried(name: str) -> str:
        return g.op("Unsqueeze", name, g.const([1]))

    def weight(count: str) -> str:
        rank = g.op("Cast", g.op("Min", g.op("Max", count, zero), g.const(float(MAX_STEPS))), to=I64)
        total = g.op("Div", g.op("Sub", one, g.op("Gather", powers, rank)), g.const(1 - DECAY))
        return g.op("Max", total, one)

    def squash(x: str, dtype: str = "float64") -> str:
        size = g.op("Div", g.op("Abs", x), g.const(SQUASH, dtype))
        return g.op("Div", x, g.op("Add", g.const(1.0, dtype), size))

    def running(carry: str, x: str) -> str:
        weighted = g.op("CumSum", g.op("Div", x, decay), g.const(1))
        return g.op("Mul", decay, g.op("Add", carried(carry), weighted))

    x = g.op("Where", seen, "values", zero)
    newest, previous, count = _last_observed(g, x, observed, seen)
    total = g.op("Add", carried("observed"), count)
    several = g.op("GreaterOrEqual", total, g.const(2.0))
    change = g.op("Where", g.op("And", seen, several), g.op("Sub", x, previous), zero)

    decay = g.op("Gather", powers, g.op("Cast", count, to=I64))
    change_sum = running("change_sum", g.op("Abs", change))
    mean_sum = running("mean_sum", x)
    mean = g.op("Div", mean_sum, weight(total))
    size = g.op("Abs", newest)
    scale = g.op("Where", several, g.op("Div", change_sum, weight(g.op("Sub", total, one))), size)
    unit = g.op("Add", g.op("Add", scale, g.op("Mul", g.const(1e-12), size)), g.const(1e-30))

    started = g.op("Mul", g.op("Cast", g.op("Greater", total, zero), to=F64), inside)
    age = g.op("Add", carried("steps"), g.op("CumSum", started, g.const(1)))
    recent = g.op("Concat", "recent", newest, axis=1)
    ago = np.arange(1, lags + 1)

    def lagged(window: str, index: str, newest: str, age: str, unit: str) -> str:
        """Lags (B, T, K, F) in float32, of steps whose newest value, age and unit are (B, T, F)."""
        values = g.op("Gather", window, index, axis=1)
        newest, unit, age = (g.op("Unsqueeze", part, g.const([2])) for part in (newest, unit, age))
        known = g.op("Greater", age, g.const(ago[:, None], "float64"))
        lags = g.op("Div", g.op("Sub", values, newest), unit)
        lags = g.op("Cast", g.op("Clip", lags, g.const(-1e9), g.const(1e9)), to=F32)
        return g.op("Mul", lags, g.op("Cast", known, to=F32))

    at = g.op("Add", g.op("Unsqueeze", steps, g.const([1])), g.const(lags + 1 - ago[None], "int64"))
    every_lag = lagged(recent, at, newest, age, unit)

    # The last lags + 1 filled values before each row's own end.
    end = g.op("Add", g.op("Unsqueeze", "lengths", g.const([1])), g.const(np.arange(lags + 1)[None], "int64"))
    end = g.op("Expand", g.op("Unsqueeze", end, g.const([2])), g.const([1, 1, scaler.features]))
    g.op("GatherElements", recent, end, axis=1, name="recent_out")
    for name, value in (
        ("last", newest),
        ("observed", total),
        ("steps", age),
        ("mean_sum", mean_sum),
        ("change_sum", change_sum),
    ):
        _at_end(g, value, name=f"{name}_out")
    last_newest, last_age, last_unit, last_scale = (_at_end(g, x, keep=True) for x in (newest, age, unit, scale))
    last_lag = lagged("recent_out", g.const((lags - ago)[None], "int64"), last_newest, last_age, last_unit)

    def target_lags(g: Builder, lag: str) -> str:
        limit = g.const(LAG_LIMIT, "float32")
        clipped = g.op("Clip", _target(g, lag), g.op("Neg", limit), limit)
        return g.op("Squeeze", clipped, g.const([3]))

    mean_size = g.op("Add", g.op("Abs", mean), unit)
    running_figures = g.op(
        "Concat",
        squash(g.op("Div", g.op("Sub", newest, mean), unit)),
        squash(g.op("Div", change, unit)),
        observed,
        g.op("Div", mean, mean_size),
        g.op("Div", total, g.op("Add", total, g.const(20.0))),
        axis=2,
    )
    # Flat first: ONNX Runtime goes through a last axis of 1 number by number.
    flat = squash(g.op("Reshape", every_lag, g.const([0, 0, lags * scaler.features])), "float32")
    return _Scaled(
        inputs=g.op("Concat", g.op("Cast", running_figures, to=F32), flat, axis=2),
        lags=lambda b: target_lags(b, every_lag),
        location=_target(g, newest),
        scale=_target(g, scale),
        last_lags=g.op("Squeeze", target_lags(g, last_lag), g.const([1])),
        last_location=_target(g, last_newest),
        last_scale=_target(g, last_scale),
    )
