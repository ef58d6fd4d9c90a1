"""POST /forecast: the values that follow a series."""

from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.forecast.kind import FORECAST
from service.forecast.prepare import prepare_forecast
from service.forecast.schemas import ForecastAnswer, ForecastBody
from service.http.context import WRITE_HEADERS, Context
from service.http.json_pieces import json_fragments
from service.http.json_route import JsonRoute, to_json
from service.http.problems import documented
from service.http.replies import stateful
from service.http.stateful import resume

router = APIRouter(tags=["series"], route_class=JsonRoute)

EXAMPLES: dict[str, Example] = {
    "a series": {
        "summary": "The next six months, with an interval of 80 %; one month of the series is missing",
        "value": {
            "series": [112, 118, 132, 129, None, 135, 148, 148, 136, 119, 104, 118],
            "horizon": 6,
            "levels": [80],
            "start": "1949-01-01",
            "freq": "MS",
        },
    },
    "within bounds": {
        "summary": "Percentages, within 0 to 100; of the next eight values, only the fifth to the eighth",
        "value": {
            "series": [91, 97, 93, 96, 90, 95, 98, 94],
            "horizon": 8,
            "from_step": 5,
            "lower": 0,
            "upper": 100,
            "quantiles": [0.001, 0.5, 0.999],
        },
    },
    "with history": {
        "summary": "Also the one-step-ahead forecast of each value of the series",
        "value": {"series": [3, 4, 6, 5, 7, 8, 8, 9], "horizon": 2, "quantiles": [0.5], "include_history": True},
    },
}


@router.post(
    "/forecast",
    operation_id="forecast",
    summary="Forecast a series",
    response_model=ForecastAnswer,
    openapi_extra=WRITE_HEADERS,
    responses=documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
@stateful
async def post_forecast(
    body: Annotated[ForecastBody, Body(openapi_examples=EXAMPLES)],
    call: Context,
) -> Response:
    """Forecast the values that follow a series, with quantiles. With a session, send only the new values."""
    async with resume(call, body, FORECAST) as run:
        prepared = prepare_forecast(body, run.model, run.start, run.returns_state, call.app.settings)
        request = prepared.request
        run.hold(prepared.max_bytes, "$.include_history" if body.include_history else "$.series")
        result = await run.submit(prepared.task(), request.cost_steps)
        call.app.metrics.count(run.model.label, request.steps_read, request.horizon)
        answer = await json_fragments(prepared.answer(result), call.deadline)
        ending = run.ending(result.after)
        response = await run.commit(ending, to_json({**answer, **ending.fields}))
        if run.updates_session and result.scores.values:
            scores = result.scores
            call.app.metrics.accuracy.count(run.model.label, scores.values, scores.scaled_error, scores.inside)
        return response
