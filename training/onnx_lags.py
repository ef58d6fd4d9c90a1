"""Writes a `LagForecaster` as an ONNX graph, by its own arithmetic."""

import numpy as np

from training.arithmetic import Onnx
from training.lag_network import (
    INPUTS,
    PATCH,
    SQUASH,
    LagForecaster,
    in_values,
    patches,
    read_so_far,
    rows_of,
    scan,
    state_after,
    state_shapes,
)
from training.onnx_builder import LENGTHS, PER_STEP, Builder, ExportedGraph, Port, Value, finish, if_wanted
from training.onnx_layers import Precision, float_layers, int8_operators


def lag_graph(network: LagForecaster, precision: Precision = "float32") -> ExportedGraph:
    """Values, mask, lengths, state -> quantiles after each row's last step, those one step ahead, new state."""
    g = Builder()
    f = Onnx(g)
    horizon, levels = network.horizon, len(network.quantile_levels)
    shapes = state_shapes()
    state = {name: Value(g, name, dtype) for name, (_, dtype, _) in shapes.items()}
    lengths = Value(g, "lengths", "int64").unsqueeze(1)
    values = Value(g, "values", "float64").take(0, axis=2)
    # Steps past a row's end count as missing, so that running figures stand still.
    inside = f.cast(f.reshape(f.steps(values, 1), 1, -1) < lengths, "float64")
    here = f.cast(Value(g, "mask", "float32").take(0, axis=2), "float64") * inside
    found, carried = scan(f, values, here, state)
    end = lengths - 1
    done = read_so_far(found, end, f) // PATCH
    read = f.transpose(patches(f, found, state["open"]), 1, 0, 2)
    whole = f.reshape(done, -1).name
    if precision == "int8":
        hidden = int8_operators(g, network.recurrent, read.name, SQUASH, whole)
    else:
        hidden = float_layers(g, network.recurrent, read.name, lengths=whole)
    last = Value(g, hidden.last, "float32").unsqueeze(1)
    ahead = np.arange(1, horizon + 1)
    quantiles, newest, unit = network.ask(f, found, end, last, state["open"], ahead)
    in_values(f, found, end, quantiles, newest, unit).reshape(-1, horizon, levels).called("quantiles")

    def one_step(b: Builder) -> str:
        fb = Onnx(b)
        own = found.mapped(lambda value: value.within(b))
        opened = state["open"].within(b)
        at = fb.reshape(fb.steps(own.newest, 1), 1, -1) + 0 * own.held
        first = [Value(b, f"layer{i}_h", "float32") for i in range(len(network.recurrent.layers))]
        before = first[0]
        for other in first[1:]:
            before = before + other
        every = Value(b, b.op("Transpose", hidden.every(b), perm=[1, 0, 2]), "float32")
        every = fb.join([before.unsqueeze(1), every], 1)
        hidden_at = rows_of(fb, every, read_so_far(own, at, fb) // PATCH, network.recurrent.hidden)
        quantiles, newest, unit = network.ask(fb, own, at, hidden_at, opened, np.array([1]))
        return b.op("Squeeze", in_values(fb, own, at, quantiles, newest, unit).name, b.const([2]))

    every = Port("one_step", "float64", ("T", levels))
    if_wanted(g, every, one_step)
    after = state_after(f, found, carried, end, state)
    ports = []
    for name, (shape, dtype, initial) in shapes.items():
        after[name].called(f"{name}_out")
        ports.append((Port(name, dtype, shape, initial), Port(f"{name}_out", dtype, shape)))
    return finish(
        g,
        (Port("values", "float64", ("T", 1)), Port("mask", "float32", ("T", 1)), LENGTHS, PER_STEP),
        (Port("quantiles", "float64", (horizon, levels)), every),
        [*ports, *hidden.state],
    )
