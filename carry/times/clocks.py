"""The times of a series by two clocks: the one on the wall, and the time that passes. Knows nothing of frequencies but
that each counts by one of them."""

from dataclasses import dataclass, field
from datetime import tzinfo
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from carry.times.calendars import DAY, HOUR, Ints, Rule
from carry.times.zones import zone_names

MAX_TRIED = 2000
"""Times that tell whether a series has a zone that it does not name."""


def stamps_of(ints: Ints, unit: str, zone: tzinfo | None) -> pd.DatetimeIndex:
    times = pd.DatetimeIndex(ints.view("datetime64[us]"))
    return as_unit(times if zone is None else times.tz_localize("UTC").tz_convert(zone), unit)


def as_unit(times: pd.DatetimeIndex, unit: str) -> pd.DatetimeIndex:
    """Times in nanoseconds, if `unit` is that and holds them (they end in the year 2262); else in microseconds."""
    try:
        return times.as_unit("ns" if unit == "ns" else "us")
    except pd.errors.OutOfBoundsDatetime:
        return times.as_unit("us")


@dataclass(frozen=True)
class Clock:
    """The times of a series by both clocks, in microseconds since 1970: `wall` (N,), the clock on the wall, and
    `passed` (N,), the time that passes."""

    index: pd.DatetimeIndex
    wall: Ints = field(init=False)
    passed: Ints = field(init=False)

    def __post_init__(self) -> None:
        index = as_unit(self.index, "us")
        wall: Ints = index.tz_localize(None).asi8
        object.__setattr__(self, "wall", wall)
        object.__setattr__(self, "passed", wall if index.tz is None else index.asi8)

    def in_zone(self, zone: tzinfo) -> "Clock":
        """The same times in another zone."""
        return Clock(stamps_of(self.passed, "us", zone))

    def of(self, rule: Rule) -> Ints:
        return self.wall if rule.by_wall else self.passed

    def stamps(self, rule: Rule, places: Ints, unit: str = "us") -> pd.DatetimeIndex:
        """The times of places, in the zone of the series. A time that clocks skip becomes the first after it; of one
        that they repeat, it takes the first."""
        return localised(rule.times(places), rule.by_wall, self.index.tz, unit)

    def places(self, rule: Rule) -> Ints | None:
        """The ascending places (N,) of the times if the rule has all of them, else None."""
        times = self.of(rule)
        places = rule.places(times)
        if (np.diff(places) <= 0).any():
            return None
        wrong = np.flatnonzero(rule.times(places) != times)
        if not len(wrong):
            return places
        if self.index.tz is None or not rule.by_wall:
            return None
        moved = self.stamps(rule, places[wrong])  # midnight may be skipped: the day begins at one
        return places if (moved.asi8 == self.passed[wrong]).all() else None


def localised(ints: Ints, by_wall: bool, zone: tzinfo | None, unit: str) -> pd.DatetimeIndex:
    times = pd.DatetimeIndex(ints.view("datetime64[us]"))
    if zone is not None and by_wall:
        times = times.tz_localize(zone, ambiguous=np.ones(len(times), dtype=bool), nonexistent="shift_forward")
    elif zone is not None:
        times = times.tz_localize("UTC").tz_convert(zone)
    return as_unit(times, unit)


def hidden_zone(clock: Clock) -> tzinfo | None:
    """The zone whose days times are that were written by a clock which is not set: 23:00 in winter, 22:00 in summer is
    midnight in Berlin. None if there is none, or the times are at one time of day by their own clock."""
    times = clock.passed[-MAX_TRIED:]
    phases = np.unique(clock.wall[-MAX_TRIED:] % DAY)
    if len(times) < 4 or len(phases) != 2 or int(phases[1] - phases[0]) not in (HOUR, DAY - HOUR):
        return None
    utc = pd.DatetimeIndex(times.view("datetime64[us]")).tz_localize("UTC")
    others = None
    for name in zone_names():
        zone = ZoneInfo(name)
        of_day = utc.tz_convert(zone).tz_localize(None).asi8 % DAY
        if (of_day == 0).all():
            return zone
        if others is None and (of_day == of_day[0]).all():
            others = zone
    return others
