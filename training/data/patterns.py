"""Samples more series from formulas: of the kinds that a person sees through at once, and that real collections lack.

Each generator gives series (count, steps) whose season, if any, is `m` values.
"""

import numpy as np
from numpy.typing import NDArray

from training.data.synthetic import SyntheticSeries, draw_noise, draw_profile, draw_season, draw_seasonal

Floats = NDArray[np.float64]


def _uniform(rng: np.random.Generator, low: float, high: float, count: int) -> Floats:
    return rng.uniform(low, high, (count, 1))


def _one_of(rng: np.random.Generator, choices: list[float], count: int) -> Floats:
    return rng.choice(np.array(choices), (count, 1))


def waves(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """One to three smooth waves of any real period, the first of at most about `m`, perhaps with harmonics, growing, on
    a trend, or of a period that changes; with little noise, or none."""
    t = np.arange(steps)
    values = np.zeros((count, steps))
    for k in range(3):
        longest = float(m) if k == 0 else max(5.0, steps / 1.6)
        period = np.exp(rng.uniform(np.log(max(2.5, longest / 3) if k == 0 else 2.5), np.log(longest), (count, 1)))
        chirp = np.where(rng.random((count, 1)) < 0.1, rng.uniform(-0.3, 0.3, (count, 1)) / steps, 0.0)
        size = rng.gamma(2.0, 0.5, (count, 1)) * (1.0 if k == 0 else rng.random((count, 1)) < 0.3)
        phase = rng.uniform(0, 2 * np.pi, (count, 1))
        angle = 2 * np.pi * t * (1 + chirp * t) / period + phase
        values += size * np.sin(angle)
        second = rng.random((count, 1)) < 0.3
        values += np.where(second, size * rng.uniform(0, 0.6, (count, 1)) * np.sin(2 * angle + phase), 0.0)
    growing = np.where(rng.random((count, 1)) < 0.15, rng.normal(0, 1, (count, 1)), 0.0)
    values *= np.exp(growing * t / steps)
    values += _one_of(rng, [0, 0, 1], count) * rng.normal(0, 4, (count, 1)) * t / steps
    noise = 10 ** rng.uniform(-3, -0.2, (count, 1)) * _one_of(rng, [0, 1, 1, 1], count)
    values += noise * rng.normal(size=values.shape)
    return values + rng.normal(0, 3, (count, 1)) * _one_of(rng, [0, 1, 10], count)


def _varied(values: Floats, noise: Floats) -> Floats:
    """With noise in proportion to the values, so that the beginning of what grows is not buried in it."""
    varied: Floats = values * np.exp(np.clip(noise, -1, 1))
    return varied


def stable_profiles(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """A profile that stays, under much noise, on a slow level: shops, machines, visits."""
    m = m if m > 1 else 7
    t = np.arange(steps)
    profile = np.exp(draw_profile(rng, count, m) * _uniform(rng, 0.05, 0.9, count))
    level = np.exp(np.cumsum(rng.normal(size=(count, steps)) * 10 ** rng.uniform(-3.5, -1.3, (count, 1)), axis=1))
    values = profile[:, t % m] * level * np.exp(rng.normal(size=(count, steps)) * _uniform(rng, 0.05, 0.6, count))
    if longer > 1:
        weeks = np.exp(draw_profile(rng, count, longer // m) * _uniform(rng, 0, 0.5, count))
        values *= weeks[:, (t // m) % (longer // m)]
    elif m == 7 and steps > 2 * 365:
        year = np.sin(2 * np.pi * (t / 365.25 + rng.uniform(0, 1, (count, 1))))
        year += _uniform(rng, 0, 0.7, count) * np.sin(4 * np.pi * (t / 365.25 + rng.uniform(0, 1, (count, 1))))
        values *= np.exp(year * _uniform(rng, 0, 0.6, count) * _one_of(rng, [0, 1, 1], count))
    happens = rng.random((count, steps)) < 0.01
    values *= 1 + happens * rng.exponential(1.5, (count, steps))
    values *= 10 ** rng.uniform(0, 3, (count, 1))
    whole = rng.random((count, 1)) < 0.4
    stable: Floats = np.where(whole, np.round(values), values)
    return stable


def trends(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Lines, bends, growth and decay by a factor, saturation, of every strength, some that end; perhaps a season."""
    t = np.arange(steps, dtype=float)
    rate = rng.choice([-1, 1], (count, 1)) * 10 ** rng.uniform(-3, -0.3, (count, 1))
    rate = np.clip(rate, -25 / steps, 25 / steps)
    line = rng.normal(0, 1, (count, 1)) * t + rng.normal(0, 30, (count, 1))
    growth = 10 * np.exp(rate * t)
    bend = line + rng.normal(0, 1, (count, 1)) * (t - steps * rng.uniform(0, 1, (count, 1))) ** 2 / steps
    middle = rng.uniform(0.1, 0.9, (count, 1)) * steps
    logistic = 100 / (1 + np.exp(-np.clip((t - middle) * 10 ** rng.uniform(-1.5, 0, (count, 1)), -30, 30)))
    logistic *= rng.choice([-1, 1, 1], (count, 1))
    ended = line[:, :1] + (line - line[:, :1]) * 0 + np.minimum(t, middle) * rng.normal(0, 1, (count, 1))
    root = np.sqrt(t + 1) * rng.normal(0, 5, (count, 1))
    choice = rng.integers(0, 12, (count, 1))
    picked = [choice < 4, choice < 7, choice == 7, choice == 8, choice == 9, choice == 10]
    values = np.select(picked, [line, growth, bend, logistic, ended, root], np.abs(line) + 1)
    step = np.abs(np.diff(values, axis=1)).mean(axis=1, keepdims=True)
    noise = 10 ** rng.uniform(-2.5, 1.0, (count, 1)) * _one_of(rng, [0, 1, 1, 1], count) * draw_noise(rng, count, steps)
    values = np.where((choice >= 4) & (choice < 7), _varied(values, 0.1 * noise), values + step * noise)
    season = draw_seasonal(rng, count, steps, m, longer) * _one_of(rng, [0, 1, 1], count)
    added = values + season * step * 10 ** rng.uniform(-0.5, 1.5, (count, 1))
    size = rng.uniform(0.02, 0.5, (count, 1))
    multiplied = values * np.exp(np.clip(season * size, -3, 3))
    seasonal: Floats = np.where((choice < 4) & (rng.random((count, 1)) < 0.7), added, multiplied)
    return seasonal


def rules(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Few values by a simple rule, exact or nearly: lines, growth by a factor, squares, alternation, a step."""
    t = np.arange(steps, dtype=float)
    choice = rng.integers(0, 10, (count, 1))
    line = rng.normal(0, 10, (count, 1)) + rng.normal(0, 3, (count, 1)) * t
    rate = rng.choice([-1, 1], (count, 1)) * 10 ** rng.uniform(-1.7, 0, (count, 1))
    growth = 10 ** rng.uniform(-1, 3, (count, 1)) * np.exp(np.clip(rate, -40 / steps, 40 / steps) * t)
    square = rng.normal(0, 5, (count, 1)) + rng.normal(0, 1, (count, 1)) * t + rng.normal(0, 0.5, (count, 1)) * t**2
    by_turns = rng.normal(0, 5, (count, 1)) + rng.normal(0, 3, (count, 1)) * (-1) ** t
    level = rng.normal(0, 10, (count, 1)) + (t >= rng.integers(1, steps, (count, 1))) * rng.normal(0, 10, (count, 1))
    values = np.select([choice < 4, choice < 7, choice < 8, choice < 9], [line, growth, square, by_turns], level)
    step = np.abs(np.diff(values, axis=1)).mean(axis=1, keepdims=True)
    noise = 10 ** rng.uniform(-3, -0.3, (count, 1)) * _one_of(rng, [0, 1, 1], count) * rng.normal(size=values.shape)
    varied = np.where((choice >= 4) & (choice < 7), _varied(values, 0.3 * noise), values + step * noise)
    ruled: Floats = np.where(choice < 9, varied, values)
    return ruled


def accidents(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """A level, perhaps with a season, with values far off, shifts of the level, and stretches of one value."""
    base = draw_seasonal(rng, count, steps, m, longer) * _one_of(rng, [0, 0, 1, 3], count)
    values = base + draw_noise(rng, count, steps) * 10 ** rng.uniform(-2, 0, (count, 1))
    rare = 10 ** rng.uniform(-2.3, -0.9, (count, 1))
    off = rng.random((count, steps)) < rare
    values += off * rng.normal(0, 1, (count, steps)) * 10 ** rng.uniform(0.3, 2, (count, 1))
    shifts = (rng.random((count, steps)) < 1.5 / steps) * rng.normal(0, 10, (count, steps))
    values += np.where(rng.random((count, 1)) < 0.5, shifts.cumsum(axis=1), 0.0)
    return values * 10 ** rng.uniform(-1, 2, (count, 1)) + rng.normal(0, 1, (count, 1)) * 10 ** rng.uniform(0, 3)


def regimes(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Seasonal autoregressions, whose level, noise and memory switch now and then."""
    switch = (rng.random((count, steps)) < rng.uniform(0, 4, (count, 1)) / steps).cumsum(axis=1) % 2
    rho = np.where(switch > 0, rng.uniform(-0.5, 0.95, (count, 1)), rng.uniform(0.2, 0.99, (count, 1)))
    seasonal = rng.uniform(0.3, 0.98, (count, 1)) if m > 1 else np.zeros((count, 1))
    noise = rng.normal(size=(count, steps)) * np.where(switch > 0, rng.uniform(0.2, 3, (count, 1)), 1.0)
    values = np.zeros((count, steps))
    start = draw_profile(rng, count, m) * 3 if m > 1 else np.zeros((count, 1))
    values[:, : min(m, steps)] = start[:, :steps]
    for t in range(1, steps):
        before = values[:, t - m] if m > 1 and t >= m else start[:, t % max(1, m)]
        earlier = values[:, t - m - 1] if m > 1 and t > m else start[:, (t - 1) % max(1, m)]
        memory = rho[:, t] * (values[:, t - 1] - seasonal[:, 0] * earlier)
        values[:, t] = seasonal[:, 0] * before + memory + noise[:, t]
    return values + switch * rng.normal(0, 3, (count, 1)) + rng.normal(0, 10, (count, 1))


def intermittent(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Demand that often is none: its chance and its size with a season, a trend, or pulses at a period."""
    t = np.arange(steps)
    strength = draw_seasonal(rng, count, steps, m, longer) * _one_of(rng, [0, 1, 2], count)
    chance = 1 / (1 + np.exp(-(strength + rng.normal(-1, 1.2, (count, 1)) + rng.normal(0, 1, (count, 1)) * t / steps)))
    size = rng.negative_binomial(rng.uniform(0.5, 4), 0.3, (count, steps)) + 1
    demand = (rng.random((count, steps)) < chance) * size
    period = m if m > 1 else int(rng.integers(2, 20))
    pulses = ((t + rng.integers(0, period, (count, 1))) % period == 0) * np.round(rng.gamma(3, 5, (count, 1)))
    choice = rng.random((count, 1))
    return np.where(choice < 0.2, pulses + demand * (rng.random((count, 1)) < 0.3), demand).astype(np.float64)


def drifts(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """What an economy's figures do: steps with a mean of every strength and some memory, of the value or of its
    logarithm; the mean may change once; perhaps a season."""
    memory = np.where(rng.random((count, 1)) < 0.5, rng.uniform(-0.3, 0.85, (count, 1)), 0.0)
    shocks = draw_noise(rng, count, steps)
    moves = np.zeros((count, steps))
    for t in range(steps):
        moves[:, t] = memory[:, 0] * (moves[:, t - 1] if t else 0.0) + shocks[:, t]
    moves *= np.sqrt(1 - memory**2)
    mean = rng.choice([-1, 1, 1], (count, 1)) * 10 ** rng.uniform(-1.5, 0.7, (count, 1))
    changed = (np.arange(steps) > rng.integers(0, steps, (count, 1))) & (rng.random((count, 1)) < 0.3)
    walk = (moves + np.where(changed, mean * rng.normal(0.3, 0.7, (count, 1)), mean)).cumsum(axis=1)
    season = draw_seasonal(rng, count, steps, m, longer) * 10 ** rng.uniform(-0.5, 0.8, (count, 1))
    walk += season * _one_of(rng, [0, 1], count)
    size = 10 ** rng.uniform(-3, -0.7, (count, 1))
    grown = 100 * np.exp(np.clip(size * walk, -25, 25))
    drifting: Floats = np.where(rng.random((count, 1)) < 0.5, grown, walk + rng.normal(0, 30, (count, 1)))
    return drifting


SHARES = {
    drifts: 0.22,
    waves: 0.19,
    stable_profiles: 0.15,
    trends: 0.18,
    rules: 0.08,
    accidents: 0.08,
    regimes: 0.05,
    intermittent: 0.05,
}
LASTING = (stable_profiles, accidents, intermittent)
"""Generators of series that are nearly all season: until it was seen once, nobody can know what comes."""
SHORT = {rules: 4.0, trends: 1.5, regimes: 0.5}
"""Factors of the shares among short series."""
YEARS = {stable_profiles: 4.0}
"""Factors of the shares among series that hold two years of days."""


def sample_patterns(rng: np.random.Generator, count: int, steps: int) -> list[SyntheticSeries]:
    """About `count` series of `steps` values, each with the season that a caller would tell."""
    series: list[SyntheticSeries] = []
    factors = SHORT if steps < 50 else YEARS if steps > 2 * 365 else {}
    shares = {generator: share * factors.get(generator, 1.0) for generator, share in SHARES.items()}
    for generator, share in shares.items():
        remaining = max(1, round(share / sum(shares.values()) * count))
        while remaining > 0:
            batch = min(remaining, 32)
            m, longer = draw_season(rng, steps)
            if generator is stable_profiles and (m == 1 or (steps > 2 * 365 and rng.random() < 0.7)):
                m, longer = 7, 1
            if generator is waves:
                m, longer = int(np.exp(rng.uniform(np.log(3), np.log(max(6.0, steps / 1.6))))), 1
            pattern = m if generator is waves or generator in LASTING else 1
            hint = (1, 1) if generator is waves else (m, longer)
            if generator in (rules, trends) and steps < 50 and rng.random() < 0.5:
                hint = (int(rng.choice([1, 4, 7, 12, 24])), 1)  # a short line may have any frequency
            for row in generator(rng, batch, steps, m, longer):
                if np.isfinite(row).all() and np.ptp(row) > 0:
                    series.append(SyntheticSeries(row, *hint, pattern))
            remaining -= batch
    return series
