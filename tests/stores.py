"""Stores to test, of every kind, and what to keep in them."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import redis

from service.sessions.store import Change, Limits, Receipt, Session, Store
from service.sessions.stores import SYNCED, open_store
from tests.redis_server import RedisServer

LIMITS = Limits(sessions=1000, sessions_per_owner=100, bytes_per_owner=2**20, versions=3, remembered=1000.0)
NOW = time.time() + 3600
"""Ahead of the clock of Redis, so that its own expiry does nothing here."""

Test = Callable[[Store], Awaitable[None]]


class Kind:
    """One kind of store. `server`: of redis."""

    def __init__(self, name: str, folder: Path, server: RedisServer | None = None) -> None:
        self.evicted = 0
        self.server = server
        self.shared = name != "memory"
        self._folder = folder
        self._name = name
        self.reset()

    def reset(self) -> None:
        """Let the next store that is opened be empty."""
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
        """On an empty store."""
        self.reset()
        self.resume(test, limits)

    def resume(self, test: Test, limits: Limits = LIMITS) -> None:
        """On what the test before has left."""

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


def moved(session: Session, now: float = NOW) -> Session:
    return replace(
        session,
        version=session.version + 1,
        position=session.position + 7,
        updated_at=now,
        expires_at=now + session.ttl,
    )


def change(session: Session, state: bytes = b"state\n\x00\xff", receipt: Receipt | None = None) -> Change:
    return Change(uuid.uuid4().hex, session, state, receipt)


def receipt(key: str = "key", owner: str = "", ttl: float = 50.0, answer: bytes = b"{}\n\x00\xff") -> Receipt:
    return Receipt(owner, key, "fingerprint", answer, NOW + ttl)


async def seen(store: Store, id: str = "a") -> tuple[int, bytes | None] | None:
    found = await store.load(id, "", None)
    return (found.session.version, found.state) if found.session else None
