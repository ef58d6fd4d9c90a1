"""Counts the steps that an engine has accepted and not run, by group, and refuses requests beyond a limit."""

import math
import threading
from collections.abc import Hashable, Iterable

from service.engine.request import Request
from service.errors import QueueFullError


class Backlog:
    """The waiting steps of each group. A group counts for at most half of the limit: however much one group brings,
    the other half is left for the others. Several threads use it.
    """

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self._max_counted = max(1, max_steps // 2)
        self._lock = threading.Lock()
        self.steps_by_group: dict[Hashable, int] = {}
        """Waiting steps of each group that has any."""
        self._counted = 0
        """The sum of min(steps, _max_counted) over the groups."""
        self.total = 0
        self._recent_seconds, self._recent_steps = 0.0, 0.0
        """Sums over the engine's iterations, older ones with less weight."""

    def admit(self, group: Hashable, steps: int) -> None:
        """Count a request in.

        Raises:
            QueueFullError: too many steps wait already.
        """
        limit = self._max_counted
        with self._lock:
            before = self.steps_by_group.get(group, 0)
            after = before + steps
            others = self._counted - min(before, limit)
            # Accept a request larger than the whole limit when nothing else waits.
            if self.total and (others + min(after, limit) > self._max_steps or after > self._max_steps):
                raise QueueFullError(f"the model's queue is full: {self.total} steps are waiting", self.seconds_left())
            self.steps_by_group[group] = after
            self._counted = others + min(after, limit)
            self.total += steps

    def complete(self, steps: Iterable[tuple[Request, int]]) -> None:
        """Count these requests' steps out, at most the `remaining_steps` of each, which fall by them."""
        with self._lock:
            for request, count in steps:
                # No call in here may fail halfway: the sums would stay wrong.
                count = min(count, request.remaining_steps)
                before = self.steps_by_group.get(request.group, 0)
                after = before - count
                if after:
                    self.steps_by_group[request.group] = after
                else:
                    self.steps_by_group.pop(request.group, None)
                self._counted += min(after, self._max_counted) - min(before, self._max_counted)
                self.total -= count
                request.remaining_steps -= count

    def record(self, seconds: float, steps: int) -> None:
        """Record how long so many steps took."""
        self._recent_seconds = 0.95 * self._recent_seconds + seconds
        self._recent_steps = 0.95 * self._recent_steps + steps

    def seconds_left(self) -> int:
        """The expected time until all waiting steps are done."""
        seconds_per_step = self._recent_seconds / self._recent_steps if self._recent_steps else 1e-4
        return max(1, math.ceil(self.total * seconds_per_step))
