"""Recurrent layers as ONNX operators, in float32 and in int8. Knows nothing of the networks around them.

The recurrence stands here and in `training/nets/cells.py`: PyTorch trains with its fused layers, ONNX Runtime runs its
operators. `check_agreement` (export.py) compares both for every network that is exported.

There are two int8 forms. Both have constant activation scales, so that no row's answer depends on its neighbours (why,
and how fast each is: docs/decisions/0005-int8-that-is-batch-invariant.md):

- `int8_layers`: any cell, written out inside a Scan; the fastest step of a large batch.
- `int8_operators`: LSTM only, as ONNX Runtime's DynamicQuantizeLSTM; the fastest way through a long input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from training.nets.cells import Cell, JordanLayer, Recurrent
from training.nets.quantisation import quantise
from training.nets.text import FEATURE_STEPS
from training.onnx.operations import CONTRIB, DTYPES, F32, I32, U8, Builder, Port

Precision = Literal["float32", "int8"]
Reals = NDArray[np.float32]
StatePorts = list[tuple[Port, Port]]

# PyTorch stacks the gates of a layer as i,f,g,o (LSTM) and r,z,n (GRU); ONNX as i,o,f,c and z,r,h.
GATES: Mapping[Cell, list[int]] = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}

ZERO = 128
"""The uint8 that stands for 0: an activation a in [-1, 1] is stored as ZERO + round(127 a)."""


Every = Callable[[Builder], str]
"""Writes the operators of a layer's outputs at every step, (T, B, hidden)."""


@dataclass(frozen=True)
class Hidden:
    """The outputs of the last layer, in float32 or as uint8 (`precision` int8), and the ports of the state.

    last (B, hidden): at each row's end. every: at every step. layers: the outputs of each layer at every step, always
    in float32."""

    last: str
    every: Every
    precision: Precision
    state: StatePorts
    layers: tuple[Every, ...]


@dataclass(frozen=True)
class Rows:
    """`lengths` (B,), each at least 1: row b uses its first lengths[b] steps. `after`: the suffix of the names of the
    states after these steps."""

    lengths: str = "lengths"
    after: str = "_out"


ALL_ROWS = Rows()


def linear(
    g: Builder,
    x: str,
    weight: Tensor,
    bias: Tensor | None,
    precision: Precision,
    name: str | None = None,
    widths: Sequence[int] = (),
) -> str:
    """x @ weight.T + bias in float32, of x (..., inputs) in float32 or uint8; `widths` as in `matrix`."""
    if precision == "int8":
        return product(g, x, weight, bias, name)
    if bias is None:
        return g.op("MatMul", x, matrix(g, weight, widths), name=name)
    return g.op("Add", g.op("MatMul", x, matrix(g, weight, widths)), g.const(bias), name=name)


def float_layers(g: Builder, recurrent: Recurrent, x: str, widths: Sequence[int] = (), rows: Rows = ALL_ROWS) -> Hidden:
    """Stacked layers over x (T, B, inputs), as PyTorch computes them; `widths` of x as in `matrix`."""
    hidden_widths = [recurrent.hidden] if widths else []
    write = _scan if recurrent.cell in ("elman", "jordan") else _operator
    last = ""
    layers: list[Every] = []
    for i in range(len(recurrent.layers)):
        below, last_below = x, last
        x, last = write(g, recurrent, x, i, hidden_widths if i else widths, hidden_widths, rows)
        if i and recurrent.residual:
            x, last = g.op("Add", x, below), g.op("Add", last, last_below)
        layers.append(_written(x))
    state = [_state(name, recurrent.hidden) for name in recurrent.state_names]
    return Hidden(last, _written(x), "float32", state, tuple(layers))


def _written(x: str) -> Every:
    """What is written already."""
    return lambda _: x


def _state(name: str, hidden: int, quantised: bool = False) -> tuple[Port, Port]:
    dtype, initial = ("uint8", float(ZERO)) if quantised else ("float32", 0.0)
    return Port(name, dtype, (hidden,), initial), Port(f"{name}_out", dtype, (hidden,), initial)


def _operator(
    g: Builder,
    recurrent: Recurrent,
    x: str,
    i: int,
    widths: Sequence[int],
    hidden_widths: Sequence[int],
    rows: Rows,
) -> tuple[str, str]:
    """An LSTM or GRU layer as ONNX's operator: its outputs (T, B, hidden), and those at each row's end."""
    cell, hidden, layer = recurrent.cell, recurrent.hidden, recurrent.layers[i]

    def gates(parameter: Tensor) -> list[Tensor]:
        blocks = torch.split(parameter.detach().cpu(), hidden)
        return [blocks[k] for k in GATES[cell]]

    def stacked(name: str, widths: Sequence[int]) -> str:
        blocks = gates(layer.get_parameter(name))
        if not widths:
            return g.const(torch.cat(blocks)[None])
        columns = g.op("Concat", *(matrix(g, block, widths) for block in blocks), axis=1)
        return g.op("Unsqueeze", g.op("Transpose", columns, perm=[1, 0]), g.const([0]))

    bias = torch.cat([*gates(layer.get_parameter("bias_ih_l0")), *gates(layer.get_parameter("bias_hh_l0"))])
    carried = [
        g.op("Unsqueeze", name, g.const([0]))
        for name in recurrent.state_names
        if name.startswith(f"{recurrent.prefix}{i}_")
    ]
    every, *after = g.ops(
        cell.upper(),
        x,
        stacked("weight_ih_l0", widths),
        stacked("weight_hh_l0", hidden_widths),
        g.const(bias[None]),
        g.op("Cast", rows.lengths, to=TensorProto.INT32),
        *carried,
        names=[None] * (1 + len(carried)),
        hidden_size=hidden,
        **({"linear_before_reset": 1} if cell == "gru" else {}),
    )
    outputs = [
        g.op("Squeeze", state, g.const([0]), name=f"{recurrent.prefix}{i}_{part}{rows.after}")
        for state, part in zip(after, ("h", "c"), strict=False)
    ]
    return g.op("Squeeze", every, g.const([1])), outputs[0]


def _scan(
    g: Builder,
    recurrent: Recurrent,
    x: str,
    i: int,
    widths: Sequence[int],
    hidden_widths: Sequence[int],
    rows: Rows,
) -> tuple[str, str]:
    """An Elman or Jordan layer as a Scan over time: its outputs (T, B, hidden), and those at each row's end, past which
    the state does not change.

    ONNX has no Jordan operator, and ONNX Runtime's RNN operator rounds a lone row differently from a row in a batch.
    """
    layer, hidden, h = recurrent.layers[i], recurrent.hidden, f"{recurrent.prefix}{i}_h"
    weight, bias = recurrent.from_input(i)
    to_output = layer.to_output if isinstance(layer, JordanLayer) else None
    feedback = layer.from_output.weight if isinstance(layer, JordanLayer) else layer.get_parameter("weight_hh_l0")
    inputs = linear(g, x, weight, bias, "float32", widths=widths)
    steps = g.op("Unsqueeze", g.positions(x, 0), g.const([1]))
    inside = g.op("Less", steps, g.op("Unsqueeze", rows.lengths, g.const([0])))
    inside = g.op("Unsqueeze", inside, g.const([2]))

    body = Builder(prefix=f"{recurrent.prefix}{i}_step_")
    recurrence = body.op("MatMul", "before", matrix(body, feedback, hidden_widths))
    y = body.op("Tanh", body.op("Add", "input", recurrence))
    if to_output is not None:
        y = body.op("Tanh", linear(body, y, to_output.weight, to_output.bias, "float32", widths=hidden_widths))
    body.op("Where", "inside", y, "before", name="after")
    body.op("Identity", "after", name="output")

    def row(name: str, dtype: int, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, ["B", width])

    graph = helper.make_graph(
        body.nodes,
        f"{recurrent.prefix}{i}_step",
        [row("before", F32, hidden), row("input", F32, hidden), row("inside", TensorProto.BOOL, 1)],
        [row("after", F32, hidden), row("output", F32, hidden)],
        body.constants,
    )
    last, every = g.ops("Scan", h, inputs, inside, names=[f"{h}{rows.after}", None], body=graph, num_scan_inputs=2)
    return every, last


GateInputs = Callable[[slice], str]
"""Writes a layer's input times its weights, plus biases, for some columns of the gates: (T, B, columns), float32."""


def table_inputs(
    g: Builder, recurrent: Recurrent, embedding: Tensor, tokens: str, features: str | None = None
) -> GateInputs:
    """For the first layer of a text model, of tokens of any shape. The embedding times the weights is a table of
    constants; `features` (..., width) of n-grams, uint8, follow the embedding."""
    weight, bias = recurrent.from_input(0)
    width = embedding.shape[1]
    table = embedding @ weight[:, :width].T + bias

    def gate_inputs(columns: slice) -> str:
        row = g.op("Gather", half_precision(g, table[:, columns]), tokens, axis=0)
        if features is None:
            return row
        return g.op("Add", row, product(g, features, weight[columns, width:], step=1 / FEATURE_STEPS))

    return gate_inputs


def float_inputs(g: Builder, recurrent: Recurrent, x: str) -> GateInputs:
    """For the first layer over x (T, B, inputs) of any size."""
    weight, bias = recurrent.from_input(0)
    return lambda columns: linear(g, x, weight[columns], bias[columns], "float32")


def row_ends(g: Builder, lengths: str = "lengths") -> str:
    """The index of each row's last step, (B, 2), for a GatherND from (T, B, ...)."""
    row = g.positions(lengths, 0)
    ends = [g.op("Unsqueeze", x, g.const([1])) for x in (g.op("Sub", lengths, g.const(1)), row)]
    return g.op("Concat", *ends, axis=1)


def int8_layers(g: Builder, recurrent: Recurrent, first: GateInputs, rows: Rows = ALL_ROWS) -> Hidden:
    """Stacked layers of any cell, each a Scan over time of products in int8 and gates in float32.

    The Scan runs past a row's end; the row's state is taken from its last step.
    """
    at_end = row_ends(g, rows.lengths)
    inputs, ports = first, []
    outputs: list[str] = []
    layers: list[Every] = []
    for i in range(len(recurrent.layers)):
        every, states = _int8_scan(g, recurrent, i, inputs)
        for (before, _), sequence in states:
            g.op("GatherND", sequence, at_end, name=before.name + rows.after)
        ports += [port for port, _ in states]
        # A layer reads the last output, or with residual layers the sum of all outputs so far.
        outputs = [*outputs, every] if recurrent.residual else [every]
        layers.append(partial(_sum_of_int8, parts=outputs))
        if i + 1 < len(recurrent.layers):
            inputs = _int8_inputs(g, recurrent, i + 1, outputs)
    return _int8_hidden(g, [g.op("GatherND", every, at_end) for every in outputs], outputs, ports, layers)


def _int8_hidden(g: Builder, last: list[str], every: list[str], state: StatePorts, layers: list[Every]) -> Hidden:
    """The sums of these outputs, at each row's end and at every step."""
    if len(last) == 1:
        return Hidden(last[0], _written(every[0]), "int8", state, tuple(layers))
    return Hidden(_sum_of_int8(g, last), lambda b: _sum_of_int8(b, every), "float32", state, tuple(layers))


def _sum_of_int8(g: Builder, parts: Sequence[str]) -> str:
    return reduce(lambda x, y: g.op("Add", x, y), (dequantise(g, part) for part in parts))


def dequantise(g: Builder, x: str) -> str:
    """Activations in uint8 as float32 numbers."""
    return g.op("DequantizeLinear", x, g.const(1 / 127, "float32"), g.const(ZERO, "uint8"))


def int8_step(g: Builder, recurrent: Recurrent, first: GateInputs) -> Hidden:
    """One step of what `int8_layers` computes, to the bit, without a loop: `first` gives (B, columns)."""
    inputs, ports = first, []
    outputs: list[str] = []
    layers: list[Every] = []
    for i in range(len(recurrent.layers)):
        gates = range(len(recurrent.from_input(i)[0]) // recurrent.hidden)
        gate_inputs = [inputs(slice(k * recurrent.hidden, (k + 1) * recurrent.hidden)) for k in gates]
        output, states = _int8_cell(g, recurrent, i, gate_inputs, named=True)
        ports += [port for port, _ in states]
        outputs = [*outputs, output] if recurrent.residual else [output]
        layers.append(partial(_sum_of_int8, parts=outputs))
        if i + 1 < len(recurrent.layers):
            inputs = _int8_inputs(g, recurrent, i + 1, outputs)
    return _int8_hidden(g, outputs, outputs, ports, layers)


def _int8_inputs(g: Builder, recurrent: Recurrent, i: int, parts: Sequence[str]) -> GateInputs:
    """For a layer that reads the sum of `parts`."""
    weight, bias = recurrent.from_input(i)

    def gate_inputs(columns: slice) -> str:
        first, *more = parts
        total = product(g, first, weight[columns], bias[columns])
        for part in more:
            total = g.op("Add", total, product(g, part, weight[columns]))
        return total

    return gate_inputs


def _int8_scan(
    g: Builder, recurrent: Recurrent, i: int, inputs: GateInputs
) -> tuple[str, list[tuple[tuple[Port, Port], str]]]:
    """One layer: its outputs (T, B, hidden) as uint8, and each state's ports with all its values (T, B, hidden)."""
    hidden, prefix = recurrent.hidden, f"{recurrent.prefix}{i}_step_"
    body = Builder(prefix=prefix)
    gates = len(recurrent.from_input(i)[0]) // hidden
    gate_inputs = [f"{prefix}input{k}" for k in range(gates)]
    output, states = _int8_cell(body, recurrent, i, gate_inputs)

    def row(name: str, port: Port) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, DTYPES[port.dtype], ["B", hidden])

    before = [row(port.name, port) for (port, _), _ in states]
    before += [helper.make_tensor_value_info(name, F32, ["B", hidden]) for name in gate_inputs]
    after = [row(value, port) for (port, _), value in states]
    # The states of all steps are outputs too, so that each row's state can be taken from its last step.
    collected = {value: body.op("Identity", value) for value in (output, *(value for _, value in states))}
    dtypes = {output: U8} | {value: DTYPES[port.dtype] for (port, _), value in states}
    after += [helper.make_tensor_value_info(copy, dtypes[value], ["B", hidden]) for value, copy in collected.items()]
    results = g.ops(
        "Scan",
        *(port.name for (port, _), _ in states),
        *(inputs(slice(k * hidden, (k + 1) * hidden)) for k in range(gates)),
        names=[None] * len(after),
        body=helper.make_graph(body.nodes, prefix[:-1], before, after, body.constants),
        num_scan_inputs=gates,
    )
    sequences = dict(zip(collected, results[len(states) :], strict=True))
    return sequences[output], [(ports, sequences[value]) for ports, value in states]


def _int8_cell(
    g: Builder, recurrent: Recurrent, i: int, gate_inputs: list[str], named: bool = False
) -> tuple[str, list[tuple[tuple[Port, Port], str]]]:
    """One step: its output as uint8, and each state's ports with its new value. `named`: the new value has the name of
    its port."""
    hidden, layer, h = recurrent.hidden, recurrent.layers[i], f"{recurrent.prefix}{i}_h"
    h_out, c_out = (f"{recurrent.prefix}{i}_{part}_out" if named else None for part in "hc")

    def gate(k: int, x: str, weight: Tensor) -> str:
        return g.op("Add", gate_inputs[k], product(g, x, weight[k * hidden : (k + 1) * hidden]))

    def quantised(x: str, name: str | None = None) -> str:
        return g.op("QuantizeLinear", x, g.const(1 / 127, "float32"), g.const(ZERO, "uint8"), name=name)

    if isinstance(layer, JordanLayer):
        y = quantised(g.op("Tanh", gate(0, h, layer.from_output.weight)))
        y = quantised(g.op("Tanh", product(g, y, layer.to_output.weight, layer.to_output.bias)), h_out)
        return y, [(_state(h, hidden, quantised=True), y)]
    across = layer.get_parameter("weight_hh_l0")
    if recurrent.cell == "elman":
        y = quantised(g.op("Tanh", gate(0, h, across)), h_out)
        return y, [(_state(h, hidden, quantised=True), y)]
    if recurrent.cell == "lstm":
        c = f"{recurrent.prefix}{i}_c"
        read, keep, new, write = (g.op("Tanh" if k == 2 else "Sigmoid", gate(k, h, across)) for k in range(4))
        c_after = g.op("Add", g.op("Mul", keep, c), g.op("Mul", read, new), name=c_out)
        y = quantised(g.op("Mul", write, g.op("Tanh", c_after)), h_out)
        return y, [(_state(h, hidden, quantised=True), y), (_state(c, hidden), c_after)]
    # A GRU adds to its output: the state stays exact, or small changes would be rounded away.
    x = quantised(h)
    reset, update = (g.op("Sigmoid", gate(k, x, across)) for k in range(2))
    bias = layer.get_parameter("bias_hh_l0")[2 * hidden :]
    new = g.op("Mul", reset, product(g, x, across[2 * hidden :], bias))
    new = g.op("Tanh", g.op("Add", gate_inputs[2], new))
    h_after = g.op("Add", new, g.op("Mul", update, g.op("Sub", h, new)), name=h_out)
    return quantised(h_after), [(_state(h, hidden), h_after)]


def matrix(g: Builder, weight: Tensor, widths: Sequence[int] = ()) -> str:
    """A matrix (outputs, inputs) as (inputs, outputs) in float32. With `widths` the graph holds it in int8, each block
    of so many inputs with its own scales, and ONNX Runtime computes the float32 form when it loads the graph."""
    if not widths:
        return g.const(weight.T)
    parts = []
    for columns in torch.split(weight, list(widths), dim=1):
        stored, scale = quantise(columns.detach().numpy().T)
        parts.append(g.op("Mul", g.op("Cast", g.const(stored), to=F32), g.const(scale)))
    return parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis=0)


def half_precision(g: Builder, table: Tensor) -> str:
    """A table in float32 that the graph holds in half precision."""
    return g.op("Cast", g.const(table.half()), to=F32)


def product(
    g: Builder, x: str, weight: Tensor, bias: Tensor | None = None, name: str | None = None, step: float = 1 / 127
) -> str:
    """x @ weight.T + bias in float32, of x (..., inputs) in uint8, which stands for (x - ZERO) * step; summed exactly,
    in whole numbers."""
    stored, scale = quantise(weight.detach().numpy().T)
    inputs = [x, g.const(stored), g.const(step, "float32"), g.const(scale), g.const(ZERO, "uint8"), ""]
    inputs += [] if bias is None else [g.const(bias)]
    return g.op("MatMulIntegerToFloat", *inputs, domain=CONTRIB, name=name)


SENTINELS = 8
"""Units and inputs added to an operator: so many keep its width a multiple of what processors load at once."""


def int8_operators(g: Builder, recurrent: Recurrent, x: str, bound: float, rows: Rows = ALL_ROWS) -> Hidden:
    """Stacked LSTM layers over x (T, B, inputs) as DynamicQuantizeLSTM operators; x is clipped to (-bound, bound).

    The operator scales its activations by the largest and the smallest of the whole batch, which would make a row's
    answer depend on its neighbours. Here these are always 1 and -1: sentinels, inputs and units whose gates never move,
    hold them there. The scale is then a constant.
    """
    hidden, half = recurrent.hidden, SENTINELS // 2
    one = np.repeat(np.array([1, -1], dtype=np.float32), half)
    batch = g.shape_of(rows.lengths, 0)
    ports = [_state(name, hidden) for name in recurrent.state_names]
    last, lengths = "", g.op("Cast", rows.lengths, to=I32)
    layers: list[Every] = []
    # NaN would be the largest of the whole batch.
    x = g.op("Where", g.op("IsNaN", x), g.const(0.0, "float32"), x)
    x = g.op("Clip", g.op("Div", x, g.const(bound, "float32")), g.const(-1.0, "float32"), g.const(1.0, "float32"))
    for i, layer in enumerate(recurrent.layers):
        # Outputs lie in (-1, 1), the sum of i outputs in (-i, i).
        limit = bound if i == 0 else float(i) if recurrent.residual else 1.0

        def stacked(parameter: Tensor, sentinel: NDArray[np.float32] | None = None) -> Reals:
            """Gates (inputs, 4 * (hidden + SENTINELS)) in ONNX's order, padded for the sentinels."""
            blocks = parameter.detach().numpy().reshape(4, hidden, -1)[GATES["lstm"]]
            blocks = np.pad(blocks, [(0, 0), (0, SENTINELS), (0, SENTINELS if sentinel is None else 0)])
            if sentinel is not None:
                blocks[:, hidden:, 0] = sentinel[:, None]
            return np.ascontiguousarray(blocks.reshape(4 * (hidden + SENTINELS), -1).T)

        inside = layer.get_parameter("weight_ih_l0") * limit
        bias = layer.get_parameter("bias_ih_l0") + layer.get_parameter("bias_hh_l0")
        # Input gate shut, output and forget gate open.
        frozen = np.array([-100, 100, 100, 0], dtype=np.float32)
        gate_bias = stacked(bias, frozen)[0]
        (w, w_scale), (r, r_scale) = quantise(stacked(inside)), quantise(stacked(layer.get_parameter("weight_hh_l0")))
        zeros = np.zeros((1, len(gate_bias)), dtype=np.int8)

        def with_sentinels(name: str, value: NDArray[np.float32]) -> str:
            added = g.op(
                "Expand", g.const(value[None, None]), g.op("Concat", g.const([1]), batch, g.const([1]), axis=0)
            )
            return g.op("Concat", g.op("Unsqueeze", name, g.const([0])), added, axis=2)

        if i == 0:
            steps = g.op("Concat", g.shape_of(x, 0), batch, g.const([1]), axis=0)
            x = g.op("Concat", x, g.op("Expand", g.const(one[None, None]), steps), axis=2)
        every, *after = g.ops(
            "DynamicQuantizeLSTM",
            x if i < 2 or limit == 1.0 else g.op("Div", x, g.const(limit, "float32")),
            g.const(w[None]),
            g.const(r[None]),
            g.const(np.concatenate([gate_bias, np.zeros_like(gate_bias)])[None]),
            lengths,
            with_sentinels(f"{recurrent.prefix}{i}_h", one),
            with_sentinels(f"{recurrent.prefix}{i}_c", 20 * one),
            "",
            g.const(w_scale[None]),
            g.const(zeros),
            g.const(r_scale[None]),
            g.const(zeros),
            names=[None] * 3,
            domain=CONTRIB,
            hidden_size=hidden + SENTINELS,
        )
        outputs = [
            g.op(
                "Slice", g.op("Squeeze", state, g.const([0])), g.const([0]), g.const([hidden]), g.const([1]), name=name
            )
            for state, name in zip(after, (f"{recurrent.prefix}{i}_{part}{rows.after}" for part in "hc"), strict=True)
        ]
        every = g.op("Squeeze", every, g.const([1]))
        if i and recurrent.residual:
            x, last = g.op("Add", every, x), g.op("Add", outputs[0], last)
        else:
            x, last = every, outputs[0]
        layers.append(partial(_without_sentinels, x=x, hidden=hidden))
    return Hidden(last, partial(_without_sentinels, x=x, hidden=hidden), "float32", ports, tuple(layers))


def _without_sentinels(b: Builder, x: str, hidden: int) -> str:
    return b.op("Slice", x, b.const([0]), b.const([hidden]), b.const([2]))
