"""A forecast: from JSON to a task, and from its result to JSON."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engine.sequence import SequenceState
from service.errors import InvalidRequestError
from service.forecast.inputs import (
    Times,
    by_level,
    check_answer,
    check_horizon,
    future_values,
    quantile_levels,
    series_values,
    timestamps,
    value_bounds,
)
from service.forecast.manifest import ForecastManifest
from service.forecast.schemas import ForecastBody
from service.forecast.task import Forecast, ForecastRequest, forecast, initial_state, used_seasons
from service.http.context import RequestContext
from service.http.state import AppState
from service.kind import Model


@dataclass(frozen=True)
class PreparedForecast:
    """A valid request, with its model and the state that it starts from."""

    model: Model[ForecastManifest]
    start: SequenceState
    request: ForecastRequest
    times: Times | None

    @property
    def max_bytes(self) -> int:
        """The most memory that the request holds until it is answered."""
        return self.request.max_bytes(self.model.manifest) + self.model.graphs.state_bytes

    def submit(self, call: RequestContext) -> "Future[Forecast]":
        """Submit it to the engine."""
        task = forecast(self.model.manifest, self.request, self.start)
        return call.submit(self.model.engine, task, self.request.cost_steps)

    def answer(self, result: Forecast, app: AppState) -> Mapping[str, Any]:
        """A `ForecastAnswer` without `session` and `state`. Counts the steps in the metrics."""
        model, request, levels = self.model, self.request, self.request.levels
        before = len(request.values) + request.from_step - 1
        app.metrics.read.labels(model.label).inc(len(request.values))
        app.metrics.predicted.labels(model.label).inc(request.horizon)
        return {
            "model": {"name": model.manifest.name, "version": model.manifest.version},
            "horizon": request.horizon,
            "from_step": request.from_step,
            "quantiles": by_level(levels, result.quantiles),
            "median": np.ascontiguousarray(result.median),
            "timestamps": self.times and self.times(before, len(result.median)),
            "season_length": used_seasons(result.after),
            "history": None if result.history is None else {"quantiles": by_level(levels, result.history)},
        }


def prepare(
    body: ForecastBody, model: Model[ForecastManifest], start: SequenceState, returns_state: bool, app: AppState
) -> PreparedForecast:
    """Validate a request, and turn its series into arrays.

    Raises:
        InvalidRequestError, LimitExceededError: a field is not acceptable.
    """
    manifest, settings = model.manifest, app.settings
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
