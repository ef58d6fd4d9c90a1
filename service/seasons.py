"""Finds how many values a season of a series has, from the values alone. Knows nothing of models.

A wrong season is worse than none: it has to be significant in the series' differences, whose phase means no trend,
level shift or random walk lifts, in an F test that takes gaps as they are.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NO_SEASON = 1
USUAL = (4, 5, 7, 12, 24, 48, 52, 96, 144, 168, 288, 336)
"""Quarters, weekdays, days of the week, months, hours, half hours, weeks, ...: tried on every series."""
DAYS = (24, 48, 96, 144, 288)
"""Of which seven may be a second, longer season."""
SIGNIFICANT = 3.0
"""Standard deviations that a usual season must stand out by."""
SIGNIFICANT_UNUSUAL = 5.0
"""And one of the others, of which the most promising were picked."""
MOST_UNUSUAL = 3
LONGEST_UNUSUAL = 60
SHARE = 0.8
"""Of the best score, from which a divisor of the best season is preferred: what repeats after a day also does after
four, and what changes slowly makes the four look better."""
SHORTEST = 10
"""Differences seen that a verdict needs."""
MOST_VALUES = 2048
MOST_CYCLES = 8
"""Of the longest season tried: what is older says little of today's, and would only cost time."""

ONE_WAY = 0.9
"""Of the way that a series has gone, up and down, the share that brought it forward: from here on, it is a trend."""


def enough_for(season: int, target: Floats, months: bool) -> bool:
    """Whether a series (T,), NaN = missing, is long enough for the season that its frequency has as a rule.

    With no more than one season of values, the forecast is that season again, whatever the values say: of months and
    quarters (`months`), where a year's trend is as large as its season, that is worse than no season at all. Days and
    what is faster gain from the first value on. But none that went one way all the time, and has not seen two seasons,
    returns to where it began.
    """
    seen = target[np.isfinite(target)]
    if len(seen) >= 2 * season or season <= NO_SEASON:
        return True
    if months and len(seen) <= season:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        way, gone = np.abs(np.diff(seen)).sum(), np.abs(seen[-1:] - seen[:1]).sum()
    return len(seen) < season or not gone >= ONE_WAY * way or way == 0


@np.errstate(over="ignore", invalid="ignore")  # what is too large to be subtracted has no season
def find_season(target: Floats, longest: int) -> tuple[int, ...]:
    """The season of a series (T,), NaN = missing: values per season of at most `longest`, and where the days of a week
    differ, also those of the week; (1,) if it has none that can be told."""
    recent = target[-max(MOST_VALUES, MOST_CYCLES * longest) :]
    changes = np.diff(recent)
    at = np.flatnonzero(np.isfinite(changes))
    if len(at) < SHORTEST:
        return (NO_SEASON,)
    values = _without_outliers(changes[at])
    total = float(values @ values)
    if not np.isfinite(total) or total <= 0:
        return (NO_SEASON,)
    values = values / np.sqrt(total)
    beside = np.diff(at) == 1
    # Neighbours that depend on each other, as the differences of noise do, let the phases' means vary more.
    spread = np.sqrt(1 + 2 * float(values[1:][beside] @ values[:-1][beside]) ** 2)
    most = min(longest, len(at) // 2)
    usual = [season for season in USUAL if season <= most]
    unusual = [season for season in _peaks(values, at, min(most, LONGEST_UNUSUAL)) if season not in usual]
    tried = [*usual, *unusual]
    least = [*(len(usual) * [spread * SIGNIFICANT]), *(len(unusual) * [spread * SIGNIFICANT_UNUSUAL])]
    scores = _scores(values, at, tried, (0.0, 1)).tolist()
    found = {season: score for season, score, needed in zip(tried, scores, least, strict=True) if score > needed}
    if not found:
        return (NO_SEASON,)
    best = max(found, key=found.__getitem__)
    if best not in USUAL:
        best = next((season for season in usual if season % best == 0 and season in found), best)
    best = next(season for season in sorted(found) if best % season == 0 and found[season] >= SHARE * found[best])
    for day in DAYS:
        week = 7 * day
        if best == week and day in found:
            return (day, week)
        if best == day and week <= most:
            by_day = _explained(values, at, np.array([day]))
            if _scores(values, at, [week], (float(by_day[0][0]), int(by_day[1][0])))[0] > spread * SIGNIFICANT:
                return (day, week)
    return (best,)


def _without_outliers(values: Floats) -> Floats:
    """Less their mean, none further out than 2.5 interquartile ranges: one spike must make no season."""
    quarter = len(values) // 4
    ordered = np.partition(values, [quarter, -quarter - 1])
    low, high = ordered[quarter], ordered[-quarter - 1]
    reach = 2.5 * (high - low) or 2.5 * float(values.std())
    clipped = np.clip(values, low - reach, high + reach)
    centred: Floats = clipped - clipped.mean()
    return centred


def _explained(values: Floats, at: NDArray[np.intp], seasons: NDArray[np.intp]) -> tuple[Floats, NDArray[np.intp]]:
    """For each season, the sum of squares of its phases' means, and how many of its phases there are."""
    begins = np.concatenate([[0], np.cumsum(seasons)])
    phases = (at % seasons[:, None] + begins[:-1, None]).ravel()
    counts = np.bincount(phases, minlength=begins[-1])
    sums = np.bincount(phases, weights=np.tile(values, len(seasons)), minlength=begins[-1])
    squares = sums**2 / np.maximum(counts, 1)
    return np.add.reduceat(squares, begins[:-1]), np.add.reduceat((counts > 0).astype(np.intp), begins[:-1])


def _scores(values: Floats, at: NDArray[np.intp], seasons: list[int], within: tuple[float, int]) -> Floats:
    """How many standard deviations the means of each season's phases stand out from those of a season `within` it (what
    `_explained` says of it; (0, 1) of none): the F statistic of the two, made normal (Wilson and Hilferty 1931). The
    values' sum of squares is 1."""
    if not seasons:
        return np.empty(0)
    explained, phases = _explained(values, at, np.array(seasons))
    added, left = np.maximum(phases - within[1], 1), np.maximum(len(values) - phases, 1)
    f = np.cbrt((np.maximum(explained - within[0], 0.0) / added) / (np.maximum(1.0 - explained, 1e-9) / left))
    a, b = 2 / (9 * added), 2 / (9 * left)
    scores: Floats = ((1 - b) * f - (1 - a)) / np.sqrt(b * f**2 + a)
    return np.where((phases > within[1]) & (left >= phases // 2), scores, 0.0)


def _peaks(values: Floats, at: NDArray[np.intp], most: int) -> list[int]:
    """The lags of at most `most` at which the autocorrelation has its highest peaks."""
    if most < 3:
        return []
    length = int(at[-1] - at[0]) + 1
    size = 1 << (length + most).bit_length()
    line, seen = np.zeros(size), np.zeros(size)
    line[at - at[0]], seen[at - at[0]] = values, 1.0
    products = np.fft.irfft(np.abs(np.fft.rfft([line, seen])) ** 2, size)[:, : most + 2]
    correlation = products[0] / np.maximum(products[1], 1.0)
    inner = correlation[2 : most + 1]
    peaks = np.flatnonzero((inner > correlation[1:most]) & (inner >= correlation[3 : most + 2])) + 2
    found: list[int] = peaks[np.argsort(correlation[peaks])[::-1][:MOST_UNUSUAL]].tolist()
    return found
