"""Texts while they are generated, as they come, and server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import structlog

from service.errors import CarryError, UnexpectedError
from service.generation import Chosen, FinishReason, Row, chosen
from service.tokenizer import Tokenizer


class Wakers:
    """Wakes those who wait for rows' new text; one crossing of threads for all rows of a step."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Row, asyncio.Event] = {}

    def add(self, rows: Sequence[Row], event: asyncio.Event) -> None:
        """Set the event whenever one of the rows has new text."""
        self._waiting |= dict.fromkeys(rows, event)

    def remove(self, rows: Sequence[Row]) -> None:
        """Nobody waits for these any more."""
        for row in rows:
            self._waiting.pop(row, None)

    def __call__(self, rows: list[Row]) -> None:
        """On the engine's thread: these rows have new text."""
        self._loop.call_soon_threadsafe(self._wake, rows)

    def _wake(self, rows: list[Row]) -> None:
        for row in rows:
            if row in self._waiting:
                self._waiting[row].set()


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2)."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


def broken(error: Exception) -> CarryError:
    """What to tell of an error that ends a stream; one that is our own fault is logged."""
    known = error if isinstance(error, CarryError) else UnexpectedError()
    if known.status == 500:
        structlog.get_logger().error("a stream broke", exc_info=error)
    return known


@dataclass(frozen=True)
class News:
    """New text of one row, by its place among those of the request; what the model expected there, if that was asked
    for; and, with the last of it, why it ended: "length" or "stop"."""

    index: int
    text: str
    chosen: list[Chosen]
    finish_reason: FinishReason | None


async def news(
    wakers: Wakers, tokenizer: Tokenizer, rows: Sequence[Row], logprobs: int, pending: "Sequence[Future[Any]]"
) -> AsyncIterator[News]:
    """New text as soon as it is there, all of it that is there when the caller can take more, until all are done, or
    one is broken off, which the futures tell; what is echoed comes with the first of it.

    A caller that leaves cancels the rest.
    """
    fresh = asyncio.Event()
    loop = asyncio.get_running_loop()
    wakers.add(rows, fresh)
    for done in pending:
        done.add_done_callback(lambda _: loop.call_soon_threadsafe(fresh.set))
    sent, told, over = [0] * len(rows), [False] * len(rows), False
    try:
        while not over:
            await fresh.wait()
            fresh.clear()
            finished = [done for done in pending if done.done()]
            over = len(finished) == len(pending)
            if any(done.cancelled() or done.exception() is not None for done in finished):
                break
            for i, row in enumerate(rows):
                ended, ready, since = row.ended, row.ready, sent[i]
                until = len(row.echoed) + ready if ready or ended else 0
                if until > since or (ended and not told[i]):
                    explain = partial(chosen, tokenizer, row, since, until, logprobs)
                    # That of a long prompt would keep the others waiting for the event loop.
                    found = await asyncio.to_thread(explain) if logprobs and until - since > 1000 else explain()
                    sent[i], told[i] = until, ended
                    yield News(i, "".join(row.given(since, until)), found, row.finish_reason if ended else None)
    finally:
        for done in pending:
            done.cancel()
        wakers.remove(rows)
