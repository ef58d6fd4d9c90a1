"""KServe's time series API (POST /v1/timeseries/forecast), answered by Carry's forecasters.

It is the one interface to forecasters that several servers share. Requests and answers have the fields of KServe's
reference, version of 2025-10-20. Errors have its form, too, which is that of OpenAI's API.
"""

import time
import uuid
from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from service.engine.sequence import EMPTY_STATE
from service.errors import CarryError, InvalidRequestError, LimitExceededError
from service.forecast.inputs import check_horizon
from service.forecast.intervals import Floats
from service.forecast.kind import FORECAST
from service.forecast.prepare import ForecastModel, PreparedForecast, prepare_forecast
from service.forecast.schemas import ForecastBody, Horizon, Quantiles
from service.forecast.task import check_levels
from service.http.batches import Batch, run_batch
from service.http.context import TIMEOUT_HEADERS, Context
from service.http.json_pieces import json_pieces, large_json_answer
from service.http.json_route import JsonRoute
from service.http.problems import documented, openai_error, problem_of
from service.http.schemas import Answer
from service.http.state import App
from service.series import Values
from service.settings import Settings

router = APIRouter(prefix="/v1/timeseries", tags=["kserve"], route_class=JsonRoute)

UNIVARIATE, MULTIVARIATE = "univariate_time_series", "multivariate_time_series"
FREQUENCIES = {
    **{"second": "S", "minute": "min", "hour": "h", "day": "D", "week": "W", "month": "M", "quarter": "Q", "year": "Y"},
    **{short: short for short in ("S", "H", "D", "W", "M", "Q", "Y")},
    "T": "min",
}
"""KServe's frequencies -> ours. Other names of ours, such as 15min, work too."""
MEDIAN = 0.5

EXAMPLES: dict[str, Example] = {
    "a series": {
        "summary": "The next three days of a series, with the outer quantiles",
        "value": {
            "model": "forecast",
            "inputs": [
                {
                    "type": UNIVARIATE,
                    "name": "visitors",
                    "series": [120, 122, 125, 127, 130, 133, 135],
                    "frequency": "D",
                    "start_timestamp": "2025-06-05T13:10:00Z",
                }
            ],
            "options": {"horizon": 3, "quantiles": [0.1, 0.9]},
        },
    }
}


class _Open(BaseModel):
    """KServe lets a request have any further fields. They are ignored."""

    model_config = ConfigDict(extra="allow", frozen=True)


def _layout(series: Any) -> str:
    return "<rows>" if isinstance(series, list) and series and isinstance(series[0], list) else "<values>"


Rows = Annotated[list[Values], Field(fail_fast=True)]


class TimeSeriesInput(_Open):
    """A series, or several over the same times, each of which is forecast by itself."""

    type: Literal["univariate_time_series", "multivariate_time_series"]
    name: Annotated[str, Field(max_length=200)]
    series: Annotated[
        Annotated[Values, Tag("<values>")] | Annotated[Rows, Tag("<rows>")],
        Discriminator(_layout),
        Field(description="Oldest first, `null` where missing: the values; or for each time, a list of all variables."),
    ]
    frequency: Annotated[str, Field(max_length=16, description="`day` or `D`, `hour` or `H`, and so on.")]
    start_timestamp: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="ISO 8601 time of the first value."
    )

    def variables(self) -> list[list[float | None]]:
        """The values of each variable.

        Raises:
            InvalidRequestError: the series has not the form of its type.
        """
        rows: list[Any] = self.series
        if self.type == UNIVARIATE:
            if rows and isinstance(rows[0], list):
                raise InvalidRequestError(f"must be one list of numbers, since the type is {UNIVARIATE}", "$.series")
            if not rows:
                raise InvalidRequestError("must have at least one value", "$.series")
            return [rows]
        if not rows or not isinstance(rows[0], list):
            raise InvalidRequestError(f"must have a list for each time, since the type is {MULTIVARIATE}", "$.series")
        if not rows[0] or len({len(row) for row in rows}) > 1:
            raise InvalidRequestError("must have as many values at every time, and at least one", "$.series")
        return [list(values) for values in zip(*rows, strict=True)]


class TimeSeriesOptions(_Open):
    """What to forecast."""

    horizon: Horizon
    quantiles: Quantiles = Field(default=None, description="The levels to answer, from 0.001 to 0.999; none if absent.")


class TimeSeriesRequest(_Open):
    """Series, and how far to forecast all of them."""

    model: Annotated[str, Field(min_length=1, max_length=80, description="`name` or `name@version`.")]
    inputs: Annotated[list[TimeSeriesInput], Field(min_length=1, fail_fast=True)]
    options: TimeSeriesOptions
    metadata: dict[str, Any] | None = Field(default=None, description="Ignored.")


class TimeSeriesErrorFields(Answer):
    """What is wrong."""

    code: str | None
    message: str
    param: str | None
    type: str


class TimeSeriesError(Answer):
    """An error in KServe's form."""

    error: TimeSeriesErrorFields


Numbers = list[float] | list[list[float]]


class TimeSeriesForecast(Answer):
    """The forecast of an input."""

    type: str
    name: str
    mean_forecast: Numbers = Field(description="The median.")
    frequency: str
    start_timestamp: str = Field(description='Of the first forecast; "" if the input has none.')
    quantiles: dict[str, Numbers] | None = Field(description="By level.")


class TimeSeriesOutput(Answer):
    """The result of an input."""

    type: Literal["time_series_forecast"]
    id: str
    status: Literal["completed", "error"]
    content: list[TimeSeriesForecast] = Field(description="One forecast; none if the input failed.")
    error: TimeSeriesErrorFields | None


class TimeSeriesUsage(Answer):
    """The values read and forecast."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TimeSeriesResult(Answer):
    """A result for each input, in order."""

    id: str
    created_at: int
    status: Literal["completed", "partial"] = Field(description="`partial`: some inputs failed, others did not.")
    error: TimeSeriesErrorFields | None
    model: str
    outputs: list[TimeSeriesOutput]
    usage: TimeSeriesUsage


@router.post(
    "/forecast",
    operation_id="kserve_forecast",
    summary="Forecast many series, as KServe asks",
    response_model=TimeSeriesResult,
    openapi_extra=TIMEOUT_HEADERS,
    responses=documented(400, 401, 404, 409, 413, 415, 429, 503, 504, model=TimeSeriesError),
)
async def post_forecast(
    body: Annotated[TimeSeriesRequest, Body(openapi_examples=EXAMPLES)], call: Context, request: Request
) -> Response:
    """Forecast many series in one call of KServe's time series API. An input that fails has its error in its output; if
    all fail, the call does."""
    settings = call.app.settings
    model = call.app.registry.find_kind(body.model, FORECAST)
    check_horizon(body.options.horizon, settings, "$.options.horizon")
    if body.options.quantiles is not None:
        check_levels(sorted(body.options.quantiles), model.manifest, "$.options.quantiles")
    variables = [_variables(given) for given in body.inputs]
    limit = settings.max_batch_requests
    if sum(map(len, variables)) > limit:
        raise LimitExceededError(f"at most {limit} series in one call", "$.inputs")
    batch = await run_batch(_series(body, variables, model, settings), call, "$.inputs")
    outputs: list[dict[str, Any]] = []
    errors: list[CarryError] = []
    read = forecast = 0
    for given, first, count in zip(body.inputs, _starts(variables), map(len, variables), strict=True):
        try:
            content = [_forecast(given, batch, range(first, first + count), body.options)]
        except CarryError as error:
            error.path = f"$.inputs[{len(outputs)}]{(error.path or '$')[1:]}"
            errors.append(error)
            outputs.append(_output([], openai_error(problem_of(error, request))["error"]))
        else:
            outputs.append(_output(content, None))
            read += count * len(given.series)
            forecast += count * body.options.horizon
    if len(errors) == len(outputs):
        raise errors[0]
    call.app.metrics.count(model.label, read, forecast)
    answer = {
        "id": uuid.uuid4().hex,
        "created_at": int(time.time()),
        "status": "partial" if errors else "completed",
        "error": None,
        "model": body.model,
        "outputs": outputs,
        "usage": {"prompt_tokens": read, "completion_tokens": forecast, "total_tokens": read + forecast},
    }
    return await large_json_answer(json_pieces(answer), call.deadline)


@router.get(
    "/models",
    operation_id="kserve_list_models",
    summary="List the forecasters, as KServe asks",
    responses=documented(401, model=TimeSeriesError),
)
async def get_models(app: App) -> list[str]:
    """The names of the forecasters."""
    return sorted({model.manifest.name for model in app.registry.current.of_kind(FORECAST)})


Variables = list[list[float | None] | InvalidRequestError]


def _variables(given: TimeSeriesInput) -> Variables:
    """The values of each variable of an input; or one error, if the input has not the form of its type."""
    try:
        return [*given.variables()]
    except InvalidRequestError as error:
        return [error]


def _starts(variables: list[Variables]) -> Iterator[int]:
    """Of each input, the index of its first variable among those of all inputs."""
    return accumulate(map(len, variables[:-1]), initial=0)


def _series(
    body: TimeSeriesRequest, variables: list[Variables], model: ForecastModel, settings: Settings
) -> Iterator[PreparedForecast | CarryError]:
    """The forecast of each variable of each input, prepared, or its error."""
    for given, of_input in zip(body.inputs, variables, strict=True):
        for values in of_input:
            if isinstance(values, InvalidRequestError):
                yield values
                continue
            try:
                yield _prepared(given, values, body.options, model, settings)
            except CarryError as error:
                error.path = error.path and _PATHS.get(error.path, error.path)
                yield error


_PATHS = {"$.freq": "$.frequency", "$.start": "$.start_timestamp"}
"""Our names of fields -> KServe's."""


def _prepared(
    given: TimeSeriesInput,
    values: list[float | None],
    options: TimeSeriesOptions,
    model: ForecastModel,
    settings: Settings,
) -> PreparedForecast:
    freq = FREQUENCIES.get(given.frequency) or FREQUENCIES.get(given.frequency.lower(), given.frequency)
    forecast = ForecastBody(
        series=values,
        start=given.start_timestamp,
        freq=freq,
        horizon=options.horizon,
        quantiles=sorted({MEDIAN, *(options.quantiles or ())}),
    )
    return prepare_forecast(forecast, model, EMPTY_STATE, False, settings)


def _forecast(
    given: TimeSeriesInput, batch: Batch[PreparedForecast], of_input: range, options: TimeSeriesOptions
) -> dict[str, Any]:
    """The `TimeSeriesForecast` of an input. Drops its results, to free their memory.

    Raises:
        CarryError: the forecast of one of its variables failed.
    """
    answers = []
    for i in of_input:
        item = batch.items[i]
        if isinstance(item, CarryError):
            raise item
        answers.append(item.answer(batch.results.pop(i).result()))
    times = answers[0]["timestamps"]

    def joined(rows: list[Floats]) -> Floats:
        """One row for a series; for several, a row for each time."""
        return rows[0] if given.type == UNIVARIATE else np.stack(rows, axis=1)

    levels = None if options.quantiles is None else [f"{level:g}" for level in sorted(set(options.quantiles))]
    return {
        "type": given.type,
        "name": given.name,
        "mean_forecast": joined([answer["median"] for answer in answers]),
        "frequency": given.frequency,
        "start_timestamp": times[0].replace("+00:00", "Z") if times else "",
        "quantiles": levels and {level: joined([answer["quantiles"][level] for answer in answers]) for level in levels},
    }


def _output(content: list[dict[str, Any]], error: dict[str, Any] | None) -> dict[str, Any]:
    """An `TimeSeriesOutput`."""
    return {
        "type": "time_series_forecast",
        "id": uuid.uuid4().hex,
        "status": "error" if error else "completed",
        "content": content,
        "error": error,
    }
