"""Every session store, over real files, processes and a real Redis: what all of them do, and what one of them does."""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.errors import StoreFullError, StoreUnavailableError, TooManySessionsError
from service.sessions.sqlite import SqliteStore
from service.sessions.store import ROW_BYTES, Change, IdempotencyRecord, LoadResult, Session, Store, StoreError, Version
from service.sessions.stores import open_store
from service.sessions.writer import CHECKPOINT_EVERY
from tests.redis_server import RedisServer
from tests.stores import LIMITS, NOW, StoreKind, change, client_of, new, record, stored, updated

# Examples, for every store.


def test_a_committed_session_is_loaded_as_it_was(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        # Numbers that lose digits where they are not stored exactly.
        session = replace(new(owner="ö\n é"), position=2**53 - 1, created_at=0.1 + 0.2, updated_at=1e9 / 3)
        stored_record = record(owner="ö\n é")
        assert await store.commit(change(session, os.urandom(100_000), stored_record), NOW)
        state = os.urandom(100_000)
        assert await store.commit(change(updated(session), state), NOW)
        assert await store.load("a", "", None) == LoadResult(updated(session), state, None)
        assert await store.load("a", "ö\n é", "key") == LoadResult(updated(session), state, stored_record)
        assert await store.load("", "ö\n é", "key") == LoadResult(None, None, stored_record)
        assert await store.load("a", "another", "key") == LoadResult(updated(session), state, None)
        assert await store.load("b", "", "key") == LoadResult(None, None, None)

    kind.run(test)


def test_a_change_applies_only_to_the_version_before_it(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        session = new()
        assert not await store.commit(change(updated(session)), NOW)
        assert await store.commit(change(session, b"0"), NOW)
        assert not await store.commit(change(session, b"x"), NOW)
        assert await store.commit(change(updated(session), b"1"), NOW)
        assert not await store.commit(change(updated(session), b"x"), NOW)
        assert not await store.commit(change(updated(updated(updated(session))), b"x"), NOW)
        assert not await store.delete(session, None, NOW)
        assert await stored(store) == (1, b"1")

    kind.run(test)


def test_a_change_that_is_committed_again_is_made_once(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        first = change(new(), b"0", record("first"))
        second = change(updated(new()), b"1", record("second"))
        for repeated in (first, first, second, second, first):
            assert await store.commit(repeated, NOW)
        assert await stored(store) == (1, b"1")
        assert len(await store.versions("a")) == 1

    kind.run(test)


def test_the_last_versions_are_stored_and_older_ones_dropped(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        session = new()
        for version in range(6):
            assert await store.commit(change(session, b"%d\n" % version), NOW)
            session = updated(session, NOW + version)
        expected = [Version(version, 7 * version, NOW + version - 1) for version in (4, 3, 2)]
        assert await store.versions("a") == expected
        assert [await store.earlier_state("a", version) for version in range(1, 7)] == [
            None, b"2\n", b"3\n", b"4\n", None, None,
        ]  # fmt: skip
        assert await store.versions("b") == []
        assert await store.earlier_state("b", 0) is None

    kind.run(test)


def test_a_limit_of_no_versions_stores_none(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        assert await store.commit(change(updated(new()), b"1"), NOW)
        assert await store.versions("a") == []
        assert await store.earlier_state("a", 0) is None
        assert await stored(store) == (1, b"1")

    kind.run(test, replace(LIMITS, versions=0))


def test_a_record_stops_other_calls_with_its_key_until_it_expires(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(owner="me"), b"0", record(owner="me")), NOW)
        again = updated(new(owner="me"))
        assert not await store.commit(change(again, b"x", record(owner="me", answer=b"other")), NOW + 49)
        assert not await store.commit(change(new("b", "me"), b"x", record(owner="me", answer=b"other")), NOW + 49)
        assert not await store.delete(new(owner="me"), record(owner="me", answer=b"other"), NOW + 49)
        assert (await store.load("a", "me", "key")).record == record(owner="me")
        # Another owner's key is another key, and an expired record is replaced.
        assert await store.commit(change(new("c", "you"), b"0", record(owner="you")), NOW)
        later = record(owner="me", ttl=200, answer=b"later")
        assert await store.commit(change(again, b"1", later), NOW + 50)
        await store.sweep(NOW + 60)
        assert (await store.load("a", "me", "key")).record == later

    kind.run(test)


def test_a_deleted_session_leaves_only_its_record(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        assert await store.commit(change(updated(new()), b"1"), NOW)
        assert await store.delete(updated(new()), record(), NOW)
        assert await store.load("a", "", "key") == LoadResult(None, None, record())
        assert await store.versions("a") == []
        assert await store.list("", "", 10, NOW) == []
        assert (await store.size(NOW)).sessions == 0
        assert not await store.delete(updated(new()), None, NOW)
        assert not await store.commit(change(updated(updated(new()))), NOW)
        # A new session with the same id has no earlier versions.
        assert await store.commit(change(new(), b"new"), NOW)
        assert await store.versions("a") == []

    kind.run(test)


def test_a_touch_prolongs_a_session_and_never_shortens_it(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(owner="me"), b"0"), NOW)
        await store.touch("a", NOW + 50)
        assert (await store.load("a", "", None)).session == new(owner="me")
        await store.touch("a", NOW + 500.25)
        assert (await store.load("a", "", None)).session == replace(new(owner="me"), expires_at=NOW + 500.25)
        assert await store.sweep(NOW + 499) == 0
        assert [session.id for session in await store.list("me", "", 10, NOW + 499)] == ["a"]
        assert await store.sweep(NOW + 501) == 1
        await store.touch("a", NOW + 5000)
        await store.touch("b", NOW + 5000)
        assert await store.load("a", "", None) == LoadResult(
            replace(new(owner="me"), expires_at=NOW + 500.25), None, None
        )

    kind.run(test)


def test_an_expired_session_leaves_a_tombstone_for_a_time(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new("a", ttl=100), b"0"), NOW)
        assert await store.commit(change(new("b", ttl=200), b"0"), NOW)
        assert await store.sweep(NOW + 99) == 0
        assert await stored(store, "a") == (0, b"0")
        assert await store.sweep(NOW + 100) == 1
        assert await store.sweep(NOW + 100) == 0
        assert await stored(store, "a") == (0, None)
        assert await store.versions("a") == []
        assert not await store.commit(change(updated(new("a"))), NOW)
        assert not await store.commit(change(new("a")), NOW)
        assert not await store.delete(new("a"), None, NOW)
        assert await stored(store, "b") == (0, b"0")
        await store.sweep(NOW + 1099)
        assert await stored(store, "a") == (0, None)
        await store.sweep(NOW + 1100)
        assert await stored(store, "a") is None
        assert await stored(store, "b") == (0, None)

    kind.run(test)


def test_a_commit_after_the_expiry_and_before_the_sweep_is_accepted(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        assert await store.commit(change(updated(new(), NOW + 101), b"1"), NOW + 101)
        assert await store.sweep(NOW + 150) == 0
        assert await stored(store) == (1, b"1")

    kind.run(test)


def test_a_sweep_takes_any_number_of_sessions(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        await asyncio.gather(*(store.commit(change(new(str(n)), b"0", record(str(n))), NOW) for n in range(450)))
        assert (await store.size(NOW)).sessions == 450
        assert await store.sweep(NOW + 2000) == 450
        assert (await store.size(NOW)).sessions == 0
        assert await stored(store, "0") is None
        assert await stored(store, "449") is None

    kind.run(test)


def test_sessions_are_listed_by_id_in_pages(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        for n in range(7):
            assert await store.commit(change(new(f"id{n}", "me", ttl=10 if n == 3 else 100), b"0"), NOW)
        assert await store.commit(change(new("id2b", "you"), b"0"), NOW)
        assert await store.commit(change(updated(new("id0", "me")), b"1"), NOW)
        pages, after = [], ""
        while page := await store.list("me", after, 2, NOW + 20):
            pages.append([session.id for session in page])
            after = page[-1].id
        assert pages == [["id0", "id1"], ["id2", "id4"], ["id5", "id6"]]
        assert (await store.list("me", "", 1, NOW))[0] == updated(new("id0", "me"))
        assert await store.list("nobody", "", 5, NOW) == []

    kind.run(test)


def test_the_limit_of_sessions_per_owner_counts_live_ones(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        for n in range(2):
            assert await store.commit(change(new(f"me{n}", "me", ttl=100 * (n + 1))), NOW)
        with pytest.raises(TooManySessionsError):
            await store.commit(change(new("me2", "me"), b"", record(owner="me")), NOW)
        assert await store.load("me2", "me", "key") == LoadResult(None, None, None)
        for n in range(4):
            assert await store.commit(change(new(f"nobody{n}")), NOW)
        assert await store.commit(change(new("you", "you")), NOW)
        assert await store.commit(change(updated(new("me1", "me", ttl=200))), NOW)
        # One session has expired and was not swept; another is deleted.
        assert await store.commit(change(new("me3", "me", now=NOW + 100)), NOW + 100)
        assert await store.delete(new("me3", "me", now=NOW + 100), None, NOW + 100)
        assert await store.commit(change(new("me4", "me", now=NOW + 100)), NOW + 100)
        with pytest.raises(TooManySessionsError):
            await store.commit(change(new("me5", "me", now=NOW + 100)), NOW + 100)

    kind.run(test, replace(LIMITS, sessions_per_owner=2))


def test_the_limit_of_all_sessions_counts_live_ones(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        for n in range(3):
            assert await store.commit(change(new(str(n), ttl=100 * (n + 1)), b"0"), NOW)
        assert await store.commit(change(updated(new("0")), b"1"), NOW)
        if kind.shared:
            with pytest.raises(StoreFullError):
                await store.commit(change(new("3"), b"0", record()), NOW)
            assert await store.load("3", "", "key") == LoadResult(None, None, None)
            assert await stored(store, "1") == (0, b"0")
        # One session has expired and was not swept.
        assert await store.commit(change(new("4", now=NOW + 100), b"0"), NOW + 100)
        assert await stored(store, "1") == (0, b"0")
        assert (await store.size(NOW + 100)).sessions == 3

    kind.run(test, replace(LIMITS, sessions=3))


def test_of_concurrent_creations_one_succeeds(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        created = await asyncio.gather(*(store.commit(change(new(), b"%d" % n), NOW) for n in range(20)))
        assert sum(created) == 1
        assert await stored(store) == (0, b"%d" % created.index(True))
        keyed = (store.commit(change(new(str(n)), b"", record()), NOW) for n in range(20))
        assert sum(await asyncio.gather(*keyed)) == 1
        deleted = await asyncio.gather(*(store.delete(new(), None, NOW) for _ in range(20)))
        assert sum(deleted) == 1

    kind.run(test)


async def count_up(store: Store, times: int) -> None:
    """Add 1 so many times, each time to what other callers left."""
    for _ in range(times):
        committed = False
        while not committed:
            loaded = await store.load("a", "", None)
            assert loaded.session is not None
            assert loaded.state is not None
            committed = await store.commit(change(updated(loaded.session), b"%d" % (int(loaded.state) + 1)), NOW)


def test_no_increment_is_lost(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        other = kind.open() if kind.shared else store
        try:
            await asyncio.gather(*(count_up(each, 10) for each in (store, other) for _ in range(4)))
        finally:
            await other.close()
        assert await stored(store) == (80, b"80")

    kind.run(test)


def test_a_cancelled_call_harms_no_other_call(kind: StoreKind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        for turns in range(12):
            loaded = await store.load("a", "", None)
            assert loaded.session is not None
            cancelled = asyncio.create_task(store.commit(change(updated(loaded.session), b"%d" % turns), NOW))
            others = [asyncio.create_task(store.commit(change(new(f"{turns}-{n}")), NOW)) for n in range(5)]
            read = asyncio.create_task(store.load("a", "", None))
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled.cancel()
            read.cancel()
            await asyncio.wait([cancelled, read])
            assert all(await asyncio.gather(*others))
            # The change was made completely, or not at all.
            version = loaded.session.version
            assert await stored(store) in [(version, loaded.state), (version + 1, b"%d" % turns)]

    kind.run(test)


def test_the_secret_is_the_same_for_all_processes_and_after_a_restart(kind: StoreKind) -> None:
    secrets: set[bytes] = set()

    async def test(store: Store) -> None:
        secrets.update(await asyncio.gather(store.secret(), store.secret()))
        other = kind.open() if kind.shared else store
        secrets.add(await other.secret())
        await other.close()

    kind.run(test)
    if kind.shared:
        kind.resume(test)
    assert len(secrets) == 1
    assert len(secrets.pop()) == 32


@pytest.mark.parametrize("kind", ["sqlite", "synced", "redis"], indirect=True)
def test_acknowledged_changes_are_there_after_reopening(kind: StoreKind) -> None:
    async def before(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        assert await store.commit(change(updated(new()), b"1", record()), NOW)

    async def after(store: Store) -> None:
        assert await store.load("a", "", "key") == LoadResult(updated(new()), b"1", record())
        assert await store.earlier_state("a", 0) == b"0"
        assert (await store.size(NOW)).sessions == 1
        assert (await store.size(NOW)).bytes > 0

    kind.run(before)
    kind.resume(after)


# Any order of calls, for every store.


@dataclass
class ReferenceStore:
    """A store in its simplest form."""

    live: dict[str, list[Change]] = field(default_factory=dict)
    tombstones: dict[str, Session] = field(default_factory=dict)
    records: dict[str, IdempotencyRecord] = field(default_factory=dict)

    def has_record(self, record: IdempotencyRecord | None, now: float) -> bool:
        return record is not None and record.key in self.records and self.records[record.key].expires_at > now

    def add_record(self, record: IdempotencyRecord | None) -> None:
        if record is not None:
            self.records[record.key] = record

    def commit(self, change: Change, now: float) -> bool:
        id, version = change.session.id, change.session.version
        changes = self.live.get(id, [])
        if any(change.id == earlier.id for earlier in changes[-1 - LIMITS.versions :]):
            return True
        if id in self.tombstones or version != (changes[-1].session.version + 1 if changes else 0):
            return False
        if self.has_record(change.record, now):
            return False
        self.live[id] = [*changes, change]
        self.add_record(change.record)
        return True

    def delete(self, id: str, version: int, record: IdempotencyRecord | None, now: float) -> bool:
        if id not in self.live or self.live[id][-1].session.version != version or self.has_record(record, now):
            return False
        del self.live[id]
        self.add_record(record)
        return True

    def touch(self, id: str, expires_at: float) -> None:
        if id in self.live:
            last = self.live[id][-1]
            session = replace(last.session, expires_at=max(last.session.expires_at, expires_at))
            self.live[id][-1] = replace(last, session=session)

    def sweep(self, now: float) -> int:
        expired = {id: changes for id, changes in self.live.items() if changes[-1].session.expires_at <= now}
        for id, changes in expired.items():
            del self.live[id]
            self.tombstones[id] = changes[-1].session
        self.tombstones = {
            id: session for id, session in self.tombstones.items() if session.expires_at + LIMITS.tombstone_ttl > now
        }
        return len(expired)


IDS, KEYS, OWNERS = ("a", "b", "c"), (None, "x", "y"), {"a": "", "b": "me", "c": "me"}
calls = st.one_of(
    st.tuples(st.just("commit"), st.sampled_from(IDS), st.sampled_from((0, 0, 0, 1, -1)), st.sampled_from(KEYS)),
    st.tuples(st.just("commit"), st.sampled_from(IDS), st.just(0), st.none()),
    st.tuples(st.just("again"), st.integers(0, 3)),
    st.tuples(st.just("delete"), st.sampled_from(IDS), st.sampled_from((0, 0, -1)), st.sampled_from(KEYS)),
    st.tuples(st.just("touch"), st.sampled_from(IDS), st.integers(0, 300)),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("wait"), st.sampled_from((1, 50, 100, 1000))),
)


async def agree(store: Store, reference: ReferenceStore, now: float) -> None:
    """Check that a store agrees with the reference."""
    for id in IDS:
        changes = reference.live.get(id, [])
        for key in KEYS:
            loaded = await store.load(id, "", key)
            last = changes[-1].session if changes else reference.tombstones.get(id)
            assert (loaded.session, loaded.state) == (last, changes[-1].state if changes else None)
            if loaded.record and loaded.record.expires_at <= now:
                continue  # an expired record may be there or not
            expected = reference.records.get(key or "")
            assert loaded.record == (expected if expected and expected.expires_at > now else None)
        earlier = changes[-1 - LIMITS.versions : -1][::-1]
        assert await store.versions(id) == [
            Version(before.session.version, before.session.position, before.session.updated_at) for before in earlier
        ]
        for before in earlier:
            assert await store.earlier_state(id, before.session.version) == before.state
    for owner in set(OWNERS.values()):
        live = [changes[-1].session for id, changes in sorted(reference.live.items()) if OWNERS[id] == owner]
        assert await store.list(owner, "", 10, now) == [session for session in live if session.expires_at > now]


@given(st.lists(calls, max_size=30))
def test_any_order_of_calls_agrees_with_the_reference(kind: StoreKind, calls: list[tuple[Any, ...]]) -> None:
    async def test(store: Store) -> None:
        reference, now, changes = ReferenceStore(), NOW, [change(new("a"))]
        for number, (call, *args) in enumerate(calls):
            if call == "commit":
                id, skew, key = args
                before = reference.live.get(id)
                session = updated(before[-1].session, now) if before else new(id, OWNERS[id], now=now)
                session = replace(session, version=max(0, session.version + skew))
                new_record = None if key is None else IdempotencyRecord("", key, str(number), b"%d" % number, now + 120)
                changes.append(change(session, os.urandom(10), new_record))
            if call in ("commit", "again"):
                chosen = changes[-1 if call == "commit" else -1 - args[0] % len(changes)]
                assert await store.commit(chosen, now) == reference.commit(chosen, now)
            elif call == "delete":
                id, skew, key = args
                before = reference.live.get(id)
                session = before[-1].session if before else new(id, OWNERS[id])
                session = replace(session, version=max(0, session.version + skew))
                new_record = None if key is None else IdempotencyRecord("", key, str(number), b"%d" % number, now + 120)
                assert await store.delete(session, new_record, now) == reference.delete(
                    id, session.version, new_record, now
                )
            elif call == "touch":
                await store.touch(args[0], now + args[1])
                reference.touch(args[0], now + args[1])
            elif call == "sweep":
                assert await store.sweep(now) == reference.sweep(now)
            else:
                now += args[0]
            await agree(store, reference, now)
        assert await store.sweep(now) == reference.sweep(now)
        assert (await store.size(now)).sessions == len(reference.live)

    kind.run(test)


# The memory of one process.


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


# The SQLite file.


def count_in_a_process(path: Path, barrier: Barrier) -> None:
    async def main() -> None:
        barrier.wait()
        store = SqliteStore(path, LIMITS, 2**30)
        await store.commit(change(new(), b"0"), NOW)
        await count_up(store, 10)
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(main())


def test_processes_share_a_file_from_its_creation_and_lose_nothing_when_killed(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    counting = [spawn.Process(target=count_in_a_process, args=(tmp_path / "db", barrier)) for _ in range(3)]
    for process in counting:
        process.start()
    for process in counting:
        process.join()
        assert process.exitcode == -signal.SIGKILL

    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30)
        assert await stored(store) == (30, b"30")
        await store.close()

    asyncio.run(main())


def test_a_full_file_refuses_only_changes_that_need_room(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 300_000, synced=True)
        sessions = 0
        with pytest.raises(StoreFullError):  # noqa: PT012
            while True:
                assert await store.commit(change(new(str(sessions)), b"x" * 20_000, record(str(sessions))), NOW)
                sessions += 1
        assert sessions > 5
        failed = new(str(sessions))
        assert await store.load(failed.id, "", failed.id) == LoadResult(None, None, None)
        assert (await store.size(NOW)).sessions == sessions
        # Changes that wait together succeed or fail alone.
        outcomes = await asyncio.gather(
            store.commit(change(failed, b"x" * 20_000), NOW),
            store.delete(new("0"), None, NOW),
            store.commit(change(new("too large"), b"x" * 300_000), NOW),
            store.commit(change(new("small"), b"x"), NOW),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [StoreFullError, bool, StoreFullError, bool]
        assert await store.delete(new("1"), None, NOW)
        assert await store.commit(change(failed, b"x" * 20_000), NOW)
        await store.close()

    asyncio.run(main())


def test_a_locked_file_refuses_changes_and_can_be_read(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30, busy_timeout=0.05)
        assert await store.commit(change(new(), b"0"), NOW)
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError):
            await store.commit(change(updated(new())), NOW)
        assert await stored(store) == (0, b"0")
        other.execute("ROLLBACK")
        other.close()
        assert await store.commit(change(updated(new()), b"1"), NOW)
        await store.close()

    asyncio.run(main())


def test_a_damaged_file_is_reported_as_unavailable(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30)
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("DROP TABLE states")
        other.close()
        with pytest.raises(StoreUnavailableError):
            await store.commit(change(new()), NOW)
        with pytest.raises(StoreUnavailableError):
            await store.load("a", "", None)
        await store.close()
        with pytest.raises(StoreUnavailableError):
            await store.commit(change(new()), NOW)
        with pytest.raises(StoreUnavailableError):
            await store.load("a", "", None)

    asyncio.run(main())


def test_a_bug_in_one_call_fails_no_other_call(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30)
        too_large: Any = replace(new("wrong"), position=2**70)
        outcomes = await asyncio.gather(
            *(store.commit(change(session), NOW) for session in (new("a"), too_large, new("b"))),
            return_exceptions=True,
        )
        assert outcomes[0::2] == [True, True]
        assert isinstance(outcomes[1], OverflowError)
        assert (await store.size(NOW)).sessions == 2
        await store.close()

    asyncio.run(main())


def a_text(path: Path) -> None:
    path.write_text("no database" * 1000)


def a_folder(path: Path) -> None:
    path.mkdir()


def another_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (column)")
    db.close()


def a_later_format(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


@pytest.mark.parametrize("make", [a_text, a_folder, another_database, a_later_format])
def test_a_path_that_is_no_store_is_refused_and_left_as_it_is(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "db"
    make(path)
    before = None if path.is_dir() else path.read_bytes()

    async def main() -> None:
        with pytest.raises(StoreError) as refused:
            open_store(f"sqlite:///{path}", LIMITS, 2**30, lambda: None)
        assert "\n" not in str(refused.value)

    asyncio.run(main())
    assert before is None or path.read_bytes() == before


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(StoreError, match="No such file"):
            SqliteStore(tmp_path / "nowhere" / "db", LIMITS, 2**30)

    asyncio.run(main())


# The Redis server.


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


def test_an_invalid_url_is_refused() -> None:
    with pytest.raises(StoreError):
        open_store("redis://host:port/0", LIMITS, 0, lambda: None)


def test_a_missing_redis_client_is_named_with_its_install_command() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from service.sessions.stores import open_store\n"
        "open_store('redis://localhost', None, 0, None)\n"
    )
    message = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr
    assert "pip install 'carry[redis]'" in message


def test_an_unknown_option_of_the_url_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(StoreError, match="synchronous=full"):
            open_store(f"sqlite:///{tmp_path}/db?synchronous=off", LIMITS, 2**30, lambda: None)

    asyncio.run(main())


def test_the_log_is_checkpointed_while_others_write(tmp_path: Path) -> None:
    """The log does not grow with the number of changes."""

    async def main() -> None:
        stores = [SqliteStore(tmp_path / "db", LIMITS, 2**30) for _ in range(2)]
        sessions = [new(str(i)) for i in range(2)]
        sizes = []
        for turn in range(12 * CHECKPOINT_EVERY):
            i = turn % 2
            assert await stores[i].commit(change(sessions[i], b"x" * 3000), NOW)
            sessions[i] = updated(sessions[i])
            sizes.append((tmp_path / "db-wal").stat().st_size)
            if turn % 50 == 0:
                await asyncio.sleep(0)
        assert max(sizes) < 5 * sizes[CHECKPOINT_EVERY]
        for store in stores:
            await store.close()

    asyncio.run(main())
