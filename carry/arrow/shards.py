"""Forecasts a table of any size into a folder of Parquet files: it is streamed through several processes, and memory
does not grow with it. A run that was killed goes on where it stopped; several machines share a table by shards.

A part has the forecasts of one block of series (carry/batch.py). Which series it has depends on the table alone, so a
part that exists is never made again.
"""

import hashlib
import json
import os
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from carry.arrow.columns import find_columns, whole_series
from carry.arrow.sources import Source, open_source
from carry.batch import (
    BLOCK_SERIES,
    BLOCK_VALUES,
    BatchOptions,
    BatchSummary,
    check_options,
    forecast_batches,
    open_forecaster,
    output_schema,
    panel_frequency,
)
from service.errors import CarryError
from service.forecast.manifest import ForecastManifest
from service.kind import Model
from service.logs import configure_logs
from service.settings import Settings

MANIFEST = "_manifest.json"
MAX_FAILURES = 1000
"""Series that cannot be forecast of which a report has the reasons. The parts have them all, in the column `error`."""
MAX_SHOWN = 10
"""Of these, how many the lines of a report have."""
PROGRESS_SECONDS = (1.0, 10.0)
"""Between two lines of progress: on a terminal, and elsewhere."""


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` parts of a table's series, from 1. An id is always in the same one."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Of "3/64".

        Raises:
            ValueError: it is none.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ValueError("must be such as 3/64: the third of 64")
        return cls(int(index), int(count))

    @property
    def label(self) -> str:
        """For the names of files, such as "-03-of-64"; "" for the whole table."""
        digits = len(str(self.count))
        return "" if self.count == 1 else f"-{self.index:0{digits}}-of-{self.count}"


@dataclass
class ShardReport:
    """What a run did. counts: of the shard; rows: read of the table; freq: of most of its series; ignored: columns that
    are not used; failures: ids of series that cannot be forecast, and why, the first MAX_FAILURES; scattered: series
    whose rows stand in several places of the table, which were forecast in pieces; parts: of the output; resumed: those
    that an earlier run made."""

    counts: BatchSummary = field(default_factory=BatchSummary)
    rows: int = 0
    freq: str | None = None
    ignored: list[str] = field(default_factory=list)
    failures: list[list[str]] = field(default_factory=list)
    scattered: int = 0
    parts: int = 0
    resumed: int = 0
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every series was forecast, whole."""
        return not self.counts.failed and not self.scattered

    def lines(self) -> list[str]:
        """For a person."""
        rate = f" in {self.seconds:,.0f} s" if self.seconds else ""
        some = "1 part" if self.parts == 1 else f"{self.parts:,} parts"
        counts, often = self.counts, f", {self.freq}" if self.freq else ""
        lines = [f"{counts.series:,} series of {counts.values:,} values{often}, {some}{rate}"]
        if self.resumed == self.parts:
            lines[0] += "; all were there already"
        elif self.resumed:
            lines[0] += f"; {self.resumed:,} were there already"
        if self.ignored:
            lines.append(f"not used: the columns {', '.join(self.ignored)}")
        if counts.missing:
            lines.append(f"missing values: {counts.missing:,}")
        if counts.gaps:
            lines.append(
                f"times without a row: {counts.gaps:,}, in {counts.gap_series:,} series; they are missing values"
            )
        if self.scattered:
            lines.append(
                f"{self.scattered:,} series do not have all their rows together, and were forecast in pieces: sort the "
                "table by the ids, and start again in another folder"
            )
        if counts.failed:
            lines.append(f"{counts.failed:,} series cannot be forecast; the column `error` of the output says why:")
            shown = self.failures[:MAX_SHOWN]
            lines += [f"  {id}: {reason}" for id, reason in shown]
            if counts.failed > len(shown):
                lines.append(f"  ... and {counts.failed - len(shown):,} more")
        return lines


def run(
    path: Path,
    out: Path,
    options: BatchOptions,
    shard: Shard = Shard(),
    processes: int = 1,
    stream: TextIO | None = None,
) -> ShardReport:
    """Forecast the series of a shard of a table into the folder `out`, or go on with it.

    path: a file, or a folder of files of one kind: Parquet, CSV, Arrow IPC, JSON lines. The table is as for
    `forecast_batches`. processes: how many forecast. stream: for lines of progress.

    Raises:
        CarryError: the table or an option is not acceptable, the folder has forecasts of another table or with other
            options, another process is at the same shard, or a file cannot be written.
    """
    model = open_forecaster(options.models_dir, options.model)
    options = replace(options, model=model.label)
    check_options(model.manifest, options)
    source = open_source(path, options.id, options.target)
    columns = find_columns(source.schema, options.id, options.times, options.target)
    if options.panel_freq is None and options.freq is None and (head := source.head(columns.names)) is not None:
        options = replace(options, panel_freq=panel_frequency(head, options))
    _make_folder(out)
    with _lock(out, shard):
        about = _describe(model, source, options, shard)
        _agree(out, about)
        report_file = out / f"_report{shard.label}.json"
        if report_file.exists():
            saved = json.loads(report_file.read_text())
            report = ShardReport(**{**saved, "counts": BatchSummary(**saved["counts"])})
            if len([*out.glob(f"part{shard.label}-*")]) == report.parts:
                return replace(report, resumed=report.parts, seconds=0.0)
        for left in out.glob(f".part{shard.label}-*"):
            left.unlink()
        report = ShardReport(freq=options.freq or options.panel_freq)
        report.ignored = [name for name in source.schema.names if name not in columns.names]
        began = time.monotonic()
        progress = _Progress(stream, source.rows, report)
        metadata = {name: about[name] for name in ("model", "graph_sha256")} | {
            "input_sha256": source.sha256,
            "shard": f"{shard.index}/{shard.count}",
        }
        writer = _Writer(out, shard, options, metadata)
        ids = _Ids(shard, columns.lists)
        with _Workers(processes, writer, partial(_add, report)) as workers:
            blocks = whole_series(
                _counted(source.batches(columns.names), report), columns, BLOCK_SERIES, BLOCK_VALUES, ids.keep
            )
            for number, block in enumerate(blocks):
                report.parts += 1
                if writer.path(number).exists():
                    part = writer.read(number)
                    _add(report, part)
                    report.resumed += 1
                    progress.skipped += part["counts"]["series"]
                else:
                    workers.submit(number, block)
                progress.show()
            workers.finish()
        if not report.parts:  # a reader of the folder finds its columns all the same
            report.parts = 1
            writer.write(0, output_schema(source.schema, options).empty_table(), BatchSummary())
        report.scattered, report.seconds = ids.scattered(), round(time.monotonic() - began, 3)
        _write_text(report_file, json.dumps(asdict(report), indent=1))
        progress.end()
        return report


def _counted(batches: Iterable[pa.RecordBatch], report: ShardReport) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        report.rows += len(batch)
        yield batch


def _add(report: ShardReport, part: dict[str, Any]) -> None:
    """Count a part in."""
    for name, count in part["counts"].items():
        setattr(report.counts, name, getattr(report.counts, name) + count)
    report.failures += part["failures"][: MAX_FAILURES - len(report.failures)]


class _Ids:
    """Which ids are in a shard, and whether any comes twice: 8 bytes of memory for each series."""

    def __init__(self, shard: Shard, rows_each: bool) -> None:
        self._shard = shard
        self._rows_each = rows_each
        self._hashes = array("Q")
        self._last: int | None = None

    def keep(self, ids: pa.Array) -> NDArray[np.bool_]:
        """As `whole_series` asks: of each run of rows with the same id."""
        digests = b"".join(hashlib.blake2b(str(id).encode(), digest_size=8).digest() for id in ids.to_pylist())
        hashes = np.frombuffer(digests, dtype="<u8")
        kept: NDArray[np.bool_] = hashes % np.uint64(self._shard.count) == self._shard.index - 1
        # A series may go on from the batch before.
        goes_on = not self._rows_each and len(hashes) > 0 and int(hashes[0]) == self._last
        self._hashes.frombytes(hashes[goes_on:][kept[goes_on:]].astype(np.uint64).tobytes())
        self._last = int(hashes[-1]) if len(hashes) else self._last
        return kept

    def scattered(self) -> int:
        """How many ids came more than once."""
        _, counts = np.unique(np.frombuffer(self._hashes, dtype=np.uint64), return_counts=True)
        return int((counts > 1).sum())


@dataclass(frozen=True)
class _Writer:
    """Writes parts: under another name first, so that a part is whole or not there. metadata: of each part's schema."""

    out: Path
    shard: Shard
    options: BatchOptions
    metadata: dict[str, Any]

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.out / f"part{self.shard.label}-{number:06}.parquet"

    def write(self, number: int, table: pa.Table, counts: BatchSummary) -> dict[str, Any]:
        """Write the forecasts of a block. Returns what the part has, as `_add` takes it.

        Raises:
            CarryError: the file cannot be written.
        """
        failures = table.filter(table["error"].is_valid()).slice(0, MAX_FAILURES)
        reasons = zip(failures[0].to_pylist(), failures["error"].to_pylist(), strict=True)
        part = {"number": number, "counts": asdict(counts), "failures": [[str(id), reason] for id, reason in reasons]}
        final = self.path(number)
        temporary = self.out / f".{final.stem}-{os.getpid()}"
        try:
            with temporary.open("wb") as file:
                metadata = {b"carry": json.dumps({**self.metadata, "part": part})}
                pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise _unwritable(final, error) from error
        return part

    def read(self, number: int) -> dict[str, Any]:
        """What a part that exists has.

        Raises:
            CarryError: it is not one that this wrote.
        """
        try:
            part: dict[str, Any] = json.loads(pq.read_schema(self.path(number)).metadata[b"carry"])["part"]
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
            raise CarryError(f"{self.path(number)} is no part of these forecasts; remove it") from None
        return part


def _unwritable(path: Path, error: OSError) -> CarryError:
    return CarryError(f"{path} cannot be written: {error.strerror or error}")


class _Workers:
    """Processes that forecast blocks and write parts. Each has one block at a time, so that memory is bounded. A
    context manager; leaving it ends the processes."""

    def __init__(self, count: int, writer: _Writer, done: Callable[[dict[str, Any]], None]) -> None:
        """done: called with what each part has."""
        self._max_count = count
        self._writer = writer
        self._done = done
        self._processes: dict[Connection, BaseProcess] = {}
        self._idle: list[Connection] = []

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._processes.items():
            process.kill()
            process.join()
            connection.close()

    def submit(self, number: int, block: pa.RecordBatch) -> None:
        """Have a block forecast; waits for a worker that is free.

        Raises:
            CarryError: a worker failed.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, block.schema) as stream:
            stream.write_batch(block)
        if not self._idle and len(self._processes) < self._max_count:
            self._start()
        while not self._idle:
            self._receive()
        connection = self._idle.pop()
        connection.send(number)
        connection.send_bytes(sink.getvalue())

    def finish(self) -> None:
        """Wait for all parts.

        Raises:
            CarryError: a worker failed.
        """
        while len(self._idle) < len(self._processes):
            self._receive()

    def _start(self) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._writer), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process

    def _receive(self) -> None:
        """Take what workers answer: None when ready for the first block, then a part or an error."""
        busy = [connection for connection in self._processes if connection not in self._idle]
        for connection in wait(busy):
            assert isinstance(connection, Connection)
            try:
                answer = connection.recv()
            except EOFError:
                process = self._processes[connection]
                process.join()
                raise CarryError(
                    f"a worker ended with status {process.exitcode}; the parts that were written stay: start again, "
                    "with a smaller CARRY_PROCESSES if memory is short"
                ) from None
            if isinstance(answer, CarryError):
                raise answer
            if answer is not None:
                self._done(answer)
            self._idle.append(connection)


def _work(connection: Connection, writer: _Writer) -> None:
    """The body of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_logs(Settings())
    open_forecaster(writer.options.models_dir, writer.options.model)
    connection.send(None)
    while True:
        try:
            number = connection.recv()
            stream = pa.ipc.open_stream(connection.recv_bytes())
        except EOFError:
            return
        try:
            schema = output_schema(stream.schema, writer.options)
            counts = BatchSummary()
            table = pa.Table.from_batches(forecast_batches(stream, writer.options, counts), schema)
            answer: dict[str, Any] | CarryError = writer.write(number, table, counts)
        except CarryError as error:
            answer = error
        connection.send(answer)


def _end_with_parent() -> None:
    """End this process when its parent is killed: the run that goes on makes its part."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Progress:
    """Lines about how far a run is. On a terminal, a line replaces the one before."""

    def __init__(self, stream: TextIO | None, rows: int | None, report: ShardReport) -> None:
        """rows: of the whole table, None if they are not known."""
        self._stream = stream
        self._rows = rows
        self._report = report
        self._replaces = stream is not None and stream.isatty()
        self._began = self._shown = time.monotonic()
        self.skipped = 0
        """Series of an earlier run, which say nothing about the rate."""

    def show(self) -> None:
        """Write a line if the last one is old enough."""
        now, report = time.monotonic(), self._report
        if self._stream is None or now - self._shown < PROGRESS_SECONDS[not self._replaces]:
            return
        self._shown = now
        rate = (report.counts.series - self.skipped) / (now - self._began)
        line = f"carry: {report.counts.series:,} series, {rate:,.0f} a second"
        if self._rows and report.rows:
            share = report.rows / self._rows
            line += f", {100 * share:.0f} % of the rows read"
        self._stream.write(f"\r{line:<78}" if self._replaces else f"{line}\n")
        self._stream.flush()

    def end(self) -> None:
        """Remove the line from a terminal."""
        if self._stream is not None and self._replaces:
            self._stream.write(f"\r{'':<78}\r")
            self._stream.flush()


@contextmanager
def _lock(out: Path, shard: Shard) -> Iterator[None]:
    """Keep other processes from the same shard. The system frees it when the process ends, however it ends."""
    import fcntl

    path = out / f".lock{shard.label}"
    try:
        file = path.open("w")
    except OSError as error:
        raise _unwritable(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CarryError(f"another process is at this shard in {out}") from None
        yield


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        strangers = [path.name for path in out.iterdir() if not path.name.startswith((".", "_", "part-"))]
    except OSError as error:
        raise _unwritable(out, error) from error
    if strangers or (any(out.glob("part-*")) and not (out / MANIFEST).exists()):
        raise CarryError(f"{out} has other files in it, such as {next(iter(strangers), 'part-')}: name an empty folder")


def _describe(model: Model[ForecastManifest], source: Source, options: BatchOptions, shard: Shard) -> dict[str, Any]:
    """The manifest of a folder of forecasts: what they are of, and how they are made."""
    chosen = {name: value for name, value in asdict(options).items() if name not in ("model", "models_dir")}
    return {
        "model": model.label,
        "graph_sha256": model.graphs.graph.sha256,
        "input": {"path": str(source.path), "sha256": source.sha256, "files": [asdict(file) for file in source.files]},
        "options": json.loads(json.dumps(chosen)),
        "shards": shard.count,
    }


def _agree(out: Path, about: dict[str, Any]) -> None:
    """Write the manifest, or compare it with the one that is there.

    Raises:
        CarryError: they differ.
    """
    path = out / MANIFEST
    temporary = out / f".manifest-{os.getpid()}"
    _write_text(temporary, json.dumps(about, indent=1))
    try:
        os.link(temporary, path)  # of several shards that start at once, the first one wins
        return
    except FileExistsError:
        there = json.loads(path.read_text())
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink()
    for name, ours, theirs in (
        ("model", about["model"], there["model"]),
        ("graph of the model", about["graph_sha256"], there["graph_sha256"]),
        ("number of shards", about["shards"], there["shards"]),
        ("input (by its sha256)", about["input"]["sha256"], there["input"]["sha256"]),
        *((name, value, there["options"].get(name)) for name, value in about["options"].items()),
    ):
        if ours != theirs:
            raise CarryError(
                f"{out} has forecasts with another {name}: {theirs}, not {ours}; go on with the same, or name another "
                "folder"
            )


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
