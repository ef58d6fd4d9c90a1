"""The series of a request as arrays (features in the model's order, categories as indices, NaN where missing), and its
other fields, checked against the model and the settings. Knows nothing of engines."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.errors import InvalidRequestError, LimitExceededError
from service.forecast.intervals import Bounds, Floats, interval_to_quantiles
from service.forecast.manifest import ForecastManifest
from service.forecast.schemas import SeriesBody
from service.forecast.task import check_levels
from service.forecast.timestamps import timestamps_after
from service.series import feature_column
from service.settings import Settings


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
