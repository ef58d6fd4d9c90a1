"""Keeps the event loop free: large work goes to another thread, many small things let others in between."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from service.errors import DeadlineExceededError

Item = TypeVar("Item")
Made = TypeVar("Made")

TURN_SECONDS = 0.002
"""How long the small things of one request may keep the event loop."""
LEAST_TURN_SECONDS = 0.0002


class _Turns:
    """How many requests share the event loop in turns: the more, the shorter is the turn of each."""

    def __init__(self) -> None:
        self.requests = 0

    def seconds(self) -> float:
        return max(LEAST_TURN_SECONDS, TURN_SECONDS / max(1, self.requests))


_turns = _Turns()


async def beside(large: bool, work: Callable[..., Made], *arguments: Any) -> Made:
    """Do the work, on another thread if it is large."""
    return await asyncio.to_thread(work, *arguments) if large else work(*arguments)


async def in_turns(items: Iterable[Item], deadline: float = math.inf) -> AsyncIterator[Item]:
    """The items; between some of them, others may use the event loop. So a caller who leaves ends the work, as does
    `deadline`, on time.monotonic's clock; work on a thread would go on.

    Raises:
        DeadlineExceededError: the deadline has passed.
    """
    _turns.requests += 1
    try:
        until = time.perf_counter() + _turns.seconds()
        for item in items:
            yield item
            if time.perf_counter() > until:
                if time.monotonic() > deadline:
                    raise DeadlineExceededError("not done by the deadline; nothing was changed")
                await asyncio.sleep(0)
                until = time.perf_counter() + _turns.seconds()
    finally:
        _turns.requests -= 1
