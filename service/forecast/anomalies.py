"""Tells which values of a series lie outside of what those before them let expect. Knows nothing of HTTP."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import InvalidRequestError
from service.forecast.bounds import UNBOUNDED, Bounds
from service.forecast.manifest import ForecastManifest
from service.forecast.quantiles import interpolate, level_within
from service.forecast.task import ANSWER_BYTES, SAME, Floats, bounds_of, read_values, series_bytes, tails

ROUNDING, LEAST = 1e-14, 1e-30
"""Of a value, and of zero: so far beyond the interval, as narrow as it gets on a constant series, it is inside."""


@dataclass(frozen=True)
class AnomalyRequest:
    """values (T, F), T > 0, NaN = missing; level: of the central interval that a value is to lie in, in percent, within
    those of the model; bounds, future: as in `ForecastRequest`."""

    values: Floats
    level: float
    bounds: Bounds = UNBOUNDED
    future: Floats | None = None

    @property
    def cost_steps(self) -> int:
        """Steps read."""
        return len(self.values)

    def most_bytes(self, manifest: ForecastManifest) -> int:
        """Held at most, until it is answered."""
        each = SAME * 8 * len(manifest.quantile_levels) + ANSWER_BYTES * 6
        return series_bytes(self.values) + len(self.values) * each


@dataclass(frozen=True)
class Anomalies:
    """Of each value, all (T,): the interval and the median that those before it let expect, NaN where nothing precedes;
    score: the quantile level at which it lies, from 0.001 to 0.999; outside: beyond the interval or not.
    Neither means anything where it is not `judged`: missing, or the first. after: where the sequence stands."""

    lower: Floats
    upper: Floats
    expected: Floats
    score: Floats
    outside: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    after: SequenceState


def detect(manifest: ForecastManifest, request: AnomalyRequest, start: SequenceState = EMPTY_STATE) -> Task[Anomalies]:
    """Read the series, on from where a sequence stands, and judge each value by the one-step forecast before it.

    Raises:
        InvalidRequestError: there is no value.
        NonFiniteOutputError: the model gives no finite numbers for these values.
    """
    if not len(request.values):
        raise InvalidRequestError("there is no value to judge", "$.series")
    after, past = yield from read_values(manifest, request.values, start, request.future, history=True)
    known, clip = manifest.quantile_levels, bounds_of(after, request.bounds).clip
    lower, upper = clip(interpolate(past, known, tails(request.level))).T
    past = clip(past)
    target = request.values[:, 0]
    judged = np.isfinite(target) & np.isfinite(lower)
    slack = ROUNDING * np.abs(target) + LEAST
    outside = (target < lower - slack) | (target > upper + slack)
    score = level_within(target, past, known)
    return Anomalies(lower, upper, past[:, known.index(0.5)], score, outside, judged, after)
