"""Server-sent events of texts while they are generated."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Any

import orjson

from service.generation import Row


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


async def text_events(wakers: Wakers, rows: Sequence[Row], done: "Future[Any]") -> AsyncIterator[bytes]:
    """New text as soon as it is there, all of it that is there when the caller can take more, until all is done.

    A caller that leaves cancels the rest.
    """
    fresh = asyncio.Event()
    loop = asyncio.get_running_loop()
    wakers.add(rows, fresh)
    done.add_done_callback(lambda _: loop.call_soon_threadsafe(fresh.set))
    sent = [0] * len(rows)
    try:
        while True:
            await fresh.wait()
            fresh.clear()
            ended = done.done()
            for i, row in enumerate(rows):
                if row.ready > sent[i]:
                    text = "".join(row.text[sent[i] : row.ready])
                    sent[i] += len(text)
                    yield event({"index": i, "text": text})
            if ended:
                break
    finally:
        done.cancel()
        wakers.remove(rows)
