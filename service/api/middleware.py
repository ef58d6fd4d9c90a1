"""Around every request: its id, the limit on its body, its log line and its metrics. Plain ASGI."""

import asyncio
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem
from service.errors import BodyTooLargeError
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
                await problem(500, "internal_error", "an unexpected error; it has been logged", request_id)(
                    scope, receive, answer
                )
            finally:
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path", "unmatched")
                self._metrics.requests.labels(scope["method"], route, status).inc()
                self._metrics.seconds.labels(route).observe(seconds)
                structlog.get_logger().info(
                    "request", method=scope["method"], path=scope["path"], status=status, ms=round(1000 * seconds, 2)
                )


class BodyMiddleware:
    """Reads the whole body, refuses one over the limit (at once where the caller tells its length, else as soon as it
    is exceeded), and cancels the work of a caller who leaves before the answer."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        refusal = problem(
            BodyTooLargeError.status,
            BodyTooLargeError.code,
            f"the body is larger than the {self._limit} bytes that are accepted",
            scope["carry.request_id"],
        )
        if told.isdecimal() and int(told) > self._limit:
            await refusal(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                await refusal(scope, receive, send)
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
            return {"type": "http.request", "body": bytes(body), "more_body": False}

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
