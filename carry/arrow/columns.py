"""The columns of series in Arrow tables: which they are, where each series starts, and their times as integers and
back. Knows nothing of models, frequencies and files.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.errors import InvalidRequestError

Integers = NDArray[np.int64]
Keep = Callable[[pa.Array], NDArray[np.bool_]]
"""Which series to keep, by their ids."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns of series. With `lists`, a row is a series: values, and perhaps times, are lists.

    times: None if the table has none. start: instead of times, a column with the first time of each series. freq: a
    column with the frequency of each series.
    """

    id: str
    values: str
    lists: bool
    times: str | None = None
    start: str | None = None
    freq: str | None = None

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        return [name for name in (self.id, self.times, self.start, self.freq, self.values) if name is not None]


def find_columns(schema: pa.Schema, id: str = "unique_id", times: str = "ds", values: str = "y") -> Columns:
    """The columns of series in a table of this schema.

    Raises:
        InvalidRequestError: a column is missing, or its type is not accepted.
    """
    for name in (id, values):
        if schema.names.count(name) != 1:
            raise InvalidRequestError(f"needs one column {name}; the table has: {', '.join(schema.names)}")
    id_type, value_type = schema.field(id).type, schema.field(values).type
    if pa.types.is_nested(id_type) or pa.types.is_null(id_type) or "view" in str(id_type):
        raise InvalidRequestError(f"{id} must hold text, numbers or other plain values; its type is {id_type}")
    lists = _is_list(value_type)
    number = value_type.value_type if lists else value_type
    if not (pa.types.is_integer(number) or pa.types.is_floating(number) or pa.types.is_decimal(number)):
        raise InvalidRequestError(f"{values} must hold numbers, or lists of numbers; its type is {value_type}")
    has_times = times in schema.names
    start = "start" if lists and not has_times and "start" in schema.names else None
    freq = "freq" if lists and "freq" in schema.names else None
    columns = Columns(id, values, lists, times if has_times else None, start, freq)
    if has_times and _is_list(schema.field(times).type) != lists:
        raise InvalidRequestError(f"{times} must be a list exactly where {values} is one")
    if (type := time_type(schema, columns)) is not None:
        TimeColumn.check(type, columns.times or "start")
    return columns


def time_type(schema: pa.Schema, columns: Columns) -> pa.DataType | None:
    """The type of one time; None if the table has none."""
    if columns.times is not None:
        type = schema.field(columns.times).type
        return type.value_type if columns.lists else type
    return None if columns.start is None else schema.field(columns.start).type


def _is_list(type: pa.DataType) -> bool:
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))


def run_starts(ids: pa.Array) -> Integers:
    """The rows of a column at which another id begins."""
    if pa.types.is_dictionary(ids.type):
        ids = ids.indices if ids.null_count == 0 else ids.dictionary_decode()
    ends = pc.run_end_encode(ids, run_end_type=pa.int64()).run_ends.to_numpy()
    return np.concatenate([[0], ends[:-1]]).astype(np.int64)


def whole_series(
    batches: Iterable[pa.RecordBatch],
    columns: Columns,
    max_series: int,
    max_values: int,
    keep: Keep | None = None,
) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of whole series: up to `max_series` of them, and fewer once they have `max_values`
    values. Where the batches end depends on the series alone, not on how the rows came. Memory holds one batch.

    keep: only these series.

    Raises:
        InvalidRequestError: an id is missing.
    """
    pending: list[pa.RecordBatch] = []
    series = values = 0  # that began in `pending`
    last_id: object = None
    row = 0
    for table_batch in batches:
        batch = table_batch.select(columns.names)
        if not len(batch):
            continue
        ids = batch.column(columns.id)
        if ids.null_count:
            missing = row + int(np.argmin(ids.is_valid().to_numpy(zero_copy_only=False)))
            raise InvalidRequestError(f"{columns.id} is missing in row {missing + 1}")
        row += len(batch)
        starts = np.arange(len(batch), dtype=np.int64) if columns.lists else run_starts(ids)
        if keep is not None:
            kept = keep(ids.take(pa.array(starts)))
            if not kept.all():
                batch = batch.filter(pa.array(np.repeat(kept, np.diff(starts, append=len(batch)))))
                if not len(batch):
                    continue
                ids = batch.column(columns.id)
                starts = np.arange(len(batch), dtype=np.int64) if columns.lists else run_starts(ids)
        before = _values_before(batch, columns)
        goes_on = not columns.lists and ids[0].as_py() == last_id
        begins = starts[1:] if goes_on else starts
        last_id = ids[len(ids) - 1].as_py()
        done = at = 0
        while True:
            # The first series that is one too many, by either limit.
            first_by_count = at + max_series - series
            first_by_values = int(np.searchsorted(before[begins], before[done] + max_values - values))
            cut = min(first_by_count, max(first_by_values, at + (series == 0)))
            if cut >= len(begins):
                break
            end = int(begins[cut])
            yield _joined([*pending, batch.slice(done, end - done)])
            pending, series, values, done, at = [], 0, 0, end, cut
        pending.append(batch.slice(done))
        series += len(begins) - at
        values += int(before[-1] - before[done])
    if pending:
        yield _joined(pending)


def _values_before(batch: pa.RecordBatch, columns: Columns) -> Integers:
    """How many values precede each row, and all together (rows + 1,)."""
    if not columns.lists:
        return np.arange(len(batch) + 1, dtype=np.int64)
    lengths = list_lengths(batch.column(columns.values))
    return np.concatenate([[0], np.cumsum(lengths)])


def list_lengths(lists: pa.Array) -> Integers:
    """The length of each list; 0 where there is none."""
    lengths: Integers = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    [batch] = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()
    return batch


class TimeColumn:
    """A column of times as integers. ticks (N,): of `unit`, one of NumPy's datetime64, or "" for counters; those of a
    time zone in UTC. missing (N,): where there is no time; ticks are 0 there."""

    def __init__(self, times: pa.Array) -> None:
        """Raises:
        InvalidRequestError: a text is no time.
        """
        self.type = type = times.type
        self.zone: str | None = getattr(type, "tz", None)
        self._separator: str | None = None
        if _is_text(type):
            first = next((text for text in times.to_pylist() if text is not None), "")
            self._separator = first[10:11]
            try:
                times = pc.cast(times, pa.timestamp("us"))
            except pa.ArrowInvalid as error:
                raise InvalidRequestError(f"times as text must be ISO 8601, without a zone: {error}") from None
        self.missing: NDArray[np.bool_] = times.is_null().to_numpy(zero_copy_only=False)
        self._times = pc.fill_null(times, _zero(times.type)) if times.null_count else times
        if pa.types.is_timestamp(times.type):
            self.unit = times.type.unit
            self.ticks: Integers = self._times.view(pa.int64()).to_numpy()
        elif pa.types.is_date(type):
            self.unit = "D"
            whole = self._times.cast(pa.date32()).view(pa.int32())
            self.ticks = whole.to_numpy().astype(np.int64)
        else:
            self.unit = ""
            self.ticks = self._times.cast(pa.int64()).to_numpy()

    @staticmethod
    def check(type: pa.DataType, name: str) -> None:
        """Raises:
        InvalidRequestError: a column of this type is not read as times.
        """
        kinds = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_integer, _is_text)
        if not any(is_kind(type) for is_kind in kinds):
            raise InvalidRequestError(f"{name} must hold timestamps, dates, integers or text; its type is {type}")

    def reorder(self, rows: NDArray[np.intp]) -> None:
        """Put the times in another order."""
        self._times = self._times.take(pa.array(rows))
        self.ticks, self.missing = self.ticks[rows], self.missing[rows]

    def local_ticks(self) -> Integers:
        """What clocks in the column's time zone show."""
        local: Integers = pc.local_timestamp(self._times).view(pa.int64()).to_numpy()
        return local

    def write(self, ticks: Integers, local: NDArray[np.bool_]) -> pa.Array:
        """Times (N,) as a column of the same type. local (N,): which ticks are as clocks show them (`local_ticks`). A
        time that clocks skip becomes the first after it; of one that they repeat, it takes the first."""
        if pa.types.is_date(self.type):
            return pa.array(ticks.astype(np.int32)).view(pa.date32()).cast(self.type)
        if not self.unit:
            return pa.array(ticks).cast(self.type)
        if self._separator is not None:
            texts = np.datetime_as_string(ticks.astype(f"datetime64[{self.unit}]"), "s" if self._separator else "D")
            column = pa.array(texts.tolist(), self.type)
            return column if self._separator in ("", "T") else pc.replace_substring(column, "T", self._separator)
        if not local.any():
            return pa.array(ticks).view(self.type)
        naive = pa.array(ticks).view(pa.timestamp(self.unit))
        zoned = pc.assume_timezone(naive, self.zone, ambiguous="earliest", nonexistent="latest")
        return zoned if local.all() else pc.if_else(pa.array(local), zoned, pa.array(ticks).view(self.type))


def _zero(type: pa.DataType) -> pa.Scalar:
    bits = pa.int32() if pa.types.is_date32(type) else pa.int64()
    return pa.scalar(0, type) if pa.types.is_integer(type) else pa.array([0], bits).view(type)[0]


def _is_text(type: pa.DataType) -> bool:
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type))


def flat(lists: pa.Array, lengths: Integers) -> pa.Array:
    """The items of all lists, one after another. A list of another length than here counts as missing items."""
    actual, items = list_lengths(lists), lists.flatten()
    if (actual == lengths).all():
        return items
    offsets = np.concatenate([[0], np.cumsum(actual)[:-1]])
    rows = np.repeat(offsets - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    return items.take(pa.array(rows, mask=np.repeat(actual != lengths, lengths)))


def floats(column: pa.Array) -> NDArray[np.float64]:
    """Numbers (N,), NaN where missing."""
    if column.type != pa.float64():
        column = column.cast(pa.float64())
    numbers: NDArray[np.float64] = column.to_numpy(zero_copy_only=False)
    return numbers
