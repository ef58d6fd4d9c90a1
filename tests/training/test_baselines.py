"""The baselines and the measures, against their definitions."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from training.evaluation.baselines import (
    METHODS,
    forecast_baselines,
    hmm_bits,
    ngram_bits,
    relative_mae,
    score_forecasts,
)
from training.evaluation.windows import Window

TEXTS = st.lists(st.integers(0, 4), min_size=7, max_size=60)


@given(
    train=TEXTS,
    test=TEXTS,
    order=st.integers(1, 7),
    characters=st.sampled_from([[0, 1, 2, 3, 4], [0, 7, 1448, 1449, 4999], [0, 1, 65_535, 99_998, 99_999]]),
)
@example(train=[0, 1, 2, 3, 4, 1, 2, 4] * 7, test=[0, 1, 2, 3, 4, 1, 2] * 3, order=6, characters=[0, 1, 500, 998, 1999])
def test_ngrams_are_witten_bells(train: list[int], test: list[int], order: int, characters: list[int]) -> None:
    vocabulary = characters[-1] + 1  # of Chinese there are thousands
    train, test = ([characters[token] for token in tokens] for tokens in (train, test))
    counts = Counter(tuple(train[i : i + n]) for n in range(1, 8) for i in range(len(train) - n + 1))

    def probability(history: tuple[int, ...], token: int) -> float:
        shorter = probability(history[1:], token) if history else 1 / vocabulary
        seen = [counts[(*history, w)] for w in characters]
        kinds = sum(count > 0 for count in seen)
        if not kinds:
            return shorter
        return (counts[(*history, token)] + kinds * shorter) / (sum(seen) + kinds)

    nats = [math.log2(probability(tuple(test[max(0, i - order + 1) : i]), test[i])) for i in range(1, len(test))]
    found = ngram_bits([np.array(train)], [np.array(test)], order, vocabulary)
    assert found == pytest.approx(-sum(nats) / len(nats))


def test_a_hidden_markov_model_learns_an_order() -> None:
    train, test = np.arange(4000) % 3, np.arange(100) % 3
    assert hmm_bits([train], [test], states=3, vocabulary=4, seed=1) < 0.8 * math.log2(3)


def test_measures_are_what_they_are_called() -> None:
    window = Window("a", np.array([[1.0], [3], [2], [4]]), np.array([5.0, np.nan, 7]))
    quantiles = np.array([[[4.0, 6, 9], [0, 0, 0], [1, 4, 6]]])
    scores = score_forecasts([window], quantiles, [0.1, 0.5, 0.9])
    scale = (2 + 1 + 2) / 3
    assert scores["mae"] == pytest.approx(2)
    assert scores["mse"] == pytest.approx(5)
    assert scores["mase"] == pytest.approx(2 / scale)
    assert scores["smape"] == pytest.approx(200 * (1 / 11 + 3 / 11) / 2)
    pinball = [(0.1 * 1 + 0.1 * 6) / 2, (0.5 * 1 + 0.5 * 3) / 2, (0.1 * 4 + 0.9 * 1) / 2]
    assert scores["scaled_quantile_loss"] == pytest.approx(2 * np.mean(pinball) / scale)
    assert scores["coverage_80"] == pytest.approx(0.5)


def windows_of(truths: list[list[float]], series: list[str]) -> list[Window]:
    return [
        Window(str(i), np.ones((2, 1)), np.array(truth), series=name)
        for i, (truth, name) in enumerate(zip(truths, series, strict=True))
    ]


def test_the_relative_mae_is_the_geometric_mean_over_series() -> None:
    windows = windows_of([[1, 2], [3, np.nan], [5], [7]], ["a", "a", "b", "c"])
    median = np.array([[2.0, 2], [3, 9], [5, 9], [8, 9]])
    naive = np.array([[3.0, 4], [1, 9], [1, 9], [7, 9]])
    # Of a 1 of 6, in both of its windows; of b nothing, which counts as a hundredth; the naive forecast of c is right.
    found, without_ratio = relative_mae(windows, median, naive)
    assert found == pytest.approx(math.sqrt(1 / 6 * 0.01))
    assert without_ratio == 1
    assert relative_mae(windows[3:], median[3:], naive[3:]) == (None, 1)


@given(
    errors=st.lists(st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)), min_size=1, max_size=8),
    units=st.floats(0.01, 100),
)
def test_the_relative_mae_of_two_methods_is_that_of_the_other_turned_over(
    errors: list[tuple[float, float]], units: float
) -> None:
    windows = windows_of([[0.0]] * len(errors), [str(i // 2) for i in range(len(errors))])
    first, second = units * np.array(errors)[:, :1], units * np.array(errors)[:, 1:]
    there, back = (relative_mae(windows, *pair)[0] for pair in ((first, second), (second, first)))
    assert there is not None
    assert back is not None
    assert there * back == pytest.approx(1)
    assert relative_mae(windows, first / units, second / units)[0] == pytest.approx(there)


def test_a_season_too_long_for_ets_is_left_to_theta() -> None:
    assert [METHODS["ets"](season)[0].season_length for season in (52, 96, 288)] == [52, 96, 1]
    assert METHODS["theta"](288)[0].season_length == 288


def test_baselines_forecast_the_same_windows() -> None:
    rng = np.random.default_rng(0)
    season = np.tile([10.0, 20, 30, 20], 12)
    seasonal = (season + rng.normal(0, 0.5, 48))[:, None]
    seasonal[5] = np.nan
    walk = rng.normal(size=(40, 1)).cumsum(axis=0)
    windows = [Window("s", seasonal, season[:4], 4), Window("w", walk, np.zeros(4), 1)]
    found = forecast_baselines(windows, 4, (0.1, 0.5, 0.9))
    assert set(found) == {"Naive", "SeasonalNaive", "AutoETS", "AutoTheta"}
    for name, quantiles in found.items():
        assert quantiles.shape == (2, 4, 3)
        assert (np.diff(quantiles, axis=2) >= 0).all()
        if name != "Naive":
            np.testing.assert_allclose(quantiles[0, :, 1], season[:4], atol=3)
    np.testing.assert_allclose(found["Naive"][1, :, 1], walk[-1, 0])
