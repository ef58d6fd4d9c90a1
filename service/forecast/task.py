"""From the values of a series to quantiles of those that follow, as a task for the engine. Knows nothing of HTTP."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from service.engine.runner import Array
from service.engine.sequence import EMPTY_STATE, Prefill, PrefillResult, SequenceState, Task
from service.errors import InvalidRequestError, NonFiniteOutputError
from service.forecast.intervals import OUTERMOST_LEVEL, UNBOUNDED, Bounds, Floats, extrapolate_intervals, interpolate
from service.forecast.manifest import ForecastManifest
from service.forecast.online_accuracy import NO_SCORES, SIZE, Scores, score
from service.forecast.timestamps import seasons_of

T = TypeVar("T")

REQUEST_BYTES = 4096
"""Held for a request, however small."""
COPIES = 3
"""How many copies of a result exist at the worst moment: in pieces, joined, and interpolated."""
ANSWER_BYTES = 48
"""Held for one number of an answer: in an array, and twice as JSON."""

LAST_FORECAST = "quantiles"
"""A tensor that a forecaster's state has beside the graph's own: the forecast after the last value, (1, H, Q)."""
SEASONS = "seasons"
"""Another one, if the graph outputs it: the seasons that this forecast uses, (1, 2)."""
ACCURACY = "accuracy"
"""Another one, if the state is stored or returned: how well its forecasts met the values that came next
(`online_accuracy`), (1, SIZE). Releases up to 0.3.0 wrote states without it."""
CARRIED = (LAST_FORECAST, SEASONS, ACCURACY)
SEASON = "season"
"""The graph's state tensor that holds the seasons that the caller gave. It is set before the first value."""
NO_SEASON = 1
UNEVEN = "uneven"
"""The graph's state tensor that is 0 as long as all values were whole numbers of at least 0."""


@dataclass(frozen=True)
class ForecastRequest:
    """values (T, F), NaN = missing; T = 0 forecasts from the state alone. horizon: 0 is accepted for the history alone.
    levels: ascending, within those of the model. bounds: of the target. future (at most horizon, K): the features
    `known_ahead` after the last value; NaN = unknown, as is what lies beyond its end. from_step (1 to horizon): the
    first step that is answered. returns_state: whether the caller needs the state after the last value."""

    values: Floats
    horizon: int
    levels: tuple[float, ...]
    include_history: bool = False
    bounds: Bounds = UNBOUNDED
    future: Floats | None = None
    from_step: int = 1
    returns_state: bool = True

    @property
    def steps_read(self) -> int:
        """Values that the model reads."""
        return len(self.values)

    @property
    def cost_steps(self) -> int:
        """Steps read and forecast."""
        return len(self.values) + self.horizon

    def max_bytes(self, manifest: ForecastManifest) -> int:
        """The most memory that the request holds until it is answered."""
        known, answered = len(manifest.quantile_levels), len(self.levels)
        history = len(self.values) * self.include_history
        return (
            series_bytes(self.values)
            + (self.horizon + manifest.horizon) * (COPIES * 8 * known + ANSWER_BYTES * (2 + answered))
            + history * (COPIES * 8 * known + ANSWER_BYTES * answered)
        )


@dataclass(frozen=True)
class Forecast:
    """quantiles (N, L) and median (N,) of the N steps from_step to horizon. history (T, L): the one-step-ahead
    quantiles of each value, NaN where no value precedes it. after: the state after the last value; without
    `returns_state`, it holds the seasons only, and nothing is scored."""

    quantiles: Floats
    median: Floats
    history: Floats | None
    after: SequenceState
    scores: Scores = NO_SCORES


def series_bytes(values: Floats) -> int:
    """Memory that values (T, F) hold while they are read: the values, and the graph's inputs."""
    return REQUEST_BYTES + 28 * values.size


def check_levels(levels: Sequence[float], manifest: ForecastManifest, path: str) -> None:
    """Reject levels that are too far in the tails.

    Raises:
        InvalidRequestError: a level is.
    """
    known = manifest.quantile_levels
    lowest, highest = (OUTERMOST_LEVEL, 1 - OUTERMOST_LEVEL) if len(known) > 1 else (known[0], known[-1])
    if levels and not lowest <= min(levels) <= max(levels) <= highest:
        widest = round(100 * (highest - lowest), 4)
        accepted = f"quantiles from {lowest:g} to {highest:g}, central intervals of at most {widest:g} %"
        raise InvalidRequestError(f"too far in the tails; accepted are {accepted}", path)


def initial_state(
    manifest: ForecastManifest,
    season_length: tuple[int, ...] | None = None,
    freq: str | None = None,
    start: SequenceState = EMPTY_STATE,
) -> SequenceState:
    """The state that a call starts from. An empty one gets the seasons of `season_length`, else the usual ones of
    `freq`, else none. A sequence that has read values keeps its own.

    Raises:
        InvalidRequestError: the model cannot hold the season, or the sequence has another; there is no such frequency.
    """
    usual = None if freq is None else seasons_of(freq)
    if season_length is not None:
        _check_season(manifest, season_length, start)
    if start.position or not manifest.longest_season:
        return start
    seasons = season_length or tuple(season for season in usual or () if season <= manifest.longest_season)
    return SequenceState(0, {SEASON: np.array([(*seasons, NO_SEASON, NO_SEASON)[:2]])})


def used_seasons(state: SequenceState) -> list[int] | None:
    """The seasons that the forecast uses, else those that the caller gave; None if the model takes none."""
    name = SEASONS if SEASONS in state.states else SEASON
    if name not in state.states:
        return None
    season, longer = state.states[name][0].tolist()
    return [season] if longer in (NO_SEASON, season) else [season, longer]


def _check_season(manifest: ForecastManifest, season_length: tuple[int, ...], start: SequenceState) -> None:
    if season_length[-1] > max(manifest.longest_season, NO_SEASON):
        limit = f"seasons of at most {manifest.longest_season} values" if manifest.longest_season else "no season"
        raise InvalidRequestError(f"{manifest.name} takes {limit}", "$.season_length")
    if start.position and SEASON in start.states:
        seasons = [season for season in start.states[SEASON][0].tolist() if season != NO_SEASON] or [NO_SEASON]
        if seasons != list(season_length):
            raise InvalidRequestError(f"the sequence began with {seasons} and keeps it", "$.season_length")


def forecast(
    manifest: ForecastManifest, request: ForecastRequest, start: SequenceState = EMPTY_STATE
) -> Task[Forecast]:
    """Read the series from a state on, and forecast the values after it.

    Raises:
        InvalidRequestError: there is no value, neither in the request nor read before; or a future without a value.
        NonFiniteOutputError: the model gives no finite numbers for these values.
    """
    known, values, future = manifest.quantile_levels, request.values, request.future
    one_step, scores = np.empty((0, len(known))), NO_SCORES
    if len(values):
        after, one_step = yield from read_values(manifest, values, start, future, request.include_history)
        if request.returns_state:
            after, scores = score_values(manifest, start, after, values[:, 0], one_step)
    elif not start.position:
        raise InvalidRequestError("the sequence has read no value yet; send at least one", "$.series")
    elif future is not None and len(future):
        raise InvalidRequestError("send `future` together with the last value before it", "$.future")
    else:
        after = start
    model_quantiles = (yield from roll_out(manifest, after, request.horizon, future))[request.from_step - 1 :]
    clip = effective_bounds(after, request.bounds).clip
    history = clip(interpolate(one_step, known, request.levels)) if request.include_history else None
    median = clip(model_quantiles[:, known.index(0.5)]).copy()
    quantiles = clip(interpolate(model_quantiles, known, request.levels))
    if not request.returns_state:
        # The states of ten thousand series, views of whole batches, would take most of the memory.
        seasons = {name: array.copy() for name, array in after.states.items() if name in (SEASON, SEASONS)}
        after, quantiles = SequenceState(after.position, seasons), quantiles.copy()
    return Forecast(quantiles, median, history, after, scores)


PrefillTask = Generator[Prefill, PrefillResult, T]
"""A part of a task that only reads."""


def read_values(
    manifest: ForecastManifest, values: Floats, start: SequenceState, future: Floats | None, history: bool
) -> PrefillTask[tuple[SequenceState, Floats]]:
    """Read values (T, F), T > 0; `future` follows them. Returns the state after them, and the one-step-ahead quantiles
    of each value (T, Q) if `history`, else of the first alone (1, Q): those the state has. NaN where no value precedes.

    Raises:
        NonFiniteOutputError: the model gives no finite numbers for these values.
    """
    asks = history and len(values) > 1
    names = (LAST_FORECAST, *([SEASONS] if manifest.outputs_seasons else []), *(["one_step"] if asks else []))
    result = yield _prefill(manifest, values[None], future, names, _graph_states(start))
    outputs = result.outputs
    _check_finite(outputs[LAST_FORECAST])
    unknown = np.full((1, len(manifest.quantile_levels)), np.nan)
    one_step = start.states[LAST_FORECAST][0, :1] if start.position else unknown
    if asks:
        _check_finite(outputs["one_step"])
        one_step = np.concatenate([one_step, outputs["one_step"][0, :-1]])
    carried = {name: outputs[name] for name in (LAST_FORECAST, SEASONS) if name in outputs}
    return SequenceState(start.position + len(values), {**result.states, **carried}), one_step


def score_values(
    manifest: ForecastManifest, start: SequenceState, after: SequenceState, target: Floats, one_step: Floats
) -> tuple[SequenceState, Scores]:
    """The state `after` the values (T,) of the target, with its accuracy, and what they scored. one_step: as
    `read_values` returns it: it costs the graph much more to forecast each value than to read it, so that only the
    forecasts are scored that a call has anyway."""
    before = start.states[ACCURACY][0] if ACCURACY in start.states else np.zeros(SIZE)
    accuracy, scores = score(before, target, one_step, manifest.quantile_levels)
    return SequenceState(after.position, {**after.states, ACCURACY: accuracy[None]}), scores


def effective_bounds(state: SequenceState, bounds: Bounds) -> Bounds:
    """The caller's bounds, and 0 where all values that the sequence has read were counts."""
    uneven = state.states.get(UNEVEN)
    if uneven is None or uneven[0, 0]:
        return bounds
    return replace(bounds, lower=max(bounds.lower, 0.0)) if bounds.upper > 0 else bounds


def roll_out(
    manifest: ForecastManifest, state: SequenceState, horizon: int, future: Floats | None
) -> PrefillTask[Floats]:
    """The quantiles (horizon, Q) of the values after a state.

    Beyond its own horizon, the model reads its own median again and again. Its quantiles there are not used
    (`extrapolate_intervals`). Features that `future` does not hold are missing.

    Raises:
        NonFiniteOutputError: the model gives no finite numbers.
    """
    within: Floats = state.states[LAST_FORECAST][0]
    reached, middle = len(within), manifest.quantile_levels.index(0.5)
    if horizon <= reached:
        return within[:horizon]
    medians = [within[:, middle]]
    states: Mapping[str, Array] = _graph_states(state)
    while reached < horizon:
        values = np.full((1, len(within), len(manifest.features)), np.nan)
        values[0, :, 0] = medians[-1]
        if future is not None:
            passed = future[reached - len(within) : reached]
            values[0, : len(passed), _known_ahead(manifest)] = passed.T
        coming = None if future is None else future[reached:]
        result = yield _prefill(manifest, values, coming, ("quantiles",), states)
        states, quantiles = result.states, result.outputs["quantiles"][0]
        _check_finite(quantiles)
        medians.append(quantiles[:, middle])
        reached += len(within)
    seasons = used_seasons(state)
    median = np.concatenate(medians[1:])[: horizon - len(within)]
    beyond = extrapolate_intervals(within, manifest.quantile_levels, median, seasons[0] if seasons else None)
    return np.concatenate([within, beyond])


def _graph_states(state: SequenceState) -> dict[str, Array]:
    """The graph's own state tensors."""
    return {name: array for name, array in state.states.items() if name not in CARRIED}


def _check_finite(numbers: Array) -> None:
    if not np.isfinite(numbers).all():
        raise NonFiniteOutputError("the model gives no finite forecast for these values", "$.series")


def _prefill(
    manifest: ForecastManifest,
    values: Floats,
    future: Floats | None,
    output_names: tuple[str, ...],
    states: Mapping[str, Array],
) -> Prefill:
    """Read values (R, T, F), which `future` follows."""
    inputs = _with_mask("values", "mask", values)
    if not manifest.known_ahead:
        return Prefill(inputs, output_names, states)
    rows, known = len(values), _known_ahead(manifest)
    coming = np.full((rows, manifest.horizon, len(known)), np.nan)
    if future is not None:
        coming[:, : len(future)] = future[: manifest.horizon]
    ahead = np.concatenate([values[:, 1:, known], coming[:, :1]], axis=1)
    inputs |= _with_mask("ahead", "ahead_mask", ahead)
    return Prefill(inputs, output_names, states, _with_mask("future", "future_mask", coming))


def _known_ahead(manifest: ForecastManifest) -> list[int]:
    """The indices of the features `known_ahead`."""
    return [manifest.features.index(name) for name in manifest.known_ahead]


def _with_mask(name: str, mask: str, numbers: Floats) -> dict[str, Array]:
    seen = np.isfinite(numbers)
    return {name: np.where(seen, numbers, 0.0), mask: seen.astype(np.float32)}
