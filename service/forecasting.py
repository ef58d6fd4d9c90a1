"""A forecast request, from values to quantiles, as a task for the engine. Knows nothing of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array
from service.engine.sequence import FRESH, Read, Result, Snapshot, Task, repeat
from service.errors import InvalidRequestError, NotPredictableError
from service.manifest import ForecastManifest

Floats = NDArray[np.float64]

LARGEST = 1e30
"""Larger values leave no room in single precision for what a network makes of them."""


@dataclass(frozen=True)
class ForecastRequest:
    """values (T, F), NaN = missing, none to forecast from where a sequence stands; levels ascending, within those of
    the model."""

    values: Floats
    horizon: int
    levels: tuple[float, ...]
    include_history: bool = False
    non_negative: bool = False

    @property
    def work(self) -> int:
        """Steps read and forecast."""
        return len(self.values) + self.horizon


@dataclass(frozen=True)
class Forecast:
    """quantiles (horizon, L) and median (horizon,). history (T, L): those of each value given, one step ahead from the
    values before it; NaN where nothing precedes. after: where the sequence stands, the values given read."""

    quantiles: Floats
    median: Floats
    history: Floats | None
    after: Snapshot


def interpolate(quantiles: Floats, known: Sequence[float], wanted: Sequence[float]) -> Floats:
    """Quantiles (..., Q) at the ascending levels `known` -> (..., L) at levels within them, linearly in between."""
    if tuple(wanted) == tuple(known):
        return quantiles
    right = np.clip(np.searchsorted(known, wanted), 1, max(1, len(known) - 1))
    if len(known) == 1:
        return quantiles[..., [0] * len(wanted)]
    left = right - 1
    low, high = np.asarray(known)[left], np.asarray(known)[right]
    share = (np.asarray(wanted) - low) / (high - low)
    found: Floats = quantiles[..., left] * (1 - share) + quantiles[..., right] * share
    return found


def check_levels(levels: Sequence[float], manifest: ForecastManifest, path: str) -> None:
    """Refuse levels outside of those that the model was trained for: it knows nothing of rarer values.

    Raises:
        InvalidRequestError: one is outside.
    """
    known = manifest.quantile_levels
    if levels and not known[0] <= min(levels) <= max(levels) <= known[-1]:
        widest = round(100 * (known[-1] - known[0]))
        accepted = f"quantiles from {known[0]} to {known[-1]}, central intervals of at most {widest} %"
        raise InvalidRequestError(f"outside of what {manifest.name} was trained for: {accepted}", path)


def forecast(manifest: ForecastManifest, request: ForecastRequest, start: Snapshot = FRESH) -> Task[Forecast]:
    """Read the series, on from where a sequence stands, and forecast what follows it.

    Beyond the model's own horizon it reads on from its own forecast, one copy of the state for each quantile's path,
    and the Q * Q quantiles which the copies give are pooled into Q (the unrolling of Chronos-Bolt, Ansari et al. 2024).
    What the other features of such a future will be is unknown: they count as missing.

    Raises:
        InvalidRequestError: there is no value, neither given nor read before.
        NotPredictableError: the model gives no finite numbers for these values.
    """
    known, features = manifest.quantile_levels, len(manifest.features)
    if not len(request.values) and not start.position:
        raise InvalidRequestError("nothing was read yet; at least one value is needed", "$.series")
    before = start.states[EXPECTED][0, :1] if start.position else np.full((1, len(known)), np.nan)
    past = np.empty((0, len(known)))
    after = start
    if len(request.values):
        names = ("quantiles", "one_step") if request.include_history else ("quantiles",)
        read: Result = yield Read(_inputs(request.values[None]), names, _recurrent(start))
        expected = {EXPECTED: read.outputs["quantiles"]}
        after = Snapshot(start.position + len(request.values), {**read.states, **expected})
        if request.include_history:
            past = np.concatenate([before, read.outputs["one_step"][0, :-1]])
    block: Floats = after.states[EXPECTED][0]
    _check_finite(block)
    _check_finite(past[1:])
    blocks = [block]
    states = repeat(_recurrent(after) or {}, len(known)) if request.horizon > len(block) else {}
    while sum(map(len, blocks)) < request.horizon:
        fed = np.full((len(known), len(block), features), np.nan)
        fed[:, :, 0] = block.T
        beyond: Result = yield Read(_inputs(fed), ("quantiles",), states)
        states = beyond.states
        _check_finite(beyond.outputs["quantiles"])
        pooled = beyond.outputs["quantiles"].transpose(1, 0, 2).reshape(len(block), -1)
        block = np.quantile(pooled, known, axis=1).T
        blocks.append(block)
    quantiles = np.concatenate(blocks)[: request.horizon]
    if request.non_negative:
        quantiles, past = np.maximum(quantiles, 0.0), np.maximum(past, 0.0)
    history = interpolate(past, known, request.levels) if request.include_history else None
    median = quantiles[:, known.index(0.5)].copy()
    return Forecast(interpolate(quantiles, known, request.levels), median, history, after)


EXPECTED = "quantiles"
"""What a forecaster's sequence carries beside the graph's own state: the forecast after its last value, (1, H, Q)."""


def _recurrent(at: Snapshot) -> dict[str, Array] | None:
    """The graph's own state."""
    return {name: array for name, array in at.states.items() if name != EXPECTED} or None


def _check_finite(numbers: Array) -> None:
    if not np.isfinite(numbers).all():
        raise NotPredictableError("the model gives no finite forecast for these values", "$.series")


def _inputs(values: Floats) -> dict[str, Array]:
    seen = np.isfinite(values)
    return {"values": np.where(seen, values, 0.0), "mask": seen.astype(np.float32)}
