"""Owners have equal shares of an engine: one owner's many calls delay another's by a bounded number of steps."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.backlog import Backlog
from service.errors import QueueFullError
from tests.service.test_engine import complete


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
