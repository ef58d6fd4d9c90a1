"""The metrics of all processes of a machine, in memory that they share. It is made before the fork.

Each process counts in a region of its own, so processes need no lock between them. A process that replaces another one
continues its counts. There are no files: none fill a disk, and dead processes leave none behind.
"""

import json
import math
import mmap
import struct
import time
from collections.abc import Iterator
from threading import Lock
from typing import Any, NamedTuple

import prometheus_client.values
import structlog
from prometheus_client import Metric
from prometheus_client.registry import Collector

REGION_BYTES = 2**24
"""Bytes of the region of one process: about sixty thousand samples, of all models that were ever loaded. The system
allocates only what is written."""
_START = 8  # a region begins with the number of bytes in use
_LENGTH = struct.Struct("<Q")


class Key(NamedTuple):
    """Identifies a sample of a metric. `mode`: how to merge a gauge's values of several processes."""

    kind: str
    mode: str
    metric: str
    sample: str
    label_names: tuple[str, ...]
    label_values: tuple[str, ...]
    documentation: str

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the sample."""
        return dict(zip(self.label_names, self.label_values, strict=True))


class _Region:
    """The samples of one process: records of a key, its value, and the time of the last `set`. It only grows."""

    def __init__(self) -> None:
        self._bytes = memoryview(mmap.mmap(-1, REGION_BYTES))
        self._used = self._bytes.cast("Q")  # element 0
        self.cells = self._bytes.cast("d")
        self._end = _START
        self._cells_by_key: dict[Key, int] = {}

    def cells_by_key(self) -> dict[Key, int]:
        """The cell of each sample's value. The next cell has its time."""
        used = self._used[0]  # written last: all records before it are complete
        while self._end < used:
            (length,) = _LENGTH.unpack_from(self._bytes, self._end)
            text = bytes(self._bytes[self._end + 8 : self._end + 8 + length])
            kind, mode, metric, sample, names, values, documentation = json.loads(text)
            key = Key(kind, mode, metric, sample, tuple(names), tuple(values), documentation)
            cell = (self._end + 8 + length) // 8
            self._cells_by_key[key] = cell
            self._end = 8 * (cell + 2)
        return self._cells_by_key

    def cell_of(self, key: Key) -> int | None:
        """The cell of a sample's value, added if it is new; None if the region is full."""
        if key not in self.cells_by_key():
            text = json.dumps(key).encode()
            text += b" " * (-len(text) % 8)
            end = self._end + 8 + len(text) + 16
            if end > REGION_BYTES:
                return None
            _LENGTH.pack_into(self._bytes, self._end, len(text))
            self._bytes[self._end + 8 : self._end + 8 + len(text)] = text
            self._used[0] = end
        return self.cells_by_key()[key]


class SharedMetrics(Collector):
    """The metrics of all processes."""

    def __init__(self, processes: int) -> None:
        self._regions = [_Region() for _ in range(processes)]

    def count_here(self, worker_index: int) -> None:
        """Instruments that this process makes from now on count in its region."""
        region = self._regions[worker_index]
        for key, cell in region.cells_by_key().items():
            if key.mode.startswith("live"):  # of its predecessor
                region.cells[cell] = 0.0
        prometheus_client.values.ValueClass = _value_class(region)

    def collect(self) -> Iterator[Metric]:
        """The metrics of all processes together."""
        values_by_key: dict[Key, list[tuple[int, float, float]]] = {}
        for worker_index, region in enumerate(self._regions):
            for key, cell in region.cells_by_key().items():
                values_by_key.setdefault(key, []).append((worker_index, region.cells[cell], region.cells[cell + 1]))
        metrics: dict[str, Metric] = {}
        buckets: dict[tuple[str, tuple[tuple[str, str], ...]], dict[float, float]] = {}
        for key, values in values_by_key.items():
            metric = metrics.setdefault(key.metric, Metric(key.metric, key.documentation, key.kind))
            if key.sample == f"{key.metric}_bucket":
                labels = key.labels
                bound = float(labels.pop("le"))
                series = buckets.setdefault((key.metric, tuple(labels.items())), {})
                series[bound] = math.fsum(value for _, value, _ in values)
            elif key.mode.endswith("all"):
                for worker_index, value, _ in values:
                    metric.add_sample(key.sample, key.labels | {"process": str(worker_index)}, value)
            else:
                metric.add_sample(key.sample, key.labels, _merge(key.mode.removeprefix("live"), values))
        for (name, series_labels), series in buckets.items():
            total = 0.0
            for bound in sorted(series):
                total += series[bound]
                metrics[name].add_sample(
                    f"{name}_bucket", dict(series_labels) | {"le": "+Inf" if bound == math.inf else str(bound)}, total
                )
            metrics[name].add_sample(f"{name}_count", dict(series_labels), total)
        yield from metrics.values()


def _merge(mode: str, values: list[tuple[int, float, float]]) -> float:
    """Merge the (process, value, time of the last `set`) of several processes into one value."""
    if mode == "mostrecent":
        return max(values, key=lambda each: each[2])[1]
    if mode in ("max", "min"):
        return (max if mode == "max" else min)(value for _, value, _ in values)
    return math.fsum(value for _, value, _ in values)


def _value_class(region: _Region) -> type:
    """prometheus_client's class for a value. It makes one value for each sample of each instrument."""
    lock = Lock()

    class SharedValue:
        _multiprocess = True

        def __init__(
            self,
            typ: str,
            metric_name: str,
            name: str,
            labelnames: tuple[str, ...],
            labelvalues: tuple[str, ...],
            help_text: str,
            multiprocess_mode: str = "",
            **_: Any,
        ) -> None:
            key = Key(typ, multiprocess_mode, metric_name, name, tuple(labelnames), tuple(labelvalues), help_text)
            with lock:
                cell = region.cell_of(key)
            if cell is None:
                structlog.get_logger().warning("no room for another metric", metric=name, labels=key.labels)
            self._cells: Any = [0.0, 0.0] if cell is None else region.cells[cell : cell + 2]

        def inc(self, amount: float) -> None:
            with lock:
                self._cells[0] += amount

        def set(self, value: float, timestamp: float | None = None) -> None:
            with lock:
                self._cells[0] = value
                self._cells[1] = timestamp or time.time()

        def get(self) -> float:
            with lock:
                return float(self._cells[0])

        def set_exemplar(self, exemplar: Any) -> None:
            """Exemplars are not shared."""

        def get_exemplar(self) -> None:
            return None

    return SharedValue
