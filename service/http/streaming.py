"""Texts while they are generated, as they come, and server-sent events."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import CarryError, UnexpectedError
from service.text.task import Chosen, FinishReason, Row, block_size, chosen
from service.text.tokenizer import Tokenizer


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


LAST_SECONDS = 5.0
"""How long after its deadline a stream may take to tell of it."""


class EventStream(StreamingResponse):
    """Server-sent events, of a generator that may hold a session's lock and work of an engine: however the stream ends,
    it is closed there and then. A reader who has not taken what was sent soon after the deadline (on time.monotonic's
    clock) is given up: whoever reads slowly would hold the lock for ever."""

    def __init__(self, events: AsyncGenerator[Any, None], headers: dict[str, str], deadline: float) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._events = events
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Who leaves cancels this, as every other call (BodyMiddleware)."""
        async with aclosing(self._events):
            try:
                async with asyncio.timeout(None) as patience:

                    async def in_time(message: Any) -> None:
                        left = self._deadline + LAST_SECONDS - time.monotonic()
                        patience.reschedule(asyncio.get_running_loop().time() + left)
                        await send(message)
                        patience.reschedule(None)

                    await self.stream_response(in_time)
            except TimeoutError:
                structlog.get_logger().warning("a stream was not read by its deadline, and given up")


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
) -> AsyncGenerator[News, None]:
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
    most = block_size(logprobs) if logprobs else None
    try:
        while not over:
            await fresh.wait()
            fresh.clear()
            finished = [done for done in pending if done.done()]
            over = len(finished) == len(pending)
            if any(done.cancelled() or done.exception() is not None for done in finished):
                break
            for i, row in enumerate(rows):
                ended, ready = row.ended, row.ready
                end = len(row.echoed) + ready if ready or ended else 0
                while end > sent[i] or (ended and not told[i]):
                    since = sent[i]
                    until = end if most is None else min(end, since + most)
                    sent[i], told[i] = until, ended and until == end
                    yield News(
                        i,
                        "".join(row.given(since, until)),
                        chosen(tokenizer, row, since, until, logprobs),
                        row.finish_reason if told[i] else None,
                    )
                    if until < end:
                        await asyncio.sleep(0)  # that of a long prompt would keep the others waiting
    finally:
        for done in pending:
            done.cancel()
        wakers.remove(rows)
