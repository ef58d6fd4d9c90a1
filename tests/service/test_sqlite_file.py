"""The file of SQLite: who may read it, what becomes of it when it is taken away, and the thread that writes to it."""

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
from service.sessions.store import ROW_BYTES, Found, StoreError
from tests.stores import LIMITS, NOW, change, moved, new, seen


def open_at(path: Path) -> SqliteStore:
    return SqliteStore(path, LIMITS, 2**30, patience=0.05)


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


def test_nobody_else_may_read_a_store(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_at(tmp_path / "db")
        await store.secret()
        assert modes(tmp_path) == PRIVATE
        await store.close()

    with umask(0):
        asyncio.run(main())


def test_a_store_that_others_could_read_is_made_private(tmp_path: Path) -> None:
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
    found = []

    def look(path: Path, *args: Any, **options: Any) -> Any:
        found.append(stat.S_IMODE(path.stat().st_mode))
        return connect(path, *args, **options)

    async def main() -> None:
        monkeypatch.setattr(sqlite3, "connect", look)
        await open_at(tmp_path / "db").close()

    with umask(0):
        asyncio.run(main())
    assert set(found) == {0o600}


def remove(folder: Path) -> None:
    for file in folder.glob("db*"):
        file.unlink()


def replace_by_another(folder: Path) -> None:
    """By a copy from an earlier time."""
    remove(folder)
    (folder / "copy").rename(folder / "db")


@pytest.mark.parametrize(("take_away", "left"), [(remove, None), (replace_by_another, (0, b"0"))])
def test_a_file_that_is_taken_away_is_opened_anew_by_all(
    take_away: Callable[[Path], None], left: tuple[int, bytes] | None, tmp_path: Path
) -> None:
    async def main() -> None:
        copied = open_at(tmp_path / "copy")
        assert await copied.commit(change(new(), b"0"), NOW)
        await copied.close()
        stores = [open_at(tmp_path / "db") for _ in range(2)]
        assert await stores[0].commit(change(new(), b"0"), NOW)
        assert await stores[1].commit(change(moved(new()), b"1"), NOW)
        take_away(tmp_path)
        # No truth of one process is another one's untruth.
        assert [await seen(store) for store in stores] == [left, left]
        assert not await stores[0].commit(change(moved(moved(new())), b"2"), NOW)
        assert await stores[0].commit(change(new("b"), b"new"), NOW)
        assert await seen(stores[1], "b") == (0, b"new")
        assert await stores[0].secret() == await stores[1].secret()
        assert await stores[1].commit(change(moved(new("b")), b"newer"), NOW)
        restarted = open_at(tmp_path / "db")
        assert await seen(restarted, "b") == (1, b"newer")
        for store in (*stores, restarted):
            await store.close()

    asyncio.run(main())


def only_the_file(folder: Path) -> None:
    (folder / "db").unlink()


def empty(folder: Path) -> None:
    os.truncate(folder / "db", 0)


@pytest.mark.parametrize("take_away", [only_the_file, empty])
def test_a_file_whose_log_is_left_is_told_and_not_made_anew(take_away: Callable[[Path], None], tmp_path: Path) -> None:
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


def test_what_waits_to_be_written_when_the_file_is_taken_away_is_not_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30, patience=10)
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.commit(change(new(), b"0"), NOW))
        await asyncio.sleep(0.05)
        remove(tmp_path)
        other.execute("ROLLBACK")
        other.close()
        with pytest.raises(StoreUnavailableError):
            await waiting
        assert await seen(store) is None
        await store.close()

    asyncio.run(main())


def make_first_format(path: Path) -> None:
    """A file as the version before made it: two owners, of whose sessions one is swept, and receipts."""
    with sqlite3.connect(path) as db:
        for statement in sqlite_file._SCHEMA.split(";"):
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


def test_a_file_of_the_first_format_goes_on(tmp_path: Path) -> None:
    make_first_format(tmp_path / "db")

    async def main() -> None:
        store = open_at(tmp_path / "db")
        assert await store.secret() == b"s" * 32
        assert await seen(store, "a") == (1, b"1" * 1000)
        assert await seen(store, "b") == (1, b"1" * 1000)
        assert await store.earlier("b", 0) == b"0" * 1000
        assert await seen(store, "c") == (1, None)
        found = (await store.load("", "me", "key")).receipt
        assert found is not None
        assert found.answer == b"[200]\n{}"
        assert [session.id for session in await store.list("me", "", 10, NOW)] == ["b"]
        with sqlite3.connect(tmp_path / "db") as db:
            counts = db.execute("SELECT owner, sessions, bytes, swept FROM counts ORDER BY owner").fetchall()
        db.close()
        assert counts == [
            ("", 1, 2 * (1000 + ROW_BYTES), 0),
            ("me", 1, 2 * (1000 + ROW_BYTES) + len(b"[200]\n{}key") + ROW_BYTES, 1),
        ]
        await store.sweep(NOW + 5000)
        assert await store.load("c", "me", "key") == Found(None, None, None)
        await store.close()
        await open_at(tmp_path / "db").close()

    asyncio.run(main())


class Broken:
    """A connection whose next calls fail."""

    def __init__(self, db: sqlite3.Connection, error: BaseException, times: int) -> None:
        self._db, self._error, self._times = db, error, times

    def execute(self, *args: Any) -> Any:
        if self._times:
            self._times -= 1
            raise self._error
        return self._db.execute(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


ERRORS = [MemoryError(), sqlite3.ProgrammingError("no"), RuntimeError("no"), StopIteration(), SystemExit(1)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("times", range(1, 6))
def test_no_error_ends_the_thread_that_writes_and_nobody_waits_for_ever(
    error: BaseException, times: int, tmp_path: Path
) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30, synced=True)  # all by the thread
        writer: Any = store._file.writer
        changes: Any = store._file.changes
        writer._db = changes._db = Broken(writer._db, error, times)
        calls = [store.commit(change(new(str(n)), b"0"), NOW) for n in range(3)]
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(outcome is True or isinstance(outcome, Exception) for outcome in outcomes)
        assert any(isinstance(outcome, Exception) for outcome in outcomes)
        writer._db._times = 0
        assert await store.commit(change(new("after"), b"0"), NOW)
        assert await seen(store, "after") == (0, b"0")
        await store.close()

    asyncio.run(main())


def test_a_thread_that_ends_all_the_same_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr("service.sessions.writer.end_process", lambda reason: ended.set())

    async def main() -> None:
        store = SqliteStore(tmp_path / "db", LIMITS, 2**30, synced=True)
        monkeypatch.setattr(store._file.writer, "_serve", None)
        calling = asyncio.create_task(store.commit(change(new(), b"0"), NOW))
        assert await asyncio.to_thread(ended.wait, 30)
        calling.cancel()

    asyncio.run(main())


def test_a_large_sweep_lets_changes_through(tmp_path: Path) -> None:
    """Also those of another process, which has to find the file unlocked at a look."""

    async def main() -> None:
        limits = replace(LIMITS, sessions=100_000)
        stores = [SqliteStore(tmp_path / "db", limits, 2**30) for _ in range(2)]
        for start in range(0, 1000, 100):
            made = (change(new(f"{start + n}", ttl=1), b"x" * 1000) for n in range(100))
            assert all(await asyncio.gather(*(stores[0].commit(one, NOW) for one in made)))
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
