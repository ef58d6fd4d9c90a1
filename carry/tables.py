"""Data frames of pandas, polars and pyarrow as series, and answers about the series as frames of the same kind. All of
it by narwhals: none of the three is a dependency. Knows nothing of how series are forecast.

A frame has a row for each value of each series, in any order. Gaps in regular times are missing values; so are null and
NaN. Ids and times come back as they came.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from carry.answers import BacktestTable, metrics
from carry.times.grids import Grid, Ints, frequency, integer_grid, time_grid
from service.errors import CarryError, InvalidRequestError
from service.forecast.intervals import interval_to_quantiles

Frame = nw.DataFrame[Any]
Floats = NDArray[np.float64]

CONFIDENT = 4
"""So many times of a series say its frequency better than the other series do."""
MAX_REASONS = 5
"""Series that are left out of which a warning gives the reason."""
_EPOCH = datetime(1970, 1, 1)


class SkippedSeriesWarning(UserWarning):
    """Series of a data frame that have no answer. errors: why, by id (None, if the frame has no column of ids)."""

    def __init__(self, errors: Mapping[Any, Exception], count: int) -> None:
        self.errors = errors
        reasons = [f"{id}: {error}" for id, error in list(errors.items())[:MAX_REASONS]]
        more = f"; and {len(errors) - MAX_REASONS} more" if len(errors) > MAX_REASONS else ""
        super().__init__(f"{len(errors)} of {count} series are left out: {'; '.join(reasons)}{more}")


@dataclass(frozen=True)
class Columns:
    """The names of a frame's columns."""

    id: str = "unique_id"
    time: str = "ds"
    target: str = "y"


@dataclass(frozen=True)
class _Times:
    """A column of times: by the clock on the wall, and by the time that passes, in microseconds since 1970; or
    integers, both the same."""

    wall: Ints
    passing: Ints
    integer: bool


@dataclass(frozen=True)
class _Rows:
    """One series: its rows in the frame, by time, and the grid of its times."""

    rows: Ints
    grid: Grid


class Table:
    """A data frame as series. `errors`: the series that cannot be asked about or were refused, by their index."""

    def __init__(
        self,
        data: Any,
        columns: Columns,
        freq: str | int | None,
        features: Sequence[str] = (),
        future: Any = None,
        known_ahead: Sequence[str] = (),
    ) -> None:
        """features: all of the model's, the target first; none if the frame has no further column. future: a frame of
        the features `known_ahead` after the last values.

        Raises:
            InvalidRequestError: a column is missing or of the wrong type, or no series is regular.
        """
        self._columns = columns
        self._frame = frame = frame_of(data)
        self._features = features[1:]
        self._target_name = features[0] if features else columns.target
        self._known_ahead = known_ahead
        _check_columns(frame, [columns.time, columns.target, *features[1:]], columns)
        self._has_ids = columns.id in frame.columns
        codes = np.zeros(len(frame), np.int64)
        self.ids: list[Any] = [None]
        if self._has_ids:
            self.ids, codes = codes_of(frame, columns.id)
        if not len(frame):
            raise InvalidRequestError("the data frame has no row", columns.target)
        self._times = _times(frame[columns.time], columns.time)
        self._target = numbers_of(frame[columns.target], columns.target)
        self.errors: dict[int, CarryError] = {}
        self._steps: dict[bytes, str | int | None] = {}
        self._grids: dict[bytes, Grid] = {}
        self._series = dict(self._regular(codes, freq))
        self._future = self._future_rows(future)

    def bodies(self, horizon: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The index, and the series, the frequency and the future of each series, as JSON."""
        columns = {name: self._frame[name].to_list() for name in self._features}
        for i, series in self._series.items():
            values: Any = _on_grid(series, self._target[series.rows])
            if self._features:
                values = {self._target_name: values}
                for name in self._features:
                    column: list[Any] = [None] * series.grid.length
                    for place, row in zip(series.grid.indices.tolist(), series.rows.tolist(), strict=True):
                        column[place] = _plain(columns[name][row])
                    values[name] = column
            body = {"series": values, "freq": series.grid.freq}
            if i in self._future:
                body["future"] = {name: column[:horizon] for name, column in self._future[i].items()}
            yield i, body

    def report(self) -> None:
        """Warn of the series that have no answer.

        Raises:
            CarryError: none has one; the first one's reason.
        """
        if not self.errors:
            return
        for i, error in self.errors.items():
            if len(self.ids) > 1:
                error.detail = f"{self.ids[i]}: {error.detail}"
        if len(self.errors) == len(self.ids):
            raise self.errors[min(self.errors)]
        errors = {self.ids[i]: self.errors[i] for i in sorted(self.errors)}
        # The level of the caller's own line: the call, its driver, and the model or client.
        warnings.warn(SkippedSeriesWarning(errors, len(self.ids)), stacklevel=6)

    def forecasts(
        self, bodies: Mapping[int, Mapping[str, Any]], horizon: int, levels: Sequence[float], quantiles: Sequence[float]
    ) -> Any:
        """A frame of forecasts: id, time, median, and an interval or quantile in each further column."""
        series = [self._series[i] for i in bodies]
        last = np.repeat([each.rows[-1] for each in series], horizon)
        columns = self._id_column(last)
        columns.append(self._times_after(series, horizon))
        columns += self._number_columns(_quantile_columns(bodies.values(), levels, quantiles))
        return _join(columns)

    def anomalies(self, bodies: Mapping[int, Mapping[str, Any]]) -> Any:
        """A frame of verdicts: id, time and value of each row, then what the model expected and whether the value is
        an anomaly."""
        series = [self._series[i] for i in bodies]
        rows = np.concatenate([each.rows for each in series])
        columns = [*self._id_column(rows), *(_gather(self._frame[name], rows) for name in self._names)]
        pairs = list(zip(bodies.values(), series, strict=True))
        verdicts = [body["anomaly"][place] for body, each in pairs for place in each.grid.indices.tolist()]
        columns.append(self._new("anomaly", verdicts, nw.Boolean()))
        numbers = {
            name: np.concatenate([np.array(body[name], np.float64)[each.grid.indices] for body, each in pairs])
            for name in ("median", "lower", "upper", "score")
        }
        return _join(columns + self._number_columns(numbers))

    def backtests(
        self, bodies: Mapping[int, Mapping[str, Any]], levels: Sequence[float], quantiles: Sequence[float]
    ) -> BacktestTable:
        """The forecasts of all windows: id, time, cutoff (the time of the last value before the window), actual value,
        median, and the further columns; and the metrics of each series."""
        rows: list[Ints] = []
        times: list[Ints] = []
        cutoffs: list[Ints] = []
        for i, body in bodies.items():
            series = self._series[i]
            grid_times = self._to_passing(self._grid_times(series)) if series.grid.by_wall else self._grid_times(series)
            for window in body["windows"]:
                begin, count = window["cutoff"], len(window["median"])
                rows.append(np.repeat(series.rows[-1], count))
                times.append(grid_times[begin : begin + count])
                cutoffs.append(np.repeat(grid_times[begin - 1], count))
        windows = [window for body in bodies.values() for window in body["windows"]]
        actual = np.concatenate([np.array(window["actual"], np.float64) for window in windows])
        joined = np.concatenate(rows)
        columns = self._id_column(joined)
        columns.append(self._time_column(self._columns.time, np.concatenate(times)))
        columns.append(self._time_column("cutoff", np.concatenate(cutoffs)))
        columns += self._number_columns({self._columns.target: actual, **_quantile_columns(windows, levels, quantiles)})
        firsts = np.array([self._series[i].rows[0] for i in bodies])
        measured = [metrics(body["metrics"]) for body in bodies.values()]
        by_name = {name: np.array([each[name] for each in measured]) for name in measured[0]}
        return BacktestTable(_join(columns), _join(self._id_column(firsts) + self._number_columns(by_name)))

    def _regular(self, codes: Ints, freq: str | int | None) -> Iterator[tuple[int, _Rows]]:
        """The rows and the grid of each series; the errors of the others are noted."""
        times = self._times
        order = np.lexsort((times.passing, codes))
        starts = np.searchsorted(codes[order], np.arange(len(self.ids) + 1))
        rows_of = [order[starts[i] : starts[i + 1]] for i in range(len(self.ids))]
        own = [None if freq is not None else self._step_of(rows) for rows in rows_of]
        counted: Counter[str | int] = Counter()
        for rows, step in zip(rows_of, own, strict=True):
            if step is not None:
                counted[step] += len(rows)
        panel = freq if freq is not None else counted.most_common(1)[0][0] if counted else None
        for i, rows in enumerate(rows_of):
            try:
                yield i, _Rows(rows, self._grid(rows, own[i], panel))
            except InvalidRequestError as error:
                self.errors[i] = InvalidRequestError(error.detail, error.path and self._columns.time)

    def _step_of(self, rows: Ints) -> str | int | None:
        """The frequency of one series, if its times say it."""
        wall, passing = self._times.wall[rows], self._times.passing[rows]
        # Series often have the same times.
        key = wall.tobytes() + passing.tobytes()
        if key not in self._steps:
            if self._times.integer:
                steps = np.diff(wall)
                self._steps[key] = int(np.gcd.reduce(steps)) if len(steps) and (steps > 0).all() else None
            else:
                self._steps[key] = frequency(wall, passing) if (np.diff(passing) > 0).all() else None
        return self._steps[key]

    def _grid(self, rows: Ints, own: str | int | None, panel: str | int | None) -> Grid:
        """The grid of one series, by its own frequency or by that of the panel."""
        wall, passing = self._times.wall[rows], self._times.passing[rows]
        same = np.flatnonzero(np.diff(passing) == 0)
        if len(same):
            time = self._frame[self._columns.time][int(rows[same[0]])]
            raise InvalidRequestError(f"there are two rows at {time}", self._columns.time)
        # A few times may lie on a coarser grid than the one that they come from.
        steps = [own, panel] if own is not None and len(rows) >= CONFIDENT else [panel, own]
        known: list[str | int | None] = [step for step in dict.fromkeys(steps) if step is not None]
        key = wall.tobytes() + passing.tobytes()
        if key not in self._grids:
            self._grids[key] = self._first_grid(wall, passing, known or [None])
        return self._grids[key]

    def _first_grid(self, wall: Ints, passing: Ints, steps: Sequence[str | int | None]) -> Grid:
        """The grid by the first of the frequencies that the times lie on.

        Raises:
            InvalidRequestError: they lie on none; the last one's reason.
        """
        *others, last = steps
        for step in others:
            with suppress(InvalidRequestError):
                return self._grid_by(wall, passing, step)
        return self._grid_by(wall, passing, last)

    def _grid_by(self, wall: Ints, passing: Ints, step: str | int | None) -> Grid:
        if self._times.integer:
            return integer_grid(wall, step if isinstance(step, int) else None)
        return time_grid(wall, passing, step if isinstance(step, str) else None)

    def _future_rows(self, future: Any) -> dict[int, dict[str, list[Any]]]:
        """The features known ahead after each series' last value, by its index and their names."""
        if future is None:
            return {}
        frame, columns = frame_of(future), self._columns
        _check_columns(frame, [columns.time], columns)
        names = [name for name in self._known_ahead if name in frame.columns]
        if not names:
            known = ", ".join(self._known_ahead) or "none"
            raise InvalidRequestError(f"has no feature that the model knows ahead; these are: {known}", "future")
        times = _times(frame[columns.time], columns.time)
        ids = frame[columns.id].to_list() if self._has_ids else [None] * len(frame)
        by_id: dict[Any, list[int]] = {}
        for row, id in enumerate(ids):
            by_id.setdefault(id, []).append(row)
        items = {name: frame[name].to_list() for name in names}
        futures: dict[int, dict[str, list[Any]]] = {}
        for i, series in self._series.items():
            rows = by_id.get(self.ids[i], [])
            if not rows:
                continue
            clock = times.wall if series.grid.by_wall else times.passing
            ordered = sorted(rows, key=lambda row: int(clock[row]))
            expected = series.grid.after(len(ordered))
            if (clock[ordered] != expected).any():
                raise InvalidRequestError(
                    f"{self.ids[i]}: must go on right after the last value, without gaps", "future"
                )
            futures[i] = {name: [_plain(column[row]) for row in ordered] for name, column in items.items()}
        return futures

    @property
    def _names(self) -> list[str]:
        return [self._columns.time, self._columns.target]

    def _id_column(self, rows: Ints) -> list[nw.Series[Any]]:
        return [_gather(self._frame[self._columns.id], rows)] if self._has_ids else []

    def _number_columns(self, numbers: Mapping[str, Floats]) -> list[nw.Series[Any]]:
        return [self._new(name, column, nw.Float64()) for name, column in numbers.items()]

    def _new(self, name: str, values: Any, dtype: Any) -> nw.Series[Any]:
        backend = self._frame.implementation
        if dtype == nw.Boolean() and backend.is_pandas_like():
            # The usual type of pandas has no missing value.
            column = backend.to_native_namespace().Series(values, name=name, dtype="boolean")
            return nw.from_native(column, series_only=True)
        return nw.new_series(name, values, dtype, backend=backend)

    def _times_after(self, series: Sequence[_Rows], count: int) -> nw.Series[Any]:
        """The `count` times after each series."""
        by_wall = np.array([each.grid.by_wall for each in series])
        times = np.stack([each.grid.after(count) for each in series])
        times[by_wall] = self._to_passing(times[by_wall])
        return self._time_column(self._columns.time, times.ravel())

    def _grid_times(self, series: _Rows) -> Ints:
        """All times from the first to the last of a series, by the grid's clock."""
        grid = series.grid
        if grid.freq is None or grid.start is None:
            return grid.first + grid.step * np.arange(grid.length, dtype=np.int64)
        earlier = Grid(np.array([-1]), grid.freq, grid.by_wall, grid.start, grid.first, grid.step)
        return earlier.after(grid.length)

    def _time_column(self, name: str, times: Ints) -> nw.Series[Any]:
        """Times, as time that passes, as a column of the frame's type."""
        column = self._frame[self._columns.time]
        backend, dtype = self._frame.implementation, column.dtype
        if self._times.integer:
            return nw.new_series(name, times, nw.Int64(), backend=backend).cast(dtype)
        if isinstance(dtype, nw.Datetime) and dtype.time_zone is not None:
            naive = nw.new_series(name, times, nw.Int64(), backend=backend).cast(nw.Datetime("us"))
            return naive.dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone).cast(dtype)
        if isinstance(dtype, nw.Datetime | nw.Date):
            return nw.new_series(name, times, nw.Int64(), backend=backend).cast(nw.Datetime("us")).cast(dtype)
        return nw.new_series(name, self._as_python(column, times), backend=backend)

    def _to_passing(self, times: Ints) -> Ints:
        """Times by the clock on the wall of the column's zone, as time that passes. Of an hour that comes twice, the
        first."""
        dtype = self._frame[self._columns.time].dtype
        zone = dtype.time_zone if isinstance(dtype, nw.Datetime) else None
        if zone is None:
            return times
        unique, inverse = np.unique(times, return_inverse=True)
        zoned = [(_EPOCH + timedelta(microseconds=int(time))).replace(tzinfo=ZoneInfo(zone)) for time in unique]
        epoch = _EPOCH.replace(tzinfo=UTC)
        passing = np.array([(time.astimezone(UTC) - epoch) // timedelta(microseconds=1) for time in zoned])
        converted: Ints = passing[inverse].reshape(times.shape)
        return converted

    def _as_python(self, column: nw.Series[Any], times: Ints) -> list[Any]:
        """Times as texts or objects, like those of the column."""
        example = column[0]
        moments = [_EPOCH + timedelta(microseconds=time) for time in times.tolist()]
        if isinstance(example, datetime):
            return moments
        if isinstance(example, date):
            return [moment.date() for moment in moments]
        if len(str(example)) <= 10:
            return [moment.date().isoformat() for moment in moments]
        separator = "T" if "T" in str(example) else " "
        return [moment.isoformat(separator) for moment in moments]


def extra_columns(data: Any, columns: Columns) -> bool:
    """Whether a frame has columns that may be features of the model."""
    return bool({*frame_of(data).columns} - {columns.id, columns.time, columns.target})


def frame_of(data: Any) -> Frame:
    try:
        frame: Frame = nw.from_native(data, eager_only=True)
    except TypeError:
        kind = f"{type(data).__module__}.{type(data).__name__}"
        detail = f"accepted are lists, arrays, and data frames of pandas, polars or pyarrow, not {kind}"
        raise InvalidRequestError(detail, "data") from None
    return frame


def _check_columns(frame: Frame, names: Sequence[str], columns: Columns) -> None:
    for name in names:
        if name not in frame.columns:
            hint = "; an index is no column: see reset_index()" if frame.implementation.is_pandas_like() else ""
            raise InvalidRequestError(
                f"there is no column {name!r}, only: {', '.join(map(str, frame.columns))}. Expected are "
                f"{columns.id} (if there are several series), {columns.time} and {columns.target}; the options "
                f"id_column, time_column and target name others{hint}",
                name,
            )


def codes_of(frame: Frame, name: str) -> tuple[list[Any], Ints]:
    """The ids in the order in which they first come, and each row's index among them (N,)."""
    index: dict[Any, int] = {}
    column = frame[name]
    missing = column.is_null().to_numpy()
    if missing.any():
        raise InvalidRequestError(f"row {int(missing.argmax())} has no id", name)
    codes = np.fromiter((index.setdefault(id, len(index)) for id in column.to_list()), np.int64, len(frame))
    return [*index], codes


def numbers_of(column: nw.Series[Any], name: str) -> Floats:
    """A column as numbers (N,), NaN where missing."""
    try:
        if not column.dtype.is_numeric() and column.dtype != nw.Boolean():
            # pandas' columns of Python objects may hold numbers, such as Decimals.
            if column.dtype != nw.Object():
                raise TypeError
            numbers = np.array([np.nan if _plain(item) is None else float(item) for item in column.to_list()])
        else:
            numbers = np.array(column.cast(nw.Float64()).to_numpy(), dtype=np.float64)
            numbers[column.is_null().to_numpy()] = np.nan
    except (TypeError, ValueError):
        raise InvalidRequestError(f"holds no numbers, but {column.dtype}", name) from None
    infinite = np.isinf(numbers)
    if infinite.any():
        raise InvalidRequestError(f"row {int(infinite.argmax())} is infinite; a missing value is null or NaN", name)
    return numbers


def _times(column: nw.Series[Any], name: str) -> _Times:
    missing = column.is_null().to_numpy()
    if missing.any():
        raise InvalidRequestError(f"row {int(missing.argmax())} has no time", name)
    dtype = column.dtype
    if dtype.is_integer():
        integers = np.array(column.to_numpy(), dtype=np.int64)
        return _Times(integers, integers, True)
    if isinstance(dtype, nw.Datetime):
        passing = np.array(column.dt.timestamp("us").to_numpy(), dtype=np.int64)
        if dtype.time_zone is None:
            return _Times(passing, passing, False)
        wall = np.array(column.dt.replace_time_zone(None).dt.timestamp("us").to_numpy(), dtype=np.int64)
        return _Times(wall, passing, False)
    if isinstance(dtype, nw.Date):
        days = np.array(column.cast(nw.Datetime("us")).dt.timestamp("us").to_numpy(), dtype=np.int64)
        return _Times(days, days, False)
    parsed: dict[Any, int] = {}
    items = column.to_list()
    for row, item in enumerate(items):
        if item not in parsed:
            parsed[item] = _microseconds(item, row, name)
    times = np.fromiter((parsed[item] for item in items), np.int64, len(items))
    return _Times(times, times, False)


def _microseconds(item: Any, row: int, name: str) -> int:
    try:
        if isinstance(item, str):
            item = datetime.fromisoformat(item.strip())
        if isinstance(item, datetime) and item.tzinfo is None:
            return (item - _EPOCH) // timedelta(microseconds=1)
        if isinstance(item, date) and not isinstance(item, datetime):
            return (datetime(item.year, item.month, item.day) - _EPOCH) // timedelta(microseconds=1)
    except ValueError:
        pass
    raise InvalidRequestError(
        f"row {row} is no time: {item!r}. Accepted are columns of times, dates or integers, and ISO 8601 texts without "
        "a zone, such as 2024-01-31 or 2024-01-31 12:00",
        name,
    )


def _on_grid(series: _Rows, values: Floats) -> list[float | None]:
    """The values of a series with its gaps as JSON, None where missing."""
    items: list[float | None] = [None] * series.grid.length
    for place, value in zip(series.grid.indices.tolist(), values.tolist(), strict=True):
        items[place] = None if value != value else value
    return items


def _plain(item: Any) -> Any:
    """An item of a column as JSON: None where missing."""
    if isinstance(item, np.generic):
        item = item.item()
    return None if item is None or item != item or type(item).__name__ in ("NAType", "NaTType") else item


def _quantile_columns(bodies: Any, levels: Sequence[float], quantiles: Sequence[float]) -> dict[str, Floats]:
    """The columns of numbers of forecasts, one body after the other."""
    keys: dict[str, str] = {}
    for level in levels:
        lower, upper = interval_to_quantiles(level)
        keys |= {f"lo-{level:g}": f"{lower:g}", f"hi-{level:g}": f"{upper:g}"}
    keys |= {f"q-{round(level, 6):g}": f"{round(level, 6):g}" for level in quantiles}
    bodies = list(bodies)
    columns = {"median": np.concatenate([np.array(body["median"], np.float64) for body in bodies])}
    for name, key in keys.items():
        columns[name] = np.concatenate([np.array(body["quantiles"][key], np.float64) for body in bodies])
    return columns


def _gather(column: nw.Series[Any], rows: Ints) -> nw.Series[Any]:
    return nw.maybe_reset_index(column[rows.tolist()])


def _join(columns: Sequence[nw.Series[Any]]) -> Any:
    return nw.concat([column.to_frame() for column in columns], how="horizontal").to_native()
