"""Quantiles at any level, from those at the levels that a model was trained for. Knows nothing of series or models."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL_END = 0.001
"""The level, and from 1, beyond which nothing is said: no model has seen enough of what is so rare."""
TAIL = (0.001, 0.0025, 0.005)
"""Levels at which a tail is drawn where a value has to be found in it."""


def interpolate(quantiles: Floats, known: Sequence[float], wanted: Sequence[float]) -> Floats:
    """Quantiles (..., Q) at the ascending levels `known` -> (..., L) at ascending levels: linearly in between, and
    beyond the outermost along an exponential tail through the outermost two.

    Along such a tail, it is as far from 0.01 to 0.005 as from 0.02 to 0.01. Measured on 1,383 series: drawn from 0.025
    and 0.05, it has the pinball loss of the model's own 0.01 to 1 %; a normal one is up to 4 % worse.
    """
    if tuple(wanted) == tuple(known):
        return quantiles
    left, right, share = _neighbours(tuple(known), tuple(wanted))
    low, high = quantiles[..., left], quantiles[..., right]
    found: Floats = low + share * (high - low)
    # So that nothing crosses by rounding, however close together they are.
    return np.where(share > 1, np.maximum(found, high), np.minimum(found, high))


def level_within(values: Floats, quantiles: Floats, known: Sequence[float]) -> Floats:
    """The level at which each value (T,) lies among its quantiles (T, Q), linearly between them and those of the tails;
    where several are equal to it, the middle of theirs."""
    if len(known) > 1:
        below = tuple(level for level in TAIL if level < known[0])
        above = tuple(1 - level for level in reversed(TAIL) if 1 - level > known[-1])
        drawn = (*below, *known, *above)
        quantiles, known = interpolate(quantiles, known, drawn), drawn
    levels, last = np.asarray(known), len(known) - 1
    first_above = (quantiles <= values[:, None]).sum(axis=1)
    first_at = (quantiles < values[:, None]).sum(axis=1)
    left, right = np.clip(first_at - 1, 0, last), np.clip(first_above, 0, last)
    rows = np.arange(len(values))
    low, high = quantiles[rows, left], quantiles[rows, right]
    width = np.where(high > low, high - low, 1.0)
    between = levels[left] + (levels[right] - levels[left]) * np.clip((values - low) / width, 0.0, 1.0)
    equal = (levels[np.clip(first_at, 0, last)] + levels[np.clip(first_above - 1, 0, last)]) / 2
    found: Floats = np.where(first_above > first_at, equal, between)
    return found


@lru_cache(maxsize=64)
def _neighbours(
    known: tuple[float, ...], wanted: tuple[float, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """The two levels that each is found from, by index, and its share of the way from one to the other: below 0 and
    above 1 in the tails."""
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
