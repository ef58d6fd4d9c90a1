"""Judges each value of a series by the one-step forecast before it. Knows nothing of HTTP."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import InvalidRequestError
from service.forecast.intervals import (
    UNBOUNDED,
    Bounds,
    Floats,
    interpolate,
    interval_to_quantiles,
    level_of,
    rounding_of,
)
from service.forecast.manifest import ForecastManifest
from service.forecast.online_accuracy import NO_SCORES, Scores
from service.forecast.task import (
    ANSWER_BYTES,
    COPIES,
    effective_bounds,
    read_values,
    score_values,
    series_bytes,
)


@dataclass(frozen=True)
class AnomalyRequest:
    """values (T, F), T > 0, NaN = missing; level: of the central interval outside of which a value is an anomaly, in
    percent, within those of the model; bounds, future, returns_state: as in `ForecastRequest`."""

    values: Floats
    level: float
    bounds: Bounds = UNBOUNDED
    future: Floats | None = None
    returns_state: bool = True

    @property
    def steps_read(self) -> int:
        """Values that the model reads."""
        return len(self.values)

    @property
    def cost_steps(self) -> int:
        """Steps read."""
        return self.steps_read

    def max_bytes(self, manifest: ForecastManifest) -> int:
        """The most memory that the request holds until it is answered."""
        value_bytes = COPIES * 8 * len(manifest.quantile_levels) + ANSWER_BYTES * 6
        return series_bytes(self.values) + len(self.values) * value_bytes


@dataclass(frozen=True)
class Anomalies:
    """For each value, all (T,): the interval and the median of the one-step forecast, NaN where no value precedes;
    score: the quantile level at which the value lies, from 0.001 to 0.999; outside: whether it lies outside of the
    interval. Where `judged` is false (the first value, or a missing one), score and outside mean nothing. after: the
    state after the last value; without `returns_state`, nothing is scored."""

    lower: Floats
    upper: Floats
    median: Floats
    score: Floats
    outside: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    after: SequenceState
    scores: Scores = NO_SCORES


def detect_anomalies(
    manifest: ForecastManifest, request: AnomalyRequest, start: SequenceState = EMPTY_STATE
) -> Task[Anomalies]:
    """Read the series from a state on, and judge each value by the one-step forecast before it.

    Raises:
        InvalidRequestError: there is no value.
        NonFiniteOutputError: the model gives no finite numbers for these values.
    """
    if not len(request.values):
        raise InvalidRequestError("there is no value to judge", "$.series")
    target, scores = request.values[:, 0], NO_SCORES
    after, past = yield from read_values(manifest, request.values, start, request.future, history=True)
    if request.returns_state:
        after, scores = score_values(manifest, start, after, target, past)
    known, clip = manifest.quantile_levels, effective_bounds(after, request.bounds).clip
    lower, upper = clip(interpolate(past, known, interval_to_quantiles(request.level))).T
    past = clip(past)
    judged = np.isfinite(target) & np.isfinite(lower)
    tolerance = rounding_of(target)
    outside = (target < lower - tolerance) | (target > upper + tolerance)
    score = level_of(target, past, known)
    return Anomalies(lower, upper, past[:, known.index(0.5)], score, outside, judged, after, scores)
