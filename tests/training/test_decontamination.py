"""Which series are dropped from a training pool, and which are not."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from carry.files import Series
from training.data.decontamination import drop_overlaps
from training.evaluation.eval_windows import EvalWindow

Floats = NDArray[np.float64]


def noise(seed: int, steps: int) -> Floats:
    return np.random.default_rng(seed).normal(100, 10, steps)


def window(values: Floats, truth: int) -> EvalWindow:
    return EvalWindow("test", values[:-truth, None], values[-truth:])


def dropped(pool: list[Floats], tests: list[EvalWindow]) -> list[int]:
    series = [Series(str(i), values[:, None]) for i, values in enumerate(pool)]
    to_keep, to_drop = drop_overlaps(series, tests)
    assert sorted(s.id for s in to_keep + to_drop) == sorted(s.id for s in series)
    return [int(s.id) for s in to_drop]


@given(
    seed=st.integers(0, 1000),
    scale=st.floats(1e-3, 1e6),
    shift=st.floats(-1e3, 1e3),
    before=st.integers(0, 30),
    after=st.integers(0, 30),
    start=st.integers(0, 20),
)
def test_a_series_with_test_values_is_dropped_however_it_was_scaled(
    seed: int, scale: float, shift: float, before: int, after: int, start: int
) -> None:
    values = noise(seed, 40)
    copy = np.concatenate([noise(seed + 1, before), scale * (values[start:] + shift), noise(seed + 2, after)])
    assert dropped([noise(seed + 3, 50), copy], [window(values, 6)]) == [1]


@given(seed=st.integers(0, 1000), steps=st.integers(10, 80))
def test_the_train_part_of_a_benchmark_stays(seed: int, steps: int) -> None:
    values = noise(seed, steps)
    assert dropped([values[:-6], noise(seed + 1, 300)], [window(values, 6)]) == []


def test_runs_without_information_match_nothing() -> None:
    rng = np.random.default_rng(1)
    constant, line, counts = np.full(60, 3.0), np.arange(60.0), rng.integers(0, 3, 60).astype(float)
    steps = np.repeat([1.0, 5.0], 30)
    pool = [constant, line, counts, steps, rng.integers(0, 3, 5000).astype(float)]
    assert dropped(pool, [window(values, 12) for values in (constant, line, counts, steps)]) == []


def test_gaps_break_runs_and_other_columns_count() -> None:
    values = noise(0, 40)
    broken = values[-13:].copy()
    broken[[3, 9]] = np.nan
    assert dropped([broken, np.array([1.0, np.nan]), np.empty(0)], [window(values, 6)]) == []
    beside = Series("two", np.column_stack([noise(1, 40), values]))
    assert drop_overlaps([beside], [window(values, 6)]) == ([], [beside])
    assert drop_overlaps([beside], []) == ([beside], [])
    assert drop_overlaps([], [window(values, 6)]) == ([], [])
