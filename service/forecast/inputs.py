"""The series of a request as arrays: features in the model's order, categories as their indices, NaN where missing; and
what else a series may bring. Knows nothing of engines."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from service.errors import InvalidRequestError, LimitExceededError
from service.forecast.bounds import Bounds
from service.forecast.manifest import ForecastManifest
from service.forecast.schemas import SeriesBody, Values
from service.forecast.task import check_levels, tails
from service.forecast.timestamps import timestamps_after
from service.http.problems import NO_SERIES, json_path, as_invalid_request
from service.settings import Settings

Floats = NDArray[np.float64]

_numbers: TypeAdapter[list[float | None]] = TypeAdapter(Values)


def series_values(
    given: Sequence[float | None] | dict[str, list[Any]], goes_on: bool, manifest: ForecastManifest, settings: Settings
) -> Floats:
    """The series as (T, F); one that goes on may have no value, or only missing ones.

    Raises:
        InvalidRequestError: it has no number, or not the features of the model, or values that they cannot have.
        LimitExceededError: it is too long.
    """
    features = manifest.features
    if not isinstance(given, dict):
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
        columns = [feature_column(given[name], manifest.categories.get(name), ("series", name)) for name in names]
        paths = [f"$.series.{name}" for name in names]
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


def future_values(given: dict[str, list[Any]] | None, horizon: int, manifest: ForecastManifest) -> Floats | None:
    """What is known of the time after the series, (at most horizon, K); None if nothing is.

    Raises:
        InvalidRequestError: it tells of a feature whose future the model does not take, or values that it cannot have.
    """
    if given is None:
        return None
    known = manifest.known_ahead
    for name in given:
        if name not in known:
            taken = f"knows ahead only: {', '.join(known)}" if known else "knows no feature ahead"
            raise InvalidRequestError(f"{manifest.name} {taken}", f"$.future.{name}")
    future = np.full((min(horizon, max(map(len, given.values()))), len(known)), np.nan)
    for name, items in given.items():
        column = np.array(feature_column(items, manifest.categories.get(name), ("future", name)), dtype=np.float64)
        future[: len(column), known.index(name)] = column[:horizon]
    return future


def feature_column(
    items: list[Any], categories: Sequence[str] | None, place: tuple[str | int, ...]
) -> list[float | None]:
    """One feature's numbers, or the indices of its categories."""
    if categories is None:
        try:
            return _numbers.validate_python(items)
        except ValidationError as error:
            raise as_invalid_request(error, place) from None
    index: dict[str | None, float | None] = {None: None, **{name: float(i) for i, name in enumerate(categories)}}
    try:
        return [index[item] for item in items]
    except (KeyError, TypeError):  # not a category, or not even hashable
        wrong = next(i for i, item in enumerate(items) if not isinstance(item, str | None) or item not in index)
    accepted = ", ".join(categories)
    raise InvalidRequestError(f"not a category; accepted are null and: {accepted}", json_path((*place, wrong)))


def quantile_levels(
    quantiles: Sequence[float] | None, levels: Sequence[float] | None, manifest: ForecastManifest
) -> tuple[float, ...]:
    """The quantile levels asked for, ascending, each once; all of the model's if none are.

    Raises:
        InvalidRequestError: the model does not know them, or they are asked for in two ways.
    """
    if quantiles is not None and levels is not None:
        raise InvalidRequestError("give `quantiles` or `levels`, not both", "$.levels")
    if quantiles is not None:
        found = tuple(sorted({round(level, 6) for level in quantiles}))
        check_levels(found, manifest, "$.quantiles")
        return found
    if levels is not None:
        found = tuple(sorted({tail for level in levels for tail in tails(level)}))
        check_levels(found, manifest, "$.levels")
        return found
    return manifest.quantile_levels


def value_bounds(body: SeriesBody) -> Bounds:
    """The range that the caller knows the values to lie in.

    Raises:
        InvalidRequestError: it is empty, or told in two ways that differ.
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
"""(before, count): the times of the `count` values that come `before` values after the start."""


def timestamps(body: SeriesBody, count: int) -> Times | None:
    """What makes the times of a series, those that an answer needs, when it is written; None where no start was given.

    Raises:
        InvalidRequestError: there is no frequency, or one of them cannot be read, or the first `count` times leave the
            calendar.
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
    """Rows of numbers for JSON, where NaN, of the first value of a history, is null."""
    rows = np.ascontiguousarray(quantiles.T)
    return {f"{level:g}": row for level, row in zip(levels, rows, strict=True)}


def check_answer(items: int, settings: Settings, path: str) -> None:
    """Refuse an answer of more numbers than the settings allow.

    Raises:
        LimitExceededError: these are more.
    """
    if items > settings.max_answer_items:
        most = settings.max_answer_items
        raise LimitExceededError(f"at most {most} quantiles in an answer, and these are {items}: ask for fewer", path)


def check_windows(windows: int, settings: Settings, path: str) -> None:
    """Refuse more windows than the settings allow: each is a read of its own, however few values it has.

    Raises:
        LimitExceededError: these are more.
    """
    if windows > settings.max_windows:
        raise LimitExceededError(f"at most {settings.max_windows} windows of a series, and these are {windows}", path)
