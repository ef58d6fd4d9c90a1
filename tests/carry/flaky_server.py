"""A small HTTP server that fails as told: statuses, pages of HTML, connections that break before or in the middle of an
answer, or after the real service has run the request."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import orjson
import zstandard


@dataclass(frozen=True)
class Received:
    """A request as it came. body: decompressed, as JSON; None if there is none."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """An answer. broken: promise more bytes than these, then break the connection. between: runs after the first half
    of the body is sent."""

    status: int = 200
    body: bytes | dict[str, Any] = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    broken: bool = False
    between: Callable[[], None] | None = None


@dataclass(frozen=True)
class Broken:
    """Break the connection without an answer. forward: first pass the request to the service at this address, whose
    answer gets lost."""

    forward: str | None = None


@dataclass(frozen=True)
class Forward:
    """Pass the request to the service at this address, and answer what it answers."""

    url: str


@dataclass(frozen=True)
class Stream:
    """Server-sent events. Then wait until the client closes the connection, and set `closed`; or, if `broken`, break
    it; or else end the answer properly."""

    events: Sequence[bytes]
    broken: bool = False
    closed: threading.Event | None = None


Behaviour = Reply | Broken | Forward | Stream


def problem(status: int, code: str, path: str | None = None) -> bytes:
    """A problem document as the service writes it."""
    errors = {"errors": [{"path": path, "message": "wrong"}]} if path else {}
    return orjson.dumps({"status": status, "code": code, "detail": "wrong", "request_id": "r1", **errors})


@dataclass
class FlakyServer:
    """The server: what it has received, and how many requests it had at once at most."""

    url: str
    received: list[Received] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def flaky_server(behave: Callable[[int, Received], Behaviour]) -> Iterator[FlakyServer]:
    """A server on a free port that behaves so, by the number of the request, from 0 on, and the request."""
    lock, running = threading.Lock(), 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            """As the base, but a connection that the client has broken is no error."""
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

        def answer(self) -> None:
            """Read the request, and behave."""
            nonlocal running
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            compressed = self.headers.get("Content-Encoding") == "zstd"
            whole = zstandard.ZstdDecompressor().decompressobj().decompress(raw) if compressed else raw
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Received(self.command, self.path, headers, orjson.loads(whole) if whole else None)
            with lock:
                number = len(server.received)
                server.received.append(request)
                running += 1
                server.most_at_once = max(server.most_at_once, running)
            try:
                self.behave(behave(number, request), raw)
            finally:
                with lock:
                    running -= 1

        def behave(self, behaviour: Behaviour, raw: bytes) -> None:
            """Answer, or break the connection."""
            match behaviour:
                case Forward(url):
                    answer = self.forward(url, raw)
                    kept = {"etag", "content-type", "retry-after", "idempotency-replayed", "location"}
                    headers = {name.title(): value for name, value in answer.headers.items() if name in kept}
                    self.reply(Reply(answer.status_code, answer.content, headers))
                case Broken(url):
                    if url is not None:
                        assert self.forward(url, raw).status_code < 300
                    self.break_connection()
                case Stream():
                    self.stream(behaviour)
                case Reply():
                    self.reply(behaviour)

        def forward(self, url: str, raw: bytes) -> httpx.Response:
            """The answer of the service."""
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            return httpx.request(self.command, url + self.path, headers=headers, content=raw, timeout=60)

        def reply(self, reply: Reply) -> None:
            body = reply.body if isinstance(reply.body, bytes) else orjson.dumps(reply.body)
            self.send_response(reply.status)
            kind = "application/json" if reply.status < 400 else "application/problem+json"
            for name, value in {"Content-Type": kind, **reply.headers}.items():
                self.send_header(name, value)
            if reply.status != 204:
                self.send_header("Content-Length", str(len(body) + reply.broken))
            self.end_headers()
            half = len(body) // 2
            self.wfile.write(body[:half])
            if reply.between is not None:
                reply.between()
            self.wfile.write(body[half:])
            if reply.broken:
                self.break_connection()

        def stream(self, stream: Stream) -> None:
            """Send events in chunks."""
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with suppress(ConnectionError):  # the client may close it at any time
                for event in stream.events:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
                if stream.closed is not None:
                    assert self.connection.recv(1) == b""
            if stream.closed is not None:
                self.close_connection = True
                stream.closed.set()
            elif stream.broken:
                self.break_connection()
            else:
                self.wfile.write(b"0\r\n\r\n")

        def break_connection(self) -> None:
            """Reset it: without lingering, the system sends RST."""
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def shutdown_request(self, request: Any) -> None:
            """Close without a shutdown, which would end the connection properly."""
            self.close_request(request)

    with Server(("127.0.0.1", 0), Handler) as http:
        server = FlakyServer(f"http://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
