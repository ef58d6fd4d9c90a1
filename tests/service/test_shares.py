"""Owners have equal shares of an engine: one owner's many calls delay another's by a bounded number of steps."""

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.backlog import Backlog
from service.engine.decode import plan_batch, share_rows
from service.engine.fair_queue import MAX_CLAIM, FairQueue, OwnerQueues
from service.engine.prefill import CHUNK, MAX_PREFILL_ROWS, SHARED_STEPS, PrefillQueue, PrefillState
from service.engine.request import Request
from service.engine.scheduler import SHARED_SECONDS
from service.engine.sequence import Prefill, Task
from service.errors import QueueFullError
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest, forecast
from tests.builders import new_scheduler
from tests.service.test_engine import complete
from tests.service.test_scheduler import graphs


@dataclass(frozen=True)
class Reading:
    """A prefill of some rows and steps that arrives before a call."""

    call: int
    owner: str
    group: int
    rows: int
    steps: int
    output: str = "logits"

    def prefill(self) -> PrefillState:
        def task() -> Task[None]:
            yield from ()

        request = Request(task(), 1, math.inf, f"{self.owner} {self.group}", self.owner)
        return PrefillState(request, Prefill({"values": np.zeros((self.rows, self.steps, 1))}, (self.output,)))


def readings(last_call: int) -> st.SearchStrategy[list[Reading]]:
    owners, groups = st.sampled_from("abcde"), st.integers(0, 3)
    outputs = st.sampled_from(["logits", "logits", "quantiles"])
    reading = st.builds(
        Reading, st.integers(0, last_call), owners, groups, st.integers(1, 4), st.integers(1, 700), outputs
    )
    return st.lists(reading, min_size=1, max_size=60)


def run_calls(
    arrivals: list[Reading], split_invariant: bool, shared: bool, seconds_per_step: float
) -> tuple[list[Counter[str]], list[set[str]]]:
    """Prefill all: the steps of each owner in each call, and the owners that were waiting before it. Checks that each
    prefill is in the queue once, and that each of its steps is run once."""
    queue = PrefillQueue(None, split_invariant, CHUNK)  # type: ignore[arg-type]  # it runs nothing
    coming = sorted(arrivals, key=lambda reading: reading.call, reverse=True)
    waiting: list[PrefillState] = []
    calls: list[Counter[str]] = []
    owners: list[set[str]] = []
    while coming or waiting:
        while coming and (coming[-1].call <= len(calls) or not waiting):
            waiting.append(coming.pop().prefill())
            queue.add(waiting[-1])
        batch, steps = queue.next_batch(0.02, shared)
        assert len(set(map(id, batch))) == len(batch)
        assert all(any(prefill is other for other in waiting) for prefill in batch)
        lengths = [min(steps, prefill.remaining) for prefill in batch]
        assert min(lengths) > 0
        queue.record(sum(prefill.rows for prefill in batch), seconds_per_step)
        owners.append({prefill.request.owner for prefill in waiting})
        calls.append(Counter())
        for prefill, length in zip(batch, lengths, strict=True):
            prefill.position += length
            calls[-1][prefill.request.owner] += length * prefill.rows
        queue.complete(batch, lengths)
        waiting = [prefill for prefill in waiting if prefill.remaining]
    assert not queue
    return calls, owners


CALLS = {"split_invariant": st.booleans(), "shared": st.booleans(), "seconds_per_step": st.floats(1e-5, 1e-2)}


@settings(max_examples=100)
@given(arrivals=readings(30), **CALLS)
def test_every_step_is_run_once_and_no_owner_is_passed_over_for_long(
    arrivals: list[Reading], split_invariant: bool, shared: bool, seconds_per_step: float
) -> None:
    calls, owners = run_calls(arrivals, split_invariant, shared, seconds_per_step)
    steps_of = Counter[str]()
    for reading in arrivals:
        steps_of[reading.owner] += reading.rows * reading.steps
    assert sum(calls, Counter()) == steps_of
    largest = max(call.total() for call in calls)
    passed_over: Counter[str] = Counter()
    for call, waiting in zip(calls, owners, strict=True):
        for owner in "abcde":
            passed_over[owner] = passed_over[owner] + call.total() if owner in waiting and not call[owner] else 0
            assert passed_over[owner] <= 4 * (MAX_CLAIM + largest)


@settings(max_examples=100)
@given(arrivals=readings(0), **CALLS)
def test_two_owners_with_work_left_are_at_most_one_call_apart(
    arrivals: list[Reading], split_invariant: bool, shared: bool, seconds_per_step: float
) -> None:
    only = [reading for reading in arrivals if reading.owner in "ab"]
    calls, owners = run_calls(only, split_invariant, shared, seconds_per_step)
    done: Counter[str] = Counter()
    for call, waiting in zip(calls, owners, strict=True):
        if len(waiting) == 2:
            done += call
            assert abs(done["a"] - done["b"]) <= MAX_PREFILL_ROWS * CHUNK


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append_left", "drop_first", "remove", "rotate", "filter"]),
        st.integers(0, 4),
        st.integers(0, 5),
    ),
    max_size=60,
)


@given(operations=OPERATIONS)
def test_the_groups_of_a_single_owner_take_turns_as_if_there_were_no_owners(
    operations: list[tuple[str, int, int]],
) -> None:
    shared: OwnerQueues[int] = OwnerQueues()
    alone: FairQueue[int] = FairQueue()
    for number, (operation, group, value) in enumerate(operations):
        sizes = dict(alone.group_sizes())
        if operation in ("append", "append_left"):
            getattr(shared, operation)("a", group, number)
            getattr(alone, operation)(group, number)
        elif operation == "filter":
            shared.filter(lambda item, value=value: item % 6 != value)  # type: ignore[misc]
            alone.filter(lambda item, value=value: item % 6 != value)  # type: ignore[misc]
        elif operation == "rotate":
            shared.charge({"a": 5})
            shared.rotate("a", group)
            alone.rotate(group)
        elif group in sizes:
            argument = min(value, sizes[group]) if operation == "drop_first" else alone.peek(group, sizes[group])[-1]
            getattr(shared, operation)("a", group, argument)
            getattr(alone, operation)(group, argument)
        assert [*shared] == [*alone]
        assert bool(shared) == bool(alone)
        assert not alone or [*shared["a"].group_sizes()] == [*alone.group_sizes()]


GROUPS = st.tuples(st.integers(0, 5), st.integers(0, 3))
RUNNING = st.lists(st.tuples(GROUPS, st.integers(0, 90)), max_size=12)
WAITING = st.lists(st.tuples(GROUPS, st.integers(1, 9)), min_size=1, max_size=12)


@settings(max_examples=100)
@given(running=RUNNING, waiting=WAITING, max_rows=st.integers(1, 12), shared=st.booleans())
def test_owners_share_the_rows_of_a_call_and_their_groups_share_theirs(
    running: list[tuple[tuple[int, int], int]], waiting: list[tuple[tuple[int, int], int]], max_rows: int, shared: bool
) -> None:
    running = running[:max_rows]
    queues: OwnerQueues[int] = OwnerQueues()
    for (owner, group), count in waiting:
        for item in range(count):
            queues.append(str(owner), (owner, group), item)
    rows = [(str(group[0]), group, steps) for group, steps in running]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.decode.MAX_ROWS", max_rows)
        patch.setattr("service.engine.decode.SHARED_ROWS", max(1, max_rows // 2))
        leaving, joining = plan_batch(rows, queues, shared)
    waiting_rows, demand = Counter[Hashable](), Counter(owner for owner, _, _ in rows)
    for key, count in waiting:
        waiting_rows[key] += count
        demand[str(key[0])] += count
    assert len(set(leaving)) == len(leaving)
    after = Counter(owner for owner, _, _ in rows) - Counter(rows[i][0] for i in leaving)
    for name, joining_group, count in joining:
        assert isinstance(joining_group, tuple)
        assert str(joining_group[0]) == name
        assert 0 < count <= waiting_rows[joining_group]
        after[name] += count
    limit = max_rows if not shared and len(demand) == 1 else min(max_rows, max(max_rows // 2, 1, len(demand)))
    # No row stays empty while a row waits, and each owner that wants it has its share.
    assert after.total() == min(limit, demand.total())
    if len(demand) <= limit:
        assert all(after[name] >= min(limit // len(demand), count) for name, count in demand.items())


@given(running=RUNNING, waiting=WAITING)
def test_the_rows_of_a_single_owner_are_shared_among_its_groups_alone(
    running: list[tuple[tuple[int, int], int]], waiting: list[tuple[tuple[int, int], int]]
) -> None:
    queues: OwnerQueues[int] = OwnerQueues()
    alone: FairQueue[int] = FairQueue()
    for group, count in waiting:
        for item in range(count):
            queues.append("", group, item)
            alone.append(group, item)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.decode.MAX_ROWS", 12)
        leaving, joining = plan_batch([("", group, steps) for group, steps in running], queues)
    assert (leaving, {group: count for _, group, count in joining}) == share_rows(running, alone, 12)


@settings(max_examples=5)
@given(calls=st.integers(4, 6), length=st.integers(60, 250))
def test_a_forecast_beside_many_calls_of_another_owner_waits_for_one_short_call_of_the_graph(
    calls: int, length: int
) -> None:
    _, _, scheduler = new_scheduler(graphs("forecast"))
    now = 100.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.scheduler.monotonic", lambda: now)
        for call in range(calls):
            for _ in range(20):
                scheduler.add(series_request(length, call, "large"))
        assert len(scheduler.step()) == MAX_PREFILL_ROWS
        for _ in range(3):
            single = series_request(60, "single", "small")
            scheduler.add(single)
            others = [count for request, count in scheduler.step() if request is not single]
            assert single.future.done()
            assert sum(others) <= 60
            assert sum(count for _, count in scheduler.step()) <= SHARED_STEPS
        now += SHARED_SECONDS
        assert len(scheduler.step()) == MAX_PREFILL_ROWS
        scheduler.fail_all(ValueError("enough"))


def series_request(length: int, group: Hashable, owner: str) -> Request:
    manifest, _, _ = graphs("forecast")
    assert isinstance(manifest, ForecastManifest)
    task = forecast(manifest, ForecastRequest(np.arange(length, dtype=float)[:, None], 2, (0.5,)))
    return Request(task, 1, math.inf, group, owner)


def test_an_owner_fills_its_share_of_the_queue_at_most() -> None:
    backlog = Backlog(1000)
    backlog.record(1.0, 10)
    backlog.admit("a", 200, "small", 0.25)
    backlog.admit("b", 300, "large", 0.5)
    with pytest.raises(QueueFullError, match="your key's share") as refusal:
        backlog.admit("c", 51, "small", 0.25)
    assert refusal.value.retry_after == 40  # its own 200 steps, of which every second one is the other owner's
    backlog.admit("c", 50, "small", 0.25)
    complete(backlog, "a", 200, "small")
    complete(backlog, "c", 50, "small")
    backlog.admit("d", 400, "small", 0.25)  # larger than the share, but nothing else of the owner waits
    assert backlog.steps_by_owner == {"small": 400, "large": 300}


def test_a_queue_full_of_one_owners_steps_takes_the_first_small_request_of_another() -> None:
    backlog = Backlog(1000)
    backlog.admit("a", 500, "large")
    backlog.admit("b", 500, "large")
    for owner, steps in (("large", 1), ("second", 251)):
        with pytest.raises(QueueFullError, match="the model's queue is full"):
            backlog.admit("c", steps, owner)
    backlog.admit("c", 250, "second")
    backlog.admit("d", 166, "third")
    for owner in ("second", "third"):
        with pytest.raises(QueueFullError):
            backlog.admit("e", 1, owner)
    complete(backlog, "a", 500, "large")
    backlog.admit("e", 80, "second")


@given(
    requests=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20), st.integers(1, 900)), max_size=60),
    max_steps=st.integers(1, 1000),
)
def test_a_queue_holds_at_most_half_as_much_again_as_its_limit(
    requests: list[tuple[int, int, int]], max_steps: int
) -> None:
    """Groups are counted for half of the limit at most."""
    backlog = Backlog(max_steps)
    accepted: list[tuple[str, str, int]] = []
    for owner, group, steps in requests:
        alone = not backlog.total
        try:
            backlog.admit(f"{owner} {group}", steps, str(owner))
        except QueueFullError:
            assert not alone
            continue
        accepted.append((f"{owner} {group}", str(owner), steps))
        by_group: Counter[str] = Counter()
        for name, _, count in accepted:
            by_group[name] += count
        counted = sum(min(count, max(1, max_steps // 2)) for count in by_group.values())
        assert counted <= max_steps + max(1, max_steps // 2)
    for name, owner_name, count in accepted:
        complete(backlog, name, count, owner_name)
    assert (backlog.total, backlog.steps_by_group, backlog.steps_by_owner) == (0, {}, {})
