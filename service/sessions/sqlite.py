"""Sessions in one SQLite file, which all processes of a machine share, and which outlives them.

The writer makes the changes. Reads run on the event loop: in WAL mode they wait for no other process, and a thread
would cost more than the read. Only reads of many rows run in a thread.

If the file is removed or replaced while it is in use, the next call opens it anew, so that all processes see the same
one.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from service.errors import StoreUnavailableError
from service.sessions.sqlite_changes import COLUMNS, STATES_OF_SESSION, count_expired, count_unswept
from service.sessions.sqlite_file import SqliteFile
from service.sessions.store import Change, IdempotencyRecord, Limits, LoadResult, Session, Size, StoreError, Version
from service.sessions.writer import translate_errors

T = TypeVar("T")

_LOAD = f"""
    SELECT {COLUMNS}, (SELECT state FROM states WHERE slot = n * 1024 + place) FROM sessions WHERE id = ?
"""
_EARLIER = f"""
    FROM sessions JOIN states ON {STATES_OF_SESSION}
    WHERE id = ? AND states.version < sessions.version AND states.version >= sessions.version - ?
"""
_RECORD = "SELECT owner, key, fingerprint, answer, expires_at FROM receipts WHERE owner = ? AND key = ?"
_LIST = f"""
    SELECT {COLUMNS} FROM sessions WHERE owner = ? AND id > ? AND swept = 0 AND expires_at > ? ORDER BY id LIMIT ?
"""

_SWEEP_WRITES = 400
"""Writes that a batch of a sweep counts as: each of its sessions takes several pages of the log."""

_SWEEP_PAUSE = 0.05
"""Least seconds between two batches: a waiting process tries this often to get the lock."""

REOPEN_SECONDS = 1.0
"""Least seconds between two attempts to open the file anew."""


class SqliteStore:
    """The open file.

    `max_bytes`: the most that the file may grow to. `synced`: acknowledge a change only once it is on the disk, so that
    it outlives a power cut. Without it, a power cut may take back the last changes, each of them whole. `busy_timeout`:
    seconds to wait for another process's change.

    Raises:
        StoreError: the file cannot be used; the message says why.
    """

    def __init__(
        self, path: Path, limits: Limits, max_bytes: int, synced: bool = False, busy_timeout: float = 5.0
    ) -> None:
        self._open = partial(
            SqliteFile, path.absolute(), limits, max_bytes, synced, busy_timeout, asyncio.get_running_loop()
        )
        self._file = self._open()
        self._closed = False
        self._opening = asyncio.Lock()
        self._last_reopened = 0.0
        self._thread = ThreadPoolExecutor(1, "sessions-list")

    async def load(self, id: str, owner: str, key: str | None) -> LoadResult:
        reader = (await self._current_file()).reader
        with translate_errors():
            rows = reader.execute(_LOAD, (id,)).fetchall()
            records = [] if key is None else reader.execute(_RECORD, (owner, key)).fetchall()
        record = IdempotencyRecord(*records[0]) if records else None
        return LoadResult(Session(*rows[0][:-1]), rows[0][-1], record) if rows else LoadResult(None, None, record)

    async def commit(self, change: Change, now: float) -> bool:
        file = await self._current_file()
        return await file.writer.run(partial(file.changes.commit, change, now))

    async def delete(self, session: Session, record: IdempotencyRecord | None, now: float) -> bool:
        file = await self._current_file()
        return await file.writer.run(partial(file.changes.delete, session, record, now))

    async def touch(self, id: str, expires_at: float) -> None:
        file = await self._current_file()
        await file.writer.run(partial(file.changes.touch, id, expires_at))

    async def versions(self, id: str) -> list[Version]:
        file = await self._current_file()
        with translate_errors():
            rows = file.reader.execute(
                f"SELECT states.version, states.position, states.updated_at {_EARLIER} ORDER BY states.version DESC",
                (id, file.changes.limits.versions),
            ).fetchall()
        return [Version(*row) for row in rows]

    async def earlier_state(self, id: str, version: int) -> bytes | None:
        file = await self._current_file()
        with translate_errors():
            rows = file.reader.execute(
                f"SELECT state {_EARLIER} AND states.version = ?", (id, file.changes.limits.versions, version)
            ).fetchall()
        return rows[0][0] if rows else None

    async def list(self, owner: str, after: str, limit: int, now: float) -> list[Session]:
        reader = (await self._current_file()).thread_reader
        rows = await self._read_in_thread(lambda: reader.execute(_LIST, (owner, after, now, limit)).fetchall())
        return [Session(*row) for row in rows]

    async def sweep(self, now: float) -> int:
        total, has_more = 0, True
        while has_more:
            started = time.perf_counter()
            file = await self._current_file()
            expired, has_more = await file.writer.run_in_thread(partial(file.changes.sweep, now), _SWEEP_WRITES)
            total += expired
            if has_more:
                await asyncio.sleep(max(_SWEEP_PAUSE, time.perf_counter() - started))
        return total

    async def secret(self) -> bytes:
        file = await self._current_file()
        if file.secret is None:
            file.secret = await file.writer.run(file.changes.secret)
        return file.secret

    async def size(self, now: float) -> Size:
        file = await self._current_file()
        reader = file.thread_reader
        sessions = await self._read_in_thread(lambda: count_unswept(reader) - count_expired(reader, now))
        return Size(sessions, sum(path.stat().st_size for path in file.paths if path.exists()))

    async def verify(self) -> None:
        pass  # opening the file verified it

    async def ping(self) -> None:
        file = await self._current_file()
        file.check()
        with translate_errors():
            file.reader.execute("SELECT n FROM sessions LIMIT 1").fetchall()

    async def close(self) -> None:
        self._closed = True
        await self._file.close()
        self._thread.shutdown()

    async def _read_in_thread(self, read: Callable[[], T]) -> T:
        if self._closed:
            raise StoreUnavailableError("the session store is closed")
        with translate_errors():
            return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    async def _current_file(self) -> SqliteFile:
        """The file that the path names.

        Raises:
            StoreUnavailableError: it was removed or replaced, and cannot be opened anew.
        """
        if self._closed or not self._file.is_replaced():
            return self._file
        async with self._opening:
            if self._file.is_replaced() and not self._closed:
                await self._reopen()
        return self._file

    async def _reopen(self) -> None:
        log, path = structlog.get_logger(), str(self._file.paths[0])
        if time.monotonic() < self._last_reopened + REOPEN_SECONDS:
            raise StoreUnavailableError("the session store's file was removed or replaced")
        self._last_reopened = time.monotonic()
        log.error("the session store's file was removed or replaced; it is opened anew", file=path)
        try:
            reopened = await asyncio.to_thread(self._open)
        except StoreError as error:
            log.error("the session store could not be opened anew", reason=str(error))
            raise StoreUnavailableError("the session store's file was removed or replaced") from error
        previous, self._file = self._file, reopened
        try:
            await previous.close()
        except Exception:  # the new file works without it
            log.warning("the connections to the former file were not closed", exc_info=True)
