"""HTTP by raw sockets against a real server: requests of clients and attackers that no route ever sees.

If these tests pass with a new uvicorn, service/http/protocol.py still fits it.
"""

import asyncio
import gzip
import json
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zstandard
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from service.app import create_app
from service.http import protocol
from service.http.bodies import BodyMiddleware
from service.settings import Settings
from tests.served import KEY, served

AUTHORIZED = f"Authorization: Bearer {KEY}\r\n"
BODY = '{"series":[3,4,6,5,7,8],"horizon":2}'


@pytest.fixture(scope="module")
def port(models: Path) -> Iterator[int]:
    with served(models) as url:
        yield int(url.rsplit(":", 1)[1])


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(2**20):
        received += piece
    return received


def answers(port: int, request: str | bytes) -> bytes:
    """Send a request that makes the server close the connection. Returns all that it sends."""
    with connected(port) as connection:
        connection.sendall(request.encode() if isinstance(request, str) else request)
        return until_closed(connection)


def post(path: str, body: str, headers: str = "", version: str = "1.1") -> str:
    return (
        f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n{AUTHORIZED}{headers}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )


@pytest.mark.parametrize("rest", ["Connection: close, Upgrade, HTTP2-Settings\r\n", "Connection: Upgrade, close\r\n"])
def test_a_declined_upgrade_loses_no_body(port: int, rest: str) -> None:
    """Java's HttpClient offers h2c with its first request (RFC 9110, section 7.8)."""
    upgrade = "Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    answer = answers(port, post("/forecast", BODY, rest + upgrade))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert len(json.loads(answer.split(b"\r\n\r\n")[1])["median"]) == 2


def test_an_upgrade_with_a_chunked_body_in_pieces(port: int) -> None:
    head = "POST /forecast HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    sent = head + AUTHORIZED + "Connection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"
    sent += f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
    with connected(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(sent), 50):
            connection.sendall(sent[i : i + 50].encode())
        assert until_closed(connection).startswith(b"HTTP/1.1 200 ")


def test_http_1_0_gets_no_chunks(port: int) -> None:
    """It does not know them (RFC 9112, section 6.1)."""
    answer = answers(port, post("/generate", '{"prompt":"a","max_length":5,"stream":true}', version="1.0"))
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"chunked" not in head.lower()
    assert body.startswith(b"data: ")
    assert body.endswith(b"\n\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /health/live HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"nothing like HTTP\r\n\r\n", 400),
    ],
)
def test_a_request_refused_before_any_route_gets_a_problem(port: int, request_: bytes, status: int) -> None:
    with connected(port) as connection:
        with suppress(ConnectionError):  # the server may refuse it before it is sent whole
            connection.sendall(request_)
        head, body = until_closed(connection).split(b"\r\n\r\n", 1)
    assert int(head[9:12]) == status
    assert b"problem+json" in head
    assert json.loads(body)["status"] == status


def test_a_long_head_within_the_limit_is_accepted(port: int) -> None:
    answer = answers(
        port, b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: " + b"x" * 60_000 + b"\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    count = 500
    requests = [f"GET /health/live HTTP/1.1\r\nHost: a\r\nX-Request-ID: r{i}\r\n\r\n" for i in range(count)]
    requests.append("GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = answers(port, "".join(requests)).decode().lower()
    ids = [line.split(": ")[1] for line in answer.split("\r\n") if line.startswith("x-request-id: r")]
    assert ids == [f"r{i}" for i in range(count)]


def test_a_connection_with_many_waiting_requests_is_not_read(port: int) -> None:
    """600,000 requests, whose answers the client never read, took 1.5 GiB."""
    block = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000
    with connected(port) as connection:
        connection.settimeout(2)
        sent = 0
        with suppress(TimeoutError):
            while sent < 30 * len(block):
                sent += connection.send(block)
    assert sent < 30 * len(block)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-", b"\r\n"])
def test_an_unfinished_head_gets_408(models: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    with served(models) as url:
        assert answers(int(url.rsplit(":", 1)[1]), sent).startswith(b"HTTP/1.1 408 ")


def test_an_unfinished_body_gets_408_and_other_connections_stay(models: Path) -> None:
    with served(models, body_timeout=0.3) as url, connected(int(url.rsplit(":", 1)[1])) as other:
        port = int(url.rsplit(":", 1)[1])
        other.sendall(post("/forecast", BODY).encode())
        assert other.recv(2**20).startswith(b"HTTP/1.1 200 ")
        assert answers(port, post("/forecast", BODY)[:-5]).startswith(b"HTTP/1.1 408 ")
        other.sendall(post("/forecast", BODY).encode())
        assert other.recv(2**20).startswith(b"HTTP/1.1 200 ")


def test_one_connection_too_many_gets_503(models: Path) -> None:
    with served(models, max_connections=3) as url:
        port = int(url.rsplit(":", 1)[1])
        held = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(3)]
        for connection in held:  # an answer shows that the connection counts
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
        assert answers(port, b"").startswith(b"HTTP/1.1 503 ")
        held[0].sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b" 200 " in until_closed(held[0])
        assert answers(port, b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")[9:12] == b"200"
        for connection in held:
            connection.close()


def test_an_unread_answer_closes_the_connection(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STUCK_SECONDS", 0.3)
    with served(models) as url:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
        with connection:
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
            poll = select.poll()
            poll.register(connection, select.POLLHUP | select.POLLERR)
            assert poll.poll(60_000)


def test_the_key_is_checked_before_the_body_arrives(port: int) -> None:
    """The service used to receive, decompress and parse 30 MB before the 401."""
    head = "POST /forecast HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 30000000\r\n\r\n"
    with connected(port) as connection:
        connection.sendall(head.encode())
        assert connection.recv(2**16).startswith(b"HTTP/1.1 401 ")


def test_a_length_of_many_digits_is_read_as_a_number(port: int) -> None:
    head = "POST /forecast HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n" + AUTHORIZED
    assert answers(port, f"{head}Content-Length: {'0' * 5000}2\r\n\r\n[]")[9:12] == b"422"
    assert answers(port, f"{head}Content-Length: 9999999999999999\r\n\r\n")[9:12] == b"413"


def test_head_is_get_without_the_body(client: TestClient) -> None:
    paths = [
        path
        for path, operations in client.get("/openapi.json").json()["paths"].items()
        if "get" in operations and "{" not in path
    ]
    assert len(paths) > 5
    for path in [*paths, "/openapi.json", "/docs"]:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        if path != "/metrics":
            assert head.headers["content-length"] == got.headers["content-length"], path


@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("http://testserver", 200), (None, 200), ("null", 403)]
)
def test_a_page_of_another_origin_cannot_reload_the_models(client: TestClient, origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"Origin": origin}
    assert client.post("/models/reload", headers=headers).status_code == status
    assert client.get("/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"requests":[' + b'{"a":{}},' * 200_000 + b"{}]}",
        b'{"series":[' + b"1," * 2_100_000 + b"1]}",
        b'{"series":[' + b"[]," * 400_000 + b"1]}",
    ],
)
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(models: Path, body: bytes) -> None:
    with TestClient(create_app(Settings(models_dir=models))) as client:
        answer = client.post("/forecast", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "limit_exceeded"
    assert "2000000 values" in answer.json()["detail"]


def test_a_large_body_that_is_nearly_json_is_parsed_once(models: Path) -> None:
    """The standard library, which accepts NaN, would make all other requests wait."""
    for count, expected in ((500_000, (400, "malformed_body")), (500, (422, "invalid_request"))):
        body = b'{"series":[' + b"1," * count + b"NaN]}"
        with TestClient(create_app(Settings(models_dir=models))) as client:
            answer = client.post("/forecast", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == expected


async def _unreachable(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("no body is complete")


def test_arriving_bodies_share_a_budget() -> None:
    """Forty clients that each sent most of a body held 1.2 GiB. The budget is eight of the largest bodies."""
    middleware = BodyMiddleware(_unreachable, Settings(max_body_bytes=1024))
    statuses: list[int] = []

    async def caller(over: asyncio.Event) -> None:
        pieces = iter([b" " * 1000])

        async def receive() -> Message:
            if piece := next(pieces, b""):
                return {"type": "http.request", "body": piece, "more_body": True}
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await middleware({"type": "http", "path": "/forecast", "headers": []}, receive, send)

    async def crowd() -> None:
        over = asyncio.Event()
        callers = [asyncio.create_task(caller(over)) for _ in range(40)]
        await asyncio.wait(callers, return_when=asyncio.FIRST_COMPLETED)
        over.set()
        await asyncio.gather(*callers)

    asyncio.run(crowd())
    assert statuses == [503] * 32  # eight bodies fit
    asyncio.run(crowd())  # the budget is free again
    assert statuses == [503] * 64


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_bodies_count_with_their_full_length_until_their_answer(encoding: str) -> None:
    """A hundred bodies of 32 MB each, in 3 kB, used to be in memory at once, and their parsed values, too."""
    body = b" " * 1_000_000
    sent = {"identity": body, "gzip": gzip.compress(body), "zstd": zstandard.compress(body)}[encoding]
    statuses: list[int] = []

    async def crowd() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert (await receive())["body"] == body
            decided.release()
            await over.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        middleware = BodyMiddleware(app, Settings(max_body_bytes=2**20))

        async def caller() -> None:
            pieces = iter([sent])

            async def receive() -> Message:
                if piece := next(pieces, b""):
                    return {"type": "http.request", "body": piece, "more_body": False}
                await asyncio.Event().wait()
                raise AssertionError("no client disconnects")

            async def send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                    decided.release()

            headers = [(b"content-encoding", encoding.encode())]
            await middleware({"type": "http", "path": "/forecast", "headers": headers}, receive, send)

        for _ in range(2):  # the budget is free again for the second crowd
            over, decided = asyncio.Event(), asyncio.Semaphore(0)
            callers = [asyncio.create_task(caller()) for _ in range(40)]
            for _ in callers:
                await decided.acquire()
            over.set()
            await asyncio.gather(*callers)

    asyncio.run(crowd())
    assert statuses == 2 * ([503] * 32 + [200] * 8)
