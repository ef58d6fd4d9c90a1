"""BodyMiddleware: reads and decompresses a request's whole body within limits, and sends large answers in pieces."""

import asyncio
import gzip
import math
import zlib
from collections.abc import Callable
from io import BytesIO

import zstandard
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    BodyEncodingError,
    BodyTooLargeError,
    BusyError,
    CarryError,
    LimitExceededError,
    MalformedBodyError,
)
from service.http.offload import take_turns
from service.http.problems import problem_answer
from service.settings import Settings

ANSWER_PIECE = 256 * 1024
"""Bytes of an answer to send at once; the next bytes wait until the connection accepts these."""
MAX_ZSTD_WINDOW = 8 * 2**20
"""Bytes of the largest window of a zstd body (RFC 9659)."""
DECOMPRESSED_PIECE = 2**20
"""Bytes to decompress at once; the limits are checked after each piece."""
BUDGET_BODIES = 8
"""One process holds at most the bytes of so many of the largest bodies, and as many bytes of answers in transfer."""
ITEM_WEIGHTS = {b",": 1, b'"': 1, b":": 4, b"[": 10, b"{": 10}
"""The cost of parsing a number, a text (two quotation marks), a field, a list and an object, in numbers."""
COUNT_PIECE = 2**20
"""Bytes in which to count values at once."""


class BodyMiddleware:
    """Reads and decompresses the whole body, refuses a body over the limits as early as possible, and cancels the
    request if its client disconnects.

    It also limits the bytes of all bodies and answers in transfer together. A body counts until its request is
    answered, since FastAPI holds it until then.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_bytes = settings.max_body_bytes
        self._max_items = settings.max_body_items
        self._budget = BUDGET_BODIES * settings.max_body_bytes
        self._body_bytes = 0
        self._answer_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            self._body_bytes += size - held
            held = size
            if size and self._body_bytes > self._budget:
                raise BusyError("the bodies of other requests take all the memory for them")

        try:
            try:
                if self._answer_bytes > self._budget:
                    raise BusyError("the clients of other requests do not read their answers")
                body = await self._body(Headers(scope=scope), receive, hold)
            except CarryError as error:
                hold(0)
                await problem_answer(error, scope)(scope, receive, send)
                return
            if body is not None:
                await self._forward(body, scope, receive, send)
        finally:
            hold(0)

    async def _forward(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on the body. Cancel it if the client disconnects."""
        answered = False
        disconnected = asyncio.Event()
        request_task = asyncio.current_task()
        assert request_task is not None

        async def disconnect() -> Message:
            await disconnected.wait()
            return {"type": "http.disconnect"}

        async def answer(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            if len(message.get("body", b"")) > ANSWER_PIECE:
                await self._in_pieces(message, send)
            else:
                await send(message)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not answered:
                disconnected.set()
                request_task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await self._app(scope, replay(body, disconnect), answer)
        except asyncio.CancelledError:
            if not disconnected.is_set():
                raise
            request_task.uncancel()  # the client disconnected: swallow our own cancellation
        finally:
            watcher.cancel()

    async def _in_pieces(self, message: Message, send: Send) -> None:
        body = message["body"]
        self._answer_bytes += len(body)
        try:
            for at in range(0, len(body), ANSWER_PIECE):
                more = at + ANSWER_PIECE < len(body) or message.get("more_body", False)
                await send({**message, "body": body[at : at + ANSWER_PIECE], "more_body": more})
        finally:
            self._answer_bytes -= len(body)

    async def _body(self, headers: Headers, receive: Receive, hold: Callable[[int], None]) -> bytes | None:
        """The whole body; None if the client disconnected. Calls `hold` with the bytes so far, before it reads more."""
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip", "zstd"):
            raise BodyEncodingError("send the body without Content-Encoding, or with Content-Encoding: gzip or zstd")
        length = headers.get("content-length", "").lstrip("0")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._max_bytes):
            raise self._too_large()
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                raise self._too_large()
            hold(len(body))
        whole = bytes(body)
        del body
        if encoding != "identity":
            whole = await self._decompressed(whole, encoding, hold)
            hold(len(whole))
        items = 0
        async for start in take_turns(range(0, len(whole), COUNT_PIECE)):
            end = start + COUNT_PIECE
            items += sum(weight * whole.count(character, start, end) for character, weight in ITEM_WEIGHTS.items())
            if items > self._max_items:
                raise LimitExceededError(
                    f"at most {self._max_items} values in a body, where a list or an object counts as "
                    f"{ITEM_WEIGHTS[b'{']} more, a field as {ITEM_WEIGHTS[b':']} and a quotation mark as one",
                    "$",
                )
        return whole

    async def _decompressed(self, compressed: bytes, encoding: str, hold: Callable[[int], None]) -> bytes:
        body = bytearray()
        expected = 1.0
        try:
            if encoding == "zstd":
                expected = max(1, zstandard.frame_content_size(compressed))
                decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
                read = decompressor.stream_reader(compressed, read_across_frames=True).read
            else:
                read = gzip.GzipFile(fileobj=BytesIO(compressed)).read
            while piece := await asyncio.to_thread(read, DECOMPRESSED_PIECE):
                body += piece
                if len(body) > self._max_bytes:
                    raise self._too_large()
                hold(len(compressed) + len(body))
        except zstandard.ZstdError:
            raise MalformedBodyError("the body is not valid zstd, or needs a window of more than 8 MiB") from None
        except (gzip.BadGzipFile, zlib.error):
            raise MalformedBodyError("the body is not valid gzip") from None
        except EOFError:
            expected = math.inf
        if len(body) < expected:
            raise MalformedBodyError(f"the {encoding} body is incomplete")
        return bytes(body)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body is larger than {self._max_bytes} bytes")


def replay(body: bytes, then: Receive) -> Receive:
    """A whole body to receive, and after it what `then` receives."""
    replayed = False

    async def receive() -> Message:
        nonlocal replayed
        if replayed:
            return await then()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
