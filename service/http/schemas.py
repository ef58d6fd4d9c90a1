"""The JSON of requests and answers. Unknown fields are refused, so that a mistyped option is never silently dropped."""

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e30, le=1e30)]
# Without fail_fast, a body of a million wrong values would be a million errors.
Values = Annotated[list[Number | None], Field(fail_fast=True)]
MOST_COUNT = 2**31
"""Of every integer: no limit is as high, and one of thousands of digits could not even be named in an error."""
MOST_FIELDS = 64
MOST_BIASES = 1024
ModelName = Annotated[
    str | None, Field(min_length=1, max_length=80, description="`name` or `name@version`; the default model if absent.")
]


def _is_unicode(text: str) -> str:
    """JSON can write half a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid unicode: half of a surrogate pair") from None
    return text


def _has_few_fields(data: Any, most: int = MOST_FIELDS) -> Any:
    """Each wrong field would be an error of its own, and a body has room for a million."""
    if isinstance(data, dict) and len(data) > most:
        raise ValueError(f"has more than {most} fields")
    return data


def never(why: str) -> AfterValidator:
    """Refuse whatever asks for it."""

    def refuse(given: Any) -> Any:
        if given:
            raise ValueError(why)
        return given

    return AfterValidator(refuse)


Text = Annotated[str, AfterValidator(_is_unicode)]
NonEmptyText = Annotated[str, Field(min_length=1), AfterValidator(_is_unicode)]


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, data: Any) -> Any:
        return _has_few_fields(data)


class Answer(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class FieldError(Answer):
    """What is wrong with one field."""

    path: str = Field(examples=["$.series[3]"])
    message: str


class Problem(Answer):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] = []


class ModelId(Answer):
    """The model that answered."""

    name: str
    version: int


class SessionId(Answer):
    """The session as the call left it; its version is also the answer's ETag."""

    id: str
    version: int
    position: int = Field(description="Values or characters read so far, generated ones among them.")


class CarriedBody(Body):
    """A request that may go on from where another one ended."""

    model: ModelName = None
    session_id: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Go on from where this session stands, and move it there."
    )
    state: str | None = Field(
        default=None,
        description='Instead of a session: the `state` of an earlier answer, to go on from there; `""` begins anew. '
        "The answer has the new one. The service keeps nothing.",
    )
    commit: Annotated[bool, Field(strict=True)] = Field(
        default=True, description="`false`: go on from the session or state without moving it."
    )


CarriedSession = Annotated[SessionId | None, Field(description="The request's, if it had one.")]
CarriedState = Annotated[
    str | None, Field(description="Where this ended, if the request brought a `state` and was to move it.")
]


def _layout(series: Any) -> str:
    return "<features>" if isinstance(series, dict) else "<values>"


_FEATURE_SCHEMA = {
    "type": "object",
    "additionalProperties": {"type": "array", "items": {"type": ["number", "string", "null"]}},
}
Features = Annotated[
    dict[str, list[Any]], BeforeValidator(_has_few_fields), Field(min_length=1), WithJsonSchema(_FEATURE_SCHEMA)
]
"""A list for each feature. Only the model can judge what is in it (service/forecast/inputs.py)."""
Series = Annotated[Annotated[Values, Tag("<values>")] | Annotated[Features, Tag("<features>")], Discriminator(_layout)]


def _in_a_list(given: Any) -> Any:
    if given is None:
        return None
    seasons = given if isinstance(given, list | tuple) else [given]
    match seasons:
        case [int(season)] if 1 <= season <= MOST_COUNT and season is not True:
            return seasons
        case [int(season), int(longer)] if 2 <= season < longer <= MOST_COUNT:
            return seasons
    raise ValueError("must be a number of values of at least 1, or two that ascend from at least 2, such as [24, 168]")


SeasonLength = Annotated[
    tuple[int, ...] | None,
    BeforeValidator(_in_a_list, json_schema_input_type=int | list[int] | None),
    Field(
        description="Values per season, such as 12, or of two seasons, such as [24, 168]; 1: there is none. If absent, "
        "that of `freq`, and without it the one found in the values. A sequence that goes on keeps its own.",
        examples=[12, [24, 168]],
    ),
]
Freq = Annotated[
    Annotated[str, Field(max_length=16)] | None,
    Field(
        description="How often there is a value: Y, Q, M, W, D, B, H, min or S, with a count before it if need be "
        "(15min). Tells the season."
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
        description="No value can be below this: the median, the quantiles and the history are raised to it. A value "
        "of the series may lie below it all the same.",
        examples=[0],
    ),
]
Upper = Annotated[
    Number | None,
    Field(
        description="No value can be above this: the median, the quantiles and the history are lowered to it. A value "
        "of the series may lie above it all the same.",
        examples=[100],
    ),
]
NonNegative = Annotated[bool, Field(strict=True, description='The same as `"lower": 0`.')]
Horizon = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=MOST_COUNT,
        description="How many values to forecast. May be longer than the model's own horizon.",
    ),
]
FromStep = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=MOST_COUNT,
        description="The first step that is answered, at most the horizon: with 15 and a horizon of 20, steps 15 to "
        "20. The horizon still counts from the last value.",
    ),
]
IncludeHistory = Annotated[
    bool, Field(strict=True, description="Also give the one-step-ahead quantiles of each value given.")
]


class SeriesBody(Body):
    """A series, and what is known of it."""

    series: Series = Field(
        description="The values, oldest first, `null` where missing; or such a list for each feature, by name, of "
        "strings where it is categorical. With a session or state, those that are new; `[]` if there are none.",
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
        description="What is known of the time after the last value: a list for each such feature of the model, by "
        "name. What it does not tell is missing.",
        examples=[{"price": [9.5, 9.5, 8]}],
    ),
]


class ForecastBody(CarriedBody, SeriesBody):
    """A series, and what to forecast of it."""

    future: Future = None
    horizon: Horizon = 12
    from_step: FromStep = 1
    quantiles: Quantiles = None
    levels: Levels = None
    include_history: IncludeHistory = False


UsedSeason = Annotated[
    list[int] | None, Field(description="Values per season, [1] if there is none; `null`: the model takes no season.")
]


class History(Answer):
    """One-step-ahead quantiles of the values given; `null` for the first of all, which nothing precedes."""

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
    session: CarriedSession
    state: CarriedState


class ForecastBatchBody(Body):
    """Many forecast requests. The other fields stand for those that an item leaves out."""

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
    """For each request, in order, its forecast, or the problem with it."""

    results: list[ForecastAnswer | Problem]


class AnomalyBody(CarriedBody, SeriesBody):
    """A series, to tell which of its values are out of the ordinary."""

    future: Future = None
    level: Level | None = Field(
        default=None,
        description="In percent: a value outside of this central interval is an anomaly. 99 if absent.",
    )


class AnomalyAnswer(Answer):
    """For each value given, what those before it let expect, and whether it lies outside. `null` where nothing precedes
    or, of `anomaly` and `score`, the value is missing."""

    model: ModelId
    level: float
    anomaly: list[bool | None]
    lower: list[float | None]
    upper: list[float | None]
    median: list[float | None]
    score: list[float | None] = Field(description="The quantile level at which the value lies, from 0.001 to 0.999.")
    timestamps: list[str] | None = Field(description="Of the values given.")
    season_length: UsedSeason
    session: CarriedSession
    state: CarriedState


class CrossValidationBody(SeriesBody):
    """A series, to be forecast from several points of its own past."""

    model: ModelName = None
    horizon: Horizon = 12
    windows: Annotated[int, Field(strict=True, ge=1, le=MOST_COUNT)] = Field(
        default=1, description="From how many points. The last window is the last `horizon` values."
    )
    step: Annotated[int, Field(strict=True, ge=1, le=MOST_COUNT)] | None = Field(
        default=None, description="How many values the windows are apart; the horizon if absent."
    )
    quantiles: Quantiles = None
    levels: Levels = None


class WindowAnswer(Answer):
    """One window: what was forecast from the values before it, and what came."""

    cutoff: int = Field(description="How many values were read before it.")
    quantiles: dict[str, list[float]]
    median: list[float]
    actual: list[float | None]
    timestamps: list[str] | None


class AccuracyAnswer(Answer):
    """Means over all windows; `null` where there is nothing to take or to scale by."""

    mase: float | None = Field(
        description="Absolute error of the median, over the mean absolute seasonal difference before the cutoff."
    )
    smape: float | None
    scaled_quantile_loss: float | None = Field(
        description="Twice the pinball loss, mean over the quantile levels, over the same as `mase`."
    )
    coverage: dict[str, float | None] = Field(
        description="The share of values within each central interval that was asked for, by its level in percent."
    )


class CrossValidationAnswer(Answer):
    """The windows, the oldest first, and how good their forecasts were."""

    model: ModelId
    horizon: int
    windows: list[WindowAnswer]
    metrics: AccuracyAnswer
    season_length: UsedSeason


Share = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1)]


Unknown = Annotated[
    Literal["replace", "error"],
    Field(
        description="What becomes of characters (words, of a word model) that the model does not know, once the text "
        "is in Unicode's composed form (NFC) with LF as line ends and plain quotes and dashes: `replace` reads each as "
        "the unknown one and tells it in `unknown_characters`; `error` refuses the text and tells the first and its "
        "position."
    ),
]
Length = Annotated[int, Field(strict=True, ge=0, le=MOST_COUNT)]
Temperature = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=10)]
RepetitionPenalty = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0.1, le=10)]
Penalty = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-2, le=2)]
Bias = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-100, le=100)]
Biases = Annotated[dict[str, Bias], BeforeValidator(partial(_has_few_fields, most=MOST_BIASES))]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_is_unicode)]], Field(max_length=16)
]
Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)]
Copies = Annotated[int, Field(strict=True, ge=1, le=128)]
Flag = Annotated[bool, Field(strict=True)]


class GenerateBody(CarriedBody):
    """A prompt, and how to continue it. What a token is, is the model's `unit`: a character, or a word. The controls
    act in this order, each on what the one before it left: `repetition_penalty`, `frequency_penalty` and
    `presence_penalty`, `logit_bias`, `temperature`, `top_k`, `top_p`, `min_p`. Tokens that are as probable as the last
    one that is kept are kept with it."""

    prompt: Text = Field(description="The text to continue; may be empty.", examples=["The old house "])
    max_length: Length = Field(default=200, description="Most tokens to generate; 0 only reads the prompt.")
    temperature: Temperature = Field(
        default=0.8,
        description="Divides the scores. 0 takes the most probable token, of several the first in the vocabulary.",
    )
    top_k: Annotated[int, Field(strict=True, ge=0, le=2**64 - 1)] = Field(
        default=0, description="Keep the k most probable; 0: all."
    )
    top_p: Share = Field(
        default=1.0,
        description="Keep the fewest whose mass reaches p of what top_k left. 0 takes the most probable token, as "
        "`temperature` 0 does.",
    )
    min_p: Share = Field(default=0.0, description="Keep those at least min_p times as probable as the best.")
    repetition_penalty: RepetitionPenalty = Field(
        default=1.0,
        description="Above 1: tokens that already occurred become less likely: their scores are divided by it where "
        "above 0, multiplied where below.",
    )
    frequency_penalty: Penalty = Field(
        default=0.0,
        description="Is subtracted from the score of a token for each time that this request wrote it; the prompt and "
        "what a session holds do not count.",
    )
    presence_penalty: Penalty = Field(
        default=0.0, description="Is subtracted once from the score of each token that this request wrote."
    )
    logit_bias: Biases = Field(
        default={},
        description="By character of the vocabulary (word, of a word model, with the space before it): what is added "
        "to its score; -100 bans it.",
        examples=[{"e": -5.0}],
    )
    stop: Stops = Field(
        default=[],
        description="End before any of these texts, as the model writes them: composed (NFC), and otherwise as they "
        "are; of a word model, with the last whole word before it.",
    )
    seed: Seed | None = Field(
        default=None,
        description="The same request with the same seed gives the same text. Any integer of 64 bits, with or without "
        "a sign (-1 is 2**64 - 1). Random if absent.",
    )
    n: Copies = Field(default=1, description="How many texts.")
    logprobs: Annotated[int, Field(strict=True, ge=0, le=100)] = Field(
        default=0,
        description="Tell so many candidates at each token, with log-probabilities, of the model's own distribution: "
        "before any control.",
    )
    echo: Flag = Field(
        default=False, description="Give the text back with the prompt before it, as it was read; `logprobs` too."
    )
    unknown: Unknown = "replace"
    stream: Flag = Field(default=False, description="Send the text as it is written, as server-sent events.")


class CandidateLog(Answer):
    """A character, or word, and the natural logarithm of its probability."""

    character: str
    logprob: float


class ChosenLog(Answer):
    """A character, or word, of the text beside the most probable ones in its place. `null` and none where nothing came
    before it."""

    character: str
    logprob: float | None
    top: list[CandidateLog]


class Choice(Answer):
    """One generated text."""

    text: str
    finish_reason: Literal["length", "stop"]
    logprobs: list[ChosenLog] | None


class Usage(Answer):
    """What was read and written: characters, or of a word model words."""

    prompt_characters: int
    generated_characters: int


class GenerateAnswer(Answer):
    """The generated text; with `n` above 1, the first of `choices`."""

    model: ModelId
    text: str
    finish_reason: Literal["length", "stop"]
    logprobs: list[ChosenLog] | None
    choices: list[Choice] | None
    seed: int
    usage: Usage
    unknown_characters: list[str] = Field(
        description="Those of the prompt that the model does not know; of a word model, words."
    )
    session: CarriedSession
    state: CarriedState


class PredictBody(CarriedBody):
    """A text, to see what the model expects next."""

    text: Text = Field(description="May be empty.", examples=["She opened the do"])
    top_k: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(default=5, description="How many candidates.")
    per_position: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="Tell them after each token of the text as it is read, and the text's bits per character.",
    )
    candidates: Annotated[list[NonEmptyText], Field(min_length=1, max_length=1000, fail_fast=True)] | None = Field(
        default=None,
        description="Continuations of the text, to be ranked by their probability. They move no session.",
        examples=[["e", " and", "ut"]],
    )
    unknown: Unknown = "replace"


class CandidateProbability(Answer):
    """A character, or word, and its probability."""

    character: str
    probability: float


class PositionAnswer(Answer):
    """A character of the text, or word, the probability it had (`null` for the very first), and what the model expects
    next."""

    character: str
    probability: float | None
    next: list[CandidateProbability]


class RankedCandidate(Answer):
    """A continuation, its place among those that were sent, and the natural logarithm of its probability: in all, and
    per character of it as it was read."""

    index: int
    text: str
    logprob: float
    logprob_per_character: float


class PredictAnswer(Answer):
    """What the model expects next."""

    model: ModelId
    next: list[CandidateProbability]
    positions: list[PositionAnswer] | None
    bits_per_character: float | None = Field(
        description="With `per_position`, of what had something before it. Of a word model, too, per character."
    )
    candidates: list[RankedCandidate] | None = Field(description="The most probable first, in all.")
    unknown_characters: list[str]
    session: CarriedSession
    state: CarriedState
