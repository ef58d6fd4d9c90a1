"""Sessions in one SQLite file, which the processes of one machine share, and which outlives them.

Changes go through the writer. Reads run where they are asked for: in WAL mode they wait for nobody, and going to
another thread would cost more than reading.
"""

import os
import sqlite3
import time
from dataclasses import fields
from functools import partial
from operator import attrgetter
from pathlib import Path

from service.errors import StoreFullError, TooManySessionsError
from service.sessions.store import Change, Found, Limits, Receipt, Session, Size, StoreError, Version
from service.sessions.writer import Writer, code_of, told

_FORMAT = 1
"""Of the tables, in PRAGMA user_version."""

_SCHEMA = """
    -- It stands in the slot n * 1024 + place of the states.
    CREATE TABLE sessions (
        n INTEGER PRIMARY KEY, place INTEGER NOT NULL DEFAULT 0, swept INTEGER NOT NULL DEFAULT 0,
        id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, model TEXT NOT NULL, model_version INTEGER NOT NULL,
        sha256 TEXT NOT NULL, version INTEGER NOT NULL, position INTEGER NOT NULL, created_at REAL NOT NULL,
        updated_at REAL NOT NULL, expires_at REAL NOT NULL, ttl REAL NOT NULL
    ) STRICT;
    CREATE INDEX sessions_by_owner ON sessions (owner, id);
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
    -- Of sessions that are not swept.
    CREATE TABLE counts (owner TEXT PRIMARY KEY, sessions INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE secrets (secret BLOB NOT NULL) STRICT;
"""
_FIELDS = [field.name for field in fields(Session)]
_MOVING = _FIELDS[2:]  # all but the id and the owner
_COLUMNS = ", ".join(_FIELDS)
_LOAD = f"""
    SELECT {_COLUMNS}, (SELECT state FROM states WHERE slot = n * 1024 + place) FROM sessions WHERE id = ?
"""
_CREATE = f"INSERT INTO sessions ({_COLUMNS}) VALUES ({', '.join('?' for _ in _FIELDS)}) RETURNING n * 1024"
_MOVE = f"""
    UPDATE sessions SET {", ".join(f"{name} = ?" for name in _MOVING)}, place = (place + 1) % ?
    WHERE id = ? AND version = ? AND swept = 0 RETURNING n * 1024 + place
"""
_OWN = "slot BETWEEN n * 1024 AND n * 1024 + 1023"
_EARLIER = f"""
    FROM sessions JOIN states ON {_OWN}
    WHERE id = ? AND states.version < sessions.version AND states.version >= sessions.version - ?
"""
_FORGET = "DELETE FROM states WHERE slot BETWEEN ?1 * 1024 AND ?1 * 1024 + 1023"
_RECEIPT = "SELECT owner, key, fingerprint, answer, expires_at FROM receipts WHERE owner = ? AND key = ?"
_created, _moved = attrgetter(*_FIELDS), attrgetter(*_MOVING)

_SWEPT_AT_ONCE = 200
"""Sessions and receipts that one transaction sweeps; others' changes come between."""

_PAGE_BYTES = 8192
"""About a state: a fifth less work than SQLite's 4096."""

DISK_RESERVE = 32 * 2**20
"""Bytes of the disk that are left free for the log: on a disk that is quite full, nothing could be deleted any more,
since that has to be written to the log first, and the log could not be moved to a file that has to grow for it."""

_LOG_BYTES = 32 * 2**20
"""What is left of a log that was longer."""


class SqliteStore:
    """A connection that reads, and those of the writer.

    `max_bytes`: the most that the file may grow to. `synced`: whether a change is on the disk before it is acknowledged
    and outlives a power cut, too; otherwise sessions may stand a few changes earlier after one, each of them whole.
    `patience`: seconds to wait for another process' change.

    Raises:
        StoreError: the file cannot be used; the message says why.
    """

    def __init__(self, path: Path, limits: Limits, max_bytes: int, synced: bool = False, patience: float = 5.0) -> None:
        path = path.absolute()
        self._files = [path.with_name(path.name + end) for end in ("", "-wal", "-shm")]
        self._limits = limits
        self._disk_is_short = False
        self._unlooked = DISK_RESERVE
        """Bytes that may have been taken of the disk since it was last looked at."""
        self._db = _open(path, patience, max_bytes, synced)
        self._writer = Writer(self._db, _connect(path, patience), patience, at_once=not synced)
        # What little there is to wait for here, when another process has crashed, holds up the event loop.
        self._reader = _connect(path, 0.1)

    async def load(self, id: str, owner: str, key: str | None) -> Found:
        with told():
            rows = self._reader.execute(_LOAD, (id,)).fetchall()
            receipts = [] if key is None else self._reader.execute(_RECEIPT, (owner, key)).fetchall()
        receipt = Receipt(*receipts[0]) if receipts else None
        return Found(Session(*rows[0][:-1]), rows[0][-1], receipt) if rows else Found(None, None, receipt)

    async def commit(self, change: Change, now: float) -> bool:
        return await self._writer.run(partial(self._commit, change, now))

    async def delete(self, session: Session, receipt: Receipt | None, now: float) -> bool:
        return await self._writer.run(partial(self._delete, session, receipt, now))

    async def touch(self, id: str, expires_at: float) -> None:
        await self._writer.run(partial(self._touch, id, expires_at))

    async def versions(self, id: str) -> list[Version]:
        with told():
            rows = self._reader.execute(
                f"SELECT states.version, states.position, states.updated_at {_EARLIER} ORDER BY states.version DESC",
                (id, self._limits.versions),
            ).fetchall()
        return [Version(*row) for row in rows]

    async def earlier(self, id: str, version: int) -> bytes | None:
        with told():
            rows = self._reader.execute(
                f"SELECT state {_EARLIER} AND states.version = ?", (id, self._limits.versions, version)
            ).fetchall()
        return rows[0][0] if rows else None

    async def list(self, owner: str, after: str, limit: int, now: float) -> list[Session]:
        with told():
            rows = self._reader.execute(
                f"SELECT {_COLUMNS} FROM sessions WHERE owner = ? AND id > ? AND NOT swept AND expires_at > ?"
                " ORDER BY id LIMIT ?",
                (owner, after, now, limit),
            ).fetchall()
        return [Session(*row) for row in rows]

    async def sweep(self, now: float) -> int:
        total, more = 0, True
        while more:
            expired, more = await self._writer.run(partial(self._sweep, now))
            total += expired
        return total

    async def secret(self) -> bytes:
        return await self._writer.run(self._secret)

    async def size(self, now: float) -> Size:
        with told():
            sessions = _kept(self._reader) - _expired(self._reader, now)
        return Size(sessions, sum(file.stat().st_size for file in self._files if file.exists()))

    async def close(self) -> None:
        await self._writer.close()
        self._reader.close()

    # What follows is run by the writer, on any thread, inside of a transaction.

    def _commit(self, change: Change, now: float) -> bool:
        session, write = change.session, self._db.execute
        if self._short_of_disk(change) and not self._fits(change):
            raise StoreFullError("the disk of the session store is full; nothing was changed")
        moved = self._create if session.version == 0 else self._move
        slot = None if self._answered(change.receipt, now) else moved(session, now)
        if slot is None:
            # Unless it is this very change that was made before.
            made = f"SELECT 1 FROM sessions JOIN states ON {_OWN} WHERE id = ? AND states.version = ? AND change = ?"
            return bool(write(made, (session.id, session.version, change.id)).fetchall())
        write(
            "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?, ?)",
            (slot, session.version, session.position, session.updated_at, change.id, change.state),
        )
        self._keep(change.receipt)
        return True

    def _short_of_disk(self, change: Change) -> bool:
        """Looks again whenever a little of the reserve could have been taken."""
        self._unlooked += _PAGE_BYTES + _bytes(change)
        if self._unlooked > DISK_RESERVE // 32:
            disk = os.statvfs(self._files[0])
            self._disk_is_short = disk.f_bavail * disk.f_frsize < DISK_RESERVE
            self._unlooked = DISK_RESERVE if self._disk_is_short else 0
        return self._disk_is_short

    def _fits(self, change: Change) -> bool:
        """Whether the file need not grow for it."""
        (spare,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return bool(spare > 8 + _bytes(change) // _PAGE_BYTES)

    def _create(self, session: Session, now: float) -> int | None:
        limits, db = self._limits, self._db
        if db.execute("SELECT 1 FROM sessions WHERE id = ?", (session.id,)).fetchall():
            return None
        if session.owner and not _room(db, limits.sessions_per_owner, now, session.owner):
            raise TooManySessionsError(f"{limits.sessions_per_owner} sessions are alive, the most that one may have")
        if not _room(db, limits.sessions, now):
            raise StoreFullError(f"{limits.sessions} sessions are alive, the most that there may be")
        [(slot,)] = db.execute(_CREATE, _created(session)).fetchall()
        self._count(session.owner, 1)
        return int(slot)

    def _move(self, session: Session, now: float) -> int | None:
        places = self._limits.versions + 1
        rows = self._db.execute(_MOVE, (*_moved(session), places, session.id, session.version - 1)).fetchall()
        return rows[0][0] if rows else None

    def _delete(self, session: Session, receipt: Receipt | None, now: float) -> bool:
        delete = "DELETE FROM sessions WHERE id = ? AND version = ? AND swept = 0 RETURNING n"
        if self._answered(receipt, now):
            return False
        deleted = self._db.execute(delete, (session.id, session.version)).fetchall()
        if not deleted:
            return False
        self._db.execute(_FORGET, deleted[0])
        self._count(session.owner, -1)
        self._keep(receipt)
        return True

    def _touch(self, id: str, expires_at: float) -> None:
        self._db.execute(
            "UPDATE sessions SET expires_at = ? WHERE id = ? AND expires_at < ? AND swept = 0",
            (expires_at, id, expires_at),
        )

    def _sweep(self, now: float) -> tuple[int, bool]:
        """Some of it: how many sessions expired, and whether there may be more to do."""
        db = self._db
        expired = db.execute(
            "SELECT n, owner FROM sessions WHERE swept = 0 AND expires_at <= ? LIMIT ?", (now, _SWEPT_AT_ONCE)
        ).fetchall()
        for n, owner in expired:
            db.execute(_FORGET, (n,))
            db.execute("UPDATE sessions SET swept = 1 WHERE n = ?", (n,))
            self._count(owner, -1)
        forgotten = db.execute(
            "DELETE FROM sessions WHERE n IN (SELECT n FROM sessions WHERE swept = 1 AND expires_at <= ? LIMIT ?)",
            (now - self._limits.remembered, _SWEPT_AT_ONCE),
        ).rowcount
        receipts = db.execute(
            "DELETE FROM receipts WHERE (owner, key) IN"
            " (SELECT owner, key FROM receipts WHERE expires_at <= ? LIMIT ?)",
            (now, _SWEPT_AT_ONCE),
        ).rowcount
        return len(expired), _SWEPT_AT_ONCE in (len(expired), forgotten, receipts)

    def _secret(self) -> bytes:
        kept = self._db.execute("SELECT secret FROM secrets").fetchall()
        if kept:
            return bytes(kept[0][0])
        secret = os.urandom(32)
        self._db.execute("INSERT INTO secrets VALUES (?)", (secret,))
        return secret

    def _answered(self, receipt: Receipt | None, now: float) -> bool:
        if receipt is None:
            return False
        answered = "SELECT 1 FROM receipts WHERE owner = ? AND key = ? AND expires_at > ?"
        return bool(self._db.execute(answered, (receipt.owner, receipt.key, now)).fetchall())

    def _keep(self, receipt: Receipt | None) -> None:
        if receipt is not None:
            fields = receipt.owner, receipt.key, receipt.fingerprint, receipt.answer, receipt.expires_at
            self._db.execute("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?)", fields)

    def _count(self, owner: str, by: int) -> None:
        self._db.execute(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions",
            (owner, by),
        )


def _bytes(change: Change) -> int:
    return len(change.state) + (0 if change.receipt is None else len(change.receipt.answer))


def _open(path: Path, patience: float, max_bytes: int, synced: bool) -> sqlite3.Connection:
    """A connection that writes, and does not wait for others; the file is made if it is not there.

    Raises:
        StoreError: it cannot be used.
    """
    # Others may do the same at this moment, and not all of it waits for them by itself.
    last_try = time.monotonic() + patience
    while True:
        db = None
        try:
            db = _connect(path, patience)
            _prepare(db, max_bytes, synced)
            db.execute("PRAGMA busy_timeout = 0")
            return db
        except (sqlite3.Error, StoreError) as error:
            if db is not None:
                db.close()
            if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() > last_try:
                raise StoreError(f"sessions cannot be kept in {path}: {error}") from error
            time.sleep(0.01)


def _connect(path: Path, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)


def _prepare(db: sqlite3.Connection, max_bytes: int, synced: bool) -> None:
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a new file
    db.execute("BEGIN IMMEDIATE")
    (format,) = db.execute("PRAGMA user_version").fetchone()
    if format == 0 and not db.execute("SELECT 1 FROM sqlite_schema").fetchall():
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {_FORMAT}")
    elif format != _FORMAT:
        raise StoreError(f"its format is {format}, and this version of Carry knows {_FORMAT} only")
    db.execute("COMMIT")
    if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise StoreError("its file system has no memory that processes share")
    db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # which would wait for the disk
    db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    (page_size,) = db.execute("PRAGMA page_size").fetchone()
    db.execute(f"PRAGMA max_page_count = {max_bytes // page_size}")


def _kept(db: sqlite3.Connection, owner: str | None = None) -> int:
    """How many sessions are not swept: all, or an owner's."""
    where, owners = ("", ()) if owner is None else (" WHERE owner = ?", (owner,))
    return int(db.execute(f"SELECT total(sessions) FROM counts{where}", owners).fetchone()[0])


def _expired(db: sqlite3.Connection, now: float, owner: str | None = None) -> int:
    """How many of them have expired."""
    where, owners = ("", ()) if owner is None else (" AND owner = ?", (owner,))
    expired = f"SELECT count(*) FROM sessions WHERE swept = 0 AND expires_at <= ?{where}"
    return int(db.execute(expired, (now, *owners)).fetchone()[0])


def _room(db: sqlite3.Connection, most: int, now: float, owner: str | None = None) -> bool:
    """Whether there may be another session: all told, or of an owner's."""
    kept = _kept(db, owner)
    return kept < most or kept - _expired(db, now, owner) < most
