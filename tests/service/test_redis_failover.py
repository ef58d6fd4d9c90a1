"""A Redis that is reached through Sentinels, by TLS, or through a firewall; and what calls do when its master dies."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import redis
from redis.asyncio import SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from structlog.testing import capture_logs

from service.errors import StoreUnavailableError
from service.sessions import redis as redis_store
from service.sessions.redis import RedisStore
from service.sessions.redis_url import open_pool
from service.sessions.store import Store, StoreError
from tests.redis_server import PROGRAMS, RedisServer, SentinelServer, free_port
from tests.service.test_proxies import write_certificate
from tests.stores import LIMITS, NOW, change, new, stored, updated

T = TypeVar("T")
SECONDS = 60
"""After which a test gives up."""


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline


def has_role(server: RedisServer, role: str) -> bool:
    with redis.Redis.from_url(server.url) as client, suppress(redis.ConnectionError):  # it closes all when demoted
        return bool(client.info("replication")["role"] == role)
    return False


@contextmanager
def replicated(program: str) -> Iterator[tuple[RedisServer, RedisServer, SentinelServer]]:
    """A master, its replica, and a Sentinel that knows both."""
    with ExitStack() as exits:
        ports = [free_port() for _ in range(3)]
        options = "--repl-diskless-sync-delay 0 --repl-ping-replica-period 1"
        master = exits.enter_context(RedisServer(program, f"--port {ports[0]} {options}"))
        replica_options = f"--port {ports[1]} --replicaof 127.0.0.1 {ports[0]} {options}"
        replica = exits.enter_context(RedisServer(program, replica_options))
        client = exits.enter_context(redis.Redis.from_url(replica.url))
        wait_for(lambda: client.info("replication")["master_link_status"] == "up")
        sentinel = SentinelServer(program, ports[2], ports[0])
        exits.enter_context(sentinel)
        watcher = exits.enter_context(redis.Redis(port=sentinel.port))
        # Not the usual seconds, until it demotes a former master.
        watcher.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", "300", "PUBLISH-PERIOD", "100")
        wait_for(lambda: [each for each in watcher.sentinel_slaves("carry") if each["master-link-status"] == "ok"])
        yield master, replica, sentinel


async def within_deadline(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call while the store is unavailable: its result."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with suppress(StoreUnavailableError):
            return await call()
    pytest.fail("the store did not come back")


@pytest.mark.parametrize("program", PROGRAMS)
def test_calls_go_on_at_the_new_master_after_sentinels_replaced_a_dead_one(program: str) -> None:
    async def main() -> None:
        store = RedisStore(sentinel.url, LIMITS)
        await store.verify()
        assert await store.commit(change(new("a"), b"0"), NOW)
        with redis.Redis.from_url(replica.url) as client:
            wait_for(lambda: client.exists("carry:session:a"))
        master.kill()
        changes = [change(new(str(n)), b"1") for n in range(20)]
        assert all(await asyncio.gather(*(within_deadline(partial(store.commit, each, NOW)) for each in changes)))
        assert await stored(store, "a") == (0, b"0")
        assert await store.commit(change(updated(new("a")), b"1"), NOW)
        assert has_role(replica, "master")
        with redis.Redis.from_url(replica.url) as client:
            assert client.zcard("carry:live") == 21
        await store.close()

    with replicated(program) as (master, replica, sentinel):
        asyncio.run(main())


def test_calls_that_meet_a_demoted_master_are_done_once_at_the_new_one() -> None:
    """Twenty callers count their sessions up, while the Sentinel is told to replace the master."""

    async def count(store: Store, id: str, switched: asyncio.Event) -> None:
        calls = 0
        while calls < 3:
            loaded = await within_deadline(partial(store.load, id, "", None))
            session = new(id) if loaded.session is None else updated(loaded.session)
            value = int(loaded.state or b"-1") + 1
            assert value == session.version  # no call counted twice
            if not await within_deadline(partial(store.commit, change(session, b"%d" % value), NOW)):
                # The former master took the last changes that it acknowledged with it.
                loaded = await within_deadline(partial(store.load, id, "", None))
                assert loaded.session is None or loaded.session.version < session.version
            calls += switched.is_set()

    async def main() -> None:
        store = RedisStore(sentinel.url, LIMITS)
        switched = asyncio.Event()
        counting = [asyncio.create_task(count(store, str(n), switched)) for n in range(20)]
        with redis.Redis(port=sentinel.port) as watcher:
            await asyncio.to_thread(watcher.execute_command, "SENTINEL", "FAILOVER", "carry")
        for server, role in ((replica, "master"), (master, "slave")):
            await asyncio.to_thread(wait_for, partial(has_role, server, role))
        switched.set()
        await asyncio.gather(*counting)
        with redis.Redis.from_url(replica.url) as client:
            assert client.zcard("carry:live") == 20
        await store.close()

    with replicated("redis-server") as (master, replica, sentinel):
        asyncio.run(main())


def test_tls_needs_a_certificate_that_the_url_trusts(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "redis")
    port = free_port()

    async def verify(options: str) -> None:
        store = RedisStore(f"rediss://127.0.0.1:{port}/0?{options}", LIMITS)
        try:
            await store.verify()
            assert await store.commit(change(new(), b"0"), NOW)
        finally:
            await store.close()

    files = f"--tls-key-file {key} --tls-cert-file {certificate} --tls-ca-cert-file {certificate}"
    with RedisServer(options=f"--tls-port {port} --tls-auth-clients yes {files}"):
        trusted = f"ssl_ca_certs={certificate}"
        asyncio.run(verify(f"{trusted}&ssl_certfile={certificate}&ssl_keyfile={key}"))
        with pytest.raises(StoreError, match=r"TLS.*certificate verify failed"):
            asyncio.run(verify(""))
        # The server wants a certificate of the client. In TLS 1.3 its refusal may come after the first answer.
        with pytest.raises((StoreError, StoreUnavailableError)):
            asyncio.run(verify(trusted))


def test_sentinels_and_their_master_are_reached_by_tls(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "redis")
    port, sentinel_port = free_port(), free_port()
    files = {"tls-key-file": key, "tls-cert-file": certificate, "tls-ca-cert-file": certificate}
    options = " ".join(f"--{name} {file}" for name, file in files.items())
    lines = "\n".join(f"{name} {file}" for name, file in files.items())
    lines += f"\nport 0\ntls-port {sentinel_port}\ntls-replication yes\ntls-auth-clients no"

    async def main() -> None:
        store = RedisStore(f"rediss+sentinel://127.0.0.1:{sentinel_port}/carry?ssl_ca_certs={certificate}", LIMITS)
        await store.verify()
        assert await store.commit(change(new(), b"0"), NOW)
        assert await stored(store) == (0, b"0")
        await store.close()

    with (
        RedisServer(options=f"--tls-port {port} --tls-auth-clients no {options}"),
        SentinelServer("redis-server", sentinel_port, port, lines),
    ):
        asyncio.run(main())


def test_a_url_of_sentinels_names_them_their_master_and_its_database() -> None:
    url = "rediss+sentinel://me:pass%3Aword@one,two:9,[::1]:8/main/3?sentinel_password=other&ssl_cert_reqs=none"
    pool = open_pool(url, socket_timeout=1.5)
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    assert issubclass(pool.connection_class, SSLConnection)
    expected = {"username": "me", "password": "pass:word", "db": 3, "ssl_cert_reqs": "none", "socket_timeout": 1.5}
    assert expected.items() <= pool.connection_kwargs.items()
    sentinels = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
    addresses = [(each.connection_kwargs["host"], each.connection_kwargs["port"]) for each in sentinels]
    assert addresses == [("one", 26379), ("two", 9), ("::1", 8)]
    for each in sentinels:
        assert issubclass(each.connection_class, SSLConnection)
        of_sentinel = {"password": "other", "ssl_cert_reqs": "none", "socket_timeout": 1.5}
        assert of_sentinel.items() <= each.connection_kwargs.items()
        assert each.connection_kwargs.get("username") is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://host:1", "name Sentinels and their master"),
        ("redis+sentinel:///main/0", "name Sentinels and their master"),
        ("redis+sentinel://host:1/main/first", "number of a database"),
        ("redis+sentinel://host:1,/main/0", "address of a Sentinel"),
        ("redis+sentinel://host:abc/main/0", "Port"),
    ],
)
def test_a_url_without_sentinels_or_master_is_refused(url: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        RedisStore(url, LIMITS)


def test_sentinels_that_are_away_or_do_not_know_the_master_cost_no_call_more_than_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_store, "_TIMEOUT", 2.0)

    async def main(url: str) -> str:
        store = RedisStore(url, LIMITS)
        with capture_logs() as logs:
            await store.verify()
            with pytest.raises(StoreUnavailableError):
                await store.ping()
        await store.close()
        return str(logs[0]["reason"])

    assert "No master found" in asyncio.run(main("redis+sentinel://127.0.0.1:1,127.0.0.1:2/carry"))
    port = free_port()
    with RedisServer(options=f"--port {port}") as server, SentinelServer(server.program, free_port(), port) as sentinel:
        assert "No master found" in asyncio.run(main(sentinel.url.replace("/carry/", "/other/")))


class Firewall:
    """Forwards connections to a port, until it forgets them: then it drops what comes on them, and says nothing."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[asyncio.StreamWriter] = []
        self._forgotten: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def forget(self) -> None:
        self._forgotten += self._open
        self._open.clear()

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in (*self._open, *self._forgotten):
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._open += [writer, server_writer]
        for source, target in ((reader, server_writer), (server_reader, writer)):
            self._tasks.add(asyncio.create_task(self._forward(source, target)))

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(2**16):
            if target in self._open:
                target.write(data)


def test_connections_that_a_firewall_forgot_cost_one_slow_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(port: int) -> None:
        firewall = Firewall(port)
        store = RedisStore(f"redis://127.0.0.1:{await firewall.start()}/0", LIMITS)
        await asyncio.gather(*(store.load(str(n), "", None) for n in range(10)))
        before = firewall.connections
        assert before > 1
        firewall.forget()
        with capture_logs() as logs:
            for n in range(10):
                assert await store.commit(change(new(str(n)), b"0"), NOW)
        assert [line["event"] for line in logs] == ["connections to the session store are opened anew"]
        assert firewall.connections == before + 1
        await store.close()
        await firewall.stop()

    monkeypatch.setattr(redis_store, "SOCKET_TIMEOUT", 0.5)
    port = free_port()
    with RedisServer(options=f"--port {port}"):
        asyncio.run(main(port))


def test_idle_connections_are_probed_so_that_a_firewall_remembers_them() -> None:
    for url in ("redis://host/0", "rediss://host/0", "redis+sentinel://host/main/0"):
        connection = open_pool(url).make_connection()  # type: ignore[no-untyped-call]  # theirs
        assert connection.socket_keepalive
        assert connection.socket_keepalive_options[socket.TCP_KEEPIDLE] <= 60
