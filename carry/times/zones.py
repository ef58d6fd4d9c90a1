"""Time zones of times whose file tells them only by offsets, or by hours that occur twice. Knows nothing of files."""

import functools
import zoneinfo
from datetime import UTC, timedelta, timezone, tzinfo
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]

WELL_KNOWN = (
    *("Europe/Berlin", "Europe/London", "Europe/Athens", "Europe/Lisbon", "America/New_York", "America/Chicago"),
    *("America/Denver", "America/Los_Angeles", "America/Sao_Paulo", "Australia/Sydney", "Australia/Adelaide"),
    *("Pacific/Auckland", "Asia/Tokyo", "Asia/Kolkata"),
)
"""Zones that are tried first: of those that fit alike, people expect one of these."""


@functools.cache
def zone_names() -> list[str]:
    """All zones of the database, those that many people live in first."""
    regions = ("America/", "Asia/", "Australia/", "Europe/", "Pacific/", "Africa/", "Atlantic/")
    known = zoneinfo.available_timezones() - {"localtime", "Factory"}
    others = sorted(known.difference(WELL_KNOWN), key=lambda name: (not name.startswith(regions), name))
    return [*(name for name in WELL_KNOWN if name in known), *others]


def find_zone(utc: pd.DatetimeIndex, offsets: Ints) -> tuple[tzinfo, str]:
    """A zone whose clocks show these offsets at these times, and a note: if the offsets change, one of the time zone
    database; if they do not, or no zone fits, the newest offset."""
    seconds = int(offsets[int(utc.argmax())]) if len(utc) else 0
    fixed = UTC if seconds == 0 else timezone(timedelta(seconds=seconds))
    if not len(utc) or (offsets == offsets[0]).all():
        return fixed, ""
    changes = np.flatnonzero(np.diff(offsets))
    probes = [int(utc.argmin()), int(utc.argmax()), *changes.tolist()[:200], *(changes + 1).tolist()[:200]]
    for name in zone_names():
        zone = zoneinfo.ZoneInfo(name)
        if (_seconds(utc[probes], zone) == offsets[probes]).all() and (_seconds(utc, zone) == offsets).all():
            return zone, f"the offsets of the times are those of {name}: times go on in that zone"
    return fixed, "the offsets of the times are those of no one zone: times go on at the newest offset"


def _seconds(utc: pd.DatetimeIndex, zone: tzinfo) -> Ints:
    local = utc.tz_localize("UTC").tz_convert(zone).tz_localize(None) if utc.tz is None else utc
    seconds: Ints = ((local - utc) // pd.Timedelta(seconds=1)).to_numpy(dtype=np.int64)
    return seconds


def resolve_repeated_hours(
    times: pd.DatetimeIndex, series: "NDArray[Any] | None" = None
) -> tuple[pd.DatetimeIndex, str] | None:
    """The times (N,) of a file by a clock on the wall, in a zone whose clocks repeat the hours that occur twice; and a
    note for the report. None if the repeated times are not explained so.

    times are without a zone and in the order of the file, in which the hour before the change comes first; series (N,):
    which series each row is of.
    """
    keys = pd.DataFrame({"series": 0 if series is None else series, "time": times})
    repeats = keys.groupby(["series", "time"], sort=False).cumcount().to_numpy()
    if times.tz is not None or not repeats.any() or repeats.max() > 1:
        return None
    twice = keys.duplicated(keep=False).to_numpy()
    repeated = times[twice].unique()
    days = repeated.normalize().unique()
    if len(days) > 2 * (repeated.max().year - repeated.min().year + 1) or (repeated == repeated.normalize()).all():
        return None  # clocks are set back once or twice a year, and not the dates
    for name in zone_names():
        zone = zoneinfo.ZoneInfo(name)
        first, second = (
            repeated.tz_localize(zone, ambiguous=np.full(len(repeated), summer), nonexistent="NaT")
            for summer in (True, False)
        )
        if first.hasnans or (first == second).any():
            continue
        resolved = times.tz_localize(zone, ambiguous=~(repeats == 1), nonexistent="shift_forward")
        return resolved, (
            f"the hour of {repeated[0]} comes twice, as clocks of {name} show it: times go on in that zone"
        )
    return None
