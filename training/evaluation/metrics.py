"""Measures of quantile forecasts, utilsforecast's where it has them, each over all windows alike."""

from collections.abc import Sequence
from statistics import geometric_mean

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from utilsforecast import losses

from service.forecast.accuracy import seasonal_scales
from service.forecast.intervals import interval_to_quantiles
from training.evaluation.eval_windows import EvalWindow

INTERVALS = (50, 80, 95)
"""Central intervals, in percent, whose coverage is measured if both of their ends are among the levels."""


def score_forecasts(
    windows: Sequence[EvalWindow],
    quantiles: NDArray[np.float64],
    levels: Sequence[float],
    loss_levels: Sequence[float] | None = None,
) -> dict[str, float]:
    """Measures of quantile forecasts (N, H, Q), each the mean over windows. Missing truths do not count, nor do steps
    beyond the end of a shorter truth.

    - mae, mse: of the median. smape: 200 * mean(|y - f| / (|y| + |f|)), in percent.
    - mase: the median's mean absolute error over that of the in-sample seasonal naive forecast of the history.
    - scaled_quantile_loss: twice the pinball loss, mean over `loss_levels` (None: all), over the same denominator, so
      that with the one level 0.5 it is the mase.
    - coverage_P: the share of truths inside the central interval of P percent, for P = 50, 80, 95 and the widest.
    The scaled measures leave out windows whose history never changes, as they have no denominator;
    `windows_without_scale` counts them, if there are any.
    """
    table = _table(windows, quantiles, levels)
    median = _column(levels, 0.5)
    absolute = losses.mae(table, [median]).set_index("unique_id")[median]
    scores = {
        "mae": float(absolute.mean()),
        "mse": float(losses.mse(table, [median])[median].mean()),
        "smape": 200 * float(losses.smape(table, [median])[median].mean()),
    }
    scale = pd.Series(list(map(_scale, windows)))
    scale = scale[scale > 0]
    if len(scale) < len(windows):
        scores["windows_without_scale"] = float(len(windows) - len(scale))
    if len(scale):
        scores["mase"] = float((absolute / scale).mean())
        pinball = [
            losses.quantile_loss(table, {"loss": _column(levels, level)}, q=level).set_index("unique_id")["loss"]
            for level in (levels if loss_levels is None else loss_levels)
        ]
        scores["scaled_quantile_loss"] = float((2 * sum(pinball) / len(pinball) / scale).mean())
    for interval, ends in _intervals(levels).items():
        scores[f"coverage_{interval}"] = float(_coverage(table.assign(all=0), ends, "all")[0])
    return scores


MIN_RATIO = 0.01
"""Smaller ratios count as this one: a single forecast without an error would make their geometric mean 0."""


def relative_mae(
    windows: Sequence[EvalWindow], median: NDArray[np.float64], naive: NDArray[np.float64]
) -> tuple[float | None, int]:
    """The geometric mean over series of the mean absolute error of forecasts (N, H) over that of the seasonal naive
    forecasts: the relative MAE of Hyndman and Koehler (2006), averaged as Davydenko and Fildes (2013) do, except that
    each series counts alike, however many of its values were forecast.

    A series that the naive forecasts get exactly right has no ratio and is left out. The second number counts these; if
    there is no other series, the first is None.
    """
    errors: dict[str | int, list[NDArray[np.float64]]] = {}
    for i, window in enumerate(windows):
        forecasts = np.stack([median[i], naive[i]])[:, : len(window.truth)]
        errors.setdefault(window.series or i, []).append(np.abs(forecasts - window.truth))
    # Both have the same truths, so that the ratio of the sums is that of the means.
    sums = [np.nansum(np.concatenate(of_series, axis=1), axis=1) for of_series in errors.values()]
    ratios = [max(MIN_RATIO, error / naive_error) for error, naive_error in sums if naive_error > 0]
    return (geometric_mean(ratios) if ratios else None), len(sums) - len(ratios)


def coverage_by_step(
    windows: Sequence[EvalWindow], quantiles: NDArray[np.float64], levels: Sequence[float]
) -> dict[int, list[float | None]]:
    """Of each central interval (by its percentage), the share of truths inside it at each step ahead; None at steps
    that no truth reaches."""
    table = _table(windows, quantiles, levels)
    steps = range(quantiles.shape[1])
    shares: dict[int, list[float | None]] = {}
    for interval, ends in _intervals(levels).items():
        by_step = _coverage(table, ends, "step")
        shares[interval] = [float(by_step[step]) if step in by_step.index else None for step in steps]
    return shares


def _table(windows: Sequence[EvalWindow], quantiles: NDArray[np.float64], levels: Sequence[float]) -> pd.DataFrame:
    """A row for each known truth: its window's number, its step, its value `y`, and the quantiles."""
    count, horizon, _ = quantiles.shape
    truth = np.full((count, horizon), np.nan)
    for row, window in zip(truth, windows, strict=True):
        row[: len(window.truth)] = window.truth
    table = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(count), horizon),
            "step": np.tile(np.arange(horizon), count),
            "y": truth.ravel(),
            **{_column(levels, level): quantiles[:, :, i].ravel() for i, level in enumerate(levels)},
        }
    )
    return table.dropna(subset="y")


def _column(levels: Sequence[float], level: float) -> str:
    return f"q{list(levels).index(level)}"


def _intervals(levels: Sequence[float]) -> dict[int, tuple[str, str]]:
    """The columns of both ends of each measured interval, by its percentage."""
    ends = {interval: interval_to_quantiles(interval) for interval in INTERVALS}
    ends[round(100 * (levels[-1] - levels[0]))] = (levels[0], levels[-1])
    return {
        interval: (_column(levels, low), _column(levels, high))
        for interval, (low, high) in sorted(ends.items())
        if low in levels and high in levels and low < high
    }


def _coverage(table: pd.DataFrame, ends: tuple[str, str], by: str) -> "pd.Series[float]":
    """The share of truths inside an interval, for each value of the column `by`."""
    named = table.rename(columns=dict(zip(ends, ("forecast-lo-0", "forecast-hi-0"), strict=True)))
    return losses.coverage(named, ["forecast"], 0, id_col=by).set_index(by)["forecast"]


def _scale(window: EvalWindow) -> float:
    """The denominator of a window's scaled measures; NaN where there is none."""
    target = window.history[:, 0]
    lag = window.season if len(target) > window.season else 1
    return float(seasonal_scales(target, lag, [len(target)])[0])
