"""Honest baselines from maintained libraries, and the measures that compare a model with them, on the same windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from hmmlearn.hmm import CategoricalHMM
from nltk.lm import WittenBellInterpolated
from nltk.util import everygrams
from numpy.typing import NDArray
from statsforecast import StatsForecast
from statsforecast.models import AutoETS, AutoTheta, Naive, SeasonalNaive
from utilsforecast import losses

HISTORY_LIMIT = 1000
"""Newest values of a history that the baselines are fitted to: more costs minutes and gains nothing."""


@dataclass(frozen=True)
class Window:
    """A history (T, F), NaN = missing, feature 0 the target, and the (H,) values that followed it."""

    id: str
    history: NDArray[np.float64]
    truth: NDArray[np.float64]
    season: int = 1


def forecast_baselines(
    windows: Sequence[Window], horizon: int, levels: Sequence[float], fitted: bool = True
) -> dict[str, NDArray[np.float64]]:
    """Quantile forecasts (N, H, Q) by name: the naive and seasonal naive forecast and, with `fitted`, AutoETS and
    AutoTheta, each fitted to each window's history (gaps filled linearly). Quantiles come from the methods' own
    prediction intervals; level 0.5 is their point forecast. Where AutoETS or AutoTheta cannot be fitted, statsforecast
    answers with the seasonal naive forecast in their place.
    """
    found: dict[str, NDArray[np.float64]] = {}
    shape = (len(windows), horizon, len(levels))
    central = sorted({_width(level) for level in levels} - {0})
    for season in sorted({w.season for w in windows}):
        chosen = [i for i, w in enumerate(windows) if w.season == season]
        table = pd.concat([_filled(windows[i], i) for i in chosen])
        models = [Naive(), SeasonalNaive(season_length=season)]
        if fitted:
            models += [AutoETS(season_length=season), AutoTheta(season_length=season)]
        fallback = SeasonalNaive(season_length=season)
        forecaster = StatsForecast(models=models, freq=1, n_jobs=1, fallback_model=fallback)
        # Fractions of a percent are fine, whatever its annotation says.
        answer = forecaster.forecast(df=table, h=horizon, level=cast(list[int], central) or None).sort_values(
            ["unique_id", "ds"]
        )
        for model in models:
            name = type(model).__name__
            found.setdefault(name, np.empty(shape))[chosen] = np.stack(
                [_quantile(answer, name, level).reshape(-1, horizon) for level in levels], axis=-1
            )
    return found


def _filled(window: Window, number: int) -> pd.DataFrame:
    target = pd.Series(window.history[-HISTORY_LIMIT:, 0]).interpolate(limit_direction="both")
    return pd.DataFrame({"unique_id": number, "ds": np.arange(len(target)), "y": target.to_numpy()})


def _width(level: float) -> float:
    """The central interval, in percent, one end of which is the quantile; whole numbers as int, as the columns say."""
    width = round(abs(1 - 2 * level) * 100, 6)
    return int(width) if width == int(width) else width


def _quantile(answer: pd.DataFrame, name: str, level: float) -> NDArray[np.float64]:
    column = f"{name}-{'lo' if level < 0.5 else 'hi'}-{_width(level)}" if level != 0.5 else name
    values: NDArray[np.float64] = answer[column].to_numpy(dtype=np.float64)
    return values


def score_forecasts(
    windows: Sequence[Window], quantiles: NDArray[np.float64], levels: Sequence[float]
) -> dict[str, float]:
    """Measures of quantile forecasts (N, H, Q), each the mean over windows; missing truths do not count.

    - mae, mse: of the median. smape: 200 * mean(|y - f| / (|y| + |f|)), in percent.
    - mase: the median's mean absolute error over that of the in-sample seasonal naive forecast of the history.
    - scaled_quantile_loss: twice the pinball loss, mean over levels, over the same denominator, so that with the one
      level 0.5 it is the mase.
    - coverage_P: the share of truths inside the widest central interval, which should hold P percent.
    Windows whose history never changes have no denominator and are left out of the scaled measures.
    """
    count, horizon, _ = quantiles.shape
    table = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(count), horizon),
            "y": np.concatenate([w.truth for w in windows]),
            **{f"q{i}": quantiles[:, :, i].ravel() for i in range(len(levels))},
        }
    )
    table = table[np.isfinite(table["y"])]
    median = f"q{list(levels).index(0.5)}"
    absolute = losses.mae(table, [median]).set_index("unique_id")[median]
    scores = {
        "mae": float(absolute.mean()),
        "mse": float(losses.mse(table, [median])[median].mean()),
        "smape": 200 * float(losses.smape(table, [median])[median].mean()),
    }
    scale = pd.Series({i: _naive_error(w) for i, w in enumerate(windows)})
    scale = scale[scale > 0]
    if len(scale):
        scores["mase"] = float((absolute / scale).mean())
        pinball = [
            losses.quantile_loss(table, {"m": f"q{i}"}, q=level).set_index("unique_id")["m"]
            for i, level in enumerate(levels)
        ]
        scores["scaled_quantile_loss"] = float((2 * sum(pinball) / len(pinball) / scale).mean())
    if len(levels) > 1:
        low, high = table["q0"], table[f"q{len(levels) - 1}"]
        scores[f"coverage_{round(100 * (levels[-1] - levels[0]))}"] = float(table["y"].between(low, high).mean())
    return scores


def _naive_error(window: Window) -> float:
    target = window.history[:, 0]
    lag = window.season if len(target) > window.season else 1
    error = float(np.nanmean(np.abs(target[lag:] - target[:-lag])))
    return error if np.isfinite(error) else 0.0


def ngram_bits_per_character(
    train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]], order: int, vocabulary: int
) -> float:
    """Interpolated Witten-Bell n-grams (Chen and Goodman 1998) of up to `order` characters, on the test documents."""
    model = WittenBellInterpolated(order, vocabulary=None)
    words = [[str(token) for token in tokens] for tokens in train]
    model.fit((everygrams(document, max_len=order) for document in words), [str(t) for t in range(vocabulary)])
    bits, count = 0.0, 0
    for tokens in test:
        document = [str(token) for token in tokens]
        for i in range(1, len(document)):
            bits -= model.logscore(document[i], document[max(0, i - order + 1) : i])
            count += 1
    return bits / max(count, 1)


def hmm_bits_per_character(
    train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]], states: int, vocabulary: int, seed: int
) -> float:
    """A hidden Markov model with categorical emissions (hmmlearn, Baum-Welch), on the test documents.

    A pseudo-count of 0.1 for each emission keeps a character that training never saw from costing infinitely much.
    """
    model = CategoricalHMM(
        n_components=states, n_features=vocabulary, n_iter=12, tol=1.0, random_state=seed, emissionprob_prior=1.1
    )
    # In sequences of 1000 characters, at most 300,000 in all: Baum-Welch passes over all of it a dozen times.
    tokens = np.concatenate(train)[:300_000]
    lengths = [len(part) for part in np.split(tokens, range(1000, len(tokens), 1000))]
    model.fit(tokens[:, None], lengths)
    nats = -sum(model.score(document[:, None]) for document in test)
    return float(nats / np.log(2) / max(1, sum(len(document) for document in test)))
