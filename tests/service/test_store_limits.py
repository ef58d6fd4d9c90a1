"""One owner's sessions and kept answers leave room for others', in every store."""

import asyncio
import contextlib
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import LimitExceededError, OwnerStoreFullError, StoreFullError, TooManySessionsError
from service.sessions import receipts
from service.sessions.memory import MemoryStore
from service.sessions.store import Receipt, Session, Store
from tests.stores import LIMITS, NOW, Kind, change, moved, new, receipt

SMALL = replace(LIMITS, bytes_per_owner=10_000)


def test_an_owner_has_as_many_bytes_as_one_may_have_and_others_go_on(kind: Kind) -> None:
    async def test(store: Store) -> None:
        mine = new("mine", "me")
        assert await store.commit(change(mine, b"x" * 1000), NOW)
        kept = 0
        with pytest.raises(OwnerStoreFullError):  # noqa: PT012
            while True:
                answer = receipt(str(kept), "me", answer=b"x" * 1000)
                assert await store.commit(change(moved(mine), b"x" * 1000, answer), NOW)
                mine = moved(mine)
                kept += 1
        assert 2 < kept < 10
        assert (await store.load("mine", "me", str(kept))).receipt is None
        found = await store.load("mine", "", None)
        assert found.session == mine
        # Others go on, and so do calls that need no more room, and deletions.
        assert await store.commit(change(new("yours", "you"), b"x" * 1000, receipt(owner="you")), NOW)
        assert await store.commit(change(new("nobodys"), b"x" * 20_000, receipt()), NOW)
        assert await store.commit(change(moved(mine), b"x" * 1000), NOW)
        assert await store.delete(moved(mine), None, NOW)
        assert await store.commit(change(new("another", "me"), b"x" * 1000), NOW)

    kind.run(test, SMALL)


def test_what_expires_counts_no_more(kind: Kind) -> None:
    async def test(store: Store) -> None:
        for round in range(4):
            now = NOW + 1000 * round
            session = new(f"{round}", "me", now=now)
            answer = replace(receipt("key", "me", answer=b"x" * 3000), expires_at=now + 50)
            assert await store.commit(change(session, b"x" * 3000, answer), now)
            assert await store.commit(change(moved(session, now), b"x" * 1000), now)
            await store.sweep(now + 500)

    kind.run(test, SMALL)


def test_a_receipt_in_place_of_an_expired_one_counts_once(kind: Kind) -> None:
    async def test(store: Store) -> None:
        session = new("a", "me", ttl=10_000)
        assert await store.commit(change(session, b"0"), NOW)
        for n in range(20):
            now = NOW + 100 * n
            answer = replace(receipt("key", "me", answer=b"x" * 2000), expires_at=now + 50)
            assert await store.commit(change(moved(session, now), b"0", answer), now)
            session = moved(session, now)

    kind.run(test, SMALL)


states = st.integers(0, 400)
steps = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(("move", "delete", "keyed", "sweep")), states))


@given(steps)
def test_an_owner_who_has_nothing_left_has_all_of_the_room(kind: Kind, steps: list[tuple[str, str, int]]) -> None:
    """However it was used: what is counted is taken back to the byte."""

    async def test(store: Store) -> None:
        there: dict[str, Session] = {}
        now = NOW
        for number, (id, step, size) in enumerate(steps):
            if step == "sweep":
                now += 60
                await store.sweep(now)
                there = {id: session for id, session in there.items() if session.expires_at > now}
                continue
            session = there.get(id)
            if step == "delete":
                if session is not None:
                    assert await store.delete(session, None, now)
                    del there[id]
                continue
            unused = f"{id}{number}"
            following = new(unused, "me", now=now) if session is None else moved(session, now)
            answer = Receipt("me", str(number % 3), "", os.urandom(size), now + 50) if step == "keyed" else None
            if await store.commit(change(following, os.urandom(size), answer), now):
                there[id] = following
        now += 5000
        await store.sweep(now)
        whole = change(new("whole", "me", now=now), b"x" * (20_000 - 256))
        assert await store.commit(whole, now)
        with pytest.raises(OwnerStoreFullError):
            await store.commit(change(new("more", "me", now=now), b""), now)

    kind.run(test, replace(LIMITS, bytes_per_owner=20_000))


def test_of_an_owners_expired_sessions_as_many_are_remembered_as_may_live(kind: Kind) -> None:
    async def test(store: Store) -> None:
        for n in range(9):
            now = NOW + n
            assert await store.commit(change(new(f"{n}", "me", ttl=0.5, now=now), b"0"), now)
            await store.sweep(now + 0.75)
        assert await store.commit(change(new("yours", "you", ttl=1), b"0"), NOW)
        await store.sweep(NOW + 10)
        remembered = [n for n in range(9) if (await store.load(f"{n}", "", None)).session is not None]
        assert remembered == [6, 7, 8]
        assert (await store.load("yours", "", None)).session is not None
        await store.sweep(NOW + 5000)
        assert (await store.load("8", "", None)).session is None

    kind.run(test, replace(LIMITS, sessions_per_owner=3))


def test_sessions_that_end_at_once_are_limited_before_they_are_swept(kind: Kind) -> None:
    async def test(store: Store) -> None:
        made = 0
        for n in range(30):
            now = NOW + 2 * n
            with contextlib.suppress(TooManySessionsError):
                made += await store.commit(change(new(f"{n}", "me", ttl=1, now=now), b"0"), now)
        assert kind.url == "memory://" or made == 6
        await store.sweep(NOW + 100)
        assert await store.commit(change(new("new", "me", now=NOW + 100), b"0"), NOW + 100)

    kind.run(test, replace(LIMITS, sessions_per_owner=3))


def test_memory_holds_as_many_bytes_as_it_may() -> None:
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
        # Answers are not dropped, and leave half of the room to sessions.
        with pytest.raises(StoreFullError):  # noqa: PT012
            for n in range(10):
                assert await store.commit(change(new(f"k{n}"), b"x", receipt(f"{n}", answer=b"x" * 3000)), NOW)
        assert (await store.load("", "", "2")).receipt is not None
        assert await store.commit(change(new("after"), b"x" * 3000), NOW)
        assert (await store.size(NOW)).bytes <= 20_000
        with pytest.raises(StoreFullError):
            await store.commit(change(new("large"), b"x" * 30_000), NOW)
        assert (await store.load("after", "", None)).state is not None

    asyncio.run(main())


def test_an_answer_that_is_too_large_to_be_kept_is_refused() -> None:
    with pytest.raises(LimitExceededError, match="too large to be kept"):
        asyncio.run(receipts.pack(os.urandom(receipts.MAX_BYTES + 2**16)))
