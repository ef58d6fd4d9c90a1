"""Puts values at their times: a series with a row for each time of its frequency. Knows nothing of tables."""

import functools
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from carry.reading.records import Record, Records, default_frequency
from carry.reading.report import Failure, Report
from carry.reading.series import DataError, Series
from carry.reading.tables import ACCEPTED, ReadOptions
from carry.times.dates import NotDates, ParsedDates, parse_dates
from carry.times.frequencies import FrequencyError, Grid, IrregularTimesError, regular_grid, usual_season

SPARSE = 10
"""Times of the file's frequency per value, at most: a series of fewer values does not follow it."""


def series_of_records(records: Records, options: ReadOptions, report: Report) -> tuple[list[Series], list[Failure]]:
    """The series of records, and those that cannot be used."""
    report.layout = report.layout or "one series a line"
    for name, count in records.ignored.items():
        report.ignored[name] = "a field that is not read" if count == len(records.records) else f"in {count} records"
    series: list[Series] = []
    failures: list[Failure] = []
    calendar = Calendar(options, report)
    for record in records.records:
        result = series_of_record(record, options, report, calendar)
        if isinstance(result, Series):
            series.append(result)
        else:
            failures.append(result)
    return series, failures


class Calendar:
    """The times of records by their start, remembered: many records share theirs."""

    def __init__(self, options: ReadOptions, report: Report) -> None:
        self._options, self._report = options, report
        self._starts: dict[str, ParsedDates | NotDates] = {}
        self._times: dict[tuple[str, str, int], tuple[Any, str] | None] = {}

    def after(self, start: str, freq: str, count: int) -> "tuple[pd.DatetimeIndex, str] | None":
        """The times of `count` values from a start, and the name of their frequency; None if they cannot be told."""
        key = (start, freq, count)
        if key not in self._times:
            self._times[key] = self._find(start, freq, count)
        return self._times[key]

    def _find(self, start: str, freq: str, count: int) -> "tuple[pd.DatetimeIndex, str] | None":
        from service.errors import InvalidRequestError
        from service.forecast.timestamps import times_of

        if start not in self._starts:
            self._starts[start] = parse_dates(pd.Series([start]), self._options.dates)
        dates = self._starts[start]
        if isinstance(dates, NotDates):
            return None
        first = dates.times[0]
        if not isinstance(first, pd.Timestamp):
            if not 1 <= int(first) <= 9999:
                return None
            first = pd.Timestamp(year=int(first), month=1, day=1)
        zone = first.tz
        for name in (freq, default_frequency(freq)):
            try:
                stamps = times_of(first.tz_localize(None).isoformat(), name, count)
            except InvalidRequestError:
                continue
            try:
                times = pd.DatetimeIndex(stamps.astype("datetime64[ns]"))
                grid = regular_grid(times, None if count > 3 else name)
            except (FrequencyError, IrregularTimesError, ValueError, OverflowError):
                try:
                    grid = regular_grid(times, name)
                except (FrequencyError, IrregularTimesError, ValueError):
                    return None
            stamped = grid.times
            if not isinstance(stamped, pd.DatetimeIndex) or grid.freq is None or len(stamped) != count:
                return None
            if zone is not None:
                stamped = stamped.tz_localize(zone, ambiguous="NaT", nonexistent="shift_forward")
            return stamped, grid.freq
        return None


def series_of_record(record: Record, options: ReadOptions, report: Report, calendar: Calendar) -> Series | Failure:
    if isinstance(record.values, str):
        return Failure(record.id, f"{record.place}: {record.values}")
    reason = why_unusable(record.values)
    if reason:
        return Failure(record.id, f"{record.place}: {reason}")
    values = record.values[: int(np.flatnonzero(np.isfinite(record.values))[-1]) + 1, None]
    freq = options.freq or record.freq
    if record.times is not None:
        return _with_times(record, options, report)
    season = record.season if record.season is not None and options.freq is None else usual_season_of(freq)
    if record.start is not None and freq is None:
        report.note("there are starts, but no frequency: --freq D gives the times of days")
    if record.start is None or freq is None:
        return Series(record.id, values, None, season, freq)
    found = calendar.after(record.start, freq, len(values))
    if found is None:
        report.note(f"the start {record.start!r} with the frequency {freq!r} gives no times: the answer counts from 1")
        return Series(record.id, values, None, season, freq)
    times, name = found
    return Series(record.id, values, times, season, name)


def _with_times(record: Record, options: ReadOptions, report: Report) -> Series | Failure:
    assert record.times is not None
    assert not isinstance(record.values, str)
    dates = parse_dates(pd.Series(record.times), options.dates)
    if isinstance(dates, NotDates):
        return Failure(record.id, f"{record.place}: {dates.reason}")
    order = np.argsort(dates.times.asi8 if isinstance(dates.times, pd.DatetimeIndex) else dates.times, kind="stable")
    return place_values(
        record.id,
        record.values[order, None],
        dates.times[order],
        dates,
        options.freq or record.freq,
        None,
        report,
        {},
        (),
    )


@functools.cache
def usual_season_of(freq: str | None) -> int:
    """Values per season of a frequency as a file may name it; 1 if none is known."""
    return 1 if freq is None else usual_season(freq)


def why_unusable(target: NDArray[np.float64]) -> str:
    """Why values cannot be forecast; "" if they can."""
    if np.isinf(target).any():
        return f"it holds infinity; {ACCEPTED}"
    if np.isnan(target).all():
        return "it holds no value at all"
    return ""


def find_grid(
    stamps: "pd.Index[Any]", freq: str | None, panel: str | None, grids: dict[bytes, Grid | str]
) -> Grid | str:
    """The grid of a series' times, or why there is none; remembered, since series share their times.

    Raises:
        DataError: there is no such frequency.
    """
    key = as_integers(stamps).tobytes() + f"{freq} {panel}".encode()
    if key not in grids:
        if len(grids) > 256:
            grids.clear()
        try:
            grids[key] = regular_grid(stamps, freq, panel)
        except FrequencyError as error:
            raise DataError(f"--freq: {error}") from None
        except IrregularTimesError as error:
            grids[key] = str(error)
    return grids[key]


def place_values(
    id: str,
    values: NDArray[np.float64],
    stamps: "pd.Index[Any]",
    dates: ParsedDates,
    freq: str | None,
    panel: str | None,
    report: Report,
    grids: dict[bytes, Grid | str],
    key: tuple[Any, ...],
) -> Series | Failure:
    """A series with a row for each time of its grid. stamps: ascending, each once."""
    grid = find_grid(stamps, freq, panel, grids)
    if isinstance(grid, str):
        return Failure(id, grid)
    if freq is None and len(grid.times) > SPARSE * len(stamps) + 2 * SPARSE:
        return Failure(
            id,
            f"its {len(stamps)} times do not follow a frequency: at {grid.freq}, as the file has it, "
            f"{len(grid.times) - len(stamps)} times have no row; --freq {grid.freq} reads these as missing values",
        )
    jumps = np.diff(grid.indices)
    if freq is None and len(jumps) and jumps.max() > 2 * len(stamps) + 2 * SPARSE:
        at = int(jumps.argmax())
        return Failure(
            id,
            f"its time {time_text(stamps[at + 1])} is {jumps[at]} steps after {time_text(stamps[at])}, and it has "
            f"{len(stamps)} values: is this time right? --freq {grid.freq or 'NAME'} reads those between as missing",
        )
    report.note(*grid.notes)
    whole = np.full((len(grid.times), values.shape[1]), np.nan)
    whole[grid.indices] = values
    end = int(np.flatnonzero(np.isfinite(whole[:, 0]))[-1]) + 1
    gaps = len(grid.times) - len(stamps)
    if gaps:
        report.gaps[id] = gaps
    report.future += len(whole) - end
    season = usual_season_of(grid.freq)
    times = grid.times if end == len(grid.times) else grid.times[:end]
    if isinstance(times, pd.DatetimeIndex):
        return Series(id, whole[:end], times, season, grid.freq, whole[end:], key=key)
    return Series(id, whole[:end], None, season, grid.freq, whole[end:], steps=times, key=key)


def as_integers(stamps: "pd.Index[Any]") -> NDArray[np.int64]:
    return stamps.asi8 if isinstance(stamps, pd.DatetimeIndex) else stamps.to_numpy(dtype=np.int64)


def time_text(time: Any) -> str:
    """Without the time of day where it is midnight."""
    if not isinstance(time, pd.Timestamp):
        return str(time)
    return time.date().isoformat() if time == time.normalize() else str(time)
