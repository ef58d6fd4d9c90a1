"""An open SQLite file: its tables, its access rights, and whether its path still names it."""

import asyncio
import contextlib
import os
import sqlite3
import time
from pathlib import Path

import structlog

from service.errors import StoreUnavailableError
from service.sessions.sqlite_changes import Changes
from service.sessions.store import ROW_BYTES, Limits, StoreError
from service.sessions.writer import Writer, primary_code

_FORMAT = 2
"""The format of the tables, in PRAGMA user_version."""

FIRST_SCHEMA = """
    -- `place` is an index into the ring of the session's states. The current state has the slot n * 1024 + place.
    CREATE TABLE sessions (
        n INTEGER PRIMARY KEY, place INTEGER NOT NULL DEFAULT 0, swept INTEGER NOT NULL DEFAULT 0,
        id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, model TEXT NOT NULL, model_version INTEGER NOT NULL,
        sha256 TEXT NOT NULL, version INTEGER NOT NULL, position INTEGER NOT NULL, created_at REAL NOT NULL,
        updated_at REAL NOT NULL, expires_at REAL NOT NULL, ttl REAL NOT NULL
    ) STRICT;
    CREATE INDEX sessions_by_end ON sessions (swept, expires_at);
    -- A session has a ring of states, one for each version kept. A change replaces the oldest state in place, and
    -- touches no other page.
    CREATE TABLE states (
        slot INTEGER PRIMARY KEY, version INTEGER NOT NULL, position INTEGER NOT NULL, updated_at REAL NOT NULL,
        change TEXT NOT NULL, state BLOB NOT NULL
    ) STRICT;
    CREATE TABLE receipts (
        owner TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, answer BLOB NOT NULL,
        expires_at REAL NOT NULL, PRIMARY KEY (owner, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX receipts_by_end ON receipts (expires_at);
    -- `sessions`: those that are not swept.
    CREATE TABLE counts (owner TEXT PRIMARY KEY, sessions INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE secrets (secret BLOB NOT NULL) STRICT;
"""
_SECOND_SCHEMA = f"""
    DROP INDEX IF EXISTS sessions_by_owner;
    CREATE INDEX live_by_owner ON sessions (owner, id) WHERE swept = 0;
    CREATE INDEX swept_by_owner ON sessions (owner, expires_at) WHERE swept = 1;
    -- `bytes`: of the owner's states and receipts. `swept`: the owner's tombstones, which have swept = 1.
    ALTER TABLE counts ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE counts ADD COLUMN swept INTEGER NOT NULL DEFAULT 0;
    INSERT INTO counts (owner, sessions, bytes)
        SELECT owner, 0, sum(length(answer) + length(key) + {ROW_BYTES}) FROM receipts GROUP BY owner
        ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
    INSERT INTO counts (owner, sessions, bytes)
        SELECT owner, 0, sum(length(state) + {ROW_BYTES}) FROM states JOIN sessions ON n = slot / 1024 GROUP BY owner
        ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
    INSERT INTO counts (owner, sessions, swept)
        SELECT owner, 0, count(*) FROM sessions WHERE swept = 1 GROUP BY owner
        ON CONFLICT DO UPDATE SET swept = excluded.swept;
"""

_PAGE_BYTES = 8192
"""About one state: a fifth less work than with SQLite's default of 4096."""

_WAL_BYTES = 32 * 2**20
"""A checkpoint cuts a longer log to this length."""


class SqliteFile:
    """The file's connections, for one event loop. `writer` runs `changes`; `reader` reads on the event loop,
    `thread_reader` in a thread.

    Raises:
        StoreError: the file cannot be used; the message says why.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        max_bytes: int,
        synced: bool,
        busy_timeout: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.paths = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
        self.secret: bytes | None = None
        db = _open(self.paths, busy_timeout, max_bytes, synced)
        stats = [os.stat(file) for file in self.paths]
        self._identities = [(str(file), stat.st_dev, stat.st_ino) for file, stat in zip(self.paths, stats, strict=True)]
        self.changes = Changes(db, path, limits)
        self.writer = Writer(db, _connect(path, busy_timeout), self.check, busy_timeout, not synced, loop)
        # A read waits only after another process has crashed. It blocks the event loop, so not for long.
        self.reader = _connect(path, 0.1)
        self.thread_reader = _connect(path, busy_timeout)

    def is_replaced(self) -> bool:
        """Whether the path names another file, or none: other processes would not see what is written to this one."""
        try:
            for file, device, number in self._identities:
                stat = os.stat(file)
                if stat.st_ino != number or stat.st_dev != device:
                    return True
        except OSError:
            return True
        return False

    def is_empty(self) -> bool:
        """Whether the file was truncated to nothing. SQLite itself notices a file that lost a part."""
        return self.paths[0].stat().st_size == 0

    def check(self) -> None:
        """Check that the file may be written.

        Raises:
            StoreUnavailableError: it was removed, replaced or emptied.
        """
        if self.is_replaced() or self.is_empty():
            raise StoreUnavailableError("the session store's file was removed, replaced or emptied")

    async def close(self) -> None:
        """Finish pending changes, and close the connections."""
        await self.writer.close()
        self.reader.close()
        self.thread_reader.close()


def _open(paths: list[Path], busy_timeout: float, max_bytes: int, synced: bool) -> sqlite3.Connection:
    """Open a connection that writes, with a busy timeout of 0; create a file that does not exist.

    Raises:
        StoreError: the file cannot be used.
    """
    path = paths[0]
    # Other processes may open it at this moment, and SQLite does not wait for them in every step.
    deadline = time.monotonic() + busy_timeout
    while True:
        db = None
        try:
            _make_private(paths)
            db = _connect(path, busy_timeout)
            _prepare(db, max_bytes, synced)
            db.execute("PRAGMA busy_timeout = 0")
            return db
        except (OSError, sqlite3.Error, StoreError) as error:
            if db is not None:
                db.close()
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                reason = error.strerror if isinstance(error, OSError) else error
                raise StoreError(f"sessions cannot be kept in {path}: {reason}") from error
            time.sleep(0.01)


def _make_private(paths: list[Path]) -> None:
    """Let only the owner read the files, which hold a secret, from their first byte. SQLite creates the other two with
    the rights of the first.

    Raises:
        StoreError: the file is lost, but its log is not.
    """
    path, wal, _ = paths
    # In this order: a file that another process is just creating has no log.
    has_changes = wal.exists() and wal.stat().st_size > 0
    if has_changes and not (path.exists() and path.stat().st_size > 0):
        raise StoreError(f"it is empty or missing, but {wal.name} holds changes of it: restore it, or remove both")
    # Do not open an existing file: closing it again would release SQLite's locks on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    for file in paths:
        if file.is_file() and file.stat().st_mode & 0o077:
            try:
                file.chmod(0o600)
            except OSError as error:
                structlog.get_logger().warning(
                    "other users may read the session store, which holds secrets", file=str(file), error=error.strerror
                )


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)


def _prepare(db: sqlite3.Connection, max_bytes: int, synced: bool) -> None:
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a new file
    db.execute("BEGIN IMMEDIATE")
    (format,) = db.execute("PRAGMA user_version").fetchone()
    if format == 0 and not db.execute("SELECT 1 FROM sqlite_schema").fetchall():
        _run(db, FIRST_SCHEMA)
        format = 1
    if format == 1:
        _run(db, _SECOND_SCHEMA)
        format = _FORMAT
        db.execute(f"PRAGMA user_version = {_FORMAT}")
    if format != _FORMAT:
        raise StoreError(f"its format is {format}; this version of Carry reads formats up to {_FORMAT}")
    db.execute("COMMIT")
    if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise StoreError("its file system does not support shared memory, which SQLite's WAL mode needs")
    db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # a checkpoint would wait for the disk
    db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    (page_size,) = db.execute("PRAGMA page_size").fetchone()
    db.execute(f"PRAGMA max_page_count = {max_bytes // page_size}")
    db.execute("SELECT 1 FROM counts").fetchall()  # creates the other two files


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        db.execute(statement)
