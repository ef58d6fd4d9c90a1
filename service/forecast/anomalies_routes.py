"""POST /anomalies."""

import asyncio
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from service.engine.sequence import Snapshot
from service.forecast.anomalies import Anomalies, AnomalyRequest, detect
from service.forecast.inputs import check_answer, future_values, series_values, timestamps, value_bounds
from service.forecast.task import begin, check_levels, season_of, tails
from service.http.context import CHANGING, ThisCall
from service.http.json_pieces import json_fragments
from service.http.json_route import JsonRoute, encoded
from service.http.problems import documented
from service.http.schemas import AnomalyAnswer, AnomalyBody, SessionId
from service.http.stateful import Render, Seat, carried
from service.manifest import ForecastManifest

router = APIRouter(tags=["series"], route_class=JsonRoute)

USUAL_LEVEL = 99.0

EXAMPLES: dict[str, Example] = {
    "a series": {
        "summary": "One of these values is out of the ordinary",
        "value": {"series": [12, 13, 12, 14, 13, 12, 13, 41, 13, 12], "level": 80},
    },
    "with a session": {
        "summary": "One new value of a series that the service has read the rest of",
        "value": {"series": [13.2], "state": ""},
    },
}


@router.post(
    "/anomalies",
    operation_id="detect_anomalies",
    response_model=AnomalyAnswer,
    openapi_extra=CHANGING,
    responses=documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
async def post_anomalies(
    body: Annotated[AnomalyBody, Body(openapi_examples=EXAMPLES)],
    call: ThisCall,
) -> Response:
    """Tell which values of a series lie outside of what those before them let expect. With a session, only the new
    values are sent and judged, at the same cost however many came before."""

    async def work(seat: Seat) -> tuple[Snapshot, Render]:
        manifest, settings = seat.model.manifest, call.state.settings
        assert isinstance(manifest, ForecastManifest)
        values = series_values(body.series, seat.start.position > 0, manifest, settings)
        check_answer(5 * len(values), settings, "$.series")
        level = USUAL_LEVEL if body.level is None else body.level
        check_levels(tails(level), manifest, "$.level")
        times = timestamps(body, len(values))
        future = future_values(body.future, manifest.horizon, manifest)
        start = begin(manifest, body.season_length, body.freq, seat.start)
        request = AnomalyRequest(values, level, value_bounds(body), future)
        call.hold(request.most_bytes(manifest), "$.series", seat.model.engine)
        task = detect(manifest, request, start)
        found = await asyncio.wrap_future(seat.model.engine.submit(task, request.work, call.deadline, call.group))
        call.state.metrics.read.labels(seat.model.label).inc(request.work)

        answer = await json_fragments(
            {
                "model": {"name": manifest.name, "version": manifest.version},
                "level": level,
                **_verdicts(found),
                "timestamps": times and times(0, len(values)),
                "season_length": season_of(found.after),
            },
            call.deadline,
        )

        def render(session: SessionId | None, state: str | None) -> bytes:
            reference = None if session is None else session.model_dump()
            return encoded({**answer, "session": reference, "state": state})

        return found.after, render

    return await carried(call, body, "forecast", work)


def _verdicts(found: Anomalies) -> dict[str, object]:
    """Per value; NaN, in JSON, is null."""
    anomaly = found.outside.astype(object)
    anomaly[~found.judged] = None
    return {
        "anomaly": anomaly.tolist(),
        "lower": found.lower.copy(),
        "upper": found.upper.copy(),
        "median": found.expected.copy(),
        "score": np.where(found.judged, found.score, np.nan),
    }
