"""Writes to an SQLite file so that the event loop waits neither for a lock nor for the disk. Knows nothing of sessions.

No error ends its thread: it is raised in the call that it is of, and the thread goes on. If the thread ends all the
same, the process does, since calls would wait for ever.

What is asked for in one turn of the event loop is kept by one commit. What can be done without waiting is done where it
is asked for: to hand it to a thread and back would cost several times as much. The rest goes to a thread, with all else
that waits there, and so does moving SQLite's log to the file, now and then.
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
from service.sessions.batches import Batch, Batches, settle
from service.workers.board import end_process

T = TypeVar("T")
_Batch = Batch[Callable[[], Any]]

LOG_WRITES = 400
"""After which the log is moved to the file: some ten megabytes."""


class Writer:
    """Owns two connections, in autocommit mode, from now on; used in the event loop.

    `db` writes, and does not wait for other processes by itself; `log` moves the log to the file. `check` raises a
    CarryError if nothing may be written. `patience`: seconds to wait. `at_once`: whether a commit of `db` is done
    without waiting for the disk.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        log: sqlite3.Connection,
        check: Callable[[], None],
        patience: float,
        at_once: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._db = db
        self._log = log
        self._check = check
        self._patience = patience
        self._at_once = at_once
        self._writing = threading.Lock()
        self._written = 0
        self._loop = loop
        self._batches: Batches[Callable[[], Any]] = Batches(self._write)
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sessions", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """What it returns, once what it did with the connection is kept; it may run more than once, and counts once.

        A CarryError that it raises must be raised before it changes anything.
        """
        if self._closed:
            raise StoreUnavailableError("the session store is closed")
        outcome: T = await self._batches.ask(work)
        return outcome

    async def run_beside(self, work: Callable[[], T], writes: int) -> T:
        """As `run`, never on the event loop's thread; it counts as so many writes."""
        if self._closed:
            raise StoreUnavailableError("the session store is closed")

        def counted() -> T:
            self._written += writes
            return work()

        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put([(counted, future)])
        return await future

    async def close(self) -> None:
        """Do what waits, and close the connections."""
        if not self._closed:
            self._closed = True
            self._loop.call_soon(self._queue.put, None)  # after what was asked for
        await asyncio.to_thread(self._thread.join)

    def _write(self, batch: _Batch) -> None:
        """All of it by one commit."""
        if not (self._at_once and self._done_at_once(batch)):
            self._queue.put(batch)
        elif self._written >= LOG_WRITES:
            self._queue.put([])  # the thread looks after the log

    def _done_at_once(self, batch: _Batch) -> bool:
        """Whether there was nothing to wait for."""
        if not self._writing.acquire(blocking=False):
            return False
        try:
            outcomes = self._transaction(batch)
        except Exception:  # another process writes, or worse: the thread has the time to find out
            return False
        finally:
            self._writing.release()
        settle(batch, outcomes)
        return True

    def _run(self) -> None:
        try:
            while (batch := self._waiting()) is not None:
                self._serve(batch)
        except BaseException as error:
            end_process(f"the thread that writes sessions ended: {error!r}")
        self._db.close()
        self._log.close()

    def _serve(self, batch: _Batch) -> None:
        try:
            with self._writing:
                self._db.execute(f"PRAGMA busy_timeout = {round(1000 * self._patience)}")
                outcomes = self._outcomes(batch)
                self._db.execute("PRAGMA busy_timeout = 0")
        except BaseException as error:
            outcomes = [_meaning(error)] * len(batch)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(settle, batch, outcomes)
        if self._written >= LOG_WRITES:
            self._written = 0
            self._move_log()

    def _move_log(self) -> None:
        """Most of it while others write, and the rest while they wait: else it would grow for as long as they do."""
        try:
            self._log.execute("PRAGMA wal_checkpoint(PASSIVE)")
            with self._writing:
                self._log.execute("PRAGMA wal_checkpoint(RESTART)")
        except Exception as error:  # there will be a next time
            structlog.get_logger().warning("the session store's log was not moved", error=str(error))

    def _waiting(self) -> _Batch | None:
        """All that waits; None once there will be nothing more."""
        more = self._queue.get()
        batch: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        while more is not None:
            batch += more
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if not batch:
            return None
        self._queue.put(None)  # for the next time
        return batch

    def _outcomes(self, batch: _Batch) -> list[object]:
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

    def _transaction(self, batch: _Batch) -> list[object]:
        outcomes: list[object] = []
        if self._db.in_transaction:  # a rollback failed
            self._db.execute("ROLLBACK")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._check()  # after the wait
            for work, _ in batch:
                try:
                    outcomes.append(work())
                except CarryError as refused:
                    outcomes.append(refused)
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._written += len(batch)
        return outcomes


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Raise SQLite's errors as those that a store may raise."""
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(error) from error


def code_of(error: BaseException) -> int | None:
    """SQLite's primary result code."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _meaning(error: BaseException) -> BaseException:
    """What a caller is told. What is not SQLite's is a fault of ours."""
    if not isinstance(error, sqlite3.Error):
        # A future takes neither of the others.
        return error if isinstance(error, Exception) and not isinstance(error, StopIteration) else RuntimeError(error)
    if code_of(error) == sqlite3.SQLITE_FULL:
        return StoreFullError("the session store is full; nothing was changed")
    structlog.get_logger().error("the session store failed", error=str(error), code=code_of(error))
    return StoreUnavailableError("the session store cannot be read or written now")
