"""Measures of quantile forecasts over NumPy arrays: MASE, sMAPE, scaled quantile loss, coverage. Where pandas is
installed, `training/evaluation/metrics.py` takes utilsforecast's; a test compares the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.forecast.intervals import Floats


@dataclass(frozen=True)
class Accuracy:
    """Means over the values that are not missing; NaN where there is none, or nothing to scale by.

    mase: absolute errors of the median, over the mean absolute seasonal difference of the values before the cutoff;
    smape: 200 |y - f| / (|y| + |f|); scaled_quantile_loss: twice the pinball loss, mean over the levels, scaled as
    `mase`; coverage: the share of values within each central interval, by its level in percent.
    """

    mase: float
    smape: float
    scaled_quantile_loss: float
    coverage: dict[float, float]


def accuracy(actual: Floats, median: Floats, quantiles: Floats, levels: Sequence[float], scales: Floats) -> Accuracy:
    """How good forecasts of W windows were: actual and median (W, H), quantiles (W, H, L) at ascending levels; scales
    (W,) as `seasonal_scales` gives them."""
    error, size = np.abs(actual - median), np.abs(actual) + np.abs(median)
    units = np.where(scales > 0, scales, np.nan)[:, None]
    ordered, above = np.asarray(levels), actual[..., None] - quantiles
    pinball = np.maximum(ordered * above, (ordered - 1) * above).mean(axis=-1)
    coverage = {}
    for i, low in enumerate(levels):
        j = next((j for j, high in enumerate(levels) if low < 0.5 and abs(low + high - 1) < 1e-9), None)
        if j is not None:
            inside = (actual >= quantiles[..., i]) & (actual <= quantiles[..., j])
            coverage[round(100 * (1 - 2 * low), 4)] = _mean(np.where(np.isfinite(actual), inside, np.nan))
    smape = _mean(200 * error / np.where(size > 0, size, 1.0))
    return Accuracy(_mean(error / units), smape, _mean(2 * pinball / units), coverage)


def seasonal_scales(target: Floats, season: int, cutoffs: Sequence[int]) -> Floats:
    """The mean absolute difference to the season before, of the values before each cutoff: (W,), NaN if there is none.
    One pass over the values, however many cutoffs."""
    changes = np.abs(target[season:] - target[:-season])
    finite = np.isfinite(changes)
    sums = np.concatenate([[0.0], np.where(finite, changes, 0.0).cumsum()])
    counts = np.concatenate([[0], finite.cumsum()])
    ends = np.maximum(np.array(cutoffs) - season, 0)
    means: Floats = sums[ends] / np.where(counts[ends] > 0, counts[ends], np.nan)
    return means


def _mean(numbers: Floats) -> float:
    """Of the finite numbers; NaN if there are none."""
    finite = numbers[np.isfinite(numbers)]
    return float(finite.mean()) if len(finite) else float("nan")
