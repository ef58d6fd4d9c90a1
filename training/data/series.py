"""Cuts series chronologically into parts to train, to validate and to test on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from carry.files import Series


@dataclass(frozen=True)
class Split:
    """Chronological parts: [0, train_end) train, [train_end, valid_end) validation, [valid_end, T) test."""

    train_end: int
    valid_end: int


MIN_TRAIN_VALUES = 4
"""Values of a series to train on, at least: windows of fewer have hardly a target."""
MIN_WHOLE_SERIES = 10
"""Series that are all too short to be cut, at least: of so many, some are held out whole."""


@dataclass(frozen=True)
class Parts:
    """The series to train on; those whose validation parts choose the weights, and whose test parts measure them."""

    train: list[Series]
    valid: list[tuple[Series, Split]]
    test: list[tuple[Series, Split]]


def describe_series(series: Sequence[Series]) -> str:
    """In words: how many series and values, how many of them are missing, the frequencies and seasons."""
    values = sum(len(each.values) for each in series)
    missing = sum(int(np.isnan(each.values[:, 0]).sum()) for each in series)
    kinds = Counter((each.freq, each.season) for each in series)
    parts = []
    for (freq, season), count in kinds.most_common(4):
        every = f"every {freq}" if freq else "without dates"
        parts.append(f"{count:,} {every}, {f'{season} values a season' if season > 1 else 'no season known'}")
    more = "; ..." if len(kinds) > 4 else ""
    return f"{len(series):,} series, {values:,} values, {missing:,} of them missing: {'; '.join(parts)}{more}"


def split_series(series: Sequence[Series], horizon: int, valid: float, test: float) -> Parts:
    """Cut each series that is long enough. If none is, hold out shares of the series whole: forecast their last
    `horizon` values from all before. Nothing is held out if there are too few series, or if they are too short for
    that, too."""
    splits = [find_split(each, horizon, valid, test) for each in series]
    if any(splits) or len(series) < MIN_WHOLE_SERIES:
        held_out = [(each, split) for each, split in zip(series, splits, strict=True) if split is not None]
        train = [replace(s, values=s.values[: c.train_end]) if c else s for s, c in zip(series, splits, strict=True)]
        return Parts(train, held_out if valid else [], held_out if test else [])
    order = np.random.default_rng(len(series)).permutation(len(series)).tolist()
    usable = [i for i in order if np.isfinite(series[i].values[:-horizon, 0]).sum() > 1]
    counts = [max(1, round(share * len(series))) if share else 0 for share in (valid, test)]
    if len(usable) < sum(counts):
        return Parts(list(series), [], [])
    to_choose, to_measure = usable[: counts[0]], usable[counts[0] : sum(counts)]
    sizes = [len(each.values) for each in series]
    return Parts(
        [each for i, each in enumerate(series) if i not in {*to_choose, *to_measure}],
        [(series[i], Split(sizes[i] - horizon, sizes[i])) for i in to_choose],
        [(series[i], Split(sizes[i] - horizon, sizes[i] - horizon)) for i in to_measure],
    )


def find_split(series: Series, horizon: int, valid: float = 0.1, test: float = 0.1) -> Split | None:
    """Hold out shares of the end, each at least `horizon` long; None if that left less to train on than it holds out,
    or than `MIN_TRAIN_VALUES`."""
    steps = len(series.values)
    test_steps = max(horizon, round(test * steps)) if test else 0
    valid_steps = max(horizon, round(valid * steps)) if valid else 0
    train_end = steps - test_steps - valid_steps
    if train_end < test_steps + valid_steps or (train_end < steps and train_end < MIN_TRAIN_VALUES):
        return None
    return Split(train_end, steps - test_steps)
