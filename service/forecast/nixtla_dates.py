"""Recognises the exogenous features that the client's `date_features` adds: parts of the times of a series.

A forecaster without features needs none of them: it has the season from `freq`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequestError
from service.forecast.manifest import ForecastManifest
from service.forecast.nixtla_payload import SeriesPayload
from service.forecast.timestamps import times_of

Times = NDArray[np.datetime64]
Numbers = NDArray[np.int64]
MAX_VALUES = 300_000
"""To look at more would keep the event loop too long."""


def drop_date_features(
    series: SeriesPayload, freq: str | None, manifest: ForecastManifest, h: int = 0
) -> SeriesPayload:
    """The series without its exogenous features, if the model takes none and each is a part of the time (the month,
    the day of the week, ...), or 1 where that part has one value and 0 elsewhere. Otherwise, the series as it is."""
    rows, future = series.X, series.X_future
    starts, sizes = series.start_datetime, series.sizes
    if len(manifest.features) > 1 or not rows or starts is None or freq is None or len(starts) != len(sizes):
        return series
    if sum(sizes) != len(series.y) or len(rows) * (len(series.y) + h * len(sizes)) > MAX_VALUES:
        return series
    try:
        times = [times_of(start, freq, size + h) for start, size in zip(starts, sizes, strict=True)]
    except InvalidRequestError:
        return series
    past = _parts(np.concatenate([all_times[:size] for all_times, size in zip(times, sizes, strict=True)]))
    coming = _parts(np.concatenate([all_times[size:] for all_times, size in zip(times, sizes, strict=True)]))
    for i, row in enumerate(rows):
        ahead = future[i] if future is not None and i < len(future) else None
        if not _is_date_feature(row, ahead, past, coming):
            return series
    return series.model_copy(update={"X": None, "X_future": None, "categorical_exog": None})


def _parts(times: Times) -> list[Numbers]:
    """The parts that pandas calls year, quarter, month, day, dayofyear, dayofweek, week, hour, minute and second."""
    days, months, years = (times.astype(f"datetime64[{unit}]") for unit in "DMY")
    weekday = (days.astype(np.int64) + 3) % 7
    thursday = days + (3 - weekday).astype("timedelta64[D]")
    seconds = (times.astype("datetime64[s]") - days).astype(np.int64)
    month = months.astype(np.int64) % 12 + 1
    return [
        years.astype(np.int64) + 1970,
        (month - 1) // 3 + 1,
        month,
        (days - months.astype("datetime64[D]")).astype(np.int64) + 1,
        (days - years.astype("datetime64[D]")).astype(np.int64) + 1,
        weekday,
        (thursday - thursday.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) // 7 + 1,
        seconds // 3600,
        seconds // 60 % 60,
        seconds % 60,
    ]


def _is_date_feature(
    row: Sequence[Any], ahead: Sequence[Any] | None, past: list[Numbers], coming: list[Numbers]
) -> bool:
    try:
        values = np.array([*row, *(ahead or ())], dtype=np.float64)
    except (TypeError, ValueError):
        return False
    for before, after in zip(past, coming, strict=True):
        part = before if ahead is None else np.concatenate([before, after])
        if len(part) != len(values):
            return False
        if np.array_equal(part, values):
            return True
        ones = np.unique(part[values == 1])
        if len(ones) <= 1 and np.array_equal(values, np.isin(part, ones)):
            return True
    return False
