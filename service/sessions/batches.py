"""What is asked for in one turn of the event loop, handed on in one go: for a store that is less work than one after
the other, and those who came together go on together."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Batch = Sequence[tuple[Item, "asyncio.Future[Any]"]]


class Batches(Generic[Item]):
    """`hand_on` is given all that was asked for, and has it settled, now or later."""

    def __init__(self, hand_on: Callable[[Batch[Item]], object]) -> None:
        self._hand_on = hand_on
        self._asked: list[tuple[Item, asyncio.Future[Any]]] = []

    async def ask(self, item: Item) -> Any:
        """What the item is settled with."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._asked:
            loop.call_soon(self._turn_ended)
        self._asked.append((item, future))
        return await future

    def _turn_ended(self) -> None:
        batch, self._asked = self._asked, []
        try:
            self._hand_on(batch)
        except Exception as error:  # or they would wait for ever
            settle(batch, [error] * len(batch))


def settle(batch: Batch[Item], outcomes: Sequence[object]) -> None:
    """Give each its outcome, or raise it there if it is an exception. On the event loop's thread."""
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():  # whoever waited was cancelled
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
