"""What the value some steps ahead of a series could be: candidates by lag, by season, by level, by trend and by growth,
and what tells how far to trust them. Written once, over a backend (`arithmetic.py`); knows nothing of layers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.nets.arithmetic import Backend, sum_last
from training.nets.series_scan import (
    LAG_DECAYS,
    LAGS,
    LONGEST,
    REGISTER,
    RULES,
    Array,
    Scan,
    lag_figures,
    rows_of,
    share,
)

LIMIT = 1000.0
"""Units that a candidate may be away."""
SELECTED = 2
"""Lags that are also used as exact seasons."""
WINDOWS = (2, 4, 8, 16, 32, 64)
"""Values over which levels and lines are told, twice as many for the latter."""
LEAST_VARIANCE = 1e-6
"""Of a lag, in units: what is less is as good as none, and may be all rounding errors."""
LEAST_LEVEL, ALIKE = 1e-11, 4.7
"""Units that two levels must be away from 0 to have a ratio, and the largest that counts as growth of a season."""
GROWTHS = (1, 2, 4, 8, 16)
"""Values over which growth by a factor is told, and as many before: powers of two."""
LAG_FEATURES = 20
OWN_FEATURES = 8
"""Of those of a lag, what the head is told of a selected one."""
BY_LAG = 3
"""Candidates that a weighted mean over the lags gives."""
OTHERS = 7 * SELECTED + 2 * len(WINDOWS) + len(GROWTHS) + 6
"""All other candidates."""


@dataclass(frozen=True)
class Place:
    """Where a forecast is asked for: steps `at` (B, P) of a scan, and its figures there, (B, P, 1) float64, those
    missed (B, P, RULES)."""

    f: Backend[Any]
    found: Scan
    at: Array
    newest: Array
    mean: Array
    unit: Array
    age: Array
    gap: Array
    missed: Array

    @classmethod
    def of(cls, f: Backend[Any], found: Scan, at: Array) -> "Place":
        names = ("newest", "mean", "unit", "age", "gap")
        figures = {name: f.expand(f.along(getattr(found, name), at), 2) for name in names}
        return cls(f, found, at, **figures, missed=rows_of(f, found.missed, at, RULES))

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


def lag_features(f: Backend[Any], place: Place, season: Array) -> tuple[Array, Array, Array, Array]:
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
        several = f.maximum(square - drift * drift, 0.0) * (n / f.maximum(n - 1.0, 0.5))
        variance = f.where(n > 1.5, several, 0.5 * square) + LEAST_VARIANCE
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


def by_lag(f: Backend[Any], place: Place, drift: Array, ahead: NDArray[np.int64]) -> tuple[Array, Array, Array]:
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


def selected(f: Backend[Any], place: Place, best: Array, ahead: NDArray[np.int64]) -> tuple[Array, Array]:
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
    alike = f.minimum(f.absolute(now), f.absolute(then)) * ALIKE > f.maximum(f.absolute(now), f.absolute(then))
    similar = f.cast(alike, "float64") * _have_ratio(f, now, then, f.expand(place.unit, 3))
    ratio = f.where(similar > 0.0, now / f.where(similar > 0.0, then, 1.0), 1.0)
    # Grown by the same factor in each season that passes.
    most = 1 << (int(ahead.max()) - 1).bit_length() if ahead.max() > 1 else 1
    powers = f.reshape(_powers(f, ratio, most), 0, -1)
    row = f.reshape(f.steps(best, 1), 1, -1, 1, 1) * (SELECTED * most)
    column = f.reshape(f.constant(np.arange(SELECTED) * most, "int64"), 1, 1, -1, 1)
    passed = f.reshape(periods, 0, -1, SELECTED, len(ahead)) - 1
    grown = ((one + newest) * f.gather(powers, passed + (row + column)) - newest) * known
    candidates = f.join([one, two, three, one + growth, two + both, grown, levels[0] + 0.0 * one], 2)
    length = f.expand(f.cast(chosen, "float64"), 3)
    features = f.join([(h - (cycles - 1.0) * length) / length, 1.0 / cycles], 2)
    return f.transpose(candidates, 0, 1, 3, 2), f.transpose(features, 0, 1, 3, 2)


def plain(f: Backend[Any], place: Place, ahead: NDArray[np.int64]) -> Array:
    """Candidates (B, P, H, 2 * WINDOWS + GROWTHS + 6), relative to the newest value, by level, by straight lines and by
    growth."""
    sizes = np.array([*WINDOWS, *GROWTHS], dtype=np.float64)
    h = f.constant(ahead[:, None], "float64")
    # The means of the last values up to the newest one, and of as many before.
    seen = place.age - place.gap
    gap = f.cast(f.minimum(place.gap, float(REGISTER - 2 * max(sizes))), "int64")
    h = h + f.expand(place.gap, 3)
    size = f.maximum(f.minimum(f.floor(seen * 0.5), f.constant(sizes, "float64")), 1.0)
    whole = f.cast(size, "int64")
    last = place.mean_of(whole + gap, whole * 0 + gap, size)
    before = place.mean_of(f.minimum(whole * 2, f.cast(f.maximum(seen, 1.0), "int64")) + gap, whole + gap, size)
    before = f.where(seen >= 2.0, before, last)
    level, size = (f.expand(f.cut(part, 2, 0, len(WINDOWS)), 2) for part in (last, size))
    slope = (level - f.expand(f.cut(before, 2, 0, len(WINDOWS)), 2)) / size
    lines = level + slope * ((size - 1.0) * 0.5 + h)

    now, then = (f.cut(part, 2, len(WINDOWS), None) + place.newest for part in (last, before))
    wanted = f.constant(np.array(GROWTHS) * 2.0, "float64")
    enough = f.cast(seen >= wanted, "float64") * _have_ratio(f, now, then, place.unit)
    ratio = f.where(enough > 0.0, now / f.where(enough > 0.0, then, 1.0), 1.0)
    bounds = [f.constant(base ** np.array(GROWTHS, dtype=np.float64), "float64") for base in (0.25, 4.0)]
    ratio = f.minimum(f.maximum(ratio, bounds[0]), bounds[1])
    for k in range(1, len(GROWTHS)):  # of so many values: as many square roots
        ratio = f.join([f.cut(ratio, 2, 0, k), f.sqrt(f.cut(ratio, 2, k, None))], 2)
    ratio = f.expand(ratio, 3)
    # The mean of a window of growth is at no step of its own: it is brought to the last one.
    some = np.array(GROWTHS)[:, None] > np.arange(1, GROWTHS[-1])
    back = f.cut(_powers(f, 1.0 / ratio, GROWTHS[-1]), 3, 0, GROWTHS[-1] - 1) * f.constant(some, "float64")
    spread = (sum_last(back, GROWTHS[-1] - 1, f) + 1.0) / f.constant(np.array(GROWTHS)[:, None], "float64")
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


def _have_ratio(f: Backend[Any], x: Array, y: Array, unit: Array) -> Array:
    """1 where both are on the same side of 0, and not so near to it that their ratio is one of rounding errors."""
    least = f.minimum(f.absolute(x), f.absolute(y))
    return f.cast(least > LEAST_LEVEL * unit, "float64") * f.cast(x * y > 0.0, "float64")


def _powers(f: Backend[Any], x: Array, count: int) -> Array:
    """x (..., 1) of four axes -> x, x^2, ... (..., at least count), by products only."""
    found, size = x, 1
    while size < count:
        found = f.join([found, found * f.cut(found, 3, size - 1, size)], 3)
        size *= 2
    return found
