"""Honest baselines from maintained libraries, and the measures that compare a model with them, on the same windows."""

import logging
from collections.abc import Callable, Sequence
from statistics import geometric_mean
from typing import Any, cast

import numpy as np
import pandas as pd
from hmmlearn.hmm import CategoricalHMM
from numpy.typing import NDArray
from statsforecast import StatsForecast
from statsforecast.models import AutoARIMA, AutoETS, AutoTheta, Naive, SeasonalNaive
from statsmodels.tsa.seasonal import seasonal_decompose
from utilsforecast import losses

from service.forecast.task import tails
from training.evaluation.windows import Window

HISTORY_LIMIT = 1000
"""Newest values of a history that the baselines are fitted to: more costs minutes and gains nothing. With half of them
AutoETS is twice as fast, and much worse on some hourly series."""
LONGEST_ETS_SEASON = 100
"""Longer seasons are left to AutoTheta: with one of 288 values AutoETS takes 45 seconds for a series."""

_log = logging.getLogger(__name__)


METHODS: dict[str, Callable[[int], list[Any]]] = {
    "naive": lambda season: [Naive(), SeasonalNaive(season_length=season)],
    "ets": lambda season: [AutoETS(season_length=season if season <= LONGEST_ETS_SEASON else 1)],
    "theta": lambda season: [AutoTheta(season_length=season)],
    "arima": lambda season: [AutoARIMA(season_length=season)],
}
"""What each name stands for, of statsforecast, by the values per season."""


def forecast_baselines(
    windows: Sequence[Window],
    horizon: int,
    levels: Sequence[float],
    methods: Sequence[str] = ("naive", "ets", "theta"),
) -> dict[str, NDArray[np.float64]]:
    """Quantile forecasts (N, H, Q) by name, each method (see METHODS) fitted to each window's history (gaps filled
    linearly). Quantiles come from the methods' own prediction intervals; level 0.5 is their point forecast. A history
    of no more than one season has none to repeat: there the season counts as 1. Where a method cannot be fitted, the
    seasonal naive forecast stands in for it; how often is logged as a warning.
    """
    found: dict[str, NDArray[np.float64]] = {}
    shape = (len(windows), horizon, len(levels))
    central = sorted({_width(level) for level in levels} - {0})
    seasons = [_season(w) for w in windows]
    failures, fits = 0, 0
    for season in sorted(set(seasons)):
        chosen = [i for i, other in enumerate(seasons) if other == season]
        table = pd.concat([_filled(windows[i], i) for i in chosen])
        models = [model for name in methods for model in METHODS[name](season)]
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
    target = _target(window)
    return pd.DataFrame({"unique_id": number, "ds": np.arange(len(target)), "y": target})


def _target(window: Window) -> NDArray[np.float64]:
    """The newest values of the history, gaps filled."""
    target = pd.Series(window.history[-HISTORY_LIMIT:, 0])
    return np.asarray(target.interpolate(limit_direction="both"), dtype=np.float64)


def _width(level: float) -> float:
    """The central interval, in percent, one end of which is the quantile; whole numbers as int, as the columns say."""
    width = round(abs(1 - 2 * level) * 100, 6)
    return int(width) if width == int(width) else width


def _quantile(answer: pd.DataFrame, name: str, level: float) -> NDArray[np.float64]:
    column = f"{name}-{'lo' if level < 0.5 else 'hi'}-{_width(level)}" if level != 0.5 else name
    values: NDArray[np.float64] = answer[column].to_numpy(dtype=np.float64)
    return values


def naive2(windows: Sequence[Window], horizon: int) -> NDArray[np.float64]:
    """The M competitions' Naive2, (N, horizon): the last value, seasonally adjusted by classical multiplicative
    decomposition where the season is significant (Makridakis et al. 2020, "The M4 Competition", section 2.4)."""
    forecasts = np.empty((len(windows), horizon))
    for row, window in zip(forecasts, windows, strict=True):
        target = _target(window)
        last, season = target[-1], window.season
        if not _is_seasonal(target, season) or target.min() <= 0:
            row[:] = last
            continue
        factors = seasonal_decompose(target, model="multiplicative", period=season).seasonal
        row[:] = last / factors[-1] * np.resize(factors[-season:], horizon)
    return forecasts


def _is_seasonal(target: NDArray[np.float64], season: int) -> bool:
    """Whether the autocorrelation at the season is significant at 90 %, by Bartlett's formula."""
    if season == 1 or len(target) < 3 * season:
        return False
    centred = target - target.mean()
    total = float(centred @ centred)
    if total <= 0:
        return False
    r = np.array([centred[lag:] @ centred[:-lag] / total for lag in range(1, season + 1)])
    return bool(abs(r[-1]) > 1.645 * np.sqrt((1 + 2 * float(r[:-1] @ r[:-1])) / len(target)))


INTERVALS = (50, 80, 95)
"""Central intervals, in percent, whose coverage is measured where the levels hold both of their ends."""


def score_forecasts(
    windows: Sequence[Window],
    quantiles: NDArray[np.float64],
    levels: Sequence[float],
    loss_levels: Sequence[float] | None = None,
) -> dict[str, float]:
    """Measures of quantile forecasts (N, H, Q), each the mean over windows; missing truths do not count, nor do steps
    beyond the end of a shorter one.

    - mae, mse: of the median. smape: 200 * mean(|y - f| / (|y| + |f|)), in percent.
    - mase: the median's mean absolute error over that of the in-sample seasonal naive forecast of the history.
    - scaled_quantile_loss: twice the pinball loss, mean over `loss_levels` (all, if not given), over the same
      denominator, so that with the one level 0.5 it is the mase.
    - coverage_P: the share of truths inside the central interval of P percent, for P = 50, 80, 95 and the widest.
    Windows whose history never changes have no denominator and are left out of the scaled measures;
    `windows_without_scale` counts them, where there are any.
    """
    table = _table(windows, quantiles, levels)
    median = _column(levels, 0.5)
    absolute = losses.mae(table, [median]).set_index("unique_id")[median]
    scores = {
        "mae": float(absolute.mean()),
        "mse": float(losses.mse(table, [median])[median].mean()),
        "smape": 200 * float(losses.smape(table, [median])[median].mean()),
    }
    scale = pd.Series({i: _naive_error(w) for i, w in enumerate(windows)})
    scale = scale[scale > 0]
    if len(scale) < len(windows):
        scores["windows_without_scale"] = float(len(windows) - len(scale))
    if len(scale):
        scores["mase"] = float((absolute / scale).mean())
        pinball = [
            losses.quantile_loss(table, {"m": _column(levels, level)}, q=level).set_index("unique_id")["m"]
            for level in (levels if loss_levels is None else loss_levels)
        ]
        scores["scaled_quantile_loss"] = float((2 * sum(pinball) / len(pinball) / scale).mean())
    for interval, (low, high) in _intervals(levels).items():
        scores[f"coverage_{interval}"] = float(_inside(table, low, high).mean())
    return scores


LEAST_RATIO = 0.01
"""Smaller ratios count as this one: a single forecast without an error would make their geometric mean 0."""


def relative_mae(
    windows: Sequence[Window], median: NDArray[np.float64], naive: NDArray[np.float64]
) -> tuple[float | None, int]:
    """The geometric mean over series of the mean absolute error of forecasts (N, H) over that of the seasonal naive
    forecasts: the relative MAE of Hyndman and Koehler (2006), averaged as Davydenko and Fildes (2013) do, except that
    each series counts alike, however many of its values were forecast.

    A series that the naive forecasts get exactly right has no ratio and is left out. The second number counts these;
    without any other the first is None.
    """
    errors: dict[str | int, list[NDArray[np.float64]]] = {}
    for i, window in enumerate(windows):
        forecasts = np.stack([median[i], naive[i]])[:, : len(window.truth)]
        errors.setdefault(window.series or i, []).append(np.abs(forecasts - window.truth))
    # Both have the same truths, so that the ratio of the sums is that of the means.
    sums = [np.nansum(np.concatenate(of_series, axis=1), axis=1) for of_series in errors.values()]
    ratios = [max(LEAST_RATIO, error / naive_error) for error, naive_error in sums if naive_error > 0]
    return (geometric_mean(ratios) if ratios else None), len(sums) - len(ratios)


def coverage_by_step(
    windows: Sequence[Window], quantiles: NDArray[np.float64], levels: Sequence[float]
) -> dict[int, list[float | None]]:
    """Of each central interval (by its percentage), the share of truths inside it at each step ahead; None for those
    that no truth reaches."""
    table = _table(windows, quantiles, levels)
    steps = range(quantiles.shape[1])
    shares: dict[int, list[float | None]] = {}
    for interval, (low, high) in _intervals(levels).items():
        by_step = _inside(table, low, high).groupby(table["step"]).mean()
        shares[interval] = [float(by_step[step]) if step in by_step.index else None for step in steps]
    return shares


def _table(windows: Sequence[Window], quantiles: NDArray[np.float64], levels: Sequence[float]) -> pd.DataFrame:
    """A row for each truth there is: its window's number, its step, it, and its quantiles."""
    count, horizon, _ = quantiles.shape
    truth = np.full((count, horizon), np.nan)
    for row, window in zip(truth, windows, strict=True):
        row[: len(window.truth)] = window.truth
    table = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(count), horizon),
            "step": np.tile(np.arange(horizon), count),
            "y": truth.ravel(),
            **{_column(levels, level): quantiles[:, :, i].ravel() for i, level in enumerate(levels)},
        }
    )
    return table.dropna(subset="y")


def _column(levels: Sequence[float], level: float) -> str:
    return f"q{list(levels).index(level)}"


def _intervals(levels: Sequence[float]) -> dict[int, tuple[str, str]]:
    """The columns of both ends of each interval measured, by its percentage."""
    ends = {interval: tails(interval) for interval in INTERVALS}
    ends[round(100 * (levels[-1] - levels[0]))] = (levels[0], levels[-1])
    return {
        interval: (_column(levels, low), _column(levels, high))
        for interval, (low, high) in sorted(ends.items())
        if low in levels and high in levels and low < high
    }


def _inside(table: pd.DataFrame, low: str, high: str) -> "pd.Series[bool]":
    return table["y"].between(table[low], table[high])


def _naive_error(window: Window) -> float:
    target = window.history[:, 0]
    lag = window.season if len(target) > window.season else 1
    changes = np.abs(target[lag:] - target[:-lag])
    changes = changes[np.isfinite(changes)]
    return float(changes.mean()) if len(changes) else 0.0


NGRAM_TOKENS = 10_000_000
"""Tokens of the training part that the n-grams count: each takes some hundred bytes and a microsecond."""
HMM_TOKENS = 200_000
"""Tokens of the training part that the hidden Markov model is fitted to: Baum-Welch passes over all a dozen times."""


def ngram_bits(
    train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]], order: int, vocabulary: int
) -> float:
    """Bits per token of interpolated Witten-Bell n-grams (Chen and Goodman 1998, section 2.4) of up to `order` tokens,
    fitted to the first `NGRAM_TOKENS`.

    p_n(w | h) = (c(h w) + t(h) p_{n-1}(w | h')) / (c(h) + t(h)), with t(h) the number of different tokens
    seen after the history h, h' the history without its first token, and p_0 uniform. Ours, since over a
    million characters it takes seconds as arrays, and minutes as the dictionaries of a general library.
    """
    documents = [np.asarray(tokens) for tokens in test]
    ends = np.cumsum([len(tokens) for tokens in train])
    sample = [d[: max(0, NGRAM_TOKENS - (end - len(d)))] for d, end in zip(train, ends.tolist(), strict=True)]
    likely = [np.full(max(0, len(tokens) - 1), 1 / vocabulary) for tokens in documents]
    # A gram is numbered by its place among those of its size that training holds: its history's number and its last
    # token make it, so that no number grows beyond tokens x vocabulary, however long the grams.
    numbers = [np.zeros(len(d) + 1, dtype=np.int64) for d in sample]
    looked_up = [np.zeros(len(tokens) + 1, dtype=np.int64) for tokens in documents]
    for size in range(1, order + 1):
        parts = [_grams(d, size, before, vocabulary) for d, before in zip(sample, numbers, strict=True)]
        grams, inverse, counts = np.unique(np.concatenate(parts), return_inverse=True, return_counts=True)
        histories, first, types = np.unique(grams // vocabulary, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first) if len(counts) else counts
        numbers = np.split(inverse, np.cumsum([len(part) for part in parts])[:-1])
        for i, (tokens, probability) in enumerate(zip(documents, likely, strict=True)):
            before = looked_up[i]
            wanted = _grams(tokens, size, before, vocabulary)
            looked_up[i] = _place(grams, wanted)
            # The first token is read, not predicted; the next ones have no history of this size: shorter ones must do.
            wanted, history = wanted[max(0, 2 - size) :], before[: len(wanted)][max(0, 2 - size) :]
            shown = probability[len(probability) - len(wanted) :]
            count = _found(grams, counts, wanted)
            total = _found(histories, totals, history)
            kinds = _found(histories, types, history)
            shown[:] = np.where(total > 0, (count + kinds * shown) / np.maximum(total + kinds, 1), shown)
    probabilities = np.concatenate(likely)
    return float(-np.log2(probabilities).mean())


def _grams(tokens: NDArray[np.int64], size: int, before: NDArray[np.int64], vocabulary: int) -> NDArray[np.int64]:
    """Each run of `size` tokens as one number, of the number (`before`) of the run without its last token, -1 for one
    that training does not hold: then it is negative, too. Its history's number is that number // vocabulary."""
    count = max(0, len(tokens) - size + 1)
    return before[:count] * vocabulary + tokens[size - 1 : size - 1 + count]


def _place(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted key is among the (ascending) keys; -1 if it is not."""
    return _found(keys, np.arange(1, len(keys) + 1), wanted) - 1


def _found(keys: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of each wanted key, 0 where it is not among the (ascending) keys."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def hmm_bits(
    train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]], states: int, vocabulary: int, seed: int
) -> float:
    """Bits per token of a hidden Markov model with categorical emissions (hmmlearn, Baum-Welch), on the test documents.

    A pseudo-count of 0.1 for each emission keeps a token that training never saw from costing infinitely much.
    """
    model = CategoricalHMM(
        n_components=states,
        n_features=vocabulary,
        n_iter=12,
        tol=1.0,
        random_state=seed,
        emissionprob_prior=1.1,
        implementation="scaling",  # ten times as fast as with logarithms
    )
    # In sequences of 1000 tokens.
    tokens = np.concatenate(train)[:HMM_TOKENS]
    lengths = [len(part) for part in np.split(tokens, range(1000, len(tokens), 1000))]
    model.fit(tokens[:, None], lengths)
    nats = -sum(model.score(document[:, None]) for document in test)
    return float(nats / np.log(2) / max(1, sum(len(document) for document in test)))
