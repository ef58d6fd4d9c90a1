"""Writes a trained network as an ONNX graph, operator by operator, exactly as PyTorch computed it.

Built by hand rather than traced: standard LSTM, GRU and RNN operators with dynamic batch and time, rows of different
lengths, and the state as named inputs and outputs (why: docs/decisions/0001-graphs-built-by-hand.md). Knows nothing of
files or manifests.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from training.cells import JordanLayer, Recurrent
from training.networks import Forecaster, TextModel
from training.scaling import DECAY, LAG_LIMIT, MAX_STEPS, SQUASH, CausalScaler, StandardScaler

OPSET = 21
IR_VERSION = 10

F32, F64, I64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
_DTYPES = {"float32": F32, "float64": F64, "int64": I64}


@dataclass
class Builder:
    """A graph being written: `op` adds a node and returns the name of its result, `const` adds a constant."""

    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    _known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: Any) -> str:
        """Add one node; its (first) output is called `name`, or something unique."""
        return self.ops(kind, *inputs, names=[name] if name else [None] * outputs, **attributes)[0]

    def ops(self, kind: str, *inputs: str, names: list[str | None], **attributes: Any) -> list[str]:
        """Add one node with several outputs."""
        outputs = [name or f"{self.prefix}{kind.lower()}_{len(self.nodes)}_{i}" for i, name in enumerate(names)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def const(self, value: "NDArray[np.generic] | Tensor | float | int | list[int]", dtype: str | None = None) -> str:
        """A constant tensor, stored once however often it is used."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        array = np.asarray(array, dtype=dtype, order="C")
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"{self.prefix}const_{len(self._known)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def shape_of(self, x: str, axis: int) -> str:
        """The length of one axis, as a tensor of shape (1,)."""
        return self.op("Shape", x, start=axis, end=axis + 1)


@dataclass(frozen=True)
class Port:
    """An input or output of the graph; `shape` without the batch axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def info(self) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(self.name, _DTYPES[self.dtype], ["B", *self.shape])


@dataclass(frozen=True)
class ExportedGraph:
    """The ONNX model, its inputs and outputs besides the state, and the state as pairs of (input, output)."""

    model: onnx.ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    state: tuple[tuple[Port, Port], ...]


LENGTHS = Port("lengths", "int64", ())


def text_graph(network: TextModel) -> ExportedGraph:
    """Tokens, lengths, state -> scores after each row's last token, scores after every token, new state."""
    g = Builder()
    vocabulary = network.head.out_features
    embedded = g.op("Gather", g.const(network.embedding.weight), "tokens", axis=0)
    every, last = _recurrent(g, network.recurrent, g.op("Transpose", embedded, perm=[1, 0, 2]))
    weight, bias = g.const(network.head.weight.T), g.const(network.head.bias)
    g.op("Add", g.op("MatMul", last, weight), bias, name="logits")
    scores = g.op("Add", g.op("MatMul", every, weight), bias)
    g.op("Transpose", scores, perm=[1, 0, 2], name="logits_all")
    return _finish(
        g,
        (Port("tokens", "int64", ("T",)), LENGTHS),
        (Port("logits", "float32", (vocabulary,)), Port("logits_all", "float32", ("T", vocabulary))),
        _recurrent_state(network.recurrent),
    )


def forecast_graph(network: Forecaster) -> ExportedGraph:
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

    every, last = _recurrent(g, network.recurrent, g.op("Transpose", scaled.inputs, perm=[1, 0, 2]))
    every = g.op("Transpose", every, perm=[1, 0, 2])

    def head(hidden: str, lagged: str, rows: int, shape: list[int]) -> str:
        """The first `rows` horizons of the head after `hidden`, in the scale's units, sorted; `shape`: leading axes."""
        weight, bias = network.head.weight[: rows * levels].T, network.head.bias[: rows * levels]
        raw = g.op("Add", g.op("MatMul", hidden, g.const(weight)), g.const(bias))
        raw = g.op("Reshape", raw, g.const([*shape, rows, levels]))
        if network.mixing is not None:
            weight, bias = network.mixing.weight[: rows * lags].T, network.mixing.bias[: rows * lags]
            mixing = g.op("Add", g.op("MatMul", hidden, g.const(weight)), g.const(bias))
            mixing = g.op("Reshape", mixing, g.const([*shape, rows, lags]))
            # One product per step and row. A ReduceSum would round by where in memory a row happens to lie.
            raw = g.op("Add", raw, g.op("MatMul", mixing, g.op("Unsqueeze", lagged, g.const([-1]))))
        ordered = g.ops("TopK", raw, g.const([levels]), names=[None, None], axis=-1, largest=0, sorted=1)[0]
        return g.op("Cast", ordered, to=F64)

    after_last = head(last, scaled.last_lags, horizon, [0])
    g.op("Add", scaled.last_location, g.op("Mul", scaled.last_scale, after_last), name="quantiles")
    one_step = g.op("Squeeze", head(every, scaled.lags, 1, [0, 0]), g.const([2]))
    g.op("Add", scaled.location, g.op("Mul", scaled.scale, one_step), name="one_step")
    features = scaler.features
    state = [
        (Port(name, "float64", shape), Port(f"{name}_out", "float64", shape))
        for name, shape in scaler.state_shapes.items()
    ]
    return _finish(
        g,
        (Port("values", "float64", ("T", features)), Port("mask", "float32", ("T", features)), LENGTHS),
        (Port("quantiles", "float64", (horizon, levels)), Port("one_step", "float64", ("T", levels))),
        [*state, *_recurrent_state(network.recurrent)],
    )


@dataclass(frozen=True)
class _Scaled:
    """Names of what `scaling.Scaled` holds; those after the last step have shapes (B, 1, 1) and (B, K)."""

    inputs: str
    lags: str
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
    return _Scaled(inputs, "", location, scale, "", location, scale)


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

    def squash(x: str) -> str:
        return g.op("Div", x, g.op("Add", one, g.op("Div", g.op("Abs", x), g.const(SQUASH))))

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
        """Lags (B, T, K, F) of steps whose newest value, age and unit are (B, T, F)."""
        values = g.op("Gather", window, index, axis=1)
        newest, unit, age = (g.op("Unsqueeze", part, g.const([2])) for part in (newest, unit, age))
        known = g.op("Greater", age, g.const(ago[:, None], "float64"))
        return g.op("Where", known, g.op("Div", g.op("Sub", values, newest), unit), zero)

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

    def target_lags(lag: str) -> str:
        clipped = g.op("Max", g.op("Min", lag, g.const(LAG_LIMIT)), g.const(-LAG_LIMIT))
        return g.op("Squeeze", g.op("Cast", _target(g, clipped), to=F32), g.const([3]))

    mean_size = g.op("Add", g.op("Abs", mean), unit)
    inputs = g.op(
        "Concat",
        squash(g.op("Div", g.op("Sub", newest, mean), unit)),
        squash(g.op("Div", change, unit)),
        observed,
        g.op("Div", mean, mean_size),
        g.op("Div", total, g.op("Add", total, g.const(20.0))),
        g.op("Reshape", squash(every_lag), g.const([0, 0, lags * scaler.features])),
        axis=2,
    )
    return _Scaled(
        inputs=g.op("Cast", inputs, to=F32),
        lags=target_lags(every_lag),
        location=_target(g, newest),
        scale=_target(g, scale),
        last_lags=g.op("Squeeze", target_lags(last_lag), g.const([1])),
        last_location=_target(g, last_newest),
        last_scale=_target(g, last_scale),
    )


def _recurrent_state(recurrent: Recurrent) -> list[tuple[Port, Port]]:
    shape = (recurrent.hidden,)
    return [(Port(name, "float32", shape), Port(f"{name}_out", "float32", shape)) for name in recurrent.state_names]


def _recurrent(g: Builder, recurrent: Recurrent, x: str) -> tuple[str, str]:
    """Stacked layers over x (T, B, inputs) -> outputs (T, B, hidden), and (B, hidden) at each row's end."""
    last = ""
    for i, layer in enumerate(recurrent.layers):
        if isinstance(layer, JordanLayer):
            outside = layer.from_input
            x, last = _scan(g, x, i, outside.weight, outside.bias, layer.from_output.weight, layer.to_output)
        elif isinstance(layer, nn.RNN):
            own = dict(layer.named_parameters())
            bias = own["bias_ih_l0"] + own["bias_hh_l0"]
            x, last = _scan(g, x, i, own["weight_ih_l0"], bias, own["weight_hh_l0"], None)
        else:
            x, last = _operator(g, recurrent, layer, x, i)
    return x, last


# PyTorch stacks the gates of a layer as i,f,g,o (LSTM) and r,z,n (GRU); ONNX as i,o,f,c and z,r,h.
_GATES = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}


def _operator(g: Builder, recurrent: Recurrent, layer: nn.Module, x: str, i: int) -> tuple[str, str]:
    """An LSTM or GRU layer as ONNX's own operator."""
    cell, hidden = recurrent.cell, recurrent.hidden

    def gates(parameter: object) -> NDArray[np.generic]:
        assert isinstance(parameter, Tensor)
        blocks = parameter.detach().cpu().numpy().reshape(-1, hidden, *parameter.shape[1:])
        ordered: NDArray[np.generic] = blocks[_GATES[cell]].reshape(parameter.shape)
        return ordered

    bias = np.concatenate([gates(layer.bias_ih_l0), gates(layer.bias_hh_l0)])
    carried = [g.op("Unsqueeze", name, g.const([0])) for name in recurrent.state_names if name.startswith(f"layer{i}_")]
    every, *after = g.ops(
        cell.upper(),
        x,
        g.const(gates(layer.weight_ih_l0)[None]),
        g.const(gates(layer.weight_hh_l0)[None]),
        g.const(bias[None]),
        g.op("Cast", "lengths", to=TensorProto.INT32),
        *carried,
        names=[None] * (1 + len(carried)),
        hidden_size=hidden,
        **({"linear_before_reset": 1} if cell == "gru" else {}),
    )
    outputs = [
        g.op("Squeeze", state, g.const([0]), name=f"layer{i}_{part}_out")
        for state, part in zip(after, ("h", "c"), strict=False)
    ]
    return g.op("Squeeze", every, g.const([1])), outputs[0]


def _scan(
    g: Builder, x: str, i: int, weight: Tensor, bias: Tensor, fed_back: Tensor, outer: nn.Linear | None
) -> tuple[str, str]:
    """An Elman layer, or with `outer` a Jordan layer, as a Scan over time in which a row stands still past its end.

    ONNX has no Jordan operator, and ONNX Runtime's RNN operator rounds a lone row differently from a row in a batch.
    """
    inputs = g.op("Add", g.op("MatMul", x, g.const(weight.T)), g.const(bias))
    hidden = fed_back.shape[0]
    steps = g.op("Range", g.const(0), g.op("Squeeze", g.shape_of(x, 0)), g.const(1))
    inside = g.op("Less", g.op("Unsqueeze", steps, g.const([1])), g.op("Unsqueeze", "lengths", g.const([0])))
    inside = g.op("Unsqueeze", inside, g.const([2]))

    body = Builder(prefix=f"layer{i}_step_")
    recurrence = body.op("MatMul", "before", body.const(fed_back.T))
    y = body.op("Tanh", body.op("Add", "input", recurrence))
    if outer is not None:
        y = body.op("MatMul", y, body.const(outer.weight.T))
        y = body.op("Tanh", body.op("Add", y, body.const(outer.bias)))
    body.op("Where", "inside", y, "before", name="after")
    body.op("Identity", "after", name="output")

    def row(name: str, dtype: int, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, ["B", width])

    graph = helper.make_graph(
        body.nodes,
        f"layer{i}_step",
        [row("before", F32, hidden), row("input", F32, hidden), row("inside", TensorProto.BOOL, 1)],
        [row("after", F32, hidden), row("output", F32, hidden)],
        body.constants,
    )
    last, every = g.ops(
        "Scan", f"layer{i}_h", inputs, inside, names=[f"layer{i}_h_out", None], body=graph, num_scan_inputs=2
    )
    return every, last


def _finish(
    g: Builder, inputs: tuple[Port, ...], outputs: tuple[Port, ...], state: list[tuple[Port, Port]]
) -> ExportedGraph:
    before, after = [pair[0] for pair in state], [pair[1] for pair in state]
    graph = helper.make_graph(
        g.nodes,
        "carry",
        [port.info() for port in (*inputs, *before)],
        [port.info() for port in (*outputs, *after)],
        g.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return ExportedGraph(model, inputs, outputs, tuple(state))
