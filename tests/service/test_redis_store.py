"""Sessions in Redis: restarts, full and read-only servers, scripts, expiry."""

import asyncio
import uuid
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from service.errors import StoreFullError, StoreUnavailableError, TooManySessionsError
from service.sessions.store import LoadResult, Store
from service.sessions.stores import open_store
from tests.redis_server import RedisServer
from tests.stores import LIMITS, NOW, StoreKind, change, client_of, new, record, stored, updated


def test_a_redis_that_was_killed_and_restarted_has_all_it_acknowledged() -> None:
    async def main(server: RedisServer) -> None:
        store = open_store(server.url, LIMITS, 0, lambda: None)
        assert await store.commit(change(new(), b"0", record()), NOW)
        server.kill()
        outcomes = await asyncio.gather(
            store.load("a", "", "key"),
            store.commit(change(updated(new())), NOW),
            store.size(NOW),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * 3
        # A call outlasts a short break.
        waiting = asyncio.create_task(store.commit(change(updated(new()), b"1"), NOW))
        await asyncio.to_thread(server.start)
        assert await waiting
        assert await store.load("a", "", "key") == LoadResult(updated(new()), b"1", record())
        assert await store.earlier_state("a", 0) == b"0"
        await store.close()

    with RedisServer() as server:
        asyncio.run(main(server))


def test_a_full_redis_refuses_only_changes_that_need_room(redis_kind: StoreKind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new("a"), b"0"), NOW)
        assert await store.commit(change(new("b"), b"0"), NOW)
        with client_of(server) as client:
            client.config_set("maxmemory", 1)
            try:
                for refused in (change(new("c"), b"0"), change(updated(new("a")), b"1", record())):
                    with pytest.raises(StoreFullError):
                        await store.commit(refused, NOW)
                assert await store.load("a", "", "key") == LoadResult(new("a"), b"0", None)
                assert await store.versions("a") == []
                assert await store.delete(new("a"), record(), NOW)
                assert await store.sweep(NOW + 100) == 1
                assert await stored(store, "b") == (0, None)
            finally:
                client.config_set("maxmemory", 0)
        assert await store.commit(change(new("c"), b"0"), NOW)

    redis_kind.run(test)


def test_a_read_only_redis_is_reported_as_unavailable(redis_kind: StoreKind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        with client_of(server) as client:
            client.replicaof("localhost", 1)
            try:
                with pytest.raises(StoreUnavailableError):
                    await store.commit(change(updated(new())), NOW)
                assert await stored(store) == (0, b"0")
            finally:
                client.replicaof("NO", "ONE")

    redis_kind.run(test)


def test_redis_gets_its_scripts_again_after_it_lost_them(redis_kind: StoreKind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        with client_of(server) as client:
            client.script_flush()
        assert await store.commit(change(updated(new()), b"1"), NOW)

    redis_kind.run(test)


def test_changes_sent_together_succeed_or_fail_alone(redis_kind: StoreKind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        first = [await store.commit(change(new(id), b"0"), NOW) for id in "abc"]
        with client_of(server) as client:
            client.script_flush()
        limited = new("e", "owner")
        outcomes = await asyncio.gather(
            store.commit(change(updated(new("a")), b"1"), NOW),
            store.commit(change(updated(updated(new("b"))), b"2"), NOW),  # not the next version
            store.commit(change(limited), NOW),
            store.commit(change(replace(limited, id="f")), NOW),  # over the limit
            store.commit(change(updated(new("c")), b"1"), NOW),
            return_exceptions=True,
        )
        assert first == [True] * 3
        assert list(outcomes[:3]) == [True, False, True]
        assert isinstance(outcomes[3], TooManySessionsError)
        assert outcomes[4] is True
        assert [await stored(store, id) for id in "abc"] == [(1, b"1"), (0, b"0"), (1, b"1")]

    redis_kind.run(test, replace(LIMITS, sessions_per_owner=1))


def test_a_deletion_that_is_sent_twice_succeeds_twice_and_is_made_once(
    redis_kind: StoreKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        # The client does this when a connection breaks before the answer.
        sent = uuid.uuid4()
        with monkeypatch.context() as patched:
            patched.setattr("service.sessions.redis.uuid.uuid4", lambda: sent)
            assert await store.delete(new(), record(), NOW)
            assert await store.delete(new(), record(), NOW)
        assert not await store.delete(new(), None, NOW)

    redis_kind.run(test)


def test_redis_expires_keys_that_nobody_sweeps_and_none_sooner(redis_kind: StoreKind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0", record()), NOW)
        assert await store.commit(change(updated(new(), NOW + 50)), NOW + 50)
        await store.touch("a", NOW + 777)
        with client_of(server) as client:
            for key in ("session", "history"):
                assert client.pexpiretime(f"carry:{key}:a") == pytest.approx((NOW + 1777) * 1000, abs=1)
            assert client.pexpiretime("carry:receipt:\nkey") == pytest.approx((NOW + 50) * 1000, abs=1)
            # A session that Redis removed counts as expired and leaves nothing behind.
            client.delete("carry:session:a", "carry:history:a", "carry:receipt:\nkey")
            assert await store.list("", "", 10, NOW) == []
            assert await store.sweep(NOW + 2000) == 1
            assert client.keys("*") == []

    redis_kind.run(test)


@pytest.mark.parametrize(("policy", "warnings"), [("noeviction", 0), ("allkeys-lru", 1)])
def test_a_redis_that_may_drop_sessions_causes_a_warning(
    redis_kind: StoreKind, server: RedisServer, policy: str, warnings: int
) -> None:
    async def test(store: Store) -> None:
        with capture_logs() as logs:
            await store.secret()
            await store.secret()
        assert len(logs) == warnings

    with client_of(server) as client:
        client.config_set("maxmemory-policy", policy)
        redis_kind.run(test)
        client.config_set("maxmemory-policy", "noeviction")
