"""Batches for a global forecaster: windows of many kinds of series, real and made up, with targets after some steps of
each ("forking sequences", Wen et al. 2017).

Knows nothing of networks. Everything random follows from the generator it is given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.patterns import patterns
from training.data.series import Series
from training.data.synthetic import bank
from training.data.tbptt_batches import Batch

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bucket:
    """Windows of about one length. Of `rows` windows in a batch, each of at most `steps` values before the targets,
    `forks` steps are asked for values at most `horizon` ahead. `share`: of the batches."""

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
"""What a forecaster of any series is trained on: half of the world's series are short."""
AHEAD = 14
"""Most distances that a batch asks for."""

KINDS = {1: 0.25, 4: 0.16, 12: 0.35, 7: 0.09, 52: 0.06, 24: 0.09}
"""How often each kind of season is drawn among the real series (7: days, 24: hours and parts of hours)."""
LONG = {1: 0.0, 4: 0.3, 12: 0.6, 7: 2.0, 52: 2.0, 24: 4.0}
"""By how much more in windows of more than 200 values: few long series are yearly."""
FAR = {1: 8, 4: 10, 12: 24, 7: 28, 52: 26, 24: 48}
"""How many steps ahead users mostly ask for; what is farther counts a quarter."""

CENSORED, FLIPPED, MIXED, SHIFTED, GAPPY, UNTOLD, COARSER = 0.04, 0.08, 0.2, 0.08, 0.15, 0.5, 0.3
"""How often a window is so changed."""
MISTOLD = 0.08
"""How often another season is told: a hint is not to be obeyed."""
PATTERNS, SHORT_PATTERNS = 0.6, 0.7
"""Of what is made up, the share of `patterns`, and that among windows of at most SHORT steps."""
SHORT = 24


EARLY = 0.1
"""What a fork counts before the pattern was seen, and a little more. Nobody can know how it goes on, and how such
series usually do is not how a short series without a season does: it would be taught that what rises comes back."""


def kind_of(season: int) -> int:
    """The kind in `KINDS` that a season counts to."""
    return next((kind for kind in (1, 4, 7, 12) if season <= kind), 52 if season == 52 else 24)


def longer_season(season: int) -> int:
    """The season above: of hours and half-hours the week, else none (1)."""
    return 7 * season if season in (24, 48) else 1


def pattern_of(season: int) -> int:
    """How many values show a real series' pattern once; the year of weeks is mostly the least of what moves them."""
    return 1 if season == 52 else season


@dataclass(frozen=True)
class Piece:
    """A window of a series: values (T, F), values per season and per longer season, how far ahead matters most, the
    seasons that are told, and how many values show its pattern once."""

    values: Floats
    season: int
    longer: int
    far: int
    told: tuple[int, int] = (1, 1)
    pattern: int = 1

    @classmethod
    def of(cls, series: Series) -> "Piece":
        """A whole series."""
        m = series.season
        return cls(series.values, m, longer_season(m), FAR[kind_of(m)], pattern=pattern_of(m))


class ForkingStream:
    """`steps` batches an epoch, drawn anew in each: of all series equally, or with `synthetic`, the share that is made
    up, in proportions that depend on neither the number nor the length of the series of a kind, and augmented.

    known_ahead: columns of the features that are known of the future. hidden: the share of values hidden in a window.
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
        self._pieces = [Piece.of(one) for one in series]
        self._kinds = {kind: [p for p in self._pieces if kind_of(p.season) == kind] for kind in KINDS}
        self._chances = {kind: _chances([s for s in series if kind_of(s.season) == kind]) for kind in KINDS}

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch."""
        if rng is None:
            raise ValueError("windows are drawn at random: a generator is needed")
        shares = np.array([bucket.share for bucket in self._buckets])
        chosen = rng.choice(len(self._buckets), self.steps, p=shares / shares.sum())
        made: dict[int, list[Piece]] = {}
        for i in np.unique(chosen) if self._synthetic else ():
            bucket, share = self._buckets[i], self._synthetic or 0.0
            wanted = min(20_000, round(int((chosen == i).sum()) * bucket.rows * share)) + 40
            steps = bucket.steps + bucket.horizon
            known = round((SHORT_PATTERNS if bucket.steps <= SHORT else PATTERNS) * wanted)
            drawn = [*bank(rng, wanted - known, steps), *patterns(rng, known, steps)]
            made[i] = [
                Piece(m.values[:, None], m.season, m.longer, FAR[kind_of(m.season)], pattern=m.pattern) for m in drawn
            ]
        for i in chosen:
            bucket = self._buckets[i]
            pieces = [self._piece(rng, bucket, made.get(i, ())) for _ in range(bucket.rows)]
            near = 1.0 / (np.arange(1, bucket.horizon + 1) + 6.0)
            distances = rng.choice(bucket.horizon, min(AHEAD, bucket.horizon), replace=False, p=near / near.sum())
            yield fork(pieces, bucket, 1 + np.sort(distances), self._known_ahead, rng, self._hidden)

    def _piece(self, rng: np.random.Generator, bucket: Bucket, made: Sequence[Piece]) -> Piece:
        if self._synthetic is None:
            piece = self._pieces[rng.integers(len(self._pieces))]
            return replace(piece, values=_cut(rng, piece.values, bucket))
        piece = made[int(rng.integers(len(made)))] if made else self._pieces[0]
        if rng.random() < self._synthetic:
            return _changed(rng, replace(piece, values=_cut(rng, piece.values, bucket)))
        weights = np.array([weight if self._kinds[kind] else 0.0 for kind, weight in KINDS.items()])
        if bucket.steps > 200:
            weights *= list(LONG.values())
        if weights.sum():
            kind = int(rng.choice(list(KINDS), p=weights / weights.sum()))
            found = self._pick(rng, kind, bucket.steps // 3 if bucket.steps > 200 else 0)
            if found is not None:
                return self._real(rng, kind, found, bucket)
        return _changed(rng, replace(piece, values=_cut(rng, piece.values, bucket)))

    def _real(self, rng: np.random.Generator, kind: int, piece: Piece, bucket: Bucket) -> Piece:
        coarse = _coarser(rng, piece) if rng.random() < COARSER else piece
        values = _cut(rng, coarse.values, bucket)
        if rng.random() < MIXED and coarse is piece:
            other = self._pick(rng, kind, len(values) // 2)
            if other is not None and other.season == piece.season:
                values = _mix(rng, values, other.values)
        return _changed(rng, replace(coarse, values=values))

    def _pick(self, rng: np.random.Generator, kind: int, least: int) -> Piece | None:
        """Any series of the kind; None if a few draws give none that is long enough."""
        for _ in range(8):
            at = int(np.searchsorted(self._chances[kind], rng.random() * self._chances[kind][-1], side="right"))
            piece = self._kinds[kind][min(at, len(self._kinds[kind]) - 1)]
            if len(piece.values) >= least:
                return piece
        return None


def _chances(series: Sequence[Series]) -> Floats:
    """Running sums of how often each is drawn: a source by the fourth root of how many series and values it has, so
    that none drowns the others; within it, one as often as another."""
    sources: dict[str, list[int]] = {}
    for i, one in enumerate(series):
        sources.setdefault(one.source, []).append(i)
    weights = np.zeros(len(series))
    for places in sources.values():
        values = sum(min(len(series[i].values), 2000) for i in places)
        weights[places] = (len(places) * values) ** 0.25 / len(places)
    return weights.cumsum()


def can_be_learnt(series: Series) -> bool:
    """Whether windows of the series have targets that count: a value after the first, and changes to measure it by."""
    target = series.values[:, 0]
    return bool(np.isfinite(target[1:]).any()) and bool(_scales(target, series.season)[-1] > 0)


class EndsStream:
    """The ends of series as a validation pass: each series' last `horizon` values, given all before."""

    def __init__(self, series: Sequence[Series], horizon: int, known_ahead: Sequence[int] = (), rows: int = 64) -> None:
        pieces = sorted(map(Piece.of, series), key=lambda piece: len(piece.values))
        self._batches = [pieces[start : start + rows] for start in range(0, len(pieces), rows)]
        self._horizon = horizon
        self._known_ahead = list(known_ahead)

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]:
        """All ends, always the same."""
        for pieces in self._batches:
            bucket = Bucket(len(pieces[-1].values) - self._horizon, len(pieces), 1, self._horizon)
            yield fork(pieces, bucket, np.arange(1, self._horizon + 1), self._known_ahead)


def _cut(rng: np.random.Generator, values: Floats, bucket: Bucket) -> Floats:
    """A window of at most the bucket's size: mostly as long as can be, sometimes shorter."""
    size = min(len(values), bucket.steps + bucket.horizon)
    if rng.random() < 0.3 and size > 6:
        size = int(rng.integers(max(4, size // 3), size + 1))
    start = int(rng.integers(0, len(values) - size + 1))
    return values[start : start + size]


def _changed(rng: np.random.Generator, piece: Piece) -> Piece:
    """The same kind of series, but perhaps upside down, backwards, elsewhere, capped, or its season not told."""
    values = piece.values
    if rng.random() < FLIPPED:
        values = -values
    if rng.random() < FLIPPED / 2:
        values = values[::-1]
    seen = values[np.isfinite(values)]
    if len(seen) and rng.random() < SHIFTED:
        values = values + rng.normal(0, 5) * seen.std()
    elif len(seen) and rng.random() < CENSORED:
        values = np.clip(values, *np.quantile(seen, [rng.uniform(0, 0.3), rng.uniform(0.7, 1)]))
    return replace(piece, values=values, told=_told(rng, piece))


def _told(rng: np.random.Generator, piece: Piece) -> tuple[int, int]:
    """The seasons that a caller tells: none, those there are, the first of them, or wrong ones."""
    if rng.random() < MISTOLD:
        return int(rng.choice([4, 7, 12, 24, 52])), 1
    if rng.random() < UNTOLD:
        return 1, 1
    return piece.season, 1 if rng.random() < 0.3 else piece.longer


def _coarser(rng: np.random.Generator, piece: Piece) -> Piece:
    """The series in longer steps, by mean: months as quarters or years, hours as days..."""
    season = piece.season
    factors = {12: (3, 12), 4: (4,), 7: (7,), 24: (24, 3), 48: (2, 48), 288: (12, 3), 144: (6,), 96: (4,)}.get(season)
    if factors is None:
        return piece
    factor = int(rng.choice(factors))
    if len(piece.values) < 12 * factor:
        return piece
    values = piece.values[len(piece.values) % factor :, 0].reshape(-1, factor).mean(axis=1)[:, None]
    # A whole season is a day, of which seven are a week, or a week, or a year.
    coarse = season // factor if factor < season else {24: 7, 48: 7, 7: 52}.get(season, 1)
    return Piece(values, coarse, longer_season(coarse), FAR[kind_of(coarse)], pattern=pattern_of(coarse))


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
    pieces: Sequence[Piece],
    bucket: Bucket,
    distances: NDArray[np.int64],
    known_ahead: Sequence[int] = (),
    rng: np.random.Generator | None = None,
    hidden: float = 0.0,
) -> Batch:
    """One batch: each window's values, and what came at the `distances` (H,) after some of its steps, drawn at random,
    some values hidden; without `rng` after the last step that all distances can follow, nothing hidden."""
    rows, steps, features = len(pieces), bucket.steps, pieces[0].values.shape[1]
    sizes = np.array([len(piece.values) for piece in pieces])
    values = np.full((rows, max(steps + int(distances[-1]), int(sizes.max())) + 1, features), np.nan)
    for row, piece in zip(values, pieces, strict=True):
        row[: len(piece.values)] = piece.values
    if rng is not None:
        last = np.maximum(0, np.minimum(sizes - 2, steps - 1))[:, None]
        at = np.floor(rng.random((rows, bucket.forks)) * (last + 1)).astype(np.int64)
    else:
        at = np.maximum(0, sizes - int(distances[-1]) - 1)[:, None]
    ahead = (at[:, :, None] + distances).reshape(rows, -1)
    targets = np.take_along_axis(values[..., 0], ahead, axis=1).reshape(*at.shape, -1)
    far = np.array([piece.far for piece in pieces])[:, None, None]
    so_far = np.zeros((rows, int(sizes.max())))
    for row, piece in zip(so_far, pieces, strict=True):
        found = _scales(piece.values[:, 0], piece.season)
        row[: len(found)], row[len(found) :] = found, found[-1]
    scale = _measured_in(so_far, at, ahead.reshape(targets.shape))
    weight = np.isfinite(targets) * np.where(distances <= far, 1.0, 0.25) * (scale > 0)
    if rng is not None:
        pattern = np.array([piece.pattern for piece in pieces])[:, None]
        weight = weight * np.where(at + 1 < 1.25 * pattern, EARLY, 1.0)[:, :, None]
    shown = np.isfinite(values[:, :steps])
    if rng is not None:
        shown[..., 0] &= ~_gaps(rng, rows, steps, hidden) | (np.arange(steps) < 2)
        if others := [i for i in range(1, features) if i not in known_ahead]:
            # Beyond the model's horizon, forecasts go on from forecasts, and nothing is known of these features.
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
            torch.tensor([piece.told for piece in pieces]),
        ),
        fresh=torch.ones(rows, dtype=torch.bool),
        weight=int((weight > 0).sum()),
    )


def _masked(values: Floats, shown: NDArray[np.bool_] | None = None) -> tuple[Tensor, Tensor]:
    """Values with zeros where they are missing, and the mask."""
    shown = np.isfinite(values) if shown is None else shown
    return torch.from_numpy(np.where(shown, values, 0.0)), torch.from_numpy(shown.astype(np.float32))


def _gaps(rng: np.random.Generator, rows: int, steps: int, hidden: float) -> NDArray[np.bool_]:
    """Which values (rows, steps) are hidden: a share of all, and in some rows more, here and there or in stretches."""
    alone = rng.random((rows, steps)) < rng.uniform(0, 0.3, (rows, 1))
    stretches = (rng.random((rows, steps)) < 0.03).cumsum(axis=1) % 2 == 1
    more = (rng.random((rows, 1)) < GAPPY) & np.where(rng.random((rows, 1)) < 0.7, alone, stretches)
    return more | (rng.random((rows, steps)) < hidden)


def _measured_in(so_far: Floats, at: NDArray[np.int64], ahead: NDArray[np.int64]) -> Floats:
    """What errors (B, P, H) are measured in: the scale so far (B, T) at the step that they are forecast from (B, P), as
    in the competitions. One that knew what comes would count what moves less, and the median would stay where it is.
    A few values know little of their scale, so that of the target's step (B, P, H) counts as two more; it counts for
    a fifth at least, or what grows by a factor would be all that counts."""
    last = so_far.shape[1] - 1
    known = np.take_along_axis(so_far, np.minimum(at, last), axis=1)[..., None]
    later = np.take_along_axis(so_far, np.minimum(ahead.reshape(len(so_far), -1), last), axis=1).reshape(ahead.shape)
    seen = at[..., None]
    return np.maximum((seen * known + 2 * later) / (seen + 2), later / 5)


def _scales(values: Floats, season: int) -> Floats:
    """Of each step, the mean absolute seasonal difference so far, at least a twentieth of that of neighbours; of weeks,
    whose year repeats itself least, that of neighbours, as in the M4 competition."""
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
    """Of the values up to each, those that are known; NaN before the first."""
    known = np.isfinite(values)
    count = known.cumsum()
    mean: Floats = np.where(count > 0, np.where(known, values, 0.0).cumsum() / np.maximum(count, 1), np.nan)
    return mean
