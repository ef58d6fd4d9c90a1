"""The token bucket of a key's steps, in memory that processes share."""

import multiprocessing
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.workers.allowances import MINUTE, SLOTS, Allowances, NoRoomError

SLACK = 1e-5
"""Seconds, for rounding."""

Takes = list[tuple[int, float, float]]
"""Of each take: the process, the seconds since the one before, and the seconds that it takes."""


def takes(pause: st.SearchStrategy[float]) -> st.SearchStrategy[Takes]:
    return st.lists(st.tuples(st.integers(0, 2), pause, st.floats(0.01, MINUTE)), min_size=1, max_size=60)


@given(takes=takes(st.one_of(st.just(0.0), st.floats(0, 90))), returned=st.floats(0, 1))
def test_no_window_has_more_than_its_seconds_and_a_full_bucket(takes: Takes, returned: float) -> None:
    """Whichever processes take, and although they give parts of it back."""
    allowances = Allowances(3)
    buckets = [allowances.of("me", i) for i in range(3)]
    now, taken = 1e6, list[tuple[float, float]]()
    for process, pause, seconds in takes:
        now += pause
        if buckets[process].take(seconds, now) == 0:
            buckets[(process + 1) % 3].give_back(seconds * returned)
            taken.append((now, seconds * (1 - returned)))
    for i, (start, _) in enumerate(taken):
        total = 0.0
        for end, seconds in taken[i:]:
            total += seconds
            # What is given back is in the bucket only after it was taken.
            assert total <= end - start + MINUTE + SLACK


@given(takes=takes(st.floats(0, 5)), idle=st.floats(0, 1e6))
def test_a_key_within_its_limit_is_never_refused(takes: Takes, idle: float) -> None:
    allowances = Allowances(3)
    buckets = [allowances.of("me", i) for i in range(3)]
    now, left = 1000.0 + idle, MINUTE
    for process, pause, seconds in takes:
        now += pause
        left = min(MINUTE, left + pause)
        affordable = min(seconds, left)
        assert buckets[process].take(affordable, now) == 0
        left -= affordable


@given(takes=takes(st.floats(0, 30)))
def test_a_refused_take_succeeds_after_the_time_that_it_was_told_and_not_before(takes: Takes) -> None:
    allowances = Allowances(3)
    buckets = [allowances.of("me", i) for i in range(3)]
    now = 1e5
    for process, pause, seconds in takes:
        now += pause
        if wait := buckets[process].take(seconds, now):
            assert buckets[process].take(seconds, now + 0.99 * wait - SLACK) > 0
            now += wait
            assert buckets[process].take(seconds, now) == 0


def test_a_process_that_replaces_another_goes_on_with_its_bucket_and_others_have_theirs() -> None:
    allowances = Allowances(2)
    now = 1e6
    assert allowances.of("me", 0).take(MINUTE, now) == 0
    assert allowances.of("me", 0).take(10, now) == pytest.approx(10)
    assert allowances.of("me", 1).take(10, now) == pytest.approx(10)
    assert allowances.of("you", 1).take(MINUTE, now) == 0
    assert allowances.of("me", 1).missing(now + 20) == pytest.approx(MINUTE - 20)


def test_a_key_whose_slot_another_one_took_at_the_same_time_moves_to_another_slot() -> None:
    allowances = Allowances()
    mine = allowances.of("me", 0)
    [slot] = [slot for slot in range(SLOTS) if allowances._tags[slot]]
    allowances._tags[slot] = 12345  # as if both had found it empty
    assert mine.take(MINUTE, 1e6) == 0
    assert allowances._tags[slot] == 12345
    assert allowances.of("me", 0).take(1, 1e6) > 0


def test_more_keys_than_slots_are_refused() -> None:
    allowances = Allowances()
    for i in range(SLOTS):
        allowances._tags[i] = i + 1
    with pytest.raises(NoRoomError, match="restart"):
        allowances.of("me", 0)


def _take_all(
    allowances: Allowances,
    index: int,
    now: float,
    start: "multiprocessing.synchronize.Barrier",
    results: "multiprocessing.SimpleQueue[int]",
) -> None:
    bucket = allowances.of("me", index)
    start.wait()
    results.put(sum(bucket.take(0.01, now) == 0 for _ in range(6000)))


# The children of this process, which may have threads, use none of what its threads hold.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_processes_that_take_at_the_same_moment_share_one_bucket() -> None:
    """Each may have one take under way that the others have not seen; nothing that was taken is ever forgotten."""
    fork = multiprocessing.get_context("fork")
    processes = 4
    allowances, results, start = Allowances(processes), fork.SimpleQueue(), fork.Barrier(processes)
    now = time.monotonic()
    children = [fork.Process(target=_take_all, args=(allowances, i, now, start, results)) for i in range(processes)]
    for child in children:
        child.start()
    taken: Sequence[int] = [results.get() for _ in children]
    for child in children:
        child.join()
    assert MINUTE / 0.01 <= sum(taken) <= MINUTE / 0.01 + processes
    assert allowances.of("me", 0).missing(now) == pytest.approx(sum(taken) * 0.01)
