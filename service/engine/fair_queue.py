"""Queues of which each group has its own, and its turn: however much one group brings, the others are next."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """First come, first served within a group; the groups take turns."""

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[Item]] = OrderedDict()
        """None of them empty; the group whose turn it is comes first."""

    def __bool__(self) -> bool:
        return bool(self._queues)

    def groups(self) -> Iterator[tuple[Hashable, int]]:
        """Each group and how many items wait in it, the one whose turn it is first."""
        return ((group, len(queue)) for group, queue in self._queues.items())

    def count(self) -> int:
        """How many groups wait."""
        return len(self._queues)

    def __contains__(self, group: Hashable) -> bool:
        return group in self._queues

    def first_of(self, group: Hashable, count: int) -> list[Item]:
        """The first items of a group."""
        return list(islice(self._queues[group], count))

    def __iter__(self) -> Iterator[Item]:
        """In the order of their turns: the first of each group, then the second of each."""
        rounds: list[Iterator[Item]] = []
        for queue in self._queues.values():
            items = iter(queue)
            rounds.append(items)
            yield next(items)
        while rounds:
            left = []
            for items in rounds:
                for item in items:
                    yield item
                    left.append(items)
                    break
            rounds = left

    def add(self, group: Hashable, item: Item) -> None:
        """Put it at the end of its group's queue."""
        queue = self._queues.get(group)
        if queue is None:
            self._queues[group] = deque((item,))
        else:
            queue.append(item)

    def put_back(self, group: Hashable, item: Item) -> None:
        """Put it at the head of its group's queue."""
        queue = self._queues.get(group)
        if queue is None:
            self._queues[group] = deque((item,))
        else:
            queue.appendleft(item)

    def remove(self, group: Hashable, item: Item) -> None:
        """Take an item out of its group's queue."""
        queue = self._queues[group]
        queue.remove(item)
        if not queue:
            del self._queues[group]

    def drop_first(self, group: Hashable, count: int) -> None:
        """Take the first items of a group away; its turn is over."""
        queue = self._queues[group]
        if count == len(queue):
            del self._queues[group]
            return
        for _ in range(count):
            queue.popleft()
        self._queues.move_to_end(group)

    def end_turn(self, group: Hashable) -> None:
        """Let the other groups come before it."""
        if group in self._queues:
            self._queues.move_to_end(group)

    def keep(self, stays: Callable[[Item], bool]) -> None:
        """Drop all other items."""
        kept = ((group, deque(filter(stays, queue))) for group, queue in self._queues.items())
        self._queues = OrderedDict((group, queue) for group, queue in kept if queue)
