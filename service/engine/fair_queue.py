"""Queues that are served round robin: one owner's many groups of requests do not delay the other owners, and one
group's many items do not delay the owner's other groups."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")

MAX_CLAIM = 8192
"""How many steps an owner that was served less than another may make up for: those of the largest usual call."""


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
        return _round_robin(self._queues.values())

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

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


class OwnerQueues(Generic[Item]):
    """A fair queue for each owner: the owners share the steps of the graph equally, whatever each has waiting.

    The owner with the fewest steps comes first, as in start-time fair queueing (Goyal et al., SIGCOMM 1996), which
    Sheng et al. use for language models ("Fairness in serving large language models", OSDI 2024). That is deficit round
    robin (Shreedhar and Varghese, SIGCOMM 1995) for costs that are known only after the turn. An owner that had nothing
    waiting starts level with the one that was served last, before its turn: nobody saves up turns, and the newcomer is
    the next.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[str, FairQueue[Item]] = OrderedDict()
        """No queue is empty; of owners with equally many steps, the first is served first."""
        self._steps: dict[str, int] = {}
        """The steps that each owner was charged with, or a larger number for one that had nothing waiting."""
        self._level = 0
        """The fewest steps of an owner before the last charge."""

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, owner: str) -> bool:
        return owner in self._queues

    def __getitem__(self, owner: str) -> FairQueue[Item]:
        """The queue of an owner that has items. Remove none from it."""
        return self._queues[owner]

    def __iter__(self) -> Iterator[Item]:
        """Round robin: the first item of each owner, the one with the fewest steps first; then the second of each."""
        owners = sorted(self._queues, key=self._steps.__getitem__) if len(self._queues) > 1 else self._queues
        return _round_robin(self._queues[owner] for owner in owners)

    def group_sizes(self) -> Iterator[tuple[str, int]]:
        """Each owner and its number of items, the next owner first."""
        return ((owner, len(queue)) for owner, queue in self._queues.items())

    def num_groups(self) -> int:
        """The number of owners that have items."""
        return len(self._queues)

    def append(self, owner: str, group: Hashable, item: Item) -> None:
        """Add an item at the end of its group's queue."""
        queue = self._queues.get(owner)
        if queue is None:
            self._add_owner(owner, group, item)
        else:
            queue.append(group, item)

    def append_left(self, owner: str, group: Hashable, item: Item) -> None:
        """Add an item at the head of its group's queue."""
        queue = self._queues.get(owner)
        if queue is None:
            self._add_owner(owner, group, item)
        else:
            queue.append_left(group, item)

    def remove(self, owner: str, group: Hashable, item: Item) -> None:
        """Remove an item of a group."""
        queue = self._queues[owner]
        queue.remove(group, item)
        if not queue:
            del self._queues[owner]

    def drop_first(self, owner: str, group: Hashable, count: int) -> None:
        """Remove the first items of a group, and let the other groups and owners come before it."""
        queue = self._queues[owner]
        queue.drop_first(group, count)
        if queue:
            self._queues.move_to_end(owner)
        else:
            del self._queues[owner]

    def is_due(self, owner: str, other: str, steps: int) -> bool:
        """Whether an owner's turn comes before the next turn of another, which is about to have so many steps."""
        return self._steps[owner] <= self._steps[other] + steps

    def charge(self, steps: Mapping[str, int]) -> None:
        """Charge owners with the steps that were run for them; those with items stay at most MAX_CLAIM apart."""
        self._level = min((self._steps[owner] for owner in self._queues), default=0)
        for owner, count in steps.items():
            self._steps[owner] = self._steps.get(owner, 0) + count
        floor = max((self._steps[owner] for owner in steps), default=0) - MAX_CLAIM
        for owner in self._queues:
            self._steps[owner] = max(self._steps[owner], floor)

    def rotate(self, owner: str, group: Hashable) -> None:
        """Let the owner's other groups come before this one, and owners with as many steps before this owner."""
        if owner in self._queues:
            self._queues[owner].rotate(group)
            self._queues.move_to_end(owner)

    def filter(self, stays: Callable[[Item], bool]) -> None:
        """Remove all items for which `stays` is false."""
        for queue in self._queues.values():
            queue.filter(stays)
        self._queues = OrderedDict((owner, queue) for owner, queue in self._queues.items() if queue)

    def _add_owner(self, owner: str, group: Hashable, item: Item) -> None:
        queue: FairQueue[Item] = FairQueue()
        queue.append(group, item)
        if self._queues:
            self._steps[owner] = max(self._level, self._steps.get(owner, 0))
        else:
            self._steps, self._level = {owner: 0}, 0
        self._queues[owner] = queue


def _round_robin(queues: Iterable[Iterable[Item]]) -> Iterator[Item]:
    """The first item of each, then the second of each, and so on."""
    current: Iterable[Iterator[Item]] = map(iter, queues)
    while True:
        following = []
        for items in current:
            for item in items:
                yield item
                following.append(items)
                break
        if not following:
            return
        current = following
