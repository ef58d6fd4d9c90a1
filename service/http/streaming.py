"""Answers that are streamed as server-sent events."""

import asyncio
import time
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import aclosing
from typing import Any

import orjson
import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import CarryError, UnexpectedError


class StreamNotifier:
    """Tells streams that rows of theirs have something new; one crossing of threads for all rows of a step."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Hashable, asyncio.Event] = {}

    def add(self, rows: Sequence[Hashable], event: asyncio.Event) -> None:
        """Set the event whenever one of the rows has something new."""
        self._waiting |= dict.fromkeys(rows, event)

    def remove(self, rows: Sequence[Hashable]) -> None:
        """Notify nobody of these rows any more."""
        for row in rows:
            self._waiting.pop(row, None)

    def __call__(self, rows: Sequence[Hashable]) -> None:
        """On the engine's thread: these rows have something new."""
        self._loop.call_soon_threadsafe(self._set, rows)

    def _set(self, rows: Sequence[Hashable]) -> None:
        for row in rows:
            if row in self._waiting:
                self._waiting[row].set()


def sse_event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2)."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


LAST_SECONDS = 5.0
"""How long after its deadline a stream may take to say so."""


class EventStream(StreamingResponse):
    """Server-sent events, of a generator that may hold a session's lock and work of an engine: however the stream ends,
    it is closed there and then. A reader who has not taken what was sent soon after the deadline (on time.monotonic's
    clock) is given up: a slow reader would hold the lock for ever."""

    def __init__(self, events: AsyncGenerator[Any, None], headers: dict[str, str], deadline: float) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._events = events
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. A client that disconnects cancels this, as every other call (BodyMiddleware)."""
        async with aclosing(self._events):
            try:
                async with asyncio.timeout(None) as timeout:

                    async def in_time(message: Any) -> None:
                        left = self._deadline + LAST_SECONDS - time.monotonic()
                        timeout.reschedule(asyncio.get_running_loop().time() + left)
                        await send(message)
                        timeout.reschedule(None)

                    await self.stream_response(in_time)
            except TimeoutError:
                structlog.get_logger().warning("a stream was not read by its deadline, and given up")


def as_carry_error(error: Exception) -> CarryError:
    """The error that a stream ends with; an unexpected one is logged, and not shown."""
    known = error if isinstance(error, CarryError) else UnexpectedError()
    if known.status == 500:
        structlog.get_logger().error("a stream broke", exc_info=error)
    return known
