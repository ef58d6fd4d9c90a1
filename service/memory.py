"""Limits the memory that the requests of one process hold: reserved before a request runs, released at its end."""

import threading

from prometheus_client import Gauge

from service.errors import LimitExceededError, QueueFullError


class MemoryBudget:
    """A budget in bytes. Each request reserves the maximum that it may hold, by calculation, not by measurement."""

    def __init__(self, limit: int, gauge: Gauge) -> None:
        self.limit = limit
        self._gauge = gauge
        self._lock = threading.Lock()
        self.held = 0

    def change(self, before: int, after: int, path: str, retry_after: int) -> None:
        """Change what a request holds from `before` to `after` bytes.

        Raises:
            LimitExceededError: the request alone exceeds the budget.
            QueueFullError: other requests hold too much of the budget.
        """
        if after > self.limit:
            raise LimitExceededError(
                f"may take {after} bytes of memory; the service allows {self.limit}: request less",
                path,
            )
        with self._lock:
            if after > before and self.held - before + after > self.limit:
                raise QueueFullError("other requests hold all the memory for requests", retry_after)
            self.held += after - before
            self._gauge.set(self.held)


class HeldMemory:
    """The bytes that one call holds of the budget."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def hold(self, amount: int, path: str, retry_after: int) -> None:
        """Hold `amount` bytes instead of those held before. `path`: the field that makes the amount large.

        Raises:
            LimitExceededError, QueueFullError: as `MemoryBudget.change`.
        """
        self._budget.change(self._bytes, amount, path, retry_after)
        self._bytes = amount

    def release(self) -> None:
        """Release all bytes."""
        self._budget.change(self._bytes, 0, "", 0)
        self._bytes = 0
