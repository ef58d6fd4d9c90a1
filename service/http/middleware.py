"""Middleware around every request, as plain ASGI, in this order: RequestMiddleware gives it an id, a log line and
metrics; AccessMiddleware checks its API key and origin; BodyMiddleware limits its body and its answer."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Set
from urllib.parse import urlsplit

import structlog
import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    BodyEncodingError,
    BodyTooLargeError,
    BusyError,
    CarryError,
    CrossOriginError,
    LimitExceededError,
    MalformedBodyError,
    UnexpectedError,
)
from service.http.authentication import authenticate
from service.http.offload import take_turns
from service.http.problems import problem_answer
from service.metrics import Metrics
from service.settings import Settings

_VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


CLIENT_CLOSED_REQUEST = 499
"""The status in logs and metrics if the client disconnects before the answer begins (nginx's number for it)."""
ANSWER_PIECE = 256 * 1024
"""Bytes of an answer to send at once; the next bytes wait until the connection accepts these."""
_PROBES = frozenset({"/health/live", "/health/ready", "/health", "/metrics"})
MAX_LOGGED_PATH = 1000
"""Characters."""


class RequestMiddleware:
    """Gives each request an id (the caller's X-Request-ID if it is valid), logs and counts the request, and turns an
    unexpected exception into a plain 500.

    It also answers HEAD like GET, without the body (RFC 9110, section 9.3.2), and sends streams whole over HTTP/1.0,
    which has no chunks.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _VALID_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        method = scope["method"]
        scope = {**scope, "method": "GET" if method == "HEAD" else method, "carry.request_id": request_id}
        scope["carry.started"] = time.monotonic()
        if scope["http_version"] == "1.0":
            send = _unchunked(send)
        status = CLIENT_CLOSED_REQUEST

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, answer)
            except Exception:
                structlog.get_logger().exception("unexpected error")
                if status != CLIENT_CLOSED_REQUEST:  # the answer has begun
                    raise
                await problem_answer(UnexpectedError(), scope)(scope, receive, answer)
            finally:
                if "carry.memory" in scope:
                    scope["carry.memory"].release()
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path", "unmatched")
                self._metrics.requests.labels(method, route, status).inc()
                self._metrics.seconds.labels(route).observe(seconds)
                structlog.get_logger().log(
                    # Probes and scrapes come every few seconds: keep them out of the log.
                    logging.DEBUG if route in _PROBES and status < 500 else logging.INFO,
                    "request",
                    method=method,
                    path=scope["path"][:MAX_LOGGED_PATH],
                    status=status,
                    ms=round(1000 * seconds, 2),
                    owner=scope.get("carry.owner", "")[:8],
                )


def _unchunked(send: Send) -> Send:
    """Collects an answer and sends it whole, with its length."""
    head: Message | None = None
    body = bytearray()

    async def gather(message: Message) -> None:
        nonlocal head
        if message["type"] == "http.response.start":
            head = message
            return
        assert head is not None
        body.extend(message.get("body", b""))
        if not message.get("more_body", False):
            MutableHeaders(scope=head).setdefault("Content-Length", str(len(body)))
            await send(head)
            await send({"type": "http.response.body", "body": bytes(body)})

    return gather


OPEN = _PROBES | {"/", "/openapi.json", "/version", "/ping"}
"""The paths that need no API key, beside the files of the page."""


class AccessMiddleware:
    """Refuses requests without a valid API key, and from web pages of other origins. It reads the headers only.

    `open_paths`: exactly these need no key.
    """

    def __init__(self, app: ASGIApp, open_paths: Set[str]) -> None:
        self._app = app
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            if scope["path"] not in self._open_paths:
                scope["carry.owner"] = authenticate(scope["app"].state.carry, headers.get("authorization"))
            origin = headers.get("origin")
            if origin is not None and scope["method"] != "GET" and urlsplit(origin).netloc != headers.get("host"):
                raise CrossOriginError("web pages of another origin may not call this service")
        except CarryError as error:
            await problem_answer(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)


MAX_ZSTD_WINDOW = 8 * 2**20
"""Bytes of the largest window of a zstd body (RFC 9659)."""
ZSTD_PIECE = 2**20
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
        forwarded, answered = False, False
        disconnected = asyncio.Event()
        request_task = asyncio.current_task()
        assert request_task is not None

        async def replay() -> Message:
            nonlocal forwarded
            if forwarded:
                await disconnected.wait()
                return {"type": "http.disconnect"}
            forwarded = True
            return {"type": "http.request", "body": body, "more_body": False}

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
            await self._app(scope, replay, answer)
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
        if encoding not in ("identity", "zstd"):
            raise BodyEncodingError("send the body without Content-Encoding, or with Content-Encoding: zstd")
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
        if encoding == "zstd":
            whole = await self._decompressed(whole, hold)
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

    async def _decompressed(self, compressed: bytes, hold: Callable[[int], None]) -> bytes:
        body = bytearray()
        try:
            expected = zstandard.frame_content_size(compressed)
            reader = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW).stream_reader(
                compressed, read_across_frames=True
            )
            while piece := await asyncio.to_thread(reader.read, ZSTD_PIECE):
                body += piece
                if len(body) > self._max_bytes:
                    raise self._too_large()
                hold(len(compressed) + len(body))
        except zstandard.ZstdError:
            raise MalformedBodyError("the body is not valid zstd, or needs a window of more than 8 MiB") from None
        if len(body) < max(1, expected):
            raise MalformedBodyError("the zstd body is incomplete")
        return bytes(body)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body is larger than {self._max_bytes} bytes")
