"""A queue for each group of requests, served round robin: one group's many items do not delay the other groups."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """First in, first out within a group; round robin among groups."""

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[Item]] = OrderedDict()
        """No queue is empty; the next group comes first."""

    def __bool__(self) -> bool:
        return bool(self._queues)

    def group_sizes(self) -> Iterator[tuple[Hashable, int]]:
        """Each group and its number of items, the next group first."""
        return ((group, len(queue)) for group, queue in self._queues.items())

    def num_groups(self) -> int:
        """The number of groups that have items."""
        return len(self._queues)

    def __contains__(self, group: Hashable) -> bool:
        return group in self._queues

    def peek(self, group: Hashable, count: int) -> list[Item]:
        """The first items of a group."""
        return list(islice(self._queues[group], count))

    def __iter__(self) -> Iterator[Item]:
        """Round robin: the first item of each group, then the second of each."""
        current: list[Iterator[Item]] = []
        for queue in self._queues.values():
            items = iter(queue)
            current.append(items)
            yield next(items)
        while current:
            following = []
            for items in current:
                for item in items:
                    yield item
                    following.append(items)
                    break
            current = following

    def append(self, group: Hashable, item: Item) -> None:
        """Add an item at the end of its group's queue."""
        queue = self._queues.get(group)
        if queue is None:
            self._queues[group] = deque((item,))
        else:
            queue.append(item)

    def append_left(self, group: Hashable, item: Item) -> None:
        """Add an item at the head of its group's queue."""
        queue = self._queues.get(group)
        if queue is None:
            self._queues[group] = deque((item,))
        else:
            queue.appendleft(item)

    def remove(self, group: Hashable, item: Item) -> None:
        """Remove an item of a group."""
        queue = self._queues[group]
        queue.remove(item)
        if not queue:
            del self._queues[group]

    def drop_first(self, group: Hashable, count: int) -> None:
        """Remove the first items of a group, and let the other groups come before it."""
        queue = self._queues[group]
        if count == len(queue):
            del self._queues[group]
            return
        for _ in range(count):
            queue.popleft()
        self._queues.move_to_end(group)

    def rotate(self, group: Hashable) -> None:
        """Let the other groups come before this one."""
        if group in self._queues:
            self._queues.move_to_end(group)

    def filter(self, stays: Callable[[Item], bool]) -> None:
        """Remove all items for which `stays` is false."""
        queues = ((group, deque(filter(stays, queue))) for group, queue in self._queues.items())
        self._queues = OrderedDict((group, queue) for group, queue in queues if queue)
