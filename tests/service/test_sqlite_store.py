"""Sessions in an SQLite file: several processes, full and damaged files, the log."""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from service.errors import StoreFullError, StoreUnavailableError
from service.sessions.sqlite import SqliteStore
from service.sessions.store import LoadResult, StoreError
from service.sessions.stores import open_store
from service.sessions.writer import CHECKPOINT_EVERY
from tests.stores import LIMITS, NOW, change, count_up, new, record, stored, updated


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
