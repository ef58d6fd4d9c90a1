"""The thread that writes to an SQLite file, so that the event loop waits neither for a lock nor for the disk: all that
waits there is kept by one commit. Knows nothing of sessions.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import structlog

from service.errors import CarryError, StoreFullError, StoreUnavailableError

T = TypeVar("T")
_Work = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Writer:
    """Owns a connection, in autocommit mode, from now on; made in the event loop that uses it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sessions", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """What it returns, once what it did with the connection is kept; it may run more than once, and counts once.

        A CarryError that it raises must be raised before it changes anything.
        """
        if self._closed:
            raise StoreUnavailableError("the session store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, future))
        return await future

    async def close(self) -> None:
        """Do what waits, and close the connection."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while batch := self._waiting():
            outcomes = self._outcomes(batch)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_settle, batch, outcomes)
        self._db.close()

    def _waiting(self) -> list[_Work]:
        """All that waits, at least one; nothing once there will be nothing more."""
        batch, work = [], self._queue.get()
        while work is not None:
            batch.append(work)
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._queue.put(None)  # for the next time
        return batch

    def _outcomes(self, batch: list[_Work]) -> list[object]:
        """What each of them returned or raised, all kept by one commit; if that fails, each by its own."""
        try:
            return self._transaction(batch)
        except Exception as error:
            if code_of(error) == sqlite3.SQLITE_BUSY:  # each by its own would wait as long
                return [_meaning(error)] * len(batch)
            if len(batch) > 1:
                return [outcome for work in batch for outcome in self._outcomes([work])]
            if code_of(error) == sqlite3.SQLITE_FULL:
                with contextlib.suppress(sqlite3.Error):
                    # It may be the disk that is full, and of the log.
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    return self._transaction(batch)
            return [_meaning(error)]

    def _transaction(self, batch: list[_Work]) -> list[object]:
        outcomes: list[object] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for work, _ in batch:
                try:
                    outcomes.append(work())
                except CarryError as refused:
                    outcomes.append(refused)
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        return outcomes


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Raise SQLite's errors as those that a store may raise."""
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(error) from error


def code_of(error: Exception) -> int | None:
    """SQLite's primary result code."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _meaning(error: Exception) -> Exception:
    """What a caller is told. What is not SQLite's is a fault of ours."""
    if not isinstance(error, sqlite3.Error):
        return error
    if code_of(error) == sqlite3.SQLITE_FULL:
        return StoreFullError("the session store is full; nothing was changed")
    structlog.get_logger().error("the session store failed", error=str(error), code=code_of(error))
    return StoreUnavailableError("the session store cannot be read or written now")


def _settle(batch: list[_Work], outcomes: list[object]) -> None:
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():  # whoever waited was cancelled
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
