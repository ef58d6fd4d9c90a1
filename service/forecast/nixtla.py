"""The routes of Nixtla's API that its `nixtla` client calls (version 0.9), answered by Carry's forecasters.

Each route makes a request for each series, runs all of them (`_run`), and joins their results into columns.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.engine.sequence import SequenceState, Task
from service.errors import InvalidRequestError, LimitExceededError, UnsupportedError
from service.forecast.anomalies import AnomalyRequest, detect_anomalies
from service.forecast.backtest import BacktestRequest, run_backtest
from service.forecast.inputs import check_horizon, check_windows
from service.forecast.intervals import Floats, interval_to_quantiles
from service.forecast.manifest import ForecastManifest
from service.forecast.nixtla_dates import drop_date_features
from service.forecast.nixtla_metadata import ClientVersion, forecaster
from service.forecast.nixtla_payload import (
    MEDIAN,
    AnomalyPayload,
    AnomalyResult,
    CrossValidationPayload,
    ForecastPayload,
    ForecastResult,
    HistoryPayload,
    OnlineAnomalyPayload,
    PanelResult,
    Payload,
    SeriesPayload,
    check_hist_exog,
    mean_and_intervals,
    panel,
    quantile_levels,
    series_path,
)
from service.forecast.task import ForecastRequest, check_levels, forecast, initial_state
from service.http.context import TIMEOUT_HEADERS, Context, RequestContext
from service.http.json_pieces import json_pieces, large_json_answer
from service.http.json_route import JsonRoute
from service.http.methods import ANY_PATH, check_method
from service.http.offload import take_turns, wait_all
from service.http.problems import documented
from service.kind import Model
from service.settings import Settings

router = APIRouter(tags=["nixtla"], route_class=JsonRoute)

Result = TypeVar("Result")
SeriesRequest = TypeVar("SeriesRequest", ForecastRequest, AnomalyRequest, BacktestRequest)

MAX_SCORE = 1e30
"""The score of a value outside of an interval without width: JSON has no infinity."""

_SERIES = {"y": [3, 4, 6, 5, 7, 8, 1, 2, 2, 3], "sizes": [6, 4]}
FORECAST: dict[str, Example] = {
    "two series": {
        "summary": "Two series, each with the next two values and an interval of 80 %",
        "value": {"series": _SERIES, "model": "timegpt-2.1", "h": 2, "freq": "D", "level": [80]},
    }
}
CROSS_VALIDATION: dict[str, Example] = {
    "two windows": {"value": {"series": _SERIES, "h": 1, "n_windows": 2, "freq": "D", "level": [80]}}
}
HISTORY: dict[str, Example] = {"two series": {"value": {"series": _SERIES, "freq": "D", "level": [80]}}}
ANOMALIES: dict[str, Example] = {"two series": {"value": {"series": _SERIES, "freq": "D", "level": 80}}}
ONLINE: dict[str, Example] = {
    "the last two": {"value": {"series": _SERIES, "freq": "D", "level": 80, "h": 1, "detection_size": 2}}
}
PROBLEMS = documented(400, 401, 404, 409, 413, 415, 422, 429, 503, 504)


@router.post(
    "/v2/forecast",
    operation_id="nixtla_forecast",
    summary="Nixtla: forecast many series",
    response_model=ForecastResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_forecast(
    body: Annotated[ForecastPayload, Body(openapi_examples=FORECAST)], call: Context, client: ClientVersion = None
) -> Response:
    """Answers `NixtlaClient.forecast`."""
    model = forecaster(body.model, call.app)
    manifest, settings = model.manifest, call.app.settings
    levels = quantile_levels(body.level, manifest)
    check_horizon(body.h, settings, "$.h")
    _check_answer(len(body.series.sizes) * body.h * len(levels), settings)
    series = panel(await _series(body, manifest, body.h), manifest, settings, body.h)
    requests = (
        None if _is_empty(values) else ForecastRequest(values, body.h, levels, future=future, returns_state=False)
        for values, future in zip(series.values, series.futures, strict=True)
    )
    results = await _run(call, model, body, client, requests, forecast)
    quantiles = [_missing(body.h, len(levels)) if result is None else result.quantiles for result in results]
    return await _respond(call, model, mean_and_intervals(body.level, np.concatenate(quantiles), levels))


@router.post(
    "/v2/cross_validation",
    operation_id="nixtla_cross_validation",
    summary="Nixtla: compare forecasts with what followed",
    response_model=PanelResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_cross_validation(
    body: Annotated[CrossValidationPayload, Body(openapi_examples=CROSS_VALIDATION)],
    call: Context,
    client: ClientVersion = None,
) -> Response:
    """Answers `NixtlaClient.cross_validation`; with `full_history`, `NixtlaClient.forecast(add_history=True)`."""
    if body.full_history:
        return await _history(body, call, client)
    model = forecaster(body.model, call.app)
    manifest, settings = model.manifest, call.app.settings
    levels = quantile_levels(body.level, manifest)
    step, sizes = body.step_size or body.h, body.series.sizes
    check_horizon(body.h, settings, "$.h")
    check_windows(body.n_windows, settings, "$.n_windows")
    _check_answer(len(sizes) * body.n_windows * body.h * len(levels), settings)
    series = await _series(body, manifest)
    check_hist_exog(body.hist_exog, series, manifest)
    requests = _backtests(panel(series, manifest, settings).values, body.h, body.n_windows, step, levels)
    results = await _run(call, model, body, client, requests, run_backtest)
    missing = _missing(body.n_windows * body.h, len(levels))
    quantiles = [missing if result is None else result.quantiles.reshape(missing.shape) for result in results]
    cutoffs = np.cumsum(sizes)[:, None] - body.h - step * np.arange(body.n_windows)[::-1]
    fields = {
        **mean_and_intervals(body.level, np.concatenate(quantiles), levels),
        "sizes": [len(missing)] * len(sizes),
        "idxs": (cutoffs[..., None] + np.arange(body.h)).ravel(),
    }
    return await _respond(call, model, fields)


@router.post(
    "/v2/historic_forecast",
    operation_id="nixtla_historic_forecast",
    summary="Nixtla: forecast each value of the past",
    response_model=PanelResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_historic_forecast(
    body: Annotated[HistoryPayload, Body(openapi_examples=HISTORY)], call: Context, client: ClientVersion = None
) -> Response:
    """Answers `add_history` of R's client, and of Python's before 0.8."""
    return await _history(body, call, client)


async def _history(body: HistoryPayload | CrossValidationPayload, call: RequestContext, client: str | None) -> Response:
    """The one-step forecast of each value but the first, from all values before it."""
    model = forecaster(body.model, call.app)
    manifest, settings = model.manifest, call.app.settings
    levels = quantile_levels(body.level, manifest)
    _check_answer(len(levels) * len(body.series.y), settings)
    series = panel(await _series(body, manifest), manifest, settings)
    requests = (
        None if _is_empty(values) else ForecastRequest(values, 0, levels, include_history=True, returns_state=False)
        for values in series.values
    )
    results = await _run(call, model, body, client, requests, forecast)
    counts = [size - 1 for size in body.series.sizes]
    quantiles = [
        _missing(count, len(levels)) if result is None or result.history is None else result.history[1:]
        for count, result in zip(counts, results, strict=True)
    ]
    fields = mean_and_intervals(body.level, np.concatenate(quantiles), levels)
    return await _respond(call, model, {**fields, **_last_values(counts, body.series.sizes)})


@router.post(
    "/v2/anomaly_detection",
    operation_id="nixtla_anomaly_detection",
    summary="Nixtla: find anomalies",
    response_model=AnomalyResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_anomaly_detection(
    body: Annotated[AnomalyPayload, Body(openapi_examples=ANOMALIES)], call: Context, client: ClientVersion = None
) -> Response:
    """Answers `NixtlaClient.detect_anomalies`: judges each value but the first by the one-step forecast before it."""
    model = forecaster(body.model, call.app)
    manifest, settings = model.manifest, call.app.settings
    check_levels(interval_to_quantiles(body.level), manifest, "$.level")
    _check_answer(3 * len(body.series.y), settings)
    series = panel(await _series(body, manifest), manifest, settings)
    requests = (
        None if _is_empty(values) else AnomalyRequest(values, body.level, returns_state=False)
        for values in series.values
    )
    results = await _run(call, model, body, client, requests, detect_anomalies)
    counts = [size - 1 for size in body.series.sizes]
    intervals = [
        _missing(count, 3) if result is None else np.stack([result.lower, result.median, result.upper], axis=1)[1:]
        for count, result in zip(counts, results, strict=True)
    ]
    return await _respond(call, model, _verdicts(body, np.concatenate(intervals), counts))


@router.post(
    "/v2/online_anomaly_detection",
    operation_id="nixtla_online_anomaly_detection",
    summary="Nixtla: find anomalies in the newest values",
    response_model=AnomalyResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_online_anomaly_detection(
    body: Annotated[OnlineAnomalyPayload, Body(openapi_examples=ONLINE)], call: Context, client: ClientVersion = None
) -> Response:
    """Answers `NixtlaClient.detect_anomalies_online`: judges the last values of each series by the newest forecast
    before each."""
    model = forecaster(body.model, call.app)
    manifest, settings = model.manifest, call.app.settings
    levels = quantile_levels([body.level], manifest)
    step, sizes = body.step_size or body.h, body.series.sizes
    windows = math.ceil(body.detection_size / step)
    if body.threshold_method == "multivariate":
        raise InvalidRequestError("must be univariate: each series is judged by itself here", "$.threshold_method")
    if step > body.h:
        raise InvalidRequestError("at most h, or values between the forecasts would go unjudged", "$.step_size")
    check_horizon(body.h, settings, "$.h")
    check_windows(windows, settings, "$.detection_size")
    _check_answer(len(sizes) * windows * step * len(levels), settings)
    series = await _series(body, manifest)
    check_hist_exog(body.hist_exog, series, manifest)
    requests = _backtests(panel(series, manifest, settings).values, step, windows, step, levels)
    results = await _run(call, model, body, client, requests, run_backtest)
    missing = _missing(windows * step, len(levels))
    rows = [missing if result is None else result.quantiles.reshape(missing.shape) for result in results]
    quantiles = np.concatenate([row[-body.detection_size :] for row in rows])
    intervals = quantiles[:, [0, levels.index(MEDIAN), -1]]
    return await _respond(call, model, _verdicts(body, intervals, [body.detection_size] * len(sizes)))


@router.api_route(f"/v2{ANY_PATH}", methods=["GET", "POST", "DELETE"], include_in_schema=False)
async def refuse(request: Request) -> Response:
    """Rejects the client's other calls."""
    check_method(request)
    raise UnsupportedError(
        f"{request.method} {request.url.path} is not offered here; of the nixtla client's methods these are: forecast, "
        "cross_validation, detect_anomalies, detect_anomalies_online, validate_api_key, list_models, usage, "
        "finetuned_models (and no jobs)"
    )


async def _series(body: Payload, manifest: ForecastManifest, h: int = 0) -> SeriesPayload:
    """The series without features that only repeat their dates."""
    await asyncio.sleep(0)  # a large body has just been validated
    return drop_date_features(body.series, body.freq, manifest, h)


def _is_empty(values: Floats) -> bool:
    """Whether a series has no number at all: it gets no forecast, and the others theirs."""
    return not np.isfinite(values[:, 0]).any()


def _missing(*shape: int) -> Floats:
    """The numbers of a series without a forecast."""
    return np.full(shape, np.nan)


def _backtests(
    series: list[Floats], horizon: int, windows: int, step: int, levels: tuple[float, ...]
) -> Iterator[BacktestRequest | None]:
    """A request for each series, None for an empty one.

    Raises:
        InvalidRequestError: a series has no number before the first window.
    """
    for i, values in enumerate(series):
        request = BacktestRequest(values, horizon, windows, step, levels)
        if request.cutoffs[0] > 0 and _is_empty(values):
            yield None
            continue
        try:
            request.check()
        except InvalidRequestError as error:
            raise InvalidRequestError(error.detail, series_path(i)) from None
        yield request


async def _run(
    call: RequestContext,
    model: Model[ForecastManifest],
    body: Payload,
    client: str | None,
    requests: Iterable[SeriesRequest | None],
    function: Callable[[ForecastManifest, SeriesRequest, SequenceState], Task[Result]],
) -> list[Result | None]:
    """Run `function` on the request of each series; None for a series without a request.

    Raises:
        LimitExceededError: together they have too many steps.
        InvalidRequestError: the model cannot forecast a series.
    """
    manifest, limit = model.manifest, call.max_steps
    by_index: dict[int, SeriesRequest] = {}
    steps = size = 0
    async for i, request in take_turns(enumerate(requests), call.deadline):
        if request is not None:
            by_index[i] = request
            steps += request.cost_steps
            size += request.max_bytes(manifest)
        if steps > limit:
            detail = f"at most {limit} values to read and to forecast, and these are more: set num_partitions"
            raise LimitExceededError(detail, "$.series")
    call.take(steps)
    call.hold(size, "$.series", model.engine)
    start = initial_state(manifest, freq=body.season_freq(client))

    def submit(i: int) -> "Future[Result]":
        return call.submit(model.engine, function(manifest, by_index[i], start), by_index[i].cost_steps)

    futures = await wait_all({i: request.steps_read for i, request in by_index.items()}, submit)
    results: list[Result | None] = [None] * len(body.series.sizes)
    for i in by_index:
        try:
            results[i] = futures[i].result()
        except InvalidRequestError as error:
            error.path = series_path(i)
            raise
    steps_read = sum(request.steps_read for request in by_index.values())
    call.app.metrics.count(model.label, steps_read, steps - steps_read)
    return results


async def _respond(call: RequestContext, model: Model[ForecastManifest], fields: dict[str, Any]) -> Response:
    """The answer with these fields and those that all answers have."""
    label = {"name": model.manifest.name, "version": model.manifest.version}
    answer = {**fields, "model": label, "weights_x": None, "feature_contributions": None}
    return await large_json_answer(json_pieces(answer), call.deadline)


def _check_answer(items: int, settings: Settings) -> None:
    """Reject an answer of more numbers than the settings allow.

    Raises:
        LimitExceededError: it has more.
    """
    limit = settings.max_batch_answer_items
    if items > limit:
        detail = f"at most {limit} quantiles in one answer, and these are {items}: set num_partitions, or ask for fewer"
        raise LimitExceededError(detail, "$.series")


def _last_values(counts: list[int], sizes: list[int]) -> dict[str, Any]:
    """The fields that say which values the answer is about: the last `counts` of each series, by their index in `y`."""
    counted, ends = np.array(counts), np.cumsum(sizes)
    # Each index is the one before it plus one, except where a series begins.
    shifts = np.repeat(ends - np.cumsum(counted), counted)
    return {"sizes": counted, "idxs": np.arange(counted.sum()) + shifts}


def _verdicts(body: AnomalyPayload, intervals: Floats, counts: list[int]) -> dict[str, Any]:
    """The answer about the last `counts` values of each series, N in all, from lower bounds, medians and upper bounds
    (N, 3). A missing value is no anomaly, and its score is null."""
    positions = _last_values(counts, body.series.sizes)
    values = np.array(body.series.y, dtype=np.float64)[positions["idxs"]]
    lower, median, upper = np.ascontiguousarray(intervals.T)
    distance = np.abs(values - median)
    half_width = np.where(values < median, median - lower, upper - median)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        score = np.where(distance > 0, np.minimum(distance / half_width, MAX_SCORE), distance)
    return {
        "mean": median,
        "intervals": {f"lo-{body.level:g}": lower, f"hi-{body.level:g}": upper},
        "anomaly": (values < lower) | (values > upper),
        "anomaly_score": score,
        **positions,
    }
