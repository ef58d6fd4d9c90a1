"""Batches for a global forecaster: windows of many kinds of series, real and synthetic, with targets after some steps
of each ("forking sequences", Wen et al. 2017).

Knows nothing of networks. Everything random follows from the generator that the caller passes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carry.files import Series
from training.data.patterns import sample_patterns
from training.data.synthetic import sample_series
from training.data.tbptt_batches import Batch

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bucket:
    """Windows of about one length. A batch has `rows` windows, each of at most `steps` values before the targets, and
    forecasts at `forks` steps of each, at most `horizon` values ahead. share: of the batches."""

    steps: int
    rows: int
    forks: int
    horizon: int
    share: float = 1.0


BUCKETS = (
    Bucket(12, 256, 4, 12, 0.09),
    Bucket(24, 160, 5, 18, 0.15),
    Bucket(64, 96, 6, 24, 0.23),
    Bucket(144, 48, 8, 36, 0.22),
    Bucket(384, 24, 12, 48, 0.16),
    Bucket(1024, 10, 20, 48, 0.15),
)
"""Windows that train a forecaster of any series: half of the world's series are short."""
MAX_DISTANCES = 14
"""Distances ahead of one batch, at most."""

KINDS = {1: 0.25, 4: 0.16, 12: 0.35, 7: 0.09, 52: 0.06, 24: 0.09}
"""How often each kind of season is drawn among the real series (7: days, 24: hours and parts of hours)."""
LONG_WINDOW_WEIGHTS = {1: 0.0, 4: 0.3, 12: 0.6, 7: 2.0, 52: 2.0, 24: 4.0}
"""How much more often in windows of more than 200 values: few long series are yearly."""
MAX_RELEVANT_HORIZON = {1: 8, 4: 10, 12: 24, 7: 28, 52: 26, 24: 48}
"""Steps ahead that users mostly ask for, by kind; targets beyond them count a quarter."""

CENSORED, FLIPPED, MIXED, SHIFTED, GAPPY, NO_HINT, COARSER = 0.04, 0.08, 0.2, 0.08, 0.15, 0.5, 0.3
"""How often a window is changed in this way."""
WRONG_HINT = 0.08
"""How often the hint names another season, so that the network learns not to obey it."""
PATTERNS, SHORT_PATTERNS = 0.6, 0.7
"""The share of `sample_patterns` among the synthetic series, and that in windows of at most SHORT steps."""
SHORT = 24


EARLY = 0.1
"""The weight of a fork until a little after the pattern was seen once. Nobody can know how the series goes on; and
since a short series without a season goes on otherwise, the network would learn that whatever rises comes back."""


def kind_of(season: int) -> int:
    """The kind in `KINDS` that a season counts to."""
    return next((kind for kind in (1, 4, 7, 12) if season <= kind), 52 if season == 52 else 24)


def longer_season(season: int) -> int:
    """The season above a season: of hours and half-hours the week, else none (1)."""
    return 7 * season if season in (24, 48) else 1


def pattern_of(season: int) -> int:
    """How many values show a real series' pattern once. Of weeks it is 1: their year mostly moves them least."""
    return 1 if season == 52 else season


@dataclass(frozen=True)
class TrainingWindow:
    """A window of a series: values (T, F), values per season and per longer season. max_relevant_horizon: how many
    steps ahead matter most. hint: the seasons that the network is told. pattern: how many values show its pattern
    once."""

    values: Floats
    season: int
    longer: int
    max_relevant_horizon: int
    hint: tuple[int, int] = (1, 1)
    pattern: int = 1

    @classmethod
    def of(cls, series: Series) -> "TrainingWindow":
        """A whole series."""
        m = series.season
        return cls(series.values, m, longer_season(m), MAX_RELEVANT_HORIZON[kind_of(m)], pattern=pattern_of(m))


class ForkingStream:
    """`steps` batches an epoch, drawn anew in each: of all series equally, or, if `synthetic` is given, that share of
    synthetic series and real ones in proportions by kind, whatever the number and length of a kind's series, augmented.

    known_ahead: columns of the features whose future is known. hidden: the share of values hidden in a window.
    """

    def __init__(
        self,
        series: Sequence[Series],
        steps: int,
        buckets: Sequence[Bucket],
        known_ahead: Sequence[int] = (),
        synthetic: float | None = None,
        hidden: float = 0.0,
    ) -> None:
        self.steps = steps
        self._buckets = buckets
        self._known_ahead = list(known_ahead)
        self._synthetic = synthetic
        self._hidden = hidden
        self._windows = [TrainingWindow.of(each) for each in series]
        self._by_kind = {kind: [w for w in self._windows if kind_of(w.season) == kind] for kind in KINDS}
        self._chances = {kind: _chances([s for s in series if kind_of(s.season) == kind]) for kind in KINDS}

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch."""
        if rng is None:
            raise ValueError("windows are drawn at random: a generator is needed")
        shares = np.array([bucket.share for bucket in self._buckets])
        order = rng.choice(len(self._buckets), self.steps, p=shares / shares.sum())
        synthetic: dict[int, list[TrainingWindow]] = {}
        for i in np.unique(order) if self._synthetic else ():
            windows = int((order == i).sum()) * self._buckets[i].rows
            synthetic[i] = _sample_synthetic(rng, self._buckets[i], windows, self._synthetic or 0.0)
        for i in order:
            bucket = self._buckets[i]
            batch_windows = [self._draw(rng, bucket, synthetic.get(i, ())) for _ in range(bucket.rows)]
            near = 1.0 / (np.arange(1, bucket.horizon + 1) + 6.0)
            count = min(MAX_DISTANCES, bucket.horizon)
            distances = rng.choice(bucket.horizon, count, replace=False, p=near / near.sum())
            yield fork(batch_windows, bucket, 1 + np.sort(distances), self._known_ahead, rng, self._hidden)

    def _draw(self, rng: np.random.Generator, bucket: Bucket, synthetic: Sequence[TrainingWindow]) -> TrainingWindow:
        if self._synthetic is None:
            window = self._windows[rng.integers(len(self._windows))]
            return replace(window, values=_cut(rng, window.values, bucket))
        window = synthetic[int(rng.integers(len(synthetic)))] if synthetic else self._windows[0]
        if rng.random() < self._synthetic:
            return _augment(rng, replace(window, values=_cut(rng, window.values, bucket)))
        weights = np.array([weight if self._by_kind[kind] else 0.0 for kind, weight in KINDS.items()])
        if bucket.steps > 200:
            weights *= list(LONG_WINDOW_WEIGHTS.values())
        if weights.sum():
            kind = int(rng.choice(list(KINDS), p=weights / weights.sum()))
            real = self._pick(rng, kind, bucket.steps // 3 if bucket.steps > 200 else 0)
            if real is not None:
                return self._augment_real(rng, kind, real, bucket)
        return _augment(rng, replace(window, values=_cut(rng, window.values, bucket)))

    def _augment_real(
        self, rng: np.random.Generator, kind: int, window: TrainingWindow, bucket: Bucket
    ) -> TrainingWindow:
        coarse = _coarsen(rng, window) if rng.random() < COARSER else window
        values = _cut(rng, coarse.values, bucket)
        if rng.random() < MIXED and coarse is window:
            other = self._pick(rng, kind, len(values) // 2)
            if other is not None and other.season == window.season:
                values = _mix(rng, values, other.values)
        return _augment(rng, replace(coarse, values=values))

    def _pick(self, rng: np.random.Generator, kind: int, min_length: int) -> TrainingWindow | None:
        """Any series of the kind; None if a few draws give none that is long enough."""
        windows, chances = self._by_kind[kind], self._chances[kind]
        for _ in range(8):
            index = int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))
            window = windows[min(index, len(windows) - 1)]
            if len(window.values) >= min_length:
                return window
        return None


def _sample_synthetic(rng: np.random.Generator, bucket: Bucket, windows: int, share: float) -> list[TrainingWindow]:
    """Synthetic series for a share of an epoch's windows of a bucket."""
    count = min(20_000, round(windows * share)) + 40
    steps = bucket.steps + bucket.horizon
    patterns = round((SHORT_PATTERNS if bucket.steps <= SHORT else PATTERNS) * count)
    return [
        TrainingWindow(
            series.values[:, None],
            series.season,
            series.longer,
            MAX_RELEVANT_HORIZON[kind_of(series.season)],
            pattern=series.pattern,
        )
        for series in (*sample_series(rng, count - patterns, steps), *sample_patterns(rng, patterns, steps))
    ]


def _chances(series: Sequence[Series]) -> Floats:
    """Running sums of how often each series is drawn: a source by the fourth root of how many series and values it has,
    so that none drowns the others; within it, one as often as another."""
    sources: dict[str, list[int]] = {}
    for i, each in enumerate(series):
        sources.setdefault(each.source, []).append(i)
    weights = np.zeros(len(series))
    for members in sources.values():
        values = sum(min(len(series[i].values), 2000) for i in members)
        weights[members] = (len(members) * values) ** 0.25 / len(members)
    return weights.cumsum()


def can_be_learnt(series: Series) -> bool:
    """Whether windows of the series have targets that count: a value after the first, and changes to scale it by."""
    target = series.values[:, 0]
    return bool(np.isfinite(target[1:]).any()) and bool(_scales(target, series.season)[-1] > 0)


class EndsStream:
    """The ends of series as a validation pass: each series' last `horizon` values, given all before."""

    def __init__(self, series: Sequence[Series], horizon: int, known_ahead: Sequence[int] = (), rows: int = 64) -> None:
        windows = sorted(map(TrainingWindow.of, series), key=lambda window: len(window.values))
        self._batches = [windows[start : start + rows] for start in range(0, len(windows), rows)]
        self._horizon = horizon
        self._known_ahead = list(known_ahead)

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]:
        """All ends, always the same."""
        for windows in self._batches:
            bucket = Bucket(len(windows[-1].values) - self._horizon, len(windows), 1, self._horizon)
            yield fork(windows, bucket, np.arange(1, self._horizon + 1), self._known_ahead)


def _cut(rng: np.random.Generator, values: Floats, bucket: Bucket) -> Floats:
    """A window of at most the bucket's size: mostly as long as can be, sometimes shorter."""
    size = min(len(values), bucket.steps + bucket.horizon)
    if rng.random() < 0.3 and size > 6:
        size = int(rng.integers(max(4, size // 3), size + 1))
    start = int(rng.integers(0, len(values) - size + 1))
    return values[start : start + size]


def _augment(rng: np.random.Generator, window: TrainingWindow) -> TrainingWindow:
    """The window, perhaps upside down, backwards, shifted or capped; with the hint that it is trained with."""
    values = window.values
    if rng.random() < FLIPPED:
        values = -values
    if rng.random() < FLIPPED / 2:
        values = values[::-1]
    known = values[np.isfinite(values)]
    if len(known) and rng.random() < SHIFTED:
        values = values + rng.normal(0, 5) * known.std()
    elif len(known) and rng.random() < CENSORED:
        values = np.clip(values, *np.quantile(known, [rng.uniform(0, 0.3), rng.uniform(0.7, 1)]))
    return replace(window, values=values, hint=_hint(rng, window))


def _hint(rng: np.random.Generator, window: TrainingWindow) -> tuple[int, int]:
    """The seasons that a caller tells the network: none, those of the window, the first of them, or wrong ones."""
    if rng.random() < WRONG_HINT:
        return int(rng.choice([4, 7, 12, 24, 52])), 1
    if rng.random() < NO_HINT:
        return 1, 1
    return window.season, 1 if rng.random() < 0.3 else window.longer


def _coarsen(rng: np.random.Generator, window: TrainingWindow) -> TrainingWindow:
    """The series in longer steps, by mean: months as quarters or years, hours as days..."""
    season = window.season
    factors = {12: (3, 12), 4: (4,), 7: (7,), 24: (24, 3), 48: (2, 48), 288: (12, 3), 144: (6,), 96: (4,)}.get(season)
    if factors is None:
        return window
    factor = int(rng.choice(factors))
    if len(window.values) < 12 * factor:
        return window
    values = window.values[len(window.values) % factor :, 0].reshape(-1, factor).mean(axis=1)[:, None]
    # A whole season is a day, of which seven are a week, or a week, or a year.
    coarse = season // factor if factor < season else {24: 7, 48: 7, 7: 52}.get(season, 1)
    horizon = MAX_RELEVANT_HORIZON[kind_of(coarse)]
    return TrainingWindow(values, coarse, longer_season(coarse), horizon, pattern=pattern_of(coarse))


def _mix(rng: np.random.Generator, values: Floats, other: Floats) -> Floats:
    """A sum of two series in their own units (TSMixup of Chronos, Ansari et al. 2024), as long as the shorter."""
    size = min(len(values), len(other))
    start = int(rng.integers(0, len(other) - size + 1))
    parts = [values[:size], other[start : start + size]]
    units = [np.abs(part[np.isfinite(part)]).mean() if np.isfinite(part).any() else 0.0 for part in parts]
    share = rng.uniform(0.2, 0.8)
    mixed: Floats = share * parts[0] / (units[0] or 1.0) + (1 - share) * parts[1] / (units[1] or 1.0)
    return mixed


def fork(
    windows: Sequence[TrainingWindow],
    bucket: Bucket,
    distances: NDArray[np.int64],
    known_ahead: Sequence[int] = (),
    rng: np.random.Generator | None = None,
    hidden: float = 0.0,
) -> Batch:
    """One batch: each window's values, and the values at the `distances` (H,) after some of its steps, drawn at random,
    with some values hidden. Without `rng`: after the last step that all distances can follow, nothing hidden."""
    rows, steps, features = len(windows), bucket.steps, windows[0].values.shape[1]
    sizes = np.array([len(window.values) for window in windows])
    values = np.full((rows, max(steps + int(distances[-1]), int(sizes.max())) + 1, features), np.nan)
    for row, window in zip(values, windows, strict=True):
        row[: len(window.values)] = window.values
    if rng is not None:
        last = np.maximum(0, np.minimum(sizes - 2, steps - 1))[:, None]
        at = np.floor(rng.random((rows, bucket.forks)) * (last + 1)).astype(np.int64)
    else:
        at = np.maximum(0, sizes - int(distances[-1]) - 1)[:, None]
    ahead = (at[:, :, None] + distances).reshape(rows, -1)
    targets = np.take_along_axis(values[..., 0], ahead, axis=1).reshape(*at.shape, -1)
    relevant = np.array([window.max_relevant_horizon for window in windows])[:, None, None]
    so_far = np.zeros((rows, int(sizes.max())))
    for row, window in zip(so_far, windows, strict=True):
        scales = _scales(window.values[:, 0], window.season)
        row[: len(scales)], row[len(scales) :] = scales, scales[-1]
    scale = _error_scale(so_far, at, ahead.reshape(targets.shape))
    weight = np.isfinite(targets) * np.where(distances <= relevant, 1.0, 0.25) * (scale > 0)
    if rng is not None:
        pattern = np.array([window.pattern for window in windows])[:, None]
        weight = weight * np.where(at + 1 < 1.25 * pattern, EARLY, 1.0)[:, :, None]
    shown = np.isfinite(values[:, :steps])
    if rng is not None:
        shown[..., 0] &= ~_gaps(rng, rows, steps, hidden) | (np.arange(steps) < 2)
        if others := [i for i in range(1, features) if i not in known_ahead]:
            # Beyond the model's horizon, forecasts go on from forecasts, where these features are unknown.
            ends = np.where(rng.random((rows, 1)) < GAPPY, rng.integers(1, steps + 1, (rows, 1)), steps)
            shown[..., others] &= (np.arange(steps) < ends)[..., None]
    future = np.take_along_axis(values[..., known_ahead], ahead[..., None], axis=1).reshape(*targets.shape, -1)
    return Batch(
        arguments=(
            *_masked(values[:, :steps], shown),
            *_masked(values[:, 1 : steps + 1, known_ahead]),
            torch.from_numpy(at),
            torch.from_numpy(distances),
            torch.from_numpy(np.nan_to_num(targets)),
            torch.from_numpy(weight.astype(np.float32)),
            *_masked(future),
            torch.from_numpy(np.where(scale > 0, scale, 1.0)),
            torch.tensor([window.hint for window in windows]),
        ),
        fresh=torch.ones(rows, dtype=torch.bool),
        weight=int((weight > 0).sum()),
    )


def _masked(values: Floats, shown: NDArray[np.bool_] | None = None) -> tuple[Tensor, Tensor]:
    """Values with zeros where they are missing, and the mask of those that are not."""
    shown = np.isfinite(values) if shown is None else shown
    return torch.from_numpy(np.where(shown, values, 0.0)), torch.from_numpy(shown.astype(np.float32))


def _gaps(rng: np.random.Generator, rows: int, steps: int, hidden: float) -> NDArray[np.bool_]:
    """Which values (rows, steps) are hidden: a share of all, and in some rows more, one by one or in runs."""
    single = rng.random((rows, steps)) < rng.uniform(0, 0.3, (rows, 1))
    runs = (rng.random((rows, steps)) < 0.03).cumsum(axis=1) % 2 == 1
    more = (rng.random((rows, 1)) < GAPPY) & np.where(rng.random((rows, 1)) < 0.7, single, runs)
    return more | (rng.random((rows, steps)) < hidden)


def _error_scale(so_far: Floats, at: NDArray[np.int64], ahead: NDArray[np.int64]) -> Floats:
    """The unit of the errors (B, P, H): the scale so far (B, T) at the step (B, P) of the forecast, as in the
    competitions. A scale that knew the future would make what moves count less, and the median would stay where it is.
    After few values the scale is unsure, so the scale at the target's step (B, P, H) counts as two more values, and a
    fifth of it is the least: or series that grow by a factor would outweigh all others."""
    last = so_far.shape[1] - 1
    known = np.take_along_axis(so_far, np.minimum(at, last), axis=1)[..., None]
    later = np.take_along_axis(so_far, np.minimum(ahead.reshape(len(so_far), -1), last), axis=1).reshape(ahead.shape)
    seen = at[..., None]
    return np.maximum((seen * known + 2 * later) / (seen + 2), later / 5)


def _scales(values: Floats, season: int) -> Floats:
    """At each step, the mean absolute seasonal difference so far, at least a twentieth of that of neighbours; of weeks
    that of neighbours, as in the M4 competition, since their year repeats itself least."""
    near = _mean_so_far(np.abs(np.diff(values, prepend=np.nan)))
    known = np.flatnonzero(np.isfinite(values))
    if not np.isfinite(near).any() and len(known) > 1:  # no two neighbours are known
        apart = np.full(len(values), np.nan)
        apart[known[1:]] = np.abs(np.diff(values[known]))
        near = _mean_so_far(apart)
    if 1 < season < len(values) and season != 52:
        apart = _mean_so_far(np.abs(values - np.concatenate([np.full(season, np.nan), values[:-season]])))
        near = np.where(np.isfinite(apart), np.maximum(apart, near / 20), near)
    return np.nan_to_num(near)


def _mean_so_far(values: Floats) -> Floats:
    """At each step, the mean of the known values so far; NaN before the first."""
    known = np.isfinite(values)
    count = known.cumsum()
    mean: Floats = np.where(count > 0, np.where(known, values, 0.0).cumsum() / np.maximum(count, 1), np.nan)
    return mean
