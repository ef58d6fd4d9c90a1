"""Calls about series: from a validated body to a task of the engine, and from its result to the fields of the answer.
Knows nothing of HTTP: the routes and carry/local.py are the callers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import InvalidRequestError
from service.forecast.accuracy import accuracy, seasonal_scales
from service.forecast.anomalies import Anomalies, AnomalyRequest, detect_anomalies
from service.forecast.backtest import Backtest, BacktestRequest, run_backtest
from service.forecast.inputs import (
    Times,
    by_level,
    check_answer,
    check_horizon,
    check_windows,
    future_values,
    quantile_levels,
    timestamps,
    value_bounds,
)
from service.forecast.intervals import interval_to_quantiles
from service.forecast.manifest import ForecastManifest
from service.forecast.schemas import AnomalyBody, CrossValidationBody, ForecastBody
from service.forecast.task import Forecast, ForecastRequest, check_levels, forecast, initial_state, used_seasons
from service.kind import Model
from service.series import series_values
from service.settings import Settings

DEFAULT_LEVEL = 99.0
"""The interval outside of which a value is an anomaly, in percent."""

ForecastModel = Model[ForecastManifest]


@dataclass(frozen=True)
class PreparedForecast:
    """A valid `ForecastBody`, with its model and the state that it starts from."""

    model: ForecastModel
    start: SequenceState
    request: ForecastRequest
    times: Times | None

    @property
    def max_bytes(self) -> int:
        """The most memory that the request holds until it is answered."""
        return self.request.max_bytes(self.model.manifest) + self.model.graphs.state_bytes

    @property
    def answer_items(self) -> int:
        """Quantiles of the answer."""
        request = self.request
        return (request.horizon + len(request.values) * request.include_history) * len(request.levels)

    def task(self) -> Task[Forecast]:
        """The task of `request.cost_steps` steps."""
        return forecast(self.model.manifest, self.request, self.start)

    def answer(self, result: Forecast) -> dict[str, Any]:
        """A `ForecastAnswer` without `session` and `state`."""
        request, levels = self.request, self.request.levels
        before = len(request.values) + request.from_step - 1
        return {
            "model": _model_id(self.model),
            "horizon": request.horizon,
            "from_step": request.from_step,
            "quantiles": by_level(levels, result.quantiles),
            "median": np.ascontiguousarray(result.median),
            "timestamps": self.times and self.times(before, len(result.median)),
            "season_length": used_seasons(result.after),
            "history": None if result.history is None else {"quantiles": by_level(levels, result.history)},
        }


def prepare_forecast(
    body: ForecastBody, model: ForecastModel, start: SequenceState, returns_state: bool, settings: Settings
) -> PreparedForecast:
    """Validate a forecast, and turn its series into arrays.

    Raises:
        InvalidRequestError, LimitExceededError: a field is not acceptable.
    """
    manifest = model.manifest
    values = series_values(body.series, start.position > 0, manifest, settings)
    check_horizon(body.horizon, settings, "$.horizon")
    if body.from_step > body.horizon:
        raise InvalidRequestError(f"must be at most the horizon, {body.horizon}", "$.from_step")
    levels = quantile_levels(body.quantiles, body.levels, manifest)
    if body.include_history:
        check_answer(len(values) * len(levels), settings, "$.include_history")
    future = future_values(body.future, body.horizon, manifest)
    times = timestamps(body, len(values) + body.horizon)
    request = ForecastRequest(
        values,
        body.horizon,
        levels,
        body.include_history,
        value_bounds(body),
        future,
        body.from_step,
        returns_state=returns_state,
    )
    return PreparedForecast(model, initial_state(manifest, body.season_length, body.freq, start), request, times)


@dataclass(frozen=True)
class PreparedAnomalies:
    """A valid `AnomalyBody`, with its model and the state that it starts from."""

    model: ForecastModel
    start: SequenceState
    request: AnomalyRequest
    times: Times | None

    @property
    def max_bytes(self) -> int:
        """The most memory that the request holds until it is answered."""
        return self.request.max_bytes(self.model.manifest)

    def task(self) -> Task[Anomalies]:
        """The task of `request.cost_steps` steps."""
        return detect_anomalies(self.model.manifest, self.request, self.start)

    def answer(self, result: Anomalies) -> dict[str, Any]:
        """An `AnomalyAnswer` without `session` and `state`. NaN stands for null."""
        anomaly = result.outside.astype(object)
        anomaly[~result.judged] = None
        return {
            "model": _model_id(self.model),
            "level": self.request.level,
            "anomaly": anomaly.tolist(),
            "lower": result.lower.copy(),
            "upper": result.upper.copy(),
            "median": result.median.copy(),
            "score": np.where(result.judged, result.score, np.nan),
            "timestamps": self.times and self.times(0, len(self.request.values)),
            "season_length": used_seasons(result.after),
        }


def prepare_anomalies(
    body: AnomalyBody, model: ForecastModel, start: SequenceState, returns_state: bool, settings: Settings
) -> PreparedAnomalies:
    """Validate a search for anomalies, and turn its series into arrays.

    Raises:
        InvalidRequestError, LimitExceededError: a field is not acceptable.
    """
    manifest = model.manifest
    values = series_values(body.series, start.position > 0, manifest, settings)
    check_answer(5 * len(values), settings, "$.series")
    level = DEFAULT_LEVEL if body.level is None else body.level
    check_levels(interval_to_quantiles(level), manifest, "$.level")
    times = timestamps(body, len(values))
    future = future_values(body.future, manifest.horizon, manifest)
    start = initial_state(manifest, body.season_length, body.freq, start)
    request = AnomalyRequest(values, level, value_bounds(body), future, returns_state)
    return PreparedAnomalies(model, start, request, times)


@dataclass(frozen=True)
class PreparedBacktest:
    """A valid `CrossValidationBody`, with its model and the empty state, which has the seasons."""

    model: ForecastModel
    start: SequenceState
    request: BacktestRequest
    times: Times | None

    @property
    def max_bytes(self) -> int:
        """The most memory that the request holds until it is answered."""
        return self.request.max_bytes(self.model.manifest)

    def task(self) -> Task[Backtest]:
        """The task of `request.cost_steps` steps."""
        return run_backtest(self.model.manifest, self.request, self.start)

    def windows(self, result: Backtest) -> Iterator[dict[str, Any]]:
        """Each window as a `WindowAnswer`."""
        for i, cutoff in enumerate(result.cutoffs):
            yield {
                "cutoff": cutoff,
                "quantiles": by_level(self.request.levels, result.quantiles[i]),
                "median": np.ascontiguousarray(result.median[i]),
                "actual": np.ascontiguousarray(result.actual[i]),
                "timestamps": self.times and self.times(cutoff, len(result.actual[i])),
            }

    def answer(self, result: Backtest, windows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A `CrossValidationAnswer` with these windows."""
        request, usual = self.request, used_seasons(self.start)
        seasons = usual if usual and usual[0] > 1 else result.seasons
        scales = seasonal_scales(request.values[:, 0], seasons[0] if seasons else 1, result.cutoffs)
        scores = accuracy(result.actual, result.median, result.quantiles, request.levels, scales)
        return {
            "model": _model_id(self.model),
            "horizon": request.horizon,
            "windows": windows,
            "metrics": {
                "mase": _or_none(scores.mase),
                "smape": _or_none(scores.smape),
                "scaled_quantile_loss": _or_none(scores.scaled_quantile_loss),
                "coverage": {f"{level:g}": _or_none(share) for level, share in scores.coverage.items()},
            },
            "season_length": seasons,
        }


def prepare_backtest(body: CrossValidationBody, model: ForecastModel, settings: Settings) -> PreparedBacktest:
    """Validate a backtest, and turn its series into arrays.

    Raises:
        InvalidRequestError, LimitExceededError: a field is not acceptable.
    """
    manifest = model.manifest
    values = series_values(body.series, False, manifest, settings)
    levels = quantile_levels(body.quantiles, body.levels, manifest)
    check_horizon(body.horizon, settings, "$.horizon")
    step = body.horizon if body.step is None else body.step
    check_windows(body.windows, settings, "$.windows")
    check_answer(body.windows * body.horizon * (len(levels) + 2), settings, "$.windows")
    request = BacktestRequest(values, body.horizon, body.windows, step, levels, value_bounds(body))
    request.check()
    times = timestamps(body, len(values))
    start = initial_state(manifest, body.season_length, body.freq, EMPTY_STATE)
    return PreparedBacktest(model, start, request, times)


def _model_id(model: ForecastModel) -> dict[str, Any]:
    """A `ModelId`."""
    return {"name": model.manifest.name, "version": model.manifest.version}


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number
