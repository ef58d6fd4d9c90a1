"""Batches of windows with targets after some of their steps, from real and synthetic series."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carry.files import Series
from training.data.forking_batches import (
    BUCKETS,
    KINDS,
    Bucket,
    EndsStream,
    ForkingStream,
    TrainingWindow,
    fork,
    kind_of,
    longer_season,
)
from training.data.synthetic import SEASONS, sample_series


def counting(steps: int, features: int = 1, season: int = 1) -> Series:
    """0, 1, 2, ...; further features are ten, twenty times as much."""
    values = np.arange(steps, dtype=float)[:, None] * np.array([1.0, 10.0, 20.0])[:features]
    return Series("counting", values, None, season)


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(4, 60), min_size=1, max_size=8))
def test_targets_are_the_values_so_many_steps_after_each_fork(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    windows = [TrainingWindow.of(counting(size, features=3)) for size in sizes]
    distances = np.array([1, 3, 7])
    batch = fork(windows, Bucket(32, len(windows), 5, 7), distances, [2], rng, hidden=0.2)
    values, mask, ahead, ahead_mask, steps, asked_distances, targets, weight, future, future_mask, scale, season = (
        tensor.numpy() for tensor in batch.arguments
    )
    counts = weight > 0
    assert np.array_equal(asked_distances, distances)
    assert np.array_equal(targets[counts], (steps[..., None] + distances)[counts])
    assert np.array_equal(future[..., 0][counts], 20 * targets[counts])
    assert (future_mask[..., 0][counts] == 1).all()
    assert batch.weight == counts.sum()
    assert np.array_equal(values[..., 0], mask[..., 0] * np.arange(32))
    assert np.array_equal(ahead[..., 0], 20.0 * np.arange(1, 33) * ahead_mask[..., 0])
    for row, size in enumerate(sizes):
        assert not counts[row][(steps[row][:, None] + distances) >= size].any()
        assert not mask[row, size:].any()
    assert (scale == 1.0).all()
    assert (season == 1).all()


@given(seed=st.integers(0, 2**32), moves=st.floats(0.0, 4.0))
def test_errors_are_measured_in_the_changes_before_the_forecast(seed: int, moves: float) -> None:
    # If what comes counted, moves that are large would count less, and forecasts would stay where the series is.
    rng = np.random.default_rng(seed)
    walk = rng.choice([-1.0, 1.0], 108).cumsum().astype(np.float64)
    then = walk.copy()
    then[100:] = walk[99] + moves * (walk[100:] - walk[99])
    windows = [TrainingWindow.of(Series("walk", values[:, None])) for values in (walk, then)]
    scales = [fork([window], Bucket(100, 1, 1, 8), np.arange(1, 9)).arguments[10].numpy() for window in windows]
    assert np.allclose(scales[1], scales[0], rtol=0.02)


def test_growth_by_a_factor_is_measured_in_its_last_changes() -> None:
    doubled = TrainingWindow.of(Series("doubled", np.exp2(np.arange(40.0))[:, None]))
    [scale] = fork([doubled], Bucket(20, 1, 1, 20), np.arange(1, 21)).arguments[10].numpy()
    assert (2.0 ** np.arange(20, 40) / scale[0] < 5 * 40).all()


def test_the_first_values_and_features_known_ahead_are_never_hidden() -> None:
    windows = [TrainingWindow.of(counting(40, features=3)) for _ in range(50)]
    batch = fork(windows, Bucket(32, 50, 5, 7), np.array([1]), [2], np.random.default_rng(0), hidden=0.5)
    mask = batch.arguments[1].numpy()
    assert mask[:, :2, 0].all()
    assert 0.3 < mask[:, 2:, 0].mean() < 0.6
    assert mask[..., 2].all()


def test_features_of_which_the_future_is_unknown_end_early_in_some_windows() -> None:
    """As they do where a forecast goes on from a forecast."""
    windows = [TrainingWindow.of(counting(40, features=2)) for _ in range(200)]
    batch = fork(windows, Bucket(32, 200, 5, 7), np.array([1]), [], np.random.default_rng(0))
    mask = batch.arguments[1].numpy()[..., 1]
    assert (np.diff(mask, axis=1) <= 0).all()
    assert 0.05 < (mask[:, -1] == 0).mean() < 0.3


def test_a_validation_pass_asks_for_the_ends_and_hides_nothing() -> None:
    series = [counting(size) for size in (30, 12, 50, 20)]
    [batch] = EndsStream(series, horizon=5).batches(None)
    values, mask, _, _, steps, _, targets, weight, *_ = (tensor.numpy() for tensor in batch.arguments)
    assert steps.ravel().tolist() == [6, 14, 24, 44]
    assert np.array_equal(targets[:, 0], steps + np.arange(1, 6))
    assert (weight > 0).all()
    assert np.array_equal(
        values[:, :12, 0][mask[:, :12, 0] > 0], np.tile(np.arange(12.0), 4)[mask[:, :12, 0].ravel() > 0]
    )


def test_constant_series_do_not_count() -> None:
    still = Series("still", np.full((30, 1), 5.0))
    batch = fork([TrainingWindow.of(still)], Bucket(20, 1, 4, 3), np.array([1, 2]), [], np.random.default_rng(0))
    assert batch.weight == 0


@pytest.mark.parametrize("synthetic", [None, 0.5, 1.0])
def test_an_epoch_is_the_same_for_the_same_seed_only(synthetic: float | None) -> None:
    series = [counting(size, season=12) for size in (40, 80, 200)] if synthetic != 1.0 else []
    stream = ForkingStream(series, 3, [Bucket(30, 8, 3, 6)], synthetic=synthetic)
    first, again, other = (list(stream.batches(np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert len(first) == 3
    for one, two in zip(first, again, strict=True):
        assert all(a.equal(b) for a, b in zip(one.arguments, two.arguments, strict=True))
    assert not all(
        a.shape == b.shape and a.equal(b) for a, b in zip(first[0].arguments, other[0].arguments, strict=True)
    )


def test_every_bucket_gives_finite_batches_of_real_and_synthetic_series() -> None:
    rng = np.random.default_rng(5)
    series = [
        Series(f"{m}", 100 + rng.normal(size=(1500, 1)).cumsum(axis=0), None, m) for m in (1, 4, 7, 12, 24, 48, 52)
    ]
    series[3].values[100:110] = np.nan
    for batch in ForkingStream(series, 12, BUCKETS, synthetic=0.4).batches(rng):
        assert all(tensor.isfinite().all() for tensor in batch.arguments if tensor.is_floating_point())
        assert batch.weight > 0
        assert (batch.arguments[-2] > 0).all()


def test_kinds_and_longer_seasons() -> None:
    assert [kind_of(m) for m in (1, 2, 4, 5, 7, 12, 24, 48, 52, 288)] == [1, 4, 4, 7, 7, 12, 24, 24, 52, 24]
    assert set(map(kind_of, range(1, 400))) <= set(KINDS)
    assert [longer_season(m) for m in (1, 12, 24, 48)] == [1, 1, 168, 336]


@given(seed=st.integers(0, 2**32), steps=st.integers(60, 500))
def test_synthetic_series_are_finite_and_of_known_seasons(seed: int, steps: int) -> None:
    sampled = sample_series(np.random.default_rng(seed), 12, steps)
    assert len(sampled) >= 6
    for series in sampled:
        assert series.values.shape == (steps,)
        assert np.isfinite(series.values).all()
        assert series.values.std() > 0
        assert 1 <= series.season <= steps // 3 or series.season < 4
        assert series.longer == 1 or (series.season, series.longer) in SEASONS
