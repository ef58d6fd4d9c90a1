"""What the `nixtla` client (version 0.9) sends and reads, and its series, all in one column, as arrays.

Knows nothing of engines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from service.errors import InvalidRequestError, LimitExceededError
from service.forecast.inputs import feature_column
from service.forecast.manifest import ForecastManifest
from service.forecast.schemas import Values
from service.forecast.task import check_levels, tails
from service.forecast.timestamps import seasons_of
from service.http.schemas import MAX_INTEGER, Answer, Body, ModelId, Number, unsupported
from service.settings import Settings

Floats = NDArray[np.float64]

MEDIAN = 0.5


Count = Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)]
Steps = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)] | None
Flag = Annotated[bool, Field(strict=True)] | None
Level = Annotated[Number, Field(ge=0, lt=100)]
Levels = Annotated[list[Level], Field(max_length=198)] | None


def _in_lists(given: Any) -> Any:
    """R writes a list of one number as the number."""
    if not isinstance(given, list):
        return given if given is None or isinstance(given, dict) else [given]
    return [row if isinstance(row, list) else [row] for row in given]


Rows = (
    Annotated[
        list[list[Any]],
        BeforeValidator(_in_lists, json_schema_input_type=list[list[Any] | float]),
        Field(max_length=1000),
    ]
    | None
)
Indices = Annotated[list[Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)]], Field(max_length=1000)] | None
Unused = Annotated[str, Field(max_length=80)] | None

NO_TUNING = "models are not tuned to the series of a call here: leave it out"
NO_EXPLANATIONS = "forecasts are not explained here: leave it out"


class SeriesPayload(Body):
    """`X`: a row for each exogenous feature, of all series; `X_future`: of those known ahead, h values a series;
    `categorical_exog`: which rows are categorical."""

    y: Values = Field(description="All series, one after the other; `null` where missing.", examples=[[3, 4, 6, 1, 2]])
    sizes: Annotated[list[Count], Field(fail_fast=True)] = Field(description="Of each series.", examples=[[3, 2]])
    X: Rows = None
    X_future: Rows = None
    start_datetime: Annotated[list[str], Field(fail_fast=True)] | None = Field(
        default=None, description="Of each series. Nothing depends on them: the client adds the times by itself."
    )
    categorical_exog: Indices = None


class Payload(Body):
    """What all of the client's calls have in common."""

    series: SeriesPayload
    model: Annotated[str, Field(min_length=1, max_length=80)] | None = Field(
        default=None,
        description="`name` or `name@version`; names that begin with `timegpt` are the default forecaster.",
    )
    freq: Annotated[str, Field(max_length=40)] | None = Field(default=None, description="As pandas has it: the season.")
    clean_ex_first: Flag = Field(default=None, description="Nothing is cleaned: features are taken as they are.")
    finetune_steps: Annotated[Steps, unsupported(NO_TUNING)] = None
    finetune_depth: Annotated[Steps, Field(description="Of tuning; nothing depends on it.")] = None
    finetune_loss: Annotated[Unused, Field(description="Of tuning; nothing depends on it.")] = None
    finetuned_model_id: Annotated[Unused, unsupported(NO_TUNING)] = None
    multivariate: Annotated[Flag, unsupported("each series is forecast by itself here: leave it out")] = None
    model_parameters: Annotated[dict[str, Any] | None, unsupported("models have no parameters here: leave it out")] = None

    def season_freq(self, client_version: str | None) -> str | None:
        """The frequency that tells the season; None where the values have to: those that have no rule (pandas knows
        more than we do), and that which the client says of integer times, whatever they are. From 0.9 on, the client
        says its version, and when dated series start."""
        dated = client_version is None or self.series.start_datetime is not None
        if self.freq is None or (self.freq == "MS" and not dated):
            return None
        try:
            seasons_of(self.freq)
        except InvalidRequestError:
            return None
        return self.freq


class ForecastPayload(Payload):
    """Series, and what to forecast of each."""

    h: Count
    level: Levels = Field(default=None, description="Central intervals in percent.")
    feature_contributions: Annotated[Flag, unsupported(NO_EXPLANATIONS)] = None
    feature_contributions_type: Unused = None


class HistoryPayload(Payload):
    """Series, to tell of each value but the first what was expected of it one step ahead."""

    level: Levels = None
    feature_contributions: Annotated[Flag, unsupported(NO_EXPLANATIONS)] = None
    feature_contributions_type: Unused = None


class CrossValidationPayload(ForecastPayload):
    """Series, to be forecast from several points of their past.

    `full_history`: instead, each value one step ahead from all before it, which is how the client has the history.
    """

    n_windows: Count = 1
    step_size: Count | None = Field(default=None, description="`h` if absent.")
    hist_exog: Indices = None
    refit: Flag = None
    full_history: Flag = None


class AnomalyPayload(Payload):
    """Series, to judge each value by the values before it."""

    level: Level


class OnlineAnomalyPayload(AnomalyPayload):
    """Series, to judge the last values of each by forecasts of at most `h` steps."""

    h: Count
    detection_size: Count
    step_size: Count | None = Field(default=None, description="A forecast is made after so many values; `h` if absent.")
    threshold_method: Literal["univariate", "multivariate"] | None = None
    hist_exog: Indices = None
    refit: Flag = None


Numbers = list[float | None]


class ForecastResult(Answer):
    """A forecast of each series, one after the other."""

    model: ModelId
    mean: Numbers = Field(description="The medians.")
    intervals: dict[str, Numbers] | None = Field(description="`lo-80`, `hi-80` and so on.")
    weights_x: None
    feature_contributions: None


class PanelResult(ForecastResult):
    """And of how many values each series, and which of `y` they are of."""

    sizes: list[int]
    idxs: list[int]


class AnomalyResult(PanelResult):
    """And which values are anomalies; `anomaly_score`: how far a value is from the median, 1 at the interval's edge."""

    anomaly: list[bool]
    anomaly_score: Numbers


class ModelParams(Answer):
    """How the client should cut what it sends."""

    input_size: int
    horizon: int


class ModelParamsAnswer(Answer):
    """As the client reads them."""

    detail: ModelParams


class DetailAnswer(Answer):
    """A sentence."""

    detail: str


class UsageAnswer(Answer):
    """What was used of what was paid for."""

    minute: dict[str, int]
    month: dict[str, int]


class FinetunedModels(Answer):
    """The models that were tuned to a caller's series."""

    finetuned_models: list[dict[str, str]]


class ModelName(Answer):
    """A forecaster."""

    name: str


class ModelNames(Answer):
    """The forecasters there are."""

    models: list[ModelName]


@dataclass(frozen=True)
class Panel:
    """Of each series: its values (T, F), what is known of the h steps after them (h, K), and where in `y` it begins."""

    values: list[Floats]
    futures: list[Floats] | list[None]
    begins: list[int]


def panel(given: SeriesPayload, manifest: ForecastManifest, settings: Settings, h: int = 0) -> Panel:
    """The series as arrays.

    Raises:
        InvalidRequestError: their numbers do not fit together, or the model does not take what they bring.
        LimitExceededError: they are too many or too long.
    """
    count, most = len(given.sizes), settings.max_batch_requests
    if not 1 <= count <= most:
        raise LimitExceededError(
            f"from 1 to {most} series in one call, and these are {count}: set num_partitions", "$.series.sizes"
        )
    if len(given.y) > settings.max_waiting_steps:
        most = settings.max_waiting_steps
        detail = f"at most {most} values in one call, and these are {len(given.y)}: set num_partitions"
        raise LimitExceededError(detail, "$.series.y")
    ends = np.cumsum(np.array(given.sizes, dtype=np.float64))
    if ends[-1] != len(given.y):
        raise InvalidRequestError(f"sum to {ends[-1]:.0f}, but y has {len(given.y)} values", "$.series.sizes")
    cuts = ends[:-1].astype(np.int64)
    target = np.array(given.y, dtype=np.float64)
    longest = max(range(count), key=given.sizes.__getitem__)
    if given.sizes[longest] > settings.max_series_length:
        most = settings.max_series_length
        raise LimitExceededError(f"at most {most} values are read at once", place(longest))
    names = feature_names(given, manifest)
    table = np.empty((len(target), len(manifest.features)))
    table[:, 0] = target
    for i, (name, row) in enumerate(zip(names, given.X or (), strict=True)):
        table[:, manifest.features.index(name)] = _row(row, len(target), name, manifest, ("series", "X", i))
    futures: list[Floats] | list[None] = [None] * count
    if given.X_future is not None:
        ahead = names[: len(given.X_future)]
        if {*ahead} != {*manifest.known_ahead} or len(ahead) != len(given.X_future):
            raise InvalidRequestError(_taken(manifest), "$.series.X_future")
        future = np.empty((count * h, len(ahead)))
        for i, (name, row) in enumerate(zip(ahead, given.X_future, strict=True)):
            found = _row(row, len(future), name, manifest, ("series", "X_future", i))
            future[:, manifest.known_ahead.index(name)] = found
        futures = [*future.reshape(count, h, len(ahead))]
    return Panel(np.split(table, cuts), futures, [0, *cuts.tolist()])


def place(i: int) -> str:
    """Where an error of one series is shown."""
    return f"$.series.sizes[{i}]"


def feature_names(given: SeriesPayload, manifest: ForecastManifest) -> list[str]:
    """Which features the rows of `X` are. They come without names: first those known ahead, then the others, each in
    the model's order; where the client puts the categorical ones differs from call to call, but it says which they are.

    Raises:
        InvalidRequestError: they are not those of the model.
    """
    rows, categorical = len(given.X or ()), {*(given.categorical_exog or ())}
    ordered = [*manifest.known_ahead, *(name for name in manifest.features[1:] if name not in manifest.known_ahead)]
    kinds = {kind: [name for name in ordered if (name in manifest.categories) is kind] for kind in (False, True)}
    found = [i in categorical for i in range(rows)]
    if max(categorical, default=-1) >= rows or any(found.count(kind) != len(kinds[kind]) for kind in kinds):
        raise InvalidRequestError(_taken(manifest), "$.series.X")
    left = {kind: iter(names) for kind, names in kinds.items()}
    return [next(left[kind]) for kind in found]


def check_hist_exog(hist_exog: Sequence[int] | None, given: SeriesPayload, manifest: ForecastManifest) -> None:
    """Refuse to know ahead what the model does not, and not to know what it does.

    Raises:
        InvalidRequestError: they differ.
    """
    names, past = feature_names(given, manifest), {*(hist_exog or ()), *(given.categorical_exog or ())}
    ahead = {name for i, name in enumerate(names) if i not in past}
    if ahead != {name for name in manifest.known_ahead if name not in manifest.categories}:
        raise InvalidRequestError(_taken(manifest), "$.hist_exog")


def _row(
    items: list[Any], length: int, name: str, manifest: ForecastManifest, at: tuple[str, str, int]
) -> Sequence[float | None]:
    if len(items) != length:
        raise InvalidRequestError(
            f"has {len(items)} values, and there should be {length}", f"$.{at[0]}.{at[1]}[{at[2]}]"
        )
    return feature_column(items, manifest.categories.get(name), at)


def _taken(manifest: ForecastManifest) -> str:
    """What the model takes beside the target."""
    if len(manifest.features) == 1:
        return f"{manifest.name} takes no exogenous features (X_df, hist_exog_list, date_features)"
    ahead = ", ".join(manifest.known_ahead) or "none"
    past = ", ".join(name for name in manifest.features[1:] if name not in manifest.known_ahead) or "none"
    kinds = f"; categorical_exog_list: {', '.join(manifest.categories)}" if manifest.categories else ""
    return (
        f"{manifest.name} takes these exogenous features, in this order: X_df: {ahead}; hist_exog_list: {past}{kinds}"
    )


def quantile_levels(levels: Sequence[float] | None, manifest: ForecastManifest) -> tuple[float, ...]:
    """The quantile levels of central intervals, ascending, and the median.

    Raises:
        InvalidRequestError: the model does not know them.
    """
    found = tuple(sorted({MEDIAN, *(tail for level in levels or () for tail in tails(level))}))
    check_levels(found, manifest, "$.level")
    return found


def mean_and_intervals(levels: Sequence[float] | None, quantiles: Floats, known: tuple[float, ...]) -> dict[str, Any]:
    """Of quantiles (N, L) at the levels known: the medians (N,), and the bounds (N,) of each interval."""
    by_level = dict(zip(known, np.ascontiguousarray(quantiles.T), strict=True))
    found = {"mean": by_level[MEDIAN], "intervals": None}
    if levels is None:
        return found
    names = {f"{end}-{level:g}": tail for level in levels for end, tail in zip(("lo", "hi"), tails(level), strict=True)}
    return {**found, "intervals": {name: by_level[tail] for name, tail in names.items()}}
