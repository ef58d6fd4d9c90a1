"""Writes a trained forecaster as an ONNX graph: its own arithmetic, by the backend that writes operators, around the
layers of `onnx_layers.py`.
"""

import numpy as np

from training.nets.arithmetic import SQUASH, Onnx, Parameters
from training.nets.cells import Recurrent
from training.nets.global_forecaster import HIDDEN, GlobalForecaster, in_values, weighed_most
from training.nets.networks import Forecaster
from training.nets.series_scan import PATCH, patches, read_so_far, rows_of, state_after, state_shapes
from training.onnx.layers import (
    ALL,
    ZERO,
    Hidden,
    Precision,
    Rows,
    float_inputs,
    float_layers,
    int8_layers,
    int8_operators,
    linear,
)
from training.onnx.operations import LENGTHS, PER_STEP, Builder, ExportedGraph, Port, Value, finish, if_wanted


def forecast_graph(network: Forecaster | GlobalForecaster, precision: Precision = "float32") -> ExportedGraph:
    """Values, mask, lengths, state -> quantiles after each row's last step, those one step ahead, new state."""
    if isinstance(network, GlobalForecaster):
        return _global_graph(network, precision)
    g = Builder()
    f = Onnx(g)
    scaler = network.scaler
    horizon, levels = network.horizon, len(network.quantile_levels)
    observed = f.cast(Value(g, "mask", "float32"), "float64") * f.expand(_inside(f), 2)
    inputs, newest = scaler.read(f, Value(g, "values", "float64"), observed, {"last": Value(g, "last", "float64")})
    newest.take(-1, axis=1).called("last_out")
    hidden = _layers(g, network.recurrent, f.transpose(inputs, 1, 0, 2).name, precision)
    location, scale = (float(part[0]) for part in (scaler.location, scaler.scale))

    def head(g: Builder, x: str, rows: int, *leading: int) -> Value:
        """The first `rows` horizons of the head after x, unscaled and sorted; `leading`: axes before."""
        weight, bias = network.head.weight[: rows * levels], network.head.bias[: rows * levels]
        raw = Value(g, linear(g, x, weight, bias, hidden.precision), "float32").reshape(*leading, rows, levels)
        ordered = g.ops("TopK", raw.name, g.const([levels]), names=[None, None], axis=-1, largest=0, sorted=1)[0]
        return Value(g, ordered, "float32").to("float64") * scale + location

    head(g, hidden.last, horizon, 0).called("quantiles")
    every = Port("one_step", "float64", ("T", levels))

    def one_step(b: Builder) -> str:
        x = b.op("Transpose", hidden.every(b), perm=[1, 0, 2])
        return b.op("Squeeze", head(b, x, 1, 0, 0).name, b.const([2]))

    if_wanted(g, every, one_step)
    features = scaler.features
    state = [(Port("last", "float64", (features,)), Port("last_out", "float64", (features,)))]
    return finish(
        g,
        (Port("values", "float64", ("T", features)), Port("mask", "float32", ("T", features)), LENGTHS, PER_STEP),
        (Port("quantiles", "float64", (horizon, levels)), every),
        [*state, *hidden.state],
    )


def _inside(f: Onnx) -> Value:
    """Which steps (B, T) come before a row's end, 1 or 0: those past it count as missing, so that running figures stand
    still."""
    steps = f.reshape(f.steps(Value(f.g, "mask", "float32"), 1), 1, -1)
    return f.cast(steps < f.expand(Value(f.g, "lengths", "int64"), 1), "float64")


def _layers(g: Builder, recurrent: Recurrent, x: str, precision: Precision, rows: Rows = ALL) -> Hidden:
    """The recurrent layers over x (T, B, inputs) within (-SQUASH, SQUASH)."""
    if precision == "float32":
        return float_layers(g, recurrent, x, rows=rows)
    if recurrent.cell == "lstm":
        return int8_operators(g, recurrent, x, SQUASH, rows)
    return int8_layers(g, recurrent, float_inputs(g, recurrent, x), rows)


def _global_graph(network: GlobalForecaster, precision: Precision) -> ExportedGraph:
    g = Builder()
    f = Onnx(g, Parameters.of(network))
    horizon, levels = network.horizon, len(network.quantile_levels)
    covariates = network.covariates
    features, known = 1 + len(covariates.sizes), len(covariates.known_ahead)
    shapes = state_shapes(network.step_inputs)
    state = {name: Value(g, name, dtype) for name, (_, dtype, _) in shapes.items()}
    lengths = Value(g, "lengths", "int64").unsqueeze(1)
    given = {"values": Value(g, "values", "float64"), "mask": Value(g, "mask", "float32")}
    if known:
        given |= {"ahead": Value(g, "ahead", "float64"), "ahead_mask": Value(g, "ahead_mask", "float32")}
    here = f.cast(f.reshape(f.cut(given["mask"], 2, 0, 1), 0, -1), "float64") * _inside(f)
    found, carried = network.scan(f, given, here, state)
    end = lengths - 1
    done = read_so_far(found, end, f) // PATCH
    read = f.transpose(patches(f, found, state["open"], network.step_inputs), 1, 0, 2)
    rows = Rows(f.maximum(f.reshape(done, -1), 1).name, "_read")
    hidden = _layers(g, network.recurrent, read.name, precision, rows)
    some = done > 0  # else no patch is whole, and what was found of the first one does not count

    def every(f: Onnx) -> Value:
        found = _real(f, hidden.every(f.g), hidden.precision)
        return f.join([Value(f.g, HIDDEN, "float32").unsqueeze(1), f.transpose(found, 1, 0, 2)], 1)

    last = f.where(some, _real(f, hidden.last, hidden.precision), Value(g, HIDDEN, "float32")).called(f"{HIDDEN}_out")
    for before, _ in hidden.state:
        carried_on = Value(g, before.name, before.dtype)
        f.where(some, Value(g, f"{before.name}_read", before.dtype), carried_on).called(f"{before.name}_out")
    last = last.unsqueeze(1)
    ahead = np.arange(1, horizon + 1)
    future = []
    if known:
        told = Value(g, "future", "float64"), Value(g, "future_mask", "float32")
        future = network.known(f, *(f.expand(part, 1) for part in told))
    asked = network.ask(f, found, end, last, state["open"], ahead, future)
    in_values(f, found, end, asked).reshape(-1, horizon, levels).called("quantiles")
    weighed_most(f, asked).reshape(-1, 2).called("seasons")

    def one_step(b: Builder) -> str:
        fb = f.within(b)
        own = found.mapped(lambda value: value.within(b))
        opened = state["open"].within(b)
        at = fb.reshape(fb.steps(own.newest, 1), 1, -1) + 0 * own.held
        hidden_at = rows_of(fb, every(fb), read_so_far(own, at, fb) // PATCH, network.recurrent.hidden)
        next_one = []
        if known:
            next_one = network.known(fb, *(fb.expand(given[part].within(b), 2) for part in ("ahead", "ahead_mask")))
        asked = network.ask(fb, own, at, hidden_at, opened, np.array([1]), next_one)
        return b.op("Squeeze", in_values(fb, own, at, asked).name, b.const([2]))

    each = Port("one_step", "float64", ("T", levels))
    if_wanted(g, each, one_step)
    after = state_after(f, found, carried, end, state, network.step_inputs)
    width = (network.recurrent.hidden,)
    ports = [(Port(HIDDEN, "float32", width), Port(f"{HIDDEN}_out", "float32", width))]
    for name, (shape, dtype, initial) in shapes.items():
        after[name].called(f"{name}_out")
        ports.append((Port(name, dtype, shape, initial), Port(f"{name}_out", dtype, shape)))
    more = [Port("ahead", "float64", ("T", known)), Port("ahead_mask", "float32", ("T", known))]
    more += [Port("future", "float64", (horizon, known)), Port("future_mask", "float32", (horizon, known))]
    inputs = (Port("values", "float64", ("T", features)), Port("mask", "float32", ("T", features)), LENGTHS, PER_STEP)
    return finish(
        g,
        (*inputs, *(more if known else [])),
        (Port("quantiles", "float64", (horizon, levels)), each, Port("seasons", "int64", (2,))),
        [*ports, *hidden.state],
    )


def _real(f: Onnx, x: str, precision: Precision) -> Value:
    """Activations as float32 numbers."""
    if precision == "float32":
        return Value(f.g, x, "float32")
    scale, zero = f.g.const(1 / 127, "float32"), f.g.const(ZERO, "uint8")
    return Value(f.g, f.g.op("DequantizeLinear", x, scale, zero), "float32")
