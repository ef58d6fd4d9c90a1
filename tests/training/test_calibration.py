"""The factors by which intervals are widened."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.evaluation.calibration import MIN_WINDOWS, best_factors

NORMAL = np.array([[1.2816], [1.96]])
"""Half the width of the intervals of 80 and 95 %."""


def windows(rng: np.random.Generator, kind: int, count: int, narrow: float) -> list[tuple[int, NDArray[np.float64]]]:
    """The factors that windows of normal errors need, where the intervals are `narrow` times too narrow."""
    return [(kind, narrow * np.abs(rng.normal(size=18)) / NORMAL) for _ in range(count)]


@pytest.mark.parametrize("narrow", [0.8, 1.0, 1.5])
def test_a_factor_makes_the_intervals_hold_what_they_say(narrow: float) -> None:
    file = windows(np.random.default_rng(0), 12, 500, narrow)
    assert best_factors([file]) == {12: pytest.approx(narrow, abs=0.04)}


def test_files_count_alike_and_few_windows_of_a_kind_do_not() -> None:
    rng = np.random.default_rng(1)
    large, small = windows(rng, 4, 2000, 0.8), windows(rng, 4, 200, 1.6)
    assert best_factors([large])[4] + 0.2 < best_factors([large, small])[4] < best_factors([small])[4] - 0.2
    assert best_factors([windows(rng, 7, MIN_WINDOWS - 1, 1.0)]) == {}
