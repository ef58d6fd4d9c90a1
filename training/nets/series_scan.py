"""One pass over a series: its running level, unit and sums by lag. Causal, so that a series may come in pieces.

All of it is in double precision, so that neither a large offset nor a long session costs digits. Written once, over a
backend (`arithmetic.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from training.nets.arithmetic import SQUASH, Array, Backend, squash
from training.nets.scaling import MAX_STEPS, fill_forward

REGISTER = 744
"""Values that a series carries: two years of days, a month of hours."""
RECENT = 3
"""Values that a series must carry for its level alone: those that `by_rules` reads."""
PATCH = 4
"""Values that the recurrent layers read in one step."""
DECAY = 0.99
"""Per observed value: mean and scale look back over about 1 / (1 - DECAY) = 100 values."""
LAG_DECAYS = (1.0, 0.98)
"""Per step, of the sums of each lag: all values so far, and recent values."""
ROUNDING_UNIT = 1e-14
"""Relative to the values: smaller changes are rounding errors of doubles."""
TINY = 1e-30
"""The smallest unit, and what is added where a divisor may be 0. ONNX Runtime removes a sum with a smaller number."""
MAX_COUNT = 4096
"""Counts of values beyond this weigh the same."""


def _lags() -> list[int]:
    """All up to 64, then fewer, with the usual seasons and their multiples."""
    lags = {*range(1, 65), *range(68, 129, 4), *range(136, 257, 8), *range(280, 361, 16), *range(70, 120, 7)}
    lags |= {78, 90, 91, 104, 130, 156, 182, 183, 208, 175, 189, 203, 252, 260, 261, 264, 288, 312, 336}
    return sorted(lags | {357, 360, 364, 365, 366, 371})


LAGS = np.array(_lags())
STEP_INPUTS = 3
"""What the recurrent layers read of each value of the target."""
SHARES = 17
"""What they read of each patch beside its values."""


def share(x: Array, y: Array) -> Array:
    """How much of x + y, neither of them negative, x is; 0 if both are."""
    return x / (x + y + TINY)


@dataclass(frozen=True)
class Level:
    """The level of a series at each step, and what the recurrent layers read of it.

    window (B, R + T): the values with gaps filled forward, after the R values of the register. newest, mean, unit, age,
    gap, whole (B, T): at each step the newest value, the running mean, the unit, the steps since the first value and
    since the newest one, and 1 if all values were whole numbers of at least 0. missed (B, T, RULES): the running error
    of each of `by_rules`. shares (B, T, S), steps (B, T, I), float32: what the recurrent layers read. held, leading (B,
    1): values of the open patch, and steps before the first value.
    """

    window: Array
    newest: Array
    mean: Array
    unit: Array
    missed: Array
    age: Array
    gap: Array
    whole: Array
    shares: Array
    steps: Array
    held: Array
    leading: Array

    def mapped(self, change: Any) -> Self:
        """The same of the changed tensors."""
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class Scan(Level):
    """The figures of one pass over a series: its level, and sums by lag.

    sums (B, R + T + 1): the running sums of `window`. differences (B, T, K): between the newest value and the value
    each lag ago, 0 where there is none. lag_sums, lag_squares (B, 2, K): before the first step. season (B, 2): the
    caller's hint.
    """

    sums: Array
    differences: Array
    lag_sums: Array
    lag_squares: Array
    season: Array


RULES = 3
FIGURES = ("last", "count", "age", "last_age", "mean_sum", "change_sum", "uneven")
MISSED = ("line_sum", "parabola_sum", "growth_sum")
Shapes = dict[str, tuple[tuple[int, ...], str, int]]
"""Name -> shape per sequence, type and initial value of a state tensor."""


def state_shapes(step_inputs: int) -> Shapes:
    """The state tensors of a forecaster of any series, without the recurrent layers'."""
    sums = ((len(LAG_DECAYS), len(LAGS)), "float64", 0)
    level = level_shapes(step_inputs, REGISTER)
    opened = level.pop("open")
    return {"season": ((2,), "int64", 1), **level, "lag_sums": sums, "lag_squares": sums, "open": opened}


def level_shapes(step_inputs: int, register: int = RECENT) -> Shapes:
    """As `state_shapes`, of the level alone."""
    return {
        **dict.fromkeys((*FIGURES, *MISSED), ((1,), "float64", 0)),
        "recent": ((register,), "float64", 0),
        "open": ((PATCH - 1, step_inputs), "float32", 0),
    }


Running = Callable[[Sequence[Array], Sequence[Array]], list[Array]]
"""Sums before the first step (B, 1) and what each step adds (B, T), 0 where nothing is observed -> the sums after each
step, which decay by DECAY per observed value."""


def scan_series(
    f: Backend[Any], values: Array, observed: Array, state: Mapping[str, Array]
) -> tuple[Scan, dict[str, Array]]:
    """values (B, T) and where they are observed, 1 or 0, both float64 -> the scan, and the figures of the state after
    each step (B, T)."""
    level, carried = scan_level(f, values, observed, state, REGISTER)
    sums = f.cumsum(f.concat([state["last"] * 0.0, level.window], 1), 1)
    lags = f.constant(LAGS.astype(np.float64), "float64")
    index = f.unsqueeze(f.positions(level.newest, 1), 1) + f.constant(REGISTER - LAGS, "int64")
    ago = f.take(level.window, index, 1)
    differences = f.where(f.unsqueeze(level.age, 2) > lags, f.unsqueeze(level.newest, 2) - ago, 0.0)
    scan = Scan(
        **{field.name: getattr(level, field.name) for field in fields(level)},
        sums=sums,
        differences=differences,
        lag_sums=state["lag_sums"],
        lag_squares=state["lag_squares"],
        season=state["season"],
    )
    return scan, carried


def scan_level(
    f: Backend[Any],
    values: Array,
    observed: Array,
    state: Mapping[str, Array],
    register: int = RECENT,
    running: Running | None = None,
) -> tuple[Level, dict[str, Array]]:
    """As `scan_series`, of the level alone; register: values in state["recent"]. running: how decayed sums are taken,
    `decayed_sums` if None."""
    x = f.where(observed > 0.0, values, 0.0)
    newest, previous, rank = fill_forward(f, x, observed, state["last"])
    count = state["count"] + f.cast(rank, "float64")
    age = state["age"] + f.cumsum(f.cast(count > 0.0, "float64"), 1)
    last_age, _, _ = fill_forward(f, age, observed, state["last_age"])
    window = f.concat([state["recent"], newest], 1)
    observed_change = observed * f.cast(count >= 2.0, "float64")
    change = f.where(observed_change > 0.0, x - previous, 0.0)
    errors = [
        f.where(observed * f.cast(age >= min_age, "float64") > 0.0, f.abs(newest - predicted), 0.0)
        for predicted, min_age in zip(by_rules(f, window, register), RULE_AGES, strict=True)
    ]
    weights = f.constant(np.maximum(1.0, (1 - DECAY ** np.arange(MAX_COUNT)) / (1 - DECAY)), "float64")

    def weight(n: Array) -> Array:
        return f.take(weights, f.cast(f.minimum(f.maximum(n, 0.0), MAX_COUNT - 1.0), "int64"), 0)

    decaying = ("mean_sum", "change_sum", *MISSED)
    added = [x, f.abs(change), *errors]
    before = [state[name] for name in decaying]
    mean_sum, change_sum, *missed_sums = running(before, added) if running else decayed_sums(f, rank, before, added)
    mean = mean_sum / weight(count)
    around = f.abs(newest)
    # After one value, its size stands for the scale.
    scale = f.where(count >= 2.0, change_sum / weight(count - 1.0), around)
    # The unit of a constant series is a share of its size that soon vanishes; zeros have none.
    often = f.maximum(count * count, 1.0)
    still = 0.1 * around / (often * often * often)
    unit = f.maximum(f.where(scale > 0.0, f.maximum(scale, ROUNDING_UNIT * around), still), TINY)
    missed = [
        f.minimum(total / weight(count - (min_age - 1.0)), 4.0 * unit)
        for total, min_age in zip(missed_sums, RULE_AGES, strict=True)
    ]
    size = f.abs(mean) + unit
    odd = f.where(observed * f.cast(f.maximum(f.abs(x - f.floor(x)), -1.0 * x) > 0.0, "float64") > 0.0, observed, 0.0)
    uneven = state["uneven"] + f.cumsum(odd, 1)
    whole = f.where(uneven > 0.0, 0.0 * uneven, 1.0)
    deviation, changed = squash((newest - mean) / unit, f), squash(change / unit, f)
    shares = [
        share(f.abs(mean), unit),
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
    level = Level(
        window=window,
        newest=newest,
        mean=mean,
        unit=unit,
        missed=f.concat([f.unsqueeze(part, 2) for part in missed], 2),
        age=age,
        gap=age - last_age,
        whole=whole,
        shares=_stacked(f, shares),
        steps=_stacked(f, [changed, deviation, observed]),
        held=f.cast(state["age"], "int64") % PATCH,
        leading=f.sum(f.cast(f.where(age > 0.0, 0.0 * age, 1.0), "int64"), 1),
    )
    figures = (newest, count, age, last_age, mean_sum, change_sum, uneven, *missed_sums)
    carried = dict(zip((*FIGURES, *MISSED), figures, strict=True))
    return level, carried


def decayed_sums(f: Backend[Any], rank: Array, before: Sequence[Array], added: Sequence[Array]) -> list[Array]:
    """As `Running`, of all steps at once; where a series is cut, the sums round differently. rank (B, T): the count of
    observed values, at most MAX_STEPS."""
    decay = f.take(f.constant(DECAY ** np.arange(MAX_STEPS + 1), "float64"), rank, 0)
    return [decay * (carried + f.cumsum(y / decay, 1)) for carried, y in zip(before, added, strict=True)]


RULE_AGES = (3.0, 4.0, 3.0)
"""Values that each rule needs."""


def by_rules(f: Backend[Any], window: Array, register: int) -> list[Array]:
    """Predictions of each value (B, T) from the values before it: by a line, a parabola, and growth by a factor. Values
    of different signs, or that differ by a factor of nearly five, do not grow. window (B, register + T)."""
    x, y, z = (f.slice(window, 1, register - k, -k) for k in (1, 2, 3))
    size = f.maximum(f.abs(x), f.abs(y)) * 0.21
    grows = f.cast(x * y > 0.0, "float64") * f.cast(f.minimum(f.abs(x), f.abs(y)) > size, "float64")
    growth = f.where(grows > 0.0, x * (x / f.where(grows > 0.0, y, 1.0)), x)
    return [2.0 * x - y, 3.0 * (x - y) + z, growth]


def rows_of(f: Backend[Any], x: Array, index: Array, width: int) -> Array:
    """x (B, T, width), index (B, P) -> (B, P, width)."""
    elements = f.unsqueeze(index, 2) * width + f.constant(np.arange(width), "int64")
    rows: Array = f.gather(f.reshape(x, 0, -1), elements)
    return rows


def _stacked(f: Backend[Any], parts: Sequence[Array]) -> Array:
    """(B, T) each -> (B, T, n) float32."""
    return f.cast(f.concat([f.unsqueeze(part, 2) for part in parts], 2), "float32")


def lag_figures(f: Backend[Any], scan: Scan, at: Array) -> tuple[Array, Array]:
    """The decayed sums of the differences at each lag, and of their squares, after each of the steps `at` (B, P):
    (B, P, 2 K) each, the lags side by side for each decay."""
    passed = f.unsqueeze(at, 2) - f.reshape(f.positions(scan.newest, 1), 1, 1, -1)
    seen = f.cast(passed >= 0, "float64")
    passed = f.maximum(passed, 0)
    squared = scan.differences * scan.differences
    sums: list[Array] = []
    squares: list[Array] = []
    for d, rate in enumerate(LAG_DECAYS):
        powers = f.constant(rate ** np.arange(MAX_STEPS + 1), "float64")
        weights = f.take(powers, passed, 0) * seen
        left = f.unsqueeze(f.take(powers, at + 1, 0), 2)
        for figures, each, before in ((sums, scan.differences, scan.lag_sums), (squares, squared, scan.lag_squares)):
            figures.append(f.matmul(weights, each) + left * f.slice(before, 1, d, d + 1))
    return f.concat(sums, 2), f.concat(squares, 2)


def patches(f: Backend[Any], scan: Level, opened: Array, step_inputs: int) -> Array:
    """What the recurrent layers read, (B, N, ...): the values in patches, each with the shares at its end; first those
    of the open patch, `opened` (B, PATCH - 1, step_inputs). Past the last patch the numbers mean nothing."""
    every = f.concat([opened, scan.steps], 1)
    count = f.positions(every, 1)
    last = f.max(count, 0)
    first = PATCH - 1 - scan.held + scan.leading  # where the first patch begins in `every`
    starts = first + f.reshape(f.slice(count, 0, 0, None, PATCH), 1, -1)
    steps = f.minimum(f.unsqueeze(starts, 2) + f.constant(np.arange(PATCH), "int64"), last)
    values = f.reshape(rows_of(f, every, f.reshape(steps, 0, -1), step_inputs), 0, -1, PATCH * step_inputs)
    ends = f.minimum(starts + (PATCH - 1), last) - (PATCH - 1)
    return f.concat([values, rows_of(f, scan.shares, f.maximum(ends, 0), SHARES)], 2)


def read_so_far(scan: Level, at: Array, f: Backend[Any]) -> Array:
    """Count of values from the start of the patch that was open before the first step, up to each of the steps `at` (B,
    P)."""
    return f.maximum(at + scan.held - scan.leading + 1, 0)


def open_patch(f: Backend[Any], scan: Level, opened: Array, at: Array, step_inputs: int) -> Array:
    """The values of the open patch after each of the steps `at` (B, P), each with a flag that is 0 past the last one:
    (B, P, (PATCH - 1) * (step_inputs + 1)) float32."""
    every = f.concat([opened, scan.steps], 1)
    back = f.constant(np.arange(PATCH - 2, -1, -1), "int64")
    steps = f.unsqueeze(at + (PATCH - 1), 2) - back
    values = f.reshape(rows_of(f, every, f.reshape(steps, 0, -1), step_inputs), 0, -1, PATCH - 1, step_inputs)
    left = f.unsqueeze(read_so_far(scan, at, f) % PATCH, 2)
    belongs = f.unsqueeze(f.cast(left > back, "float32"), 3)
    return f.reshape(f.concat([values * belongs, belongs], 3), 0, -1, (PATCH - 1) * (step_inputs + 1))


def state_after(
    f: Backend[Any],
    scan: Scan,
    carried: Mapping[str, Array],
    end: Array,
    state: Mapping[str, Array],
    step_inputs: int,
) -> dict[str, Array]:
    """The state after each row's last step, `end` (B, 1), without the recurrent layers'."""
    sums, squares = (f.reshape(part, 0, len(LAG_DECAYS), len(LAGS)) for part in lag_figures(f, scan, end))
    level = level_after(f, scan, carried, end, state, step_inputs, REGISTER)
    return {**level, "season": scan.season, "lag_sums": sums, "lag_squares": squares}


def level_after(
    f: Backend[Any],
    level: Level,
    carried: Mapping[str, Array],
    end: Array,
    state: Mapping[str, Array],
    step_inputs: int,
    register: int = RECENT,
) -> dict[str, Array]:
    """As `state_after`, of the level alone."""
    after = {name: f.take_along(part, end) for name, part in carried.items()}
    back = f.constant(np.arange(register - 1, -1, -1).reshape(1, 1, -1), "int64")
    recent = f.gather(level.window, f.unsqueeze(end + register, 2) - back)
    every = f.concat([state["open"], level.steps], 1)
    opened = rows_of(f, every, end + f.constant(np.arange(1, PATCH).reshape(1, -1), "int64"), step_inputs)
    return {**after, "recent": f.reshape(recent, 0, -1), "open": opened}
