"""Samples series from formulas: to train on beside real ones, and for the two textbook exercises `sine` and `walk`.

`python -m training.data.synthetic sine > sine.csv` writes an exercise's data as a wide CSV file.
"""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEASONS = (
    (1, 1),
    (4, 1),
    (5, 1),
    (7, 1),
    (12, 1),
    (24, 1),
    (24, 168),
    (48, 1),
    (48, 336),
    (52, 1),
    (96, 1),
    (144, 1),
    (288, 1),
)
"""Values per season and per longer season, 1 = none: of quarters, weekdays, days, months, hours, weeks..."""


@dataclass(frozen=True)
class SyntheticSeries:
    """A series from a formula: values (T,), values per season and per longer season (1: none), and how many values show
    its pattern once (1: it has none)."""

    values: Floats
    season: int
    longer: int
    pattern: int


def sample_series(rng: np.random.Generator, count: int, steps: int) -> list[SyntheticSeries]:
    """About `count` series of `steps` values from six generators, each with the season that a caller would tell."""
    shares = {
        _exponential_smoothing: 0.35,
        _structural: 0.25,
        _gaussian_process: 0.2,
        _walks: 0.1,
        _counts: 0.05,
        _waves: 0.05,
    }
    series: list[SyntheticSeries] = []
    for generator, share in shares.items():
        remaining = max(1, round(share * count))
        while remaining > 0:
            # A batch of series has one season: they are computed side by side.
            batch = min(remaining, 32)
            m, longer = draw_season(rng, steps)
            for row in generator(rng, batch, steps, m, longer):
                if np.isfinite(row).all() and np.ptp(row) > 0:
                    series.append(SyntheticSeries(row, m, longer, 1 if generator is _walks else m))
            remaining -= batch
    return series


def draw_season(rng: np.random.Generator, steps: int) -> tuple[int, int]:
    """Values per season and per longer season: one that `steps` values hold a few times."""
    known = [(m, longer) for m, longer in SEASONS if 3 * m <= steps and (longer == 1 or 2 * longer <= steps)]
    weights = np.array([3.0 if m in (1, 4, 12) and steps < 250 else 1.0 for m, _ in known])
    m, longer = known[rng.choice(len(known), p=weights / weights.sum())]
    if rng.random() < 0.1:
        m, longer = int(rng.integers(2, max(3, steps // 4))), 1
    return m, longer


def _column(rng: np.random.Generator, low: float, high: float, count: int) -> Floats:
    return rng.uniform(low, high, (count, 1))


def draw_profile(rng: np.random.Generator, count: int, m: int) -> Floats:
    """A season's shape (count, m) of mean 0 and about size 1: a few harmonics, or any numbers, or a few peaks."""
    t = np.arange(m)
    harmonics = np.arange(1, min(6, max(2, m // 2 + 1)))
    sizes = rng.normal(size=(count, len(harmonics))) / harmonics ** rng.uniform(0, 1.5, (count, 1))
    phases = rng.uniform(0, 2 * np.pi, (count, len(harmonics)))
    smooth = (sizes[..., None] * np.sin(2 * np.pi * t * harmonics[:, None] / m + phases[..., None])).sum(axis=1)
    rough = rng.normal(size=(count, m))
    peaks = rng.normal(size=(count, m)) * (rng.random((count, m)) < max(0.1, 1.5 / m)) * 3
    shape = np.where(rng.random((count, 1)) < 0.5, smooth, np.where(rng.random((count, 1)) < 0.7, rough, peaks))
    shape = shape - shape.mean(axis=1, keepdims=True)
    values: Floats = shape / (shape.std(axis=1, keepdims=True) + 1e-9)
    return values


def draw_seasonal(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """A season (count, steps) of about size 1, with the longer one on top; its size may drift."""
    t = np.arange(steps)
    if m == 1:
        return np.zeros((count, steps))
    values = draw_profile(rng, count, m)[:, t % m]
    if longer > 1:
        # Days differ as those of a week do: in level, and in the strength of the day's season.
        days = draw_profile(rng, count, max(2, longer // m))[:, (t // m) % max(2, longer // m)]
        values = values * (1 + _column(rng, 0, 0.6, count) * days) + _column(rng, 0, 1.0, count) * days
    drift = np.exp((_column(rng, 0, 0.03, count) * rng.normal(size=(count, steps))).cumsum(axis=1))
    drifting: Floats = np.where(rng.random((count, 1)) < 0.3, values * np.clip(drift, 0.2, 5), values)
    return drifting


def draw_noise(rng: np.random.Generator, count: int, steps: int) -> Floats:
    """White noise of size 1: normal, or with heavy tails; sometimes louder in stretches."""
    white = rng.normal(size=(count, steps))
    heavy = rng.standard_t(3.0, size=(count, steps)) / np.sqrt(3)
    values = np.where(rng.random((count, 1)) < 0.3, heavy, white)
    loud = np.exp(np.clip((0.1 * rng.normal(size=(count, steps))).cumsum(axis=1), -1.5, 1.5))
    return np.where(rng.random((count, 1)) < 0.15, values * loud, values)


def _exponential_smoothing(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Innovations state space models of random parameters: error and season added or multiplied, trend none, damped or
    straight (Hyndman, Koehler, Ord and Snyder, "Forecasting with Exponential Smoothing", 2008)."""
    alpha = rng.beta(1.2, 1.5, (count, 1))
    beta = alpha * rng.beta(1, 8, (count, 1))
    gamma = (1 - alpha) * rng.beta(1, 8, (count, 1))
    trending, multiplied = rng.random((count, 1)) < 0.6, rng.random((count, 1)) < 0.5
    damping = np.where(rng.random((count, 1)) < 0.5, rng.uniform(0.8, 0.98, (count, 1)), 1.0)
    level = np.ones((count, 1)) * _column(rng, 1, 10, count)
    slope = np.where(trending, rng.normal(0, 0.01, (count, 1)) * level, 0.0)
    size = 10 ** rng.uniform(-2.5, -0.7, (count, 1)) * level
    season = draw_profile(rng, count, m) * rng.uniform(0, 0.3, (count, 1)) * level if m > 1 else np.zeros((count, 1))
    noise = draw_noise(rng, count, steps)
    start = level.copy()
    values = np.empty((count, steps))
    for t in range(steps):
        place = season[:, t % m, None]
        strength = np.where(multiplied, np.clip(level / start, 0.05, 20.0), 1.0)
        error = size * strength * noise[:, t, None]
        base = level + damping * slope
        values[:, t] = (base + place * strength + error)[:, 0]
        level = base + alpha * error
        slope = np.where(trending, damping * slope + beta * error, 0.0)
        season[:, t % m, None] = place + gamma * error / strength
    return values


def _structural(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Trend, season and noise, added or multiplied; the trend in pieces, bent, saturating, or with sudden shifts."""
    t = np.arange(steps) / steps
    slopes = rng.normal(0, 1, (count, 1))
    bends = np.where(rng.random((count, steps)) < 2.0 / steps, rng.normal(0, 2, (count, steps)), 0.0).cumsum(axis=1)
    pieces = ((slopes + bends) / steps).cumsum(axis=1)
    curve = slopes * t + rng.normal(0, 1, (count, 1)) * t**2
    logistic = slopes * 3 / (1 + np.exp(-_column(rng, 4, 20, count) * (t - _column(rng, 0.1, 0.9, count))))
    shifts = np.where(rng.random((count, steps)) < 2.0 / steps, rng.normal(0, 1, (count, steps)), 0.0).cumsum(axis=1)
    choice = rng.integers(0, 5, (count, 1))
    trend = np.select([choice == 0, choice == 1, choice == 2, choice == 3], [pieces, curve, logistic, shifts], 0.0)
    season = draw_seasonal(rng, count, steps, m, longer) * rng.uniform(0, 1, (count, 1))
    smooth = 10 ** rng.uniform(-2, -0.3, (count, 1))
    noise = draw_noise(rng, count, steps) * smooth
    rho = np.where(rng.random((count, 1)) < 0.4, rng.uniform(0, 0.9, (count, 1)), 0.0)
    for i in range(1, steps):
        noise[:, i] += rho[:, 0] * noise[:, i - 1]
    trend = trend * rng.uniform(0, 2, (count, 1))
    added = trend + season + noise + rng.normal(0, 3, (count, 1))
    multiplied = np.exp(np.clip(trend, -4, 4)) * np.maximum(0.05, 1 + 0.4 * season) * np.exp(0.5 * noise)
    values: Floats = np.where(rng.random((count, 1)) < 0.5, multiplied, added)
    return values


def _gaussian_process(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Draws of a Gaussian process of random sums and products of kernels (KernelSynth, Ansari et al. 2024, Chronos)."""
    # Long ones are drawn coarsely and filled in between, beside an exact season.
    coarse = max(1, steps // 256)
    t = np.arange(0, steps, coarse, dtype=float)[:, None]
    apart = t - t.T

    def kernel() -> Floats:
        length = steps * 10 ** rng.uniform(-2, 0)
        match rng.integers(5):
            case 0:
                return np.exp(-0.5 * (apart / length) ** 2)
            case 1:  # rational quadratic
                return (1 + apart**2 / (2 * 0.5 * length**2)) ** -0.5
            case 2:
                return (t / steps) * (t.T / steps) + 0.1
            case 3:  # Ornstein-Uhlenbeck
                return np.exp(-np.abs(apart) / length)
            case _:
                period = m if m > 2 * coarse else length + 2 * coarse
                return np.exp(-2 * np.sin(np.pi * apart / period) ** 2 / rng.uniform(0.3, 2) ** 2)

    covariance: Floats = kernel()
    for _ in range(int(rng.integers(1, 4))):
        covariance = covariance + kernel() if rng.random() < 0.6 else covariance * kernel()
    covariance = covariance + 1e-6 * np.trace(covariance) / len(t) * np.eye(len(t))
    root = np.linalg.cholesky(covariance)
    drawn: Floats = (root @ rng.normal(size=(len(t), count))).T
    values = np.stack([np.interp(np.arange(steps), t[:, 0], row) for row in drawn]) if coarse > 1 else drawn
    if coarse > 1:
        values = values + draw_seasonal(rng, count, steps, m, longer) * rng.uniform(0, 1.5, (count, 1))
    noise = rng.normal(size=values.shape) * np.where(
        rng.random((count, 1)) < 0.5, 10 ** rng.uniform(-2, -0.3, (count, 1)), 0
    )
    values = values + noise * values.std(axis=1, keepdims=True)
    exponents = np.exp(np.clip(0.5 * values, -5, 5))
    drawn = np.where(rng.random((count, 1)) < 0.3, exponents, values + rng.normal(0, 3, (count, 1)))
    return drawn


def _walks(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Random walks and autoregressions, plain or as exponents, perhaps drifting, perhaps with a season."""
    noise = draw_noise(rng, count, steps) * rng.uniform(0.002, 0.1, (count, 1))
    rho = np.where(rng.random((count, 1)) < 0.6, 1.0, rng.uniform(0.7, 1.0, (count, 1)))
    moment = np.where(rng.random((count, 1)) < 0.3, rng.uniform(-0.4, 0.7, (count, 1)), 0.0)
    drift = np.where(
        rng.random((count, 1)) < 0.5, rng.normal(0, 0.1, (count, 1)) * noise.std(axis=1, keepdims=True), 0.0
    )
    values = np.empty((count, steps))
    value, step = np.zeros((count, 1)), np.zeros((count, 1))
    for t in range(steps):
        step = moment * step + noise[:, t, None]
        value = rho * value + step + drift
        values[:, t] = value[:, 0]
    weak = np.where(
        rng.random((count, 1)) < 0.3, rng.uniform(0, 0.3, (count, 1)) * values.std(axis=1, keepdims=True), 0.0
    )
    values = values + weak * draw_seasonal(rng, count, steps, m, longer)
    return np.where(rng.random((count, 1)) < 0.6, np.exp(np.clip(values, -6, 6)), values + rng.normal(0, 1, (count, 1)))


def _counts(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Whole numbers: a Poisson or negative binomial count of a rate with trend and season; often none at all."""
    rate = 10 ** rng.uniform(-0.5, 2, (count, 1)) * np.exp(
        0.5 * draw_seasonal(rng, count, steps, m, longer) * rng.uniform(0, 1, (count, 1))
        + rng.normal(0, 0.5, (count, 1)) * np.arange(steps) / steps
    )
    rate = rate * rng.gamma(5.0, 0.2, (count, steps))
    happens = rng.random((count, steps)) < np.where(
        rng.random((count, 1)) < 0.5, rng.uniform(0.1, 0.9, (count, 1)), 1.0
    )
    return rng.poisson(np.clip(rate, 0, 1e6)).astype(np.float64) * happens


def _waves(rng: np.random.Generator, count: int, steps: int, m: int, longer: int) -> Floats:
    """Machines: square waves, saw teeth, pulses and spikes, on and off, with little noise."""
    t = np.arange(steps)
    period = m if m > 2 else int(rng.integers(3, max(4, steps // 4)))
    phase = ((t + rng.integers(0, period, (count, 1))) % period) / period
    duty = _column(rng, 0.05, 0.95, count)
    choice = rng.integers(0, 4, (count, 1))
    shape = np.select(
        [choice == 0, choice == 1, choice == 2],
        [(phase < duty).astype(float), phase, np.maximum(0, 1 - np.abs(phase - 0.5) / duty)],
        np.sin(2 * np.pi * phase),
    )
    spikes = (rng.random((count, steps)) < 0.01) * rng.exponential(3, (count, steps))
    noise = draw_noise(rng, count, steps) * 10 ** rng.uniform(-3, -0.5, (count, 1))
    return shape + spikes * (rng.random((count, 1)) < 0.3) + noise + rng.normal(0, 2, (count, 1))


def sine() -> dict[str, NDArray[np.float64]]:
    """sin(0), sin(1), ... sin(71): the first 36 values to train on, the others to go on by itself for."""
    return {"sine": np.sin(np.arange(72.0))}


def walk(count: int = 500, steps: int = 120, seed: int = 5) -> dict[str, NDArray[np.float64]]:
    """Random walks with steps N(0, 0.1): the best forecast of the next value is the newest, its squared error 0.01."""
    walks = np.random.default_rng(seed).normal(0, 0.1, (count, steps)).cumsum(axis=1)
    return {f"walk{i}": row for i, row in enumerate(walks)}


def main(name: str) -> None:
    """Write one exercise's series to standard output."""
    columns = {"sine": sine, "walk": walk}[name]()
    lines = [",".join(columns), *(",".join(repr(float(v)) for v in row) for row in zip(*columns.values(), strict=True))]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
