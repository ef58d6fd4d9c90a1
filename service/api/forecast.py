"""POST /forecast."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from pydantic import ValidationError

from service.api.calls import CHANGING, TIMED, ThisCall
from service.api.carried import Render, Seat, carried
from service.api.json_route import JsonRoute, encoded, json_answer
from service.api.offload import in_turns
from service.api.problems import documented, problem_of, refusal
from service.api.schemas import ForecastAnswer, ForecastBatchAnswer, ForecastBatchBody, ForecastBody, SessionId
from service.api.series import by_level, check_answer, future_values, quantile_levels, series_values, timestamps
from service.api.state import State
from service.engine.sequence import Snapshot
from service.errors import CarryError, InvalidRequestError, LimitExceededError
from service.forecasting import Forecast, ForecastRequest, begin, forecast, season_of
from service.manifest import ForecastManifest
from service.settings import Settings

router = APIRouter(tags=["series"], route_class=JsonRoute)

Made = TypeVar("Made")

EXAMPLES: dict[str, Example] = {
    "a series": {
        "summary": "Six values after monthly ones, one of which is missing, with an interval of 80 %",
        "value": {
            "series": [112, 118, 132, 129, None, 135, 148, 148, 136, 119, 104, 118],
            "horizon": 6,
            "levels": [80],
            "start": "1949-01-01",
            "freq": "MS",
        },
    },
    "with history": {
        "summary": "Also what would have been forecast for each value before it came",
        "value": {"series": [3, 4, 6, 5, 7, 8, 8, 9], "horizon": 2, "quantiles": [0.5], "include_history": True},
    },
}
BATCH_EXAMPLES: dict[str, Example] = {
    "two": {
        "summary": "Two series, the second of which is too empty to forecast",
        "value": {"requests": [{"series": [3, 4, 6, 5, 7, 8], "horizon": 2}, {"series": [None], "horizon": 2}]},
    },
}


@router.post(
    "/forecast",
    operation_id="forecast",
    response_model=ForecastAnswer,
    openapi_extra=CHANGING,
    responses=documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
async def post_forecast(
    body: Annotated[ForecastBody, Body(openapi_examples=EXAMPLES)],
    call: ThisCall,
) -> Response:
    """Forecast the values that follow a series, with quantiles. With a session, only the new values are sent."""

    async def work(seat: Seat) -> tuple[Snapshot, Render]:
        wish = _wish(body, seat, call.state)
        found = await asyncio.wrap_future(wish.submit(call.deadline))
        return found.after, lambda session, carried: encoded(wish.answer(found, session, carried, call.state))

    return await carried(call, body, "forecast", work)


@router.post(
    "/forecast/batch",
    operation_id="forecast_batch",
    response_model=ForecastBatchAnswer,
    openapi_extra=TIMED,
    responses=documented(400, 401, 413, 422, 429, 503, 504),
)
async def post_forecast_batch(
    body: Annotated[ForecastBatchBody, Body(openapi_examples=BATCH_EXAMPLES)],
    call: ThisCall,
    request: Request,
) -> Response:
    """Forecast many series in one call. An item that cannot be answered gets a problem in its place; the others their
    forecasts. Items may bring a `state`, but no session."""
    state = call.state
    most = state.settings.max_batch_requests
    if len(body.requests) > most:
        raise LimitExceededError(f"at most {most} requests in one call", "$.requests")
    carries = any(isinstance(item, dict) and "state" in item for item in body.requests)
    key = await state.sessions.state_key() if carries else b""
    wishes = await _beside(len(body.requests), _wishes, body, state, key)
    _check_batch([wish.request for wish in wishes if isinstance(wish, _Wish)], state.settings)
    good = {i: wish for i, wish in enumerate(wishes) if isinstance(wish, _Wish)}
    lengths = {i: len(wish.request.values) for i, wish in good.items()}
    found = await all_done(lengths, lambda i: good[i].submit(call.deadline))
    return await _beside(len(wishes), _batch_answer, wishes, found, state, request)


async def all_done(lengths: Mapping[int, int], submit: Callable[[int], Future[Made]]) -> dict[int, Future[Made]]:
    """Submit many series, by their numbers, and wait until all have ended, however they did: with one wake-up of the
    event loop, where each would cost one. `lengths`: how many values each has."""
    loop = asyncio.get_running_loop()
    ended, left = asyncio.Event(), itertools.count(len(lengths) - 1, -1)

    def one_less(_: Future[Made]) -> None:
        if not next(left):
            loop.call_soon_threadsafe(ended.set)

    pending: dict[int, Future[Made]] = {}
    try:
        # Series of one length are read together, and none is padded.
        async for i in in_turns(sorted(lengths, key=lengths.__getitem__, reverse=True)):
            pending[i] = submit(i)
        for future in pending.values():
            future.add_done_callback(one_less)
        if pending:
            await ended.wait()
    except BaseException:
        for future in pending.values():
            future.cancel()
        raise
    return pending


def _check_batch(requests: Sequence[ForecastRequest], settings: Settings) -> None:
    """Refuse a batch whose answer no memory should hold, or which could never be queued."""
    items = sum((r.horizon + len(r.values) * r.include_history) * len(r.levels) for r in requests)
    if items > settings.max_batch_answer_items:
        most = settings.max_batch_answer_items
        raise LimitExceededError(f"at most {most} quantiles in one answer, and these are {items}", "$.requests")
    work = sum(r.work for r in requests)
    if work > settings.max_waiting_steps:
        most = settings.max_waiting_steps
        raise LimitExceededError(f"at most {most} values to read and to forecast, and these are {work}", "$.requests")


async def _beside(items: int, work: Callable[..., Made], *arguments: Any) -> Made:
    """Do the work, on another thread if it is so much that others would wait for the event loop."""
    return await asyncio.to_thread(work, *arguments) if items > 50 else work(*arguments)


def _wishes(batch: ForecastBatchBody, state: State, key: bytes) -> "list[_Wish | CarryError]":
    shared = batch.model_dump(exclude_unset=True, exclude={"requests"})
    others = {name: value for name, value in shared.items() if name not in ("quantiles", "levels")}
    wishes: list[_Wish | CarryError] = []
    for i, item in enumerate(batch.requests):
        try:
            if shared and isinstance(item, dict):
                item = {**(others if item.keys() & {"quantiles", "levels"} else shared), **item}
            body = ForecastBody.model_validate(item)
            if body.session_id is not None:
                raise InvalidRequestError("items of a batch may bring a `state`, but no session", "$.session_id")
            seat = Seat(state, body, "forecast")
            seat.take_state(key)
            wishes.append(_wish(body, seat, state))
        except ValidationError as error:
            wishes.append(refusal(error, ("requests", i)))
        except CarryError as error:
            wishes.append(_placed(error, i))
    return wishes


def _batch_answer(
    wishes: "Sequence[_Wish | CarryError]", found: Mapping[int, Future[Forecast]], state: State, request: Request
) -> Response:
    results: list[dict[str, Any]] = []
    for i, wish in enumerate(wishes):
        if isinstance(wish, CarryError):
            results.append(problem_of(wish, request))
            continue
        try:
            outcome = found[i].result()
            results.append(wish.answer(outcome, None, wish.seat.carry(outcome.after), state))
        except CarryError as error:
            if error.status >= 500:
                raise  # nothing in this call will do better
            results.append(problem_of(_placed(error, i), request))
    return json_answer({"results": results})


def _placed(error: CarryError, i: int) -> CarryError:
    """An error of one item, with its path in the whole body."""
    error.path = error.path and f"$.requests[{i}]{error.path[1:]}"
    return error


@dataclass(frozen=True)
class _Wish:
    """A request that was found acceptable."""

    seat: Seat
    start: Snapshot
    manifest: ForecastManifest
    request: ForecastRequest
    timestamps: list[str] | None

    def submit(self, deadline: float) -> "Future[Forecast]":
        task = forecast(self.manifest, self.request, self.start)
        return self.seat.model.engine.submit(task, self.request.work, deadline)

    def answer(self, found: Forecast, session: SessionId | None, carried: str | None, state: State) -> dict[str, Any]:
        """A `ForecastAnswer`."""
        label, levels = self.seat.model.label, self.request.levels
        state.metrics.read.labels(label).inc(len(self.request.values))
        state.metrics.predicted.labels(label).inc(self.request.horizon)
        return {
            "model": {"name": self.manifest.name, "version": self.manifest.version},
            "horizon": self.request.horizon,
            "quantiles": by_level(levels, found.quantiles),
            "median": np.ascontiguousarray(found.median),
            "timestamps": self.timestamps,
            "season_length": season_of(found.after),
            "history": None if found.history is None else {"quantiles": by_level(levels, found.history)},
            "session": None if session is None else session.model_dump(),
            "state": carried,
        }


def _wish(body: ForecastBody, seat: Seat, state: State) -> _Wish:
    manifest, settings = seat.model.manifest, state.settings
    assert isinstance(manifest, ForecastManifest)
    values = series_values(body.series, seat.start.position > 0, manifest, settings)
    if body.horizon > settings.max_horizon:
        raise LimitExceededError(f"at most {settings.max_horizon} values are forecast at once", "$.horizon")
    levels = quantile_levels(body.quantiles, body.levels, manifest)
    if body.include_history:
        check_answer(len(values) * len(levels), settings, "$.include_history")
    future = future_values(body.future, body.horizon, manifest)
    times = timestamps(body, len(values), body.horizon)
    start = begin(manifest, values[:, 0], body.season_length, body.freq, seat.start)
    request = ForecastRequest(values, body.horizon, levels, body.include_history, body.non_negative, future)
    return _Wish(seat, start, manifest, request, times)
