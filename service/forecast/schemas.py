"""The JSON of requests and answers about series."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from service.http.schemas import (
    MAX_INTEGER,
    Answer,
    AnswerSession,
    AnswerState,
    Body,
    ModelId,
    ModelName,
    Problem,
    StatefulBody,
)
from service.series import FIRST_SERIES, Features, Series
from service.validation import Number


def _in_a_list(season_length: Any) -> Any:
    if season_length is None:
        return None
    seasons = season_length if isinstance(season_length, list | tuple) else [season_length]
    match seasons:
        case [int(season)] if 1 <= season <= MAX_INTEGER and season is not True:
            return seasons
        case [int(season), int(longer)] if 2 <= season < longer <= MAX_INTEGER:
            return seasons
    raise ValueError("must be a number of values of at least 1, or two that ascend from at least 2, such as [24, 168]")


SeasonLength = Annotated[
    tuple[int, ...] | None,
    BeforeValidator(_in_a_list, json_schema_input_type=int | list[int] | None),
    Field(
        description="Values per season, such as 12, or of two seasons, such as [24, 168]; 1: there is none. If absent, "
        "the usual one of `freq`; without `freq`, the model finds it in the values. A session or state keeps its own.",
        examples=[12, [24, 168]],
    ),
]
Freq = Annotated[
    Annotated[str, Field(max_length=16)] | None,
    Field(
        description="How often there is a value: Y, Q, M, W, D, B, H, min or S, perhaps with a count before it "
        "(15min). Sets the season."
    ),
]
Quantiles = Annotated[
    Annotated[list[Annotated[Number, Field(gt=0, lt=1)]], Field(min_length=1, max_length=99)] | None,
    Field(description="Quantile levels, from 0.001 to 0.999. All of the model's if absent."),
]
Level = Annotated[Number, Field(gt=0, lt=100)]
Levels = Annotated[
    Annotated[list[Level], Field(min_length=1, max_length=49)] | None,
    Field(description="Instead of `quantiles`: central intervals in percent, e.g. 80 for 0.1 and 0.9."),
]
Lower = Annotated[
    Number | None,
    Field(
        description="No value can be below this: the median, the quantiles and the history are raised to it. Values "
        "of the series may still lie below it.",
        examples=[0],
    ),
]
Upper = Annotated[
    Number | None,
    Field(
        description="No value can be above this: the median, the quantiles and the history are lowered to it. Values "
        "of the series may still lie above it.",
        examples=[100],
    ),
]
NonNegative = Annotated[bool, Field(strict=True, description='The same as `"lower": 0`.')]
Horizon = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=MAX_INTEGER,
        description="How many values to forecast; may be more than the model's own horizon.",
    ),
]
FromStep = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=MAX_INTEGER,
        description="The first step that is answered, at most the horizon: with 15 and a horizon of 20, steps 15 to "
        "20. The horizon still counts from the last value.",
    ),
]
IncludeHistory = Annotated[
    bool, Field(strict=True, description="Also answer the one-step-ahead quantiles of each value of the series.")
]


class SeriesBody(Body):
    """A series, its times, season and bounds."""

    series: Series = Field(
        description="The values, oldest first, `null` where missing; or such a list for each feature, by name, of "
        "strings where it is categorical. With a session or state, only the new values; `[]` if there are none.",
        examples=[[112, 118, 132, 129, None, 135, 148, 148, 136, 119, 104, 118]],
    )
    start: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="ISO 8601 date or time of the first value; with `freq`, timestamps come back."
    )
    freq: Freq = None
    season_length: SeasonLength = None
    lower: Lower = None
    upper: Upper = None
    non_negative: NonNegative = False


Future = Annotated[
    Features | None,
    Field(
        description="Features that the model knows ahead, after the last value: a list for each, by name. Values left "
        "out are missing.",
        examples=[{"price": [9.5, 9.5, 8]}],
    ),
]


class ForecastBody(StatefulBody, SeriesBody):
    """A series, and which values and quantiles to forecast."""

    future: Future = None
    horizon: Horizon = 12
    from_step: FromStep = 1
    quantiles: Quantiles = None
    levels: Levels = None
    include_history: IncludeHistory = False


UsedSeason = Annotated[
    list[int] | None, Field(description="Values per season; [1]: there is none; `null`: the model takes no season.")
]


class History(Answer):
    """One-step-ahead quantiles of the values of the series; `null` for the first of all, which no value precedes."""

    quantiles: dict[str, list[float | None]]


class ForecastAnswer(Answer):
    """The forecast."""

    model: ModelId
    horizon: int
    from_step: int
    quantiles: dict[str, list[float]] = Field(
        description="By level, each a list of the steps from `from_step` to `horizon`."
    )
    median: list[float]
    timestamps: list[str] | None
    season_length: UsedSeason
    history: History | None
    session: AnswerSession
    state: AnswerState


class ForecastBatchBody(Body):
    """Many forecast requests. The other fields are defaults for items that leave them out."""

    requests: Annotated[list[Any], Field(min_length=1)] = Field(description="Each as in `POST /forecast`.")
    model: ModelName = None
    freq: Freq = None
    season_length: SeasonLength = None
    lower: Lower = None
    upper: Upper = None
    non_negative: NonNegative = False
    horizon: Horizon = 12
    from_step: FromStep = 1
    quantiles: Quantiles = None
    levels: Levels = None
    include_history: IncludeHistory = False


class ForecastBatchAnswer(Answer):
    """For each request, in order, its forecast or its problem."""

    results: list[ForecastAnswer | Problem]


class AnomalyBody(StatefulBody, SeriesBody):
    """A series whose values are to be judged."""

    future: Future = None
    level: Level | None = Field(
        default=None,
        description="In percent: values outside of this central interval are anomalies. 99 if absent.",
    )


class AnomalyAnswer(Answer):
    """For each value of the series, the interval that was forecast from the values before it, and whether it lies
    outside. `null` where no value precedes; `anomaly` and `score` also where the value is missing."""

    model: ModelId
    level: float
    anomaly: list[bool | None]
    lower: list[float | None]
    upper: list[float | None]
    median: list[float | None]
    score: list[float | None] = Field(description="The quantile level at which the value lies, from 0.001 to 0.999.")
    timestamps: list[str] | None = Field(description="The times of the values.")
    season_length: UsedSeason
    session: AnswerSession
    state: AnswerState


class CrossValidationBody(SeriesBody):
    """A series, to be forecast from several points of its own past."""

    model: ModelName = None
    horizon: Horizon = 12
    windows: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)] = Field(
        default=1, description="How many windows to forecast; the last one is the last `horizon` values."
    )
    step: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)] | None = Field(
        default=None, description="How many values the windows are apart; the horizon if absent."
    )
    quantiles: Quantiles = None
    levels: Levels = None


class WindowAnswer(Answer):
    """One window: its forecast from the values before it, and its actual values."""

    cutoff: int = Field(description="How many values precede the window.")
    quantiles: dict[str, list[float]]
    median: list[float]
    actual: list[float | None]
    timestamps: list[str] | None


class AccuracyAnswer(Answer):
    """Means over all windows; `null` where no value is there, or nothing to scale by."""

    mase: float | None = Field(
        description="Absolute error of the median, over the mean absolute seasonal difference before the cutoff."
    )
    smape: float | None
    scaled_quantile_loss: float | None = Field(
        description="Twice the pinball loss, mean over the quantile levels, over the same as `mase`."
    )
    coverage: dict[str, float | None] = Field(
        description="The share of values within each central interval of the request, by its level in percent."
    )


class CrossValidationAnswer(Answer):
    """The windows, oldest first, and how good their forecasts were."""

    model: ModelId
    horizon: int
    windows: list[WindowAnswer]
    metrics: AccuracyAnswer
    season_length: UsedSeason


class FirstSeries(Body):
    """The first values of a new session."""

    series: Series | None = FIRST_SERIES
    freq: Freq = None
    season_length: SeasonLength = None
