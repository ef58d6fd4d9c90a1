"""In every store, one owner's sessions and stored answers leave room for other owners."""

import asyncio
import contextlib
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import LimitExceededError, OwnerStoreFullError, TooManySessionsError
from service.keys_file import KeyLimits
from service.sessions import answers
from service.sessions.store import IdempotencyRecord, Session, Store
from tests.stores import LIMITS, NOW, StoreKind, change, new, record, updated

SMALL = replace(LIMITS, bytes_per_owner=10_000)


def test_the_limit_of_bytes_per_owner_stops_only_that_owner(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        mine = new("mine", "me")
        assert await store.commit(change(mine, b"x" * 1000), NOW)
        commits = 0
        with pytest.raises(OwnerStoreFullError):  # noqa: PT012
            while True:
                new_record = record(str(commits), "me", answer=b"x" * 1000)
                assert await store.commit(change(updated(mine), b"x" * 1000, new_record), NOW)
                mine = updated(mine)
                commits += 1
        assert 2 < commits < 10
        assert (await store.load("mine", "me", str(commits))).record is None
        assert (await store.load("mine", "", None)).session == mine
        # Other owners' calls succeed, and so do calls that need no more room, and deletions.
        assert await store.commit(change(new("yours", "you"), b"x" * 1000, record(owner="you")), NOW)
        assert await store.commit(change(new("nobodys"), b"x" * 20_000, record()), NOW)
        assert await store.commit(change(updated(mine), b"x" * 1000), NOW)
        assert await store.delete(updated(mine), None, NOW)
        assert await store.commit(change(new("another", "me"), b"x" * 1000), NOW)

    kind.run(test, SMALL)


def test_expired_sessions_and_records_are_not_charged(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        for round in range(4):
            now = NOW + 1000 * round
            session = new(f"{round}", "me", now=now)
            new_record = replace(record("key", "me", answer=b"x" * 3000), expires_at=now + 50)
            assert await store.commit(change(session, b"x" * 3000, new_record), now)
            assert await store.commit(change(updated(session, now), b"x" * 1000), now)
            await store.sweep(now + 500)

    kind.run(test, SMALL)


def test_a_record_that_replaces_an_expired_one_is_charged_once(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        session = new("a", "me", ttl=10_000)
        assert await store.commit(change(session, b"0"), NOW)
        for n in range(20):
            now = NOW + 100 * n
            new_record = replace(record("key", "me", answer=b"x" * 2000), expires_at=now + 50)
            assert await store.commit(change(updated(session, now), b"0", new_record), now)
            session = updated(session, now)

    kind.run(test, SMALL)


states = st.integers(0, 400)
steps = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(("move", "delete", "keyed", "sweep")), states))


@given(steps)
def test_an_owner_without_sessions_has_all_of_the_room(kind: StoreKind, steps: list[tuple[str, str, int]]) -> None:
    """After any use: every charge is taken back to the byte."""

    async def test(store: Store) -> None:
        live: dict[str, Session] = {}
        now = NOW
        for number, (id, step, size) in enumerate(steps):
            if step == "sweep":
                now += 60
                await store.sweep(now)
                live = {id: session for id, session in live.items() if session.expires_at > now}
                continue
            session = live.get(id)
            if step == "delete":
                if session is not None:
                    assert await store.delete(session, None, now)
                    del live[id]
                continue
            unused = f"{id}{number}"
            following = new(unused, "me", now=now) if session is None else updated(session, now)
            new_record = (
                IdempotencyRecord("me", str(number % 3), "", os.urandom(size), now + 50) if step == "keyed" else None
            )
            if await store.commit(change(following, os.urandom(size), new_record), now):
                live[id] = following
        now += 5000
        await store.sweep(now)
        whole = change(new("whole", "me", now=now), b"x" * (20_000 - 256))
        assert await store.commit(whole, now)
        with pytest.raises(OwnerStoreFullError):
            await store.commit(change(new("more", "me", now=now), b""), now)

    kind.run(test, replace(LIMITS, bytes_per_owner=20_000))


def test_an_owner_has_at_most_as_many_tombstones_as_live_sessions(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        for n in range(9):
            now = NOW + n
            assert await store.commit(change(new(f"{n}", "me", ttl=0.5, now=now), b"0"), now)
            await store.sweep(now + 0.75)
        assert await store.commit(change(new("yours", "you", ttl=1), b"0"), NOW)
        await store.sweep(NOW + 10)
        tombstones = [n for n in range(9) if (await store.load(f"{n}", "", None)).session is not None]
        assert tombstones == [6, 7, 8]
        assert (await store.load("yours", "", None)).session is not None
        await store.sweep(NOW + 5000)
        assert (await store.load("8", "", None)).session is None

    kind.run(test, replace(LIMITS, sessions_per_owner=3))


def test_short_lived_sessions_are_limited_before_they_are_swept(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        commits = 0
        for n in range(30):
            now = NOW + 2 * n
            with contextlib.suppress(TooManySessionsError):
                commits += await store.commit(change(new(f"{n}", "me", ttl=1, now=now), b"0"), now)
        assert kind.url == "memory://" or commits == 6
        await store.sweep(NOW + 100)
        assert await store.commit(change(new("new", "me", now=NOW + 100), b"0"), NOW + 100)

    kind.run(test, replace(LIMITS, sessions_per_owner=3))


def test_an_answer_that_is_too_large_to_store_is_refused() -> None:
    with pytest.raises(LimitExceededError, match="too large to store"):
        asyncio.run(answers.compress(os.urandom(answers.MAX_BYTES + 2**16)))


def test_an_owner_may_have_limits_of_its_own(kind: StoreKind) -> None:
    mine = KeyLimits(sessions=1, stored_bytes=2000)
    limits = replace(SMALL, of_owner=lambda owner: {"me": mine, "large": KeyLimits(stored_bytes=50_000)}.get(owner))

    async def test(store: Store) -> None:
        first = new("first", "me")
        assert await store.commit(change(first, b"x" * 1000), NOW)
        with pytest.raises(TooManySessionsError, match="has 1 live sessions"):
            await store.commit(change(new("second", "me"), b"x"), NOW)
        with pytest.raises(OwnerStoreFullError, match="may take 2000 bytes"):
            await store.commit(change(updated(first), b"x" * 1500), NOW)
        assert (await store.load("first", "me", None)).session == first
        assert await store.commit(change(updated(first), b"x" * 100), NOW)
        for i in range(3):
            assert await store.commit(change(new(f"large{i}", "large"), b"x" * 10_000), NOW)
            assert await store.commit(change(new(f"other{i}", "other"), b"x" * 1000), NOW)

    kind.run(test, limits)
