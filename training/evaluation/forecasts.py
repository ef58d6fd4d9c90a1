"""Lets a forecaster forecast evaluation windows, as a caller of the service would, with a hint of the season."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carry.models import ForecastModel, usual_season
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest
from training.evaluation.eval_windows import EvalWindow

Hint = Literal["usual", "season", "none"]
"""What a caller tells a model of a window's season: the usual seasons of its frequency, such as the day and the week of
hourly values; the one season that the measures scale by; or nothing."""


def forecast_windows(
    model: ForecastModel, windows: Sequence[EvalWindow], horizon: int, levels: Sequence[float], hint: Hint = "usual"
) -> NDArray[np.float64]:
    """Forecast what follows each history, as many values as its truth has: quantiles (N, horizon, Q), NaN beyond. The
    model knows the hint of the season, and the future of the features known ahead.

    Raises:
        CarryError: the model refuses a series.
    """
    pending = []
    for window in windows:
        future = known_future(window, model.manifest)
        request = ForecastRequest(window.history, len(window.truth), tuple(levels), future=future)
        pending.append(model.submit(request, hinted_season(model.manifest, window, hint)))
    quantiles = np.full((len(windows), horizon, len(levels)), np.nan)
    for row, window, forecast in zip(quantiles, windows, pending, strict=True):
        row[: len(window.truth)] = forecast.result().quantiles
    return quantiles


def known_future(window: EvalWindow, manifest: ForecastManifest) -> NDArray[np.float64] | None:
    """The future (H, K) of the features known ahead; None where there are none."""
    if window.future is None or not manifest.known_ahead:
        return None
    return window.future[:, [manifest.features.index(name) for name in manifest.known_ahead]]


def hinted_season(manifest: ForecastManifest, window: EvalWindow, hint: Hint) -> tuple[int, ...] | None:
    """The seasons that a hint tells the model; None tells it nothing."""
    if hint == "none":
        return None
    return usual_season(manifest, window.group if hint == "usual" else None, window.season)
