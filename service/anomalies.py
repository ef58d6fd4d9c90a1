"""Tells which values of a series lie outside of what those before them let expect. Knows nothing of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.sequence import FRESH, Snapshot, Task
from service.errors import InvalidRequestError
from service.forecasting import Floats, interpolate, read_values, tails
from service.manifest import ForecastManifest

ROUNDING, LEAST = 1e-14, 1e-30
"""Of a value, and of zero: so far beyond the interval, as narrow as it gets on a constant series, it is inside."""


@dataclass(frozen=True)
class AnomalyRequest:
    """values (T, F), T > 0, NaN = missing; level: of the central interval that a value is to lie in, in percent, within
    those of the model; future: as in `ForecastRequest`."""

    values: Floats
    level: float
    non_negative: bool = False
    future: Floats | None = None

    @property
    def work(self) -> int:
        """Steps read."""
        return len(self.values)


@dataclass(frozen=True)
class Anomalies:
    """Of each value, all (T,): the interval and the median that those before it let expect, NaN where nothing precedes;
    score: the quantile level at which it lies, within the model's outermost; outside: beyond the interval or not.
    Neither means anything where it is not `judged`: missing, or the first. after: where the sequence stands."""

    lower: Floats
    upper: Floats
    expected: Floats
    score: Floats
    outside: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    after: Snapshot


def detect(manifest: ForecastManifest, request: AnomalyRequest, start: Snapshot = FRESH) -> Task[Anomalies]:
    """Read the series, on from where a sequence stands, and judge each value by the one-step forecast before it.

    Raises:
        InvalidRequestError: there is no value.
        NotPredictableError: the model gives no finite numbers for these values.
    """
    if not len(request.values):
        raise InvalidRequestError("there is no value to judge", "$.series")
    after, past = yield from read_values(manifest, request.values, start, request.future, history=True)
    if request.non_negative:
        past = np.maximum(past, 0.0)
    known = manifest.quantile_levels
    lower, upper = interpolate(past, known, tails(request.level)).T
    target = request.values[:, 0]
    judged = np.isfinite(target) & np.isfinite(lower)
    slack = ROUNDING * np.abs(target) + LEAST
    outside = (target < lower - slack) | (target > upper + slack)
    score = level_within(target, past, known)
    return Anomalies(lower, upper, past[:, known.index(0.5)], score, outside, judged, after)


def level_within(values: Floats, quantiles: Floats, known: Sequence[float]) -> Floats:
    """The level at which each value (T,) lies among its quantiles (T, Q), linearly between them; where several are
    equal to it, the middle of theirs."""
    levels, last = np.asarray(known), len(known) - 1
    first_above = (quantiles <= values[:, None]).sum(axis=1)
    first_at = (quantiles < values[:, None]).sum(axis=1)
    left, right = np.clip(first_at - 1, 0, last), np.clip(first_above, 0, last)
    rows = np.arange(len(values))
    low, high = quantiles[rows, left], quantiles[rows, right]
    width = np.where(high > low, high - low, 1.0)
    between = levels[left] + (levels[right] - levels[left]) * np.clip((values - low) / width, 0.0, 1.0)
    equal = (levels[np.clip(first_at, 0, last)] + levels[np.clip(first_above - 1, 0, last)]) / 2
    found: Floats = np.where(first_above > first_at, equal, between)
    return found
