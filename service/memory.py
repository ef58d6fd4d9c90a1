"""How much memory the requests of one process may hold at once: charged before they begin, given back at their end."""

import threading

from prometheus_client import Gauge

from service.errors import LimitExceededError, QueueFullError


class MemoryBudget:
    """Bytes. What is charged is the most that a request may hold, by its own figures, and not measured."""

    def __init__(self, most: int, gauge: Gauge) -> None:
        self._most = most
        self._gauge = gauge
        self._lock = threading.Lock()
        self.held = 0

    def change(self, before: int, after: int, path: str, retry_after: int) -> None:
        """Let a request hold so much, which has held so much before.

        Raises:
            LimitExceededError: it is more than there is, whoever else is there.
            QueueFullError: the others hold too much of it.
        """
        if after > self._most:
            raise LimitExceededError(
                f"would take up to {after} bytes of memory, more than the {self._most} of this service: ask for less",
                path,
            )
        with self._lock:
            if after > before and self.held - before + after > self._most:
                raise QueueFullError("the requests under way hold all memory that there is for them", retry_after)
            self.held += after - before
            self._gauge.set(self.held)


class HeldMemory:
    """What one call holds of the budget."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def hold(self, amount: int, path: str, retry_after: int) -> None:
        """Hold so many bytes, in place of those held before; `path` is the field that makes them many.

        Raises:
            LimitExceededError, QueueFullError: as `MemoryBudget.change`.
        """
        self._budget.change(self._bytes, amount, path, retry_after)
        self._bytes = amount

    def release(self) -> None:
        """Hold nothing any more."""
        self._budget.change(self._bytes, 0, "", 0)
        self._bytes = 0
