"""Keeps the event loop free: large work goes to another thread, many small things let others in between."""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from service.errors import DeadlineExceededError

Item = TypeVar("Item")
Made = TypeVar("Made")

TURN_SECONDS = 0.002
"""How long the small things of one request may keep the event loop."""
MIN_TURN_SECONDS = 0.0002


class _Turns:
    """How many requests share the event loop in turns: the more, the shorter is the turn of each."""

    def __init__(self) -> None:
        self.requests = 0

    def seconds(self) -> float:
        return max(MIN_TURN_SECONDS, TURN_SECONDS / max(1, self.requests))


_turns = _Turns()


async def offload_if_large(large: bool, work: Callable[..., Made], *arguments: Any) -> Made:
    """Do the work, on another thread if it is large."""
    return await asyncio.to_thread(work, *arguments) if large else work(*arguments)


async def take_turns(items: Iterable[Item], deadline: float = math.inf) -> AsyncIterator[Item]:
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


async def wait_all(lengths: Mapping[int, int], submit: Callable[[int], Future[Made]]) -> dict[int, Future[Made]]:
    """Submit many tasks, by their numbers, and wait until all have ended, in whatever way: with one wake-up of the
    event loop for all. `lengths`: how many values or tokens each reads; tasks of one length are read together."""
    loop = asyncio.get_running_loop()
    ended, left = asyncio.Event(), itertools.count(len(lengths) - 1, -1)

    def one_less(_: Future[Made]) -> None:
        if not next(left):
            loop.call_soon_threadsafe(ended.set)

    pending: dict[int, Future[Made]] = {}
    try:
        async for i in take_turns(sorted(lengths, key=lengths.__getitem__, reverse=True)):
            pending[i] = submit(i)
        async for future in take_turns(pending.values()):
            future.add_done_callback(one_less)
        if pending:
            await ended.wait()
    except BaseException:
        for future in pending.values():
            future.cancel()
        raise
    return pending
