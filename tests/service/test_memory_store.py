"""Sessions in memory: evictions, and the count of bytes."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import StoreFullError
from service.sessions.memory import MemoryStore
from service.sessions.store import ROW_BYTES, LoadResult, Store
from tests.stores import LIMITS, NOW, StoreKind, change, new, record, updated


def test_a_full_memory_drops_the_least_recently_updated_session(tmp_path: Path) -> None:
    kind = StoreKind("memory", tmp_path)

    async def test(store: Store) -> None:
        for id in "abc":
            assert await store.commit(change(new(id), b"0"), NOW)
        assert await store.commit(change(updated(new("a")), b"1"), NOW + 1)
        assert await store.commit(change(new("d"), b"0"), NOW + 2)
        # It leaves a tombstone, as an expired session does.
        assert await store.load("b", "", None) == LoadResult(replace(new("b"), expires_at=NOW + 2), None, None)
        assert [session.id for session in await store.list("", "", 10, NOW + 2)] == ["a", "c", "d"]
        assert await store.sweep(NOW + 2) == 0
        assert kind.evicted == 1

    kind.run(test, replace(LIMITS, sessions=3))


def test_memory_counts_its_bytes(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        session = new()
        for _ in range(10):
            assert await store.commit(change(session, b"x" * 100), NOW)
            session = updated(session)
        assert await store.commit(change(new("b"), b"x" * 100, record(answer=b"x" * 10)), NOW)
        assert (await store.size(NOW)).bytes == 100 * (LIMITS.versions + 2) + 13 + ROW_BYTES * (LIMITS.versions + 3)
        await store.sweep(NOW + 100)
        assert (await store.size(NOW)).bytes == 0

    StoreKind("memory", tmp_path).run(test)


def test_memory_never_holds_more_bytes_than_its_limit() -> None:
    async def main() -> None:
        evicted = 0

        def evict() -> None:
            nonlocal evicted
            evicted += 1

        store = MemoryStore(LIMITS, 20_000, evict)
        for n in range(10):
            assert await store.commit(change(new(f"{n}"), b"x" * 3000), NOW)
            assert (await store.size(NOW)).bytes <= 20_000
        assert evicted == 4
        # Records are never dropped, and leave half of the room to sessions.
        with pytest.raises(StoreFullError):  # noqa: PT012
            for n in range(10):
                assert await store.commit(change(new(f"k{n}"), b"x", record(f"{n}", answer=b"x" * 3000)), NOW)
        assert (await store.load("", "", "2")).record is not None
        assert await store.commit(change(new("after"), b"x" * 3000), NOW)
        assert (await store.size(NOW)).bytes <= 20_000
        with pytest.raises(StoreFullError):
            await store.commit(change(new("large"), b"x" * 30_000), NOW)
        assert (await store.load("after", "", None)).state is not None

    asyncio.run(main())
