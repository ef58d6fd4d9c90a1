"""Forecasts the series in a file as the service would, without one running: from CSV, Parquet or JSON lines to a table
and a picture.
"""

import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.local import Answer, Asked, Forecasters, forecast_all, usual_season
from service.forecast.bounds import NON_NEGATIVE, UNBOUNDED
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest, check_levels, tails
from service.settings import Settings
from training.data.series import DataError, Series, read_series
from training.data.times import times_after

Floats = NDArray[np.float64]

USUAL_LEVELS = (80.0, 95.0)
PICTURED = 6
"""Series in a picture."""
PREVIEWED = 48
"""Rows of a table that is printed."""
WORTH_PROCESSES = 1_000_000
"""Bytes of a file from which on several processes gain more time than they take to start."""


@dataclass(frozen=True)
class Wish:
    """What to forecast: levels are central intervals in percent, None for 80 and 95 as far as the model knows them;
    season_length and freq (pandas' name) where they are not to be found in the data."""

    horizon: int
    levels: Sequence[float] | None = None
    target: str | None = None
    freq: str | None = None
    season_length: tuple[int, ...] | None = None
    non_negative: bool = False


@dataclass(frozen=True)
class Forecasts:
    """series: what was forecast from; quantiles[i] (horizon, L) of each at `levels`, or why not;
    times[i] (horizon,): those forecast, or steps from 1 where the file has no times."""

    series: list[Series]
    quantiles: list[Answer]
    times: list[pd.Index]
    levels: tuple[float, ...]


def forecast_file(path: Path, manifest: ForecastManifest, settings: Settings, wish: Wish) -> Forecasts:
    """Forecast what follows each series of a file, from the last value of its target on.

    Rows after it tell a model with features that are known ahead their future.

    Raises:
        DataError: the file cannot be read, or its times follow no frequency.
        InvalidRequestError: the model knows no such levels.
    """
    levels = _quantile_levels(manifest, wish.levels)
    name = f"{manifest.name}@{manifest.version}"
    with ExitStack() as stack:
        run: Callable[[Sequence[Asked]], list[Answer]] = functools.partial(forecast_all, settings, name)
        if settings.processes > 1 and path.is_file() and path.stat().st_size > WORTH_PROCESSES:
            run = stack.enter_context(Forecasters(settings, name)).forecast
        series, asked, times = _asked(path, manifest, levels, wish)
        return Forecasts(series, run(asked), times, levels)


def _asked(
    path: Path, manifest: ForecastManifest, levels: tuple[float, ...], wish: Wish
) -> tuple[list[Series], list[Asked], list[pd.Index]]:
    target = wish.target or (manifest.target if len(manifest.features) > 1 else None)
    series, _ = read_series([path], target, manifest.features[1:], manifest.categories, wish.freq)
    known = [manifest.features.index(name) for name in manifest.known_ahead]
    bounds = NON_NEGATIVE if wish.non_negative else UNBOUNDED
    asked, times = [], []
    for one in series:
        season = wish.season_length or usual_season(manifest, one.freq, one.season)
        future = one.future[:, known] if known and one.future.size else None
        request = ForecastRequest(one.values, wish.horizon, levels, bounds=bounds, future=future)
        asked.append((request, season))
        times.append(_times_after(one, wish.horizon))
    return series, asked, times


def forecast_table(found: Forecasts) -> pd.DataFrame:
    """A row for each value forecast: unique_id, ds, median, and the ends of the intervals, lo-80, hi-80, ..."""
    answered = [i for i, quantiles in enumerate(found.quantiles) if not isinstance(quantiles, str)]
    stacked = np.concatenate([found.quantiles[i] for i in answered]) if answered else np.empty((0, len(found.levels)))
    ids = np.array([found.series[i].id for i in answered], dtype=object)
    times = [found.times[i] for i in answered]
    columns = {
        "unique_id": np.repeat(ids, [len(some) for some in times]),
        "ds": times[0].append(times[1:]) if times else np.empty(0),
        "median": stacked[:, found.levels.index(0.5)],
    }
    for low, high in zip(found.levels, reversed(found.levels), strict=True):
        if low < 0.5:
            width = f"{round(100 * (high - low), 6):g}"
            columns |= {
                f"lo-{width}": stacked[:, found.levels.index(low)],
                f"hi-{width}": stacked[:, found.levels.index(high)],
            }
    return pd.DataFrame(columns)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV or, by its name, a Parquet file.

    Raises:
        DataError: it cannot be written.
    """
    try:
        if path.suffix == ".parquet":
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def picture(found: Forecasts, path: Path) -> None:
    """Draw the first few series, their newest values and the fan of quantiles.

    Raises:
        DataError: it cannot be written.
    """
    from training.plots import ForecastPanel, plot_forecasts

    panels: list[ForecastPanel] = []
    for series, quantiles, times in zip(found.series, found.quantiles, found.times, strict=True):
        if isinstance(quantiles, str) or len(panels) == PICTURED:
            continue
        shown = min(len(series.values), max(24, 4 * len(quantiles)))
        both = None
        if series.times is not None:
            assert isinstance(times, pd.DatetimeIndex)
            parts = (series.times[-shown:], times)
            both = np.concatenate([part.tz_localize(None).to_numpy() for part in parts])
        panels.append(ForecastPanel(series.id, series.values[-shown:, 0], np.empty(0), quantiles, both))
    if panels:
        try:
            plot_forecasts(panels, found.levels, path, keep_truth=True, data_too=False)
        except (OSError, ValueError) as error:  # of a kind of picture that there is not
            raise DataError(f"{path}: cannot be written: {error}") from error


@contextmanager
def standard_input(path: Path) -> Iterator[Path]:
    """The file, or for "-" one with what standard input holds, as CSV."""
    if path != Path("-"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "input.csv"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield copy


def as_json(table: pd.DataFrame) -> str:
    """A JSON array with an object for each row; times in ISO 8601, with the offset of their zone if they have one."""
    if isinstance(table["ds"].dtype, pd.DatetimeTZDtype):
        table = table.assign(ds=[time.isoformat() for time in table["ds"]])
    return table.to_json(orient="records", date_format="iso", double_precision=15)


def preview(table: pd.DataFrame) -> str:
    """The first rows, as text."""
    shown = table.head(PREVIEWED).to_string(index=False, float_format=lambda value: f"{value:.6g}")
    more = len(table) - PREVIEWED
    return shown if more <= 0 else f"{shown}\n... and {more} more; --out FILE writes them all"


def _quantile_levels(manifest: ForecastManifest, wanted: Sequence[float] | None) -> tuple[float, ...]:
    known = manifest.quantile_levels
    if wanted is None:
        ends = {end for level in USUAL_LEVELS for end in tails(level) if known[0] <= end <= known[-1]}
    else:
        ends = {end for level in wanted for end in tails(level)}
        check_levels(sorted(ends), manifest, "--levels")
    return tuple(sorted({*ends, 0.5}))


def _times_after(series: Series, horizon: int) -> pd.Index:
    if series.times is None:
        return pd.RangeIndex(1, horizon + 1)
    try:
        return times_after(series.times[-1], series.freq, horizon)
    except (ValueError, OverflowError) as error:
        raise DataError(f"the times of the forecast leave the calendar: {error}") from None
