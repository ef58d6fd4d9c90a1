"""The metrics of several processes, against those of one process that did all the work."""

from collections.abc import Iterator

import prometheus_client.values
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics, Moment
from service.workers import shared_metrics
from service.workers.shared_metrics import SharedMetrics

PROCESSES = 3


@pytest.fixture(autouse=True)
def _restore_the_value_class() -> Iterator[None]:
    ordinary = prometheus_client.values.ValueClass
    yield
    prometheus_client.values.ValueClass = ordinary


class Instruments:
    """An instrument of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Some.", ["route"], registry=self.registry)
        self.seconds = Histogram("seconds", "Time.", ["route"], buckets=(1, 2), registry=self.registry)
        self.waiting = Gauge("waiting", "Steps.", registry=self.registry, multiprocess_mode="livesum")


Event = tuple[int, str, float]
"""The process, the route, and the seconds of a request."""
EVENTS = st.lists(st.tuples(st.integers(0, PROCESSES - 1), st.sampled_from("abc"), st.sampled_from([0.5, 1.5, 4.0])))


def shown(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(page.decode())
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, frozenset(s.labels.items())): s.value for s in samples if not s.name.endswith("_created")}


def count(instruments: Instruments, route: str, seconds: float) -> None:
    instruments.requests.labels(route).inc()
    instruments.seconds.labels(route).observe(seconds)


@given(EVENTS, EVENTS)
def test_several_processes_show_the_metrics_of_one(events: list[Event], later: list[Event]) -> None:
    ordinary = prometheus_client.values.ValueClass
    alone, shared = Instruments(), SharedMetrics(PROCESSES)
    for _, route, seconds in events + later:
        count(alone, route, seconds)
    for generation in (events, later):  # a process that replaces another one continues its counts
        for worker_index in range(PROCESSES):
            shared.count_here(worker_index)
            instruments = Instruments()
            for process, route, seconds in generation:
                if process == worker_index:
                    count(instruments, route, seconds)
    prometheus_client.values.ValueClass = ordinary
    together = CollectorRegistry()
    together.register(shared)
    assert shown(generate_latest(together)) == shown(generate_latest(alone.registry))


def test_a_gauge_of_a_replaced_process_starts_at_zero() -> None:
    shared = SharedMetrics(2)
    for worker_index in range(2):
        shared.count_here(worker_index)
        Instruments().waiting.set(5)
    assert [sample.value for metric in shared.collect() for sample in metric.samples if metric.name == "waiting"] == [
        10
    ]
    shared.count_here(1)
    assert [sample.value for metric in shared.collect() for sample in metric.samples if metric.name == "waiting"] == [5]


def test_the_newest_value_of_a_gauge_counts() -> None:
    shared = SharedMetrics(2)
    shared.count_here(0)
    first = Metrics(shared)
    shared.count_here(1)
    second = Metrics(shared)
    second.models.count.labels("loaded").set(7)
    first.models.count.labels("loaded").set(8)
    moment = Moment(models=(), build={}, processes=2, ready=2, restarts=0, pids={})
    assert shown(first.exposition(moment)[0])["carry_models", frozenset({("status", "loaded")})] == 8
    second.sessions.up.set(1)  # the first process was not asked
    assert shown(first.exposition(moment)[0])["carry_session_store_up", frozenset()] == 1
    assert first.exposition(moment) == second.exposition(moment)


def test_a_full_region_shares_no_new_metrics_and_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_metrics, "REGION_BYTES", 4096)
    shared = SharedMetrics(1)
    shared.count_here(0)
    instruments = Instruments()
    for i in range(100):
        instruments.requests.labels(str(i)).inc()
    samples = [sample for metric in shared.collect() for sample in metric.samples]
    assert 0 < len(samples) < 100
    assert instruments.requests.labels("99")._value.get() == 1
