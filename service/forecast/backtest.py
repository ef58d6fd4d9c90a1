"""Forecasts a series from several points of its past, to tell how good such forecasts are. Knows nothing of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import InvalidRequestError
from service.forecast.bounds import UNBOUNDED, Bounds
from service.forecast.manifest import ForecastManifest
from service.forecast.quantiles import interpolate
from service.forecast.task import ANSWER_BYTES, SAME, Floats, bounds_of, extend, read_values, season_of, series_bytes


@dataclass(frozen=True)
class CrossValidationRequest:
    """values (T, F), NaN = missing; the last of `windows` forecasts is of the last `horizon` values, each other one of
    those `step` earlier than the next; levels ascending, within those of the model; bounds: of the target."""

    values: Floats
    horizon: int
    windows: int
    step: int
    levels: tuple[float, ...]
    bounds: Bounds = UNBOUNDED

    @property
    def cutoffs(self) -> list[int]:
        """How many values come before each window."""
        last = len(self.values) - self.horizon
        return [last - self.step * back for back in reversed(range(self.windows))]

    @property
    def cost_steps(self) -> int:
        """Steps read and forecast."""
        return len(self.values) - self.horizon + self.windows * self.horizon

    def most_bytes(self, manifest: ForecastManifest) -> int:
        """Held at most, until it is answered."""
        each = SAME * 8 * len(manifest.quantile_levels) + ANSWER_BYTES * (3 + len(self.levels))
        return series_bytes(self.values) + self.windows * self.horizon * each

    def check(self) -> None:
        """Refuse windows with nothing to be forecast from.

        Raises:
            InvalidRequestError: no number precedes the first.
        """
        if self.cutoffs[0] < 1:
            needed = (self.windows - 1) * self.step + self.horizon + 1
            raise InvalidRequestError(
                f"needs at least {needed} values for so many windows; there are {len(self.values)}", "$.series"
            )
        if not np.isfinite(self.values[: self.cutoffs[0], 0]).any():
            raise InvalidRequestError("no number precedes the first window, only nulls", "$.series")


@dataclass(frozen=True)
class CrossValidation:
    """quantiles (W, horizon, L), median and actual (W, horizon), of the windows that begin after `cutoffs` values;
    season: by which the first forecast goes."""

    cutoffs: list[int]
    quantiles: Floats
    median: Floats
    actual: Floats
    season: list[int] | None = None


def cross_validate(
    manifest: ForecastManifest, request: CrossValidationRequest, start: SequenceState = EMPTY_STATE
) -> Task[CrossValidation]:
    """Read the series once, and forecast at each cutoff from what was read until then; only what is known ahead of the
    other features is told of the time after it.

    Raises:
        InvalidRequestError: no number precedes the first window.
        NonFiniteOutputError: the model gives no finite numbers for these values.
    """
    request.check()
    known, values, horizon = manifest.quantile_levels, request.values, request.horizon
    ahead = values[:, [manifest.features.index(name) for name in manifest.known_ahead]]
    at, windows = start, []
    season: list[int] | None = None
    for cutoff in request.cutoffs:
        future = ahead[cutoff : cutoff + horizon]
        at, _ = yield from read_values(manifest, values[at.position : cutoff], at, future, history=False)
        windows.append((yield from extend(manifest, at, horizon, future)))
        season = season_of(at) if season is None else season
    quantiles = np.array(windows)
    actual = np.array([values[cutoff : cutoff + horizon, 0] for cutoff in request.cutoffs])
    clip = bounds_of(at, request.bounds).clip
    median = clip(quantiles[..., known.index(0.5)]).copy()
    found = clip(interpolate(quantiles, known, request.levels))
    return CrossValidation(request.cutoffs, found, median, actual, season)


@dataclass(frozen=True)
class Accuracy:
    """Means over the values that are there; NaN where there is none to take, or nothing to scale by.

    mase: absolute errors of the median, over the mean absolute difference to the season before of the values before
    the cutoff; smape: 200 |y - f| / (|y| + |f|); scaled_quantile_loss: twice the pinball loss, mean over the levels,
    over the same; coverage: the share of values within each central interval, by its level in percent.
    """

    mase: float
    smape: float
    scaled_quantile_loss: float
    coverage: dict[float, float]


def accuracy(found: CrossValidation, target: Floats, levels: Sequence[float], season: int) -> Accuracy:
    """How good the forecasts were of the series `target` (T,)."""
    actual, ordered = found.actual, np.asarray(levels)
    error, size = np.abs(actual - found.median), np.abs(actual) + np.abs(found.median)
    scales = _mean_changes(target, season, found.cutoffs)[:, None]
    scales[~(scales > 0)] = np.nan
    above = actual[..., None] - found.quantiles
    pinball = np.maximum(ordered * above, (ordered - 1) * above).mean(axis=-1)
    coverage = {}
    for i, low in enumerate(levels):
        j = next((j for j, high in enumerate(levels) if low < 0.5 and abs(low + high - 1) < 1e-9), None)
        if j is not None:
            inside = (actual >= found.quantiles[..., i]) & (actual <= found.quantiles[..., j])
            coverage[round(100 * (1 - 2 * low), 4)] = _mean(np.where(np.isfinite(actual), inside, np.nan))
    smape = _mean(200 * error / np.where(size > 0, size, 1.0))
    return Accuracy(_mean(error / scales), smape, _mean(2 * pinball / scales), coverage)


def _mean_changes(target: Floats, season: int, cutoffs: Sequence[int]) -> Floats:
    """The mean absolute difference to the season before, of the values before each cutoff: (W,), NaN if there is none.
    One pass over the values, however many cutoffs."""
    changes = np.abs(target[season:] - target[:-season])
    there = np.isfinite(changes)
    sums = np.concatenate([[0.0], np.where(there, changes, 0.0).cumsum()])
    counts = np.concatenate([[0], there.cumsum()])
    ends = np.maximum(np.array(cutoffs) - season, 0)
    found: Floats = sums[ends] / np.where(counts[ends] > 0, counts[ends], np.nan)
    return found


def _mean(numbers: Floats) -> float:
    """Of those that are there."""
    there = numbers[np.isfinite(numbers)]
    return float(there.mean()) if len(there) else float("nan")
