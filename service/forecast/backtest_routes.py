"""POST /cross_validation."""

import asyncio
import math
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.errors import LimitExceededError
from service.forecast.backtest import CrossValidation, CrossValidationRequest, accuracy, cross_validate
from service.forecast.inputs import (
    Times,
    by_level,
    check_answer,
    check_windows,
    quantile_levels,
    series_values,
    timestamps,
    value_bounds,
)
from service.forecast.kind import FORECAST
from service.forecast.schemas import CrossValidationAnswer, CrossValidationBody
from service.forecast.task import begin, season_of
from service.http.context import TIMEOUT_HEADERS, Context
from service.http.json_pieces import large_json_answer, json_pieces
from service.http.json_route import JsonRoute
from service.http.offload import take_turns
from service.http.problems import documented

router = APIRouter(tags=["series"], route_class=JsonRoute)

EXAMPLES: dict[str, Example] = {
    "two windows": {
        "summary": "The last two values, and the two before them, each forecast from all values before",
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
    """Forecast a series from several points of its own past, beside what came, in one pass over its values. Of the time
    after such a point, the model is told only the features that it knows ahead, from the series itself."""
    app = call.app
    model = app.registry.find_kind(body.model, FORECAST)
    manifest = model.manifest
    values = series_values(body.series, False, manifest, app.settings)
    levels = quantile_levels(body.quantiles, body.levels, manifest)
    if body.horizon > app.settings.max_horizon:
        raise LimitExceededError(f"at most {app.settings.max_horizon} values are forecast at once", "$.horizon")
    step = body.horizon if body.step is None else body.step
    check_windows(body.windows, app.settings, "$.windows")
    check_answer(body.windows * body.horizon * (len(levels) + 2), app.settings, "$.windows")
    request = CrossValidationRequest(values, body.horizon, body.windows, step, levels, value_bounds(body))
    request.check()
    times = timestamps(body, len(values))
    start = begin(manifest, body.season_length, body.freq)
    call.hold(request.most_bytes(manifest), "$.windows", model.engine)
    task = cross_validate(manifest, request, start)
    found = await asyncio.wrap_future(call.submit(model.engine, task, request.cost_steps))
    app.metrics.read.labels(model.label).inc(request.cutoffs[-1])
    app.metrics.predicted.labels(model.label).inc(body.windows * body.horizon)
    told = season_of(start)
    season = told if told and told[0] > 1 else found.season
    scores = accuracy(found, values[:, 0], levels, season[0] if season else 1)
    windows = [window async for window in take_turns(_windows(found, levels, times), call.deadline)]
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
            "season_length": season,
        }
    )
    return await large_json_answer(pieces, call.deadline)


def _windows(found: CrossValidation, levels: tuple[float, ...], times: Times | None) -> Iterator[dict[str, Any]]:
    """Each a `WindowAnswer`."""
    for i, cutoff in enumerate(found.cutoffs):
        yield {
            "cutoff": cutoff,
            "quantiles": by_level(levels, found.quantiles[i]),
            "median": np.ascontiguousarray(found.median[i]),
            "actual": np.ascontiguousarray(found.actual[i]),
            "timestamps": times and times(cutoff, len(found.actual[i])),
        }


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number
