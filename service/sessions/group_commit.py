"""Collects what callers submit during one iteration of the event loop, and flushes it as one batch.

A store commits a batch with less work than its items one by one.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Batch = Sequence[tuple[Item, "asyncio.Future[Any]"]]


class GroupCommit(Generic[Item]):
    """`flush` gets each batch, and resolves its futures at once or later."""

    def __init__(self, flush: Callable[[Batch[Item]], object]) -> None:
        self._flush = flush
        self._pending: list[tuple[Item, asyncio.Future[Any]]] = []

    async def submit(self, item: Item) -> Any:
        """Submit an item; return its outcome."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._flush_pending)
        self._pending.append((item, future))
        return await future

    def _flush_pending(self) -> None:
        batch, self._pending = self._pending, []
        try:
            self._flush(batch)
        except Exception as error:  # otherwise the callers would wait for ever
            resolve(batch, [error] * len(batch))


def resolve(batch: Batch[Item], outcomes: Sequence[object]) -> None:
    """Give each caller its outcome; raise it there if it is an exception. Call on the event loop's thread."""
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():  # the caller was cancelled
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
