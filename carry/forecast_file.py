"""Forecasts every series of a file that fits memory, as the service would, into a table and a picture."""

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.files import DataError, Decimal, Failure, Order, Reading, ReadOptions, Series, read_files
from carry.models import ForecastProcesses, QuantilesOrReason, SeasonedRequest, forecast_all, usual_season
from carry.times.frequencies import times_after
from service.forecast.intervals import NON_NEGATIVE, UNBOUNDED, interval_to_quantiles
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest, check_levels
from service.settings import Settings

DEFAULT_LEVELS = (80.0, 95.0)
MAX_PANELS = 6
"""Series in a picture."""
PREVIEW_ROWS = 48
"""Rows of a table that is printed."""
WORTH_PROCESSES = 1_000_000
"""Bytes of a file from which on several processes gain more time than they take to start."""


@dataclass(frozen=True)
class ForecastOptions:
    """What to forecast. levels: central intervals in percent; None for those of 80 and 95 that the model knows.
    season_length, freq (pandas' name): None where the data name them. id, dates, decimal, missing, sheet: how to read
    the file, as `ReadOptions` has them."""

    horizon: int
    levels: Sequence[float] | None = None
    target: str | None = None
    freq: str | None = None
    season_length: tuple[int, ...] | None = None
    non_negative: bool = False
    id: tuple[str, ...] = ()
    dates: Order | None = None
    decimal: Decimal | None = None
    missing: tuple[str, ...] = ()
    sheet: str | None = None


@dataclass(frozen=True)
class Forecasts:
    """Of each series i: its quantiles (horizon, L) at `levels`, or why there are none; and its times (horizon,), or
    steps from 1 where the file has no times. reading: what was read of the file, and what not."""

    series: list[Series]
    quantiles: list[QuantilesOrReason]
    times: list["pd.Index[Any]"]
    levels: tuple[float, ...]
    reading: Reading = field(default_factory=lambda: Reading([], ()))

    @property
    def failures(self) -> list[Failure]:
        """The series without a forecast, and why."""
        refused = [
            Failure(series.id, reason)
            for series, reason in zip(self.series, self.quantiles, strict=True)
            if isinstance(reason, str)
        ]
        return [*self.reading.failures, *refused]

    def report(self) -> list[str]:
        """What was read of the file, for a person."""
        return [line for report in self.reading.reports for line in report.lines()]


def forecast_file(path: Path, manifest: ForecastManifest, settings: Settings, options: ForecastOptions) -> Forecasts:
    """Forecast what follows the last value of each series' target. Later rows hold the future of the features that the
    model knows ahead.

    Raises:
        DataError: the file cannot be read, or none of its series can be forecast.
        InvalidRequestError: the model knows no such levels.
    """
    levels = _quantile_levels(manifest, options.levels)
    name = f"{manifest.name}@{manifest.version}"
    with ExitStack() as stack:
        run: Callable[[Sequence[SeasonedRequest]], list[QuantilesOrReason]]
        run = functools.partial(forecast_all, settings, name)
        if settings.processes > 1 and path.is_file() and path.stat().st_size > WORTH_PROCESSES:
            run = stack.enter_context(ForecastProcesses(settings, name)).forecast
        reading = _read(path, manifest, options)
        series, times = [], []
        for each in reading.series:
            try:
                times.append(_times_after(each, options.horizon))
            except DataError as error:
                reading.failures.append(Failure(each.id, str(error)))
            else:
                series.append(each)
        if not series:
            raise DataError(_no_series(path, reading))
        requests = [_request(each, manifest, levels, options) for each in series]
        return Forecasts(series, run(requests), times, levels, reading)


def _read(path: Path, manifest: ForecastManifest, options: ForecastOptions) -> Reading:
    target = options.target or (manifest.target if len(manifest.features) > 1 else None)
    read_options = ReadOptions(
        target,
        tuple(manifest.features[1:]),
        manifest.categories or {},
        options.freq,
        options.id,
        options.dates,
        options.decimal,
        options.missing,
        options.sheet,
    )
    return read_files([path], read_options)


def _no_series(path: Path, reading: Reading) -> str:
    if len(reading.failures) == 1:
        return f"{path}: {reading.failures[0].id}: {reading.failures[0].reason}"
    reasons = "; ".join(f"{failure.id}: {failure.reason}" for failure in reading.failures[:3])
    return f"{path}: none of its {len(reading.failures)} series can be forecast: {reasons}"


def _request(
    series: Series, manifest: ForecastManifest, levels: tuple[float, ...], options: ForecastOptions
) -> SeasonedRequest:
    known_ahead = [manifest.features.index(name) for name in manifest.known_ahead]
    future = series.future[:, known_ahead] if known_ahead and series.future.size else None
    bounds = NON_NEGATIVE if options.non_negative else UNBOUNDED
    request = ForecastRequest(series.values, options.horizon, levels, bounds=bounds, future=future)
    return request, options.season_length or usual_season(manifest, series.freq, series.season)


def forecast_table(forecasts: Forecasts) -> pd.DataFrame:
    """A row for each forecast value: unique_id, ds, median, and the ends of the intervals, lo-80, hi-80, ..."""
    levels = forecasts.levels
    answered = [i for i, quantiles in enumerate(forecasts.quantiles) if not isinstance(quantiles, str)]
    stacked = np.concatenate([forecasts.quantiles[i] for i in answered]) if answered else np.empty((0, len(levels)))
    ids = [forecasts.series[i] for i in answered]
    times = [forecasts.times[i] for i in answered]
    lengths = list(map(len, times))
    columns: dict[str, Any] = {"unique_id": np.repeat(_ids(ids), lengths)}
    names = next((report.ids for report in forecasts.reading.reports), ())
    if len(names) > 1 and all(len(series.key) == len(names) for series in ids):
        columns |= {name: np.repeat(_cells([series.key[i] for series in ids]), lengths) for i, name in enumerate(names)}
    columns |= {"ds": times[0].append(times[1:]) if times else np.empty(0), "median": stacked[:, levels.index(0.5)]}
    for low, high in zip(levels, reversed(levels), strict=True):
        if low < 0.5:
            width = f"{round(100 * (high - low), 6):g}"
            columns |= {f"lo-{width}": stacked[:, levels.index(low)], f"hi-{width}": stacked[:, levels.index(high)]}
    return pd.DataFrame(columns)


def _ids(series: Sequence[Series]) -> NDArray[Any]:
    """What names each series: numbers, if the file's type has them as numbers."""
    if series and all(len(each.key) == 1 and isinstance(each.key[0], int) for each in series):
        return _cells([each.key[0] for each in series])
    return _cells([each.id for each in series])


def _cells(values: Sequence[Any]) -> NDArray[Any]:
    if values and all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return np.array(values)
    cells = np.empty(len(values), dtype=object)
    cells[:] = values
    return cells


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a Parquet file if the name ends with .parquet, else CSV.

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


def write_picture(forecasts: Forecasts, path: Path) -> None:
    """Draw the first few series: their newest values and the fan of quantiles.

    Raises:
        DataError: it cannot be written.
    """
    from carry.plots import ForecastPanel, plot_forecasts

    panels: list[ForecastPanel] = []
    for series, quantiles, times in zip(forecasts.series, forecasts.quantiles, forecasts.times, strict=True):
        if isinstance(quantiles, str) or len(panels) == MAX_PANELS:
            continue
        shown = min(len(series.values), max(24, 4 * len(quantiles)))
        axis = None
        if series.times is not None:
            parts = (series.times[-shown:], pd.DatetimeIndex(times))
            axis = np.concatenate([part.tz_localize(None).to_numpy() for part in parts])
        panels.append(ForecastPanel(series.id, series.values[-shown:, 0], np.empty(0), quantiles, axis))
    if panels:
        try:
            plot_forecasts(panels, forecasts.levels, path, keep_truth=True, write_csv=False)
        except (OSError, ValueError) as error:  # matplotlib knows no such kind of picture
            raise DataError(f"{path}: cannot be written: {error}") from error


def as_json(table: pd.DataFrame) -> str:
    """A JSON array with an object for each row; times in ISO 8601, with the offset of their zone if they have one."""
    if isinstance(table["ds"].dtype, pd.DatetimeTZDtype):
        table = table.assign(ds=[time.isoformat() for time in table["ds"]])
    return table.to_json(orient="records", date_format="iso", double_precision=15)


def preview(table: pd.DataFrame) -> str:
    """The first rows, as text."""
    text = table.head(PREVIEW_ROWS).to_string(index=False, float_format=lambda value: f"{value:.6g}")
    more = len(table) - PREVIEW_ROWS
    return text if more <= 0 else f"{text}\n... and {more} more; --out FILE writes them all"


def _quantile_levels(manifest: ForecastManifest, intervals: Sequence[float] | None) -> tuple[float, ...]:
    known = manifest.quantile_levels
    if intervals is None:
        levels = {end for width in DEFAULT_LEVELS for end in interval_to_quantiles(width)}
        levels = {level for level in levels if known[0] <= level <= known[-1]}
    else:
        levels = {end for width in intervals for end in interval_to_quantiles(width)}
        check_levels(sorted(levels), manifest, "--levels")
    return tuple(sorted({*levels, 0.5}))


def _times_after(series: Series, horizon: int) -> "pd.Index[Any]":
    """The times of the forecast.

    Raises:
        DataError: they leave the calendar.
    """
    known = series.steps if series.times is None else series.times
    if known is None:
        return pd.RangeIndex(1, horizon + 1)
    try:
        return times_after(known, series.freq, horizon)
    except (ValueError, OverflowError) as error:
        raise DataError(f"the times of the forecast leave the calendar: {error}") from None
