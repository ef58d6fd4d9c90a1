"""Makes control charts of the six classic patterns, for the model `control-charts`.

`python -m training.data.control_charts > control-charts.jsonl` writes labelled charts as JSON lines.
"""

import json
import sys

import numpy as np
from numpy.typing import NDArray

PATTERNS = ("normal", "cyclic", "rising", "falling", "shift up", "shift down")
"""What the charts of a process show (Western Electric, "Statistical Quality Control Handbook", 1956); as a benchmark of
classifiers: Alcock and Manolopoulos, "Time-series similarity queries employing a feature-based approach" (1999)."""


def chart(pattern: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """A chart (T,) of this pattern, 12 to 80 values in standard deviations of the process from its usual mean.

    A cycle deviates by 1 to 3 standard deviations and repeats after 8 to 16 values. A trend begins in the first half
    and moves by 0.1 to 0.3 a value. A shift, in the middle half, is of 1.5 to 3.
    """
    steps = int(rng.integers(12, 81))
    t = np.arange(steps)
    values = rng.normal(size=steps)
    if pattern == "cyclic":
        values += rng.uniform(1, 3) * np.sin(2 * np.pi * (t / rng.uniform(8, 16) + rng.random()))
    elif pattern in ("rising", "falling"):
        sign = 1 if pattern == "rising" else -1
        values += sign * rng.uniform(0.1, 0.3) * np.maximum(0, t - rng.integers(steps // 2))
    elif pattern in ("shift up", "shift down"):
        sign = 1 if pattern == "shift up" else -1
        values += sign * rng.uniform(1.5, 3) * (t >= rng.integers(steps // 4, 3 * steps // 4))
    return values


def main(count: int = 1000, seed: int = 1) -> None:
    """Write `count` charts of each pattern to standard output."""
    rng = np.random.default_rng(seed)
    for pattern in PATTERNS * count:
        line = {"label": pattern, "series": [round(float(value), 3) for value in chart(pattern, rng)]}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
