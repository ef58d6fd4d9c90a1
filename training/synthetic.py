"""Series made up by formula: to train on beside real ones, and for the two textbook exercises `sine` and `walk`.

`python -m training.synthetic sine > sine.csv` writes an exercise's data as a wide CSV file.
"""

import sys

import numpy as np
from numpy.typing import NDArray

from training.series_data import Series

SEASONS = (1, 4, 5, 7, 12, 24, 48)


def mixed(count: int, seed: int, longest: int = 400) -> list[Series]:
    """`count` series of trend, season, level shifts and noise, added or multiplied, of 30 to `longest` values.

    A generator in the spirit of the synthetic series of TimesFM (Das et al. 2024) and ForecastPFN (Dooley et al. 2023).
    """
    rng = np.random.default_rng(seed)
    return [Series(f"synthetic-{i}", _one(rng, int(rng.integers(30, longest)))[:, None]) for i in range(count)]


def _one(rng: np.random.Generator, steps: int) -> NDArray[np.float64]:
    t = np.arange(steps)
    level = np.zeros(steps)
    match rng.integers(4):
        case 0:  # a straight or bending trend
            level = rng.normal() * t / 50 + rng.normal() * 0.3 * (t / 100) ** 2
        case 1:  # a random walk, perhaps drifting
            level = (rng.normal(0, 0.05) + rng.normal(0, 0.2, steps)).cumsum()
        case 2:  # an autoregression around a constant
            level[0] = rng.normal()
            decay, shocks = rng.uniform(0.3, 0.98), rng.normal(0, 0.3, steps)
            for i in range(1, steps):
                level[i] = decay * level[i - 1] + shocks[i]
        case _:  # steps from one level to another
            level = np.where(rng.random(steps) < 0.01, rng.normal(0, 2, steps), 0).cumsum()
    season = np.zeros(steps)
    period = int(rng.choice(SEASONS))
    if period > 1:
        harmonics = np.arange(1, rng.integers(1, 5) + 1)
        phases = rng.uniform(0, 2 * np.pi, len(harmonics))
        sizes = rng.normal(0, 1, len(harmonics)) / harmonics
        season = (sizes * np.sin(2 * np.pi * t[:, None] * harmonics / period + phases)).sum(axis=1)
        if rng.random() < 0.3:  # any shape, not only smooth ones
            season = rng.normal(0, 1, period)[t % period]
        season *= rng.uniform(0.2, 2)
    noise = rng.normal(0, rng.choice([0.0, 0.05, 0.2, 0.5]), steps)
    if rng.random() < 0.4:
        series: NDArray[np.float64] = np.exp(np.clip(0.5 * level, -6, 6)) * (1 + 0.15 * (season + noise))
    else:
        series = level + season + noise
    if rng.random() < 0.5:
        series = series - series.min() + rng.exponential(1) * series.std()
    return series * 10 ** rng.uniform(-2, 4)


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
