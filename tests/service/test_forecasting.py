"""Between the graph and the answer: quantiles at any level, chunks, horizons beyond the model's."""

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.engine.runner import Runner
from service.engine.scheduler import Scheduler
from service.forecast.intervals import Bounds, extrapolate_intervals, interpolate
from service.forecast.manifest import ForecastManifest
from service.forecast.task import Forecast, ForecastRequest, forecast, initial_state
from service.manifest import read_manifest
from service.metrics import Metrics
from tests.builders import open_scheduler, run
from tests.conftest import SHIPPED

LEVELS = st.lists(st.integers(1, 99), min_size=2, max_size=9, unique=True).map(sorted)


@given(known=LEVELS, share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_quantiles_between_levels_ascend_and_lie_between_their_neighbours(
    known: list[int], share: float, seed: int
) -> None:
    levels = np.array(known) / 100
    quantiles = np.sort(np.random.default_rng(seed).normal(0, 1e3, (3, len(levels))), axis=1)
    wanted = levels[0] + share * (levels[-1] - levels[0])
    wanted = min(max(wanted, levels[0]), levels[-1])
    interpolated = interpolate(quantiles, levels.tolist(), [levels[0], wanted, levels[-1]])
    assert (np.diff(interpolated, axis=1) >= 0).all()
    assert np.array_equal(interpolated[:, [0, -1]], quantiles[:, [0, -1]])
    expected = [np.interp(wanted, levels, row) for row in quantiles]
    np.testing.assert_allclose(interpolated[:, 1], expected, rtol=1e-9, atol=1e-9)


@given(known=LEVELS, seed=st.integers(0, 2**32))
def test_quantiles_beyond_the_models_levels_ascend_on(known: list[int], seed: int) -> None:
    levels = [level / 100 for level in known]
    quantiles = np.sort(np.random.default_rng(seed).normal(0, 1e3, (3, len(levels))).round(-3), axis=1)
    wanted = sorted({*levels, *(level / 1000 for level in range(1, 1000))})
    interpolated = interpolate(quantiles, levels, wanted)
    assert np.isfinite(interpolated).all()
    assert (np.diff(interpolated, axis=1) >= 0).all()
    assert np.array_equal(interpolated[:, [wanted.index(level) for level in levels]], quantiles)


@given(
    known=LEVELS,
    # As a request is read: levels of six digits, each once.
    wanted=st.sets(st.integers(1_000, 999_000), min_size=1, max_size=99),
    lower=st.floats(-2e3, 2e3),
    width=st.floats(1e-3, 4e3),
    seed=st.integers(0, 2**32),
)
def test_no_quantiles_cross_at_any_set_of_levels_clipped_or_not(
    known: list[int], wanted: set[int], lower: float, width: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    quantiles = np.sort(rng.normal(0, 10.0 ** rng.integers(-9, 4), (3, len(known))).round(3), axis=1)
    interpolated = interpolate(quantiles, [level / 100 for level in known], sorted(level / 1e6 for level in wanted))
    clipped = Bounds(lower, lower + width).clip(interpolated)
    for rows in (interpolated, clipped):
        assert np.isfinite(rows).all()
        assert (np.diff(rows, axis=1) >= 0).all()
    assert lower <= clipped.min() <= clipped.max() <= lower + width


def test_the_tails_of_a_laplace_distribution_are_its_own() -> None:
    def laplace(level: float) -> float:
        return 3 + 2 * (math.log(2 * level) if level < 0.5 else -math.log(2 - 2 * level))

    known, wanted = (0.02, 0.05, 0.5, 0.95, 0.99), (0.001, 0.01, 0.02, 0.995, 0.999)
    quantiles = interpolate(np.array([[laplace(level) for level in known]]), known, wanted)
    np.testing.assert_allclose(quantiles[0], [laplace(level) for level in wanted], rtol=1e-12)


@given(known=LEVELS, seed=st.integers(0, 2**32))
def test_the_models_own_levels_give_its_own_quantiles(known: list[int], seed: int) -> None:
    levels = [level / 100 for level in known]
    quantiles = np.sort(np.random.default_rng(seed).normal(size=(4, len(levels))), axis=1)
    assert np.array_equal(interpolate(quantiles, levels, levels), quantiles)


def test_a_model_of_the_median_alone_gives_the_median() -> None:
    assert interpolate(np.array([[3.0], [4.0]]), [0.5], [0.5]).tolist() == [[3.0], [4.0]]


Opened = tuple[ForecastManifest, Scheduler]


@pytest.fixture(scope="module")
def opened(models: Path) -> Opened:
    manifest, _, scheduler = open_scheduler(models / "forecast/1")
    assert isinstance(manifest, ForecastManifest)
    return manifest, scheduler


def open_graph(folder: Path) -> tuple[ForecastManifest, Runner]:
    """The manifest and the graph of a model's newest version."""
    newest = max(folder.glob("[0-9]*"), key=lambda path: int(path.name))
    manifest = read_manifest(newest, ForecastManifest)
    return manifest, Runner(newest, manifest.graph, threads=1)


def forecast_of(opened: Opened, request: ForecastRequest) -> Forecast:
    return run(opened[1], forecast(opened[0], request))


def test_a_history_longer_than_a_chunk_has_no_seam(opened: Opened) -> None:
    values = np.random.default_rng(1).normal(size=(1100, 1)).cumsum(axis=0)
    whole = forecast_of(opened, ForecastRequest(values, 1, (0.5,), include_history=True)).history
    assert whole is not None
    assert np.isnan(whole[0]).all()
    assert len(whole) == 1100
    for at in (1, 511, 512, 513, 1024, 1099):
        alone = forecast_of(opened, ForecastRequest(values[:at], 1, (0.5,))).median[0]
        assert whole[at, 0] == pytest.approx(alone, rel=1e-4, abs=1e-4)


def far_beyond(opened: tuple[ForecastManifest, Runner], values: NDArray[np.float64], season: int) -> Forecast:
    """A forecast ten times as long as the model's horizon, with intervals of 80 %."""
    manifest, runner = opened
    request = ForecastRequest(values[:, None], 10 * manifest.horizon, (0.1, 0.5, 0.9))
    scheduler = Scheduler(runner, None, False, Metrics().engine("test"))
    return run(scheduler, forecast(manifest, request, initial_state(manifest, (season,))))


def test_beyond_its_horizon_the_intervals_of_a_random_walk_grow_as_they_should() -> None:
    """With the shipped model. Perfect intervals are 4.4 times as wide in the tenth horizon as in the first."""
    opened, rng = open_graph(SHIPPED / "forecast"), np.random.default_rng(0)
    quantiles = [far_beyond(opened, rng.normal(size=150).cumsum(), 1).quantiles for _ in range(12)]
    widths = np.median([each[:, 2] - each[:, 0] for each in quantiles], axis=0).reshape(10, -1).mean(axis=1)
    assert (np.diff(widths) > 0).all()
    assert 3 * widths[0] < widths[-1] < 6 * widths[0]


def test_beyond_its_horizon_a_season_stays() -> None:
    """With the shipped model."""
    opened, steps = open_graph(SHIPPED / "forecast"), np.arange(120)
    season = 20 * np.sin(np.arange(12) / 12 * 2 * np.pi)
    median = far_beyond(opened, 300 + season[steps % 12] + np.random.default_rng(0).normal(size=120), 12).median
    last_year = median[-12:] - median[-12:].mean()
    months = (120 + len(median) - 12 + np.arange(12)) % 12
    np.testing.assert_allclose(last_year, season[months], atol=4)


DECILES = (0.1, 0.5, 0.9)


def normal_quantiles(deviation: NDArray[np.float64], median: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normal quantiles (H, 3)."""
    apart = deviation * NormalDist().inv_cdf(0.9)
    return np.stack([median - apart, median, median + apart], axis=1)


@pytest.mark.parametrize("horizon", [1, 2, 5, 48])
@pytest.mark.parametrize("noise", [0.0, 30.0])
def test_a_level_that_wanders_goes_on_wandering(horizon: int, noise: float) -> None:
    """Its variance grows along a straight line; one step alone shows no noise apart from it."""
    if horizon > 1 or not noise:
        deviation, still = np.sqrt(noise + np.arange(1, 500)), np.full(499, 7.0)
        head = normal_quantiles(deviation[:horizon], still[:horizon])
        quantiles = extrapolate_intervals(head, DECILES, still[horizon:], 1)
        np.testing.assert_allclose(quantiles, normal_quantiles(deviation, still)[horizon:], rtol=1e-9)


def test_the_intervals_of_a_season_keep_its_shape() -> None:
    season = 10 + 5 * np.sin(np.arange(480) / 12 * 2 * np.pi)
    quantiles = extrapolate_intervals(normal_quantiles(season[:48], season[:48]), DECILES, season[48:], 12)
    np.testing.assert_allclose(quantiles, normal_quantiles(season, season)[48:], rtol=1e-9)


def test_how_far_a_median_moves_on_is_a_deviation() -> None:
    head = normal_quantiles(np.ones(48), np.zeros(48))
    quantiles = extrapolate_intervals(head, DECILES, np.full(100, 3.0), 12)
    np.testing.assert_allclose(quantiles, normal_quantiles(np.full(100, np.sqrt(10)), np.full(100, 3.0)), rtol=1e-9)
    # If no season is known, the move may be one.
    for season in (None, 40):
        unknown = extrapolate_intervals(head, DECILES, np.full(100, 3.0), season)
        np.testing.assert_allclose(unknown, normal_quantiles(np.ones(100), np.full(100, 3.0)), rtol=1e-9)


@given(seed=st.integers(0, 2**32), horizon=st.integers(1, 30), season=st.none() | st.integers(1, 20))
def test_no_quantiles_cross_beyond_the_horizon(seed: int, horizon: int, season: int | None) -> None:
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.integers(-9, 13)
    # Some are equal to the last bit.
    head = np.sort(size + size * 10.0 ** -rng.integers(0, 17) * rng.normal(size=(horizon, 5)).round(1), axis=1)
    median = np.concatenate([head[:, 2], size * rng.normal(size=100)])[horizon:]
    quantiles = extrapolate_intervals(head, (0.05, 0.1, 0.5, 0.8, 0.99), median, season)
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles) >= 0).all()
    assert np.array_equal(quantiles[:, 2], median)


def test_quantiles_that_all_but_agree_do_not_cross_between_levels() -> None:
    """Such as those of a constant series."""
    levels, rng = (0.01, 0.1, 0.3, 0.5, 0.9), np.random.default_rng(0)
    wanted = tuple(np.linspace(0.01, 0.9, 200))
    for value in (1e12, 5.0, 1 / 3):
        quantiles = value + np.spacing(value) * rng.integers(0, 3, (50, 5)).cumsum(axis=1)
        assert (np.diff(interpolate(quantiles, levels, wanted)) >= 0).all()
