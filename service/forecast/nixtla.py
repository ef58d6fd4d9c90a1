"""The routes of Nixtla's API that its `nixtla` client calls (version 0.9), answered by the forecasters here."""

import asyncio
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import InvalidRequestError, LimitExceededError, UnsupportedError
from service.forecast.anomalies import Anomalies, AnomalyRequest, detect
from service.forecast.backtest import CrossValidation, CrossValidationRequest, cross_validate
from service.forecast.inputs import check_windows
from service.forecast.manifest import ForecastManifest
from service.forecast.nixtla_dates import without_dates
from service.forecast.nixtla_metadata import ClientVersion, forecaster
from service.forecast.nixtla_payload import (
    AnomalyPayload,
    AnomalyResult,
    CrossValidationPayload,
    Floats,
    ForecastPayload,
    ForecastResult,
    HistoryPayload,
    OnlineAnomalyPayload,
    PanelResult,
    Payload,
    check_hist_exog,
    mean_and_intervals,
    panel,
    place,
    quantile_levels,
)
from service.forecast.task import LARGEST, Forecast, ForecastRequest, begin, check_levels, forecast, tails
from service.http.context import TIMEOUT_HEADERS, Context, RequestContext
from service.http.json_pieces import large_json_answer, json_pieces
from service.http.json_route import JsonRoute
from service.http.methods import check_method
from service.http.offload import take_turns, wait_all
from service.http.problems import documented
from service.kind import Model
from service.settings import Settings

router = APIRouter(tags=["nixtla"], route_class=JsonRoute)

Made = TypeVar("Made")

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
    response_model=ForecastResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_forecast(
    body: Annotated[ForecastPayload, Body(openapi_examples=FORECAST)], call: Context, client: ClientVersion = None
) -> Response:
    """What `NixtlaClient.forecast` asks for."""
    model = forecaster(body.model, call.app)
    manifest = model.manifest
    settings, levels, freq = call.app.settings, quantile_levels(body.level, manifest), body.season_freq(client)

    def jobs() -> "Iterator[_Job[Forecast]]":
        _check_horizon(body.h, settings)
        _check_answer(len(body.series.sizes) * body.h * len(levels), settings)
        given = without_dates(body.series, body.freq, manifest, body.h)
        series = panel(given, manifest, settings, body.h)
        for values, future in zip(series.values, series.futures, strict=True):
            if _is_empty(values):
                yield _done(Forecast(_nothing(body.h, len(levels)), _nothing(body.h), None, EMPTY_STATE))
                continue
            request = ForecastRequest(values, body.h, levels, future=future, keeps_state=False)
            start = begin(manifest, freq=freq)
            yield _Job(forecast(manifest, request, start), len(values), body.h, request.most_bytes(manifest))

    def answer(found: list[Forecast]) -> dict[str, Any]:
        quantiles = np.concatenate([one.quantiles for one in found])
        return mean_and_intervals(body.level, quantiles, levels)

    return await _answered(call, model, jobs(), answer)


@router.post(
    "/v2/cross_validation",
    operation_id="nixtla_cross_validation",
    response_model=PanelResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_cross_validation(
    body: Annotated[CrossValidationPayload, Body(openapi_examples=CROSS_VALIDATION)],
    call: Context,
    client: ClientVersion = None,
) -> Response:
    """What `NixtlaClient.cross_validation` asks for; and, with `full_history`, `forecast` with `add_history`."""
    if body.full_history:
        return await _history(body, call, client)
    model = forecaster(body.model, call.app)
    manifest = model.manifest
    settings, levels, freq = call.app.settings, quantile_levels(body.level, manifest), body.season_freq(client)
    step = body.step_size or body.h

    def jobs() -> "Iterator[_Job[CrossValidation]]":
        _check_horizon(body.h, settings)
        check_windows(body.n_windows, settings, "$.n_windows")
        _check_answer(len(body.series.sizes) * body.n_windows * body.h * len(levels), settings)
        given = without_dates(body.series, body.freq, manifest)
        check_hist_exog(body.hist_exog, given, manifest)
        for i, values in enumerate(panel(given, manifest, settings).values):
            request = CrossValidationRequest(values, body.h, body.n_windows, step, levels)
            yield _windows(i, request, manifest, freq)

    def answer(found: list[CrossValidation]) -> dict[str, Any]:
        quantiles = np.concatenate([one.quantiles.reshape(-1, len(levels)) for one in found])
        begins = np.cumsum([0, *body.series.sizes[:-1]])
        cutoffs = np.array([one.cutoffs for one in found]) + begins[:, None]
        return {
            **mean_and_intervals(body.level, quantiles, levels),
            "sizes": [body.n_windows * body.h] * len(found),
            "idxs": (cutoffs[..., None] + np.arange(body.h)).ravel(),
        }

    return await _answered(call, model, jobs(), answer)


@router.post(
    "/v2/historic_forecast",
    operation_id="nixtla_historic_forecast",
    response_model=PanelResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_historic_forecast(
    body: Annotated[HistoryPayload, Body(openapi_examples=HISTORY)], call: Context, client: ClientVersion = None
) -> Response:
    """What R's client and that of Python before 0.8 ask for with `add_history`."""
    return await _history(body, call, client)


async def _history(body: HistoryPayload | CrossValidationPayload, call: RequestContext, client: str | None) -> Response:
    """Each value but the first, one step ahead from all before it."""
    model = forecaster(body.model, call.app)
    manifest = model.manifest
    levels = quantile_levels(body.level, manifest)

    def read(values: Floats, start: SequenceState) -> tuple[Task[Forecast], int]:
        request = ForecastRequest(values, 1, levels, include_history=True, keeps_state=False)
        return forecast(manifest, request, start), request.most_bytes(manifest)

    def nothing(length: int) -> Forecast:
        return Forecast(_nothing(1), _nothing(1), _nothing(length, len(levels)), EMPTY_STATE)

    def answer(found: list[Forecast]) -> dict[str, Any]:
        past = np.concatenate([one.history[1:] for one in found if one.history is not None])
        return {
            **mean_and_intervals(body.level, past, levels),
            **_last([size - 1 for size in body.series.sizes], body.series.sizes),
        }

    jobs = _one_step_ahead(body, len(levels), manifest, call.app.settings, client, read, nothing)
    return await _answered(call, model, jobs, answer)


@router.post(
    "/v2/anomaly_detection",
    operation_id="nixtla_anomaly_detection",
    response_model=AnomalyResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_anomaly_detection(
    body: Annotated[AnomalyPayload, Body(openapi_examples=ANOMALIES)], call: Context, client: ClientVersion = None
) -> Response:
    """What `NixtlaClient.detect_anomalies` asks for: all values but the first, each judged one step ahead."""
    model = forecaster(body.model, call.app)
    manifest = model.manifest
    level = body.level
    check_levels(tails(level), manifest, "$.level")

    def read(values: Floats, start: SequenceState) -> tuple[Task[Anomalies], int]:
        request = AnomalyRequest(values, level)
        return detect(manifest, request, start), request.most_bytes(manifest)

    def nothing(length: int) -> Anomalies:
        nan, no = _nothing(length), np.zeros(length, dtype=np.bool_)
        return Anomalies(nan, nan, nan, nan, no, no, EMPTY_STATE)

    def answer(found: list[Anomalies]) -> dict[str, Any]:
        bounds = np.concatenate([np.stack([one.lower, one.expected, one.upper], axis=1)[1:] for one in found])
        sizes, values = body.series.sizes, np.array(body.series.y, dtype=np.float64)
        where = _last([size - 1 for size in sizes], sizes)
        return {**_verdicts(level, bounds, values[where["idxs"]]), **where}

    jobs = _one_step_ahead(body, 3, manifest, call.app.settings, client, read, nothing)
    return await _answered(call, model, jobs, answer)


@router.post(
    "/v2/online_anomaly_detection",
    operation_id="nixtla_online_anomaly_detection",
    response_model=AnomalyResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=PROBLEMS,
)
async def post_online_anomaly_detection(
    body: Annotated[OnlineAnomalyPayload, Body(openapi_examples=ONLINE)], call: Context, client: ClientVersion = None
) -> Response:
    """What `NixtlaClient.detect_anomalies_online` asks for: the last values of each series, each judged by the newest
    forecast made before it."""
    model = forecaster(body.model, call.app)
    manifest = model.manifest
    settings, level, freq = call.app.settings, body.level, body.season_freq(client)
    judged, step = body.detection_size, body.step_size or body.h
    levels = quantile_levels([level], manifest)

    def jobs() -> "Iterator[_Job[CrossValidation]]":
        if body.threshold_method == "multivariate":
            raise InvalidRequestError("each series is judged by itself here: univariate", "$.threshold_method")
        if step > body.h:
            raise InvalidRequestError("at most h, or values between the forecasts would go unjudged", "$.step_size")
        _check_horizon(body.h, settings)
        windows = math.ceil(judged / step)
        check_windows(windows, settings, "$.detection_size")
        _check_answer(len(body.series.sizes) * windows * step * len(levels), settings)
        given = without_dates(body.series, body.freq, manifest)
        check_hist_exog(body.hist_exog, given, manifest)
        for i, values in enumerate(panel(given, manifest, settings).values):
            request = CrossValidationRequest(values, step, windows, step, levels)
            yield _windows(i, request, manifest, freq)

    def answer(found: list[CrossValidation]) -> dict[str, Any]:
        quantiles = np.concatenate([one.quantiles.reshape(-1, len(levels))[-judged:] for one in found])
        bounds = quantiles[:, [0, levels.index(0.5), -1]]
        where = _last([judged] * len(found), body.series.sizes)
        return {**_verdicts(level, bounds, np.concatenate([one.actual.ravel()[-judged:] for one in found])), **where}

    return await _answered(call, model, jobs(), answer)


@router.api_route("/v2/{rest:path}", methods=["GET", "POST", "DELETE"], include_in_schema=False)
async def refuse(request: Request) -> Response:
    """What else the client can ask for."""
    check_method(request)
    raise UnsupportedError(
        f"{request.method} {request.url.path} is not offered here; of the nixtla client's methods these are: forecast, "
        "cross_validation, detect_anomalies, detect_anomalies_online, validate_api_key, list_models, usage, "
        "finetuned_models (and no jobs)"
    )


@dataclass(frozen=True)
class _Job(Generic[Made]):
    """The task of one series; `read`, `predicted`: its values; `most_bytes`: held until it is answered."""

    task: Task[Made]
    read: int
    predicted: int
    most_bytes: int


def _is_empty(values: Floats) -> bool:
    """Whether a series has no value at all: it gets no forecast, and the others theirs."""
    return not np.isfinite(values[:, 0]).any()


def _nothing(*shape: int) -> Floats:
    return np.full(shape, np.nan)


def _done(answer: Made) -> _Job[Made]:
    """What needs no model."""

    def task() -> Task[Made]:
        yield from ()
        return answer

    return _Job(task(), 0, 0, 0)


def _one_step_ahead(
    body: Payload,
    items: int,
    manifest: ForecastManifest,
    settings: Settings,
    client: str | None,
    read: Callable[[Floats, SequenceState], tuple[Task[Made], int]],
    nothing: Callable[[int], Made],
) -> Iterator[_Job[Made]]:
    """Each series read from where it begins. `items`: numbers told of each value; `read`: the task of a series, and
    the bytes that it holds at most; `nothing`: what is told of a series of so many values, all of them missing."""
    _check_answer(items * len(body.series.y), settings)
    given = without_dates(body.series, body.freq, manifest)
    for values in panel(given, manifest, settings).values:
        if _is_empty(values):
            yield _done(nothing(len(values)))
            continue
        task, most_bytes = read(values, begin(manifest, freq=body.season_freq(client)))
        yield _Job(task, len(values), 0, most_bytes)


def _windows(
    i: int, request: CrossValidationRequest, manifest: ForecastManifest, freq: str | None
) -> _Job[CrossValidation]:
    """Of the series i."""
    try:
        request.check()
    except InvalidRequestError as error:
        if _is_empty(request.values) and request.cutoffs[0] > 0:
            nan, windows, h = np.nan, request.windows, request.horizon
            quantiles, median = np.full((windows, h, len(request.levels)), nan), np.full((windows, h), nan)
            return _done(CrossValidation(request.cutoffs, quantiles, median, median))
        raise InvalidRequestError(error.detail, place(i)) from None
    start = begin(manifest, freq=freq)
    read, predicted = request.cutoffs[-1], request.windows * request.horizon
    return _Job(cross_validate(manifest, request, start), read, predicted, request.most_bytes(manifest))


async def _answered(
    call: RequestContext,
    model: Model[ForecastManifest],
    made: Iterator[_Job[Made]],
    answer: Callable[[list[Made]], dict[str, Any]],
) -> Response:
    """Do the jobs, and answer with what they found; what is many is done in turns with others."""
    most = call.app.settings.max_waiting_steps
    jobs, read, predicted = [], 0, 0
    await asyncio.sleep(0)  # a large body has just been validated
    async for job in take_turns(made, call.deadline):
        read, predicted = read + job.read, predicted + job.predicted
        if read + predicted > most:
            detail = f"at most {most} values to read and to forecast, and these are more: set num_partitions"
            raise LimitExceededError(detail, "$.series")
        jobs.append(job)
    call.hold(sum(job.most_bytes for job in jobs), "$.series", model.engine)

    def submit(i: int) -> Future[Made]:
        return call.submit(model.engine, jobs[i].task, jobs[i].read + jobs[i].predicted)

    ended = await wait_all({i: job.read for i, job in enumerate(jobs)}, submit)
    found = []
    for i in range(len(jobs)):
        try:
            found.append(ended[i].result())
        except InvalidRequestError as error:
            error.path = place(i)
            raise
    call.app.metrics.read.labels(model.label).inc(read)
    call.app.metrics.predicted.labels(model.label).inc(predicted)
    whose = {"name": model.manifest.name, "version": model.manifest.version}
    rest = {"model": whose, "weights_x": None, "feature_contributions": None}
    return await large_json_answer(json_pieces({**answer(found), **rest}), call.deadline)


def _check_horizon(h: int, settings: Settings) -> None:
    if h > settings.max_horizon:
        raise LimitExceededError(f"at most {settings.max_horizon} values are forecast at once", "$.h")


def _check_answer(items: int, settings: Settings) -> None:
    """Refuse what no memory should hold."""
    most = settings.max_batch_answer_items
    if items > most:
        detail = f"at most {most} quantiles in one answer, and these are {items}: set num_partitions, or ask for fewer"
        raise LimitExceededError(detail, "$.series")


def _last(counts: list[int], sizes: list[int]) -> dict[str, Any]:
    """So many values at the end of each series, as sizes and as indices into `y`."""
    counted, ends = np.array(counts), np.cumsum(sizes)
    # Each index is the one before it plus one, but for those at which a series begins.
    shifts = np.repeat(ends - np.cumsum(counted), counted)
    return {"sizes": counted, "idxs": np.arange(counted.sum()) + shifts}


def _verdicts(level: float, bounds: Floats, values: Floats) -> dict[str, Any]:
    """Of lower bounds, medians and upper bounds (N, 3), and values (N,). A missing value is no anomaly; its score, in
    JSON, is null."""
    lower, median, upper = np.ascontiguousarray(bounds.T)
    distance = np.abs(values - median)
    room = np.where(values < median, median - lower, upper - median)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        score = np.where(distance > 0, np.minimum(distance / room, LARGEST), distance)
    return {
        "mean": median,
        "intervals": {f"lo-{level:g}": lower, f"hi-{level:g}": upper},
        "anomaly": (values < lower) | (values > upper),
        "anomaly_score": score,
    }
