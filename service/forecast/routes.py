"""POST /forecast."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from pydantic import ValidationError

from service.engine.sequence import Snapshot
from service.errors import CarryError, InvalidRequestError, LimitExceededError
from service.forecast.inputs import (
    Times,
    by_level,
    check_answer,
    future_values,
    quantile_levels,
    series_values,
    timestamps,
    value_bounds,
)
from service.forecast.task import Forecast, ForecastRequest, begin, forecast, season_of
from service.http.context import CHANGING, TIMED, Call, ThisCall
from service.http.json_pieces import in_pieces, json_fragments, json_pieces
from service.http.json_route import JsonRoute, encoded
from service.http.offload import in_turns
from service.http.problems import documented, problem_of, refusal
from service.http.schemas import ForecastAnswer, ForecastBatchAnswer, ForecastBatchBody, ForecastBody, SessionId
from service.http.state import State
from service.http.stateful import Render, Seat, carried
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
    "within bounds": {
        "summary": "Shares in percent, which no quantile may leave, and of the next eight only the fifth to the eighth",
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
        path = "$.include_history" if body.include_history else "$.series"
        call.hold(wish.most_bytes, path, seat.model.engine)
        found = await asyncio.wrap_future(wish.submit(call))
        answer = await json_fragments(wish.answer(found, call.state), call.deadline)
        return found.after, lambda session, carried: encoded(_carried(answer, session, carried))

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
    limits = _BatchLimits(state.settings)
    wishes: list[_Wish | CarryError] = []
    async for wish in in_turns(_wishes(body, state, key), call.deadline):
        if isinstance(wish, _Wish):
            limits.add(wish.request)
        wishes.append(wish)
    good = {i: wish for i, wish in enumerate(wishes) if isinstance(wish, _Wish)}
    lengths = {i: len(wish.request.values) for i, wish in good.items()}
    if good:
        most_bytes = sum(wish.most_bytes for wish in good.values())
        call.hold(most_bytes, "$.requests", next(iter(good.values())).seat.model.engine)
    found = await all_done(lengths, lambda i: good[i].submit(call))
    for future in found.values():
        error = future.exception()
        if isinstance(error, CarryError) and error.status >= 500:
            raise error  # nothing in this call will do better
    return await in_pieces(_batch_answer(wishes, found, state, request), call.deadline)


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
        async for future in in_turns(pending.values()):
            future.add_done_callback(one_less)
        if pending:
            await ended.wait()
    except BaseException:
        for future in pending.values():
            future.cancel()
        raise
    return pending


class _BatchLimits:
    """What the items of a batch ask for together: an answer that memory can hold, and work that can be queued."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._items = 0
        self._work = 0

    def add(self, request: ForecastRequest) -> None:
        """Count another item.

        Raises:
            LimitExceededError: it is too much.
        """
        self._items += (request.horizon + len(request.values) * request.include_history) * len(request.levels)
        self._work += request.work
        most = self._settings.max_batch_answer_items
        if self._items > most:
            raise LimitExceededError(f"at most {most} quantiles in one answer, and these are more", "$.requests")
        most = self._settings.max_waiting_steps
        if self._work > most:
            raise LimitExceededError(f"at most {most} values to read and to forecast, and these are more", "$.requests")


def _wishes(batch: ForecastBatchBody, state: State, key: bytes) -> "Iterator[_Wish | CarryError]":
    """Each item, or what is wrong with it. An item is dropped from the batch when it was read, to free its memory."""
    shared = batch.model_dump(exclude_unset=True, exclude={"requests"})
    for i, item in enumerate(batch.requests):
        try:
            if shared and isinstance(item, dict):
                item = _with_shared(item, shared)
            body = ForecastBody.model_validate(item)
            if body.session_id is not None:
                raise InvalidRequestError("items of a batch may bring a `state`, but no session", "$.session_id")
            seat = Seat(state, body.model_copy(update={"series": []}), "forecast")
            seat.take_state(key)
            yield _wish(body, seat, state)
        except ValidationError as error:
            yield refusal(error, ("requests", i))
        except CarryError as error:
            yield _placed(error, i)
        batch.requests[i] = None


ALTERNATIVES = (frozenset({"quantiles", "levels"}), frozenset({"lower", "non_negative"}))
"""Fields that say the same thing in two ways."""


def _with_shared(item: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The item, and what all items of its batch share, unless it says that itself, in whichever way."""
    said = {name for names in ALTERNATIVES if names & item.keys() for name in names}
    return {**{name: value for name, value in shared.items() if name not in said}, **item}


def _batch_answer(
    wishes: "list[_Wish | CarryError]", found: dict[int, Future[Forecast]], state: State, request: Request
) -> Iterator[bytes]:
    """The answer's JSON, in pieces. What was written is dropped, to free its memory."""
    for i, wish in enumerate(wishes):
        yield b"," if i else b'{"results":['
        if isinstance(wish, CarryError):
            yield encoded(problem_of(wish, request))
            continue
        try:
            forecast = found.pop(i).result()
        except CarryError as error:
            yield encoded(problem_of(_placed(error, i), request))
        else:
            answer = _carried(wish.answer(forecast, state), None, wish.seat.carry(forecast.after))
            yield from json_pieces(answer)
    yield b"]}"


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
    times: Times | None

    @property
    def most_bytes(self) -> int:
        """Held at most, until it is answered."""
        return self.request.most_bytes(self.manifest) + self.seat.model.state_bytes

    def submit(self, call: Call) -> "Future[Forecast]":
        task = forecast(self.manifest, self.request, self.start)
        return self.seat.model.engine.submit(task, self.request.work, call.deadline, call.group)

    def answer(self, found: Forecast, state: State) -> dict[str, Any]:
        """A `ForecastAnswer`, but for where it is carried."""
        label, levels = self.seat.model.label, self.request.levels
        before = len(self.request.values) + self.request.from_step - 1
        state.metrics.read.labels(label).inc(len(self.request.values))
        state.metrics.predicted.labels(label).inc(self.request.horizon)
        return {
            "model": {"name": self.manifest.name, "version": self.manifest.version},
            "horizon": self.request.horizon,
            "from_step": self.request.from_step,
            "quantiles": by_level(levels, found.quantiles),
            "median": np.ascontiguousarray(found.median),
            "timestamps": self.times and self.times(before, len(found.median)),
            "season_length": season_of(found.after),
            "history": None if found.history is None else {"quantiles": by_level(levels, found.history)},
        }


def _carried(answer: Mapping[str, Any], session: SessionId | None, carried: str | None) -> dict[str, Any]:
    return {**answer, "session": None if session is None else session.model_dump(), "state": carried}


def _wish(body: ForecastBody, seat: Seat, state: State) -> _Wish:
    manifest, settings = seat.model.manifest, state.settings
    assert isinstance(manifest, ForecastManifest)
    values = series_values(body.series, seat.start.position > 0, manifest, settings)
    if body.horizon > settings.max_horizon:
        raise LimitExceededError(f"at most {settings.max_horizon} values are forecast at once", "$.horizon")
    if body.from_step > body.horizon:
        raise InvalidRequestError(f"must be at most the horizon, {body.horizon}", "$.from_step")
    levels = quantile_levels(body.quantiles, body.levels, manifest)
    if body.include_history:
        check_answer(len(values) * len(levels), settings, "$.include_history")
    future = future_values(body.future, body.horizon, manifest)
    times = timestamps(body, len(values) + body.horizon)
    start = begin(manifest, body.season_length, body.freq, seat.start)
    request = ForecastRequest(
        values,
        body.horizon,
        levels,
        body.include_history,
        value_bounds(body),
        future,
        body.from_step,
        keeps_state=seat.keeps,
    )
    return _Wish(seat, start, manifest, request, times)
