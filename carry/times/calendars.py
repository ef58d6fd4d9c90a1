"""Kinds of frequency, each a rule that numbers its times: place 0, 1, 2, ... <-> time. Knows nothing of series, zones.

Times are whole microseconds since 1970 by a clock without a zone, as int64 arrays (N,). A rule computes the place of a
time by arithmetic, so that the length of a grid is known before any grid is built.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from service.forecast.seasons import usual_seasons

Ints = NDArray[np.int64]

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
WEEK = 7 * DAY
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
ACCEPTED = (
    "accepted are pandas' names, such as YS, QE, MS, M, W, B, D, h, 15min, s, and `rank` (each row is a step, "
    "whatever its time)"
)
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday
_UNITS = {"D": DAY, "h": HOUR, "min": MINUTE, "s": SECOND, "ms": 1000, "us": 1}


class FrequencyError(ValueError):
    """No such frequency; the message says which are accepted."""


class Rule(Protocol):
    """A frequency that is bound to its first day, month or second."""

    @property
    def name(self) -> str: ...

    @property
    def by_wall(self) -> bool:
        """Whether it counts by the clock on the wall, not by the time that passes."""
        ...

    def places(self, times: Ints) -> Ints:
        """The place nearest to each time."""
        ...

    def times(self, places: Ints) -> Ints:
        """The time of each place."""
        ...


@dataclass(frozen=True)
class Ticks:
    """Every `step` microseconds, from `phase`."""

    step: int
    phase: int
    by_wall: bool

    @property
    def name(self) -> str:
        if self.step % WEEK == 0:
            return _counted(self.step // WEEK, f"W-{WEEKDAYS[int(weekday(np.array([self.phase]))[0])]}")
        unit, length = next((unit, length) for unit, length in _UNITS.items() if self.step % length == 0)
        return _counted(self.step // length, unit)

    def places(self, times: Ints) -> Ints:
        return (times - self.phase + self.step // 2) // self.step

    def times(self, places: Ints) -> Ints:
        return self.phase + self.step * places


DayOf = Callable[[Ints], Ints]
"""The day (since 1970) of months (since 1970) that a rule names."""


@dataclass(frozen=True)
class Months:
    """On `days` of every `count`th month from `first` (since 1970), at the time of day `at`."""

    count: int
    first: int
    days: tuple[str, ...]
    at: int
    by_wall: bool = True

    @property
    def name(self) -> str:
        if len(self.days) > 1:
            return next((name for name, days in SEVERAL_A_MONTH.items() if days == self.days), "SM")
        day, month = self.days[0], self.first % 12
        if day in ("S", "E", "BS", "BE"):
            if self.count == 12:
                return f"{day[:-1]}Y{day[-1]}-{MONTHS[month]}"
            if self.count == 3:  # as pandas calls them: of the four months that a quarter may begin or end in, this one
                return f"{day[:-1]}Q{day[-1]}-{MONTHS[month % 3] if day[-1] == 'S' else MONTHS[month % 3 - 3]}"
            return _counted(self.count, f"{day[:-1]}M{day[-1]}")
        if day.startswith(("WOM", "LWOM")):
            return _counted(self.count, day)
        return {12: "Y", 3: "Q"}.get(self.count) or _counted(self.count, "M")

    def places(self, times: Ints) -> Ints:
        months = month_of(times) - self.first
        near = len(self.days) * (months // self.count)
        if len(self.days) == 1 and (self.times(near) == times).all():
            return near
        candidates = near + np.arange(-1, 2 * len(self.days))[:, None]
        distance = np.abs(self.times(candidates.ravel()).reshape(candidates.shape) - times)
        places: Ints = np.take_along_axis(candidates, distance.argmin(axis=0)[None], axis=0)[0]
        return places

    def times(self, places: Ints) -> Ints:
        turns, index = np.divmod(places, len(self.days))
        months = self.first + self.count * turns
        if self.days == ("MID",):
            return (month_start(months) + month_start(months + 1)) * (DAY // 2)
        days = np.choose(index, [day_of_month(day)(months) for day in self.days])
        times: Ints = days * DAY + self.at
        return times


SEVERAL_A_MONTH = {"SMS": ("1", "15"), "SME": ("15", "E"), "10D-S": ("1", "11", "21"), "10D-E": ("10", "20", "E")}
"""Frequencies with several times a month. The last two are the ten-day periods of the weather services."""


@dataclass(frozen=True)
class Weekdays:
    """Monday to Friday, at the time of day `at`."""

    at: int
    by_wall: bool = True
    name: str = "B"

    def places(self, times: Ints) -> Ints:
        days = times // DAY
        return 5 * ((days + _EPOCH_WEEKDAY) // 7) + np.minimum((days + _EPOCH_WEEKDAY) % 7, 4)

    def times(self, places: Ints) -> Ints:
        return (7 * (places // 5) + places % 5 - _EPOCH_WEEKDAY) * DAY + self.at


@dataclass(frozen=True)
class Fiscal:
    """Years of 52 or 53 weeks, cut into periods of whole weeks, whose last one takes the 53rd week.

    ending: L, on the last `weekday` of `month`, or N, on the one nearest to the month's end. starts: times are the
    first days of periods, not the last. pattern: "445", "454", "544" (months), "REQ" (quarters), "RE" (years).
    """

    pattern: str
    starts: bool
    ending: str
    month: int
    weekday: int
    at: int
    by_wall: bool = True

    @property
    def name(self) -> str:
        anchor = f"{self.ending}-{MONTHS[self.month]}-{WEEKDAYS[self.weekday]}"
        return f"{self.pattern}{'S' * self.starts}-{anchor}" + ("-4" if self.pattern == "REQ" else "")

    @property
    def _weeks(self) -> list[int]:
        return {"RE": [52], "REQ": [13] * 4}.get(self.pattern) or [int(digit) for digit in self.pattern] * 4

    def year_end(self, years: Ints) -> Ints:
        """The last day (since 1970) of fiscal years."""
        month_ends = day_of_month("E")((years - 1970) * 12 + self.month)
        late = (month_ends + _EPOCH_WEEKDAY - self.weekday) % 7
        return month_ends - late + np.where((self.ending == "N") & (late > 3), 7, 0)

    def places(self, times: Ints) -> Ints:
        per_year = len(self._weeks)
        years = 1970 + month_of(times) // 12
        first, last = int(years.min()) - 1, int(years.max()) + 2
        places = np.arange(first * per_year, last * per_year, dtype=np.int64)
        known = self.times(places)
        right = np.clip(np.searchsorted(known, times), 1, len(known) - 1)
        nearest: Ints = places[right - (times - known[right - 1] < known[right] - times)]
        return nearest

    def times(self, places: Ints) -> Ints:
        weeks = np.cumsum([0, *self._weeks])
        years, index = np.divmod(places, len(self._weeks))
        if self.starts:
            days = self.year_end(years - 1) + 7 * weeks[index] + 1
        else:
            last = index == len(self._weeks) - 1
            days = np.where(last, self.year_end(years), self.year_end(years - 1) + 7 * weeks[index + 1])
        times: Ints = days * DAY + self.at
        return times


def _counted(count: int, unit: str) -> str:
    return unit if count == 1 else f"{count}{unit}"


def month_of(times: Ints) -> Ints:
    """The months since 1970 of times."""
    months: Ints = (times // DAY).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return months


def month_start(months: Ints) -> Ints:
    """The first days (since 1970) of months since 1970."""
    days: Ints = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return days


def weekday(times: Ints) -> Ints:
    """0 Monday ... 6 Sunday."""
    return (times // DAY + _EPOCH_WEEKDAY) % 7


def day_of_month(day: str) -> DayOf:
    """Which day of a month a rule names: S the first, E the last, BS and BE those of Monday to Friday, 1 to 31 (in a
    shorter month its last day), WOM-3FRI the third Friday, LWOM-FRI the last."""
    if day == "E":
        return lambda months: month_start(months + 1) - 1
    if day == "BS":
        return lambda months: _rolled(month_start(months), later=True)
    if day == "BE":
        return lambda months: _rolled(month_start(months + 1) - 1, later=False)
    if day.startswith("WOM"):
        nth, wanted = int(day[4]), WEEKDAYS.index(day[5:])
        return lambda months: _on_or_after(month_start(months), wanted) + 7 * (nth - 1)
    if day.startswith("LWOM"):
        wanted = WEEKDAYS.index(day[5:])
        return lambda months: _on_or_after(month_start(months + 1) - 7, wanted)
    number = 1 if day == "S" else int(day)
    return lambda months: np.minimum(month_start(months) + number - 1, month_start(months + 1) - 1)


def _on_or_after(days: Ints, wanted: int) -> Ints:
    return days + (wanted - days - _EPOCH_WEEKDAY) % 7


def _rolled(days: Ints, later: bool) -> Ints:
    """Days of a weekend moved to the next or the last weekday."""
    late = (days + _EPOCH_WEEKDAY) % 7 - 4
    return np.where(late > 0, days + (3 - late if later else -late), days)


_PATTERN = re.compile(r"([1-9]\d{0,8})?([A-Za-z]+)(?:-([A-Z]{3}|\d[A-Z]{3}))?")
_FISCAL = re.compile(r"(445|454|544|REQ|RE)(S?)-([LN])-([A-Z]{3})-([A-Z]{3})(?:-4)?")
_OLD = {
    **{"H": "h", "T": "min", "S": "s", "d": "D", "L": "ms", "U": "us", "A": "Y", "AS": "YS", "BA": "BYE", "BAS": "BYS"},
    **{"BM": "BME", "BQ": "BQE", "BY": "BYE", "CBMS": "BMS", "SM": "SME", "w": "W", "b": "B", "m": "M", "y": "Y"},
    "q": "Q",
}
"""pandas' older names, and letters that cannot be misread."""
_MONTHS_OF = {"Y": 12, "Q": 3, "M": 1}


@dataclass(frozen=True)
class Frequency:
    """A frequency by its name alone, not yet bound to a series. anchor: the month (0 to 11) or weekday (0 to 6) that it
    names."""

    name: str
    count: int
    unit: str
    day: str = ""
    anchor: int | None = None
    step: int = 0


def read_frequency(name: str) -> Frequency:
    """The frequency of a name.

    Raises:
        FrequencyError: there is none of this name.
    """
    if name in SEVERAL_A_MONTH or _FISCAL.fullmatch(name):
        return Frequency(name, 1, name)
    match = _PATTERN.fullmatch(name)
    if match:
        count, unit, anchor = int(match[1] or 1), _OLD.get(match[2], match[2]), match[3]
        if unit == "B" and anchor is None and count == 1:
            return Frequency(name, 1, "B")
        if unit in ("WOM", "LWOM") and anchor and anchor[-3:] in WEEKDAYS and (unit == "LWOM" or anchor[0] in "1234"):
            return Frequency(name, count, "M", f"{unit}-{anchor}")
        if unit == "W" and (anchor is None or anchor in WEEKDAYS):
            return Frequency(name, count, "W", "", None if anchor is None else WEEKDAYS.index(anchor), count * WEEK)
        dated = re.fullmatch("(B?)([YQM])([SE]?)", unit)
        if dated and (anchor is None or (anchor in MONTHS and dated[2] != "M")) and (dated[3] or not dated[1]):
            end = dated[3] or ("E" if anchor else "")  # Q-FEB and A-JUN have always meant the end
            month = None if anchor is None else MONTHS.index(anchor)
            if month is None and end and dated[2] != "M":
                month = 0 if end == "S" else 11
            return Frequency(name, count * _MONTHS_OF[dated[2]], dated[2], dated[1] * bool(end) + end, month)
        if anchor is None and unit in _UNITS:
            return Frequency(name, count, unit, step=count * _UNITS[unit])
    step = _pandas_step(name)
    if step is None:
        raise FrequencyError(f"{name!r} is not a frequency; {ACCEPTED}")
    return Frequency(name, 1, "", step=step)


def single_step(frequency: Frequency) -> Frequency:
    """The frequency whose every nth time this one has: MS of 2MS. A series may start at any of its times."""
    if frequency.unit in _MONTHS_OF:
        return replace(frequency, count=_MONTHS_OF[frequency.unit])
    return replace(frequency, count=1, step=WEEK) if frequency.unit == "W" else frequency


def _pandas_step(name: str) -> int | None:
    """The microseconds of a length that pandas reads, such as 1h30min."""
    try:
        offset = pd.tseries.frequencies.to_offset(name)
    except (ValueError, TypeError):
        return None
    if not isinstance(offset, pd.tseries.offsets.Tick):
        return None
    step = pd.Timedelta(offset) // pd.Timedelta(microseconds=1)
    return step if step > 0 else None


def bind(frequency: Frequency, times: Ints) -> Rule:
    """The rule of a frequency that comes nearest to the ascending times (N,) of a series, N at least 1."""
    at = time_of_day(times)
    unit = frequency.unit
    fiscal = _FISCAL.fullmatch(frequency.name)
    if fiscal:
        pattern, starts, ending, month, day = fiscal.groups()
        return Fiscal(pattern, bool(starts), ending, MONTHS.index(month), WEEKDAYS.index(day), at)
    if unit in SEVERAL_A_MONTH:
        return Months(1, int(month_of(times[:1])[0]), SEVERAL_A_MONTH[unit], at)
    if unit == "B":
        return Weekdays(at)
    if frequency.step:
        phase = usual_phase(times, frequency.step)
        if frequency.anchor is not None and frequency.count == 1:
            phase = ((frequency.anchor - _EPOCH_WEEKDAY) * DAY + at) % WEEK
        return Ticks(frequency.step, phase, frequency.step % DAY == 0)
    months = month_of(times)
    first = most_common(months % frequency.count)
    if frequency.anchor is not None and frequency.count in (3, 12):
        first = frequency.anchor % frequency.count
    day = frequency.day or _usual_day(times)
    if (
        not frequency.day
        and len(times) > 2
        and (times == (month_start(months) + month_start(months + 1)) * (DAY // 2)).all()
    ):
        day = "MID"
    return Months(frequency.count, first + frequency.count * (int(months[0] - first) // frequency.count), (day,), at)


def most_common(values: Ints) -> int:
    """The most frequent value; of several, the smallest."""
    unique, counts = np.unique(values, return_counts=True)
    return int(unique[counts.argmax()])


def time_of_day(times: Ints) -> int:
    """The time of day that at least half of the times have; else a round one near their median."""
    return usual_phase(times, DAY)


def usual_phase(times: Ints, step: int) -> int:
    """Where between two multiples of `step` the times are, from 0: where at least half of them are; else, since they
    stray, the roundest place within their spread around the median."""
    phases = times % step
    unique, counts = np.unique(phases, return_counts=True)
    if 2 * counts.max() >= len(times):
        return int(unique[counts.argmax()])
    # The residuals from any phase that is near, so that those around 0 are not torn apart.
    angles = np.exp(2j * np.pi * phases / step)
    centre = int(np.angle(angles.mean()) / (2 * np.pi) * step)
    residuals = (phases - centre + step // 2) % step - step // 2
    median = centre + int(np.median(residuals))
    spread = int(np.quantile(np.abs(residuals + centre - median), 0.9))
    for unit in (step, *(unit for unit in ROUND if unit < step)):
        rounded = (median + unit // 2) // unit * unit
        if abs(rounded - median) <= 2 * spread:  # loggers are late, not early
            return int(rounded % step)
    return int(median % step)


ROUND = (DAY, 12 * HOUR, 6 * HOUR, HOUR, 30 * MINUTE, 15 * MINUTE, 5 * MINUTE, MINUTE, 30 * SECOND, SECOND)
"""Lengths at whose multiples people put their times."""


def _usual_day(times: Ints) -> str:
    """The day of their months that most times are on: E if all are last days, a number up to 31, S for the first."""
    days = days_in_month(times)
    if (month_of(times) != month_of(times + DAY)).all():
        return "E"
    # The 30th is the 28th in February: the day is the largest that the others can be cut from.
    lasts = month_of(times) != month_of(times + DAY)
    day = int(days.max()) if (days[~lasts] == days.max()).all() else most_common(days)
    return "S" if day == 1 else str(day)


def days_in_month(times: Ints) -> Ints:
    """The days of the month, from 1."""
    return times // DAY - month_start(month_of(times)) + 1


def season_of(frequency: Frequency) -> int:
    """Values per season at a frequency, 1 where none is known."""
    known = {"SMS": 24, "SME": 24, "10D-S": 36, "10D-E": 36}
    if frequency.unit in known:
        return known[frequency.unit]
    if _FISCAL.fullmatch(frequency.name):
        return {"RE": 1, "REQ": 4}.get(_fiscal_pattern(frequency.name), 12)
    if frequency.unit in _MONTHS_OF:
        seasons = usual_seasons("M", frequency.count)
    elif frequency.unit == "B":
        seasons = usual_seasons("B")
    else:
        units: Sequence[tuple[str, int]] = (("W", WEEK), ("D", DAY), ("H", HOUR), ("T", MINUTE), ("S", SECOND))
        fitting = [(unit, frequency.step // length) for unit, length in units if frequency.step % length == 0]
        seasons = usual_seasons(*fitting[0]) if fitting else None
    return next((season for season in seasons or () if season <= MAX_SEASON), 1)


MAX_SEASON = 366
"""Longer seasons are none: 1440 minutes, 86,400 seconds."""


def _fiscal_pattern(name: str) -> str:
    return name.split("-")[0].rstrip("S")
