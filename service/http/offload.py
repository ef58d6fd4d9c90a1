"""Keeps the event loop free: large work runs on another thread; loops over many items let other requests run."""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from service.errors import DeadlineExceededError

Item = TypeVar("Item")
Result = TypeVar("Result")

INLINE_CHARACTERS = 5_000
"""A text of so many is tokenized in less time than a thread takes to start."""
TURN_SECONDS = 0.002
"""How long the loops of one request keep the event loop, at most."""
MIN_TURN_SECONDS = 0.0002


class _Turns:
    """How many requests take turns on the event loop: the more there are, the shorter is each turn."""

    def __init__(self) -> None:
        self.requests = 0

    def seconds(self) -> float:
        return max(MIN_TURN_SECONDS, TURN_SECONDS / max(1, self.requests))


_turns = _Turns()


async def offload_if_large(large: bool, work: Callable[..., Result], *arguments: Any) -> Result:
    """Do the work, on another thread if it is large."""
    return await asyncio.to_thread(work, *arguments) if large else work(*arguments)


async def take_turns(items: Iterable[Item], deadline: float = math.inf) -> AsyncIterator[Item]:
    """The items, with pauses in which other requests use the event loop. The loop ends when the client disconnects, or
    at the `deadline` (time.monotonic); work on a thread would continue.

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


async def wait_all(lengths: Mapping[int, int], submit: Callable[[int], Future[Result]]) -> dict[int, Future[Result]]:
    """Submit many tasks, by number, and wait until all have a result or an error. All together wake the event loop
    once. `lengths`: the values or tokens that each task reads; tasks of equal length are submitted together, so that
    the engine batches them."""
    loop = asyncio.get_running_loop()
    all_done, remaining = asyncio.Event(), itertools.count(len(lengths) - 1, -1)

    def on_done(_: Future[Result]) -> None:
        if not next(remaining):
            loop.call_soon_threadsafe(all_done.set)

    pending: dict[int, Future[Result]] = {}
    try:
        async for i in take_turns(sorted(lengths, key=lengths.__getitem__, reverse=True)):
            pending[i] = submit(i)
        async for future in take_turns(pending.values()):
            future.add_done_callback(on_done)
        if pending:
            await all_done.wait()
    except BaseException:
        for future in pending.values():
            future.cancel()
        raise
    return pending
