"""How much work waits for an engine, by whose it is, and whether more may come."""

import math
import threading
from collections.abc import Hashable, Iterable

from service.engine.request import Request
from service.errors import QueueFullError


class Backlog:
    """Steps that are yet to be gone. A group of requests counts for half of the limit at most: however much it brought
    while nobody else was there, half is left for the others. Used by several threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._half = max(1, most // 2)
        self._lock = threading.Lock()
        self._steps: dict[Hashable, int] = {}
        """Of each group that has any."""
        self._counted = 0
        """The sum of what the groups count for."""
        self.total = 0
        self._seconds, self._gone = 0.0, 0.0
        """How long the last turns took, and how many steps they went: the older, the less they weigh."""

    def admit(self, group: Hashable, steps: int) -> None:
        """Count a request in.

        Raises:
            QueueFullError: too much waits already.
        """
        with self._lock:
            own = self._steps.get(group, 0)
            others = self._counted - min(own, self._half)
            # A request larger than the whole limit is taken when nothing else is there.
            if self.total and (others + min(own + steps, self._half) > self._most or own + steps > self._most):
                raise QueueFullError(f"{self.total} steps wait already", self.seconds_left())
            self._steps[group] = own + steps
            self._counted = others + min(own + steps, self._half)
            self.total += steps

    def done(self, steps: Iterable[tuple[Request, int]]) -> None:
        """So many steps of these requests need not wait any more; they are no more than the request's `work`, which
        becomes less by them."""
        with self._lock:
            for request, count in steps:
                # Without a call that could fail in between: the sums would be wrong for ever.
                count = min(count, request.cost_steps)
                before = self._steps.get(request.group, 0)
                after = before - count
                if after:
                    self._steps[request.group] = after
                else:
                    self._steps.pop(request.group, None)
                self._counted += min(after, self._half) - min(before, self._half)
                self.total -= count
                request.cost_steps -= count

    def took(self, seconds: float, steps: int) -> None:
        """Note how long so many steps took."""
        self._seconds = 0.95 * self._seconds + seconds
        self._gone = 0.95 * self._gone + steps

    def seconds_left(self) -> int:
        """How long what waits should take."""
        pace = self._seconds / self._gone if self._gone else 1e-4
        return max(1, math.ceil(self.total * pace))
