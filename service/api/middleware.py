"""Around every request: its id, the limit on its body, its log line and its metrics. Plain ASGI."""

import asyncio
import re
import time
import uuid

import structlog
import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem_answer
from service.errors import BodyEncodingError, BodyTooLargeError, CarryError, MalformedBodyError, UnexpectedError
from service.metrics import Metrics

_SANE_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")


GONE = 499
"""Logged and counted where the caller left before there was an answer (nginx's number for it)."""


class RequestMiddleware:
    """Gives each request an id (the caller's X-Request-ID if it is sane), logs and counts it, and answers what failed
    unexpectedly with a plain 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.match(given) else uuid.uuid4().hex
        scope["carry.request_id"] = request_id
        status = GONE

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
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
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path", "unmatched")
                self._metrics.requests.labels(scope["method"], route, status).inc()
                self._metrics.seconds.labels(route).observe(seconds)
                structlog.get_logger().info(
                    "request", method=scope["method"], path=scope["path"], status=status, ms=round(1000 * seconds, 2)
                )


MOST_WINDOW = 8 * 2**20
"""Bytes that a zstd body may refer back to (RFC 9659)."""


class BodyMiddleware:
    """Reads the whole body, decompressed if it came as zstd, refuses one over the limit (at once where the caller tells
    its length, else as soon as it is exceeded), and cancels the work of a caller who leaves before the answer."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._body(Headers(scope=scope), receive)
        except CarryError as error:
            await problem_answer(error, scope)(scope, receive, send)
            return
        if body is None:
            return
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

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None if the client has gone."""
        too_large = BodyTooLargeError(f"the body is larger than the {self._limit} bytes that are accepted")
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "zstd"):
            raise BodyEncodingError("a body may come as it is, or with Content-Encoding: zstd")
        told = headers.get("content-length", "")
        if told.isdecimal() and int(told) > self._limit:
            raise too_large
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                raise too_large
        if encoding == "identity":
            return bytes(body)
        try:
            expected = zstandard.frame_content_size(body)
            reader = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW).stream_reader(
                body, read_across_frames=True
            )
            found = reader.read(self._limit + 1)
        except zstandard.ZstdError:
            raise MalformedBodyError("the body is not valid zstd, or needs a window of more than 8 MiB") from None
        if len(found) > self._limit:
            raise too_large
        if len(found) < max(1, expected):
            raise MalformedBodyError("the body is not whole")
        return found
