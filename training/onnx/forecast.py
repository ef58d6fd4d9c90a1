"""Writes a trained forecaster as an ONNX graph: the arithmetic of `training/nets` by the backend that writes operators,
around the recurrent layers of `layers.py`.
"""

from dataclasses import dataclass

import numpy as np

from training.nets.arithmetic import SQUASH
from training.nets.cells import Recurrent
from training.nets.forecaster import Forecaster
from training.nets.global_forecaster import HIDDEN, GlobalForecaster, heaviest_lags, in_values
from training.nets.series_scan import PATCH, Level, patches, read_so_far, rows_of, state_after, state_shapes
from training.onnx.backend import OnnxBackend, Parameters, Value, before_end
from training.onnx.layers import (
    ALL_ROWS,
    Hidden,
    Precision,
    Rows,
    dequantise,
    float_inputs,
    float_layers,
    int8_layers,
    int8_operators,
    linear,
)
from training.onnx.operations import LENGTHS, PER_STEP, Builder, ExportedGraph, Port, finish, optional_output


def forecast_graph(network: Forecaster | GlobalForecaster, precision: Precision = "float32") -> ExportedGraph:
    """Values, mask, lengths, state -> quantiles after each row's last step, those one step ahead, new state."""
    if isinstance(network, GlobalForecaster):
        return _global_graph(network, precision)
    g = Builder()
    f = OnnxBackend(g)
    scaler = network.scaler
    horizon, levels = network.horizon, len(network.quantile_levels)
    observed = f.cast(Value(g, "mask", "float32"), "float64") * f.unsqueeze(before_end(f), 2)
    state = {"last": Value(g, "last", "float64")}
    inputs, newest = scaler.network_inputs(f, Value(g, "values", "float64"), observed, state)
    f.take(newest, -1, 1).as_output("last_out")
    hidden = _layers(g, network.recurrent, f.transpose(inputs, 1, 0, 2).name, precision)

    def head(f: OnnxBackend, x: str, rows: int, *leading: int) -> Value:
        """Quantiles of the next `rows` values from the layers' outputs x; `leading`: the axes before, as in reshape."""
        weight, bias = network.head.weight[: rows * levels], network.head.bias[: rows * levels]
        raw = Value(f.g, linear(f.g, x, weight, bias, hidden.precision), "float32")
        quantiles: Value = network.in_values(f, f.reshape(raw, *leading, rows, levels))
        return quantiles

    head(f, hidden.last, horizon, 0).as_output("quantiles")
    one_step_port = Port("one_step", "float64", ("T", levels))

    def one_step(b: Builder) -> str:
        x = b.op("Transpose", hidden.every(b), perm=[1, 0, 2])
        return b.op("Squeeze", head(OnnxBackend(b), x, 1, 0, 0).name, b.const([2]))

    optional_output(g, one_step_port, one_step)
    features = scaler.features
    last = Port("last", "float64", (features,)), Port("last_out", "float64", (features,))
    return finish(
        g,
        (Port("values", "float64", ("T", features)), Port("mask", "float32", ("T", features)), LENGTHS, PER_STEP),
        (Port("quantiles", "float64", (horizon, levels)), one_step_port),
        [last, *hidden.state],
    )


def _layers(g: Builder, recurrent: Recurrent, x: str, precision: Precision, rows: Rows = ALL_ROWS) -> Hidden:
    """The recurrent layers over x (T, B, inputs) within (-SQUASH, SQUASH)."""
    if precision == "float32":
        return float_layers(g, recurrent, x, rows=rows)
    if recurrent.cell == "lstm":
        return int8_operators(g, recurrent, x, SQUASH, rows)
    return int8_layers(g, recurrent, float_inputs(g, recurrent, x), rows)


@dataclass(frozen=True)
class PatchLayers:
    """The recurrent layers over the patches of a series; count (B, 1): the whole patches that end in this call. Where
    there is none, the layers read an unfinished patch, and their output does not count."""

    hidden: Hidden
    count: Value


def patch_layers(
    f: OnnxBackend,
    recurrent: Recurrent,
    level: Level,
    opened: Value,
    step_inputs: int,
    end: Value,
    precision: Precision,
) -> PatchLayers:
    """Write the recurrent layers of a forecaster of any series over the patches up to each row's last step, `end` (B,
    1), and their new states. opened (B, PATCH - 1, step_inputs): the values of the open patch."""
    count = read_so_far(level, end, f) // PATCH
    x = f.transpose(patches(f, level, opened, step_inputs), 1, 0, 2)
    rows = Rows(f.maximum(f.reshape(count, -1), 1).name, "_read")
    hidden = _layers(f.g, recurrent, x.name, precision, rows)
    for before, _ in hidden.state:
        unchanged = Value(f.g, before.name, before.dtype)
        after = f.where(count > 0, Value(f.g, before.name + rows.after, before.dtype), unchanged)
        after.as_output(f"{before.name}_out")
    return PatchLayers(hidden, count)


def _global_graph(network: GlobalForecaster, precision: Precision) -> ExportedGraph:
    g = Builder()
    f = OnnxBackend(g, Parameters.of(network))
    horizon, levels = network.horizon, len(network.quantile_levels)
    covariates = network.covariates
    features, known = 1 + len(covariates.sizes), len(covariates.known_ahead)
    shapes = state_shapes(network.step_inputs)
    state = {name: Value(g, name, dtype) for name, (_, dtype, _) in shapes.items()}
    lengths = f.unsqueeze(Value(g, "lengths", "int64"), 1)
    inputs = {"values": Value(g, "values", "float64"), "mask": Value(g, "mask", "float32")}
    if known:
        inputs |= {"ahead": Value(g, "ahead", "float64"), "ahead_mask": Value(g, "ahead_mask", "float32")}
    observed = f.cast(f.reshape(f.slice(inputs["mask"], 2, 0, 1), 0, -1), "float64") * before_end(f)
    scan, carried = network.scan(f, inputs, observed, state)
    end = lengths - 1
    layers = patch_layers(f, network.recurrent, scan, state["open"], network.step_inputs, end, precision)
    hidden = layers.hidden

    def every_hidden(f: OnnxBackend) -> Value:
        """The layers' outputs of the last patch of the state and of each new patch, (B, 1 + N, hidden)."""
        outputs = _in_float(f, hidden.every(f.g), hidden.precision)
        return f.concat([f.unsqueeze(Value(f.g, HIDDEN, "float32"), 1), f.transpose(outputs, 1, 0, 2)], 1)

    last = f.where(layers.count > 0, _in_float(f, hidden.last, hidden.precision), Value(g, HIDDEN, "float32"))
    last = f.unsqueeze(last.as_output(f"{HIDDEN}_out"), 1)
    ahead = np.arange(1, horizon + 1)
    future = []
    if known:
        future_inputs = Value(g, "future", "float64"), Value(g, "future_mask", "float32")
        future = network.known_inputs(f, *(f.unsqueeze(part, 1) for part in future_inputs))
    output = network.forecast_at(f, scan, end, last, state["open"], ahead, future)
    f.reshape(in_values(f, scan, end, output), -1, horizon, levels).as_output("quantiles")
    f.reshape(heaviest_lags(f, output), -1, 2).as_output("seasons")

    def one_step(b: Builder) -> str:
        fb = f.within(b)
        branch_scan = scan.mapped(lambda value: value.within(b))
        opened = state["open"].within(b)
        at = fb.reshape(fb.positions(branch_scan.newest, 1), 1, -1) + 0 * branch_scan.held
        outputs, patch_index = every_hidden(fb), read_so_far(branch_scan, at, fb) // PATCH
        hidden_at = rows_of(fb, outputs, patch_index, network.recurrent.hidden)
        next_known = []
        if known:
            ahead_inputs = (fb.unsqueeze(inputs[name].within(b), 2) for name in ("ahead", "ahead_mask"))
            next_known = network.known_inputs(fb, *ahead_inputs)
        output = network.forecast_at(fb, branch_scan, at, hidden_at, opened, np.array([1]), next_known)
        return b.op("Squeeze", in_values(fb, branch_scan, at, output).name, b.const([2]))

    one_step_port = Port("one_step", "float64", ("T", levels))
    optional_output(g, one_step_port, one_step)
    after = state_after(f, scan, carried, end, state, network.step_inputs)
    width = (network.recurrent.hidden,)
    ports = [(Port(HIDDEN, "float32", width), Port(f"{HIDDEN}_out", "float32", width))]
    for name, (shape, dtype, initial) in shapes.items():
        after[name].as_output(f"{name}_out")
        ports.append((Port(name, dtype, shape, initial), Port(f"{name}_out", dtype, shape)))
    input_ports = [Port("values", "float64", ("T", features)), Port("mask", "float32", ("T", features))]
    input_ports += [LENGTHS, PER_STEP]
    if known:
        input_ports += [Port("ahead", "float64", ("T", known)), Port("ahead_mask", "float32", ("T", known))]
        input_ports += [Port("future", "float64", (horizon, known)), Port("future_mask", "float32", (horizon, known))]
    outputs = Port("quantiles", "float64", (horizon, levels)), one_step_port, Port("seasons", "int64", (2,))
    return finish(g, tuple(input_ports), outputs, [*ports, *hidden.state])


def _in_float(f: OnnxBackend, x: str, precision: Precision) -> Value:
    """Activations as float32 numbers."""
    return Value(f.g, x if precision == "float32" else dequantise(f.g, x), "float32")
