"""Writes to an SQLite file so that the event loop waits neither for a lock nor for the disk. Knows nothing of sessions.

One commit stores everything that callers submit during one iteration of the event loop. A commit that need not wait
runs on the event loop: a thread would cost several times as much. All other commits run in a thread, and so does the
checkpoint, which copies SQLite's write-ahead log into the file.

An error is raised in the call that caused it and does not end the thread. If the thread ends all the same, the process
ends: calls would wait for ever.
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
from service.exit import end_process
from service.sessions.group_commit import Batch, GroupCommit, resolve

T = TypeVar("T")
_Batch = Batch[Callable[[], Any]]

CHECKPOINT_EVERY = 400
"""Writes between two checkpoints: some ten megabytes of the log."""


class Writer:
    """Owns two connections in autocommit mode; used on the event loop.

    `db` writes, with a busy timeout of 0. `checkpointer` makes the checkpoints. `check` raises a CarryError if the file
    may not be written. `busy_timeout`: seconds that the thread waits for another process's lock. `inline`: run commits
    on the event loop where possible; only if they do not wait for the disk.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        checkpointer: sqlite3.Connection,
        check: Callable[[], None],
        busy_timeout: float,
        inline: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._db = db
        self._checkpointer = checkpointer
        self._check = check
        self._busy_timeout = busy_timeout
        self._inline = inline
        self._lock = threading.Lock()
        self._writes = 0
        self._loop = loop
        self._commits: GroupCommit[Callable[[], Any]] = GroupCommit(self._flush)
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sessions", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a transaction, and return its result once that is committed. It may run more than once; only
        the last run counts.

        `work` must raise a CarryError before it changes anything.
        """
        self._check_open()
        result: T = await self._commits.submit(work)
        return result

    async def run_in_thread(self, work: Callable[[], T], writes: int) -> T:
        """As `run`, never on the event loop's thread. It counts as so many writes."""
        self._check_open()

        def counted() -> T:
            self._writes += writes
            return work()

        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put([(counted, future)])
        return await future

    async def close(self) -> None:
        """Finish what was submitted, and close the connections."""
        if not self._closed:
            self._closed = True
            self._loop.call_soon(self._queue.put, None)  # behind the last batch
        await asyncio.to_thread(self._thread.join)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailableError("the session store is closed")

    def _flush(self, batch: _Batch) -> None:
        if not (self._inline and self._commit_inline(batch)):
            self._queue.put(batch)
        elif self._writes >= CHECKPOINT_EVERY:
            self._queue.put([])  # wakes the thread, which makes the checkpoint

    def _commit_inline(self, batch: _Batch) -> bool:
        """Commit on the event loop's thread; False if that would wait or fails."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            outcomes = self._transaction(batch)
        except Exception:  # another process writes, or worse: the thread has the time to find out
            return False
        finally:
            self._lock.release()
        resolve(batch, outcomes)
        return True

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._commit_in_thread(batch)
        except BaseException as error:
            end_process(f"the thread that writes sessions ended: {error!r}")
        self._db.close()
        self._checkpointer.close()

    def _commit_in_thread(self, batch: _Batch) -> None:
        try:
            with self._lock:
                self._db.execute(f"PRAGMA busy_timeout = {round(1000 * self._busy_timeout)}")
                outcomes = self._commit_or_split(batch)
                self._db.execute("PRAGMA busy_timeout = 0")
        except BaseException as error:
            outcomes = [to_store_error(error)] * len(batch)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and no caller waits
            self._loop.call_soon_threadsafe(resolve, batch, outcomes)
        if self._writes >= CHECKPOINT_EVERY:
            self._writes = 0
            self._checkpoint_wal()

    def _checkpoint_wal(self) -> None:
        """Copy most of the log while others write, and the rest while they wait: otherwise the log would grow for as
        long as they write."""
        try:
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)")
            with self._lock:
                self._checkpointer.execute("PRAGMA wal_checkpoint(RESTART)")
        except Exception as error:  # the next checkpoint tries again
            structlog.get_logger().warning("the session store's log could not be checkpointed", error=str(error))

    def _next_batch(self) -> _Batch | None:
        """Join all queued batches; None after the last one."""
        queued = self._queue.get()
        batch: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        while queued is not None:
            batch += queued
            try:
                queued = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if not batch:
            return None
        self._queue.put(None)  # ends the thread after this batch
        return batch

    def _commit_or_split(self, batch: _Batch) -> list[object]:
        """What each item returned or raised. If the commit of all fails, commit them one by one."""
        try:
            return self._transaction(batch)
        except Exception as error:
            if primary_code(error) == sqlite3.SQLITE_BUSY:  # each one alone would wait as long
                return [to_store_error(error)] * len(batch)
            if len(batch) > 1:
                return [outcome for item in batch for outcome in self._commit_or_split([item])]
            if primary_code(error) == sqlite3.SQLITE_FULL:
                with contextlib.suppress(sqlite3.Error):
                    # The log may fill the disk: empty it, and try again.
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    return self._transaction(batch)
            return [to_store_error(error)]

    def _transaction(self, batch: _Batch) -> list[object]:
        outcomes: list[object] = []
        if self._db.in_transaction:  # an earlier rollback failed
            self._db.execute("ROLLBACK")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._check()  # after the wait for the lock
            for work, _ in batch:
                try:
                    outcomes.append(work())
                except CarryError as refusal:
                    outcomes.append(refusal)
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._writes += len(batch)
        return outcomes


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise SQLite's errors as the errors of a store."""
    try:
        yield
    except sqlite3.Error as error:
        raise to_store_error(error) from error


def primary_code(error: BaseException) -> int | None:
    """SQLite's primary result code; None of other errors."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def to_store_error(error: BaseException) -> BaseException:
    """The error that a caller gets. Any error that is not SQLite's is a bug of ours."""
    if not isinstance(error, sqlite3.Error):
        # A future does not take StopIteration, nor exceptions like SystemExit.
        return error if isinstance(error, Exception) and not isinstance(error, StopIteration) else RuntimeError(error)
    if primary_code(error) == sqlite3.SQLITE_FULL:
        return StoreFullError("the session store is full; nothing was changed")
    structlog.get_logger().error("the session store failed", error=str(error), code=primary_code(error))
    return StoreUnavailableError("the session store cannot be read or written now")
