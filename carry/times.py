"""The times of a series: in their zone, at their frequency, without gaps. Knows nothing of files.

Frequencies of a day or longer count by the clock on the wall, shorter ones by the time that passes: when clocks change,
a day at midnight stays at midnight, and an hour lasts an hour.
"""

import functools
import zoneinfo
from datetime import UTC, timedelta, timezone, tzinfo
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

REGULAR = ("YS", "YE", "QS", "QE", "MS", "ME", "W", "B", "D", "h", "30min", "15min", "10min", "5min", "min", "s")
"""Frequencies that times with gaps may have, tried from the coarsest to the finest."""
MAX_SPREAD = 2
"""Places of a grid per value, at most: values that are fewer do not follow the frequency."""
DAY = timedelta(days=1)
REGIONS = ("America/", "Asia/", "Australia/", "Europe/")
"""Of time zones that fit alike, `_zone` takes one of these."""


def parse_times(column: "pd.Series[Any]") -> "pd.Series[Any] | None":
    """A column as times, in the zone that it names or that its offsets follow, if there is one; None if the column
    holds no times."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column
    if pd.api.types.is_numeric_dtype(column):
        return None
    form = "mixed" if column.dtype == object else None
    try:
        utc = pd.to_datetime(column, format=form, utc=True)
    except (ValueError, TypeError):
        return None
    offsets = _offsets(column)
    if offsets is None:
        return utc.dt.tz_localize(None)
    return utc.dt.tz_convert(_zone(pd.DatetimeIndex(utc), offsets))


def _offsets(column: "pd.Series[Any]") -> NDArray[np.int64] | None:
    """The seconds ahead of UTC that each text of a time names; None if none names any."""
    text = column.dropna().astype(str)
    if not text.str.contains(r":.*(?:[zZ+-]|UTC)").any():
        return None
    named = text.str.extract(r"\d\s*(?:(?P<utc>[zZ]|UTC)|(?P<sign>[+-])(?P<h>\d{2}):?(?P<m>\d{2})?)\s*$")
    zoned = text.str.contains(":", regex=False) & (named["utc"].notna() | named["h"].notna())
    if not zoned.any():
        return None
    seconds = 3600 * named["h"].fillna("0").astype(int) + 60 * named["m"].fillna("0").astype(int)
    return (seconds * np.where(named["sign"] == "-", -1, 1)).where(zoned, 0).to_numpy(dtype=np.int64)


def _zone(utc: pd.DatetimeIndex, offsets: NDArray[np.int64]) -> tzinfo:
    """A zone whose clocks show these offsets at these times: if the offsets change, one of the time zone database; if
    they do not, or no zone fits, the newest offset."""
    utc = utc.dropna()
    fixed = timezone(timedelta(seconds=int(offsets[int(utc.argmax())]))) if len(utc) else UTC
    if not len(utc) or (offsets == offsets[0]).all():
        return fixed
    ends = [
        int(utc.argmin()),
        int(utc.argmax()),
        *np.flatnonzero(np.diff(offsets)),
        *(np.flatnonzero(np.diff(offsets)) + 1),
    ]
    probes, probe_offsets = utc[ends], offsets[ends]
    for name in sorted(zoneinfo.available_timezones(), key=lambda name: (not name.startswith(REGIONS), name)):
        zone = zoneinfo.ZoneInfo(name)
        if (_seconds(probes, zone) == probe_offsets).all() and (_seconds(utc, zone) == offsets).all():
            return zone
    return fixed


def _seconds(utc: pd.DatetimeIndex, zone: tzinfo) -> NDArray[np.int64]:
    local = utc.tz_convert(zone).tz_localize(None)
    return ((local - utc.tz_localize(None)) // pd.Timedelta(seconds=1)).to_numpy(dtype=np.int64)


class Grid:
    """Every time from the first to the last of a series, at its frequency `freq` (pandas' name)."""

    def __init__(self, stamps: pd.DatetimeIndex, freq: str, zone: tzinfo | None) -> None:
        self._stamps = stamps
        self.freq = freq
        self.zone = zone

    @property
    def times(self) -> pd.DatetimeIndex:
        """The times, in their zone."""
        return _localised(self._stamps, self.freq, self.zone)

    def indices(self, times: pd.DatetimeIndex) -> NDArray[np.intp]:
        """The index in the grid of each of the series' times."""
        indices: NDArray[np.intp] = self._stamps.get_indexer(_counted(times, self.freq))
        return indices


def regular_times(times: pd.DatetimeIndex, freq: str | None) -> Grid | None:
    """The grid of ascending times at `freq`, or else at the frequency that they follow: the coarsest that fits, if some
    times are missing. None if they follow none.

    Raises:
        ValueError: pandas knows no such frequency.
    """
    stamps = times.tz_localize(None) if times.tz is None else times.tz_convert("UTC").tz_localize(None)
    array = stamps.to_numpy()
    # As bytes, which a cache can hold: the series of a file often share their times.
    return _regular_times(array.tobytes(), array.dtype.str, times.tz, freq)


@functools.lru_cache(maxsize=64)
def _regular_times(stamps: bytes, dtype: str, zone: tzinfo | None, freq: str | None) -> Grid | None:
    times = pd.DatetimeIndex(np.frombuffer(stamps, dtype=dtype))
    if zone is not None:
        times = times.tz_localize("UTC").tz_convert(zone)
    names = [freq] if freq is not None else _candidates(times)
    for name in names:
        counted = _counted(times, name)
        if not counted.is_unique or _length(counted, name) > MAX_SPREAD * len(times) + 1:
            continue
        grid = pd.date_range(counted[0], counted[-1], freq=name)
        if len(grid) <= MAX_SPREAD * len(times) + 1 and counted.isin(grid).all():
            return Grid(grid, grid.freqstr or name, zone)
    return None


def _candidates(times: pd.DatetimeIndex) -> list[str]:
    if len(times) < 3:
        return list(REGULAR)
    inferred = {_inferred(_counted(times, name), name) for name in ("D", "h")} - {None}
    month, day = times[0].strftime("%b").upper(), times[0].strftime("%a").upper()
    anchors = {"YS": month, "YE": month, "QS": month, "QE": month, "W": day}
    return [
        *sorted(filter(None, inferred)),
        *(f"{name}-{anchors[name]}" if name in anchors else name for name in REGULAR),
    ]


def _inferred(times: pd.DatetimeIndex, like: str) -> str | None:
    """The frequency that pandas infers of times without gaps, if it counts as `like` does; else None."""
    freq = pd.infer_freq(times) if times.is_unique else None
    return freq if freq is not None and _by_the_clock(freq) == _by_the_clock(like) else None


def times_after(last: pd.Timestamp, freq: str | None, count: int) -> pd.DatetimeIndex:
    """The next `count` times at a frequency, in the zone of the last.

    Raises:
        ValueError: they leave the calendar.
    """
    return _times_after(last, freq or "D", count)


@functools.lru_cache(maxsize=64)
def _times_after(last: pd.Timestamp, freq: str, count: int) -> pd.DatetimeIndex:
    start = _counted(pd.DatetimeIndex([last]), freq)[0]
    return _localised(pd.date_range(start, periods=count + 1, freq=freq)[1:], freq, last.tz)


def _by_the_clock(freq: str) -> bool:
    """Whether a frequency counts by the clock on the wall: one of a day or longer.

    Raises:
        ValueError: pandas knows no such frequency.
    """
    offset = pd.tseries.frequencies.to_offset(freq)
    return not isinstance(offset, pd.tseries.offsets.Tick) or pd.Timedelta(offset) % DAY == pd.Timedelta(0)


def _counted(times: pd.DatetimeIndex, freq: str) -> pd.DatetimeIndex:
    """The times without their zone, as a frequency counts them."""
    if times.tz is None:
        return times
    return (times if _by_the_clock(freq) else times.tz_convert("UTC")).tz_localize(None)


def _localised(times: pd.DatetimeIndex, freq: str, zone: tzinfo | None) -> pd.DatetimeIndex:
    """The reverse of `_counted`. A time that clocks skip becomes the first after it; of one that they repeat, it takes
    the first."""
    if zone is None:
        return times
    if not _by_the_clock(freq):
        return times.tz_localize("UTC").tz_convert(zone)
    return times.tz_localize(zone, ambiguous=np.ones(len(times), dtype=bool), nonexistent="shift_forward")


def _length(times: pd.DatetimeIndex, freq: str) -> float:
    """About how many times a grid would have, without making it: one of seconds over a century would fill memory."""
    offset = pd.tseries.frequencies.to_offset(freq)
    if isinstance(offset, pd.tseries.offsets.Tick):
        return float((times[-1] - times[0]) / pd.Timedelta(offset))
    return 0.0
