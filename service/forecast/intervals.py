"""How the quantiles of a forecast go on beyond its model's horizon. Knows nothing of models.

Only those within it say how uncertain the series is. A recurrent network that reads its own median, or any curve as
smooth, takes the series for a quiet one: its intervals would shrink; and of paths that it drew itself, one that goes
astray makes it expect more of them, so that they would burst.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def widened(within: Floats, levels: Sequence[float], median: Floats, season: int | None) -> Floats:
    """Quantiles (N, Q) of the steps after those that `within` (H, Q) is of, around their median (N,). `season`: of how
    many values, None if it is not known.

    They lie around it as they do at the same place of the last season within, further apart by two things. Their
    variance goes on growing along a straight line, as that of a level which wanders does (ETS(A,N,N); Hyndman et al.,
    "Forecasting with Exponential Smoothing", 2008, section 6.3). And where the median moves away from what it is at
    that place, it might as well not, or twice as far: that is a standard deviation.
    """
    horizon, middle = len(within), levels.index(0.5)
    around = within - within[:, [middle]]
    half = max(1, horizon // 2)
    # A season that the last half of what is known does not hold cannot be told from a trend.
    cycle = season if season is not None and season <= half else None
    steps = np.arange(len(median))
    like = horizon - (cycle or 1) + steps % (cycle or 1)
    deviation = (around[:, -1] - around[:, 0]) / max(_score(levels[-1]) - _score(levels[0]), 1e-9)
    early, late = (float((part**2).mean()) for part in (deviation[:half], deviation[-half:]))
    # Of one step alone, nothing is known but that a series may wander.
    growth = max(0.0, late - early) / (horizon - half) if horizon > 1 else late
    begins = late - growth * (horizon - (half + 1) / 2)
    line = np.array(begins + growth * np.arange(horizon + len(median)))
    factor = _over(line[horizon:], line[like], 1.0)
    if cycle is not None:
        factor += _over(median - within[like, middle], deviation[like], 0.0) ** 2
    found: Floats = median[:, None] + around[like] * np.sqrt(factor)[:, None]
    return found


def _over(numbers: Floats, divisors: Floats, otherwise: float) -> Floats:
    """`otherwise` where nothing can be divided by."""
    return np.divide(numbers, divisors, out=np.full_like(numbers, otherwise), where=divisors > 0)


def _score(level: float) -> float:
    return NormalDist().inv_cdf(level)
