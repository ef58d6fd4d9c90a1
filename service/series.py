"""The series of a request as arrays: features in the model's order, categories as indices, NaN where missing. Knows
nothing of kinds of models."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError, WithJsonSchema

from service.errors import InvalidRequestError, LimitExceededError
from service.settings import Settings
from service.validation import NO_SERIES, Number, as_invalid_request, check_field_count, json_path

# Without fail_fast, a body of a million invalid values would become a million errors.
Values = Annotated[list[Number | None], Field(fail_fast=True)]


def _layout(series: Any) -> str:
    return "<features>" if isinstance(series, dict) else "<values>"


_FEATURE_SCHEMA = {
    "type": "object",
    "additionalProperties": {"type": "array", "items": {"type": ["number", "string", "null"]}},
}
Features = Annotated[
    dict[str, list[Any]], BeforeValidator(check_field_count), Field(min_length=1), WithJsonSchema(_FEATURE_SCHEMA)
]
"""A list for each feature. Its items are checked against the model."""
Series = Annotated[Annotated[Values, Tag("<values>")] | Annotated[Features, Tag("<features>")], Discriminator(_layout)]
FIRST_SERIES: Any = Field(
    default=None, description="Values to read, oldest first, `null` where missing; or such a list for each feature."
)
"""Of a new session: kinds that read series have this field in common."""

_numbers: TypeAdapter[list[float | None]] = TypeAdapter(Values)


class SeriesModel(Protocol):
    """What is needed of a model's manifest."""

    @property
    def name(self) -> str: ...
    @property
    def features(self) -> tuple[str, ...]: ...
    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """Of its categorical features."""


def series_values(
    series: Sequence[float | None] | dict[str, list[Any]],
    resumed: bool,
    manifest: SeriesModel,
    settings: Settings,
) -> NDArray[np.float64]:
    """The series as (T, F). A resumed one may have no value, or only missing ones.

    Raises:
        InvalidRequestError: it has no number, or not the model's features, or values that they cannot have.
        LimitExceededError: it is too long.
    """
    features = manifest.features
    if not isinstance(series, dict):
        if len(features) > 1 and series:
            needed = ", ".join(features)
            raise InvalidRequestError(f"{manifest.name} needs an object with a list for each of: {needed}", "$.series")
        columns, paths = [series], ["$.series"]
    else:
        # The feature of a model that has only one may have any name.
        names = list(series) if len(features) == 1 and len(series) == 1 else list(features)
        wrong = [*(name for name in names if name not in series), *(name for name in series if name not in names)]
        if wrong:
            needed = ", ".join(features)
            reason = "missing" if wrong[0] not in series else "unknown"
            raise InvalidRequestError(
                f"{reason} feature; {manifest.name} needs a list for each of: {needed}", f"$.series.{wrong[0]}"
            )
        columns = [feature_column(series[name], manifest.categories.get(name), ("series", name)) for name in names]
        paths = [f"$.series.{name}" for name in names]
    for column, path in zip(columns, paths, strict=True):
        if len(column) > settings.max_series_length:
            raise LimitExceededError(f"at most {settings.max_series_length} values are read at once", path)
        if len(column) != len(columns[0]):
            raise InvalidRequestError(f"has {len(column)} values, {paths[0]} has {len(columns[0])}", path)
    if resumed and not columns[0]:
        return np.empty((0, len(features)))
    values = np.array(columns, dtype=np.float64).T
    if not columns[0]:
        raise InvalidRequestError(NO_SERIES, paths[0])
    if not resumed and np.isnan(values[:, 0]).all():
        raise InvalidRequestError("holds no number, only nulls; at least one value is needed", paths[0])
    return values


def feature_column(
    items: list[Any], categories: Sequence[str] | None, location: tuple[str | int, ...]
) -> list[float | None]:
    """The numbers of one feature, or the indices of its categories.

    Raises:
        InvalidRequestError: an item is neither a number nor a category that the feature has.
    """
    if categories is None:
        try:
            return _numbers.validate_python(items)
        except ValidationError as error:
            raise as_invalid_request(error, location) from None
    index: dict[str | None, float | None] = {None: None, **{name: float(i) for i, name in enumerate(categories)}}
    try:
        return [index[item] for item in items]
    except (KeyError, TypeError):  # not a category, or not even hashable
        wrong = next(i for i, item in enumerate(items) if not isinstance(item, str | None) or item not in index)
    accepted = ", ".join(categories)
    raise InvalidRequestError(f"not a category; accepted are null and: {accepted}", json_path((*location, wrong)))
