"""Stores of every kind to test, and sessions, changes and records to store in them."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import redis

from service.sessions.store import Change, IdempotencyRecord, Limits, Session, Store
from service.sessions.stores import SYNCED, open_store
from tests.redis_server import RedisServer

LIMITS = Limits(sessions=1000, sessions_per_owner=100, bytes_per_owner=2**20, versions=3, tombstone_ttl=1000.0)
NOW = time.time() + 3600
"""Ahead of the clock of Redis, so that its own expiry removes nothing in a test."""

Test = Callable[[Store], Awaitable[None]]


class StoreKind:
    """One kind of store. `server`: the Redis server, if the store is Redis. `shared`: several processes can open it."""

    def __init__(self, name: str, folder: Path, server: RedisServer | None = None) -> None:
        self.evicted = 0
        self.server = server
        self.shared = name != "memory"
        self._folder = folder
        self._name = name
        self.reset()

    def reset(self) -> None:
        """Make the next store that is opened an empty one."""
        self.url = "memory://"
        if self._name in ("sqlite", "synced"):
            option = f"?{SYNCED}" if self._name == "synced" else ""
            self.url = f"sqlite:///{self._folder}/{uuid.uuid4().hex}.db{option}"
        if self.server:
            self.url = self.server.url
            with client_of(self.server) as client:
                client.flushall()

    def open(self, limits: Limits = LIMITS) -> Store:
        return open_store(self.url, limits, 2**30, self._evict)

    def _evict(self) -> None:
        self.evicted += 1

    def run(self, test: Test, limits: Limits = LIMITS) -> None:
        """Run a test on an empty store."""
        self.reset()
        self.resume(test, limits)

    def resume(self, test: Test, limits: Limits = LIMITS) -> None:
        """Run a test on the store that the last test left."""

        async def main() -> None:
            store = self.open(limits)
            try:
                await test(store)
            finally:
                await store.close()

        asyncio.run(main())


def client_of(server: RedisServer) -> "redis.Redis":
    return redis.Redis.from_url(server.url)


def new(id: str = "a", owner: str = "", ttl: float = 100.0, now: float = NOW) -> Session:
    return Session(id, owner, "text", 1, "0" * 64, 0, 0, now, now, now + ttl, ttl)


def updated(session: Session, now: float = NOW) -> Session:
    return replace(
        session,
        version=session.version + 1,
        position=session.position + 7,
        updated_at=now,
        expires_at=now + session.ttl,
    )


def change(session: Session, state: bytes = b"state\n\x00\xff", record: IdempotencyRecord | None = None) -> Change:
    return Change(uuid.uuid4().hex, session, state, record)


def record(key: str = "key", owner: str = "", ttl: float = 50.0, answer: bytes = b"{}\n\x00\xff") -> IdempotencyRecord:
    return IdempotencyRecord(owner, key, "fingerprint", answer, NOW + ttl)


async def stored(store: Store, id: str = "a") -> tuple[int, bytes | None] | None:
    """The version and the state of a session."""
    loaded = await store.load(id, "", None)
    return (loaded.session.version, loaded.state) if loaded.session else None


async def count_up(store: Store, times: int) -> None:
    """Add 1 so many times, each time to what other callers left."""
    for _ in range(times):
        committed = False
        while not committed:
            loaded = await store.load("a", "", None)
            assert loaded.session is not None
            assert loaded.state is not None
            committed = await store.commit(change(updated(loaded.session), b"%d" % (int(loaded.state) + 1)), NOW)
