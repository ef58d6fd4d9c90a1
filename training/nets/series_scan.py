"""What a forecaster of any series finds in one pass over it: causally, so that a series may come in pieces.

Each series is read in its own running units. All of it is double precision, so that neither a large offset nor a long
life of a session costs digits. Written once, over a backend (`arithmetic.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from training.nets.arithmetic import SQUASH, Backend, squash
from training.nets.scaling import MAX_STEPS, last_observed

REGISTER = 744
"""Values that a series carries: two years of days, a month of hours."""
PATCH = 4
"""Values that the recurrent layers read in one step."""
DECAY = 0.99
"""Per observed value: mean and scale look back over about 1 / (1 - DECAY) = 100 values."""
LAG_DECAYS = (1.0, 0.98)
"""Per step, of the sums of each lag: all that was seen, and what is recent."""
ROUNDING_UNIT = 1e-14
"""Changes smaller than that, in a series' own values, are rounding errors of doubles."""
LEAST = 1e-30
"""Added where a divisor may be 0, and of a unit the least. ONNX Runtime takes the sum with a smaller one away."""
LONGEST = 4096
"""Of a count of values; more weigh the same."""


def _lags() -> list[int]:
    """Each of up to 64, then fewer, with the usual seasons and their multiples."""
    some = {*range(1, 65), *range(68, 129, 4), *range(136, 257, 8), *range(280, 361, 16), *range(70, 120, 7)}
    some |= {78, 90, 91, 104, 130, 156, 182, 183, 208, 175, 189, 203, 252, 260, 261, 264, 288, 312, 336}
    return sorted(some | {357, 360, 364, 365, 366, 371})


LAGS = np.array(_lags())
STEP_INPUTS = 3
"""Of each value, what the recurrent layers read of the target, and"""
SHARES = 17
"""of each patch."""

Array = Any
"""A tensor of the backend."""


def share(x: Array, y: Array) -> Array:
    """How much of x + y, neither of them negative, x is; 0 if both are."""
    return x / (x + y + LEAST)


@dataclass(frozen=True)
class Scan:
    """What one pass over a series found. window (B, R + T): the values with gaps filled forward, those carried
    first; sums (B, R + T + 1): its running sums. Of each step (B, T): the newest value, the running mean, the unit,
    how many steps have passed since the first value and since the newest one, whether all values were whole numbers
    of at least 0. missed (B, T, RULES): by how much each of `by_rules` missed the values so far. differences (B, T,
    K): between the newest value and those each lag ago, 0 where there are none. lag_sums, lag_squares (B, 2, K):
    before the first step. shares (B, T, S) and steps (B, T, I), float32: what the recurrent layers read, I of each
    value. held, leading (B, 1): values of an open patch, and steps before the first value. season (B, 2): what is
    told."""

    window: Array
    sums: Array
    newest: Array
    mean: Array
    unit: Array
    missed: Array
    age: Array
    gap: Array
    whole: Array
    differences: Array
    lag_sums: Array
    lag_squares: Array
    shares: Array
    steps: Array
    held: Array
    leading: Array
    season: Array

    def mapped(self, change: Any) -> "Scan":
        """With each tensor changed."""
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})


RULES = 3
FIGURES = ("last", "count", "age", "last_age", "mean_sum", "change_sum", "uneven")
MISSED = ("line_sum", "parabola_sum", "growth_sum")


def state_shapes(step_inputs: int) -> dict[str, tuple[tuple[int, ...], str, int]]:
    """Name -> shape per sequence, type and initial value of the state tensors, but for the recurrent layers'."""
    sums = ((len(LAG_DECAYS), len(LAGS)), "float64", 0)
    return {
        "season": ((2,), "int64", 1),
        **dict.fromkeys((*FIGURES, *MISSED), ((1,), "float64", 0)),
        "recent": ((REGISTER,), "float64", 0),
        "lag_sums": sums,
        "lag_squares": sums,
        "open": ((PATCH - 1, step_inputs), "float32", 0),
    }


def scan(f: Backend[Any], values: Array, here: Array, state: Mapping[str, Array]) -> tuple[Scan, dict[str, Array]]:
    """values (B, T) and where they are observed, 1 or 0, both float64 -> what was found, and of each step (B, T) the
    figures that are carried."""
    x = f.where(here > 0.0, values, 0.0)
    newest, previous, rank = last_observed(f, x, here, state["last"])
    count = state["count"] + f.cast(rank, "float64")
    age = state["age"] + f.cumsum(f.cast(count > 0.0, "float64"), 1)
    last_age, _, _ = last_observed(f, age, here, state["last_age"])
    window = f.join([state["recent"], newest], 1)
    sums = f.cumsum(f.join([state["last"] * 0.0, window], 1), 1)
    observed_change = here * f.cast(count >= 2.0, "float64")
    change = f.where(observed_change > 0.0, x - previous, 0.0)
    errors = [f.absolute(newest - predicted) for predicted in by_rules(f, window)]
    decay = f.take(f.constant(DECAY ** np.arange(MAX_STEPS + 1), "float64"), rank, 0)
    weights = f.constant(np.maximum(1.0, (1 - DECAY ** np.arange(LONGEST)) / (1 - DECAY)), "float64")

    def running(carried: Array, y: Array) -> Array:
        return decay * (carried + f.cumsum(y / decay, 1))

    def weight(n: Array) -> Array:
        return f.take(weights, f.cast(f.minimum(f.maximum(n, 0.0), LONGEST - 1.0), "int64"), 0)

    mean_sum = running(state["mean_sum"], x)
    change_sum = running(state["change_sum"], f.absolute(change))
    missed_sums = [
        running(state[name], f.where(here * f.cast(age >= least, "float64") > 0.0, error, 0.0))
        for name, least, error in zip(MISSED, LEAST_AGES, errors, strict=True)
    ]
    mean = mean_sum / weight(count)
    around = f.absolute(newest)
    # After one value, its size stands in for the scale.
    scale = f.where(count >= 2.0, change_sum / weight(count - 1.0), around)
    # Of a series that never changed: a part of its size, and soon next to nothing. Of zeros there is none.
    often = f.maximum(count * count, 1.0)
    still = 0.1 * around / (often * often * often)
    unit = f.maximum(f.where(scale > 0.0, f.maximum(scale, ROUNDING_UNIT * around), still), LEAST)
    missed = [
        f.minimum(total / weight(count - (least - 1.0)), 4.0 * unit)
        for total, least in zip(missed_sums, LEAST_AGES, strict=True)
    ]
    size = f.absolute(mean) + unit
    odd = f.where(here * f.cast(f.maximum(f.absolute(x - f.floor(x)), -1.0 * x) > 0.0, "float64") > 0.0, here, 0.0)
    uneven = state["uneven"] + f.cumsum(odd, 1)
    whole = f.where(uneven > 0.0, 0.0 * uneven, 1.0)
    deviation, changed = squash((newest - mean) / unit, f), squash(change / unit, f)
    shares = [
        share(f.absolute(mean), unit),
        share(unit, 0.1 * size),
        share(unit, 0.01 * size),
        *(share(size, part * unit) for size in missed for part in (1.0, 0.05)),
        count / (count + 3.0),
        count / (count + 12.0),
        count / (count + 60.0),
        count / f.maximum(age, 1.0),
        f.where(newest > 0.0, 0.0 * newest, f.where(newest < 0.0, 0.0 * newest, 1.0)),
        whole,
        deviation / SQUASH,
        changed / SQUASH,
    ]
    lags = f.constant(LAGS.astype(np.float64), "float64")
    ago = f.take(window, f.expand(f.steps(x, 1), 1) + f.constant(REGISTER - LAGS, "int64"), 1)
    differences = f.where(f.expand(age, 2) > lags, f.expand(newest, 2) - ago, 0.0)
    found = Scan(
        window=window,
        sums=sums,
        newest=newest,
        mean=mean,
        unit=unit,
        missed=f.join([f.expand(part, 2) for part in missed], 2),
        age=age,
        gap=age - last_age,
        whole=whole,
        differences=differences,
        lag_sums=state["lag_sums"],
        lag_squares=state["lag_squares"],
        shares=_stacked(f, shares),
        steps=_stacked(f, [changed, deviation, here]),
        held=f.cast(state["age"], "int64") % PATCH,
        leading=f.total(f.cast(f.where(age > 0.0, 0.0 * age, 1.0), "int64"), 1),
        season=state["season"],
    )
    figures = (newest, count, age, last_age, mean_sum, change_sum, uneven, *missed_sums)
    carried = dict(zip((*FIGURES, *MISSED), figures, strict=True))
    return found, carried


LEAST_AGES = (3.0, 4.0, 3.0)
"""How many values there must be for a rule to have been tried."""


def by_rules(f: Backend[Any], window: Array) -> list[Array]:
    """What each value (B, T) would be as the next one of a line, of a parabola, and of growth by a factor, through
    those before it; growth between values of other signs, or by more than a factor of nearly five, is none."""
    x, y, z = (f.cut(window, 1, REGISTER - k, -k) for k in (1, 2, 3))
    size = f.maximum(f.absolute(x), f.absolute(y)) * 0.21
    grows = f.cast(x * y > 0.0, "float64") * f.cast(f.minimum(f.absolute(x), f.absolute(y)) > size, "float64")
    growth = f.where(grows > 0.0, x * (x / f.where(grows > 0.0, y, 1.0)), x)
    return [2.0 * x - y, 3.0 * (x - y) + z, growth]


def rows_of(f: Backend[Any], x: Array, index: Array, width: int) -> Array:
    """x (B, T, width), index (B, P) -> (B, P, width)."""
    places = f.expand(index, 2) * width + f.constant(np.arange(width), "int64")
    found: Array = f.gather(f.reshape(x, 0, -1), places)
    return found


def _stacked(f: Backend[Any], parts: Sequence[Array]) -> Array:
    """(B, T) each -> (B, T, n) float32."""
    return f.cast(f.join([f.expand(part, 2) for part in parts], 2), "float32")


def lag_figures(f: Backend[Any], found: Scan, at: Array) -> tuple[Array, Array]:
    """The decayed sums of the differences at each lag, and of their squares, after each of the steps `at` (B, P):
    (B, P, 2 K) each, the lags side by side for each decay."""
    passed = f.expand(at, 2) - f.reshape(f.steps(found.newest, 1), 1, 1, -1)
    seen = f.cast(passed >= 0, "float64")
    passed = f.maximum(passed, 0)
    squared = found.differences * found.differences
    sums: list[Array] = []
    squares: list[Array] = []
    for d, rate in enumerate(LAG_DECAYS):
        powers = f.constant(rate ** np.arange(MAX_STEPS + 1), "float64")
        weights = f.take(powers, passed, 0) * seen
        left = f.expand(f.take(powers, at + 1, 0), 2)
        for figures, each, before in ((sums, found.differences, found.lag_sums), (squares, squared, found.lag_squares)):
            figures.append(f.matmul(weights, each) + left * f.cut(before, 1, d, d + 1))
    return f.join(sums, 2), f.join(squares, 2)


def patches(f: Backend[Any], found: Scan, opened: Array, step_inputs: int) -> Array:
    """What the recurrent layers read, (B, N, ...): the values in patches from the first one on, those of `opened`
    (B, PATCH - 1, step_inputs) before them, with the shares at the end of each. Beyond the last, anything."""
    every = f.join([opened, found.steps], 1)
    count = f.steps(every, 1)
    last = f.largest(count, 0)
    first = PATCH - 1 - found.held + found.leading  # where the first patch begins in `every`
    starts = first + f.reshape(f.cut(count, 0, 0, None, PATCH), 1, -1)
    places = f.minimum(f.expand(starts, 2) + f.constant(np.arange(PATCH), "int64"), last)
    read = f.reshape(rows_of(f, every, f.reshape(places, 0, -1), step_inputs), 0, -1, PATCH * step_inputs)
    ends = f.minimum(starts + (PATCH - 1), last) - (PATCH - 1)
    return f.join([read, rows_of(f, found.shares, f.maximum(ends, 0), SHARES)], 2)


def read_so_far(found: Scan, at: Array, f: Backend[Any]) -> Array:
    """Values from the beginning of the patch that was open before the first step, up to each of the steps `at`
    (B, P)."""
    return f.maximum(at + found.held - found.leading + 1, 0)


def open_patch(f: Backend[Any], found: Scan, opened: Array, at: Array, step_inputs: int) -> Array:
    """The values that belong to no whole patch yet, after each of the steps `at` (B, P), each with a flag that it does:
    (B, P, (PATCH - 1) * (step_inputs + 1)) float32."""
    every = f.join([opened, found.steps], 1)
    back = f.constant(np.arange(PATCH - 2, -1, -1), "int64")
    places = f.expand(at + (PATCH - 1), 2) - back
    read = f.reshape(rows_of(f, every, f.reshape(places, 0, -1), step_inputs), 0, -1, PATCH - 1, step_inputs)
    left = f.expand(read_so_far(found, at, f) % PATCH, 2)
    belongs = f.expand(f.cast(left > back, "float32"), 3)
    return f.reshape(f.join([read * belongs, belongs], 3), 0, -1, (PATCH - 1) * (step_inputs + 1))


def state_after(
    f: Backend[Any],
    found: Scan,
    carried: Mapping[str, Array],
    end: Array,
    state: Mapping[str, Array],
    step_inputs: int,
) -> dict[str, Array]:
    """The state after each row's last step, `end` (B, 1), but for that of the recurrent layers."""
    after = {name: f.along(part, end) for name, part in carried.items()}
    sums, squares = (f.reshape(part, 0, len(LAG_DECAYS), len(LAGS)) for part in lag_figures(f, found, end))
    back = f.constant(np.arange(REGISTER - 1, -1, -1).reshape(1, 1, -1), "int64")
    recent = f.gather(found.window, f.expand(end + REGISTER, 2) - back)
    every = f.join([state["open"], found.steps], 1)
    opened = rows_of(f, every, end + f.constant(np.arange(1, PATCH).reshape(1, -1), "int64"), step_inputs)
    return {
        **after,
        "season": found.season,
        "recent": f.reshape(recent, 0, -1),
        "lag_sums": sums,
        "lag_squares": squares,
        "open": opened,
    }
