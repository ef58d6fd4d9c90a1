"""From the values of a series to quantiles of those that follow, as a task for the engine. Knows nothing of HTTP."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array
from service.engine.sequence import EMPTY_STATE, Prefill, PrefillResult, SequenceState, Task
from service.errors import InvalidRequestError, NonFiniteOutputError
from service.forecast.bounds import UNBOUNDED, Bounds
from service.forecast.intervals import widened
from service.forecast.manifest import ForecastManifest
from service.forecast.quantiles import TAIL_END, interpolate
from service.forecast.timestamps import seasons_of

Floats = NDArray[np.float64]
Made = TypeVar("Made")

LARGEST = 1e30
"""Larger values leave no room in single precision for what a network makes of them."""


@dataclass(frozen=True)
class ForecastRequest:
    """values (T, F), NaN = missing, none to forecast from where a sequence stands; levels ascending, within those of
    the model; bounds: of the target; future (at most horizon, K): what is known of the features `known_ahead` after the
    last value, NaN = unknown, as is what is beyond its end; from_step (1 to horizon): the first step that is answered;
    keeps_state: whether anybody goes on from where it ends."""

    values: Floats
    horizon: int
    levels: tuple[float, ...]
    include_history: bool = False
    bounds: Bounds = UNBOUNDED
    future: Floats | None = None
    from_step: int = 1
    keeps_state: bool = True

    @property
    def cost_steps(self) -> int:
        """Steps read and forecast."""
        return len(self.values) + self.horizon

    def most_bytes(self, manifest: ForecastManifest) -> int:
        """Held at most, until it is answered."""
        known, told = len(manifest.quantile_levels), len(self.levels)
        history = len(self.values) * self.include_history
        return (
            series_bytes(self.values)
            + (self.horizon + manifest.horizon) * (SAME * 8 * known + ANSWER_BYTES * (2 + told))
            + history * (SAME * 8 * known + ANSWER_BYTES * told)
        )


@dataclass(frozen=True)
class Forecast:
    """quantiles (N, L) and median (N,) of the N steps from_step to horizon. history (T, L): those of each value given,
    one step ahead from the values before it; NaN where nothing precedes. after: where the sequence stands, the values
    given read; of it only the season, if nobody goes on from there."""

    quantiles: Floats
    median: Floats
    history: Floats | None
    after: SequenceState


REQUEST_BYTES = 4096
"""Of a request, however small."""
SAME = 3
"""So often is a result there at the worst moment: in pieces, in one, and in what is made of it."""
ANSWER_BYTES = 48
"""Of one number in an answer: in an array, and as JSON, twice."""


def series_bytes(values: Floats) -> int:
    """Of values (T, F) that are read: as they came, and as the graph's inputs."""
    return REQUEST_BYTES + 28 * values.size


def tails(level: float) -> tuple[float, float]:
    """The quantile levels of a central interval of so many percent."""
    tail = (100 - level) / 200
    return round(tail, 6), round(1 - tail, 6)


def check_levels(levels: Sequence[float], manifest: ForecastManifest, path: str) -> None:
    """Refuse levels that are too far in the tails to say anything of.

    Raises:
        InvalidRequestError: one is.
    """
    known = manifest.quantile_levels
    lowest, highest = (TAIL_END, 1 - TAIL_END) if len(known) > 1 else (known[0], known[-1])
    if levels and not lowest <= min(levels) <= max(levels) <= highest:
        widest = round(100 * (highest - lowest), 4)
        accepted = f"quantiles from {lowest:g} to {highest:g}, central intervals of at most {widest:g} %"
        raise InvalidRequestError(f"further out than can be told: {accepted}", path)


def begin(
    manifest: ForecastManifest,
    season_length: tuple[int, ...] | None = None,
    freq: str | None = None,
    start: SequenceState = EMPTY_STATE,
) -> SequenceState:
    """Where a sequence stands, and what is told of its season: of a fresh one the season given, else the usual one of
    the frequency, else none; one that was begun keeps its own.

    Raises:
        InvalidRequestError: the model cannot hold the season given, or the sequence has another; no such frequency.
    """
    usual = None if freq is None else seasons_of(freq)
    if season_length is not None:
        _check_season(manifest, season_length, start)
    if start.position or not manifest.longest_season:
        return start
    told = season_length or tuple(values for values in usual or () if values <= manifest.longest_season)
    return SequenceState(0, {SEASON: np.array([(*told, NO_SEASON, NO_SEASON)[:2]])})


def season_of(at: SequenceState) -> list[int] | None:
    """The seasons by which the forecast goes, or else those that were told; None where the model takes none."""
    name = SEASONS if SEASONS in at.states else SEASON
    if name not in at.states:
        return None
    season, longer = at.states[name][0].tolist()
    return [season] if longer in (NO_SEASON, season) else [season, longer]


def _check_season(manifest: ForecastManifest, given: tuple[int, ...], start: SequenceState) -> None:
    if given[-1] > max(manifest.longest_season, NO_SEASON):
        holds = f"seasons of at most {manifest.longest_season} values" if manifest.longest_season else "no season"
        raise InvalidRequestError(f"{manifest.name} takes {holds}", "$.season_length")
    if start.position and SEASON in start.states:
        own = tuple(season for season in start.states[SEASON][0].tolist() if season != NO_SEASON) or (NO_SEASON,)
        if own != given:
            told = list(own)
            raise InvalidRequestError(f"the sequence began with another one, {told}, and keeps it", "$.season_length")


def forecast(manifest: ForecastManifest, request: ForecastRequest, start: SequenceState = EMPTY_STATE) -> Task[Forecast]:
    """Read the series, on from where a sequence stands, and forecast what follows it.

    Raises:
        InvalidRequestError: there is no value, neither given nor read before; or a future, and no value before it.
        NonFiniteOutputError: the model gives no finite numbers for these values.
    """
    known, values, future = manifest.quantile_levels, request.values, request.future
    past = np.empty((0, len(known)))
    if len(values):
        after, past = yield from read_values(manifest, values, start, future, request.include_history)
    elif not start.position:
        raise InvalidRequestError("nothing was read yet; at least one value is needed", "$.series")
    elif future is not None and len(future):
        raise InvalidRequestError("belongs to the call that brings the value which it follows", "$.future")
    else:
        after = start
    quantiles = (yield from extend(manifest, after, request.horizon, future))[request.from_step - 1 :]
    clip = bounds_of(after, request.bounds).clip
    history = clip(interpolate(past, known, request.levels)) if request.include_history else None
    median = clip(quantiles[:, known.index(0.5)]).copy()
    found = clip(interpolate(quantiles, known, request.levels))
    if not request.keeps_state:
        # Of ten thousand series, the states, and the batches that they are views of, would be most of the memory.
        season = {name: array.copy() for name, array in after.states.items() if name in (SEASON, SEASONS)}
        after, found = SequenceState(after.position, season), found.copy()
    return Forecast(found, median, history, after)


Reading = Generator[Prefill, PrefillResult, Made]
"""A part of a task that only reads."""


def read_values(
    manifest: ForecastManifest, values: Floats, start: SequenceState, future: Floats | None, history: bool
) -> Reading[tuple[SequenceState, Floats]]:
    """Read values (T, F), T > 0, which `future` follows: where the sequence then stands and, if `history`, the
    quantiles (T, Q) of each, one step ahead from the values before it; NaN where nothing precedes.

    Raises:
        NonFiniteOutputError: the model gives no finite numbers for these values.
    """
    names = ("quantiles", *([SEASONS] if manifest.tells_seasons else []), *(["one_step"] if history else []))
    read = yield _read(manifest, values[None], future, names, _recurrent(start))
    _check_finite(read.outputs["quantiles"])
    past = np.empty((0, len(manifest.quantile_levels)))
    if history:
        before = start.states[EXPECTED][0, :1] if start.position else np.full((1, past.shape[1]), np.nan)
        _check_finite(read.outputs["one_step"])
        past = np.concatenate([before, read.outputs["one_step"][0, :-1]])
    beside = {name: read.outputs[name] for name in (EXPECTED, SEASONS) if name in read.outputs}
    return SequenceState(start.position + len(values), {**read.states, **beside}), past


def bounds_of(at: SequenceState, given: Bounds) -> Bounds:
    """Those given, and 0 where all values that a sequence has read were counts."""
    uneven = at.states.get(UNEVEN)
    if uneven is None or uneven[0, 0]:
        return given
    return replace(given, lower=max(given.lower, 0.0)) if given.upper > 0 else given


def extend(manifest: ForecastManifest, at: SequenceState, horizon: int, future: Floats | None) -> Reading[Floats]:
    """The quantiles (horizon, Q) of what follows where a sequence stands.

    Beyond the model's own horizon it reads on from its own median, again and again; what it then says of quantiles does
    not count (`widened`). What `future` does not tell of the features of such a time is missing.

    Raises:
        NonFiniteOutputError: the model gives no finite numbers.
    """
    within: Floats = at.states[EXPECTED][0]
    reached, middle = len(within), manifest.quantile_levels.index(0.5)
    if horizon <= reached:
        return within[:horizon]
    medians = [within[:, middle]]
    states: Mapping[str, Array] = _recurrent(at)
    while reached < horizon:
        fed = np.full((1, len(within), len(manifest.features)), np.nan)
        fed[0, :, 0] = medians[-1]
        if future is not None:
            passed = future[reached - len(within) : reached]
            fed[0, : len(passed), _known_ahead(manifest)] = passed.T
        beyond = yield _read(manifest, fed, None if future is None else future[reached:], ("quantiles",), states)
        states, found = beyond.states, beyond.outputs["quantiles"][0]
        _check_finite(found)
        medians.append(found[:, middle])
        reached += len(within)
    season = season_of(at)
    median = np.concatenate(medians[1:])[: horizon - len(within)]
    after = widened(within, manifest.quantile_levels, median, season[0] if season else None)
    return np.concatenate([within, after])


EXPECTED = "quantiles"
"""What a forecaster's sequence carries beside the graph's own state: the forecast after its last value, (1, H, Q)."""
SEASON = "season"
"""The state tensor that is set before anything is read: what is told of the season."""
NO_SEASON = 1
SEASONS = "seasons"
"""What a sequence carries, too, if the graph tells it: by which seasons that forecast goes, (1, 2)."""
UNEVEN = "uneven"
"""The state tensor that is 0 as long as all values were whole numbers of at least 0."""


def _recurrent(at: SequenceState) -> dict[str, Array]:
    """The graph's own state."""
    return {name: array for name, array in at.states.items() if name not in (EXPECTED, SEASONS)}


def _check_finite(numbers: Array) -> None:
    if not np.isfinite(numbers).all():
        raise NonFiniteOutputError("the model gives no finite forecast for these values", "$.series")


def _read(
    manifest: ForecastManifest,
    values: Floats,
    future: Floats | None,
    outputs: tuple[str, ...],
    states: Mapping[str, Array],
) -> Prefill:
    """Of values (R, T, F) and what is known of the time after them."""
    inputs = _masked("values", "mask", values)
    if not manifest.known_ahead:
        return Prefill(inputs, outputs, states)
    rows, known = len(values), _known_ahead(manifest)
    coming = np.full((rows, manifest.horizon, len(known)), np.nan)
    if future is not None:
        coming[:, : len(future)] = future[: manifest.horizon]
    ahead = np.concatenate([values[:, 1:, known], coming[:, :1]], axis=1)
    inputs |= _masked("ahead", "ahead_mask", ahead)
    return Prefill(inputs, outputs, states, _masked("future", "future_mask", coming))


def _known_ahead(manifest: ForecastManifest) -> list[int]:
    """Where they are among the features."""
    return [manifest.features.index(name) for name in manifest.known_ahead]


def _masked(name: str, mask: str, numbers: Floats) -> dict[str, Array]:
    seen = np.isfinite(numbers)
    return {name: np.where(seen, numbers, 0.0), mask: seen.astype(np.float32)}
