"""POST /forecast/batch: many forecasts in one call."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.errors import InvalidRequestError, LimitExceededError
from service.forecast.kind import FORECAST
from service.forecast.prepare import PreparedForecast, prepare_forecast
from service.forecast.schemas import ForecastBatchAnswer, ForecastBatchBody, ForecastBody
from service.forecast.task import Forecast
from service.http.batches import read_items, run_batch
from service.http.context import TIMEOUT_HEADERS, Context
from service.http.json_pieces import large_json_answer
from service.http.json_route import JsonRoute
from service.http.problems import documented
from service.http.stateful import model_and_start
from service.sessions.state import sign_state

router = APIRouter(tags=["series"], route_class=JsonRoute)

EXAMPLES: dict[str, Example] = {
    "two": {
        "summary": "Two series; the second has no number, so that its result is a problem",
        "value": {"requests": [{"series": [3, 4, 6, 5, 7, 8], "horizon": 2}, {"series": [None], "horizon": 2}]},
    },
}


@router.post(
    "/forecast/batch",
    operation_id="forecast_batch",
    summary="Forecast many series",
    response_model=ForecastBatchAnswer,
    openapi_extra=TIMEOUT_HEADERS,
    responses=documented(400, 401, 413, 422, 429, 503, 504),
)
async def post_forecast_batch(
    body: Annotated[ForecastBatchBody, Body(openapi_examples=EXAMPLES)],
    call: Context,
    request: Request,
) -> Response:
    """Forecast many series in one call. The result of an invalid item is a problem; the others have their forecasts.
    Items may have a `state`, but no session."""
    app = call.app
    limit = app.settings.max_batch_requests
    if len(body.requests) > limit:
        raise LimitExceededError(f"at most {limit} requests in one call", "$.requests")
    has_state = any(isinstance(item, dict) and "state" in item for item in body.requests)
    key = await app.sessions.state_key() if has_state else b""
    shared = body.model_dump(exclude_unset=True, exclude={"requests"})

    def read(item: Any) -> PreparedForecast:
        if shared and isinstance(item, dict):
            item = _with_shared(item, shared)
        each = ForecastBody.model_validate(item)
        if each.session_id is not None:
            raise InvalidRequestError("items of a batch may have a `state`, but no session", "$.session_id")
        model, start = model_and_start(app, each, FORECAST, key)
        return prepare_forecast(each, model, start, each.state is not None and each.commit, app.settings)

    def write(item: PreparedForecast, result: Forecast) -> Mapping[str, Any]:
        app.metrics.count(item.model.label, item.request.steps_read, item.request.horizon)
        state = sign_state(item.model.codec.encode(result.after), key) if item.request.returns_state else None
        return {**item.answer(result), "session": None, "state": state}

    batch = await run_batch(read_items(body.requests, read), call, "$.requests")
    return await large_json_answer(batch.answers(write, request), call.deadline)


ALTERNATIVES = (frozenset({"quantiles", "levels"}), frozenset({"lower", "non_negative"}))
"""Fields that set the same option in two ways."""


def _with_shared(item: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The item with the fields of its batch, except for options that it sets itself, in either way."""
    overridden = {name for names in ALTERNATIVES if names & item.keys() for name in names}
    return {**{name: value for name, value in shared.items() if name not in overridden}, **item}
