"""The SQLite file: its access rights, its removal or replacement while it is open, and the thread that writes to it."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.errors import StoreUnavailableError
from service.sessions import sqlite_file
from service.sessions.sqlite import SqliteStore
from service.sessions.store import ROW_BYTES, LoadResult, StoreError
from tests.stores import LIMITS, NOW, change, new, stored, updated


def open_at(path: Path) -> SqliteStore:
    return SqliteStore(path, LIMITS, 2**30, busy_timeout=0.05)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


PRIVATE = {"db": 0o600, "db-wal": 0o600, "db-shm": 0o600}


def test_only_the_owner_may_read_a_store(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_at(tmp_path / "db")
        await store.secret()
        assert modes(tmp_path) == PRIVATE
        await store.close()

    with umask(0):
        asyncio.run(main())


def test_a_store_that_others_could_read_becomes_private(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_at(tmp_path / "db")
        for file in PRIVATE:
            (tmp_path / file).chmod(0o644)
        other = open_at(tmp_path / "db")
        assert modes(tmp_path) == PRIVATE
        await other.close()
        await store.close()

    asyncio.run(main())


def test_a_file_is_private_before_sqlite_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect: Any = sqlite3.connect
    modes_at_open = []

    def look(path: Path, *args: Any, **options: Any) -> Any:
        modes_at_open.append(stat.S_IMODE(path.stat().st_mode))
        return connect(path, *args, **options)

    async def main() -> None:
        monkeypatch.setattr(sqlite3, "connect", look)
        await open_at(tmp_path / "db").close()

    with umask(0):
        asyncio.run(main())
    assert set(modes_at_open) == {0o600}


def remove(folder: Path) -> None:
    for file in folder.glob("db*"):
        file.unlink()


def replace_by_another(folder: Path) -> None:
    """Replace the file by an earlier copy."""
    remove(folder)
    (folder / "copy").rename(folder / "db")


@pytest.mark.parametrize(("take_away", "left"), [(remove, None), (replace_by_another, (0, b"0"))])
def test_a_file_that_is_removed_or_replaced_is_opened_anew_by_all(
    take_away: Callable[[Path], None], left: tuple[int, bytes] | None, tmp_path: Path
) -> None:
    async def main() -> None:
        copied = open_at(tmp_path / "copy")
        assert await copied.commit(change(new(), b"0"), NOW)
        await copied.close()
        stores = [open_at(tmp_path / "db") for _ in range(2)]
        assert await stores[0].commit(change(new(), b"0"), NOW)
        assert await stores[1].commit(change(updated(new()), b"1"), NOW)
        take_away(tmp_path)
        # All processes see the same sessions.
        assert [await stored(store) for store in stores] == [left, left]
        assert not await stores[0].commit(change(updated(updated(new())), b"2"), NOW)
        assert await stores[0].commit(change(new("b"), b"new"), NOW)
        assert await stored(stores[1], "b") == (0, b"new")
        assert await stores[0].secret() == await stores[1].secret()
        assert await stores[1].commit(change(updated(new("b")), b"newer"), NOW)
        restarted = open_at(tmp_path / "db")
        assert await stored(restarted, "b") == (1, b"newer")
        for store in (*stores, restarted):
            await store.close()

    asyncio.run(main())


def only_the_file(folder: Path) -> None:
    (folder / "db").unlink()


def empty(folder: Path) -> None:
    os.truncate(folder / "db", 0)


@pytest.mark.parametrize("take_away", [only_the_file, empty])
def test_a_lost_file_whose_log_is_left_is_reported_and_not_created_anew(
    take_away: Callable[[Path], None], tmp_path: Path
) -> None:
    async def main() -> None:
        store = open_at(tmp_path / "db")
        assert await store.commit(change(new(), b"0"), NOW)
        take_away(tmp_path)
        with pytest.raises(StoreUnavailableError):
            await store.commit(change(new("b"), b"0"), NOW)
        with pytest.raises(StoreUnavailableError):
            await store.ping()
        with pytest.raises(StoreError, match="changes of it"):
            open_at(tmp_path / "db")

    asyncio.run(main())


def test_a_change_that_waits_while_the_file_is_removed_is_not_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30, busy_timeout=10)
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.commit(change(new(), b"0"), NOW))
        await asyncio.sleep(0.05)
        remove(tmp_path)
        other.execute("ROLLBACK")
        other.close()
        with pytest.raises(StoreUnavailableError):
            await waiting
        assert await stored(store) is None
        await store.close()

    asyncio.run(main())


def make_first_format(path: Path) -> None:
    """Create a file as the previous version did: sessions of two owners, a tombstone, and a record."""
    with sqlite3.connect(path) as db:
        for statement in sqlite_file.FIRST_SCHEMA.split(";"):
            db.execute(statement)
        db.execute("CREATE INDEX sessions_by_owner ON sessions (owner, id)")
        db.execute("PRAGMA user_version = 1")
        for n, (id, owner, swept) in enumerate([("a", "", 0), ("b", "me", 0), ("c", "me", 1)], 1):
            row = (n, 1, swept, id, owner, "text", 1, "0" * 64, 1, 7, NOW, NOW, NOW + 100, 100.0)
            db.execute(f"INSERT INTO sessions VALUES ({', '.join('?' * 14)})", row)
            for place in range(0 if swept else 2):
                state = (n * 1024 + place, place, 7 * place, NOW, f"change {n} {place}", b"%d" % place * 1000)
                db.execute("INSERT INTO states VALUES (?, ?, ?, ?, ?, ?)", state)
        db.execute("INSERT INTO receipts VALUES ('me', 'key', 'fingerprint', ?, ?)", (b"[200]\n{}", NOW + 50))
        db.execute("INSERT INTO counts VALUES ('', 1), ('me', 1)")
        db.execute("INSERT INTO secrets VALUES (?)", (b"s" * 32,))
    db.execute("PRAGMA journal_mode = WAL")
    db.close()


def test_a_file_of_the_first_format_is_converted(tmp_path: Path) -> None:
    make_first_format(tmp_path / "db")

    async def main() -> None:
        store = open_at(tmp_path / "db")
        assert await store.secret() == b"s" * 32
        assert await stored(store, "a") == (1, b"1" * 1000)
        assert await stored(store, "b") == (1, b"1" * 1000)
        assert await store.earlier_state("b", 0) == b"0" * 1000
        assert await stored(store, "c") == (1, None)
        loaded = (await store.load("", "me", "key")).record
        assert loaded is not None
        assert loaded.answer == b"[200]\n{}"
        assert [session.id for session in await store.list("me", "", 10, NOW)] == ["b"]
        with sqlite3.connect(tmp_path / "db") as db:
            counts = db.execute("SELECT owner, sessions, bytes, swept FROM counts ORDER BY owner").fetchall()
        db.close()
        assert counts == [
            ("", 1, 2 * (1000 + ROW_BYTES), 0),
            ("me", 1, 2 * (1000 + ROW_BYTES) + len(b"[200]\n{}key") + ROW_BYTES, 1),
        ]
        await store.sweep(NOW + 5000)
        assert await store.load("c", "me", "key") == LoadResult(None, None, None)
        await store.close()
        await open_at(tmp_path / "db").close()

    asyncio.run(main())


class Faulty:
    """A connection to SQLite whose calls fail on demand."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._error: BaseException = RuntimeError()
        self._times = 0

    def fail(self, error: BaseException, times: int) -> None:
        """Raise the error in so many of the next calls."""
        self._error, self._times = error, times

    def execute(self, *args: Any) -> Any:
        if self._times:
            self._times -= 1
            raise self._error
        return self._db.execute(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Faulty]:
    """The connections that a store opens; the first one writes."""
    connect: Any = sqlite3.connect
    opened: list[Faulty] = []

    def connect_faulty(*args: Any, **options: Any) -> Faulty:
        opened.append(Faulty(connect(*args, **options)))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", connect_faulty)
    return opened


ERRORS = [MemoryError(), sqlite3.ProgrammingError("no"), RuntimeError("no"), StopIteration(), SystemExit(1)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("times", range(1, 6))
def test_no_error_ends_the_writing_thread_or_leaves_a_call_waiting(
    error: BaseException, times: int, tmp_path: Path, connections: list[Faulty]
) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30, synced=True)  # the thread makes every commit
        connections[0].fail(error, times)
        calls = [store.commit(change(new(str(n)), b"0"), NOW) for n in range(3)]
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(outcome is True or isinstance(outcome, Exception) for outcome in outcomes)
        assert any(isinstance(outcome, Exception) for outcome in outcomes)
        connections[0].fail(error, 0)
        assert await store.commit(change(new("after"), b"0"), NOW)
        assert await stored(store, "after") == (0, b"0")
        await store.close()

    asyncio.run(main())


def test_the_end_of_the_writing_thread_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: list[Faulty]
) -> None:
    ended = threading.Event()
    monkeypatch.setattr("service.sessions.writer.end_process", lambda reason: ended.set())
    monkeypatch.setattr("service.sessions.writer.to_store_error", None)  # calling it ends the thread

    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30, synced=True)
        connections[0].fail(RuntimeError("no"), 1)
        calling = asyncio.create_task(store.commit(change(new(), b"0"), NOW))
        assert await asyncio.to_thread(ended.wait, 30)
        calling.cancel()

    asyncio.run(main())


def test_a_large_sweep_lets_changes_through(tmp_path: Path) -> None:
    """Also those of another process, which tries to get the lock from time to time."""

    async def main() -> None:
        limits = replace(LIMITS, sessions=100_000)
        stores = [SqliteStore(tmp_path / "db", limits, 2**30) for _ in range(2)]
        for start in range(0, 1000, 100):
            changes = (change(new(f"{start + n}", ttl=1), b"x" * 1000) for n in range(100))
            assert all(await asyncio.gather(*(stores[0].commit(change, NOW) for change in changes)))
        sweeping = asyncio.create_task(stores[0].sweep(NOW + 10))
        others = 0
        while not sweeping.done():
            assert await stores[others % 2].commit(change(new(f"other {others}", ttl=1000), b"0"), NOW)
            others += 1
        assert await sweeping == 1000
        assert others > 10
        for store in stores:
            await store.close()

    with capture_logs() as logs:
        asyncio.run(main())
    assert logs == []
