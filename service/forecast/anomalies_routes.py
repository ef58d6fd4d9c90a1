"""POST /anomalies: which values of a series are out of the ordinary."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.forecast.anomalies import Anomalies, AnomalyRequest, detect_anomalies
from service.forecast.inputs import check_answer, future_values, series_values, timestamps, value_bounds
from service.forecast.intervals import interval_to_quantiles
from service.forecast.kind import FORECAST
from service.forecast.schemas import AnomalyAnswer, AnomalyBody
from service.forecast.task import check_levels, initial_state, used_seasons
from service.http.context import WRITE_HEADERS, Context
from service.http.json_pieces import json_fragments
from service.http.json_route import JsonRoute, to_json
from service.http.problems import documented
from service.http.replies import stateful
from service.http.stateful import resume

router = APIRouter(tags=["series"], route_class=JsonRoute)

DEFAULT_LEVEL = 99.0

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
    app, settings = call.app, call.app.settings
    async with resume(call, body, FORECAST) as run:
        manifest = run.model.manifest
        values = series_values(body.series, run.start.position > 0, manifest, settings)
        check_answer(5 * len(values), settings, "$.series")
        level = DEFAULT_LEVEL if body.level is None else body.level
        check_levels(interval_to_quantiles(level), manifest, "$.level")
        times = timestamps(body, len(values))
        future = future_values(body.future, manifest.horizon, manifest)
        start = initial_state(manifest, body.season_length, body.freq, run.start)
        request = AnomalyRequest(values, level, value_bounds(body), future)
        run.hold(request.max_bytes(manifest), "$.series")
        result = await run.submit(detect_anomalies(manifest, request, start), request.cost_steps)
        app.metrics.read.labels(run.model.label).inc(request.cost_steps)
        answer = {
            "model": {"name": manifest.name, "version": manifest.version},
            "level": level,
            **_verdicts(result),
            "timestamps": times and times(0, len(values)),
            "season_length": used_seasons(result.after),
        }
        fragments = await json_fragments(answer, call.deadline)
        ending = run.ending(result.after)
        return await run.commit(ending, to_json({**fragments, **ending.fields}))


def _verdicts(result: Anomalies) -> dict[str, object]:
    """The fields of the answer that have an item for each value. NaN becomes null."""
    anomaly = result.outside.astype(object)
    anomaly[~result.judged] = None
    return {
        "anomaly": anomaly.tolist(),
        "lower": result.lower.copy(),
        "upper": result.upper.copy(),
        "median": result.median.copy(),
        "score": np.where(result.judged, result.score, np.nan),
    }
