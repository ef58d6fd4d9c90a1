"""The changes of sessions in an SQLite file. Each runs inside of a transaction of the writer's, on any thread."""

import os
import sqlite3
from collections import Counter
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

from service.errors import OwnerStoreFullError, StoreFullError, TooManySessionsError
from service.sessions.store import ROW_BYTES, Change, Limits, Receipt, Session, receipt_bytes, state_bytes

_FIELDS = [field.name for field in fields(Session)]
_MOVING = _FIELDS[2:]  # all but the id and the owner
COLUMNS = ", ".join(_FIELDS)
OWN_SLOTS = "slot BETWEEN n * 1024 AND n * 1024 + 1023"
_CREATE = f"INSERT INTO sessions ({COLUMNS}) VALUES ({', '.join('?' for _ in _FIELDS)}) RETURNING n * 1024"
_NEXT = f"""
    SELECT n, (place + 1) % ?1, (
        SELECT length(state) + {ROW_BYTES} FROM states WHERE slot = n * 1024 + (place + 1) % ?1
    ) FROM sessions WHERE id = ?2 AND version = ?3 AND swept = 0
"""
_MOVE = f"UPDATE sessions SET {', '.join(f'{name} = ?' for name in _MOVING)}, place = ? WHERE n = ?"
_FORGET = f"""
    DELETE FROM states WHERE slot BETWEEN ?1 * 1024 AND ?1 * 1024 + 1023 RETURNING length(state) + {ROW_BYTES}
"""
_RECEIPT_BYTES = f"length(answer) + length(key) + {ROW_BYTES}"
_created, _moved = attrgetter(*_FIELDS), attrgetter(*_MOVING)

SWEPT_AT_ONCE = 100
"""Sessions and receipts that one transaction sweeps; others' changes come between."""

DISK_RESERVE = 32 * 2**20
"""Bytes of the disk that are left free for the log: on a disk that is quite full, nothing could be deleted any more,
since that has to be written to the log first, and the log could not be moved to a file that has to grow for it."""


class Changes:
    """Those of one file, made with the connection that writes to it."""

    def __init__(self, db: sqlite3.Connection, path: Path, limits: Limits) -> None:
        self.limits = limits
        self._db = db
        self._path = path
        self._disk_is_short = False
        self._unlooked = DISK_RESERVE
        """Bytes that may have been taken of the disk since it was last looked at."""

    def commit(self, change: Change, now: float) -> bool:
        """See Store, as for those below."""
        session, write = change.session, self._db.execute
        if self._short_of_disk(change) and not self._fits(change):
            raise StoreFullError("the disk of the session store is full; nothing was changed")
        moved = self._create if session.version == 0 else self._move
        slot = None if self._answered(change.receipt, now) else moved(change, now)
        if slot is None:
            # Unless it is this very change that was made before.
            made = f"SELECT 1 FROM sessions JOIN states ON {OWN_SLOTS} WHERE id = ? AND states.version = ? AND change=?"
            return bool(write(made, (session.id, session.version, change.id)).fetchall())
        write(
            "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?, ?)",
            (slot, session.version, session.position, session.updated_at, change.id, change.state),
        )
        self._keep(change.receipt)
        return True

    def delete(self, session: Session, receipt: Receipt | None, now: float) -> bool:
        delete = "DELETE FROM sessions WHERE id = ? AND version = ? AND swept = 0 RETURNING n"
        if self._answered(receipt, now):
            return False
        deleted = self._db.execute(delete, (session.id, session.version)).fetchall()
        if not deleted:
            return False
        # A deletion makes room: its receipt may go beyond the owner's bytes.
        self._count(session.owner, -1, -self._forget(deleted[0][0]))
        self._keep(receipt)
        return True

    def touch(self, id: str, expires_at: float) -> None:
        self._db.execute(
            "UPDATE sessions SET expires_at = ? WHERE id = ? AND expires_at < ? AND swept = 0",
            (expires_at, id, expires_at),
        )

    def sweep(self, now: float) -> tuple[int, bool]:
        """Some of it: how many sessions expired, and whether there may be more to do."""
        db = self._db
        ended = db.execute(
            "SELECT n, owner FROM sessions WHERE swept = 0 AND expires_at <= ? LIMIT ?", (now, SWEPT_AT_ONCE)
        ).fetchall()
        freed, ended_of = Counter[str](), Counter[str]()
        for n, owner in ended:
            freed[owner] += self._forget(n)
            ended_of[owner] += 1
            db.execute("UPDATE sessions SET swept = 1 WHERE n = ?", (n,))
        receipts = db.execute(
            "DELETE FROM receipts WHERE (owner, key) IN"
            f" (SELECT owner, key FROM receipts WHERE expires_at <= ? LIMIT ?) RETURNING owner, {_RECEIPT_BYTES}",
            (now, SWEPT_AT_ONCE),
        ).fetchall()
        for owner, size in receipts:
            freed[owner] += size
        for owner in {*freed, *ended_of}:
            self._count(owner, -ended_of[owner], -freed[owner], ended_of[owner])
        forgotten = self._forget_swept("swept = 1 AND expires_at <= ?", (now - self.limits.remembered,))
        for owner in ended_of:
            [(swept,)] = db.execute("SELECT swept FROM counts WHERE owner = ?", (owner,)).fetchall()
            if swept > self.limits.most_of(owner):
                self._forget_swept("swept = 1 AND owner = ?", (owner,), swept - self.limits.most_of(owner))
        return len(ended), SWEPT_AT_ONCE in (len(ended), forgotten, len(receipts))

    def secret(self) -> bytes:
        kept = self._db.execute("SELECT secret FROM secrets").fetchall()
        if kept:
            return bytes(kept[0][0])
        secret = os.urandom(32)
        self._db.execute("INSERT INTO secrets VALUES (?)", (secret,))
        return secret

    def _forget(self, n: int) -> int:
        """Drop the states of a session; the bytes that they counted for."""
        sizes: list[tuple[int]] = self._db.execute(_FORGET, (n,)).fetchall()
        return sum(size for (size,) in sizes)

    def _forget_swept(self, where: str, values: tuple[object, ...], most: int = SWEPT_AT_ONCE) -> int:
        """Drop the memory of sessions that were swept, of the oldest ones; how many."""
        forgotten = self._db.execute(
            f"DELETE FROM sessions WHERE n IN (SELECT n FROM sessions WHERE {where} ORDER BY expires_at LIMIT ?)"
            " RETURNING owner",
            (*values, most),
        ).fetchall()
        for owner, count in Counter(owner for (owner,) in forgotten).items():
            self._count(owner, swept=-count)
        return len(forgotten)

    def _short_of_disk(self, change: Change) -> bool:
        """Looks again whenever a little of the reserve could have been taken."""
        self._unlooked += 2 * ROW_BYTES + _bytes(change)
        if self._unlooked > DISK_RESERVE // 32:
            disk = os.statvfs(self._path)
            self._disk_is_short = disk.f_bavail * disk.f_frsize < DISK_RESERVE
            self._unlooked = DISK_RESERVE if self._disk_is_short else 0
        return self._disk_is_short

    def _fits(self, change: Change) -> bool:
        """Whether the file need not grow for it."""
        (spare,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (page_bytes,) = self._db.execute("PRAGMA page_size").fetchone()
        return bool(spare > 8 + _bytes(change) // page_bytes)

    def _create(self, change: Change, now: float) -> int | None:
        limits, db, session = self.limits, self._db, change.session
        if db.execute("SELECT 1 FROM sessions WHERE id = ?", (session.id,)).fetchall():
            return None
        if session.owner and not _room(db, limits.sessions_per_owner, now, session.owner):
            raise TooManySessionsError(f"{limits.sessions_per_owner} sessions are alive, the most that one may have")
        if not _room(db, limits.sessions, now):
            raise StoreFullError(f"{limits.sessions} sessions are alive, the most that there may be")
        growth = state_bytes(change.state)
        self._check_bytes(session.owner, growth + self._receipt_growth(change.receipt))
        [(slot,)] = db.execute(_CREATE, _created(session)).fetchall()
        self._count(session.owner, 1, growth)
        return int(slot)

    def _move(self, change: Change, now: float) -> int | None:
        session = change.session
        rows = self._db.execute(_NEXT, (self.limits.versions + 1, session.id, session.version - 1)).fetchall()
        if not rows:
            return None
        n, place, dropped = rows[0]
        growth = state_bytes(change.state) - (dropped or 0)
        self._check_bytes(session.owner, growth + self._receipt_growth(change.receipt))
        self._db.execute(_MOVE, (*_moved(session), place, n))
        self._count(session.owner, 0, growth)
        return int(n * 1024 + place)

    def _receipt_growth(self, receipt: Receipt | None) -> int:
        """How many more bytes receipts count for once it is kept, in place of an expired one with its key, maybe."""
        if receipt is None:
            return 0
        replaced = f"SELECT {_RECEIPT_BYTES} FROM receipts WHERE owner = ? AND key = ?"
        sizes = self._db.execute(replaced, (receipt.owner, receipt.key)).fetchall()
        return receipt_bytes(receipt) - int(sum(size for (size,) in sizes))

    def _check_bytes(self, owner: str, growth: int) -> None:
        if not owner or growth <= 0:
            return
        most = self.limits.bytes_per_owner
        rows = self._db.execute("SELECT bytes FROM counts WHERE owner = ?", (owner,)).fetchall()
        if rows and rows[0][0] + growth > most:
            raise OwnerStoreFullError(
                f"the sessions and the answers kept for repetitions take {rows[0][0]} bytes of the {most} that one may "
                "have; nothing was changed"
            )

    def _answered(self, receipt: Receipt | None, now: float) -> bool:
        if receipt is None:
            return False
        answered = "SELECT 1 FROM receipts WHERE owner = ? AND key = ? AND expires_at > ?"
        return bool(self._db.execute(answered, (receipt.owner, receipt.key, now)).fetchall())

    def _keep(self, receipt: Receipt | None) -> None:
        if receipt is not None:
            self._count(receipt.owner, growth=self._receipt_growth(receipt))
            fields = receipt.owner, receipt.key, receipt.fingerprint, receipt.answer, receipt.expires_at
            self._db.execute("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?)", fields)

    def _count(self, owner: str, sessions: int = 0, growth: int = 0, swept: int = 0) -> None:
        if (sessions, growth, swept) != (0, 0, 0):  # most changes replace a state by one of its size
            self._db.execute(
                "INSERT INTO counts (owner, sessions, bytes, swept) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " sessions = sessions + excluded.sessions, bytes = bytes + excluded.bytes,"
                " swept = swept + excluded.swept",
                (owner, sessions, growth, swept),
            )


def _bytes(change: Change) -> int:
    return len(change.state) + (0 if change.receipt is None else len(change.receipt.answer))


def kept(db: sqlite3.Connection, owner: str | None = None) -> int:
    """How many sessions are not swept: all, or an owner's."""
    where, owners = ("", ()) if owner is None else (" WHERE owner = ?", (owner,))
    return int(db.execute(f"SELECT total(sessions) FROM counts{where}", owners).fetchone()[0])


def expired(db: sqlite3.Connection, now: float, owner: str | None = None) -> int:
    """How many of them have expired."""
    where, owners = ("", ()) if owner is None else (" AND owner = ?", (owner,))
    counted = f"SELECT count(*) FROM sessions WHERE swept = 0 AND expires_at <= ?{where}"
    return int(db.execute(counted, (now, *owners)).fetchone()[0])


def _room(db: sqlite3.Connection, most: int, now: float, owner: str | None = None) -> bool:
    """Whether there may be another session: all told, or of an owner's. Those that have expired do not count until they
    are as many again: sessions that end at once would fill the store before they are swept."""
    there = kept(db, owner)
    return there < most or (there < 2 * most and there - expired(db, now, owner) < most)
