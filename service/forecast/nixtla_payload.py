"""What the `nixtla` client (version 0.9) sends and reads, and its series, sent as one column, as arrays.

Knows nothing of engines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from service.errors import InvalidRequestError, LimitExceededError
from service.forecast.intervals import Floats, interval_to_quantiles
from service.forecast.manifest import ForecastManifest
from service.forecast.task import check_levels
from service.forecast.timestamps import seasons_of
from service.http.schemas import MAX_INTEGER, Answer, Body, ModelId, unsupported
from service.series import Values, feature_column
from service.settings import Settings
from service.validation import Number, json_path

MEDIAN = 0.5

Count = Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)]
Steps = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)] | None
Flag = Annotated[bool, Field(strict=True)] | None
Level = Annotated[Number, Field(ge=0, lt=100)]
Levels = Annotated[list[Level], Field(max_length=198)] | None


def _in_lists(rows: Any) -> Any:
    """Lists of rows as they are; R writes a list of one number as the number."""
    if not isinstance(rows, list):
        return rows if rows is None or isinstance(rows, dict) else [rows]
    return [row if isinstance(row, list) else [row] for row in rows]


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
    """`X`: a row for each exogenous feature, with the values of all series; `X_future`: a row for each feature known
    ahead, with h values per series; `categorical_exog`: which rows are categorical."""

    y: Values = Field(description="All series, one after the other; `null` where missing.", examples=[[3, 4, 6, 1, 2]])
    sizes: Annotated[list[Count], Field(fail_fast=True)] = Field(
        description="The length of each series.", examples=[[3, 2]]
    )
    X: Rows = None
    X_future: Rows = None
    start_datetime: Annotated[list[str], Field(fail_fast=True)] | None = Field(
        default=None,
        description="Of each series. Forecasts do not depend on it: the client adds the times itself.",
    )
    categorical_exog: Indices = None


class Payload(Body):
    """The fields that all of the client's calls have."""

    series: SeriesPayload
    model: Annotated[str, Field(min_length=1, max_length=80)] | None = Field(
        default=None,
        description="`name` or `name@version`. For names that begin with `timegpt`, the default forecaster answers.",
    )
    freq: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="pandas' name; sets the season."
    )
    clean_ex_first: Flag = Field(default=None, description="Ignored: features are taken as they are.")
    finetune_steps: Annotated[Steps, unsupported(NO_TUNING)] = None
    finetune_depth: Annotated[Steps, Field(description="Ignored: models are not tuned.")] = None
    finetune_loss: Annotated[Unused, Field(description="Ignored: models are not tuned.")] = None
    finetuned_model_id: Annotated[Unused, unsupported(NO_TUNING)] = None
    multivariate: Annotated[Flag, unsupported("each series is forecast by itself here: leave it out")] = None
    model_parameters: Annotated[dict[str, Any] | None, unsupported("models have no parameters: leave it out")] = None

    def season_freq(self, client_version: str | None) -> str | None:
        """The frequency that sets the season. None if the model has to find the season in the values: for a frequency
        that only pandas knows, and for the MS that the client sends with any integer times. From 0.9 on, the client
        sends its version, and the start of series that have dates."""
        dated = client_version is None or self.series.start_datetime is not None
        if self.freq is None or (self.freq == "MS" and not dated):
            return None
        try:
            seasons_of(self.freq)
        except InvalidRequestError:
            return None
        return self.freq


class ForecastPayload(Payload):
    """Series, and how far to forecast each."""

    h: Count
    level: Levels = Field(default=None, description="Central intervals in percent.")
    feature_contributions: Annotated[Flag, unsupported(NO_EXPLANATIONS)] = None
    feature_contributions_type: Unused = None


class HistoryPayload(Payload):
    """Series, for the one-step forecast of each value but the first."""

    level: Levels = None
    feature_contributions: Annotated[Flag, unsupported(NO_EXPLANATIONS)] = None
    feature_contributions_type: Unused = None


class CrossValidationPayload(ForecastPayload):
    """Series, to be forecast from several points of their past.

    `full_history`: instead, the one-step forecast of each value, as the client asks for the history.
    """

    n_windows: Count = 1
    step_size: Count | None = Field(default=None, description="How many values the windows are apart; `h` if absent.")
    hist_exog: Indices = None
    refit: Flag = None
    full_history: Flag = None


class AnomalyPayload(Payload):
    """Series, to judge each value by the one-step forecast before it."""

    level: Level


class OnlineAnomalyPayload(AnomalyPayload):
    """Series, to judge the last values of each by forecasts of at most `h` steps."""

    h: Count
    detection_size: Count
    step_size: Count | None = Field(default=None, description="How many values the forecasts are apart; `h` if absent.")
    threshold_method: Literal["univariate", "multivariate"] | None = None
    hist_exog: Indices = None
    refit: Flag = None


Numbers = list[float | None]


class ForecastResult(Answer):
    """The forecasts of all series, one after the other."""

    model: ModelId
    mean: Numbers = Field(description="The medians.")
    intervals: dict[str, Numbers] | None = Field(description="`lo-80`, `hi-80` and so on.")
    weights_x: None
    feature_contributions: None


class PanelResult(ForecastResult):
    """Also how many values each series has in the answer, and their indices in `y`."""

    sizes: list[int]
    idxs: list[int]


class AnomalyResult(PanelResult):
    """Also which values are anomalies; `anomaly_score`: the distance from the median, 1 at the end of the interval."""

    anomaly: list[bool]
    anomaly_score: Numbers


class ModelParams(Answer):
    """How many values of a series the client should send, and the model's horizon."""

    input_size: int
    horizon: int


class ModelParamsAnswer(Answer):
    """Model parameters in the form that the client reads."""

    detail: ModelParams


class DetailAnswer(Answer):
    """One sentence."""

    detail: str


class UsageAnswer(Answer):
    """The calls made in this minute and this month."""

    minute: dict[str, int]
    month: dict[str, int]


class FinetunedModels(Answer):
    """Models tuned to a caller's series."""

    finetuned_models: list[dict[str, str]]


class ModelName(Answer):
    """A forecaster."""

    name: str


class ModelNames(Answer):
    """All forecasters."""

    models: list[ModelName]


@dataclass(frozen=True)
class Panel:
    """For each series, its values (T, F), and the features known ahead of the h steps after them (h, K)."""

    values: list[Floats]
    futures: list[Floats] | list[None]


def panel(series: SeriesPayload, manifest: ForecastManifest, settings: Settings, h: int = 0) -> Panel:
    """The series as arrays.

    Raises:
        InvalidRequestError: their sizes do not fit together, or their features are not the model's.
        LimitExceededError: they are too many or too long.
    """
    count, limit = len(series.sizes), settings.max_batch_requests
    if not 1 <= count <= limit:
        raise LimitExceededError(
            f"from 1 to {limit} series in one call, and these are {count}: set num_partitions", "$.series.sizes"
        )
    if len(series.y) > settings.max_waiting_steps:
        limit = settings.max_waiting_steps
        detail = f"at most {limit} values in one call, and these are {len(series.y)}: set num_partitions"
        raise LimitExceededError(detail, "$.series.y")
    ends = np.cumsum(np.array(series.sizes, dtype=np.float64))
    if ends[-1] != len(series.y):
        raise InvalidRequestError(f"sum to {ends[-1]:.0f}, but y has {len(series.y)} values", "$.series.sizes")
    target = np.array(series.y, dtype=np.float64)
    longest = max(range(count), key=series.sizes.__getitem__)
    if series.sizes[longest] > settings.max_series_length:
        limit = settings.max_series_length
        raise LimitExceededError(f"at most {limit} values are read at once", series_path(longest))
    names = feature_names(series, manifest)
    table = np.empty((len(target), len(manifest.features)))
    table[:, 0] = target
    for i, (name, row) in enumerate(zip(names, series.X or (), strict=True)):
        table[:, manifest.features.index(name)] = _row(row, len(target), name, manifest, ("series", "X", i))
    futures: list[Floats] | list[None] = [None] * count
    if series.X_future is not None:
        ahead = names[: len(series.X_future)]
        if {*ahead} != {*manifest.known_ahead} or len(ahead) != len(series.X_future):
            raise InvalidRequestError(_accepted_features(manifest), "$.series.X_future")
        future = np.empty((count * h, len(ahead)))
        for i, (name, row) in enumerate(zip(ahead, series.X_future, strict=True)):
            column = _row(row, len(future), name, manifest, ("series", "X_future", i))
            future[:, manifest.known_ahead.index(name)] = column
        futures = [*future.reshape(count, h, len(ahead))]
    return Panel(np.split(table, ends[:-1].astype(np.int64)), futures)


def series_path(i: int) -> str:
    """The JSON path that an error of the series i names."""
    return f"$.series.sizes[{i}]"


def feature_names(series: SeriesPayload, manifest: ForecastManifest) -> list[str]:
    """The features that the rows of `X` are. The client sends no names: first come the features known ahead, then the
    others, each in the model's order. It puts the categorical ones elsewhere in each call, but says which they are.

    Raises:
        InvalidRequestError: the rows are not the model's features.
    """
    rows, categorical = len(series.X or ()), {*(series.categorical_exog or ())}
    ordered = [*manifest.known_ahead, *(name for name in manifest.features[1:] if name not in manifest.known_ahead)]
    kinds = {kind: [name for name in ordered if (name in manifest.categories) is kind] for kind in (False, True)}
    row_kinds = [i in categorical for i in range(rows)]
    if max(categorical, default=-1) >= rows or any(row_kinds.count(kind) != len(kinds[kind]) for kind in kinds):
        raise InvalidRequestError(_accepted_features(manifest), "$.series.X")
    remaining = {kind: iter(names) for kind, names in kinds.items()}
    return [next(remaining[kind]) for kind in row_kinds]


def check_hist_exog(hist_exog: Sequence[int] | None, series: SeriesPayload, manifest: ForecastManifest) -> None:
    """Reject a request whose numeric features known ahead are not the model's.

    Raises:
        InvalidRequestError: they are not.
    """
    names, past = feature_names(series, manifest), {*(hist_exog or ()), *(series.categorical_exog or ())}
    ahead = {name for i, name in enumerate(names) if i not in past}
    if ahead != {name for name in manifest.known_ahead if name not in manifest.categories}:
        raise InvalidRequestError(_accepted_features(manifest), "$.hist_exog")


def _row(
    items: list[Any], length: int, name: str, manifest: ForecastManifest, location: tuple[str, str, int]
) -> Sequence[float | None]:
    if len(items) != length:
        raise InvalidRequestError(f"has {len(items)} values; it needs {length}", json_path(location))
    return feature_column(items, manifest.categories.get(name), location)


def _accepted_features(manifest: ForecastManifest) -> str:
    """An error message: the features that the model takes beside the target."""
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
        InvalidRequestError: a level is too far in the tails.
    """
    ascending = tuple(sorted({MEDIAN, *(end for level in levels or () for end in interval_to_quantiles(level))}))
    check_levels(ascending, manifest, "$.level")
    return ascending


def mean_and_intervals(levels: Sequence[float] | None, quantiles: Floats, known: tuple[float, ...]) -> dict[str, Any]:
    """From quantiles (N, L) at the levels `known`: the medians (N,), and the bounds (N,) of each interval."""
    by_level = dict(zip(known, np.ascontiguousarray(quantiles.T), strict=True))
    if levels is None:
        return {"mean": by_level[MEDIAN], "intervals": None}
    intervals: dict[str, Floats] = {}
    for level in levels:
        low, high = interval_to_quantiles(level)
        intervals |= {f"lo-{level:g}": by_level[low], f"hi-{level:g}": by_level[high]}
    return {"mean": by_level[MEDIAN], "intervals": intervals}
