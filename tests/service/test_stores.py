"""What every session store does, on real files and a real Redis; and the URLs that name a store."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StoreFullError, TooManySessionsError
from service.sessions.store import Change, IdempotencyRecord, LoadResult, Session, Store, StoreError, Version
from service.sessions.stores import open_store
from tests.redis_server import PROGRAMS
from tests.stores import LIMITS, NOW, StoreKind, change, count_up, new, record, stored, updated

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


@pytest.mark.parametrize("kind", ["sqlite", "synced", *PROGRAMS], indirect=True)
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


# URLs.


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
    assert "pip install 'carry-rnn[redis]'" in message


def test_an_unknown_option_of_the_url_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(StoreError, match="synchronous=full"):
            open_store(f"sqlite:///{tmp_path}/db?synchronous=off", LIMITS, 2**30, lambda: None)

    asyncio.run(main())
