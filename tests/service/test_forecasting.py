"""Between the graph and the answer: quantiles between levels, chunks, unrolling."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduler import Scheduler
from service.forecasting import Forecast, ForecastRequest, forecast, interpolate
from service.manifest import ForecastManifest
from tests.builders import open_scheduler, run

LEVELS = st.lists(st.integers(1, 99), min_size=2, max_size=9, unique=True).map(lambda found: sorted(found))


@given(known=LEVELS, share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_quantiles_between_levels_ascend_and_lie_between_their_neighbours(
    known: list[int], share: float, seed: int
) -> None:
    levels = np.array(known) / 100
    quantiles = np.sort(np.random.default_rng(seed).normal(0, 1e3, (3, len(levels))), axis=1)
    wanted = levels[0] + share * (levels[-1] - levels[0])
    wanted = min(max(wanted, levels[0]), levels[-1])
    found = interpolate(quantiles, levels.tolist(), [levels[0], wanted, levels[-1]])
    assert (np.diff(found, axis=1) >= -1e-9).all()
    assert np.array_equal(found[:, [0, -1]], quantiles[:, [0, -1]])
    expected = [np.interp(wanted, levels, row) for row in quantiles]
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-9, atol=1e-9)


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


def answered(opened: Opened, request: ForecastRequest) -> Forecast:
    return run(opened[1], forecast(opened[0], request))


def test_a_history_longer_than_a_chunk_has_no_seam(opened: Opened) -> None:
    values = np.random.default_rng(1).normal(size=(1100, 1)).cumsum(axis=0)
    whole = answered(opened, ForecastRequest(values, 1, (0.5,), include_history=True)).history
    assert whole is not None
    assert np.isnan(whole[0]).all()
    assert len(whole) == 1100
    for at in (1, 511, 512, 513, 1024, 1099):
        alone = answered(opened, ForecastRequest(values[:at], 1, (0.5,))).median[0]
        assert whole[at, 0] == pytest.approx(alone, rel=1e-4, abs=1e-4)


def test_beyond_its_horizon_the_model_reads_each_quantiles_path(opened: Opened) -> None:
    """The second block, made again one path at a time."""
    manifest, _ = opened
    values = np.array([[1.0], [3.0], [2.0], [4.0], [3.5]])
    levels = manifest.quantile_levels
    found = answered(opened, ForecastRequest(values, 2 * manifest.horizon, levels)).quantiles
    first = found[: manifest.horizon]
    pooled = []
    for path in first.T:
        both = np.concatenate([values, path[:, None]])
        pooled.append(answered(opened, ForecastRequest(both, manifest.horizon, levels)).quantiles)
    expected = np.quantile(np.concatenate(pooled, axis=1), levels, axis=1).T
    np.testing.assert_allclose(found[manifest.horizon :], expected, rtol=1e-4, atol=1e-4)
