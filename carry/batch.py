"""Forecasts tables of any size: Arrow record batches in, record batches out, with one engine in each process. What
Spark, Ray, Dask and DuckDB call (docs/batch.md), and each worker of carry/arrow/shards.py. Knows nothing of files and
HTTP.

A forecast is equal to that of `POST /forecast`, to the bit. No pandas: a table is read and written as whole columns.
"""

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from carry.arrow.columns import (
    Columns,
    TimeColumn,
    find_columns,
    flat,
    floats,
    list_lengths,
    run_starts,
    time_type,
    whole_series,
)
from carry.arrow.times import Panel, Step, place, step_of, times_after
from service.errors import InvalidRequestError
from service.forecast.intervals import NON_NEGATIVE, UNBOUNDED, interval_to_quantiles
from service.forecast.kind import FORECAST
from service.forecast.manifest import ForecastManifest
from service.forecast.task import Forecast, ForecastRequest, check_levels, forecast, initial_state
from service.kind import Model
from service.kinds import KINDS
from service.metrics import Metrics
from service.registry import open_model
from service.settings import Settings

BLOCK_SERIES = 2000
"""Series that are forecast together: enough to fill the batches of the graph, and a second or two of work."""
BLOCK_VALUES = 500_000
"""Values of these series, at most, unless one series alone has more."""
NEWCOMER_VALUES = 3
"""Fewer values than these do not show a frequency."""
LARGEST = 1e30
"""The largest number that the service accepts."""

Output = Literal["long", "lists"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class BatchOptions:
    """What to forecast.

    levels: central intervals in percent. model: "name" or "name@version", None for the default. models_dir: None for
    the models of Carry and of the current folder. freq: of all series (pandas' name); None: as the times of each
    follow. panel_freq: tried before the times' own, for series that are too short to show theirs. season_length: None
    for the usual one of the frequency. id, times, target: the names of columns. output: a row for each value ("long")
    or for each series ("lists"); None for the layout of the input.
    """

    horizon: int
    levels: tuple[float, ...] = (80.0, 95.0)
    model: str | None = None
    models_dir: Path | None = None
    freq: str | None = None
    panel_freq: str | None = None
    season_length: tuple[int, ...] | None = None
    non_negative: bool = False
    id: str = "unique_id"
    times: str = "ds"
    target: str = "y"
    output: Output | None = None

    def __post_init__(self) -> None:
        """Raises:
        InvalidRequestError: an option is out of its range.
        """
        if self.horizon < 1:
            raise InvalidRequestError("must be at least 1", "horizon")
        if not all(0 < level < 100 for level in self.levels):
            raise InvalidRequestError("must be percentages between 0 and 100", "levels")


@dataclass
class BatchSummary:
    """What was forecast. series; failed: those that cannot be forecast; values: of the table, with `missing` ones;
    gaps: times without a row between others, in `gap_series` series."""

    series: int = 0
    failed: int = 0
    values: int = 0
    missing: int = 0
    gaps: int = 0
    gap_series: int = 0


def forecast_batches(
    batches: Iterable[pa.RecordBatch], options: BatchOptions, summary: BatchSummary | None = None
) -> Iterator[pa.RecordBatch]:
    """Forecast every series of a stream of record batches.

    The table has either a row for each value (the columns unique_id, ds and y; the rows of a series stand together, and
    may span batches) or a row for each series (unique_id; y, a list; perhaps ds, a list of times, or start, the first
    time, with freq). Times that are missing between others are missing values. Memory holds one block of series.

    The answer has the schema `output_schema`, in the order of the input. A series that cannot be forecast has one row,
    whose column `error` says why. Each block is counted in `summary`.

    Raises:
        CarryError: the columns or the options are not acceptable, or there is no such model.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return
    columns = find_columns(first.schema, options.id, options.times, options.target)
    model = open_forecaster(options.models_dir, options.model)
    check_options(model.manifest, options)
    schema = output_schema(first.schema, options)
    summary = summary or BatchSummary()
    for block in whole_series(chain([first], batches), columns, BLOCK_SERIES, BLOCK_VALUES):
        series = _read(block, columns, options)
        grids = _grids(series, columns, options)
        medians, quantiles = _run(series, grids, model, options)
        _count(series, grids, summary)
        yield _write(series, grids, medians, quantiles, options, schema)


def forecast_table(table: pa.Table, options: BatchOptions) -> pa.Table:
    """As `forecast_batches`, of a table in memory."""
    return pa.Table.from_batches(forecast_batches(table.to_batches(), options), output_schema(table.schema, options))


def output_schema(schema: pa.Schema, options: BatchOptions) -> pa.Schema:
    """The schema of the forecasts of a table with this schema: unique_id and ds with the types that they have in the
    table, median, lo-80, hi-80, ..., error. Steps from 1 are the times of a table without any.

    Raises:
        InvalidRequestError: `schema` is not of series.
    """
    columns = find_columns(schema, options.id, options.times, options.target)
    lists = columns.lists if options.output is None else options.output == "lists"
    times = time_type(schema, columns) or pa.int64()
    fields = [(options.times, times), *((name, pa.float64()) for name in _value_names(options))]
    return pa.schema(
        [
            pa.field(options.id, schema.field(options.id).type),
            *(pa.field(name, pa.list_(type) if lists else type) for name, type in fields),
            pa.field("error", pa.string()),
        ]
    )


def check_options(manifest: ForecastManifest, options: BatchOptions) -> None:
    """Check the options that depend on the model.

    Raises:
        InvalidRequestError: the model needs more features than the target, or cannot do what they ask for.
    """
    if len(manifest.features) > 1:
        others = ", ".join(manifest.features[1:])
        raise InvalidRequestError(f"{manifest.name} also needs the features {others}; batches take a target alone")
    check_levels(_quantile_levels(options.levels), manifest, "levels")
    for freq in {options.freq, options.panel_freq}:
        initial_state(manifest, options.season_length, freq)


def panel_frequency(batch: pa.RecordBatch, options: BatchOptions) -> str | None:
    """The frequency that most series of a batch follow, of those with at least three values; None if they follow none.
    The batch's last series may go on after it.

    Raises:
        InvalidRequestError: it is not of series.
    """
    columns = find_columns(batch.schema, options.id, options.times, options.target)
    series = _read(batch, columns, options)
    grids = _grids(series, columns, options)
    names = Counter(grids.freqs[i] for i in series.good if series.lengths[i] >= NEWCOMER_VALUES)
    return max(names, key=lambda name: names[name], default=None)


def open_forecaster(models_dir: Path | None, name: str | None) -> Model[ForecastManifest]:
    """The forecaster of this process: opened once, and kept until the process ends.

    Raises:
        CarryError: there is no such model.
    """
    with _opening:
        # By process: a fork has no engine thread.
        return _open_forecaster(os.getpid(), models_dir, name)


_opening = threading.Lock()


@lru_cache(maxsize=8)
def _open_forecaster(process: int, models_dir: Path | None, name: str | None) -> Model[ForecastManifest]:
    del process
    settings = Settings() if models_dir is None else Settings(models_dir=models_dir)
    settings = settings.model_copy(update={"max_waiting_steps": sys.maxsize})
    return open_model(settings, KINDS, Metrics(), name, FORECAST)


@dataclass
class _Series:
    """S series as arrays. values (N,), one after another; starts (S + 1,): where each starts, and N. errors: why a
    series cannot be forecast. times: None if there are none; by row for `start`, else by value."""

    ids: pa.Array
    values: Floats
    starts: Integers
    times: TimeColumn | None
    freqs: list[str | None] | None
    errors: list[str | None]

    @property
    def lengths(self) -> Integers:
        return np.diff(self.starts)

    @property
    def good(self) -> NDArray[np.intp]:
        """The series without an error."""
        return np.array([i for i, error in enumerate(self.errors) if error is None], dtype=np.intp)


@dataclass
class _Grids:
    """The values of each series without gaps, its frequency, and the times after it. values, freqs: of all series,
    empty and None where there is an error. times (S, H); local (S,): which of them are as clocks show them."""

    values: list[Floats]
    freqs: list[str | None]
    times: Integers
    local: NDArray[np.bool_]


def _count(series: _Series, grids: _Grids, summary: BatchSummary) -> None:
    good, lengths = series.good, series.lengths
    gaps = [len(grids.values[i]) - int(lengths[i]) for i in good]
    summary.series += len(series.ids)
    summary.failed += len(series.ids) - len(good)
    summary.values += len(series.values)
    summary.missing += int(np.isnan(series.values).sum())
    summary.gaps += sum(gaps)
    summary.gap_series += sum(gap > 0 for gap in gaps)


def _read(block: pa.RecordBatch, columns: Columns, options: BatchOptions) -> _Series:
    column = block.column(columns.values)
    ids = block.column(columns.id)
    errors: list[str | None]
    if columns.lists:
        lengths = list_lengths(column)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        values = floats(column.flatten())
        errors = [None if length else "has no value" for length in lengths.tolist()]
    else:
        rows = run_starts(ids)
        ids, starts = ids.take(pa.array(rows)), np.append(rows, len(column))
        values = floats(column)
        errors = [None] * len(ids)
    times = None
    if columns.times is not None:
        stamps = block.column(columns.times)
        if columns.lists:
            for i in np.flatnonzero(list_lengths(stamps) != lengths):
                errors[i] = errors[i] or f"{columns.times} and {columns.values} have different lengths"
            stamps = flat(stamps, lengths)
        times = TimeColumn(stamps)
    elif columns.start is not None:
        times = TimeColumn(block.column(columns.start))
    freqs = None if columns.freq is None else block.column(columns.freq).to_pylist()
    series = _Series(ids, values, starts, times, freqs, errors)
    _check_values(series)
    if times is not None:
        _check_times(series, times, columns)
    return series


def _check_values(series: _Series) -> None:
    """Enter the errors of series with a value that the service does not accept, or with none at all."""
    filled = np.flatnonzero(series.lengths)
    if not len(filled):
        return
    firsts = series.starts[:-1][filled]
    empty = np.logical_and.reduceat(np.isnan(series.values), firsts)
    large = np.logical_or.reduceat(np.abs(series.values) > LARGEST, firsts)
    for i in filled[empty]:
        series.errors[i] = series.errors[i] or "holds no number, only missing values; at least one value is needed"
    for i in filled[large]:
        series.errors[i] = series.errors[i] or f"has a value that is not finite, or beyond {LARGEST:g}"


def _check_times(series: _Series, times: TimeColumn, columns: Columns) -> None:
    """Enter the errors of series that lack a time, and sort the values of each by time."""
    if columns.start is not None:
        for i in np.flatnonzero(times.missing):
            series.errors[i] = series.errors[i] or "start is missing"
        return
    of_rows = np.repeat(np.arange(len(series.ids)), series.lengths)
    for i in np.unique(of_rows[times.missing]):
        series.errors[i] = series.errors[i] or "a time is missing"
    if ((np.diff(times.ticks) < 0) & (np.diff(of_rows) == 0)).any():
        order = np.lexsort((times.ticks, of_rows))
        times.reorder(order)
        series.values = series.values[order]


def _grids(series: _Series, columns: Columns, options: BatchOptions) -> _Grids:
    count = len(series.ids)
    grids = _Grids(
        [np.empty(0)] * count,
        [None] * count,
        np.broadcast_to(np.arange(1, options.horizon + 1), (count, options.horizon)),
        np.zeros(count, dtype=bool),
    )
    good, times = series.good, series.times
    for i in good:
        grids.values[i] = series.values[series.starts[i] : series.starts[i + 1]]
        grids.freqs[i] = options.freq if series.freqs is None else series.freqs[i] or options.freq
    if times is None:
        return grids
    grids.times = np.zeros((count, options.horizon), dtype=np.int64)
    by_freq: dict[str | None, list[int]] = {}
    for i in good.tolist():
        by_freq.setdefault(grids.freqs[i], []).append(i)
    for freq, members in by_freq.items():
        try:
            _place(np.array(members, dtype=np.intp), freq, series, times, columns, options, grids)
        except InvalidRequestError as error:  # no such frequency
            for i in members:
                series.errors[i] = error.detail
    return grids


def _place(
    members: NDArray[np.intp],
    freq: str | None,
    series: _Series,
    times: TimeColumn,
    columns: Columns,
    options: BatchOptions,
    grids: _Grids,
) -> None:
    """Enter the grids of series at one frequency; None: at those that their times follow.

    Raises:
        InvalidRequestError: there is no such frequency.
    """
    one_each = columns.start is not None
    if one_each and freq is None and times.unit:
        raise InvalidRequestError("start needs a frequency: give freq")
    starts = np.arange(len(series.ids) + 1) if one_each else series.starts
    panel = Panel(times.ticks, starts, times.unit)
    if times.zone is None:
        _enter(panel.select(members), members, freq, False, one_each, series, options, grids)
        return
    # Frequencies of a day or longer count by the clock on the wall, shorter ones by the time that passes.
    clock = Panel(times.local_ticks(), starts, times.unit)
    if freq is not None:
        by_clock = np.full(len(members), _of_days(step_of(freq, times.unit), panel))
    else:
        steps = place(clock.select(members), None, options.panel_freq).steps
        by_clock = np.array([step is not None and _of_days(step, panel) for step in steps])
    for local, part in ((True, members[by_clock]), (False, members[~by_clock])):
        if len(part):
            chosen = (clock if local else panel).select(part)
            _enter(chosen, part, freq, local, one_each, series, options, grids)


def _of_days(step: Step, panel: Panel) -> bool:
    return step.kind != "ticks" or (step.count > 0 and step.count % panel.ticks_per_day == 0)


def _enter(
    panel: Panel,
    members: NDArray[np.intp],
    freq: str | None,
    local: bool,
    one_each: bool,
    series: _Series,
    options: BatchOptions,
    grids: _Grids,
) -> None:
    """Enter the grids of these members of a block, whose times are the panel's. one_each: only their first ones."""
    places = place(panel, freq, options.panel_freq)
    lengths = series.lengths[members] if one_each else places.lengths
    by_step: dict[Step, list[int]] = {}
    for j, step in enumerate(places.steps):
        if step is None:
            series.errors[members[j]] = places.errors[j]
        else:
            by_step.setdefault(step, []).append(j)
    for step, group in by_step.items():
        js = np.array(group, dtype=np.intp)
        after, within = times_after(panel.firsts[js], lengths[js], step, panel.unit, options.horizon)
        grids.times[members[js]] = after
        grids.local[members[js]] = local
        for j, fits in zip(group, within.tolist(), strict=True):
            i = members[j]
            grids.freqs[i] = step.name if panel.unit else freq
            if not fits:
                series.errors[i] = "the times of the forecast leave the calendar"
            elif lengths[j] != len(grids.values[i]):
                gaps = np.full(lengths[j], np.nan)
                gaps[places.indices[panel.starts[j] : panel.starts[j + 1]]] = grids.values[i]
                grids.values[i] = gaps


def _run(
    series: _Series, grids: _Grids, model: Model[ForecastManifest], options: BatchOptions
) -> tuple[Floats, Floats]:
    """The medians (S, H) and quantiles (S, H, L) of a block, NaN where there is an error, which this enters."""
    levels = _quantile_levels(options.levels)
    medians = np.full((len(series.ids), options.horizon), np.nan)
    quantiles = np.full((*medians.shape, len(levels)), np.nan)
    bounds = NON_NEGATIVE if options.non_negative else UNBOUNDED
    starts = {freq: initial_state(model.manifest, options.season_length, freq) for freq in {*grids.freqs}}
    pending: list[tuple[int, Future[Forecast]]] = []
    # Series of like length fill the graph's batches without padding.
    for i in sorted(series.good.tolist(), key=lambda i: len(grids.values[i])):
        request = ForecastRequest(grids.values[i][:, None], options.horizon, levels, bounds=bounds, returns_state=False)
        task = forecast(model.manifest, request, starts[grids.freqs[i]])
        pending.append((i, model.engine.submit(task, request.cost_steps)))
    for i, future in pending:
        try:
            result = future.result()
        except InvalidRequestError as error:
            series.errors[i] = error.detail
        else:
            medians[i], quantiles[i] = result.median, result.quantiles
    return medians, quantiles


def _write(
    series: _Series, grids: _Grids, medians: Floats, quantiles: Floats, options: BatchOptions, schema: pa.Schema
) -> pa.RecordBatch:
    """The block's rows of the answer."""
    failed = np.array([error is not None for error in series.errors], dtype=bool)
    lists = pa.types.is_list(schema.field("median").type)
    # A failed series has no value in its lists, or one row.
    shown = np.ones(medians.shape, dtype=bool)
    shown[failed, 0 if lists else 1 :] = False
    counts = shown.sum(axis=1)
    ticks, local = grids.times[shown], np.repeat(grids.local, counts)
    missing = np.repeat(failed, counts)
    times = pa.array(ticks) if series.times is None else series.times.write(ticks, local)
    levels = _quantile_levels(options.levels)
    numbers = {"median": medians}
    for level in options.levels:
        low, high = interval_to_quantiles(level)
        numbers |= {f"lo-{level:g}": quantiles[..., levels.index(low)]}
        numbers |= {f"hi-{level:g}": quantiles[..., levels.index(high)]}
    flat_columns = [times, *(pa.array(array[shown]) for array in numbers.values())]
    errors = pa.array(series.errors, pa.string())
    if lists:
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        mask = pa.array(failed)
        columns = [pa.ListArray.from_arrays(offsets, column, mask=mask) for column in flat_columns]
        return pa.RecordBatch.from_arrays([series.ids, *columns, errors], schema=schema)
    if failed.any():
        blank = pa.array(missing)
        flat_columns = [pc.if_else(blank, pa.scalar(None, column.type), column) for column in flat_columns]
    rows = pa.array(np.repeat(np.arange(len(series.ids)), counts))
    return pa.RecordBatch.from_arrays([series.ids.take(rows), *flat_columns, errors.take(rows)], schema=schema)


def _value_names(options: BatchOptions) -> list[str]:
    return ["median", *(f"{end}-{level:g}" for level in options.levels for end in ("lo", "hi"))]


def _quantile_levels(intervals: tuple[float, ...]) -> tuple[float, ...]:
    """The ends of central intervals, ascending, each once."""
    return tuple(sorted({end for interval in intervals for end in interval_to_quantiles(interval)}))
