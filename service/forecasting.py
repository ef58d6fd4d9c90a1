"""A forecast request, from values to quantiles, on one model's graph. Knows nothing of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array, Runner, States, fork
from service.errors import InvalidRequestError, NotPredictableError
from service.manifest import ForecastManifest

Floats = NDArray[np.float64]

LARGEST = 1e30
"""Larger values leave no room in single precision for what a network makes of them."""


@dataclass(frozen=True)
class ForecastRequest:
    """values (T, F), NaN = missing; levels ascending, within those of the model."""

    values: Floats
    horizon: int
    levels: tuple[float, ...]
    include_history: bool = False
    non_negative: bool = False


@dataclass(frozen=True)
class Forecast:
    """quantiles (horizon, L) and median (horizon,). history (T, L): those of each value given, one step ahead from the
    values before it; NaN for the first, which nothing precedes."""

    quantiles: Floats
    median: Floats
    history: Floats | None


def interpolate(quantiles: Floats, known: Sequence[float], wanted: Sequence[float]) -> Floats:
    """Quantiles (..., Q) at the ascending levels `known` -> (..., L) at levels within them, linearly in between."""
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


def forecast(runner: Runner, manifest: ForecastManifest, request: ForecastRequest) -> Forecast:
    """Read the series and forecast what follows it.

    Beyond the model's own horizon it reads on from its own forecast, one copy of the state for each quantile's path,
    and the Q * Q quantiles which the copies give are pooled into Q (the unrolling of Chronos-Bolt, Ansari et al. 2024).
    What the other features of such a future will be is unknown: they count as missing.

    Raises:
        NotPredictableError: the model gives no finite numbers for these values.
    """
    states = runner.fresh(1)
    history = []
    block: Array = np.empty(0)
    names = ["quantiles", "one_step"] if request.include_history else ["quantiles"]
    for found, after in runner.read(_inputs(request.values[None]), states, names):
        block, states = found[0], after
        if request.include_history:
            history.append(found[1][0])
    quantiles = _unroll(runner, manifest, block[0].astype(np.float64), states, request.horizon)
    known = manifest.quantile_levels
    answer = Forecast(
        quantiles=interpolate(quantiles, known, request.levels),
        median=quantiles[:, known.index(0.5)].copy(),
        history=None,
    )
    past = None
    if request.include_history:
        before = np.full((1, len(known)), np.nan)
        past = interpolate(np.concatenate([before, *history])[:-1].astype(np.float64), known, request.levels)
    for numbers in (answer.quantiles, answer.median, past[1:] if past is not None else None):
        if numbers is not None:
            if not np.isfinite(numbers).all():
                raise NotPredictableError("the model gives no finite forecast for these values", "$.series")
            if request.non_negative:
                np.maximum(numbers, 0.0, out=numbers)
    return Forecast(answer.quantiles, answer.median, past)


def _unroll(runner: Runner, manifest: ForecastManifest, block: Floats, states: States, horizon: int) -> Floats:
    """The first block (H, Q) and as many more as it takes: (horizon, Q)."""
    levels, features = manifest.quantile_levels, len(manifest.features)
    paths, blocks = len(levels), [block]
    if horizon > len(block):
        states = fork(states, paths)
    while sum(map(len, blocks)) < horizon:
        fed = np.full((paths, len(block), features), np.nan)
        fed[:, :, 0] = block.T
        found, states = runner.prefill(_inputs(fed), states, "quantiles")
        pooled = found.astype(np.float64).transpose(1, 0, 2).reshape(len(block), -1)
        block = np.quantile(pooled, levels, axis=1).T
        blocks.append(block)
    return np.concatenate(blocks)[:horizon]


def _inputs(values: Floats) -> dict[str, Array]:
    seen = np.isfinite(values)
    return {"values": np.where(seen, values, 0.0), "mask": seen.astype(np.float32)}
