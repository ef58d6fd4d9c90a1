"""Paths that a series may take through the quantiles forecast for it, and the quantiles of many such paths.

Only so can a recurrent network go on beyond its horizon: reading its own median, or any curve as smooth, it would take
the series for a quiet one, and its intervals would shrink. Knows nothing of models.
"""

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PATHS = 32
POINTS = 24
"""Of each path's distribution, from which those of all are pooled."""
FURTHEST = 2.0
"""Standard deviations that a path goes from its median: one wild path would make the network expect more of them."""
_normal = NormalDist()


def draw(quantiles: Floats, levels: Sequence[float], block: int) -> Floats:
    """A path through each of quantiles (R, H, Q): (R, H), the same ones at every call; `block` tells apart the parts of
    a long path.

    How far the next step follows this one, quantiles do not say, but how they spread does: what the variance grows by
    with each step stays, as in a random walk, and what the first step has beyond that is noise of its own.
    """
    known = _scores(tuple(levels))
    spread = (quantiles[..., -1] - quantiles[..., 0]) / max(known[-1] - known[0], 1e-9)
    variance = np.maximum.accumulate(spread**2, axis=1)
    growth = np.diff(variance, axis=1, prepend=0.0)
    lasting = growth[:, 1:].mean(axis=1) if growth.shape[1] > 1 else growth[:, 0]
    growth[:, 0] = np.minimum(growth[:, 0], lasting)
    noise = variance[:, :1] - growth[:, :1]
    steps, own = _noise(*spread.shape, block)
    walked = (np.sqrt(growth) * steps).cumsum(axis=1) + np.sqrt(noise) * own
    deviation = np.sqrt(variance)
    scores = np.divide(walked, deviation, out=np.zeros_like(walked), where=deviation > 0)
    # So few paths vary at each step by what chance made of them, unless they are held to vary by 1.
    scores /= np.maximum(np.sqrt((scores**2).mean(axis=0)), 1e-9)
    return quantile_at(scores.clip(-FURTHEST, FURTHEST)[..., None], quantiles, levels)[..., 0]


def pool(quantiles: Floats, levels: Sequence[float]) -> Floats:
    """The quantiles (H, Q) of the mixture of R distributions, each given by its own (R, H, Q)."""
    points = np.array([_normal.inv_cdf((i + 0.5) / POINTS) for i in range(POINTS)])
    sampled = quantile_at(np.broadcast_to(points, (*quantiles.shape[:-1], POINTS)), quantiles, levels)
    mixed: Floats = np.quantile(sampled.transpose(1, 0, 2).reshape(quantiles.shape[1], -1), levels, axis=1).T
    return mixed


def quantile_at(scores: Floats, quantiles: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles (..., Q) at the ascending levels -> (..., P), at normal scores (..., P) of other levels: linear in the
    score between them, and beyond them as far out as the last two lie apart."""
    if len(levels) == 1:
        return np.broadcast_to(quantiles, scores.shape)
    known = _scores(tuple(levels))
    right = np.clip(np.searchsorted(known, scores), 1, len(known) - 1)
    low, high = np.take_along_axis(quantiles, right - 1, -1), np.take_along_axis(quantiles, right, -1)
    share = (scores - known[right - 1]) / (known[right] - known[right - 1])
    found: Floats = low + share * (high - low)
    return found


@lru_cache(maxsize=64)
def _scores(levels: tuple[float, ...]) -> Floats:
    return np.array([_normal.inv_cdf(level) for level in levels])


@lru_cache(maxsize=64)
def _noise(rows: int, steps: int, block: int) -> tuple[Floats, Floats]:
    """Two tables (rows, steps) of standard normal numbers, half of them the other half with the sign changed."""
    half = np.random.default_rng(block).normal(size=(2, -(-rows // 2), steps))
    both = np.concatenate([half, -half], axis=1)[:, :rows]
    return both[0], both[1]
