"""Quantiles and intervals: at any level, within bounds, and beyond a model's horizon. Knows nothing of models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)
"""One, or an array of them."""

OUTERMOST_LEVEL = 0.001
"""The lowest level, and from 1 the highest, at which quantiles are given: models see too little of rarer values."""
TAIL_LEVELS = (0.001, 0.0025, 0.005)
"""Levels at which a tail is drawn to find a value in it."""


@dataclass(frozen=True)
class Bounds:
    """The range that the values of a series are known to lie in: lower < upper."""

    lower: float = -math.inf
    upper: float = math.inf

    def clip(self, numbers: Floats) -> Floats:
        """The numbers, raised to `lower` and lowered to `upper`; NaN stays. Clipped quantiles of a variable are the
        quantiles of the clipped variable."""
        if self == UNBOUNDED:
            return numbers
        # Unlike np.clip, this makes 0.0 of -0.0 where `lower` is 0.
        clipped: Floats = np.minimum(np.maximum(numbers, self.lower), self.upper)
        return clipped


UNBOUNDED = Bounds()
NON_NEGATIVE = Bounds(lower=0.0)


def interval_to_quantiles(level: float) -> tuple[float, float]:
    """The two quantile levels at which a central interval of `level` percent ends."""
    tail = (100 - level) / 200
    return round(tail, 6), round(1 - tail, 6)


def rounding_of(values: Number) -> Number:
    """How far rounding alone may move a forecast of these values. A value so little beyond an interval is inside: the
    interval of a constant series is as narrow as rounding."""
    return 1e-14 * abs(values) + 1e-30


def interpolate(quantiles: Floats, known: Sequence[float], wanted: Sequence[float]) -> Floats:
    """Quantiles (..., Q) at the ascending levels `known` -> (..., L) at the ascending levels `wanted`: linear between
    known levels, and beyond the outermost along an exponential tail through the outermost two.

    Along such a tail, it is as far from 0.01 to 0.005 as from 0.02 to 0.01. Measured on 1,383 series: drawn from 0.025
    and 0.05, it has the pinball loss of the model's own 0.01 to 1 %; a normal one is up to 4 % worse.
    """
    if tuple(wanted) == tuple(known):
        return quantiles
    left, right, share = interpolation(tuple(known), tuple(wanted))
    low, high = quantiles[..., left], quantiles[..., right]
    interpolated: Floats = low + share * (high - low)
    # Rounding must not make neighbours cross, however close together they are.
    return np.where(share > 1, np.maximum(interpolated, high), np.minimum(interpolated, high))


@lru_cache(maxsize=64)
def interpolation(
    known: tuple[float, ...], wanted: tuple[float, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """For each wanted level, the indices of the two known levels to interpolate between, and its share of the way from
    one to the other: below 0 and above 1 in the tails."""
    levels, last = np.asarray(known), len(known) - 1
    left = np.searchsorted(levels, wanted, side="right") - 1
    right = np.minimum(left + 1, last)
    width = np.where(right > left, levels[right] - levels[left], 1.0)
    share = (np.asarray(wanted) - levels[left]) / width
    for i, level in enumerate(wanted):
        if level < known[0]:
            left[i], right[i] = 0, 1
            share[i] = -math.log(known[0] / level) / math.log(known[1] / known[0])
        elif level > known[-1]:
            left[i], right[i] = last - 1, last
            share[i] = 1 + math.log((1 - known[-1]) / (1 - level)) / math.log((1 - known[-2]) / (1 - known[-1]))
    return left, right, share


def level_of(values: Floats, quantiles: Floats, known: Sequence[float]) -> Floats:
    """The level at which each value (T,) lies among its quantiles (T, Q) and those of the tails, linear between them;
    where several quantiles equal the value, the middle of their levels."""
    if len(known) > 1:
        below = tuple(level for level in TAIL_LEVELS if level < known[0])
        above = tuple(1 - level for level in reversed(TAIL_LEVELS) if 1 - level > known[-1])
        extended = (*below, *known, *above)
        quantiles, known = interpolate(quantiles, known, extended), extended
    levels, last = np.asarray(known), len(known) - 1
    first_above = (quantiles <= values[:, None]).sum(axis=1)
    first_at = (quantiles < values[:, None]).sum(axis=1)
    left, right = np.clip(first_at - 1, 0, last), np.clip(first_above, 0, last)
    rows = np.arange(len(values))
    low, high = quantiles[rows, left], quantiles[rows, right]
    width = np.where(high > low, high - low, 1.0)
    between = levels[left] + (levels[right] - levels[left]) * np.clip((values - low) / width, 0.0, 1.0)
    equal = (levels[np.clip(first_at, 0, last)] + levels[np.clip(first_above - 1, 0, last)]) / 2
    value_levels: Floats = np.where(first_above > first_at, equal, between)
    return value_levels


def extrapolate_intervals(within: Floats, levels: Sequence[float], median: Floats, season: int | None) -> Floats:
    """Quantiles (N, Q) of the steps after those of `within` (H, Q), around their median (N,). `season`: its length in
    values, None if it is not known.

    Only the quantiles within the model's horizon show how uncertain a series is. A recurrent network that reads its own
    median, or any curve as smooth, takes the series for a quiet one: its intervals would shrink. If it read paths that
    it drew itself, one stray path would make it expect more of them: its intervals would burst.

    So the quantiles lie around the median as they do at the same place of the last season within, further apart for two
    reasons. Their variance goes on growing along a straight line, as that of a wandering level does (ETS(A,N,N);
    Hyndman et al., "Forecasting with Exponential Smoothing", 2008, section 6.3). And where the median moves away from
    what it is at that place, it might as well not, or move twice as far: that is a standard deviation.
    """
    horizon, middle = len(within), levels.index(0.5)
    around = within - within[:, [middle]]
    half = max(1, horizon // 2)
    # A season longer than the last half of the horizon looks like a trend.
    cycle = season if season is not None and season <= half else None
    steps = np.arange(len(median))
    like = horizon - (cycle or 1) + steps % (cycle or 1)
    deviation = (around[:, -1] - around[:, 0]) / max(_normal_score(levels[-1]) - _normal_score(levels[0]), 1e-9)
    early, late = (float((part**2).mean()) for part in (deviation[:half], deviation[-half:]))
    # One step alone shows nothing but that a series may wander.
    growth = max(0.0, late - early) / (horizon - half) if horizon > 1 else late
    intercept = late - growth * (horizon - (half + 1) / 2)
    variance = np.array(intercept + growth * np.arange(horizon + len(median)))
    factor = _divide(variance[horizon:], variance[like], 1.0)
    if cycle is not None:
        factor += _divide(median - within[like, middle], deviation[like], 0.0) ** 2
    quantiles: Floats = median[:, None] + around[like] * np.sqrt(factor)[:, None]
    return quantiles


def _divide(numbers: Floats, divisors: Floats, otherwise: float) -> Floats:
    """The quotients; `otherwise` where a divisor is not above 0."""
    return np.divide(numbers, divisors, out=np.full_like(numbers, otherwise), where=divisors > 0)


def _normal_score(level: float) -> float:
    return NormalDist().inv_cdf(level)
