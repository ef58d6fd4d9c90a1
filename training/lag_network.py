"""The forecaster of any series: recurrent layers over patches of a series in its own units, and a head that attends
over lags of a register. Nothing in it is told, or has to settle, a season.

For each lag, running sums tell how well the series repeats itself after so many steps. A small network, shared by all
lags, gives each lag a weight; a candidate for a value is the weighted mean of what came a whole number of lags before
it. A season that a caller tells is a feature of the lags that it divides: a hint, no switch.

The arithmetic is written once, over a backend (`arithmetic.py`): PyTorch trains with it, and the same functions write
the ONNX graph (`onnx_forecast.py`). What is large is double precision, so that neither a large offset nor a long life
of a session costs digits; only exactly rounded operations, products and sums in order, so that no answer depends on a
row's place in a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.arithmetic import SQUASH, Backend, Torch, positive, squash
from training.cells import Cell, Recurrent
from training.covariates import Covariates

MAX_STEPS = 2048
"""Most time steps in one call."""
REGISTER = 744
"""Values that a series carries: two years of days, a month of hours."""
PATCH = 4
"""Values that the recurrent layers read in one step."""
DECAY = 0.99
"""Per observed value: mean and scale look back over about 1 / (1 - DECAY) = 100 values."""
LAG_DECAYS = (1.0, 0.98)
"""Per step, of the sums of each lag: all that was seen, and what is recent."""
LIMIT = 1000.0
"""Units that a candidate may be away."""
ROUNDING_UNIT = 1e-14
"""Changes smaller than that, in a series' own values, are rounding errors of doubles."""
HEADS = 6
SELECTED = 2
"""Lags that are also used as exact seasons: the best by the scores of the first heads."""
WINDOWS = (2, 4, 8, 16, 32, 64)
GROWTHS = (1, 2, 4, 8, 16)
LAG_WIDTH = 32
WIDTH = 128
LARGEST_LOSS = 50.0
LEAST = 1e-30
"""Added where a divisor may be 0, and of a unit the least. ONNX Runtime takes the sum with a smaller one away."""


def _lags() -> list[int]:
    """Each of up to 64, then fewer, with the usual seasons and their multiples."""
    some = {*range(1, 65), *range(68, 129, 4), *range(136, 257, 8), *range(280, 361, 16), *range(70, 120, 7)}
    some |= {78, 90, 91, 104, 130, 156, 182, 183, 208, 175, 189, 203, 252, 260, 261, 264, 288, 312, 336}
    return sorted(some | {357, 360, 364, 365, 366, 371})


LAGS = np.array(_lags())
STEP_INPUTS = 3
SHARES = 12
LAG_FEATURES = 20
OWN_FEATURES = 8
"""Of those of a lag, what the head is told of a selected one."""
SCALES = 3 + SELECTED
CANDIDATES = 3 * HEADS + 7 * SELECTED + 2 * len(WINDOWS) + len(GROWTHS) + 6
CHANGING = CANDIDATES + 2 * SELECTED + 2
"""Features of each step ahead, and"""
STILL = HEADS + OWN_FEATURES * SELECTED + SCALES - 1 + SHARES + 4
"""of all of them, but for those that covariates add, and the open patch."""

HIDDEN = "hidden"
"""What the recurrent layers said of the last whole patch, as state."""

Array = Any
"""A tensor of the backend."""


def share(x: Array, y: Array) -> Array:
    """How much of x + y, neither of them negative, x is; 0 if both are."""
    return x / (x + y + LEAST)


@dataclass(frozen=True)
class Scan:
    """What one pass over a series found. window (B, R + T): the values with gaps filled forward, those carried first;
    sums (B, R + T + 1): its running sums. Of each step (B, T): the newest value, the running mean, the unit, that of
    second differences, how many steps have passed since the first value, whether all values were whole numbers of at
    least 0. differences (B, T, K): between the newest value and those each lag ago, 0 where there are none. lag_sums,
    lag_squares (B, 2, K): before the first step. shares (B, T, S) and steps (B, T, I), float32: what the recurrent
    layers read, I of each value. held, leading (B, 1): values of an open patch, and steps before the first value. season (B, 2)."""

    window: Array
    sums: Array
    newest: Array
    mean: Array
    unit: Array
    accel: Array
    age: Array
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


FIGURES = ("last", "count", "age", "mean_sum", "change_sum", "accel_sum", "uneven")


def state_shapes(step_inputs: int) -> dict[str, tuple[tuple[int, ...], str, int]]:
    """Name -> shape per sequence, type and initial value of the state tensors, but for the recurrent layers'."""
    sums = ((len(LAG_DECAYS), len(LAGS)), "float64", 0)
    return {
        "season": ((2,), "int64", 1),
        **dict.fromkeys(FIGURES, ((1,), "float64", 0)),
        "recent": ((REGISTER,), "float64", 0),
        "lag_sums": sums,
        "lag_squares": sums,
        "open": ((PATCH - 1, step_inputs), "float32", 0),
    }


def scan(f: Backend[Any], values: Array, here: Array, state: Mapping[str, Array]) -> tuple[Scan, dict[str, Array]]:
    """values (B, T) and where they are observed, 1 or 0, both float64 -> what was found, and of each step (B, T) the
    figures that are carried."""
    x = f.where(here > 0.0, values, 0.0)
    new = f.cumsum(here, 1)
    count, rank = state["count"] + new, f.cast(new, "int64")
    # Observed values are written to slots by their rank, slot 0 holding the carried one; gaps go where nobody reads.
    slots = f.join([state["last"], x * 0.0, state["last"]], 1)
    spare = f.largest(f.steps(x, 1) + 1, 0)
    slots = f.scatter(slots, f.where(here > 0.0, rank, spare), x)
    newest = _gather(f, slots, rank)
    previous = _gather(f, slots, f.maximum(rank - 1, 0))
    age = state["age"] + f.cumsum(f.cast(count > 0.0, "float64"), 1)
    window = f.join([state["recent"], newest], 1)
    sums = f.cumsum(f.join([state["last"] * 0.0, window], 1), 1)
    observed_change = here * f.cast(count >= 2.0, "float64")
    change = f.where(observed_change > 0.0, x - previous, 0.0)
    before, earlier = f.cut(window, 1, REGISTER - 1, -1), f.cut(window, 1, REGISTER - 2, -2)
    bend = f.where(here * f.cast(age >= 3.0, "float64") > 0.0, f.absolute((newest - before) - (before - earlier)), 0.0)
    decay = f.take(f.constant(DECAY ** np.arange(MAX_STEPS + 1), "float64"), rank, 0)
    weights = f.constant(np.maximum(1.0, (1 - DECAY ** np.arange(LONGEST)) / (1 - DECAY)), "float64")

    def running(carried: Array, y: Array) -> Array:
        return decay * (carried + f.cumsum(y / decay, 1))

    def weight(n: Array) -> Array:
        return f.take(weights, f.cast(f.minimum(f.maximum(n, 0.0), LONGEST - 1.0), "int64"), 0)

    mean_sum = running(state["mean_sum"], x)
    change_sum = running(state["change_sum"], f.absolute(change))
    accel_sum = running(state["accel_sum"], bend)
    mean = mean_sum / weight(count)
    around = f.absolute(newest)
    # After one value, its size stands in for the scale.
    scale = f.where(count >= 2.0, change_sum / weight(count - 1.0), around)
    # Of a series that never changed: a part of its size, the less the longer it has not.
    still = f.where(around > 0.0, around, 1.0) / (10.0 * f.maximum(count * count, 1.0))
    unit = f.maximum(f.where(scale > 0.0, f.maximum(scale, ROUNDING_UNIT * around), still), LEAST)
    accel = f.minimum(accel_sum / weight(count - 2.0), 4.0 * unit)
    size = f.absolute(mean) + unit
    odd = f.where(here * f.cast(f.maximum(f.absolute(x - f.floor(x)), -1.0 * x) > 0.0, "float64") > 0.0, here, 0.0)
    uneven = state["uneven"] + f.cumsum(odd, 1)
    whole = f.where(uneven > 0.0, 0.0 * uneven, 1.0)
    deviation, changed = squash((newest - mean) / unit, f), squash(change / unit, f)
    shares = [
        share(f.absolute(mean), unit),
        share(unit, 0.1 * size),
        share(unit, 0.01 * size),
        share(accel, unit),
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
        accel=accel,
        age=age,
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
    carried = dict(zip(FIGURES, (newest, count, age, mean_sum, change_sum, accel_sum, uneven), strict=True))
    return found, carried


LONGEST = 4096
"""Of a count of values; more weigh the same."""


def _gather(f: Backend[Any], x: Array, index: Array) -> Array:
    """x (B, W), index (B, P) -> (B, P)."""
    found: Array = f.reshape(f.gather(x, f.expand(index, 2)), 0, -1)
    return found


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
    sums, squares = [], []
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


@dataclass(frozen=True)
class _Place:
    """Where a forecast is asked for: steps `at` (B, P) of a scan, and its figures there, (B, P, 1) float64."""

    f: Backend[Any]
    found: Scan
    at: Array
    newest: Array
    mean: Array
    unit: Array
    accel: Array
    age: Array

    @classmethod
    def of(cls, f: Backend[Any], found: Scan, at: Array) -> "_Place":
        names = ("newest", "mean", "unit", "accel", "age")
        return cls(f, found, at, *(f.expand(_gather(f, getattr(found, name), at), 2) for name in names))

    def ago(self, offsets: Array) -> Array:
        """The values so many steps (B or 1, P or 1, M) before the step, relative to the newest; what is before the
        register, as its first."""
        f = self.f
        places = f.expand(self.at + REGISTER, 2) - offsets
        return f.gather(self.found.window, f.maximum(places, 0)) - self.newest

    def mean_of(self, begin: Array, end: Array, count: Array) -> Array:
        """The mean of the values from `begin` to before `end` steps before the step after it, `count` of them, all
        (B, P, M); relative to the newest."""
        f = self.f
        at = f.expand(self.at + REGISTER + 1, 2)
        total = f.gather(self.found.sums, at - end) - f.gather(self.found.sums, f.maximum(at - begin, 0))
        return total / f.maximum(count, 1.0) - self.newest


def lag_features(f: Backend[Any], place: _Place, season: Array) -> tuple[Array, Array, Array, Array]:
    """(B, P, K, F) float32 of each lag; its variance and its recent drift (B, P, K), in units, and whether it can be
    used."""
    sums, squares = lag_figures(f, place.found, place.at)
    size = len(LAGS)
    lags = f.constant(LAGS.astype(np.float64), "float64")
    pairs = f.maximum(place.age - lags, 0.0)
    kept = f.cast(pairs >= 1.0, "float64")
    usable = f.maximum(f.total(kept, 2), 1.0)
    # Of a lag, its neighbours in the list.
    left, right = [0, *range(size - 1)], [*range(1, size), size - 1]
    kept_left, kept_right = f.take(kept, left, 2), f.take(kept, right, 2)
    parts: list[Array] = []
    variances, drifts = [], []
    for d, rate in enumerate(LAG_DECAYS):
        if rate == 1.0:
            n = f.maximum(pairs, 1.0)
        else:
            table = f.constant(np.maximum((1 - rate ** np.arange(LONGEST)) / (1 - rate), 1.0), "float64")
            n = f.take(table, f.cast(f.minimum(pairs, LONGEST - 1.0), "int64"), 0)
        drift, square = (f.cut(part, 2, d * size, (d + 1) * size) / n for part in (sums, squares))
        drift, square = drift / place.unit, square / (place.unit * place.unit)
        # One pair has no variance: half of its square stands in.
        variance = f.maximum(square - drift * drift * (n / (n + 1.0)), 0.0)
        near = f.take(variance, left, 2) * kept_left + f.take(variance, right, 2) * kept_right
        near = near / f.maximum(kept_left + kept_right, 1.0)
        base, base_square = (f.total(part * kept, 2) / usable for part in (variance, square))
        parts += [share(variance, base), share(square, base_square), share(variance, near)]
        variances.append(variance)
        drifts.append(drift)
    parts += [variances[0] / (variances[0] + 2.0), share(variances[1], variances[0])]
    cycles = place.age / lags
    parts += [cycles / (cycles + 2.0), cycles / (cycles + 0.3), pairs / (pairs + 12.0), pairs / (pairs + 100.0)]
    told = f.expand(f.expand(season, 1), 2)  # (B, 1, 1, 2)
    whole = f.reshape(f.constant(LAGS, "int64"), 1, 1, -1, 1)
    some = f.cast(told > 1, "float64")
    divides = f.cast(whole % told < 1, "float64") * some
    same = f.cast(f.absolute(whole - told) < 1, "float64") * some
    hints = f.join([divides, f.cut(same, 3, 0, 1), some + 0.0 * divides], 3) + 0.0 * f.expand(pairs, 3)
    fixed = np.stack([LAGS / (LAGS + 6.0), LAGS / (LAGS + 60.0), np.ones(size)], 1)
    fixed_part = f.constant(fixed, "float64") + 0.0 * f.expand(pairs, 3)
    features = f.join([*(f.expand(part, 3) for part in parts), hints, fixed_part], 3) * f.expand(kept, 3)
    first = f.constant((LAGS == 1).astype(np.float64), "float64")  # always there, or there would be none
    return f.cast(features, "float32"), variances[0], drifts[1], f.maximum(kept, first)


def by_lag(f: Backend[Any], place: _Place, drift: Array, ahead: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """What came a whole number of lags before each of the steps ahead, (B, P, K, H) in units; how far the drift of so
    many lags goes; and the value one lag ago, (B, P, K, 1)."""
    lags = LAGS[:, None]
    cycles = -(-ahead // lags)
    offsets = f.constant((cycles * lags - ahead).reshape(1, 1, -1), "int64")
    found = f.cast(f.minimum(f.maximum(place.ago(offsets) / place.unit, -LIMIT), LIMIT), "float32")
    found = f.reshape(found, 0, 0, len(LAGS), len(ahead))
    drifting = f.cast(f.minimum(f.maximum(drift, -LIMIT), LIMIT), "float32")
    drifting = f.expand(drifting, 3) * f.constant(cycles, "float32")
    begun = place.ago(f.constant(LAGS.reshape(1, 1, -1), "int64")) / place.unit
    begun = f.cast(f.minimum(f.maximum(begun, -LIMIT), LIMIT), "float32")
    return found, drifting, f.expand(begun, 3)


def selected(f: Backend[Any], place: _Place, best: Array, ahead: NDArray[np.int64]) -> tuple[Array, Array]:
    """Candidates (B, P, H, 7 * SELECTED), relative to the newest value, by the best lags (B, P, SELECTED) as exact
    seasons; and features of them, (B, P, H, 2 * SELECTED)."""
    size = SELECTED * 3 * len(ahead)
    steps, h = f.constant(ahead, "int64"), f.constant(ahead, "float64")
    before = f.constant(np.arange(3), "int64")
    chosen = f.take(f.constant(LAGS, "int64"), best, 0)  # (B, P, S)
    m = f.expand(f.expand(chosen, 3), 4)
    periods = (steps + m - 1) // m  # (B, P, S, 1, H)
    offsets = f.reshape((periods + f.expand(before, 1)) * m - steps, 0, -1, size)
    there = f.cast(f.cast(offsets, "float64") < f.minimum(place.age, float(REGISTER)), "float64")
    values = f.where(there > 0.0, place.ago(offsets), 0.0)
    values, there = (f.reshape(part, 0, -1, SELECTED, 3, len(ahead)) for part in (values, there))
    one, two, three = (f.reshape(f.cut(values, 3, k, k + 1), 0, -1, SELECTED, len(ahead)) for k in range(3))
    known, known_two = (f.reshape(f.cut(there, 3, k, k + 1), 0, -1, SELECTED, len(ahead)) for k in range(2))

    # The level of the last season and of those before it; one that was not seen is as that after it.
    begins = f.reshape(f.expand(chosen, 3) * (before + 1), 0, -1, SELECTED * 3)
    ends = f.reshape(f.expand(chosen, 3) * before, 0, -1, SELECTED * 3)
    season = f.cast(begins - ends, "float64")
    seen = f.minimum(place.age - f.cast(ends, "float64"), season)
    oldest = f.cast(f.minimum(place.age, float(REGISTER)), "int64")
    level = place.mean_of(f.minimum(begins, oldest), f.minimum(ends, oldest), seen)
    enough = f.cast(seen >= 1.0, "float64") * f.cast(begins <= REGISTER, "float64")
    level, enough = (f.reshape(part, 0, -1, SELECTED, 3) for part in (level, enough))
    levels: list[Array] = []
    for k in range(3):
        found, there_is = f.cut(level, 3, k, k + 1), f.cut(enough, 3, k, k + 1)
        levels.append(f.where(there_is > 0.0, found, levels[-1] if levels else 0.0))
    cycles = f.cast(f.reshape(periods, 0, -1, SELECTED, len(ahead)), "float64")
    growth = (levels[0] - levels[1]) * cycles * known
    both = (levels[0] - levels[2]) * known_two
    newest = f.expand(place.newest, 3)
    now, then = levels[0] + newest, levels[1] + newest
    alike = f.minimum(f.absolute(now), f.absolute(then)) * 4.0 > f.maximum(f.absolute(now), f.absolute(then))
    similar = f.cast(alike, "float64") * f.cast(now * then > 0.0, "float64")
    ratio = f.where(similar > 0.0, now / f.where(similar > 0.0, then, 1.0), 1.0)
    grown = ((one + newest) * ratio - newest) * known
    candidates = f.join([one, two, three, one + growth, two + both, grown, levels[0] + 0.0 * one], 2)
    length = f.expand(f.cast(chosen, "float64"), 3)
    features = f.join([(h - (cycles - 1.0) * length) / length, 1.0 / cycles], 2)
    return f.transpose(candidates, 0, 1, 3, 2), f.transpose(features, 0, 1, 3, 2)


def plain(f: Backend[Any], place: _Place, ahead: NDArray[np.int64]) -> Array:
    """Candidates (B, P, H, 2 * WINDOWS + GROWTHS + 6), relative to the newest value, by level, by straight lines and by
    growth."""
    sizes = np.array([*WINDOWS, *GROWTHS], dtype=np.float64)
    h = f.constant(ahead[:, None], "float64")
    # The means of the last values and of as many before.
    size = f.maximum(f.minimum(f.floor(place.age * 0.5), f.constant(sizes, "float64")), 1.0)
    whole = f.cast(size, "int64")
    last = place.mean_of(whole, whole * 0, size)
    before = place.mean_of(f.minimum(whole * 2, f.cast(place.age, "int64")), whole, size)
    before = f.where(place.age >= 2.0, before, last)
    level, size = (f.expand(f.cut(part, 2, 0, len(WINDOWS)), 2) for part in (last, size))
    slope = (level - f.expand(f.cut(before, 2, 0, len(WINDOWS)), 2)) / size
    lines = level + slope * ((size - 1.0) * 0.5 + h)

    now, then = (f.cut(part, 2, len(WINDOWS), None) + place.newest for part in (last, before))
    wanted = f.constant(np.array(GROWTHS) * 2.0, "float64")
    enough = f.cast(place.age >= wanted, "float64") * f.cast(now * then > 0.0, "float64")
    ratio = f.where(enough > 0.0, now / f.where(enough > 0.0, then, 1.0), 1.0)
    bounds = [f.constant(base ** np.array(GROWTHS, dtype=np.float64), "float64") for base in (0.25, 4.0)]
    ratio = f.minimum(f.maximum(ratio, bounds[0]), bounds[1])
    for k in range(1, len(GROWTHS)):  # of so many values: as many square roots
        ratio = f.join([f.cut(ratio, 2, 0, k), f.sqrt(f.cut(ratio, 2, k, None))], 2)
    ratio = f.expand(ratio, 3)
    # The mean of a window of growth is at no step of its own: it is brought to the last one.
    some = np.array(GROWTHS)[:, None] > np.arange(1, GROWTHS[-1])
    back = f.cut(_powers(f, 1.0 / ratio, GROWTHS[-1]), 3, 0, GROWTHS[-1] - 1) * f.constant(some, "float64")
    spread = (f.total(back, 3) + 1.0) / f.constant(np.array(GROWTHS)[:, None], "float64")
    powers = f.take(_powers(f, ratio, int(ahead.max())), (ahead - 1).tolist(), 3)
    growing = f.expand(now, 3) / spread * powers - f.expand(place.newest, 3)
    growing = f.transpose(growing * f.expand(enough, 3), 0, 1, 3, 2)

    recent = place.ago(f.constant(np.arange(5).reshape(1, 1, -1), "int64"))
    early = f.cast(place.age > f.constant(np.array([1.0, 2.0]), "float64"), "float64")
    changes = f.cut(recent, 2, 1, 3) * early
    middle = f.median(recent, 5) * f.cast(place.age >= 5.0, "float64")
    one = f.cut(changes, 2, 0, 1)
    bend = (f.cut(changes, 2, 1, 2) - 2.0 * one) * f.cut(early, 2, 1, 2)
    level_like = f.join([0.0 * one, place.mean - place.newest, changes, middle], 2)
    bent = f.expand(bend, 3) * h * ((h + 1.0) * 0.5) - f.expand(one, 3) * h
    flat = 0.0 * bent
    return f.join([level + flat, lines, growing, f.expand(level_like, 2) + flat, bent], 3)


def _powers(f: Backend[Any], x: Array, count: int) -> Array:
    """x (..., 1) of four axes -> x, x^2, ... (..., at least count), by products only."""
    found, size = x, 1
    while size < count:
        found = f.join([found, found * f.cut(found, 3, size - 1, size)], 3)
        size *= 2
    return found


class LagForecaster(nn.Module):
    """Quantiles of any of the next steps of any series. `widening` is a factor on the distances between quantiles, to
    be set after training."""

    def __init__(
        self,
        covariates: Covariates,
        cell: Cell,
        hidden: int,
        layers: int,
        dropout: float,
        horizon: int,
        quantile_levels: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.covariates = covariates
        self.horizon = horizon
        self.quantile_levels = quantile_levels
        self.widening = 1.0
        self.step_inputs = STEP_INPUTS + covariates.width + covariates.width_ahead
        inputs = PATCH * self.step_inputs + SHARES
        self.recurrent = Recurrent(cell, inputs, hidden, layers, dropout, residual=True)
        self.lag_in = nn.Linear(LAG_FEATURES, LAG_WIDTH)
        self.lag_hidden = nn.Linear(hidden, LAG_WIDTH, bias=False)
        self.lag_out = nn.Linear(LAG_WIDTH, HEADS)
        self.from_hidden = nn.Linear(hidden, WIDTH)
        self.from_still = nn.Linear(STILL + (PATCH - 1) * (self.step_inputs + 1), WIDTH, bias=False)
        self.from_changing = nn.Linear(CHANGING + covariates.width_ahead, WIDTH, bias=False)
        self.from_ahead = nn.Parameter(torch.zeros(horizon, WIDTH))
        self.between = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CANDIDATES + 1 + SCALES + len(quantile_levels))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.lag_out.weight, std=0.5)

    def fresh_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences of which nothing was seen yet."""
        own = {
            name: torch.full((batch, *shape), initial, dtype=getattr(torch, dtype), device=device)
            for name, (shape, dtype, initial) in state_shapes(self.step_inputs).items()
        }
        hidden = torch.zeros(batch, self.recurrent.hidden, device=device)
        return own | {HIDDEN: hidden} | self.recurrent.fresh_state(batch, device)

    def ask(
        self,
        f: Backend[Any],
        found: Scan,
        at: Array,
        hidden: Array,
        opened: Array,
        ahead: NDArray[np.int64],
        future: Sequence[Array] = (),
    ) -> tuple[Array, Array, Array]:
        """Quantiles of the values `ahead` (H,) steps after each of the steps `at` (B, P), given what the recurrent
        layers said of the last whole patch, (B, P, hidden), and the known-ahead features of these steps, parts along
        axis 3 of (B, P, H, ...): (B, P, H, Q), relative to the newest value, in units of the scale; and these two,
        (B, P, 1)."""
        with torch.no_grad():
            place = _Place.of(f, found, at)
            features, variance, drift, usable = lag_features(f, place, found.season)
        weights, scores = self._attention(f, features, usable, hidden)
        with torch.no_grad():
            repeated, drifting, begun = by_lag(f, place, drift, ahead)
            best = f.argmax(f.cut(scores, 2, 0, SELECTED), 3)  # (B, P, SELECTED)
            exact, within = selected(f, place, best, ahead)
            parametric = f.join([exact, plain(f, place, ahead)], 3) / f.expand(place.unit, 3)
            parametric = f.cast(f.minimum(f.maximum(parametric, -LIMIT), LIMIT), "float32")
            scaled = f.cast(f.minimum(variance, 1e6), "float32")
            rows = f.gather(f.reshape(features, 0, -1), self._own(f, best))
            scales = f.sqrt(f.reshape(f.gather(f.reshape(scaled, 0, -1), self._chosen(f, best)), 0, -1, SELECTED))
            others = f.cast(f.join([place.unit / place.unit, place.accel / place.unit], 2), "float32")
        c = f.matmul(weights, repeated)  # (B, P, A, H)
        anchored = c - f.matmul(weights, begun)
        drifted = c + f.matmul(weights, drifting)
        varied = f.matmul(f.cut(weights, 2, 0, 1), f.expand(scaled, 3))  # (B, P, 1, 1)
        varied = f.sqrt(f.reshape(varied, 0, -1, 1) + 1e-8)
        scales = f.minimum(f.join([others, scales, varied], 2), 100.0)
        by_weights = f.transpose(f.join([c, anchored, drifted], 2), 0, 1, 3, 2)
        candidates = f.minimum(f.maximum(f.join([by_weights, parametric], 3), -LIMIT), LIMIT)
        h = ahead.astype(np.float64)
        distance = f.constant(np.stack([h / 48, 1 / h], 1), "float64") + 0.0 * f.cut(within, 3, 0, 1)
        changing = f.join([squash(candidates, f), f.cast(f.join([within, distance], 3), "float32"), *future], 3)
        told = f.cast(f.expand(found.season, 1) > 1, "float64") + 0.0 * place.age
        known = f.join([place.age / (place.age + 24.0), place.age / (place.age + 200.0), told], 2)
        spread = f.cut(scales, 2, 1, None)
        still = [
            f.reshape(f.largest(weights, 3), 0, -1, HEADS),
            f.reshape(rows, 0, -1, OWN_FEATURES * SELECTED),
            spread / (spread + 1.0),
            rows_of(f, found.shares, at, SHARES),
            f.cast(known, "float32"),
            open_patch(f, found, opened, at, self.step_inputs),
        ]
        x = f.linear(hidden, self.from_hidden.weight, self.from_hidden.bias)
        x = x + f.linear(f.join(still, 2), self.from_still.weight)
        x = f.expand(x, 2) + f.linear(changing, self.from_changing.weight)
        x = f.relu(x + self._parameter(f, ahead))
        x = x + f.relu(f.linear(x, self.between.weight, self.between.bias))
        return self._quantiles(f, f.linear(x, self.head.weight, self.head.bias), candidates, scales), place.newest, place.unit

    def _attention(self, f: Backend[Any], features: Array, usable: Array, hidden: Array) -> tuple[Array, Array]:
        """Weights of the lags, (B, P, HEADS, K), and their scores."""
        x = f.linear(features, self.lag_in.weight, self.lag_in.bias)
        x = f.relu(x + f.expand(f.linear(hidden, self.lag_hidden.weight), 2))
        scores = f.transpose(f.linear(x, self.lag_out.weight, self.lag_out.bias), 0, 1, 3, 2)
        scores = f.where(f.expand(usable, 2) > 0.0, scores, -1e4)
        return f.softmax(scores), scores

    def _own(self, f: Backend[Any], best: Array) -> Array:
        """Where the first features of the best lags are among all features of all lags of all steps."""
        places = self._chosen(f, best) * LAG_FEATURES
        return f.reshape(f.expand(f.reshape(places, 0, -1), 2) + f.constant(np.arange(OWN_FEATURES), "int64"), 0, -1, OWN_FEATURES)

    def _chosen(self, f: Backend[Any], best: Array) -> Array:
        """Where the best lags are among all lags of all steps: (B, P, SELECTED)."""
        return best + f.expand(f.reshape(f.steps(best, 1), 1, -1) * len(LAGS), 2)

    def _parameter(self, f: Backend[Any], ahead: NDArray[np.int64]) -> Array:
        rows = self.from_ahead[torch.as_tensor(ahead) - 1]
        return rows if isinstance(f, Torch) else f.constant(rows.detach().numpy(), "float32")

    def _quantiles(self, f: Backend[Any], raw: Array, candidates: Array, scales: Array) -> Array:
        levels, middle = len(self.quantile_levels), self.quantile_levels.index(0.5)
        begin = [0, CANDIDATES, CANDIDATES + 1, CANDIDATES + 1 + SCALES, CANDIDATES + 1 + SCALES + levels]
        mix, shift, scale_mix, apart = (f.cut(raw, 3, a, b) for a, b in zip(begin, begin[1:], strict=False))
        size = f.total(f.softmax(scale_mix) * f.expand(scales, 2), 3)
        median = f.total(f.softmax(mix) * candidates, 3) + shift * size
        apart = positive(apart, f)
        apart = f.cut(apart, 3, 1, None) * (f.cut(apart, 3, 0, 1) * (size + 1e-6) * self.widening)
        # Running sums by products: from the middle outwards, both ways.
        outwards = np.zeros((levels - 1, levels))
        for q in range(levels):
            outwards[q:middle, q] = -1.0
            outwards[middle:q, q] = 1.0
        return median + f.matmul(apart, f.constant(outwards, "float32"))

    def scan(
        self, f: Backend[Any], given: Mapping[str, Array], here: Array, state: Mapping[str, Array]
    ) -> tuple[Scan, dict[str, Array]]:
        """`scan` of the inputs by their names in the graph; `here` (B, T): where the target is observed."""
        values, mask = given["values"], given["mask"]
        found, carried = scan(f, f.reshape(f.cut(values, 2, 0, 1), 0, -1), here, state)
        more = self.covariates.read(f, values, mask)
        if self.covariates.known_ahead:
            more += self.covariates.known(f, given["ahead"], given["ahead_mask"], 2)
        return (replace(found, steps=f.join([found.steps, *more], 2)) if more else found), carried

    def known(self, f: Backend[Any], values: Array, mask: Array) -> list[Array]:
        """Known-ahead features and their mask (B, P, H, K), as `ask` takes them."""
        return self.covariates.known(f, values, mask, 3)

    def _hidden(self, found: Scan, at: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What the recurrent layers said of the last whole patch after each of `at` (B, P), and their state after the
        last of them all."""
        f = Torch()
        read = patches(f, found, state["open"], self.step_inputs)
        done = torch.div(read_so_far(found, at, f), PATCH, rounding_mode="floor")
        most = int(done.max())
        every, after = self.recurrent(read[:, : max(1, most)], state)
        if not most:
            after = {name: state[name] for name in after}
        every = torch.cat([state[HIDDEN][:, None], every], 1)
        found_there = every.gather(1, done[..., None].expand(-1, -1, every.shape[2]))
        return found_there, {**after, HIDDEN: found_there[:, -1]}

    def forward(
        self,
        values: Tensor,
        mask: Tensor,
        ahead: Tensor,
        ahead_mask: Tensor,
        steps: Tensor,
        distances: Tensor,
        targets: Tensor,
        weight: Tensor,
        future: Tensor,
        future_mask: Tensor,
        scale: Tensor,
        season: Tensor,
        state: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: the mean pinball loss in units of `scale` (B,), a series' mean seasonal difference.

        targets, weight (B, P, H): the values at the `distances` (H,) after each of `steps` (B, P), and how much each
        counts; future (B, P, H, K): the features known of them; season (B, 2): what is told.
        """
        f = Torch()
        state = {**state, "season": season}
        given = {"values": values, "mask": mask, "ahead": ahead, "ahead_mask": ahead_mask}
        with torch.no_grad():
            found, _ = self.scan(f, given, mask[..., 0].double(), state)
        hidden, _ = self._hidden(found, steps, state)
        known = self.known(f, future, future_mask)
        quantiles, newest, unit = self.ask(f, found, steps, hidden, state["open"], distances.numpy(), known)
        units = (unit / scale[:, None, None]).float()[..., None]
        goal = ((targets - newest) / scale[:, None, None]).clamp(-300.0, 300.0).float()[..., None]
        levels = torch.tensor(self.quantile_levels)
        error = goal - quantiles * units
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(-1).clamp(max=LARGEST_LOSS)
        return (pinball * weight).sum() / weight.sum().clamp(min=1.0), dict(state)

    def predict(
        self, values: Tensor, mask: Tensor, state: Mapping[str, Tensor], known: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantiles (B, H, Q) after the last step, those of the value after each step (B, T, Q), in the units of the
        values, and the new state; each row's whole patches end together. `known`, with known-ahead features: what the
        exported graph takes as ahead, ahead_mask, future and future_mask."""
        f = Torch()
        batch, steps = values.shape[:2]
        given = {"values": values, "mask": mask} | dict(zip(("ahead", "ahead_mask"), known[:2], strict=False))
        found, carried = self.scan(f, given, mask[..., 0].double(), state)
        every = torch.arange(steps).expand(batch, steps)
        hidden, after = self._hidden(found, every, state)

        def ask(at: Tensor, horizon: int, future: Sequence[Tensor]) -> Tensor:
            parts = self.known(f, *future) if future else []
            ahead = np.arange(1, horizon + 1)
            picked = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2]))
            asked = self.ask(f, found, at, picked, state["open"], ahead, parts)
            raw: Tensor = in_values(f, found, at, *asked)
            return raw

        end = every[:, -1:]
        last = ask(end, self.horizon, [part[:, None] for part in known[2:]])[:, 0]
        each = ask(every, 1, [part[:, :, None] for part in known[:2]])[:, :, 0]
        return last, each, {**state_after(f, found, carried, end, state, self.step_inputs), **after}


def in_values(f: Backend[Any], found: Scan, at: Array, quantiles: Array, newest: Array, unit: Array) -> Array:
    """Quantiles (B, P, H, Q) in the units of the values; at least 0 where all values were counts."""
    raw = f.expand(newest, 3) + f.expand(unit, 3) * f.cast(quantiles, "float64")
    whole = f.expand(f.expand(_gather(f, found.whole, at), 2), 3)
    return f.where(whole > 0.0, f.maximum(raw, 0.0), raw)


def state_after(
    f: Backend[Any],
    found: Scan,
    carried: Mapping[str, Array],
    end: Array,
    state: Mapping[str, Array],
    step_inputs: int,
) -> dict[str, Array]:
    """The state after each row's last step, `end` (B, 1), but for that of the recurrent layers."""
    after = {name: _gather(f, part, end) for name, part in carried.items()}
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
