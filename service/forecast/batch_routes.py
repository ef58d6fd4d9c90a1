"""POST /forecast/batch: many forecasts in one call."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from pydantic import ValidationError

from service.errors import CarryError, InvalidRequestError, LimitExceededError
from service.forecast.batches import Items, Results, run_batch
from service.forecast.kind import FORECAST
from service.forecast.prepare import PreparedForecast, prepare_forecast
from service.forecast.schemas import ForecastBatchAnswer, ForecastBatchBody, ForecastBody
from service.http.context import TIMEOUT_HEADERS, Context
from service.http.json_pieces import json_pieces, large_json_answer
from service.http.json_route import JsonRoute, to_json
from service.http.problems import documented, problem_of
from service.http.state import AppState
from service.http.stateful import model_and_start
from service.sessions.state import sign_state
from service.validation import as_invalid_request

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
    items, results = await run_batch(_read_items(body, app, key), call, "$.requests")
    return await large_json_answer(_answer(items, results, app, key, request), call.deadline)


def _read_items(batch: ForecastBatchBody, app: AppState, key: bytes) -> Iterator[PreparedForecast | CarryError]:
    """Each item, prepared, or its error. Drops an item from the batch once it is read, to free its memory."""
    shared = batch.model_dump(exclude_unset=True, exclude={"requests"})
    for i, item in enumerate(batch.requests):
        try:
            if shared and isinstance(item, dict):
                item = _with_shared(item, shared)
            body = ForecastBody.model_validate(item)
            if body.session_id is not None:
                raise InvalidRequestError("items of a batch may have a `state`, but no session", "$.session_id")
            model, start = model_and_start(app, body, FORECAST, key)
            yield prepare_forecast(body, model, start, body.state is not None and body.commit, app.settings)
        except ValidationError as error:
            yield as_invalid_request(error, ("requests", i))
        except CarryError as error:
            yield _with_index(error, i)
        batch.requests[i] = None


ALTERNATIVES = (frozenset({"quantiles", "levels"}), frozenset({"lower", "non_negative"}))
"""Fields that set the same option in two ways."""


def _with_shared(item: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The item with the fields of its batch, except for options that it sets itself, in either way."""
    overridden = {name for names in ALTERNATIVES if names & item.keys() for name in names}
    return {**{name: value for name, value in shared.items() if name not in overridden}, **item}


def _answer(
    items: Items,
    results: Results,
    app: AppState,
    key: bytes,
    request: Request,
) -> Iterator[bytes]:
    """The answer's JSON, in pieces. Drops a result once it is written, to free its memory."""
    for i, item in enumerate(items):
        yield b"," if i else b'{"results":['
        if isinstance(item, CarryError):
            yield to_json(problem_of(item, request))
            continue
        try:
            result = results.pop(i).result()
        except CarryError as error:
            yield to_json(problem_of(_with_index(error, i), request))
        else:
            app.metrics.count(item.model.label, item.request.steps_read, item.request.horizon)
            codec = item.model.codec
            state = sign_state(codec.encode(result.after), key) if item.request.returns_state else None
            yield from json_pieces({**item.answer(result), "session": None, "state": state})
    yield b"]}"


def _with_index(error: CarryError, i: int) -> CarryError:
    """The error of an item, with its path in the whole body."""
    error.path = error.path and f"$.requests[{i}]{error.path[1:]}"
    return error
