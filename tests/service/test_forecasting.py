"""Between the graph and the answer: quantiles between levels, chunks, unrolling."""

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.runner import Runner
from service.engine.scheduler import Scheduler
from service.forecasting import Forecast, ForecastRequest, begin, forecast, interpolate
from service.manifest import ForecastManifest, read_manifest
from service.metrics import Metrics
from service.paths import PATHS, draw, pool
from tests.builders import open_scheduler, run
from tests.conftest import SHIPPED

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


def open_graph(folder: Path) -> tuple[ForecastManifest, Runner]:
    """The newest version's."""
    newest = max(folder.glob("[0-9]*"), key=lambda path: int(path.name))
    manifest = read_manifest(newest)
    assert isinstance(manifest, ForecastManifest)
    return manifest, Runner(newest, manifest.graph, threads=1)


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


def test_beyond_its_horizon_the_intervals_of_a_random_walk_do_not_shrink() -> None:
    """Of the shipped model, to ten times its horizon."""
    manifest, runner = open_graph(SHIPPED / "forecast")
    horizon, rng = manifest.horizon, np.random.default_rng(0)
    widths = []
    for _ in range(12):
        values = rng.normal(size=(150, 1)).cumsum(axis=0)
        request = ForecastRequest(values, 10 * horizon, (0.1, 0.9))
        start = begin(manifest, values[:, 0], (1,))
        scheduler = Scheduler(runner, None, False, Metrics().engine("test"))
        widths.append(np.diff(run(scheduler, forecast(manifest, request, start)).quantiles).reshape(10, horizon))
    of_blocks = np.median(widths, axis=0).mean(axis=1)
    assert (of_blocks[1:] >= 0.9 * of_blocks[:-1]).all()
    assert of_blocks[-1] > 1.5 * of_blocks[0]


@given(seed=st.integers(0, 2**32), block=st.integers(1, 9))
def test_paths_spread_as_the_quantiles_that_they_are_drawn_through(seed: int, block: int) -> None:
    """Normal ones: the mean and the deviation of the paths are theirs at every step."""
    rng = np.random.default_rng(seed)
    median, deviation = rng.normal(size=20), 1 + rng.random(20).cumsum()
    quantiles = median[:, None] + deviation[:, None] * NormalDist().inv_cdf(0.9) * np.array([-1, 0, 1])
    each = np.broadcast_to(quantiles, (PATHS, 20, 3))
    paths = draw(each, (0.1, 0.5, 0.9), block)
    np.testing.assert_allclose(paths.mean(axis=0), median, atol=1e-9)
    np.testing.assert_allclose(paths.std(axis=0), deviation, rtol=0.35)  # none goes further than two deviations
    np.testing.assert_allclose(pool(each, (0.1, 0.5, 0.9)), quantiles, atol=0.2 * deviation.max())
    assert np.array_equal(paths, draw(each, (0.1, 0.5, 0.9), block))


@given(seed=st.integers(0, 2**32))
def test_pooled_quantiles_ascend_and_lie_among_those_pooled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    each = np.sort(rng.normal(size=(PATHS, 5, 3)) ** 3 * 10.0 ** rng.integers(-9, 12), axis=2)
    pooled = pool(each, (0.2, 0.5, 0.8))
    assert (np.diff(pooled) >= 0).all()
    assert (each[..., 0].min(axis=0) <= pooled[:, 1]).all()
    assert (pooled[:, 1] <= each[..., 2].max(axis=0)).all()
