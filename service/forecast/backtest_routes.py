"""POST /cross_validation: forecasts from several points of the past of a series, and how good they are."""

import asyncio
import math
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.forecast.accuracy import accuracy, seasonal_scales
from service.forecast.backtest import Backtest, BacktestRequest, run_backtest
from service.forecast.inputs import (
    Times,
    by_level,
    check_answer,
    check_horizon,
    check_windows,
    quantile_levels,
    series_values,
    timestamps,
    value_bounds,
)
from service.forecast.kind import FORECAST
from service.forecast.schemas import CrossValidationAnswer, CrossValidationBody
from service.forecast.task import initial_state, used_seasons
from service.http.context import TIMEOUT_HEADERS, Context
from service.http.json_pieces import json_pieces, large_json_answer
from service.http.json_route import JsonRoute
from service.http.offload import take_turns
from service.http.problems import documented

router = APIRouter(tags=["series"], route_class=JsonRoute)

EXAMPLES: dict[str, Example] = {
    "two windows": {
        "summary": "Two windows of two values at the end, each forecast from all values before it",
        "value": {"series": [3, 4, 6, 5, 7, 8, 8, 9, 11, 10], "horizon": 2, "windows": 2, "levels": [80]},
    },
}


@router.post(
    "/cross_validation",
    operation_id="cross_validate",
    response_model=CrossValidationAnswer,
    openapi_extra=TIMEOUT_HEADERS,
    responses=documented(400, 401, 404, 409, 413, 422, 429, 503, 504),
)
async def post_cross_validation(
    body: Annotated[CrossValidationBody, Body(openapi_examples=EXAMPLES)],
    call: Context,
) -> Response:
    """Forecast a series from several points of its own past, in one pass, and compare with the values that followed. Of
    the time after such a point, the model gets only the features that it knows ahead, from the series itself."""
    app = call.app
    model = app.registry.find_kind(body.model, FORECAST)
    manifest = model.manifest
    values = series_values(body.series, False, manifest, app.settings)
    levels = quantile_levels(body.quantiles, body.levels, manifest)
    check_horizon(body.horizon, app.settings, "$.horizon")
    step = body.horizon if body.step is None else body.step
    check_windows(body.windows, app.settings, "$.windows")
    check_answer(body.windows * body.horizon * (len(levels) + 2), app.settings, "$.windows")
    request = BacktestRequest(values, body.horizon, body.windows, step, levels, value_bounds(body))
    request.check()
    times = timestamps(body, len(values))
    start = initial_state(manifest, body.season_length, body.freq)
    call.hold(request.max_bytes(manifest), "$.windows", model.engine)
    task = run_backtest(manifest, request, start)
    backtest = await asyncio.wrap_future(call.submit(model.engine, task, request.cost_steps))
    app.metrics.read.labels(model.label).inc(request.steps_read)
    app.metrics.predicted.labels(model.label).inc(body.windows * body.horizon)
    season_length = used_seasons(start)
    seasons = season_length if season_length and season_length[0] > 1 else backtest.seasons
    scales = seasonal_scales(values[:, 0], seasons[0] if seasons else 1, backtest.cutoffs)
    scores = accuracy(backtest.actual, backtest.median, backtest.quantiles, levels, scales)
    windows = [window async for window in take_turns(_windows(backtest, levels, times), call.deadline)]
    pieces = json_pieces(
        {
            "model": {"name": manifest.name, "version": manifest.version},
            "horizon": body.horizon,
            "windows": windows,
            "metrics": {
                "mase": _or_none(scores.mase),
                "smape": _or_none(scores.smape),
                "scaled_quantile_loss": _or_none(scores.scaled_quantile_loss),
                "coverage": {f"{level:g}": _or_none(share) for level, share in scores.coverage.items()},
            },
            "season_length": seasons,
        }
    )
    return await large_json_answer(pieces, call.deadline)


def _windows(backtest: Backtest, levels: tuple[float, ...], times: Times | None) -> Iterator[dict[str, Any]]:
    """Each window as a `WindowAnswer`."""
    for i, cutoff in enumerate(backtest.cutoffs):
        yield {
            "cutoff": cutoff,
            "quantiles": by_level(levels, backtest.quantiles[i]),
            "median": np.ascontiguousarray(backtest.median[i]),
            "actual": np.ascontiguousarray(backtest.actual[i]),
            "timestamps": times and times(cutoff, len(backtest.actual[i])),
        }


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number
