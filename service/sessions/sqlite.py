"""Sessions in one SQLite file, which the processes of one machine share, and which outlives them.

Changes go through the writer. Reads run where they are asked for: in WAL mode they wait for nobody, and going to
another thread would cost more than reading. What reads many rows runs beside the event loop.

A file that is removed or replaced while it is used is opened anew with the next call, so that all processes see the
same one.
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
from service.sessions.sqlite_changes import COLUMNS, OWN_SLOTS, expired, kept
from service.sessions.sqlite_file import SqliteFile
from service.sessions.store import Change, Found, Limits, Receipt, Session, Size, StoreError, Version
from service.sessions.writer import told

T = TypeVar("T")

_LOAD = f"""
    SELECT {COLUMNS}, (SELECT state FROM states WHERE slot = n * 1024 + place) FROM sessions WHERE id = ?
"""
_EARLIER = f"""
    FROM sessions JOIN states ON {OWN_SLOTS}
    WHERE id = ? AND states.version < sessions.version AND states.version >= sessions.version - ?
"""
_RECEIPT = "SELECT owner, key, fingerprint, answer, expires_at FROM receipts WHERE owner = ? AND key = ?"
_LIST = f"""
    SELECT {COLUMNS} FROM sessions WHERE owner = ? AND id > ? AND swept = 0 AND expires_at > ? ORDER BY id LIMIT ?
"""

_SWEEP_WRITES = 400
"""What a piece of a sweep counts for as writes: each of its sessions takes some pages of the log."""

_SWEEP_PAUSE = 0.05
"""Least seconds between two pieces: other processes look that often whether they may write."""

_LEAST_RETRY = 1.0
"""Seconds between two tries to open a file anew."""


class SqliteStore:
    """The file, opened.

    `max_bytes`: the most that the file may grow to. `synced`: whether a change is on the disk before it is acknowledged
    and outlives a power cut, too; otherwise sessions may stand a few changes earlier after one, each of them whole.
    `patience`: seconds to wait for another process' change.

    Raises:
        StoreError: the file cannot be used; the message says why.
    """

    def __init__(self, path: Path, limits: Limits, max_bytes: int, synced: bool = False, patience: float = 5.0) -> None:
        self._open = partial(
            SqliteFile, path.absolute(), limits, max_bytes, synced, patience, asyncio.get_running_loop()
        )
        self._file = self._open()
        self._closed = False
        self._opening = asyncio.Lock()
        self._tried = 0.0
        self._beside = ThreadPoolExecutor(1, "sessions-list")

    async def load(self, id: str, owner: str, key: str | None) -> Found:
        reader = (await self._intact()).reader
        with told():
            rows = reader.execute(_LOAD, (id,)).fetchall()
            receipts = [] if key is None else reader.execute(_RECEIPT, (owner, key)).fetchall()
        receipt = Receipt(*receipts[0]) if receipts else None
        return Found(Session(*rows[0][:-1]), rows[0][-1], receipt) if rows else Found(None, None, receipt)

    async def commit(self, change: Change, now: float) -> bool:
        file = await self._intact()
        return await file.writer.run(partial(file.changes.commit, change, now))

    async def delete(self, session: Session, receipt: Receipt | None, now: float) -> bool:
        file = await self._intact()
        return await file.writer.run(partial(file.changes.delete, session, receipt, now))

    async def touch(self, id: str, expires_at: float) -> None:
        file = await self._intact()
        await file.writer.run(partial(file.changes.touch, id, expires_at))

    async def versions(self, id: str) -> list[Version]:
        file = await self._intact()
        with told():
            rows = file.reader.execute(
                f"SELECT states.version, states.position, states.updated_at {_EARLIER} ORDER BY states.version DESC",
                (id, file.changes.limits.versions),
            ).fetchall()
        return [Version(*row) for row in rows]

    async def earlier(self, id: str, version: int) -> bytes | None:
        file = await self._intact()
        with told():
            rows = file.reader.execute(
                f"SELECT state {_EARLIER} AND states.version = ?", (id, file.changes.limits.versions, version)
            ).fetchall()
        return rows[0][0] if rows else None

    async def list(self, owner: str, after: str, limit: int, now: float) -> list[Session]:
        lister = (await self._intact()).lister
        rows = await self._read(lambda: lister.execute(_LIST, (owner, after, now, limit)).fetchall())
        return [Session(*row) for row in rows]

    async def sweep(self, now: float) -> int:
        total, more = 0, True
        while more:
            started = time.perf_counter()
            file = await self._intact()
            swept, more = await file.writer.run_beside(partial(file.changes.sweep, now), _SWEEP_WRITES)
            total += swept
            if more:
                await asyncio.sleep(max(_SWEEP_PAUSE, time.perf_counter() - started))
        return total

    async def secret(self) -> bytes:
        file = await self._intact()
        if file.secret is None:
            file.secret = await file.writer.run(file.changes.secret)
        return file.secret

    async def size(self, now: float) -> Size:
        file = await self._intact()
        sessions = await self._read(lambda: kept(file.lister) - expired(file.lister, now))
        return Size(sessions, sum(path.stat().st_size for path in file.paths if path.exists()))

    async def verify(self) -> None:
        pass  # it was opened

    async def ping(self) -> None:
        file = await self._intact()
        file.check()
        with told():
            file.reader.execute("SELECT n FROM sessions LIMIT 1").fetchall()

    async def close(self) -> None:
        self._closed = True
        await self._file.close()
        self._beside.shutdown()

    async def _read(self, work: Callable[[], T]) -> T:
        """What it returns, beside the event loop."""
        if self._closed:
            raise StoreUnavailableError("the session store is closed")
        with told():
            return await asyncio.get_running_loop().run_in_executor(self._beside, work)

    async def _intact(self) -> SqliteFile:
        """The file that the path names.

        Raises:
            StoreUnavailableError: it was removed or replaced, and cannot be opened.
        """
        if self._closed or not self._file.is_moved():
            return self._file
        async with self._opening:
            if self._file.is_moved() and not self._closed:
                await self._open_anew()
        return self._file

    async def _open_anew(self) -> None:
        log, path = structlog.get_logger(), str(self._file.paths[0])
        if time.monotonic() < self._tried + _LEAST_RETRY:
            raise StoreUnavailableError("the session store's file was removed or replaced")
        self._tried = time.monotonic()
        log.error("the session store's file was removed or replaced; it is opened anew", file=path)
        try:
            opened = await asyncio.to_thread(self._open)
        except StoreError as error:
            log.error("the session store could not be opened anew", reason=str(error))
            raise StoreUnavailableError("the session store's file was removed or replaced") from error
        lost, self._file = self._file, opened
        try:
            await lost.close()
        except Exception:  # nobody needs it any more
            log.warning("the connections to the former file were not closed", exc_info=True)
