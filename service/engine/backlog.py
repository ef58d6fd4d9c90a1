"""Counts the steps that an engine has accepted and not run, by group and by owner, and refuses requests beyond a
limit."""

import math
import threading
from collections.abc import Hashable, Iterable

from service.engine.request import Request
from service.errors import QueueFullError


class Backlog:
    """The waiting steps of each group and owner. Several threads use it.

    A group counts for at most half of the limit: however much one group brings, the other half is left for the others.
    If that is full too, half as much again is left for the owners that have little waiting, in equal parts.
    """

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self._max_counted = max(1, max_steps // 2)
        self._lock = threading.Lock()
        self.steps_by_group: dict[Hashable, int] = {}
        """Waiting steps of each group that has any."""
        self.steps_by_owner: dict[str, int] = {}
        """Waiting steps of each owner that has any."""
        self._counted = 0
        """The sum of min(steps, _max_counted) over the groups."""
        self.total = 0
        self._recent_seconds, self._recent_steps = 0.0, 0.0
        """Sums over the engine's iterations, older ones with less weight."""

    def admit(self, group: Hashable, steps: int, owner: str = "", max_share: float = 1.0) -> None:
        """Count a request in. `max_share`: how much of the limit this owner may have waiting.

        Raises:
            QueueFullError: too many steps wait already, in all or of this owner.
        """
        limit = self._max_counted
        with self._lock:
            before = self.steps_by_group.get(group, 0)
            after = before + steps
            own = self.steps_by_owner.get(owner, 0)
            # Accept a request larger than the whole share when nothing else of the owner waits.
            if own and own + steps > max_share * self._max_steps and max_share < 1:
                raise QueueFullError(
                    f"your key's share of the model's queue is full: {own} of your steps are waiting",
                    self._owner_seconds_left(own),
                )
            others = self._counted - min(before, limit)
            # Accept a request larger than the whole limit when nothing else waits.
            full = self.total and (others + min(after, limit) > self._max_steps or after > self._max_steps)
            if full and not self._fits_reserve(own + steps, others + min(after, limit), own == self.total):
                raise QueueFullError(f"the model's queue is full: {self.total} steps are waiting", self.seconds_left())
            self.steps_by_group[group] = after
            self.steps_by_owner[owner] = own + steps
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
                own = self.steps_by_owner.get(request.owner, 0) - count
                if own:
                    self.steps_by_owner[request.owner] = own
                else:
                    self.steps_by_owner.pop(request.owner, None)
                self._counted += min(after, self._max_counted) - min(before, self._max_counted)
                self.total -= count
                request.remaining_steps -= count

    def record(self, seconds: float, steps: int) -> None:
        """Record how long so many steps took."""
        self._recent_seconds = 0.95 * self._recent_seconds + seconds
        self._recent_steps = 0.95 * self._recent_steps + steps

    def seconds_left(self) -> int:
        """The expected time until all waiting steps are done."""
        return self._seconds(self.total)

    def _owner_seconds_left(self, own: int) -> int:
        """The expected time until the steps of one owner are done, while the owners take turns."""
        return self._seconds(min(self.total, own * len(self.steps_by_owner)))

    def _seconds(self, steps: int) -> int:
        seconds_per_step = self._recent_seconds / self._recent_steps if self._recent_steps else 1e-4
        return max(1, math.ceil(steps * seconds_per_step))

    def _fits_reserve(self, own: int, counted: int, alone: bool) -> bool:
        """Whether an owner with `own` steps, the new ones among them, is within its part of the reserve. There is none
        while only one owner waits, and this is it (`alone`)."""
        reserve = self._max_counted
        return not alone and counted <= self._max_steps + reserve and own * (len(self.steps_by_owner) + 1) <= reserve
