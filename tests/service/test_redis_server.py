"""A Redis server that is misconfigured, away, silent, or replaced by another one."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.errors import StoreUnavailableError
from service.sessions import redis as redis_store
from service.sessions.redis import RedisStore
from service.sessions.store import StoreError
from tests.redis_server import RedisServer, free_port
from tests.stores import LIMITS, NOW, change, client_of, new, stored, updated


async def verify(url: str) -> None:
    store = RedisStore(url, LIMITS)
    try:
        await store.verify()
    finally:
        await store.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:  # Valkey as a Python package has no TLS
        yield running


@pytest.fixture(scope="module")
def second() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def port(server: RedisServer) -> Iterator[int]:
    """A TCP port of the server."""
    with client_of(server) as client:
        port = free_port()
        client.config_set("port", port)
        yield port
        client.config_set("port", 0)


def test_a_correctly_configured_server_causes_no_log_line(server: RedisServer) -> None:
    with capture_logs() as logs:
        asyncio.run(verify(server.url))
    assert logs == []


def test_a_wrong_or_missing_password_is_refused(server: RedisServer, port: int) -> None:
    with client_of(server) as client:
        client.config_set("requirepass", "right")
        client.auth("right")
        try:
            asyncio.run(verify(f"redis://:right@127.0.0.1:{port}/0"))
            for user in ("", ":wrong@"):
                with pytest.raises(StoreError, match="refuses commands"):
                    asyncio.run(verify(f"redis://{user}127.0.0.1:{port}/0"))
        finally:
            client.config_set("requirepass", "")


def test_a_missing_database_is_refused(server: RedisServer, port: int) -> None:
    with pytest.raises(StoreError, match="out of range"):
        asyncio.run(verify(f"redis://127.0.0.1:{port}/99"))


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/abc", "rediss://127.0.0.1:1/0/1", "unix:///socket?db=abc"])
def test_a_database_that_is_no_number_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"number of a database|db"):
        asyncio.run(verify(url))


def test_tls_to_a_server_without_it_is_refused(server: RedisServer, port: int) -> None:
    with pytest.raises(StoreError, match=r"TLS|redis://"):
        asyncio.run(verify(f"rediss://127.0.0.1:{port}/0"))


def test_a_server_that_wants_tls_is_refused_without_it(server: RedisServer, port: int, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes a certificate with openssl")
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    options = ["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([openssl, *options, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with client_of(server) as client:
        client.config_set("port", 0)
        client.config_set("tls-key-file", str(key), "tls-cert-file", str(certificate), "tls-auth-clients", "no")
        client.config_set("tls-port", port)
        try:
            with pytest.raises(StoreError, match="rediss://"):
                asyncio.run(verify(f"redis://127.0.0.1:{port}/0"))
            with pytest.raises(StoreError, match="certificate"):
                asyncio.run(verify(f"rediss://127.0.0.1:{port}/0"))
            asyncio.run(verify(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none"))
        finally:
            client.config_set("tls-port", 0)


def test_a_server_that_is_away_causes_a_warning_and_is_used_once_it_is_there(tmp_path: Path) -> None:
    async def main(server: RedisServer) -> None:
        server.kill()
        with capture_logs() as logs:
            await verify(server.url)
            await verify("redis://no-such-host.invalid:6379/0")
        assert [line["log_level"] for line in logs] == ["warning"] * 2
        store = RedisStore(server.url, LIMITS)
        with pytest.raises(StoreUnavailableError):
            await store.ping()
        await asyncio.to_thread(server.start)
        await store.ping()
        await store.close()

    with RedisServer() as server:
        asyncio.run(main(server))


class Name:
    """A name that leads to one server, and later to another: a link to a socket."""

    def __init__(self, folder: Path) -> None:
        self._link = folder / "name"
        self.url = f"unix://{self._link}"

    def lead_to(self, server: RedisServer) -> None:
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(server.url.removeprefix("unix://"))


async def open_connections(store: RedisStore) -> None:
    """Open some connections, which are idle afterwards."""
    await asyncio.gather(*(store.load(str(n), "", None) for n in range(10)))


def test_after_a_failover_calls_use_the_new_master(server: RedisServer, second: RedisServer, tmp_path: Path) -> None:
    async def main() -> None:
        name = Name(tmp_path)
        name.lead_to(server)
        store = RedisStore(name.url, LIMITS)
        assert await store.commit(change(new(), b"old"), NOW)
        await open_connections(store)
        with client_of(server) as former:
            former.replicaof("localhost", 1)
            try:
                name.lead_to(second)
                commits = [store.commit(change(new(str(n)), b"new"), NOW) for n in range(20)]
                assert all(await asyncio.gather(*commits))
                # No read goes to the former master.
                assert {await stored(store) for _ in range(20)} == {None}
                assert await store.commit(change(updated(new("1")), b"newer"), NOW)
                await store.ping()
            finally:
                former.replicaof("NO", "ONE")
        await store.close()

    for each in (server, second):
        with client_of(each) as client:
            client.flushall()
    asyncio.run(main())


def test_a_server_that_falls_silent_costs_one_slow_call(
    server: RedisServer, second: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        name = Name(tmp_path)
        name.lead_to(server)
        store = RedisStore(name.url, LIMITS)
        await open_connections(store)
        os.kill(server.pid, signal.SIGSTOP)  # as behind a firewall that has forgotten the connections
        try:
            name.lead_to(second)
            with capture_logs() as logs:
                for n in range(10):
                    assert await store.commit(change(new(str(n)), b"0"), NOW)
            assert len(logs) == 1
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await store.close()

    monkeypatch.setattr(redis_store, "SOCKET_TIMEOUT", 0.5)
    with client_of(second) as client:
        client.flushall()
    asyncio.run(main())
