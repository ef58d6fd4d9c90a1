"""One SQLite file, opened: its tables, who may read it, and whether it is still the one that its path names."""

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
from service.sessions.writer import Writer, code_of

_FORMAT = 2
"""Of the tables, in PRAGMA user_version."""

_SCHEMA = """
    -- It stands in the slot n * 1024 + place of the states.
    CREATE TABLE sessions (
        n INTEGER PRIMARY KEY, place INTEGER NOT NULL DEFAULT 0, swept INTEGER NOT NULL DEFAULT 0,
        id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, model TEXT NOT NULL, model_version INTEGER NOT NULL,
        sha256 TEXT NOT NULL, version INTEGER NOT NULL, position INTEGER NOT NULL, created_at REAL NOT NULL,
        updated_at REAL NOT NULL, expires_at REAL NOT NULL, ttl REAL NOT NULL
    ) STRICT;
    CREATE INDEX sessions_by_end ON sessions (swept, expires_at);
    -- Those of a session go round in as many slots as there are versions kept: a change replaces the oldest one, in its
    -- place, and touches no other page.
    CREATE TABLE states (
        slot INTEGER PRIMARY KEY, version INTEGER NOT NULL, position INTEGER NOT NULL, updated_at REAL NOT NULL,
        change TEXT NOT NULL, state BLOB NOT NULL
    ) STRICT;
    CREATE TABLE receipts (
        owner TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, answer BLOB NOT NULL,
        expires_at REAL NOT NULL, PRIMARY KEY (owner, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX receipts_by_end ON receipts (expires_at);
    -- Sessions that are not swept.
    CREATE TABLE counts (owner TEXT PRIMARY KEY, sessions INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE secrets (secret BLOB NOT NULL) STRICT;
"""
_SECOND_FORMAT = f"""
    DROP INDEX IF EXISTS sessions_by_owner;
    CREATE INDEX live_by_owner ON sessions (owner, id) WHERE swept = 0;
    CREATE INDEX swept_by_owner ON sessions (owner, expires_at) WHERE swept = 1;
    -- Bytes of the owner's states and receipts, and sessions that are swept.
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
"""About a state: a fifth less work than SQLite's 4096."""

_LOG_BYTES = 32 * 2**20
"""What is left of a log that was longer."""


class SqliteFile:
    """The file's connections, for the event loop that uses them: the `writer` runs `changes`; `reader` reads on
    the event loop, `lister` beside it.

    Raises:
        StoreError: the file cannot be used; the message says why.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        max_bytes: int,
        synced: bool,
        patience: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.paths = [path.with_name(path.name + end) for end in ("", "-wal", "-shm")]
        self.secret: bytes | None = None
        db = _open(self.paths, patience, max_bytes, synced)
        stats = [os.stat(file) for file in self.paths]
        self._identities = [(str(file), stat.st_dev, stat.st_ino) for file, stat in zip(self.paths, stats, strict=True)]
        self.changes = Changes(db, path, limits)
        self.writer = Writer(db, _connect(path, patience), self.check, patience, not synced, loop)
        # What little there is to wait for here, when another process has crashed, holds up the event loop.
        self.reader = _connect(path, 0.1)
        self.lister = _connect(path, patience)

    def is_moved(self) -> bool:
        """Whether its path names another file by now, or none: what is written is not to be found by others."""
        try:
            for file, device, number in self._identities:
                stat = os.stat(file)
                if stat.st_ino != number or stat.st_dev != device:
                    return True
        except OSError:
            return True
        return False

    def is_emptied(self) -> bool:
        """Whether its content was cut off. What is cut off of a part of it, SQLite finds out by itself."""
        return self.paths[0].stat().st_size == 0

    def check(self) -> None:
        """Raise an error if nothing may be written to it.

        Raises:
            StoreUnavailableError.
        """
        if self.is_moved() or self.is_emptied():
            raise StoreUnavailableError("the session store's file was removed, replaced or emptied")

    async def close(self) -> None:
        """Do what waits to be written, and close the connections."""
        await self.writer.close()
        self.reader.close()
        self.lister.close()


def _open(paths: list[Path], patience: float, max_bytes: int, synced: bool) -> sqlite3.Connection:
    """A connection that writes, and does not wait for others; the file is made if it is not there.

    Raises:
        StoreError: it cannot be used.
    """
    path = paths[0]
    # Others may do the same at this moment, and not all of it waits for them by itself.
    last_try = time.monotonic() + patience
    while True:
        db = None
        try:
            _make_private(paths)
            db = _connect(path, patience)
            _prepare(db, max_bytes, synced)
            db.execute("PRAGMA busy_timeout = 0")
            return db
        except (OSError, sqlite3.Error, StoreError) as error:
            if db is not None:
                db.close()
            if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() > last_try:
                reason = error.strerror if isinstance(error, OSError) else error
                raise StoreError(f"sessions cannot be kept in {path}: {reason}") from error
            time.sleep(0.01)


def _make_private(paths: list[Path]) -> None:
    """Let nobody else read the file, which holds a secret, from its first byte; SQLite makes those beside it as it is.

    Raises:
        StoreError: it is lost, and what was written last is there still.
    """
    path, log, _ = paths
    # In this order: a file that others are just making has no log.
    changes = log.exists() and log.stat().st_size > 0
    if changes and not (path.exists() and path.stat().st_size > 0):
        raise StoreError(
            f"it is empty or not there, but {log.name} beside it holds changes of it: bring it back, or remove both"
        )
    # One that is there is not opened: to close it again would take SQLite's locks from it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    for file in paths:
        if file.is_file() and file.stat().st_mode & 0o077:
            try:
                file.chmod(0o600)
            except OSError as error:
                structlog.get_logger().warning(
                    "others may read the session store, which holds secrets", file=str(file), error=error.strerror
                )


def _connect(path: Path, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)


def _prepare(db: sqlite3.Connection, max_bytes: int, synced: bool) -> None:
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a new file
    db.execute("BEGIN IMMEDIATE")
    (format,) = db.execute("PRAGMA user_version").fetchone()
    if format == 0 and not db.execute("SELECT 1 FROM sqlite_schema").fetchall():
        _run(db, _SCHEMA)
        format = 1
    if format == 1:
        _run(db, _SECOND_FORMAT)
        format = _FORMAT
        db.execute(f"PRAGMA user_version = {_FORMAT}")
    if format != _FORMAT:
        raise StoreError(f"its format is {format}, and this version of Carry knows those up to {_FORMAT} only")
    db.execute("COMMIT")
    if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise StoreError("its file system has no memory that processes share")
    db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # which would wait for the disk
    db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    (page_size,) = db.execute("PRAGMA page_size").fetchone()
    db.execute(f"PRAGMA max_page_count = {max_bytes // page_size}")
    db.execute("SELECT 1 FROM counts").fetchall()  # now the files beside it are there


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        db.execute(statement)
