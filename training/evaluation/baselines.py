"""Baselines of forecasters, from maintained libraries."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsforecast import StatsForecast
from statsforecast.models import AutoARIMA, AutoETS, AutoTheta, Naive, SeasonalNaive
from statsmodels.tsa.seasonal import seasonal_decompose

from training.evaluation.eval_windows import EvalWindow
from training.progress import track

HISTORY_LIMIT = 1000
"""Newest values of a history that the baselines are fitted to: more cost minutes and gain nothing. With half of them
AutoETS is twice as fast, and much worse on some hourly series."""
LONGEST_ETS_SEASON = 100
"""AutoETS takes a longer season for none: with one of 288 values it needs 45 seconds for a series."""

WINDOWS_TOGETHER = 10
"""Windows in one call of statsforecast."""

_log = logging.getLogger(__name__)

METHODS: dict[str, Callable[[int], list[Any]]] = {
    "naive": lambda season: [Naive(), SeasonalNaive(season_length=season)],
    "ets": lambda season: [AutoETS(season_length=season if season <= LONGEST_ETS_SEASON else 1)],
    "theta": lambda season: [AutoTheta(season_length=season)],
    "arima": lambda season: [AutoARIMA(season_length=season)],
}
"""statsforecast's models of each name, by the values per season."""


def forecast_baselines(
    windows: Sequence[EvalWindow],
    horizon: int,
    levels: Sequence[float],
    methods: Sequence[str] = ("naive", "ets", "theta"),
) -> dict[str, NDArray[np.float64]]:
    """Quantile forecasts (N, H, Q) by name, each method (see METHODS) fitted to each window's history, its gaps filled
    linearly. Quantiles come from the methods' own prediction intervals; level 0.5 is their point forecast. A history
    of one season or less has no season to repeat: there it counts as 1. Where a method cannot be fitted, the seasonal
    naive forecast stands in for it; a warning counts these.
    """
    forecasts: dict[str, NDArray[np.float64]] = {}
    shape = (len(windows), horizon, len(levels))
    central = sorted({_width(level) for level in levels} - {0})
    seasons = [_season(w) for w in windows]
    failures, fits, done = 0, 0, 0
    with track(len(windows)) as update:
        for rows in _rows_together(seasons):
            season = seasons[rows[0]]
            histories = pd.concat([_filled(windows[i], i) for i in rows])
            models = [model for name in methods for model in METHODS[name](season)]
            fallback = _CountedFallback(season_length=season)
            forecaster = StatsForecast(models=models, freq=1, n_jobs=1, fallback_model=fallback)
            # Fractions of a percent are fine, whatever its annotation says.
            forecast = forecaster.forecast(df=histories, h=horizon, level=cast(list[int], central) or None)
            table = cast(pd.DataFrame, forecast).sort_values(["unique_id", "ds"])
            for model in models:
                name = type(model).__name__
                forecasts.setdefault(name, np.empty(shape))[rows] = np.stack(
                    [_quantile(table, name, level).reshape(-1, horizon) for level in levels], axis=-1
                )
            failures, fits = failures + fallback.uses, fits + len(rows) * len(models)
            done += len(rows)
            update(done, f"measuring baselines ({', '.join(methods)}): {done} of {len(windows)} windows")
    if failures:
        _log.warning("%d of %d fits of baselines failed; the seasonal naive forecast stands in", failures, fits)
    return forecasts


def _rows_together(seasons: Sequence[int]) -> Iterator[list[int]]:
    """The indices of windows of one season, some at a time, so that a long stage says how far it is."""
    for season in sorted(set(seasons)):
        rows = [i for i, other in enumerate(seasons) if other == season]
        yield from (rows[first : first + WINDOWS_TOGETHER] for first in range(0, len(rows), WINDOWS_TOGETHER))


class _CountedFallback(SeasonalNaive):
    """Counts how often it stands in for another method."""

    uses = 0

    def forecast(self, *args: Any, **kwargs: Any) -> Any:
        self.uses += 1
        return super().forecast(*args, **kwargs)


def _season(window: EvalWindow) -> int:
    return window.season if len(window.history[-HISTORY_LIMIT:]) > window.season else 1


def _filled(window: EvalWindow, number: int) -> pd.DataFrame:
    target = _target(window)
    return pd.DataFrame({"unique_id": number, "ds": np.arange(len(target)), "y": target})


def _target(window: EvalWindow) -> NDArray[np.float64]:
    """The newest values of the history, gaps filled."""
    target = pd.Series(window.history[-HISTORY_LIMIT:, 0])
    return np.asarray(target.interpolate(limit_direction="both"), dtype=np.float64)


def _width(level: float) -> float:
    """The percentage of the central interval that ends at the level; a whole one as int, as statsforecast names it."""
    width = round(abs(1 - 2 * level) * 100, 6)
    return int(width) if width == int(width) else width


def _quantile(table: pd.DataFrame, name: str, level: float) -> NDArray[np.float64]:
    column = f"{name}-{'lo' if level < 0.5 else 'hi'}-{_width(level)}" if level != 0.5 else name
    values: NDArray[np.float64] = table[column].to_numpy(dtype=np.float64)
    return values


def naive2(windows: Sequence[EvalWindow], horizon: int) -> NDArray[np.float64]:
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
