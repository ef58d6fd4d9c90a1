"""Server-sent events, and the notification of streams by the engine's thread."""

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
    """Wakes the streams whose rows have new tokens. All rows of a step cross to the event loop's thread at once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Hashable, asyncio.Event] = {}

    def add(self, rows: Sequence[Hashable], event: asyncio.Event) -> None:
        """Set the event whenever one of the rows has new tokens."""
        self._waiting |= dict.fromkeys(rows, event)

    def remove(self, rows: Sequence[Hashable]) -> None:
        """Stop the notifications for these rows."""
        for row in rows:
            self._waiting.pop(row, None)

    def __call__(self, rows: Sequence[Hashable]) -> None:
        """These rows have new tokens. Runs on the engine's thread."""
        self._loop.call_soon_threadsafe(self._set, rows)

    def _set(self, rows: Sequence[Hashable]) -> None:
        for row in rows:
            if row in self._waiting:
                self._waiting[row].set()


def sse_event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2)."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


DEADLINE_GRACE = 5.0
"""Seconds after its deadline in which a stream may send its last event, the error."""


class EventStream(StreamingResponse):
    """Server-sent events. The generator may hold a session's lock and tasks of an engine, so it is closed as soon as
    the stream ends, in any way. The stream also ends if the client does not read it soon after the deadline
    (time.monotonic): a slow client would hold the lock for ever."""

    def __init__(self, events: AsyncGenerator[Any, None], headers: dict[str, str], deadline: float) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._events = events
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. BodyMiddleware cancels this if the client disconnects."""
        async with aclosing(self._events):
            try:
                async with asyncio.timeout(None) as timeout:

                    async def send_in_time(message: Any) -> None:
                        seconds = self._deadline + DEADLINE_GRACE - time.monotonic()
                        timeout.reschedule(asyncio.get_running_loop().time() + seconds)
                        await send(message)
                        timeout.reschedule(None)

                    await self.stream_response(send_in_time)
            except TimeoutError:
                structlog.get_logger().warning("a client did not read its stream by the deadline; the stream is closed")


def as_carry_error(error: Exception) -> CarryError:
    """The error that a stream ends with. An unexpected exception is logged, not shown."""
    carry_error = error if isinstance(error, CarryError) else UnexpectedError()
    if carry_error.status == 500:
        structlog.get_logger().error("a stream failed", exc_info=error)
    return carry_error
