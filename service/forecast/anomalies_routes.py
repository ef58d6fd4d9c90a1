"""POST /anomalies: which values of a series are out of the ordinary."""

from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.forecast.kind import FORECAST
from service.forecast.prepare import prepare_anomalies
from service.forecast.schemas import AnomalyAnswer, AnomalyBody
from service.http.context import WRITE_HEADERS, Context
from service.http.json_pieces import json_fragments
from service.http.json_route import JsonRoute, to_json
from service.http.problems import documented
from service.http.replies import stateful
from service.http.stateful import resume

router = APIRouter(tags=["series"], route_class=JsonRoute)

EXAMPLES: dict[str, Example] = {
    "a series": {
        "summary": "One of these values is out of the ordinary",
        "value": {"series": [12, 13, 12, 14, 13, 12, 13, 41, 13, 12], "level": 80},
    },
    "with a state": {
        "summary": "The first value of a series that grows: send the answer's `state` with the next value",
        "value": {"series": [13.2], "state": ""},
    },
}


@router.post(
    "/anomalies",
    operation_id="detect_anomalies",
    summary="Find the anomalies of a series",
    response_model=AnomalyAnswer,
    openapi_extra=WRITE_HEADERS,
    responses=documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
@stateful
async def post_anomalies(
    body: Annotated[AnomalyBody, Body(openapi_examples=EXAMPLES)],
    call: Context,
) -> Response:
    """Find the values of a series that lie outside of the interval forecast from the values before them. With a
    session, send only the new values; the cost does not depend on how many came before."""
    async with resume(call, body, FORECAST) as run:
        prepared = prepare_anomalies(body, run.model, run.start, run.returns_state, call.app.settings)
        request = prepared.request
        run.hold(prepared.max_bytes, "$.series")
        result = await run.submit(prepared.task(), request.cost_steps)
        call.app.metrics.count(run.model.label, request.steps_read, 0)
        answer = await json_fragments(prepared.answer(result), call.deadline)
        ending = run.ending(result.after)
        response = await run.commit(ending, to_json({**answer, **ending.fields}))
        if run.updates_session and result.scores.values:
            scores = result.scores
            call.app.metrics.accuracy.count(run.model.label, scores.values, scores.scaled_error, scores.inside)
        return response
