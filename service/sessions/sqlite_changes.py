"""The changes of sessions in an SQLite file. Each runs inside a transaction of the writer, on any thread."""

import os
import sqlite3
from collections import Counter
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

from service.errors import StoreFullError
from service.sessions.store import ROW_BYTES, Change, IdempotencyRecord, Limits, Session, record_bytes, state_bytes

_FIELDS = [field.name for field in fields(Session)]
_UPDATED_FIELDS = _FIELDS[2:]  # all but the id and the owner
COLUMNS = ", ".join(_FIELDS)
STATES_OF_SESSION = "slot BETWEEN n * 1024 AND n * 1024 + 1023"
_INSERT = f"INSERT INTO sessions ({COLUMNS}) VALUES ({', '.join('?' for _ in _FIELDS)}) RETURNING n * 1024"
_NEXT_INDEX = f"""
    SELECT n, (place + 1) % ?1, (
        SELECT length(state) + {ROW_BYTES} FROM states WHERE slot = n * 1024 + (place + 1) % ?1
    ) FROM sessions WHERE id = ?2 AND version = ?3 AND swept = 0
"""
_UPDATE = f"UPDATE sessions SET {', '.join(f'{name} = ?' for name in _UPDATED_FIELDS)}, place = ? WHERE n = ?"
_DELETE_STATES = f"""
    DELETE FROM states WHERE slot BETWEEN ?1 * 1024 AND ?1 * 1024 + 1023 RETURNING length(state) + {ROW_BYTES}
"""
_RECORD_BYTES = f"length(answer) + length(key) + {ROW_BYTES}"
_all_values, _updated_values = attrgetter(*_FIELDS), attrgetter(*_UPDATED_FIELDS)

SWEEP_BATCH = 100
"""Most sessions, and most records, that one transaction sweeps; other changes come between."""

DISK_RESERVE = 32 * 2**20
"""Bytes of the disk left free for the log. On a full disk nothing could be deleted: a deletion is written to the log
first, and a checkpoint may have to grow the file."""


class Changes:
    """The changes of one file, made with the connection that writes to it."""

    def __init__(self, db: sqlite3.Connection, path: Path, limits: Limits) -> None:
        self.limits = limits
        self._db = db
        self._path = path
        self._disk_is_low = False
        self._written_since_check = DISK_RESERVE
        """Bytes that may have been taken of the disk since its free space was last read."""

    def commit(self, change: Change, now: float) -> bool:
        """As `Store.commit`, and so on."""
        session, execute = change.session, self._db.execute
        if self._is_disk_low(change) and not self._fits_in_file(change):
            raise StoreFullError("the disk of the session store is full; nothing was changed")
        write = self._insert if session.version == 0 else self._update
        slot = None if self._has_record(change.record, now) else write(change, now)
        if slot is None:
            # Perhaps this very change was made before.
            made_before = (
                f"SELECT 1 FROM sessions JOIN states ON {STATES_OF_SESSION} WHERE id = ? AND states.version = ?"
                " AND change = ?"
            )
            return bool(execute(made_before, (session.id, session.version, change.id)).fetchall())
        execute(
            "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?, ?)",
            (slot, session.version, session.position, session.updated_at, change.id, change.state),
        )
        self._add_record(change.record)
        return True

    def delete(self, session: Session, record: IdempotencyRecord | None, now: float) -> bool:
        delete = "DELETE FROM sessions WHERE id = ? AND version = ? AND swept = 0 RETURNING n"
        if self._has_record(record, now):
            return False
        deleted = self._db.execute(delete, (session.id, session.version)).fetchall()
        if not deleted:
            return False
        # A deletion makes room: its record may exceed the owner's bytes.
        self._count(session.owner, -1, -self._delete_states(deleted[0][0]))
        self._add_record(record)
        return True

    def touch(self, id: str, expires_at: float) -> None:
        self._db.execute(
            "UPDATE sessions SET expires_at = ? WHERE id = ? AND expires_at < ? AND swept = 0",
            (expires_at, id, expires_at),
        )

    def sweep(self, now: float) -> tuple[int, bool]:
        """Sweep one batch. Return how many sessions expired, and whether there may be more to sweep."""
        db = self._db
        expired = db.execute(
            "SELECT n, owner FROM sessions WHERE swept = 0 AND expires_at <= ? LIMIT ?", (now, SWEEP_BATCH)
        ).fetchall()
        freed_bytes, expired_of = Counter[str](), Counter[str]()
        for n, owner in expired:
            freed_bytes[owner] += self._delete_states(n)
            expired_of[owner] += 1
            db.execute("UPDATE sessions SET swept = 1 WHERE n = ?", (n,))
        records = db.execute(
            "DELETE FROM receipts WHERE (owner, key) IN"
            f" (SELECT owner, key FROM receipts WHERE expires_at <= ? LIMIT ?) RETURNING owner, {_RECORD_BYTES}",
            (now, SWEEP_BATCH),
        ).fetchall()
        for owner, size in records:
            freed_bytes[owner] += size
        for owner in {*freed_bytes, *expired_of}:
            self._count(owner, -expired_of[owner], -freed_bytes[owner], expired_of[owner])
        deleted = self._delete_tombstones("swept = 1 AND expires_at <= ?", (now - self.limits.tombstone_ttl,))
        for owner in expired_of:
            [(tombstones,)] = db.execute("SELECT swept FROM counts WHERE owner = ?", (owner,)).fetchall()
            if tombstones > self.limits.max_sessions(owner):
                excess = tombstones - self.limits.max_sessions(owner)
                self._delete_tombstones("swept = 1 AND owner = ?", (owner,), excess)
        return len(expired), SWEEP_BATCH in (len(expired), deleted, len(records))

    def secret(self) -> bytes:
        rows = self._db.execute("SELECT secret FROM secrets").fetchall()
        if rows:
            return bytes(rows[0][0])
        secret = os.urandom(32)
        self._db.execute("INSERT INTO secrets VALUES (?)", (secret,))
        return secret

    def _delete_states(self, n: int) -> int:
        """Delete the states of a session; return the bytes that they were charged."""
        sizes: list[tuple[int]] = self._db.execute(_DELETE_STATES, (n,)).fetchall()
        return sum(size for (size,) in sizes)

    def _delete_tombstones(self, where: str, values: tuple[object, ...], limit: int = SWEEP_BATCH) -> int:
        """Delete the oldest tombstones; return how many."""
        deleted = self._db.execute(
            f"DELETE FROM sessions WHERE n IN (SELECT n FROM sessions WHERE {where} ORDER BY expires_at LIMIT ?)"
            " RETURNING owner",
            (*values, limit),
        ).fetchall()
        for owner, count in Counter(owner for (owner,) in deleted).items():
            self._count(owner, tombstones=-count)
        return len(deleted)

    def _is_disk_low(self, change: Change) -> bool:
        """Reads the free space again after every 32nd of the reserve that was written."""
        self._written_since_check += 2 * ROW_BYTES + _size(change)
        if self._written_since_check > DISK_RESERVE // 32:
            disk = os.statvfs(self._path)
            self._disk_is_low = disk.f_bavail * disk.f_frsize < DISK_RESERVE
            self._written_since_check = DISK_RESERVE if self._disk_is_low else 0
        return self._disk_is_low

    def _fits_in_file(self, change: Change) -> bool:
        """Whether the file has enough free pages for the change."""
        (free_pages,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (page_bytes,) = self._db.execute("PRAGMA page_size").fetchone()
        return bool(free_pages > 8 + _size(change) // page_bytes)

    def _insert(self, change: Change, now: float) -> int | None:
        """Insert a session; return the slot of its state. None if the id is taken."""
        limits, db, session = self.limits, self._db, change.session
        if db.execute("SELECT 1 FROM sessions WHERE id = ?", (session.id,)).fetchall():
            return None
        if session.owner and not _has_room(db, limits.max_sessions(session.owner), now, session.owner):
            raise limits.too_many_sessions(session.owner)
        if not _has_room(db, limits.sessions, now):
            raise limits.store_full()
        growth = state_bytes(change.state)
        self._check_owner_bytes(session.owner, growth + self._record_growth(change.record))
        [(slot,)] = db.execute(_INSERT, _all_values(session)).fetchall()
        self._count(session.owner, 1, growth)
        return int(slot)

    def _update(self, change: Change, now: float) -> int | None:
        """Update a session; return the slot of its state. None if it is not at the version before."""
        session = change.session
        rows = self._db.execute(_NEXT_INDEX, (self.limits.versions + 1, session.id, session.version - 1)).fetchall()
        if not rows:
            return None
        n, ring_index, replaced_bytes = rows[0]
        growth = state_bytes(change.state) - (replaced_bytes or 0)
        self._check_owner_bytes(session.owner, growth + self._record_growth(change.record))
        self._db.execute(_UPDATE, (*_updated_values(session), ring_index, n))
        self._count(session.owner, 0, growth)
        return int(n * 1024 + ring_index)

    def _record_growth(self, record: IdempotencyRecord | None) -> int:
        """By how many bytes the records grow with this one; it may replace an expired one with its key."""
        if record is None:
            return 0
        replaced = f"SELECT {_RECORD_BYTES} FROM receipts WHERE owner = ? AND key = ?"
        sizes = self._db.execute(replaced, (record.owner, record.key)).fetchall()
        return record_bytes(record) - int(sum(size for (size,) in sizes))

    def _check_owner_bytes(self, owner: str, growth: int) -> None:
        if not owner or growth <= 0:
            return
        rows = self._db.execute("SELECT bytes FROM counts WHERE owner = ?", (owner,)).fetchall()
        stored = rows[0][0] if rows else 0
        if stored + growth > self.limits.max_bytes(owner):
            raise self.limits.owner_store_full(owner)

    def _has_record(self, record: IdempotencyRecord | None, now: float) -> bool:
        """Whether the record's key has a record that has not expired."""
        if record is None:
            return False
        unexpired = "SELECT 1 FROM receipts WHERE owner = ? AND key = ? AND expires_at > ?"
        return bool(self._db.execute(unexpired, (record.owner, record.key, now)).fetchall())

    def _add_record(self, record: IdempotencyRecord | None) -> None:
        if record is not None:
            self._count(record.owner, growth=self._record_growth(record))
            values = record.owner, record.key, record.fingerprint, record.answer, record.expires_at
            self._db.execute("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?)", values)

    def _count(self, owner: str, sessions: int = 0, growth: int = 0, tombstones: int = 0) -> None:
        if (sessions, growth, tombstones) != (0, 0, 0):  # most changes replace a state by one of its size
            self._db.execute(
                "INSERT INTO counts (owner, sessions, bytes, swept) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " sessions = sessions + excluded.sessions, bytes = bytes + excluded.bytes,"
                " swept = swept + excluded.swept",
                (owner, sessions, growth, tombstones),
            )


def _size(change: Change) -> int:
    return len(change.state) + (0 if change.record is None else len(change.record.answer))


def count_unswept(db: sqlite3.Connection, owner: str | None = None) -> int:
    """How many sessions are no tombstones: of all owners, or of one."""
    where, owners = ("", ()) if owner is None else (" WHERE owner = ?", (owner,))
    return int(db.execute(f"SELECT total(sessions) FROM counts{where}", owners).fetchone()[0])


def count_expired(db: sqlite3.Connection, now: float, owner: str | None = None) -> int:
    """How many of these have expired."""
    where, owners = ("", ()) if owner is None else (" AND owner = ?", (owner,))
    expired = f"SELECT count(*) FROM sessions WHERE swept = 0 AND expires_at <= ?{where}"
    return int(db.execute(expired, (now, *owners)).fetchone()[0])


def _has_room(db: sqlite3.Connection, limit: int, now: float, owner: str | None = None) -> bool:
    """Whether another session may be created, in all or of an owner. Expired sessions do not count until there are as
    many as the limit; then they do, or short-lived sessions would fill the store before the next sweep."""
    sessions = count_unswept(db, owner)
    return sessions < limit or (sessions < 2 * limit and sessions - count_expired(db, now, owner) < limit)
