"""Writes a trained forecaster as an ONNX graph, exactly as PyTorch computed it: the arithmetic of `scaling.py`, line by
line, the layers of `onnx_layers.py`, and the heads of `networks.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor

from training.networks import Forecaster, GlobalForecaster
from training.onnx_builder import LENGTHS, PER_STEP, Builder, ExportedGraph, Port, Value, finish, if_wanted, joined
from training.onnx_layers import (
    Hidden,
    Precision,
    float_inputs,
    float_layers,
    int8_layers,
    int8_operators,
    linear,
)
from training.scaling import (
    CANDIDATES,
    CONSTANT_UNIT,
    DECAY,
    LAG_LIMIT,
    LEAST_UNIT,
    MAX_STEPS,
    REGISTER,
    ROUNDING_UNIT,
    SQUASH,
    Covariates,
)


def forecast_graph(network: Forecaster | GlobalForecaster, precision: Precision = "float32") -> ExportedGraph:
    """Values, mask, lengths, state -> quantiles after each row's last step, those one step ahead, new state."""
    if isinstance(network, GlobalForecaster):
        return _global_graph(network, precision)
    g = Builder()
    scaler = network.scaler
    horizon, levels = network.horizon, len(network.quantile_levels)
    observed = _observed(g)
    x = (Value(g, "values", "float64") - _const(g, scaler.location)) / _const(g, scaler.scale)
    x = (observed > 0.0).where(x, 0.0)
    filled, _, _ = _last_observed(g, x, observed, Value(g, "last", "float64"))
    filled.take(-1, axis=1).called("last_out")
    hidden = _layers(g, network, joined([filled, observed], axis=2).to("float32"), precision, SQUASH)
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


def _const(
    g: Builder, x: "Tensor | np.ndarray[tuple[int, ...], np.dtype[np.generic]]", dtype: str = "float64"
) -> Value:
    return Value(g, g.const(x, dtype), dtype)


def _observed(g: Builder) -> Value:
    """The mask (B, T, F) as float64; steps past a row's end count as missing, so that running figures stand still."""
    inside = (_steps(g).unsqueeze(0) < Value(g, "lengths", "int64").unsqueeze(1)).to("float64").unsqueeze(2)
    return Value(g, "mask", "float32").to("float64") * inside


def _steps(g: Builder) -> Value:
    """0, 1, ... T - 1."""
    size = g.op("Squeeze", g.shape_of("values", 1))
    return Value(g, g.op("Range", g.const(0), size, g.const(1)), "int64")


def _last_observed(g: Builder, x: Value, observed: Value, last: Value) -> tuple[Value, Value, Value]:
    """`scaling._last_observed`: newest value, the one before, and their count; last (B, F)."""
    count = observed.cumsum()
    rank = count.to("int64")
    spare = Value(g, g.op("Add", g.shape_of(x.name, 1), g.const([1])), "int64")
    zeros = Value(g, g.op("Pad", x.name, g.const([0, 0, 0, 0, 1, 0])), x.dtype) * 0.0
    slots = joined([last.unsqueeze(1), zeros], axis=1)
    at = (observed > 0.0).where(rank, spare)
    slots = Value(g, g.op("ScatterElements", slots.name, at.name, x.name, axis=1), x.dtype)
    return slots.gather(rank), slots.gather((rank - 1).least(0)), count


def _layers(
    g: Builder, network: Forecaster | GlobalForecaster, inputs: Value, precision: Precision, bound: float
) -> Hidden:
    """The recurrent layers over inputs (B, T, I) within (-bound, bound)."""
    x = g.op("Transpose", inputs.name, perm=[1, 0, 2])
    if precision == "float32":
        return float_layers(g, network.recurrent, x)
    if network.recurrent.cell == "lstm":
        return int8_operators(g, network.recurrent, x, bound)
    return int8_layers(g, network.recurrent, float_inputs(g, network.recurrent, x))


def _squash(x: Value) -> Value:
    return x / (x.abs() / SQUASH + 1.0)


def _positive(x: Value) -> Value:
    one = Value(x.g, x.g.const(1.0, x.dtype), x.dtype)
    return (x > 0.0).where(x + 1.0, one / (one - x.most(0.0)))


@dataclass(frozen=True)
class _Read:
    """`scaling.Read`."""

    window: Value
    observed: Value
    sums: Value
    newest: Value
    mean: Value
    unit: Value
    age: Value
    season: Value

    def within(self, g: Builder) -> "_Read":
        return _Read(*(cast(Value, part).within(g) for part in vars(self).values()))


def _global_graph(network: GlobalForecaster, precision: Precision) -> ExportedGraph:
    g = Builder()
    covariates = network.covariates
    features, known = 1 + len(covariates.sizes), len(covariates.known_ahead)
    horizon, levels = network.horizon, len(network.quantile_levels)
    observed = _observed(g)
    values = Value(g, "values", "float64")
    read, inputs = _read(g, network, values.take(0, axis=2), observed.take(0, axis=2))
    inputs += _encoded(covariates, (values, observed.to("float32")), range(len(covariates.sizes)), first=1)
    inputs += _known(g, covariates, "ahead")
    hidden = _layers(g, network, joined(inputs, axis=2), precision, SQUASH)

    end = Value(g, "lengths", "int64").unsqueeze(1) - 1
    last = Value(g, hidden.last, "float32").unsqueeze(1)
    far = np.arange(1, horizon + 1)
    found = _ask(network, last, hidden.precision, read, end, far, _known(g, covariates, "future", 1))
    found.reshape(-1, horizon, levels).called("quantiles")
    every = Port("one_step", "float64", ("T", levels))

    def one_step(b: Builder) -> str:
        x = Value(b, b.op("Transpose", hidden.every(b), perm=[1, 0, 2]), "float32")
        steps = _like(_steps(b).unsqueeze(0), read.newest)
        next_one = np.array([1])
        found = _ask(network, x, hidden.precision, read.within(b), steps, next_one, _known(b, covariates, "ahead", 2))
        return b.op("Squeeze", found.name, b.const([2]))

    if_wanted(g, every, one_step)
    state = []
    for name, (shape, dtype, initial) in network.scaler.state_shapes.items():
        kind = str(dtype).removeprefix("torch.")
        state.append((Port(name, kind, shape, initial), Port(f"{name}_out", kind, shape)))
    told = [Port("ahead", "float64", ("T", known)), Port("ahead_mask", "float32", ("T", known))]
    told += [Port("future", "float64", (horizon, known)), Port("future_mask", "float32", (horizon, known))]
    return finish(
        g,
        (
            Port("values", "float64", ("T", features)),
            Port("mask", "float32", ("T", features)),
            LENGTHS,
            PER_STEP,
            *(told if known else []),
        ),
        (Port("quantiles", "float64", (horizon, levels)), every),
        [*state, *hidden.state],
    )


def _encoded(
    covariates: Covariates, given: tuple[Value, Value], features: Iterable[int], first: int = 0
) -> list[Value]:
    """`Covariates._encoded` of values and their mask, the columns from `first` on; to be joined along the last axis."""
    parts = []
    g = given[0].g
    for column, i in enumerate(features):
        x, seen = (part.take([first + column], axis=-1) for part in given)
        if covariates.sizes[i]:
            hot = x.equal(_const(g, np.arange(covariates.sizes[i])))
            parts.append(hot.to("float32") * seen)
        else:
            scaled = _squash((x - float(covariates.location[i])) / float(covariates.scale[i]))
            parts.append(scaled.to("float32") * seen)
        parts.append(seen)
    return parts


def _known(g: Builder, covariates: Covariates, name: str, *axes: int) -> list[Value]:
    """What the graph is told of known-ahead features by the input of this name, with axes put in."""
    if not covariates.known_ahead:
        return []
    values, mask = Value(g, name, "float64"), Value(g, f"{name}_mask", "float32")
    if axes:
        values, mask = values.unsqueeze(*axes), mask.unsqueeze(*axes)
    return _encoded(covariates, (values, mask), covariates.known_ahead)


def _read(g: Builder, network: GlobalForecaster, values: Value, here: Value) -> tuple[_Read, list[Value]]:
    """`CausalScaler.forward`: what was found, and the network's inputs (B, T, I) float32; names the new state."""
    powers = _const(g, network.scaler.powers)

    def carried(name: str, dtype: str = "float64") -> Value:
        return Value(g, name, dtype)

    def flat(x: Value) -> Value:
        return Value(g, g.op("Squeeze", x.name, g.const([2])), x.dtype)

    def weight(count: Value) -> Value:
        power = powers.take(count.least(0.0).most(float(MAX_STEPS)).to("int64"), axis=0)
        one = Value(g, g.const(1.0), "float64")
        return ((one - power) / (1 - DECAY)).least(1.0)

    def running(name: str, x: Value, count: Value) -> Value:
        decay = powers.take(count.to("int64"), axis=0)
        return decay * (carried(name) + (x / decay).cumsum())

    x = (here > 0.0).where(values, 0.0)
    newest, previous, new = map(flat, _last_observed(g, x.unsqueeze(2), here.unsqueeze(2), carried("last")))
    count = carried("count") + new
    several_values = count >= 2.0
    change = ((here > 0.0) & several_values).where(x - previous, 0.0)
    inside = (_steps(g).unsqueeze(0) < Value(g, "lengths", "int64").unsqueeze(1)).to("float64")
    age = carried("age") + ((count > 0.0).to("float64") * inside).cumsum()

    window = joined([carried("recent"), newest], axis=1)
    observed = joined([carried("recent_observed", "uint8").to("float64"), here], axis=1)
    places = _const(g, np.arange(REGISTER))
    begun = joined([places >= carried("age") * -1.0 + REGISTER, count > 0.0], axis=1)
    sums = begun.where(window, 0.0).cumsum()
    sums = Value(g, g.op("Pad", sums.name, g.const([0, 1, 0, 0])), "float64")

    place = (_steps(g) + REGISTER).unsqueeze(0)
    season = carried("season", "int64")
    first, second = season.take([0], axis=1), season.take([1], axis=1)
    # One gather for all that is looked up: of each operator, most is its start.
    looked_up = [place - first, place + 1 - first, place + 1 - first * 2, place + 1 - second, place - second]
    index = joined([at.unsqueeze(2) for at in looked_up], axis=2)
    kept = index.least(0).reshape(0, -1)
    ago_known = (observed.gather(kept) * (index.reshape(0, -1) >= 0).to("float64")).reshape(0, -1, 5)
    ago = window.gather(kept).reshape(0, -1, 5)
    ago = (ago_known > 0.0).where(ago, newest.unsqueeze(2))

    both = here * ago_known.take(0, axis=2)
    season_change = (both > 0.0).where(x - ago.take(0, axis=2), 0.0)
    season_new = both.cumsum()
    season_count = carried("season_count") + season_new
    change_sum = running("change_sum", change.abs(), new)
    season_sum = running("season_sum", season_change.abs(), season_new)
    mean_sum = running("mean_sum", x, new)
    mean = mean_sum / weight(count)
    scale = several_values.where(change_sum / weight(count - 1.0), newest.abs())
    season_scale = (season_count >= 3.0).where(season_sum / weight(season_count), scale)
    around = newest.abs()
    rounding = (scale > 0.0).where(around * ROUNDING_UNIT, around * CONSTANT_UNIT)
    unit = scale.most(season_scale.least(scale / 20.0)).least(rounding) + LEAST_UNIT

    read = _Read(window, observed, sums, newest, mean, unit, age, season)
    everywhere = _like(place, newest)
    level, before, _ = _levels(read, everywhere, newest, age)
    several = (second > 1).to("float64")
    next_known = ago_known.take([1, 2, 3], axis=2)
    one = Value(g, g.const(1.0), "float64")
    some = joined([_like(one, several), _like(one, several), several], axis=1).unsqueeze(1)
    apart = ago - newest.unsqueeze(2)
    in_units = [
        *(part.unsqueeze(2) for part in (newest - mean, level, before, change)),
        apart.take([0], axis=2) * -1.0,
        apart.take([1, 2, 3], axis=2) * some,
        apart.take([4], axis=2) * -1.0 * several.unsqueeze(2),
    ]
    size = mean.abs() + unit
    m = _like(first.to("float64"), newest)
    shares = [
        here,
        *((next_known * some).take(i, axis=2) for i in range(3)),
        _like(several, newest),
        mean / size,
        unit / size,
        unit / (unit + size * 0.1),
        unit / (unit + size * 0.01),
        scale / (scale + season_scale + 1e-30),
        count / (count + 5.0),
        count / (count + 40.0),
        count / (count + m * 3.0),
        one / m,
        m / (m + 12.0),
        newest.equal(0.0).to("float64"),
        m / (m + 60.0),
    ]
    in_units = [_squash(joined(in_units, axis=2) / unit.unsqueeze(2))]
    inputs = joined([*in_units, *(share.unsqueeze(2) for share in shares)], axis=2).to("float32")

    season.called("season_out")
    for name, value in (
        ("last", newest),
        ("count", count),
        ("age", age),
        ("mean_sum", mean_sum),
        ("change_sum", change_sum),
        ("season_count", season_count),
        ("season_sum", season_sum),
    ):
        value.take([-1], axis=1).called(f"{name}_out")
    # The register up to each row's own end.
    end = Value(g, "lengths", "int64").unsqueeze(1) + _const(g, np.arange(REGISTER), "int64")
    window.gather(end).called("recent_out")
    observed.gather(end).to("uint8").called("recent_observed_out")
    return read, [inputs]


def _like(x: Value, shape: Value) -> Value:
    """x in the shape of another tensor."""
    size = x.g.op("Shape", shape.name)
    return Value(x.g, x.g.op("Expand", x.name, size), x.dtype)


def _levels(read: _Read, at: Value, newest: Value, age: Value) -> list[Value]:
    """`CausalScaler._levels` at places `at` (B, P), where newest and age are those there."""
    m = read.season.take([0], axis=1)
    ends = [(at + 1 - m * lag).least(0) for lag in range(4)]
    sums = [read.sums.gather(end) for end in ends]
    found: list[Value] = []
    for lag in range(3):
        size = m.to("float64")
        seen = (age - size * float(lag)).most(size)
        mean = (sums[lag] - sums[lag + 1]) / seen.least(1.0) - newest
        enough = (seen >= 1.0) & (m * (lag + 1) <= REGISTER)
        found.append(enough.where(mean, found[-1] if found else 0.0))
    return found


def _ask(
    network: GlobalForecaster,
    hidden: Value,
    precision: Precision,
    read: _Read,
    steps: Value,
    ahead: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    future: Sequence[Value],
) -> Value:
    """`GlobalForecaster.ask`, in the units of the series: hidden (B, P, hidden) at `steps` (B, P), the features known
    of the future (B, P, H, ...) -> quantiles (B, P, H, Q) in float64."""
    g = hidden.g
    candidates, features, newest, unit = _candidates(read, steps, ahead)
    features = joined([features, *future], axis=3)

    def product(x: Value, weight: Tensor, bias: Tensor | None) -> Value:
        made = Value(g, g.op("MatMul", x.name, g.const(weight.T)), "float32")
        return made if bias is None else made + Value(g, g.const(bias), "float32")

    from_hidden = network.from_hidden
    at = Value(g, linear(g, hidden.name, from_hidden.weight, from_hidden.bias, precision), "float32")
    rows = network.from_ahead[ahead - 1]
    x = product(features, network.from_features.weight, None) + at.unsqueeze(2) + Value(g, g.const(rows), "float32")
    x = x.least(0.0)
    x = x + product(x, network.between.weight, network.between.bias).least(0.0)
    found = product(x, network.head.weight, network.head.bias)
    levels = len(network.quantile_levels)
    weights, median, width, steps_apart = (
        Value(g, name, "float32")
        for name in g.ops("Split", found.name, g.const([CANDIDATES, 1, 1, levels - 1]), names=[None] * 4, axis=3)
    )
    # A running sum: a ReduceSum would round by where in memory a row happens to lie.
    shares = Value(g, g.op("Softmax", weights.name, axis=-1), "float32")
    median = median + (shares * candidates).cumsum(axis=3).take([-1], axis=3)
    apart = _positive(width) * network.widening * _positive(steps_apart)
    middle = network.quantile_levels.index(0.5)
    quantiles = [median]
    if middle:
        below = apart.take(list(range(middle)), axis=3).cumsum(axis=3, reverse=True)
        quantiles.insert(0, median - below)
    if levels - 1 - middle:
        quantiles.append(median + apart.take(list(range(middle, levels - 1)), axis=3).cumsum(axis=3))
    whole = joined(quantiles, axis=3).to("float64")
    return newest.unsqueeze(2, 3) + (unit - LEAST_UNIT).unsqueeze(2, 3) * whole


def _candidates(
    read: _Read, steps: Value, ahead: "np.ndarray[tuple[int], np.dtype[np.int64]]"
) -> tuple[Value, Value, Value, Value]:
    """`CausalScaler.candidates`; also the newest value and the unit at the steps (B, P)."""
    g, count = steps.g, len(ahead)
    newest, mean, unit, age = (part.gather(steps) for part in (read.newest, read.mean, read.unit, read.age))
    at = steps + REGISTER
    first, second = (read.season.take([i], axis=1).unsqueeze(1) for i in (0, 1))
    h = _const(g, ahead, "int64")
    whole = at.unsqueeze(2) + h
    periods, longer_periods = ((h + season - 1) / season for season in (first, second))
    places = [whole - first * (periods + lag) for lag in range(3)]
    places += [whole - second * (longer_periods + lag) for lag in range(2)]
    place = joined([one.unsqueeze(3) for one in places], axis=3)
    index = place.reshape(0, -1)
    kept = index.least(0)
    one = Value(g, g.const(1.0), "float64")
    some = (second > 1).to("float64")
    some = joined([_like(one, some)] * 3 + [some] * 2, axis=2).unsqueeze(1)
    known = (read.observed.gather(kept) * (index >= 0).to("float64")).reshape(0, -1, count, 5) * some
    base = newest.unsqueeze(2, 3)
    values = (known > 0.0).where(read.window.gather(kept).reshape(0, -1, count, 5) - base, 0.0)

    level, before, earlier = (part.unsqueeze(2, 3) for part in _levels(read, at, newest, age))
    steps_ahead = _const(g, ahead.astype(float)[:, None])
    now, then = level + base, before + base
    similar = (now * then > 0.0) & (now.abs() < then.abs() * 4.0) & (then.abs() < now.abs() * 4.0)
    ratio = similar.where(now / then, 1.0)
    first_value, second_value = (values.take([lag], axis=3) for lag in (0, 1))
    has_first, has_second = (known.take([lag], axis=3) > 0.0 for lag in (0, 1))
    grown = has_first.where((first_value + base) * ratio - base, 0.0)
    growth = has_first.where(level - before, 0.0)
    growth_of_two = has_second.where(level - earlier, 0.0)
    recent = [(age > float(lag)).where(read.window.gather(at - lag) - newest, 0.0) for lag in (1, 2, 3, 6)]
    recent = [_like(part.unsqueeze(2, 3), grown) for part in recent]
    possible = [
        grown * 0.0,
        values,
        first_value + growth,
        second_value + growth_of_two,
        first_value + growth * 2.0,
        grown,
        _like(level, grown),
        _like((mean - newest).unsqueeze(2, 3), grown),
        recent[3] * (steps_ahead / -6.0),
    ]
    found = joined([*possible, *recent[:3]], axis=3) / unit.unsqueeze(2, 3)
    size, times = first.to("float64"), periods.to("float64")
    phase = (_const(g, ahead.astype(float)) - (times - 1.0) * size) / size
    more = [_like((one / times).unsqueeze(3), grown), _like(phase.unsqueeze(3), grown)]
    features = joined([_squash(found), known, *more], axis=3).to("float32")
    limited = g.op("Clip", found.take(list(range(CANDIDATES)), axis=3).name, g.const(-LAG_LIMIT), g.const(LAG_LIMIT))
    return Value(g, limited, "float64").to("float32"), features, newest, unit
