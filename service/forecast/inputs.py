"""The series of a request as arrays (features in the model's order, categories as indices, NaN where missing), and its
other fields, checked against the model and the settings. Knows nothing of engines."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from service.errors import InvalidRequestError, LimitExceededError
from service.forecast.intervals import Bounds, Floats, interval_to_quantiles
from service.forecast.manifest import ForecastManifest
from service.forecast.schemas import SeriesBody, Values
from service.forecast.task import check_levels
from service.forecast.timestamps import timestamps_after
from service.settings import Settings
from service.validation import NO_SERIES, as_invalid_request, json_path

_numbers: TypeAdapter[list[float | None]] = TypeAdapter(Values)


def series_values(
    series: Sequence[float | None] | dict[str, list[Any]],
    resumed: bool,
    manifest: ForecastManifest,
    settings: Settings,
) -> Floats:
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


def future_values(future: dict[str, list[Any]] | None, horizon: int, manifest: ForecastManifest) -> Floats | None:
    """The features `known_ahead` after the series, (at most horizon, K); None if the request has none.

    Raises:
        InvalidRequestError: the model does not take a feature's future, or a feature cannot have a value.
    """
    if future is None:
        return None
    known = manifest.known_ahead
    for name in future:
        if name not in known:
            accepted = f"knows ahead only: {', '.join(known)}" if known else "knows no feature ahead"
            raise InvalidRequestError(f"{manifest.name} {accepted}", f"$.future.{name}")
    values = np.full((min(horizon, max(map(len, future.values()))), len(known)), np.nan)
    for name, items in future.items():
        column = np.array(feature_column(items, manifest.categories.get(name), ("future", name)), dtype=np.float64)
        values[: len(column), known.index(name)] = column[:horizon]
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


def quantile_levels(
    quantiles: Sequence[float] | None, intervals: Sequence[float] | None, manifest: ForecastManifest
) -> tuple[float, ...]:
    """The quantile levels to answer, ascending, each once: `quantiles`, or the ends of central intervals in percent, or
    all of the model's.

    Raises:
        InvalidRequestError: the request has both, or a level that is too far in the tails.
    """
    if quantiles is not None and intervals is not None:
        raise InvalidRequestError("give `quantiles` or `levels`, not both", "$.levels")
    if quantiles is not None:
        levels, path = {round(level, 6) for level in quantiles}, "$.quantiles"
    elif intervals is not None:
        levels, path = {end for interval in intervals for end in interval_to_quantiles(interval)}, "$.levels"
    else:
        return manifest.quantile_levels
    ascending = tuple(sorted(levels))
    check_levels(ascending, manifest, path)
    return ascending


def value_bounds(body: SeriesBody) -> Bounds:
    """The range that the caller gives for the values.

    Raises:
        InvalidRequestError: it is empty, or `lower` and `non_negative` contradict each other.
    """
    lower = body.lower
    if body.non_negative:
        if lower not in (None, 0):
            raise InvalidRequestError("must be 0 with `non_negative`, or give `lower` alone", "$.lower")
        lower = 0.0
    bounds = Bounds(-math.inf if lower is None else lower, math.inf if body.upper is None else body.upper)
    if bounds.lower >= bounds.upper:
        raise InvalidRequestError(f"must be greater than the lower bound, {bounds.lower:g}", "$.upper")
    return bounds


Times = Callable[[int, int], list[str]]
"""(before, count): the times of `count` values, which `before` values precede."""


def timestamps(body: SeriesBody, count: int) -> Times | None:
    """The times of a series, made when the answer is written; None if the request has no `start`.

    Raises:
        InvalidRequestError: `freq` is missing, `start` or `freq` cannot be read, or one of the first `count` times
            leaves the calendar.
    """
    if body.start is None:
        return None
    if body.freq is None:
        raise InvalidRequestError("timestamps need both `start` and `freq`", "$.freq")
    times = partial(timestamps_after, body.start, body.freq)
    if count:
        times(count - 1, 1)
    return times


def by_level(levels: tuple[float, ...], quantiles: Floats) -> dict[str, Floats]:
    """Quantiles (N, L) for JSON: a row (N,) for each level. NaN becomes null."""
    rows = np.ascontiguousarray(quantiles.T)
    return {f"{level:g}": row for level, row in zip(levels, rows, strict=True)}


def check_horizon(horizon: int, settings: Settings, path: str) -> None:
    """Reject a horizon longer than the settings allow.

    Raises:
        LimitExceededError: it is.
    """
    if horizon > settings.max_horizon:
        raise LimitExceededError(f"at most {settings.max_horizon} values are forecast at once", path)


def check_answer(items: int, settings: Settings, path: str) -> None:
    """Reject an answer of more numbers than the settings allow.

    Raises:
        LimitExceededError: it has more.
    """
    if items > settings.max_answer_items:
        limit = settings.max_answer_items
        raise LimitExceededError(f"at most {limit} quantiles in an answer, and these are {items}: ask for fewer", path)


def check_windows(windows: int, settings: Settings, path: str) -> None:
    """Reject more windows than the settings allow: each is a read of its own, however few values it has.

    Raises:
        LimitExceededError: there are more.
    """
    if windows > settings.max_windows:
        raise LimitExceededError(f"at most {settings.max_windows} windows of a series, and these are {windows}", path)
