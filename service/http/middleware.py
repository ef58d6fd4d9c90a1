"""Around every request: its id, its log line and metrics, the key that it needs, the limits on its body and its answer.
Plain ASGI, in this order: RequestMiddleware, AccessMiddleware, BodyMiddleware."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
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
from service.http.context import authenticate
from service.http.offload import take_turns
from service.http.problems import problem_answer
from service.metrics import Metrics
from service.settings import Settings

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


GONE = 499
"""Logged and counted where the caller left before there was an answer (nginx's number for it)."""
ANSWER_PIECE = 256 * 1024
"""Bytes of an answer that are handed to the connection at once: the next ones wait until these can be sent."""


_PROBES = frozenset({"/health/live", "/health/ready", "/health", "/metrics"})
MAX_LOGGED_PATH = 1000
"""Characters."""


class RequestMiddleware:
    """Gives each request an id (the caller's X-Request-ID if it is sane), logs and counts it, and answers what failed
    unexpectedly with a plain 500.

    What HTTP asks of every route is done here, too: HEAD is GET without the body (RFC 9110, section 9.3.2), and
    HTTP/1.0, which has no chunks, gets a stream as a whole.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        method = scope["method"]
        scope = {**scope, "method": "GET" if method == "HEAD" else method, "carry.request_id": request_id}
        scope["carry.started"] = time.monotonic()
        if scope["http_version"] == "1.0":
            send = _whole(send)
        status = GONE

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
                if status != GONE:
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
                    # Probes and scrapes come every few seconds, and nobody looks for them.
                    logging.DEBUG if route in _PROBES and status < 500 else logging.INFO,
                    "request",
                    method=method,
                    path=scope["path"][:MAX_LOGGED_PATH],
                    status=status,
                    ms=round(1000 * seconds, 2),
                    owner=scope.get("carry.owner", "")[:8],
                )


def _whole(send: Send) -> Send:
    """Sends an answer without a length only when all of it is there, with its length."""
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


OPEN = _PROBES | {"/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/version", "/ping"}
"""The paths that need no key."""


class AccessMiddleware:
    """Refuses, from the headers alone, who needs a key and has none, and pages of other origins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            if scope["path"] not in OPEN:
                scope["carry.owner"] = authenticate(scope["app"].state.carry, headers.get("authorization"))
            origin = headers.get("origin")
            if origin is not None and scope["method"] != "GET" and urlsplit(origin).netloc != headers.get("host"):
                raise CrossOriginError("pages of another origin may not call this service")
        except CarryError as error:
            await problem_answer(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)


MAX_ZSTD_WINDOW = 8 * 2**20
"""Bytes that a zstd body may refer back to (RFC 9659)."""
ZSTD_PIECE = 2**20
"""Bytes that are decompressed at once: they are counted before more are made."""
BUDGET_BODIES = 8
"""So many of the largest bodies may be held, and answers of as many bytes be on their way, in one process."""
WEIGHTS = {b",": 1, b'"': 1, b":": 4, b"[": 10, b"{": 10}
"""What a number, a text (two marks), a field, a list and an object cost to parse, in numbers."""
COUNTED = 2**20
"""Bytes in which values are counted at once."""


class BodyMiddleware:
    """Reads the whole body, decompressed if it came as zstd, refuses one over the limits (at once where the caller
    tells its length, else as soon as they are exceeded), and cancels the work of a caller who leaves before the answer.

    What all bodies and answers under way take together is limited, too: a body, as long as it is, until its request is
    answered, since FastAPI holds it until then.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._limit = settings.max_body_bytes
        self._items = settings.max_body_items
        self._budget = BUDGET_BODIES * settings.max_body_bytes
        self._held = 0
        self._leaving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            self._held += size - held
            held = size
            if size and self._held > self._budget:
                raise BusyError("more is being sent than there is room for")

        try:
            try:
                if self._leaving > self._budget:
                    raise BusyError("too many answers are on their way and not read")
                body = await self._body(Headers(scope=scope), receive, hold)
            except CarryError as error:
                hold(0)
                await problem_answer(error, scope)(scope, receive, send)
                return
            if body is not None:
                await self._hand_on(body, scope, receive, send)
        finally:
            hold(0)

    async def _hand_on(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        handed_on, answered = False, False
        gone = asyncio.Event()
        work = asyncio.current_task()
        assert work is not None

        async def replay() -> Message:
            nonlocal handed_on
            if handed_on:
                await gone.wait()
                return {"type": "http.disconnect"}
            handed_on = True
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
                gone.set()
                work.cancel()

        watching = asyncio.create_task(watch())
        try:
            await self._app(scope, replay, answer)
        except asyncio.CancelledError:
            if not gone.is_set():
                raise
            work.uncancel()  # nobody is left to be told
        finally:
            watching.cancel()

    async def _in_pieces(self, message: Message, send: Send) -> None:
        body = message["body"]
        self._leaving += len(body)
        try:
            for at in range(0, len(body), ANSWER_PIECE):
                more = at + ANSWER_PIECE < len(body) or message.get("more_body", False)
                await send({**message, "body": body[at : at + ANSWER_PIECE], "more_body": more})
        finally:
            self._leaving -= len(body)

    async def _body(self, headers: Headers, receive: Receive, hold: Callable[[int], None]) -> bytes | None:
        """The whole body; None if the client has gone. `hold` is told how many bytes there are, before more come."""
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "zstd"):
            raise BodyEncodingError("a body may come as it is, or with Content-Encoding: zstd")
        told = headers.get("content-length", "").lstrip("0")
        if told.isdecimal() and (len(told) > 18 or int(told) > self._limit):
            raise self._too_large()
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                raise self._too_large()
            hold(len(body))
        whole = bytes(body)
        del body
        if encoding == "zstd":
            whole = await self._decompressed(whole, hold)
            hold(len(whole))
        items = 0
        async for start in take_turns(range(0, len(whole), COUNTED)):
            end = start + COUNTED
            items += sum(weight * whole.count(character, start, end) for character, weight in WEIGHTS.items())
            if items > self._items:
                raise LimitExceededError(
                    f"at most {self._items} values in a body, where a list or an object counts as {WEIGHTS[b'{']} "
                    f"more, a field as {WEIGHTS[b':']} and a quotation mark as one",
                    "$",
                )
        return whole

    async def _decompressed(self, packed: bytes, hold: Callable[[int], None]) -> bytes:
        body = bytearray()
        try:
            expected = zstandard.frame_content_size(packed)
            reader = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW).stream_reader(
                packed, read_across_frames=True
            )
            while piece := await asyncio.to_thread(reader.read, ZSTD_PIECE):
                body += piece
                if len(body) > self._limit:
                    raise self._too_large()
                hold(len(packed) + len(body))
        except zstandard.ZstdError:
            raise MalformedBodyError("the body is not valid zstd, or needs a window of more than 8 MiB") from None
        if len(body) < max(1, expected):
            raise MalformedBodyError("the body is not whole")
        return bytes(body)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body is larger than the {self._limit} bytes that are accepted")
