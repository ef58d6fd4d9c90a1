"""What `.plot()` of an answer draws, into the current picture of pyplot or into axes that the caller has. Knows no data
frames."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

try:
    from matplotlib import pyplot
    from matplotlib.axes import Axes
except ImportError:
    raise ImportError("plot() needs matplotlib, which is not installed: pip install 'carry-rnn[plots]'") from None

from carry.plots import MODEL, TRUTH, draw_fan, name_steps, plain_axes

if TYPE_CHECKING:
    from carry.answers import Anomalies, Backtest, Floats, Forecast


def plot_forecast(forecast: "Forecast", series: Sequence[Any] | None, times: Any, axes: Axes | None) -> Axes:
    """Draw a forecast (N,) after the series (T,), if that is there: the median, and a band for each central interval.
    Over the times, where they are known of both; else over steps, of which 1 is the first one ahead."""
    axes, count, past = _axes(axes), len(forecast.median), _numbers(series)
    ahead: NDArray[Any] = np.arange(1, count + 1)
    before: NDArray[Any] = np.arange(1 - len(past), 1)
    if forecast.timestamps is not None and (times is not None or not len(past)):
        ahead, before = as_times(forecast.timestamps), as_times(times if len(past) else [])
    axes.plot(before, past, color=TRUTH, lw=1)
    _fan(axes, ahead, forecast.median, forecast.quantiles)
    _finish(axes, np.concatenate([before, ahead]), "steps ahead")
    return axes


def plot_anomalies(anomalies: "Anomalies", series: Sequence[Any], times: Any, axes: Axes | None) -> Axes:
    """Draw the series (T,), the interval that was forecast of each value, and a dot on each anomaly."""
    axes, values = _axes(axes), _numbers(series)
    x = _positions(anomalies.timestamps if times is None else times, len(values))
    axes.fill_between(
        x, anomalies.lower, anomalies.upper, color=MODEL, alpha=0.16, lw=0, label=f"{anomalies.level:g} %"
    )
    axes.plot(x, values, color=TRUTH, lw=1)
    outside = np.array([flag is True for flag in anomalies.anomaly])
    axes.plot(x[outside], values[outside], "o", color=MODEL, ms=5, label="anomaly")
    # A forecast after few values may be so wide that it hides the series.
    low, high = np.nanmin(values), np.nanmax(values)
    margin = 0.25 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    _finish(axes, x, "step")
    return axes


def plot_backtest(backtest: "Backtest", series: Sequence[Any], times: Any, axes: Axes | None) -> Axes:
    """Draw the series (T,), and over it the forecast of each window."""
    axes, values = _axes(axes), _numbers(series)
    x = _positions(times, len(values))
    axes.plot(x, values, color=TRUTH, lw=1)
    for i, window in enumerate(backtest.windows):
        span = x[window.cutoff : window.cutoff + len(window.median)]
        _fan(axes, span, window.median, window.quantiles, named=i == 0)
    _finish(axes, x, "step")
    return axes


def as_times(times: Any) -> NDArray[np.datetime64]:
    """Times (T,) for a picture, of ISO 8601 texts or of anything that NumPy reads as times. Of times with an offset,
    the time on the clock."""
    if any(isinstance(time, str) for time in list(times)[:1]):
        times = [datetime.fromisoformat(time).replace(tzinfo=None) for time in times]
    return np.asarray(times, dtype="datetime64[us]")


def _axes(axes: Axes | None) -> Axes:
    """The caller's axes, or those of a new picture."""
    return axes if axes is not None else pyplot.subplots(figsize=(8, 3), layout="constrained")[1]


def _numbers(series: Sequence[Any] | None) -> "Floats":
    return np.array([] if series is None else [*series], dtype=np.float64)


def _positions(times: Any, count: int) -> NDArray[Any]:
    return np.arange(1, count + 1) if times is None else as_times(times)


def _fan(
    axes: Axes, x: NDArray[Any], median: "Floats", quantiles: Mapping[float, "Floats"], named: bool = True
) -> None:
    """Draw the median and the central intervals; quantiles without their counterpart as thin lines."""
    by_level = {round(level, 6): values for level, values in quantiles.items()} | {0.5: median}
    pairs = sorted(level for level in by_level if round(1 - level, 6) in by_level)
    handles = len(axes.get_legend_handles_labels()[0])
    draw_fan(axes, x, np.stack([by_level[level] for level in pairs], axis=1), pairs)
    for level in sorted(by_level.keys() - {*pairs}):
        axes.plot(x, by_level[level], color=MODEL, lw=0.6, ls=":", label=f"quantile {level:g}")
    if not named:  # the first window has named them
        for handle in axes.get_legend_handles_labels()[0][handles:]:
            handle.set_label("")


def _finish(axes: Axes, x: NDArray[Any], name: str) -> None:
    plain_axes(axes)
    name_steps(axes, x, name)
    axes.legend(loc="best", frameon=False, fontsize=8)
