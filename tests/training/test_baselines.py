"""The baselines of forecasters."""

import numpy as np

from training.evaluation.baselines import METHODS, forecast_baselines
from training.evaluation.eval_windows import EvalWindow


def test_a_season_too_long_for_ets_is_left_to_theta() -> None:
    assert [METHODS["ets"](season)[0].season_length for season in (52, 96, 288)] == [52, 96, 1]
    assert METHODS["theta"](288)[0].season_length == 288


def test_baselines_forecast_the_same_windows() -> None:
    rng = np.random.default_rng(0)
    season = np.tile([10.0, 20, 30, 20], 12)
    seasonal = (season + rng.normal(0, 0.5, 48))[:, None]
    seasonal[5] = np.nan
    walk = rng.normal(size=(40, 1)).cumsum(axis=0)
    windows = [EvalWindow("s", seasonal, season[:4], 4), EvalWindow("w", walk, np.zeros(4), 1)]
    forecasts = forecast_baselines(windows, 4, (0.1, 0.5, 0.9))
    assert set(forecasts) == {"Naive", "SeasonalNaive", "AutoETS", "AutoTheta"}
    for name, quantiles in forecasts.items():
        assert quantiles.shape == (2, 4, 3)
        assert (np.diff(quantiles, axis=2) >= 0).all()
        if name != "Naive":
            np.testing.assert_allclose(quantiles[0, :, 1], season[:4], atol=3)
    np.testing.assert_allclose(forecasts["Naive"][1, :, 1], walk[-1, 0])
