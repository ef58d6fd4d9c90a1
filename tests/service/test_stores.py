"""What holds for every session store, and what for one of them: over real files, processes and a real Redis."""

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
from service.sessions.store import ROW_BYTES, Change, Found, Receipt, Session, Store, StoreError, Version
from service.sessions.stores import open_store
from service.sessions.writer import LOG_WRITES
from tests.redis_server import RedisServer
from tests.stores import LIMITS, NOW, Kind, change, client_of, moved, new, receipt, seen

# Examples that hold for all of them.


def test_what_was_committed_is_what_is_loaded(kind: Kind) -> None:
    async def test(store: Store) -> None:
        # Numbers that lose digits in careless hands.
        session = replace(new(owner="ö\n é"), position=2**53 - 1, created_at=0.1 + 0.2, updated_at=1e9 / 3)
        kept = receipt(owner="ö\n é")
        assert await store.commit(change(session, os.urandom(100_000), kept), NOW)
        state = os.urandom(100_000)
        assert await store.commit(change(moved(session), state), NOW)
        assert await store.load("a", "", None) == Found(moved(session), state, None)
        assert await store.load("a", "ö\n é", "key") == Found(moved(session), state, kept)
        assert await store.load("", "ö\n é", "key") == Found(None, None, kept)
        assert await store.load("a", "another", "key") == Found(moved(session), state, None)
        assert await store.load("b", "", "key") == Found(None, None, None)

    kind.run(test)


def test_a_change_is_made_to_the_version_before_only(kind: Kind) -> None:
    async def test(store: Store) -> None:
        session = new()
        assert not await store.commit(change(moved(session)), NOW)
        assert await store.commit(change(session, b"0"), NOW)
        assert not await store.commit(change(session, b"x"), NOW)
        assert await store.commit(change(moved(session), b"1"), NOW)
        assert not await store.commit(change(moved(session), b"x"), NOW)
        assert not await store.commit(change(moved(moved(moved(session))), b"x"), NOW)
        assert not await store.delete(session, None, NOW)
        assert await seen(store) == (1, b"1")

    kind.run(test)


def test_a_change_that_is_asked_for_again_is_made_once(kind: Kind) -> None:
    async def test(store: Store) -> None:
        first = change(new(), b"0", receipt("first"))
        second = change(moved(new()), b"1", receipt("second"))
        for repeated in (first, first, second, second, first):
            assert await store.commit(repeated, NOW)
        assert await seen(store) == (1, b"1")
        assert len(await store.versions("a")) == 1

    kind.run(test)


def test_earlier_versions_are_kept_and_the_oldest_dropped(kind: Kind) -> None:
    async def test(store: Store) -> None:
        session = new()
        for version in range(6):
            assert await store.commit(change(session, b"%d\n" % version), NOW)
            session = moved(session, NOW + version)
        expected = [Version(version, 7 * version, NOW + version - 1) for version in (4, 3, 2)]
        assert await store.versions("a") == expected
        assert [await store.earlier("a", version) for version in range(1, 7)] == [
            None, b"2\n", b"3\n", b"4\n", None, None,
        ]  # fmt: skip
        assert await store.versions("b") == []
        assert await store.earlier("b", 0) is None

    kind.run(test)


def test_no_earlier_version_is_kept_if_none_shall_be(kind: Kind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        assert await store.commit(change(moved(new()), b"1"), NOW)
        assert await store.versions("a") == []
        assert await store.earlier("a", 0) is None
        assert await seen(store) == (1, b"1")

    kind.run(test, replace(LIMITS, versions=0))


def test_a_receipt_stops_another_call_with_its_key_until_it_expires(kind: Kind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(owner="me"), b"0", receipt(owner="me")), NOW)
        again = moved(new(owner="me"))
        assert not await store.commit(change(again, b"x", receipt(owner="me", answer=b"other")), NOW + 49)
        assert not await store.commit(change(new("b", "me"), b"x", receipt(owner="me", answer=b"other")), NOW + 49)
        assert not await store.delete(new(owner="me"), receipt(owner="me", answer=b"other"), NOW + 49)
        assert (await store.load("a", "me", "key")).receipt == receipt(owner="me")
        # Another owner's key is another key; and it has its time.
        assert await store.commit(change(new("c", "you"), b"0", receipt(owner="you")), NOW)
        later = receipt(owner="me", ttl=200, answer=b"later")
        assert await store.commit(change(again, b"1", later), NOW + 50)
        await store.sweep(NOW + 60)
        assert (await store.load("a", "me", "key")).receipt == later

    kind.run(test)


def test_a_deleted_session_is_gone_and_its_receipt_stays(kind: Kind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        assert await store.commit(change(moved(new()), b"1"), NOW)
        assert await store.delete(moved(new()), receipt(), NOW)
        assert await store.load("a", "", "key") == Found(None, None, receipt())
        assert await store.versions("a") == []
        assert await store.list("", "", 10, NOW) == []
        assert (await store.size(NOW)).sessions == 0
        assert not await store.delete(moved(new()), None, NOW)
        assert not await store.commit(change(moved(moved(new()))), NOW)
        # What the id was used for once does not show through.
        assert await store.commit(change(new(), b"new"), NOW)
        assert await store.versions("a") == []

    kind.run(test)


def test_a_touch_lengthens_a_life_and_shortens_none(kind: Kind) -> None:
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
        assert await store.load("a", "", None) == Found(replace(new(owner="me"), expires_at=NOW + 500.25), None, None)

    kind.run(test)


def test_an_expired_session_is_remembered_and_then_forgotten(kind: Kind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new("a", ttl=100), b"0"), NOW)
        assert await store.commit(change(new("b", ttl=200), b"0"), NOW)
        assert await store.sweep(NOW + 99) == 0
        assert await seen(store, "a") == (0, b"0")
        assert await store.sweep(NOW + 100) == 1
        assert await store.sweep(NOW + 100) == 0
        assert await seen(store, "a") == (0, None)
        assert await store.versions("a") == []
        assert not await store.commit(change(moved(new("a"))), NOW)
        assert not await store.commit(change(new("a")), NOW)
        assert not await store.delete(new("a"), None, NOW)
        assert await seen(store, "b") == (0, b"0")
        await store.sweep(NOW + 1099)
        assert await seen(store, "a") == (0, None)
        await store.sweep(NOW + 1100)
        assert await seen(store, "a") is None
        assert await seen(store, "b") == (0, None)

    kind.run(test)


def test_a_call_that_began_before_the_end_lets_the_session_live_on(kind: Kind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        assert await store.commit(change(moved(new(), NOW + 101), b"1"), NOW + 101)
        assert await store.sweep(NOW + 150) == 0
        assert await seen(store) == (1, b"1")

    kind.run(test)


def test_many_sessions_are_swept_at_once(kind: Kind) -> None:
    async def test(store: Store) -> None:
        await asyncio.gather(*(store.commit(change(new(str(n)), b"0", receipt(str(n))), NOW) for n in range(450)))
        assert (await store.size(NOW)).sessions == 450
        assert await store.sweep(NOW + 2000) == 450
        assert (await store.size(NOW)).sessions == 0
        assert await seen(store, "0") is None
        assert await seen(store, "449") is None

    kind.run(test)


def test_sessions_are_listed_by_id_in_pages(kind: Kind) -> None:
    async def test(store: Store) -> None:
        for n in range(7):
            assert await store.commit(change(new(f"id{n}", "me", ttl=10 if n == 3 else 100), b"0"), NOW)
        assert await store.commit(change(new("id2b", "you"), b"0"), NOW)
        assert await store.commit(change(moved(new("id0", "me")), b"1"), NOW)
        pages, after = [], ""
        while page := await store.list("me", after, 2, NOW + 20):
            pages.append([session.id for session in page])
            after = page[-1].id
        assert pages == [["id0", "id1"], ["id2", "id4"], ["id5", "id6"]]
        assert (await store.list("me", "", 1, NOW))[0] == moved(new("id0", "me"))
        assert await store.list("nobody", "", 5, NOW) == []

    kind.run(test)


def test_an_owner_has_as_many_live_sessions_as_one_may_have(kind: Kind) -> None:
    async def test(store: Store) -> None:
        for n in range(2):
            assert await store.commit(change(new(f"me{n}", "me", ttl=100 * (n + 1))), NOW)
        with pytest.raises(TooManySessionsError):
            await store.commit(change(new("me2", "me"), b"", receipt(owner="me")), NOW)
        assert await store.load("me2", "me", "key") == Found(None, None, None)
        for n in range(4):
            assert await store.commit(change(new(f"nobody{n}")), NOW)
        assert await store.commit(change(new("you", "you")), NOW)
        assert await store.commit(change(moved(new("me1", "me", ttl=200))), NOW)
        # One has expired, though nobody swept it; one is deleted.
        assert await store.commit(change(new("me3", "me", now=NOW + 100)), NOW + 100)
        assert await store.delete(new("me3", "me", now=NOW + 100), None, NOW + 100)
        assert await store.commit(change(new("me4", "me", now=NOW + 100)), NOW + 100)
        with pytest.raises(TooManySessionsError):
            await store.commit(change(new("me5", "me", now=NOW + 100)), NOW + 100)

    kind.run(test, replace(LIMITS, sessions_per_owner=2))


def test_a_store_holds_as_many_live_sessions_as_there_may_be(kind: Kind) -> None:
    async def test(store: Store) -> None:
        for n in range(3):
            assert await store.commit(change(new(str(n), ttl=100 * (n + 1)), b"0"), NOW)
        assert await store.commit(change(moved(new("0")), b"1"), NOW)
        if kind.shared:
            with pytest.raises(StoreFullError):
                await store.commit(change(new("3"), b"0", receipt()), NOW)
            assert await store.load("3", "", "key") == Found(None, None, None)
            assert await seen(store, "1") == (0, b"0")
        # One has expired, though nobody swept it.
        assert await store.commit(change(new("4", now=NOW + 100), b"0"), NOW + 100)
        assert await seen(store, "1") == (0, b"0")
        assert (await store.size(NOW + 100)).sessions == 3

    kind.run(test, replace(LIMITS, sessions=3))


def test_of_many_creators_one_wins(kind: Kind) -> None:
    async def test(store: Store) -> None:
        made = await asyncio.gather(*(store.commit(change(new(), b"%d" % n), NOW) for n in range(20)))
        assert sum(made) == 1
        assert await seen(store) == (0, b"%d" % made.index(True))
        keyed = (store.commit(change(new(str(n)), b"", receipt()), NOW) for n in range(20))
        assert sum(await asyncio.gather(*keyed)) == 1
        deleted = await asyncio.gather(*(store.delete(new(), None, NOW) for _ in range(20)))
        assert sum(deleted) == 1

    kind.run(test)


async def count_up(store: Store, times: int) -> None:
    """Each time by one, whatever others do."""
    for _ in range(times):
        made = False
        while not made:
            found = await store.load("a", "", None)
            assert found.session is not None
            assert found.state is not None
            made = await store.commit(change(moved(found.session), b"%d" % (int(found.state) + 1)), NOW)


def test_no_increment_is_lost(kind: Kind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        others = kind.open() if kind.shared else store
        try:
            await asyncio.gather(*(count_up(one, 10) for one in (store, others) for _ in range(4)))
        finally:
            await others.close()
        assert await seen(store) == (80, b"80")

    kind.run(test)


def test_a_cancelled_call_harms_no_other(kind: Kind) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        for turns in range(12):
            found = await store.load("a", "", None)
            assert found.session is not None
            mine = asyncio.create_task(store.commit(change(moved(found.session), b"%d" % turns), NOW))
            others = [asyncio.create_task(store.commit(change(new(f"{turns}-{n}")), NOW)) for n in range(5)]
            read = asyncio.create_task(store.load("a", "", None))
            for _ in range(turns):
                await asyncio.sleep(0)
            mine.cancel()
            read.cancel()
            await asyncio.wait([mine, read])
            assert all(await asyncio.gather(*others))
            # It was made, or it was not.
            version = found.session.version
            assert await seen(store) in [(version, found.state), (version + 1, b"%d" % turns)]

    kind.run(test)


def test_a_secret_is_the_same_for_all_and_as_long_as_the_store_lives(kind: Kind) -> None:
    secrets: set[bytes] = set()

    async def test(store: Store) -> None:
        secrets.update(await asyncio.gather(store.secret(), store.secret()))
        others = kind.open() if kind.shared else store
        secrets.add(await others.secret())
        await others.close()

    kind.run(test)
    if kind.shared:
        kind.resume(test)
    assert len(secrets) == 1
    assert len(secrets.pop()) == 32


@pytest.mark.parametrize("kind", ["sqlite", "synced", "redis"], indirect=True)
def test_what_was_acknowledged_is_there_after_reopening(kind: Kind) -> None:
    async def before(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        assert await store.commit(change(moved(new()), b"1", receipt()), NOW)

    async def after(store: Store) -> None:
        assert await store.load("a", "", "key") == Found(moved(new()), b"1", receipt())
        assert await store.earlier("a", 0) == b"0"
        assert (await store.size(NOW)).sessions == 1
        assert (await store.size(NOW)).bytes > 0

    kind.run(before)
    kind.resume(after)


# And for any order of calls.


@dataclass
class Model:
    """What a store should hold, told in the simplest way."""

    live: dict[str, list[Change]] = field(default_factory=dict)
    swept: dict[str, Session] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)

    def answered(self, receipt: Receipt | None, now: float) -> bool:
        return receipt is not None and receipt.key in self.receipts and self.receipts[receipt.key].expires_at > now

    def keep(self, receipt: Receipt | None) -> None:
        if receipt is not None:
            self.receipts[receipt.key] = receipt

    def commit(self, change: Change, now: float) -> bool:
        id, version = change.session.id, change.session.version
        made = self.live.get(id, [])
        if any(change.id == before.id for before in made[-1 - LIMITS.versions :]):
            return True
        if id in self.swept or version != (made[-1].session.version + 1 if made else 0):
            return False
        if self.answered(change.receipt, now):
            return False
        self.live[id] = [*made, change]
        self.keep(change.receipt)
        return True

    def delete(self, id: str, version: int, receipt: Receipt | None, now: float) -> bool:
        if id not in self.live or self.live[id][-1].session.version != version or self.answered(receipt, now):
            return False
        del self.live[id]
        self.keep(receipt)
        return True

    def touch(self, id: str, expires_at: float) -> None:
        if id in self.live:
            last = self.live[id][-1]
            session = replace(last.session, expires_at=max(last.session.expires_at, expires_at))
            self.live[id][-1] = replace(last, session=session)

    def sweep(self, now: float) -> int:
        expired = {id: made for id, made in self.live.items() if made[-1].session.expires_at <= now}
        for id, made in expired.items():
            del self.live[id]
            self.swept[id] = made[-1].session
        self.swept = {id: session for id, session in self.swept.items() if session.expires_at + LIMITS.remembered > now}
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


async def agree(store: Store, model: Model, now: float) -> None:
    """Whether a store holds what it should."""
    for id in IDS:
        made = model.live.get(id, [])
        for key in KEYS:
            found = await store.load(id, "", key)
            last = made[-1].session if made else model.swept.get(id)
            assert (found.session, found.state) == (last, made[-1].state if made else None)
            if found.receipt and found.receipt.expires_at <= now:
                continue  # one that has expired may be there or not
            kept = model.receipts.get(key or "")
            assert found.receipt == (kept if kept and kept.expires_at > now else None)
        earlier = made[-1 - LIMITS.versions : -1][::-1]
        assert await store.versions(id) == [
            Version(before.session.version, before.session.position, before.session.updated_at) for before in earlier
        ]
        for before in earlier:
            assert await store.earlier(id, before.session.version) == before.state
    for owner in set(OWNERS.values()):
        live = [made[-1].session for id, made in sorted(model.live.items()) if OWNERS[id] == owner]
        assert await store.list(owner, "", 10, now) == [session for session in live if session.expires_at > now]


@given(st.lists(calls, max_size=30))
def test_any_order_of_calls_does_what_it_should(kind: Kind, calls: list[tuple[Any, ...]]) -> None:
    async def test(store: Store) -> None:
        model, now, changes = Model(), NOW, [change(new("a"))]
        for number, (call, *args) in enumerate(calls):
            if call == "commit":
                id, skew, key = args
                made = model.live.get(id)
                session = moved(made[-1].session, now) if made else new(id, OWNERS[id], now=now)
                session = replace(session, version=max(0, session.version + skew))
                kept = None if key is None else Receipt("", key, str(number), b"%d" % number, now + 120)
                changes.append(change(session, os.urandom(10), kept))
            if call in ("commit", "again"):
                chosen = changes[-1 if call == "commit" else -1 - args[0] % len(changes)]
                assert await store.commit(chosen, now) == model.commit(chosen, now)
            elif call == "delete":
                id, skew, key = args
                made = model.live.get(id)
                session = made[-1].session if made else new(id, OWNERS[id])
                session = replace(session, version=max(0, session.version + skew))
                kept = None if key is None else Receipt("", key, str(number), b"%d" % number, now + 120)
                assert await store.delete(session, kept, now) == model.delete(id, session.version, kept, now)
            elif call == "touch":
                await store.touch(args[0], now + args[1])
                model.touch(args[0], now + args[1])
            elif call == "sweep":
                assert await store.sweep(now) == model.sweep(now)
            else:
                now += args[0]
            await agree(store, model, now)
        assert await store.sweep(now) == model.sweep(now)
        assert (await store.size(now)).sessions == len(model.live)

    kind.run(test)


# The memory of one process.


def test_a_full_memory_drops_the_session_least_recently_updated(tmp_path: Path) -> None:
    kind = Kind("memory", tmp_path)

    async def test(store: Store) -> None:
        for id in "abc":
            assert await store.commit(change(new(id), b"0"), NOW)
        assert await store.commit(change(moved(new("a")), b"1"), NOW + 1)
        assert await store.commit(change(new("d"), b"0"), NOW + 2)
        # As one that has expired: told from one that never was.
        assert await store.load("b", "", None) == Found(replace(new("b"), expires_at=NOW + 2), None, None)
        assert [session.id for session in await store.list("", "", 10, NOW + 2)] == ["a", "c", "d"]
        assert await store.sweep(NOW + 2) == 0
        assert kind.evicted == 1

    kind.run(test, replace(LIMITS, sessions=3))


def test_memory_counts_its_bytes(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        session = new()
        for _ in range(10):
            assert await store.commit(change(session, b"x" * 100), NOW)
            session = moved(session)
        assert await store.commit(change(new("b"), b"x" * 100, receipt(answer=b"x" * 10)), NOW)
        assert (await store.size(NOW)).bytes == 100 * (LIMITS.versions + 2) + 13 + ROW_BYTES * (LIMITS.versions + 3)
        await store.sweep(NOW + 100)
        assert (await store.size(NOW)).bytes == 0

    Kind("memory", tmp_path).run(test)


# A file of SQLite.


def count_in_a_process(path: Path, barrier: Barrier) -> None:
    async def main() -> None:
        barrier.wait()
        store = SqliteStore(path, LIMITS, 2**30)
        await store.commit(change(new(), b"0"), NOW)
        await count_up(store, 10)
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(main())


def test_processes_share_a_file_from_its_first_moment_and_lose_nothing_when_they_are_killed(tmp_path: Path) -> None:
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
        assert await seen(store) == (30, b"30")
        await store.close()

    asyncio.run(main())


def test_a_full_file_refuses_what_needs_room_and_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 300_000, synced=True)
        sessions = 0
        with pytest.raises(StoreFullError):  # noqa: PT012
            while True:
                assert await store.commit(change(new(str(sessions)), b"x" * 20_000, receipt(str(sessions))), NOW)
                sessions += 1
        assert sessions > 5
        failed = new(str(sessions))
        assert await store.load(failed.id, "", failed.id) == Found(None, None, None)
        assert (await store.size(NOW)).sessions == sessions
        # What waits together stands or falls alone.
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


def test_a_locked_file_is_told_and_can_be_read(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30, patience=0.05)
        assert await store.commit(change(new(), b"0"), NOW)
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError):
            await store.commit(change(moved(new())), NOW)
        assert await seen(store) == (0, b"0")
        other.execute("ROLLBACK")
        other.close()
        assert await store.commit(change(moved(new()), b"1"), NOW)
        await store.close()

    asyncio.run(main())


def test_a_file_that_breaks_under_way_is_told(tmp_path: Path) -> None:
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


def test_a_fault_of_ours_ends_no_other_call(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30)
        no_integer: Any = replace(new("wrong"), position=2**70)
        outcomes = await asyncio.gather(
            *(store.commit(change(session), NOW) for session in (new("a"), no_integer, new("b"))),
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
def test_what_is_no_store_is_refused_and_left_as_it_is(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "db"
    make(path)
    before = None if path.is_dir() else path.read_bytes()

    async def main() -> None:
        with pytest.raises(StoreError) as refused:
            open_store(f"sqlite:///{path}", LIMITS, 2**30, lambda: None)
        assert "\n" not in str(refused.value)

    asyncio.run(main())
    assert before is None or path.read_bytes() == before


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(StoreError, match="No such file"):
            SqliteStore(tmp_path / "nowhere" / "db", LIMITS, 2**30)

    asyncio.run(main())


# A server of Redis.


def test_redis_may_be_killed_and_restarted() -> None:
    async def main(server: RedisServer) -> None:
        store = open_store(server.url, LIMITS, 0, lambda: None)
        assert await store.commit(change(new(), b"0", receipt()), NOW)
        server.kill()
        outcomes = await asyncio.gather(
            store.load("a", "", "key"),
            store.commit(change(moved(new())), NOW),
            store.size(NOW),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * 3
        # A call rides over a short break.
        waiting = asyncio.create_task(store.commit(change(moved(new()), b"1"), NOW))
        await asyncio.to_thread(server.start)
        assert await waiting
        assert await store.load("a", "", "key") == Found(moved(new()), b"1", receipt())
        assert await store.earlier("a", 0) == b"0"
        await store.close()

    with RedisServer() as server:
        asyncio.run(main(server))


def test_a_full_redis_refuses_what_needs_room_and_nothing_else(redis_kind: Kind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new("a"), b"0"), NOW)
        assert await store.commit(change(new("b"), b"0"), NOW)
        with client_of(server) as client:
            client.config_set("maxmemory", 1)
            try:
                for refused in (change(new("c"), b"0"), change(moved(new("a")), b"1", receipt())):
                    with pytest.raises(StoreFullError):
                        await store.commit(refused, NOW)
                assert await store.load("a", "", "key") == Found(new("a"), b"0", None)
                assert await store.versions("a") == []
                assert await store.delete(new("a"), receipt(), NOW)
                assert await store.sweep(NOW + 100) == 1
                assert await seen(store, "b") == (0, None)
            finally:
                client.config_set("maxmemory", 0)
        assert await store.commit(change(new("c"), b"0"), NOW)

    redis_kind.run(test)


def test_a_redis_that_takes_no_writes_is_told(redis_kind: Kind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        with client_of(server) as client:
            client.replicaof("localhost", 1)
            try:
                with pytest.raises(StoreUnavailableError):
                    await store.commit(change(moved(new())), NOW)
                assert await seen(store) == (0, b"0")
            finally:
                client.replicaof("NO", "ONE")

    redis_kind.run(test)


def test_redis_is_given_the_scripts_again_when_it_lost_them(redis_kind: Kind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        with client_of(server) as client:
            client.script_flush()
        assert await store.commit(change(moved(new()), b"1"), NOW)

    redis_kind.run(test)


def test_what_is_sent_together_is_done_each_by_itself(redis_kind: Kind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        first = [await store.commit(change(new(id), b"0"), NOW) for id in "abc"]
        with client_of(server) as client:
            client.script_flush()
        limited = new("e", "owner")
        outcomes = await asyncio.gather(
            store.commit(change(moved(new("a")), b"1"), NOW),
            store.commit(change(moved(moved(new("b"))), b"2"), NOW),  # not the next version
            store.commit(change(limited), NOW),
            store.commit(change(replace(limited, id="f")), NOW),  # one too many
            store.commit(change(moved(new("c")), b"1"), NOW),
            return_exceptions=True,
        )
        assert first == [True] * 3
        assert list(outcomes[:3]) == [True, False, True]
        assert isinstance(outcomes[3], TooManySessionsError)
        assert outcomes[4] is True
        assert [await seen(store, id) for id in "abc"] == [(1, b"1"), (0, b"0"), (1, b"1")]

    redis_kind.run(test, replace(LIMITS, sessions_per_owner=1))


def test_a_deletion_that_is_sent_twice_is_done_once_and_told_as_done(
    redis_kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0"), NOW)
        # As the client does when a connection breaks before the answer.
        sent = uuid.uuid4()
        with monkeypatch.context() as patched:
            patched.setattr("service.sessions.redis.uuid.uuid4", lambda: sent)
            assert await store.delete(new(), receipt(), NOW)
            assert await store.delete(new(), receipt(), NOW)
        assert not await store.delete(new(), None, NOW)

    redis_kind.run(test)


def test_redis_forgets_by_itself_what_nobody_sweeps_and_nothing_sooner(redis_kind: Kind, server: RedisServer) -> None:
    async def test(store: Store) -> None:
        assert await store.commit(change(new(), b"0", receipt()), NOW)
        assert await store.commit(change(moved(new(), NOW + 50)), NOW + 50)
        await store.touch("a", NOW + 777)
        with client_of(server) as client:
            for key in ("session", "history"):
                assert client.pexpiretime(f"carry:{key}:a") == pytest.approx((NOW + 1777) * 1000, abs=1)
            assert client.pexpiretime("carry:receipt:\nkey") == pytest.approx((NOW + 50) * 1000, abs=1)
            # What it forgot is counted as expired and leaves nothing behind.
            client.delete("carry:session:a", "carry:history:a", "carry:receipt:\nkey")
            assert await store.list("", "", 10, NOW) == []
            assert await store.sweep(NOW + 2000) == 1
            assert client.keys("*") == []

    redis_kind.run(test)


@pytest.mark.parametrize(("policy", "warnings"), [("noeviction", 0), ("allkeys-lru", 1)])
def test_a_redis_that_may_drop_sessions_is_warned_of(
    redis_kind: Kind, server: RedisServer, policy: str, warnings: int
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


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(StoreError):
        open_store("redis://host:port/0", LIMITS, 0, lambda: None)


def test_how_to_get_the_client_of_redis_is_told() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from service.sessions.stores import open_store\n"
        "open_store('redis://localhost', None, 0, None)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr
    assert "pip install 'carry[redis]'" in told


def test_an_option_that_is_none_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(StoreError, match="synchronous=full"):
            open_store(f"sqlite:///{tmp_path}/db?synchronous=off", LIMITS, 2**30, lambda: None)

    asyncio.run(main())


def test_the_log_is_moved_to_the_file_while_others_write(tmp_path: Path) -> None:
    """However long they do: it does not grow with the number of changes."""

    async def main() -> None:
        stores = [SqliteStore(tmp_path / "db", LIMITS, 2**30) for _ in range(2)]
        sessions = [new(str(i)) for i in range(2)]
        sizes = []
        for turn in range(12 * LOG_WRITES):
            i = turn % 2
            assert await stores[i].commit(change(sessions[i], b"x" * 3000), NOW)
            sessions[i] = moved(sessions[i])
            sizes.append((tmp_path / "db-wal").stat().st_size)
            if turn % 50 == 0:
                await asyncio.sleep(0)
        assert max(sizes) < 5 * sizes[LOG_WRITES]
        for store in stores:
            await store.close()

    asyncio.run(main())
