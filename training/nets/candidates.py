"""Candidates for the next values of a series, by lag, by season, by level, by trend and by growth, and features that
tell how far to trust them. Written once, over a backend (`arithmetic.py`); knows nothing of layers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.nets.arithmetic import Array, Backend, sum_last
from training.nets.series_scan import (
    LAG_DECAYS,
    LAGS,
    MAX_COUNT,
    REGISTER,
    RULES,
    Scan,
    lag_figures,
    rows_of,
    share,
)

LIMIT = 1000.0
"""Units that a candidate may be away from the newest value."""
SELECTED = 2
"""Lags that are also used as exact seasons."""
WINDOWS = (2, 4, 8, 16, 32, 64)
"""Values of each level; a line takes twice as many."""
MIN_VARIANCE = 1e-6
"""Of a lag, in units. A smaller variance may be rounding errors."""
MIN_LEVEL = 1e-11
"""Units that two levels must be away from 0 to have a ratio."""
MAX_GROWTH = 4.7
"""The largest ratio of two levels that counts as growth of a season."""
GROWTHS = (1, 2, 4, 8, 16)
"""Values over which growth by a factor is measured, against as many before: powers of two."""
LAG_FEATURES = 20
SELECTED_FEATURES = 8
"""The first of a selected lag's features, which the head reads."""
BY_LAG = 3
"""Candidates that each weighted mean over the lags gives."""
OTHERS = 7 * SELECTED + 2 * len(WINDOWS) + len(GROWTHS) + 6
"""All other candidates."""


@dataclass(frozen=True)
class Place:
    """The steps `at` (B, P) of a scan after which to forecast, and the scan's figures there: (B, P, 1) float64, missed
    (B, P, RULES)."""

    f: Backend[Any]
    scan: Scan
    at: Array
    newest: Array
    mean: Array
    unit: Array
    age: Array
    gap: Array
    missed: Array

    @classmethod
    def of(cls, f: Backend[Any], scan: Scan, at: Array) -> "Place":
        names = ("newest", "mean", "unit", "age", "gap")
        figures = {name: f.unsqueeze(f.take_along(getattr(scan, name), at), 2) for name in names}
        return cls(f, scan, at, **figures, missed=rows_of(f, scan.missed, at, RULES))

    def ago(self, offsets: Array) -> Array:
        """The values so many steps (B or 1, P or 1, M) before the step, relative to the newest value. Beyond the
        register, its first value."""
        f = self.f
        steps = f.unsqueeze(self.at + REGISTER, 2) - offsets
        return f.gather(self.scan.window, f.maximum(steps, 0)) - self.newest

    def mean_of(self, begin: Array, end: Array, count: Array) -> Array:
        """The mean, relative to the newest value, of the `count` values from `begin` to before `end` steps before the
        next step; all (B, P, M)."""
        f = self.f
        at = f.unsqueeze(self.at + REGISTER + 1, 2)
        total = f.gather(self.scan.sums, at - end) - f.gather(self.scan.sums, f.maximum(at - begin, 0))
        return total / f.maximum(count, 1.0) - self.newest


def lag_features(f: Backend[Any], place: Place, season: Array) -> tuple[Array, Array, Array, Array]:
    """Of each lag: its features (B, P, K, F) float32, its variance and its recent drift in units, and 1 if it can be
    used, (B, P, K) each."""
    sums, squares = lag_figures(f, place.scan, place.at)
    size = len(LAGS)
    lags = f.constant(LAGS.astype(np.float64), "float64")
    pairs = f.maximum(place.age - lags, 0.0)
    usable = f.cast(pairs >= 1.0, "float64")
    count = f.maximum(f.sum(usable, 2), 1.0)
    # The neighbours of each lag in the list.
    left, right = [0, *range(size - 1)], [*range(1, size), size - 1]
    usable_left, usable_right = f.take(usable, left, 2), f.take(usable, right, 2)
    parts: list[Array] = []
    variances, drifts = [], []
    for d, rate in enumerate(LAG_DECAYS):
        if rate == 1.0:
            n = f.maximum(pairs, 1.0)
        else:
            table = f.constant(np.maximum((1 - rate ** np.arange(MAX_COUNT)) / (1 - rate), 1.0), "float64")
            n = f.take(table, f.cast(f.minimum(pairs, MAX_COUNT - 1.0), "int64"), 0)
        drift, square = (f.slice(part, 2, d * size, (d + 1) * size) / n for part in (sums, squares))
        drift, square = drift / place.unit, square / (place.unit * place.unit)
        # One pair has no variance: half of its square stands for it.
        several = f.maximum(square - drift * drift, 0.0) * (n / f.maximum(n - 1.0, 0.5))
        variance = f.where(n > 1.5, several, 0.5 * square) + MIN_VARIANCE
        near = f.take(variance, left, 2) * usable_left + f.take(variance, right, 2) * usable_right
        near = near / f.maximum(usable_left + usable_right, 1.0)
        base, base_square = (f.sum(part * usable, 2) / count for part in (variance, square))
        parts += [share(variance, base), share(square, base_square), share(variance, near)]
        variances.append(variance)
        drifts.append(drift)
    parts += [variances[0] / (variances[0] + 2.0), share(variances[1], variances[0])]
    cycles = place.age / lags
    parts += [cycles / (cycles + 2.0), cycles / (cycles + 0.3), pairs / (pairs + 12.0), pairs / (pairs + 100.0)]
    hint = f.unsqueeze(f.unsqueeze(season, 1), 2)  # (B, 1, 1, 2)
    whole = f.reshape(f.constant(LAGS, "int64"), 1, 1, -1, 1)
    hinted = f.cast(hint > 1, "float64")
    divides = f.cast(whole % hint < 1, "float64") * hinted
    same = f.cast(f.abs(whole - hint) < 1, "float64") * hinted
    hints = f.concat([divides, f.slice(same, 3, 0, 1), hinted + 0.0 * divides], 3) + 0.0 * f.unsqueeze(pairs, 3)
    fixed = np.stack([LAGS / (LAGS + 6.0), LAGS / (LAGS + 60.0), np.ones(size)], 1)
    fixed_part = f.constant(fixed, "float64") + 0.0 * f.unsqueeze(pairs, 3)
    features = f.concat([*(f.unsqueeze(part, 3) for part in parts), hints, fixed_part], 3) * f.unsqueeze(usable, 3)
    first = f.constant((LAGS == 1).astype(np.float64), "float64")  # always usable, or no lag might be
    return f.cast(features, "float32"), variances[0], drifts[1], f.maximum(usable, first)


def by_lag(f: Backend[Any], place: Place, drift: Array, ahead: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """In units: the value a whole number of lags before each of the steps ahead, (B, P, K, H); the drift over so many
    lags; and the value one lag ago, (B, P, K, 1)."""
    lags = LAGS[:, None]
    cycles = -(-ahead // lags)
    offsets = f.constant((cycles * lags - ahead).reshape(1, 1, -1), "int64")
    repeated = f.cast(f.minimum(f.maximum(place.ago(offsets) / place.unit, -LIMIT), LIMIT), "float32")
    repeated = f.reshape(repeated, 0, 0, len(LAGS), len(ahead))
    drifting = f.cast(f.minimum(f.maximum(drift, -LIMIT), LIMIT), "float32")
    drifting = f.unsqueeze(drifting, 3) * f.constant(cycles, "float32")
    lag_ago = place.ago(f.constant(LAGS.reshape(1, 1, -1), "int64")) / place.unit
    lag_ago = f.cast(f.minimum(f.maximum(lag_ago, -LIMIT), LIMIT), "float32")
    return repeated, drifting, f.unsqueeze(lag_ago, 3)


def selected(f: Backend[Any], place: Place, best: Array, ahead: NDArray[np.int64]) -> tuple[Array, Array]:
    """Candidates (B, P, H, 7 * SELECTED), relative to the newest value, with the best lags (B, P, SELECTED) as exact
    seasons; and their features, (B, P, H, 2 * SELECTED)."""
    size = SELECTED * 3 * len(ahead)
    steps, h = f.constant(ahead, "int64"), f.constant(ahead, "float64")
    before = f.constant(np.arange(3), "int64")
    chosen = f.take(f.constant(LAGS, "int64"), best, 0)  # (B, P, S)
    m = f.unsqueeze(f.unsqueeze(chosen, 3), 4)
    periods = (steps + m - 1) // m  # (B, P, S, 1, H)
    offsets = f.reshape((periods + f.unsqueeze(before, 1)) * m - steps, 0, -1, size)
    there = f.cast(f.cast(offsets, "float64") < f.minimum(place.age, float(REGISTER)), "float64")
    values = f.where(there > 0.0, place.ago(offsets), 0.0)
    values, there = (f.reshape(part, 0, -1, SELECTED, 3, len(ahead)) for part in (values, there))
    one, two, three = (f.reshape(f.slice(values, 3, k, k + 1), 0, -1, SELECTED, len(ahead)) for k in range(3))
    known, known_two = (f.reshape(f.slice(there, 3, k, k + 1), 0, -1, SELECTED, len(ahead)) for k in range(2))

    # The level of the last season and of those before it; an unseen season has the level of the next one.
    begins = f.reshape(f.unsqueeze(chosen, 3) * (before + 1), 0, -1, SELECTED * 3)
    ends = f.reshape(f.unsqueeze(chosen, 3) * before, 0, -1, SELECTED * 3)
    season = f.cast(begins - ends, "float64")
    seen = f.minimum(place.age - f.cast(ends, "float64"), season)
    oldest = f.cast(f.minimum(place.age, float(REGISTER)), "int64")
    level = place.mean_of(f.minimum(begins, oldest), f.minimum(ends, oldest), seen)
    enough = f.cast(seen >= 1.0, "float64") * f.cast(begins <= REGISTER, "float64")
    level, enough = (f.reshape(part, 0, -1, SELECTED, 3) for part in (level, enough))
    levels: list[Array] = []
    for k in range(3):
        mean, complete = f.slice(level, 3, k, k + 1), f.slice(enough, 3, k, k + 1)
        levels.append(f.where(complete > 0.0, mean, levels[-1] if levels else 0.0))
    cycles = f.cast(f.reshape(periods, 0, -1, SELECTED, len(ahead)), "float64")
    growth = (levels[0] - levels[1]) * cycles * known
    both = (levels[0] - levels[2]) * known_two
    newest = f.unsqueeze(place.newest, 3)
    now, then = levels[0] + newest, levels[1] + newest
    alike = f.minimum(f.abs(now), f.abs(then)) * MAX_GROWTH > f.maximum(f.abs(now), f.abs(then))
    similar = f.cast(alike, "float64") * _have_ratio(f, now, then, f.unsqueeze(place.unit, 3))
    ratio = f.where(similar > 0.0, now / f.where(similar > 0.0, then, 1.0), 1.0)
    # Growth by the same factor in each season that passes.
    count = 1 << (int(ahead.max()) - 1).bit_length() if ahead.max() > 1 else 1
    powers = f.reshape(_powers(f, ratio, count), 0, -1)
    row = f.reshape(f.positions(best, 1), 1, -1, 1, 1) * (SELECTED * count)
    column = f.reshape(f.constant(np.arange(SELECTED) * count, "int64"), 1, 1, -1, 1)
    passed = f.reshape(periods, 0, -1, SELECTED, len(ahead)) - 1
    grown = ((one + newest) * f.gather(powers, passed + (row + column)) - newest) * known
    candidates = f.concat([one, two, three, one + growth, two + both, grown, levels[0] + 0.0 * one], 2)
    length = f.unsqueeze(f.cast(chosen, "float64"), 3)
    features = f.concat([(h - (cycles - 1.0) * length) / length, 1.0 / cycles], 2)
    return f.transpose(candidates, 0, 1, 3, 2), f.transpose(features, 0, 1, 3, 2)


def plain(f: Backend[Any], place: Place, ahead: NDArray[np.int64]) -> Array:
    """Candidates (B, P, H, 2 * WINDOWS + GROWTHS + 6), relative to the newest value, by level, by straight lines and by
    growth."""
    sizes = np.array([*WINDOWS, *GROWTHS], dtype=np.float64)
    h = f.constant(ahead[:, None], "float64")
    # The means of the last values up to the newest one, and of as many before.
    seen = place.age - place.gap
    gap = f.cast(f.minimum(place.gap, float(REGISTER - 2 * max(sizes))), "int64")
    h = h + f.unsqueeze(place.gap, 3)
    size = f.maximum(f.minimum(f.floor(seen * 0.5), f.constant(sizes, "float64")), 1.0)
    whole = f.cast(size, "int64")
    last = place.mean_of(whole + gap, whole * 0 + gap, size)
    before = place.mean_of(f.minimum(whole * 2, f.cast(f.maximum(seen, 1.0), "int64")) + gap, whole + gap, size)
    before = f.where(seen >= 2.0, before, last)
    level, size = (f.unsqueeze(f.slice(part, 2, 0, len(WINDOWS)), 2) for part in (last, size))
    slope = (level - f.unsqueeze(f.slice(before, 2, 0, len(WINDOWS)), 2)) / size
    lines = level + slope * ((size - 1.0) * 0.5 + h)

    now, then = (f.slice(part, 2, len(WINDOWS), None) + place.newest for part in (last, before))
    needed = f.constant(np.array(GROWTHS) * 2.0, "float64")
    enough = f.cast(seen >= needed, "float64") * _have_ratio(f, now, then, place.unit)
    ratio = f.where(enough > 0.0, now / f.where(enough > 0.0, then, 1.0), 1.0)
    bounds = [f.constant(base ** np.array(GROWTHS, dtype=np.float64), "float64") for base in (0.25, 4.0)]
    ratio = f.minimum(f.maximum(ratio, bounds[0]), bounds[1])
    for k in range(1, len(GROWTHS)):  # growth over 2^k values: k square roots
        ratio = f.concat([f.slice(ratio, 2, 0, k), f.sqrt(f.slice(ratio, 2, k, None))], 2)
    ratio = f.unsqueeze(ratio, 3)
    # A mean over a window of growth belongs to a time between its steps: bring it to the last step.
    inside = np.array(GROWTHS)[:, None] > np.arange(1, GROWTHS[-1])
    back = f.slice(_powers(f, 1.0 / ratio, GROWTHS[-1]), 3, 0, GROWTHS[-1] - 1) * f.constant(inside, "float64")
    spread = (sum_last(back, GROWTHS[-1] - 1, f) + 1.0) / f.constant(np.array(GROWTHS)[:, None], "float64")
    powers = f.take(_powers(f, ratio, int(ahead.max())), (ahead - 1).tolist(), 3)
    growing = f.unsqueeze(now, 3) / spread * powers - f.unsqueeze(place.newest, 3)
    growing = f.transpose(growing * f.unsqueeze(enough, 3), 0, 1, 3, 2)

    recent = place.ago(f.constant(np.arange(5).reshape(1, 1, -1), "int64"))
    early = f.cast(place.age > f.constant(np.array([1.0, 2.0]), "float64"), "float64")
    changes = f.slice(recent, 2, 1, 3) * early
    middle = f.median(recent, 5) * f.cast(place.age >= 5.0, "float64")
    one = f.slice(changes, 2, 0, 1)
    bend = (f.slice(changes, 2, 1, 2) - 2.0 * one) * f.slice(early, 2, 1, 2)
    level_like = f.concat([0.0 * one, place.mean - place.newest, changes, middle], 2)
    bent = f.unsqueeze(bend, 3) * h * ((h + 1.0) * 0.5) - f.unsqueeze(one, 3) * h
    flat = 0.0 * bent
    return f.concat([level + flat, lines, growing, f.unsqueeze(level_like, 2) + flat, bent], 3)


def _have_ratio(f: Backend[Any], x: Array, y: Array, unit: Array) -> Array:
    """1 where both have the same sign and are too far from 0 for their ratio to be one of rounding errors."""
    smaller = f.minimum(f.abs(x), f.abs(y))
    return f.cast(smaller > MIN_LEVEL * unit, "float64") * f.cast(x * y > 0.0, "float64")


def _powers(f: Backend[Any], x: Array, count: int) -> Array:
    """x (..., 1) of four axes -> x, x^2, ... (..., at least count), by products only."""
    powers, size = x, 1
    while size < count:
        powers = f.concat([powers, powers * f.slice(powers, 3, size - 1, size)], 3)
        size *= 2
    return powers
