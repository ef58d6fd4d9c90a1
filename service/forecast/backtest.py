"""Forecasts a series from several points of its past, so that they can be measured. Knows nothing of HTTP."""

from dataclasses import dataclass

import numpy as np

from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import InvalidRequestError
from service.forecast.intervals import UNBOUNDED, Bounds, Floats, interpolate
from service.forecast.manifest import ForecastManifest
from service.forecast.task import (
    ANSWER_BYTES,
    COPIES,
    effective_bounds,
    read_values,
    roll_out,
    series_bytes,
    used_seasons,
)


@dataclass(frozen=True)
class BacktestRequest:
    """values (T, F), NaN = missing. The last of the `windows` is the last `horizon` values; each other begins `step`
    values before the next. levels: ascending, within those of the model. bounds: of the target."""

    values: Floats
    horizon: int
    windows: int
    step: int
    levels: tuple[float, ...]
    bounds: Bounds = UNBOUNDED

    @property
    def cutoffs(self) -> list[int]:
        """How many values precede each window."""
        last = len(self.values) - self.horizon
        return [last - self.step * back for back in reversed(range(self.windows))]

    @property
    def steps_read(self) -> int:
        """Values that the model reads."""
        return len(self.values) - self.horizon

    @property
    def cost_steps(self) -> int:
        """Steps read and forecast."""
        return self.steps_read + self.windows * self.horizon

    def max_bytes(self, manifest: ForecastManifest) -> int:
        """The most memory that the request holds until it is answered."""
        step_bytes = COPIES * 8 * len(manifest.quantile_levels) + ANSWER_BYTES * (3 + len(self.levels))
        return series_bytes(self.values) + self.windows * self.horizon * step_bytes

    def check(self) -> None:
        """Reject windows that no value precedes.

        Raises:
            InvalidRequestError: no number precedes the first window.
        """
        if self.cutoffs[0] < 1:
            needed = (self.windows - 1) * self.step + self.horizon + 1
            raise InvalidRequestError(
                f"needs at least {needed} values for so many windows; there are {len(self.values)}", "$.series"
            )
        if not np.isfinite(self.values[: self.cutoffs[0], 0]).any():
            raise InvalidRequestError("no number precedes the first window, only nulls", "$.series")


@dataclass(frozen=True)
class Backtest:
    """quantiles (W, horizon, L), median and actual (W, horizon) of the windows, each after `cutoffs` values; seasons:
    those that the first forecast uses."""

    cutoffs: list[int]
    quantiles: Floats
    median: Floats
    actual: Floats
    seasons: list[int] | None = None


def run_backtest(
    manifest: ForecastManifest, request: BacktestRequest, start: SequenceState = EMPTY_STATE
) -> Task[Backtest]:
    """Read the series once, and forecast at each cutoff from the values before it. Of the time after a cutoff, the
    model gets the features `known_ahead` only.

    Raises:
        InvalidRequestError: no number precedes the first window.
        NonFiniteOutputError: the model gives no finite numbers for these values.
    """
    request.check()
    known, values, horizon = manifest.quantile_levels, request.values, request.horizon
    ahead = values[:, [manifest.features.index(name) for name in manifest.known_ahead]]
    state, forecasts = start, []
    seasons: list[int] | None = None
    for cutoff in request.cutoffs:
        future = ahead[cutoff : cutoff + horizon]
        state, _ = yield from read_values(manifest, values[state.position : cutoff], state, future, history=False)
        forecasts.append((yield from roll_out(manifest, state, horizon, future)))
        seasons = used_seasons(state) if seasons is None else seasons
    model_quantiles = np.array(forecasts)
    actual = np.array([values[cutoff : cutoff + horizon, 0] for cutoff in request.cutoffs])
    clip = effective_bounds(state, request.bounds).clip
    median = clip(model_quantiles[..., known.index(0.5)]).copy()
    quantiles = clip(interpolate(model_quantiles, known, request.levels))
    return Backtest(request.cutoffs, quantiles, median, actual, seasons)
