"""The measures over arrays: by hand, and against utilsforecast's."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from utilsforecast import losses

from service.forecast.accuracy import accuracy, seasonal_scales

LEVELS = (0.1, 0.3, 0.5, 0.9)


def test_the_measures_are_what_they_are_defined_to_be() -> None:
    target = np.array([1.0, 3, 2, 4, np.nan, 5, 8])
    quantiles = np.array([[[2.0, 4, 5], [5, 6, 7]]])
    scale = np.mean([1, 1])  # |2 - 1|, |4 - 3|; the third is missing
    scales = seasonal_scales(target, 2, [5])
    scores = accuracy(target[None, 5:], quantiles[..., 1], quantiles, (0.1, 0.5, 0.9), scales)
    pinball = np.mean([0.1 * 3, 0.5 * 1, 0, 0.1 * 3, 0.5 * 2, 0.9 * 1])
    assert scales == [scale]
    assert scores.mase == pytest.approx((1 + 2) / 2 / scale)
    assert scores.smape == pytest.approx((200 * 1 / 9 + 200 * 2 / 14) / 2)
    assert scores.scaled_quantile_loss == pytest.approx(2 * pinball / scale)
    assert scores.coverage == {80.0: 0.5}


def test_a_constant_series_has_nothing_to_scale_by() -> None:
    target, quantiles = np.full(6, 2.0), np.full((1, 2, 1), 2.0)
    scores = accuracy(target[None, 4:], quantiles[..., 0], quantiles, (0.5,), seasonal_scales(target, 1, [4]))
    assert np.isnan([scores.mase, scores.scaled_quantile_loss]).all()
    assert (scores.smape, scores.coverage) == (0.0, {})


@given(
    seed=st.integers(0, 2**32),
    season=st.integers(1, 7),
    windows=st.integers(1, 3),
    horizon=st.integers(1, 5),
    gaps=st.floats(0, 0.3),
)
def test_the_measures_are_those_of_utilsforecast(
    seed: int, season: int, windows: int, horizon: int, gaps: float
) -> None:
    rng = np.random.default_rng(seed)
    steps = 30
    target = rng.integers(-3, 4, steps).astype(np.float64)  # zeros too, of which sMAPE makes a case
    target[: steps - windows * horizon][rng.random(steps - windows * horizon) < gaps] = np.nan
    cutoffs = [steps - horizon * back for back in range(windows, 0, -1)]
    actual = np.array([target[cutoff : cutoff + horizon] for cutoff in cutoffs])
    quantiles = np.sort(rng.integers(-3, 4, (windows, horizon, len(LEVELS))).astype(np.float64), axis=-1)
    scores = accuracy(actual, quantiles[..., 2], quantiles, LEVELS, seasonal_scales(target, season, cutoffs))

    frame = pd.DataFrame({"unique_id": np.repeat(cutoffs, horizon), "y": actual.ravel()})
    frame["ds"] = frame["unique_id"] + np.tile(np.arange(horizon), windows)
    for i, level in enumerate(LEVELS):
        frame[f"q{level}"] = quantiles[..., i].ravel()
    frame = frame.assign(**{"f": frame["q0.5"], "f-lo-80": frame["q0.1"], "f-hi-80": frame["q0.9"]})
    parts = [pd.DataFrame({"unique_id": c, "ds": np.arange(c), "y": target[:c]}) for c in cutoffs]
    train = pd.concat(parts, ignore_index=True)
    pinball = [
        losses.scaled_quantile_loss(frame, {"f": f"q{level}"}, season, train, q=level)["f"].mean() for level in LEVELS
    ]
    assert scores.mase == pytest.approx(losses.mase(frame, ["f"], season, train)["f"].mean(), nan_ok=True)
    assert scores.smape == pytest.approx(200 * losses.smape(frame, ["f"])["f"].mean())
    assert scores.scaled_quantile_loss == pytest.approx(2 * np.mean(pinball), nan_ok=True)
    assert scores.coverage == {80.0: pytest.approx(losses.coverage(frame, ["f"], 80)["f"].mean())}
