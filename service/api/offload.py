"""Keeps the event loop free: large work goes to another thread, many small things let others in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

TURN_SECONDS = 0.002
"""How long many small things may keep the event loop."""


async def beside(large: bool, work: Callable[..., Made], *arguments: Any) -> Made:
    """Do the work, on another thread if it is large."""
    return await asyncio.to_thread(work, *arguments) if large else work(*arguments)


async def in_turns(items: Iterable[Item]) -> AsyncIterator[Item]:
    """The items; between some of them, others may use the event loop."""
    until = time.perf_counter() + TURN_SECONDS
    for item in items:
        yield item
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + TURN_SECONDS
