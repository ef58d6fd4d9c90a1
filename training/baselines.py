"""Honest baselines from maintained libraries, and the measures that compare a model with them, on the same windows."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from hmmlearn.hmm import CategoricalHMM
from numpy.typing import NDArray
from statsforecast import StatsForecast
from statsforecast.models import AutoETS, AutoTheta, Naive, SeasonalNaive
from utilsforecast import losses

HISTORY_LIMIT = 1000
"""Newest values of a history that the baselines are fitted to: more costs minutes and gains nothing."""

_log = logging.getLogger(__name__)


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
    prediction intervals; level 0.5 is their point forecast. A history of no more than one season has none to repeat:
    there the season counts as 1. Where a method cannot be fitted, the seasonal naive forecast stands in for it; how
    often is logged as a warning.
    """
    found: dict[str, NDArray[np.float64]] = {}
    shape = (len(windows), horizon, len(levels))
    central = sorted({_width(level) for level in levels} - {0})
    seasons = [_season(w) for w in windows]
    failures, fits = 0, 0
    for season in sorted(set(seasons)):
        chosen = [i for i, other in enumerate(seasons) if other == season]
        table = pd.concat([_filled(windows[i], i) for i in chosen])
        models = [Naive(), SeasonalNaive(season_length=season)]
        if fitted:
            models += [AutoETS(season_length=season), AutoTheta(season_length=season)]
        fallback = _CountedFallback(season_length=season)
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
        failures, fits = failures + fallback.uses, fits + len(chosen) * len(models)
    if failures:
        _log.warning("%d of %d fits of baselines failed; the seasonal naive forecast stands in", failures, fits)
    return found


class _CountedFallback(SeasonalNaive):
    """Counts how often it had to answer for another method."""

    uses = 0

    def forecast(self, *args: Any, **kwargs: Any) -> Any:
        self.uses += 1
        return super().forecast(*args, **kwargs)


def _season(window: Window) -> int:
    return window.season if len(window.history[-HISTORY_LIMIT:]) > window.season else 1


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
    Windows whose history never changes have no denominator and are left out of the scaled measures;
    `windows_without_scale` counts them, where there are any.
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
    if len(scale) < count:
        scores["windows_without_scale"] = float(count - len(scale))
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
    changes = np.abs(target[lag:] - target[:-lag])
    changes = changes[np.isfinite(changes)]
    return float(changes.mean()) if len(changes) else 0.0


def ngram_bits_per_character(
    train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]], order: int, vocabulary: int
) -> float:
    """Interpolated Witten-Bell n-grams (Chen and Goodman 1998, section 2.4) of up to `order` characters.

    p_n(w | h) = (c(h w) + t(h) p_{n-1}(w | h')) / (c(h) + t(h)), with t(h) the number of different characters
    seen after the history h, h' the history without its first character, and p_0 uniform. Ours, since over a
    million characters it takes seconds as arrays, and minutes as the dictionaries of a general library.
    """
    documents = [np.asarray(tokens) for tokens in test]
    likely = [np.full(len(tokens) - 1, 1 / vocabulary) for tokens in documents]
    for size in range(1, order + 1):
        grams, counts = np.unique(np.concatenate([_grams(d, size, vocabulary) for d in train]), return_counts=True)
        histories, first, types = np.unique(grams // vocabulary, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        for tokens, probability in zip(documents, likely, strict=True):
            wanted = _grams(tokens, size, vocabulary)[max(0, 2 - size) :]
            # The first characters of a document have no history of this size: shorter ones must do.
            shown = probability[len(probability) - len(wanted) :]
            count = _found(grams, counts, wanted)
            total = _found(histories, totals, wanted // vocabulary)
            kinds = _found(histories, types, wanted // vocabulary)
            shown[:] = np.where(total > 0, (count + kinds * shown) / np.maximum(total + kinds, 1), shown)
    probabilities = np.concatenate(likely)
    return float(-np.log2(probabilities).mean())


def _grams(tokens: NDArray[np.int64], size: int, vocabulary: int) -> NDArray[np.int64]:
    """Each run of `size` tokens as one number; its history is that number // vocabulary."""
    windows = np.lib.stride_tricks.sliding_window_view(tokens, size) if len(tokens) >= size else np.empty((0, size))
    numbers: NDArray[np.int64] = windows.astype(np.int64) @ (vocabulary ** np.arange(size - 1, -1, -1, dtype=np.int64))
    return numbers


def _found(keys: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of each wanted key, 0 where it is not among the (ascending) keys."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def hmm_bits_per_character(
    train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]], states: int, vocabulary: int, seed: int
) -> float:
    """A hidden Markov model with categorical emissions (hmmlearn, Baum-Welch), on the test documents.

    A pseudo-count of 0.1 for each emission keeps a character that training never saw from costing infinitely much.
    """
    model = CategoricalHMM(
        n_components=states, n_features=vocabulary, n_iter=12, tol=1.0, random_state=seed, emissionprob_prior=1.1
    )
    # In sequences of 1000 characters, at most 200,000 in all: Baum-Welch passes over all of it a dozen times.
    tokens = np.concatenate(train)[:200_000]
    lengths = [len(part) for part in np.split(tokens, range(1000, len(tokens), 1000))]
    model.fit(tokens[:, None], lengths)
    nats = -sum(model.score(document[:, None]) for document in test)
    return float(nats / np.log(2) / max(1, sum(len(document) for document in test)))
