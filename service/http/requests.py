"""RequestMiddleware: gives each request an id, a log line and metrics. It is the first of three, all plain ASGI:
AccessMiddleware (access.py) checks the API key and the origin, BodyMiddleware (bodies.py) limits the body."""

import logging
import re
import time
import uuid

import structlog
from opentelemetry.trace import format_trace_id
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import UnexpectedError
from service.http.measuring import Measurement
from service.http.problems import problem_answer, problem_codes
from service.metrics import Metrics
from service.traces import request_trace, server_timing

_VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


CLIENT_CLOSED_REQUEST = 499
"""The status in logs and metrics if the client disconnects before the answer begins (nginx's number for it)."""
METRICS = "/metrics"
PROBES = frozenset({"/health/live", "/health/ready", "/health", METRICS})
MAX_LOGGED_PATH = 1000
"""Characters."""


class RequestMiddleware:
    """Gives each request an id (the caller's X-Request-ID if it is valid) and a trace (its `traceparent`), logs and
    counts the request, and turns an unexpected exception into a plain 500.

    It also answers HEAD like GET, without the body (RFC 9110, section 9.3.2), and sends streams whole over HTTP/1.0,
    which has no chunks. Inside, no path has the `root_path` of a proxy in front.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path
        self._metrics = metrics.http
        self._metrics.expect_problems(problem_codes())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _VALID_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        method = scope["method"]
        scope = {**scope, "method": "GET" if method == "HEAD" else method, "carry.request_id": request_id}
        scope["carry.started"] = time.monotonic()
        app, scope["path"] = self._app, self._without_root_path(scope["path"])
        if self._root_path and scope["path"] == self._root_path:
            app = RedirectResponse(f"{self._root_path}/")  # the page's links are relative
        trace = request_trace(scope["headers"])
        trace_id = scope["carry.trace_id"] = format_trace_id(trace.trace_id)
        if scope["http_version"] == "1.0":
            send = _unchunked(send)
        status = CLIENT_CLOSED_REQUEST
        measurement = Measurement(self._metrics, scope, method)
        bytes_in = bytes_out = 0

        async def read() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def answer(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.append("Server-Timing", server_timing(trace))
            elif method == "HEAD":
                message = {**message, "body": b""}
            bytes_out += len(message.get("body", b""))
            await send(message)
            measurement.sent(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id, trace_id=trace_id):
            try:
                await app(scope, read, answer)
            except Exception:
                structlog.get_logger().exception("unexpected error")
                if status != CLIENT_CLOSED_REQUEST:  # the answer has begun
                    raise
                await problem_answer(UnexpectedError(), scope)(scope, read, answer)
            finally:
                if "carry.call" in scope:
                    scope["carry.call"].end()
                seconds = measurement.end(status)
                route = getattr(scope.get("route"), "path", "")
                structlog.get_logger().log(
                    # Probes and scrapes come every few seconds: keep them out of the log.
                    logging.DEBUG if route in PROBES and status < 500 else logging.INFO,
                    "request",
                    method=method,
                    path=scope["path"][:MAX_LOGGED_PATH],
                    status=status,
                    ms=round(1000 * seconds, 2),
                    bytes_in=bytes_in,
                    bytes_out=bytes_out,
                    **_caller(scope),
                )

    def _without_root_path(self, path: str) -> str:
        """A path as the routes have it, whether or not the proxy has cut off its root path."""
        root = self._root_path
        return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _caller(scope: Scope) -> dict[str, str]:
    """Who calls, and which model: what is known of it."""
    client, key, model = scope.get("client"), scope.get("carry.key"), scope.get("carry.model")
    address = client[0].removeprefix("::ffff:") if client else ""  # IPv4, on a socket of IPv6
    known = {"client": address, "key": key and key.name, "model": model}
    return {name: value for name, value in known.items() if value}


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
