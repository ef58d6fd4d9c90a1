"""POST /forecast."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from numpy.typing import NDArray
from pydantic import ValidationError

from service.api.calls import CHANGING, TIMED, ThisCall
from service.api.carried import Render, Seat, carried
from service.api.json_route import JsonRoute, encoded, json_answer
from service.api.problems import NO_SERIES, documented, problem_of, refusal
from service.api.schemas import (
    ForecastAnswer,
    ForecastBatchAnswer,
    ForecastBatchBody,
    ForecastBody,
    Series,
    SessionId,
)
from service.api.state import State
from service.engine.sequence import Snapshot
from service.errors import CarryError, InvalidRequestError, LimitExceededError
from service.forecasting import Forecast, ForecastRequest, check_levels, forecast
from service.manifest import ForecastManifest
from service.settings import Settings
from service.timestamps import timestamps_after

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
    wishes = await _beside(len(body.requests), _wishes, body.requests, state, key)
    _check_batch([wish.request for wish in wishes if isinstance(wish, _Wish)], state.settings)
    pending: list[Future[Forecast]] = []
    try:
        pending = [wish.submit(call.deadline) for wish in wishes if isinstance(wish, _Wish)]
        found = await asyncio.gather(*map(asyncio.wrap_future, pending), return_exceptions=True)
    except BaseException:
        for future in pending:
            future.cancel()
        raise
    return await _beside(len(wishes), _batch_answer, wishes, found, state, request)


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


def _wishes(requests: Sequence[Any], state: State, key: bytes) -> "list[_Wish | CarryError]":
    wishes: list[_Wish | CarryError] = []
    for i, item in enumerate(requests):
        try:
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
    wishes: "Sequence[_Wish | CarryError]", found: Sequence[Forecast | BaseException], state: State, request: Request
) -> Response:
    results: list[dict[str, Any]] = []
    outcomes = iter(found)
    for i, wish in enumerate(wishes):
        if isinstance(wish, CarryError):
            results.append(problem_of(wish, request))
            continue
        outcome = next(outcomes)
        if isinstance(outcome, Forecast):
            try:
                results.append(wish.answer(outcome, None, wish.seat.carry(outcome.after), state))
            except CarryError as error:
                results.append(problem_of(_placed(error, i), request))
        elif isinstance(outcome, CarryError) and outcome.status < 500:
            results.append(problem_of(_placed(outcome, i), request))
        else:
            raise outcome  # nothing in this call will do better
    return json_answer({"results": results})


def _placed(error: CarryError, i: int) -> CarryError:
    """An error of one item, with its path in the whole body."""
    error.path = error.path and f"$.requests[{i}]{error.path[1:]}"
    return error


@dataclass(frozen=True)
class _Wish:
    """A request that was found acceptable."""

    seat: Seat
    manifest: ForecastManifest
    request: ForecastRequest
    timestamps: list[str] | None

    def submit(self, deadline: float) -> "Future[Forecast]":
        task = forecast(self.manifest, self.request, self.seat.start)
        return self.seat.model.engine.submit(task, self.request.work, deadline)

    def answer(self, found: Forecast, session: SessionId | None, carried: str | None, state: State) -> dict[str, Any]:
        """A `ForecastAnswer`."""
        label, levels = self.seat.model.label, self.request.levels
        state.metrics.read.labels(label).inc(len(self.request.values))
        state.metrics.predicted.labels(label).inc(self.request.horizon)
        return {
            "model": {"name": self.manifest.name, "version": self.manifest.version},
            "horizon": self.request.horizon,
            "quantiles": _by_level(levels, found.quantiles),
            "median": np.ascontiguousarray(found.median),
            "timestamps": self.timestamps,
            "history": None if found.history is None else {"quantiles": _by_level(levels, found.history)},
            "session": None if session is None else session.model_dump(),
            "state": carried,
        }


def _wish(body: ForecastBody, seat: Seat, state: State) -> _Wish:
    manifest = seat.model.manifest
    assert isinstance(manifest, ForecastManifest)
    values = series_values(body.series, seat.start.position > 0, manifest, state.settings)
    if body.horizon > state.settings.max_horizon:
        raise LimitExceededError(f"at most {state.settings.max_horizon} values are forecast at once", "$.horizon")
    levels = _levels(body, manifest)
    if body.include_history and len(values) * len(levels) > state.settings.max_answer_items:
        most = state.settings.max_answer_items
        raise LimitExceededError(
            f"at most {most} quantiles: ask for fewer levels, or give a shorter series", "$.include_history"
        )
    timestamps = None
    if body.start is not None and body.freq is not None:
        timestamps = timestamps_after(body.start, body.freq, len(values), body.horizon)
    elif body.start is not None or body.freq is not None:
        missing = "freq" if body.freq is None else "start"
        raise InvalidRequestError("timestamps need both `start` and `freq`", f"$.{missing}")
    request = ForecastRequest(values, body.horizon, levels, body.include_history, body.non_negative)
    return _Wish(seat, manifest, request, timestamps)


def series_values(given: Series, goes_on: bool, manifest: ForecastManifest, settings: Settings) -> NDArray[np.float64]:
    """The series as (T, F), NaN where missing; one that goes on may have no value, or only missing ones.

    Raises:
        InvalidRequestError: it has no number, or not the features of the model.
        LimitExceededError: it is too long.
    """
    features = manifest.features
    if isinstance(given, list):
        if len(features) > 1 and given:
            needed = ", ".join(features)
            raise InvalidRequestError(f"{manifest.name} needs an object with a list for each of: {needed}", "$.series")
        columns, paths = [given], ["$.series"]
    else:
        # A model of one feature has no use for its name.
        names = list(given) if len(features) == 1 and len(given) == 1 else list(features)
        odd = [*(name for name in names if name not in given), *(name for name in given if name not in names)]
        if odd:
            needed = ", ".join(features)
            what = "missing" if odd[0] not in given else "unknown"
            raise InvalidRequestError(
                f"{what} feature; {manifest.name} needs a list for each of: {needed}", f"$.series.{odd[0]}"
            )
        columns, paths = [given[name] for name in names], [f"$.series.{name}" for name in names]
    for column, path in zip(columns, paths, strict=True):
        if len(column) > settings.max_series_length:
            raise LimitExceededError(f"at most {settings.max_series_length} values are read at once", path)
        if len(column) != len(columns[0]):
            raise InvalidRequestError(f"has {len(column)} values, {paths[0]} has {len(columns[0])}", path)
    if goes_on and not columns[0]:
        return np.empty((0, len(features)))
    values = np.array(columns, dtype=np.float64).T
    if not columns[0]:
        raise InvalidRequestError(NO_SERIES, paths[0])
    if not goes_on and np.isnan(values[:, 0]).all():
        raise InvalidRequestError("holds no number, only nulls; at least one value is needed", paths[0])
    return values


def _levels(body: ForecastBody, manifest: ForecastManifest) -> tuple[float, ...]:
    """The quantile levels asked for, ascending, each once."""
    if body.quantiles is not None and body.levels is not None:
        raise InvalidRequestError("give `quantiles` or `levels`, not both", "$.levels")
    levels = manifest.quantile_levels
    if body.quantiles is not None:
        levels = tuple(sorted({round(level, 6) for level in body.quantiles}))
        check_levels(levels, manifest, "$.quantiles")
    elif body.levels is not None:
        tails = [(100 - level) / 200 for level in body.levels]
        levels = tuple(sorted({round(q, 6) for tail in tails for q in (tail, 1 - tail)}))
        check_levels(levels, manifest, "$.levels")
    return levels


def _by_level(levels: tuple[float, ...], quantiles: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Rows of numbers for JSON, where NaN, of the first value of a history, is null."""
    rows = np.ascontiguousarray(quantiles.T)
    return {f"{level:g}": row for level, row in zip(levels, rows, strict=True)}
