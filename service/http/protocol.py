"""uvicorn's HTTP/1.1 (by httptools) with limits: bytes of a head, pipelined requests, connections, seconds until a
request has arrived, seconds until the client reads an answer. And connections that end without losing a request. Knows
nothing of routes.

docs/decisions says why it is not uvicorn's h11. tests/service/test_protocol.py checks what it relies on in uvicorn.
"""

import asyncio
import resource
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

import httptools
import orjson
import structlog
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http.tls import open_certificate
from service.settings import Settings

HEAD_BYTES = 64 * 1024
"""Maximum of a request line and its headers."""
PIECE = 4096
"""Bytes of a head to parse at once."""
BODY_PIECE = 64 * 1024
MAX_PIPELINED = 16
"""Maximum of requests that wait on one connection; then the connection is not read."""
HEAD_SECONDS = 30.0
"""Seconds from a request's first byte (or the connection's) to the end of its head."""
OTHER_FILES = 100
"""Open files other than connections: models, the store, pipes, listening sockets."""
STUCK_SECONDS = 45.0
"""Seconds after which the connection of a client that reads nothing of its answer is closed."""
IDLE_SECONDS = 1.0
"""When the service ends, it closes a connection that was idle for this long. Until then, a request may be arriving."""

_STATUS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class _BadHeadError(Exception):
    """The head is not a valid HTTP request."""


def http_options(settings: Settings, is_draining: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """The options of uvicorn's `Config` that apply the limits of the settings. While the service `is_draining`, answers
    carry `Connection: close`.

    Raises this process's limit of open files as far as the system allows; it also limits the connections.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = settings.max_connections if files < 0 else min(settings.max_connections, max(1, files - OTHER_FILES))
    attributes = {
        "max_connections": connections,
        "body_seconds": settings.body_timeout,
        "is_draining": staticmethod(is_draining),
    }
    protocol = type("Protocol", (LimitedProtocol,), attributes)
    return {"http": protocol, "timeout_keep_alive": settings.keep_alive, **_edge(settings)}


def _edge(settings: Settings) -> dict[str, Any]:
    """The options for TLS and for the proxies whose X-Forwarded-For and -Proto are believed."""
    proxies = [*settings.trusted_proxies]
    for network in map(ip_network, set(proxies) - {"*"}):
        if network.version == 4:  # as a socket of IPv6 shows its addresses
            proxies.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    options: dict[str, Any] = {"forwarded_allow_ips": "*" if "*" in proxies else proxies}
    if settings.tls_certificate and settings.tls_key:
        context = open_certificate(settings.tls_certificate, settings.tls_key)
        options["ssl_context_factory"] = lambda *_: context
    return options


class _Flow(FlowControl):
    """Flow control that does not resume reading while it is `held`."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    flow: _Flow

    max_connections = 1000
    body_seconds = 60.0
    is_draining: Callable[[], bool] = staticmethod(lambda: False)
    _last_full_warning = 0.0
    """time.monotonic() of the last warning about too many connections."""

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._begun = False
        """Whether a part of a request has arrived, and its end has not."""
        self._head_bytes = 0
        """Bytes of the current head, rounded up to a piece."""
        self._in_head = True
        self._unparsed = b""
        """Received bytes, to parse when fewer requests wait."""
        self._running: RequestResponseCycle | None = None
        self._arrival: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._last: RequestResponseCycle | None = None
        """The request whose answer will carry `Connection: close`."""
        self._leaving = False
        self._idle_since = 0.0
        self._leave: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if there are too many."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._idle_since = self.loop.time()
        if len(self.connections) > self.max_connections:
            now = time.monotonic()
            if now - LimitedProtocol._last_full_warning > 1:
                LimitedProtocol._last_full_warning = now
                structlog.get_logger().warning("too many connections", limit=self.max_connections)
            detail = f"{self.max_connections} connections are open, the maximum: retry later"
            self._refuse(503, "too_many_connections", detail)
            return
        self._await_arrival(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the running request that its client disconnected; uvicorn tells only the newest one."""
        for timer in (self._arrival, self._stuck, self._leave):
            if timer is not None:
                timer.cancel()
        self._arrival = self._stuck = self._leave = None
        self._unparsed = b""
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes in pieces, until too many requests wait."""
        self._unset_keepalive_if_required()
        self._parse(self._unparsed + data)

    def _parse(self, data: bytes) -> None:
        self._unparsed, self.flow.held = b"", False
        while data and not self.transport.is_closing():
            if len(self.pipeline) >= MAX_PIPELINED:
                self.flow.pause_reading()
                self._unparsed, self.flow.held = data, True
                return
            in_head = self._in_head
            size = PIECE if in_head else BODY_PIECE
            piece, data = data[:size], data[size:]
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as pause:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(400, "malformed_request", "CONNECT is not supported")
                    return
                data = self._without_upgrade() + piece[pause.args[0] :] + data
                continue
            except httptools.HttpParserError as error:
                cause = error.__context__
                detail = str(cause) if isinstance(cause, _BadHeadError) else "not a valid HTTP request"
                self._refuse(400, "malformed_request", detail)
                return
            if in_head and self._in_head:
                self._head_bytes += len(piece)
                if self._head_bytes > HEAD_BYTES:
                    self._refuse(431, "head_too_large", f"the request line and headers are over {HEAD_BYTES} bytes")
                    return
        if self._arrival is None and not self._busy:
            self._await_arrival(HEAD_SECONDS)  # for the head after an empty line

    def _without_upgrade(self) -> bytes:
        """The head without its Upgrade headers, which a server may ignore (RFC 9110, section 7.8), to parse again. Sets
        a new parser, since the old one accepts no body after an upgrade."""
        parts = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(
                    token
                    for token in map(bytes.strip, value.split(b","))
                    if token.lower() not in (b"upgrade", b"http2-settings")
                )
            if value and name not in (b"upgrade", b"http2-settings"):
                parts += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._in_head, self._head_bytes = True, 0
        return b"".join([*parts, b"\r\n"])

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._begun = True
        self._await_arrival(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        """Start the request, unless its head will be parsed again without Upgrade."""
        if self.parser.should_upgrade():
            return
        if self.parser.get_http_version() == "1.1" and all(name != b"host" for name, _ in self.headers):
            raise _BadHeadError("an HTTP/1.1 request needs a Host header")
        self._in_head = False
        self._await_arrival(self.body_seconds)
        super().on_headers_complete()
        if self._leaving or self.is_draining():
            self.close_after_answer()

    def on_message_complete(self) -> None:
        """The request has arrived."""
        if self.parser.should_upgrade():
            return
        self._in_head, self._head_bytes = True, 0
        self._begun = False
        self._await_arrival(None)
        super().on_message_complete()

    def _await_arrival(self, seconds: float | None) -> None:
        """Limit the seconds until the next part of a request has arrived. None: no limit."""
        if self._arrival is not None:
            self._arrival.cancel()
        self._arrival = None if seconds is None else self.loop.call_later(seconds, self._on_late, seconds)

    def _on_late(self, seconds: float) -> None:
        running = self._running
        if self.transport.is_closing():
            return
        if self.flow.read_paused or (self._busy and running is not None and not running.more_body):
            self._await_arrival(seconds)  # the client waits for an earlier answer
        elif self._busy and running is not None and running.response_started:
            self.transport.abort()
        else:
            self._refuse(408, "request_timeout", f"the request has not arrived within {seconds:g} seconds")

    @property
    def _busy(self) -> bool:
        """Whether a request is being answered."""
        return self._running is not None and not self._running.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Parse the bytes that wait on this connection; uvicorn would read more, without a limit."""
        super().on_response_complete()
        if self._unparsed and len(self.pipeline) < MAX_PIPELINED and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._parse(self._unparsed)
            self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self._leaving:
            self._close_if_idle()

    def close_after_answer(self) -> None:
        """Answer the newest request with `Connection: close`, unless its answer has begun."""
        if self._last is not None and not self._last.response_started:
            self._last.keep_alive = True  # another request follows it
        self._last = None
        newest = self.cycle
        if newest is not None and newest.keep_alive and not newest.response_started and not self._unparsed:
            newest.keep_alive = False
            self._last = newest

    def leave(self) -> None:
        """The service ends: close the connection after the answers to its requests, and to one that is arriving."""
        self._leaving = True
        self.close_after_answer()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._busy or self._begun or self.transport.is_closing():
            return
        seconds = self._idle_since + IDLE_SECONDS - self.loop.time()
        if seconds > 0:
            if self._leave is not None:
                self._leave.cancel()
            self._leave = self.loop.call_later(seconds, self._close_if_idle)
            return
        # A request may have arrived that the event loop has not read yet.
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        if not poll.poll(0):
            self.transport.close()

    def cut(self) -> None:
        """The grace period is over: close the connection, with a problem if the answer has not begun."""
        running = self._running
        if self._busy and running is not None:
            running.disconnected = True  # the route learns it, and what it sends is dropped
            running.message_event.set()
            if running.response_started:
                self.transport.abort()
            else:
                self._write_problem(503, "not_ready", "the service is ending, and its grace period is over")
        self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read its answer: close the connection if that lasts."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The client read its answer."""
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        super().resume_writing()

    def _watch_writing(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._stuck = self.loop.call_later(STUCK_SECONDS, self._on_stuck, waiting)

    def _on_stuck(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() < waited:
            self._watch_writing()
            return
        structlog.get_logger().info("an answer was not read", seconds=STUCK_SECONDS)
        # Without lingering, the system drops the bytes that wait to be sent.
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, but with a problem document."""
        self._refuse(400, "malformed_request", msg)

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer without a route, and close the connection."""
        running = self._running
        if self._busy and running is not None and not (running.more_body and not running.response_started):
            running.keep_alive = False  # close after the answer to an earlier request
            self.pipeline.clear()
            self.flow.pause_reading()
            self.flow.held = True
            return
        self._write_problem(status, code, detail)
        self.transport.close()

    def _write_problem(self, status: int, code: str, detail: str) -> None:
        problem = {"type": "about:blank", "title": _STATUS[status], "status": status, "detail": detail, "code": code}
        body = orjson.dumps(problem)
        head = (
            f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
