"""POST /forecast/batch."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from pydantic import ValidationError

from service.errors import CarryError, InvalidRequestError, LimitExceededError
from service.forecast.kind import FORECAST
from service.forecast.prepare import PreparedForecast, prepare
from service.forecast.schemas import ForecastBatchAnswer, ForecastBatchBody, ForecastBody
from service.forecast.task import Forecast, ForecastRequest
from service.http.context import TIMEOUT_HEADERS, Context
from service.http.json_pieces import large_json_answer, json_pieces
from service.http.json_route import JsonRoute, to_json
from service.http.offload import take_turns, wait_all
from service.http.problems import documented, problem_of, as_invalid_request
from service.http.state import AppState
from service.http.stateful import model_and_start
from service.sessions.state import signed
from service.settings import Settings

router = APIRouter(tags=["series"], route_class=JsonRoute)

EXAMPLES: dict[str, Example] = {
    "two": {
        "summary": "Two series, the second of which is too empty to forecast",
        "value": {"requests": [{"series": [3, 4, 6, 5, 7, 8], "horizon": 2}, {"series": [None], "horizon": 2}]},
    },
}


@router.post(
    "/forecast/batch",
    operation_id="forecast_batch",
    response_model=ForecastBatchAnswer,
    openapi_extra=TIMEOUT_HEADERS,
    responses=documented(400, 401, 413, 422, 429, 503, 504),
)
async def post_forecast_batch(
    body: Annotated[ForecastBatchBody, Body(openapi_examples=EXAMPLES)],
    call: Context,
    request: Request,
) -> Response:
    """Forecast many series in one call. An item that cannot be answered gets a problem in its place; the others their
    forecasts. Items may bring a `state`, but no session."""
    app = call.app
    limit = app.settings.max_batch_requests
    if len(body.requests) > limit:
        raise LimitExceededError(f"at most {limit} requests in one call", "$.requests")
    brings_state = any(isinstance(item, dict) and "state" in item for item in body.requests)
    key = await app.sessions.state_key() if brings_state else b""
    limits = _BatchLimits(app.settings)
    items: list[_Item | CarryError] = []
    async for item in take_turns(_read_items(body, app, key), call.deadline):
        if isinstance(item, _Item):
            limits.add(item.prepared.request)
        items.append(item)
    good = {i: item.prepared for i, item in enumerate(items) if isinstance(item, _Item)}
    if good:
        most_bytes = sum(prepared.most_bytes for prepared in good.values())
        call.hold(most_bytes, "$.requests", next(iter(good.values())).model.engine)
    lengths = {i: len(prepared.request.values) for i, prepared in good.items()}
    results = await wait_all(lengths, lambda i: good[i].submit(call))
    for future in results.values():
        error = future.exception()
        if isinstance(error, CarryError) and error.status >= 500:
            raise error  # nothing in this call will do better
    return await large_json_answer(_answer(items, results, app, key, request), call.deadline)


@dataclass(frozen=True)
class _Item:
    """An item that was found acceptable. `returns_state`: whether it is answered with its state."""

    prepared: PreparedForecast
    returns_state: bool


class _BatchLimits:
    """What the items of a batch ask for together: an answer that memory can hold, and work that can be queued."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._quantiles = 0
        self._steps = 0

    def add(self, request: ForecastRequest) -> None:
        """Count another item.

        Raises:
            LimitExceededError: it is too much.
        """
        self._quantiles += (request.horizon + len(request.values) * request.include_history) * len(request.levels)
        self._steps += request.cost_steps
        limit = self._settings.max_batch_answer_items
        if self._quantiles > limit:
            raise LimitExceededError(f"at most {limit} quantiles in one answer, and these are more", "$.requests")
        limit = self._settings.max_waiting_steps
        if self._steps > limit:
            message = f"at most {limit} values to read and to forecast, and these are more"
            raise LimitExceededError(message, "$.requests")


def _read_items(batch: ForecastBatchBody, app: AppState, key: bytes) -> Iterator[_Item | CarryError]:
    """Each item, or what is wrong with it. An item is dropped from the batch once it is read, to free its memory."""
    shared = batch.model_dump(exclude_unset=True, exclude={"requests"})
    for i, item in enumerate(batch.requests):
        try:
            if shared and isinstance(item, dict):
                item = _with_shared(item, shared)
            body = ForecastBody.model_validate(item)
            if body.session_id is not None:
                raise InvalidRequestError("items of a batch may bring a `state`, but no session", "$.session_id")
            model, start = model_and_start(app, body, FORECAST, key)
            returns_state = body.state is not None and body.commit
            yield _Item(prepare(body, model, start, returns_state, app), returns_state)
        except ValidationError as error:
            yield as_invalid_request(error, ("requests", i))
        except CarryError as error:
            yield _with_index(error, i)
        batch.requests[i] = None


ALTERNATIVES = (frozenset({"quantiles", "levels"}), frozenset({"lower", "non_negative"}))
"""Fields that say the same thing in two ways."""


def _with_shared(item: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The item with the fields that all items of its batch share, unless it says the same itself, in whichever way."""
    said = {name for names in ALTERNATIVES if names & item.keys() for name in names}
    return {**{name: value for name, value in shared.items() if name not in said}, **item}


def _answer(
    items: list[_Item | CarryError], results: dict[int, Future[Forecast]], app: AppState, key: bytes, request: Request
) -> Iterator[bytes]:
    """The answer's JSON, in pieces. What was written is dropped, to free its memory."""
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
            codec = item.prepared.model.codec
            state = signed(codec.encode(result.after), key) if item.returns_state else None
            yield from json_pieces({**item.prepared.answer(result, app), "session": None, "state": state})
    yield b"]}"


def _with_index(error: CarryError, i: int) -> CarryError:
    """An error of one item, with its path in the whole body."""
    error.path = error.path and f"$.requests[{i}]{error.path[1:]}"
    return error
