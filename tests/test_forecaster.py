"""Properties of any forecaster, whatever it was trained on: of one with random weights, and of the shipped one."""

import math
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.engine.scheduler import Scheduler
from service.forecast.manifest import ForecastManifest
from service.forecast.task import Forecast, ForecastRequest, forecast, initial_state
from tests.builders import forecaster, open_scheduler, run, write_model
from tests.conftest import SHIPPED
from training.onnx.layers import Precision

MODELS: list[tuple[str, Precision]] = [
    ("random", "float32"),
    ("random", "int8"),
    ("shipped", "float32"),
    ("shipped", "int8"),
]
SEASONS = [(1,), (4,), (12,), (7,), (24, 168)]


@cache
def opened(name: str, precision: Precision) -> tuple[ForecastManifest, Scheduler]:
    if name == "shipped":
        folder = max((SHIPPED / "forecast").glob("[0-9]*"), key=lambda path: int(path.name))
    else:
        folder = write_model(forecaster(horizon=12), Path(mkdtemp()), "random")
    manifest, _, scheduler = open_scheduler(folder, precision)
    assert isinstance(manifest, ForecastManifest)
    return manifest, scheduler


def forecast_of(
    model: tuple[str, Precision], values: NDArray[np.float64], season: tuple[int, ...], horizon: int = 12
) -> Forecast:
    manifest, scheduler = opened(*model)
    request = ForecastRequest(values[:, None], horizon, manifest.quantile_levels, include_history=True)
    return run(scheduler, forecast(manifest, request, initial_state(manifest, season)))


def a_series(seed: int, steps: int, season: int) -> NDArray[np.float64]:
    """A walk with a season, around 50."""
    rng = np.random.default_rng(seed)
    walk = 50 + rng.normal(0, 0.5, steps).cumsum()
    values: NDArray[np.float64] = (
        walk + 3 * np.sin(2 * math.pi * np.arange(steps) / max(2, season)) + rng.normal(0, 0.3, steps)
    )
    return values


series = given(seed=st.integers(0, 2**32), steps=st.integers(3, 150), season=st.sampled_from(SEASONS))


@pytest.mark.parametrize("model", MODELS, ids="-".join)
@series
def test_another_unit_gives_the_same_forecast_in_that_unit(
    model: tuple[str, Precision], seed: int, steps: int, season: tuple[int, ...]
) -> None:
    values = a_series(seed, steps, season[0])
    plain, thousandfold = (forecast_of(model, values * unit, season) for unit in (1.0, 1000.0))
    # In int8, here and below, a number between two whole numbers may round either way.
    tolerance = 1e-3 if model[1] == "float32" else 2e-2
    np.testing.assert_allclose(thousandfold.quantiles, 1000 * plain.quantiles, rtol=tolerance)


@pytest.mark.parametrize("model", MODELS, ids="-".join)
@series
def test_a_constant_added_far_from_zero_is_added_to_the_forecast(
    model: tuple[str, Precision], seed: int, steps: int, season: tuple[int, ...]
) -> None:
    values = a_series(seed, max(steps, 12), season[0]) + 1e5
    low, high = (forecast_of(model, values + constant, season) for constant in (0.0, 1e5))
    spread = values.max() - values.min()
    tolerance = 0.1 if model[1] == "float32" else 0.3
    np.testing.assert_allclose(high.quantiles - 1e5, low.quantiles, rtol=0, atol=tolerance * spread)


@pytest.mark.parametrize("model", MODELS, ids="-".join)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 120),
    season=st.sampled_from(SEASONS),
    gaps=st.floats(0, 0.9),
    size=st.floats(-9, 12),
    horizon=st.integers(1, 120),
)
def test_quantiles_never_cross_and_a_missing_value_never_makes_nan(
    model: tuple[str, Precision], seed: int, steps: int, season: tuple[int, ...], gaps: float, size: float, horizon: int
) -> None:
    values = a_series(seed, steps, season[0]) * 10**size
    hidden = np.random.default_rng(seed).random(steps) < gaps
    hidden[0] = False
    result = forecast_of(model, np.where(hidden, np.nan, values), season, horizon)
    assert np.isfinite(result.quantiles).all()
    assert (np.diff(result.quantiles, axis=1) >= 0).all()
    assert result.history is not None
    assert np.isfinite(result.history[1:]).all()
    assert (np.diff(result.history[1:], axis=1) >= 0).all()


@pytest.mark.parametrize("model", MODELS, ids="-".join)
@pytest.mark.parametrize("still", [0.0, 5.1, -1e9])
@given(change=st.floats(1e-3, 1e9), cut=st.integers(1, 39))
def test_a_change_after_a_long_standstill_may_be_sent_alone(
    model: tuple[str, Precision], still: float, change: float, cut: int
) -> None:
    """Later values do not change earlier results, not even by rounding."""
    manifest, scheduler = opened(*model)
    values = np.concatenate([np.full(30, still), still + np.linspace(0.1, 1, 10) * change])
    whole = forecast_of(model, values, (12,))
    state = initial_state(manifest, (12,))
    parts = []
    for piece in (values[:cut], values[cut:]):
        request = ForecastRequest(piece[:, None], 12, manifest.quantile_levels, include_history=True)
        result = run(scheduler, forecast(manifest, request, state))
        state = result.after
        assert result.history is not None
        parts.append(result.history)
    assert whole.history is not None
    spread = whole.quantiles[:, -1] - whole.quantiles[:, 0]
    share = 1e-4 if model[1] == "float32" else 0.1
    # Where the level is a trillion times the change, doubles have four digits for the change.
    rounding = 1e-14 * np.abs(values).max()
    assert (np.abs(result.quantiles - whole.quantiles) <= share * spread[:, None] + rounding).all()
    width = np.nanmax(whole.history[:, -1] - whole.history[:, 0])
    np.testing.assert_allclose(np.concatenate(parts), whole.history, rtol=1e-6, atol=share * width + rounding)


@pytest.mark.parametrize("model", MODELS[2:], ids="-".join)
@given(value=st.floats(-1e12, 1e12).filter(lambda x: x == 0 or abs(x) > 1e-9), steps=st.integers(3, 60))
def test_a_constant_goes_on(model: tuple[str, Precision], value: float, steps: int) -> None:
    """After a few values it may change; after thirty it does not."""
    result = forecast_of(model, np.full(steps, value), (1,))
    np.testing.assert_allclose(result.quantiles, value, rtol=max(1e-5, 10_000 / steps**6))


@pytest.mark.parametrize("model", MODELS[2:], ids="-".join)
@pytest.mark.parametrize("season", [4, 7, 12, 24])
def test_a_season_that_repeats_itself_is_repeated(model: tuple[str, Precision], season: int) -> None:
    shape = np.random.default_rng(season).normal(100, 20, season)
    result = forecast_of(model, np.tile(shape, 6), (season,), season)
    assert np.abs(result.median - shape).mean() < 0.1 * shape.std()
