"""POST /cross_validation: forecasts from several points of the past of a series, and how good they are."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.forecast.kind import FORECAST
from service.forecast.prepare import prepare_backtest
from service.forecast.schemas import CrossValidationAnswer, CrossValidationBody
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
    summary="Compare forecasts with what followed",
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
    prepared = prepare_backtest(body, model, app.settings)
    request = prepared.request
    call.hold(prepared.max_bytes, "$.windows", model.engine)
    result = await asyncio.wrap_future(call.submit(model.engine, prepared.task(), request.cost_steps))
    app.metrics.count(model.label, request.steps_read, request.windows * request.horizon)
    windows = [window async for window in take_turns(prepared.windows(result), call.deadline)]
    return await large_json_answer(json_pieces(prepared.answer(result, windows)), call.deadline)
