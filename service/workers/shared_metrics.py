"""The metrics of all processes of a machine, in memory that they share; made before they are forked.

Each process counts in a region of its own, so there is no lock between them, and one that takes the place of another
goes on from its counts. There are no files: none to fill a disk, none left behind by processes that died.
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

REGION_BYTES = 2**20
"""Of one process: some five thousand figures. Memory that is never written is never taken."""
_START = 8  # a region begins with the number of bytes in use
_LENGTH = struct.Struct("<Q")


class Key(NamedTuple):
    """Which figure: a sample of a metric. `mode`: how a gauge's values in several processes become one."""

    kind: str
    mode: str
    metric: str
    sample: str
    label_names: tuple[str, ...]
    label_values: tuple[str, ...]
    documentation: str

    @property
    def labels(self) -> dict[str, str]:
        """Of the sample."""
        return dict(zip(self.label_names, self.label_values, strict=True))


class _Region:
    """The figures of one process: records of a key, its value, and when it was set. Only appended to."""

    def __init__(self) -> None:
        self._bytes = memoryview(mmap.mmap(-1, REGION_BYTES))
        self._used = self._bytes.cast("Q")  # element 0
        self.cells = self._bytes.cast("d")
        self._end = _START
        self._cells_by_key: dict[Key, int] = {}

    def known(self) -> dict[Key, int]:
        """Where the value of each figure is; the time is in the cell after it."""
        used = self._used[0]  # written last: all before it is whole
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
        """Where the value of a figure is, made if it is new; None if the region is full."""
        known = self.known()
        if key not in known:
            text = json.dumps(key).encode()
            text += b" " * (-len(text) % 8)
            end = self._end + 8 + len(text) + 16
            if end > REGION_BYTES:
                return None
            _LENGTH.pack_into(self._bytes, self._end, len(text))
            self._bytes[self._end + 8 : self._end + 8 + len(text)] = text
            self._used[0] = end
        return self.known()[key]


class SharedMetrics(Collector):
    """The figures of all processes."""

    def __init__(self, processes: int) -> None:
        self._regions = [_Region() for _ in range(processes)]

    def count_here(self, worker_index: int) -> None:
        """From now on, the instruments made in this process count in the region at this place."""
        region = self._regions[worker_index]
        for key, cell in region.known().items():
            if key.mode.startswith("live"):  # of the process that was here before
                region.cells[cell] = 0.0
        prometheus_client.values.ValueClass = _value_class(region)

    def collect(self) -> Iterator[Metric]:
        """The metrics of all processes together."""
        found: dict[Key, list[tuple[int, float, float]]] = {}
        for worker_index, region in enumerate(self._regions):
            for key, cell in region.known().items():
                found.setdefault(key, []).append((worker_index, region.cells[cell], region.cells[cell + 1]))
        metrics: dict[str, Metric] = {}
        buckets: dict[tuple[str, tuple[tuple[str, str], ...]], dict[float, float]] = {}
        for key, values in found.items():
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
                metric.add_sample(key.sample, key.labels, _together(key.mode.removeprefix("live"), values))
        for (name, series_labels), series in buckets.items():
            total = 0.0
            for bound in sorted(series):
                total += series[bound]
                metrics[name].add_sample(
                    f"{name}_bucket", dict(series_labels) | {"le": "+Inf" if bound == math.inf else str(bound)}, total
                )
            metrics[name].add_sample(f"{name}_count", dict(series_labels), total)
        yield from metrics.values()


def _together(mode: str, values: list[tuple[int, float, float]]) -> float:
    """One value of those in several processes: (place, value, when it was set) of each."""
    if mode == "mostrecent":
        return max(values, key=lambda each: each[2])[1]
    if mode in ("max", "min"):
        return (max if mode == "max" else min)(value for _, value, _ in values)
    return math.fsum(value for _, value, _ in values)


def _value_class(region: _Region) -> type:
    """What prometheus_client keeps a figure in; it makes one for each sample of each instrument."""
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
                structlog.get_logger().warning("no room for another figure", metric=name, labels=key.labels)
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
