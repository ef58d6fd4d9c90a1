"""Sessions in the memory of one process: gone with it, and, when it is full, the least recently updated before."""

import heapq
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from service.errors import TooManySessionsError
from service.sessions.store import Change, Found, Limits, Receipt, Session, Size, Version


@dataclass(slots=True)
class _Kept:
    """A session with the changes that led to it, the last ones: `changes[-1].state` is where it stands."""

    session: Session
    changes: list[Change]


class MemoryStore:
    """Dictionaries, and heaps of what ends when. A session's end in the heap may be too early, never too late: it is
    looked at again when it comes up. `evicted` is told of each session that makes room for another."""

    def __init__(self, limits: Limits, evicted: Callable[[], None]) -> None:
        self._limits = limits
        self._evicted = evicted
        self._secret = os.urandom(32)
        self._live: dict[str, _Kept] = {}  # the least recently updated first
        self._swept: dict[str, Session] = {}
        self._owned: dict[str, set[str]] = {}
        self._ends: list[tuple[float, str]] = []
        self._receipts: dict[tuple[str, str], Receipt] = {}
        self._receipt_ends: list[tuple[float, tuple[str, str]]] = []
        self._bytes = 0
        self._expired = 0

    async def load(self, id: str, owner: str, key: str | None) -> Found:
        receipt = None if key is None else self._receipts.get((owner, key))
        if kept := self._live.get(id):
            return Found(kept.session, kept.changes[-1].state, receipt)
        return Found(self._swept.get(id), None, receipt)

    async def commit(self, change: Change, now: float) -> bool:
        session = change.session
        kept = self._live.get(session.id)
        if kept and any(change.id == made.id for made in kept.changes):
            return True
        if session.version != (kept.session.version + 1 if kept else 0) or session.id in self._swept:
            return False
        if self._answered(change.receipt, now):
            return False
        if kept is None:
            self._make_room(session.owner, now)
            kept = _Kept(session, [])
            self._owned.setdefault(session.owner, set()).add(session.id)
        if not kept.changes or session.expires_at < kept.session.expires_at:
            heapq.heappush(self._ends, (session.expires_at, session.id))
        self._keep(change.receipt)
        kept.session = session
        kept.changes.append(replace(change, receipt=None))
        self._bytes += len(change.state)
        for dropped in kept.changes[: -1 - self._limits.versions]:
            self._bytes -= len(dropped.state)
        del kept.changes[: -1 - self._limits.versions]
        self._live.pop(session.id, None)
        self._live[session.id] = kept
        return True

    async def delete(self, session: Session, receipt: Receipt | None, now: float) -> bool:
        kept = self._live.get(session.id)
        if kept is None or kept.session.version != session.version or self._answered(receipt, now):
            return False
        self._drop(kept)
        self._keep(receipt)
        return True

    async def touch(self, id: str, expires_at: float) -> None:
        if (kept := self._live.get(id)) and kept.session.expires_at < expires_at:
            kept.session = replace(kept.session, expires_at=expires_at)

    async def versions(self, id: str) -> list[Version]:
        kept = self._live.get(id)
        made = [change.session for change in kept.changes[-2::-1]] if kept else []
        return [Version(session.version, session.position, session.updated_at) for session in made]

    async def earlier(self, id: str, version: int) -> bytes | None:
        kept = self._live.get(id)
        changes = kept.changes[:-1] if kept else []
        return next((change.state for change in changes if change.session.version == version), None)

    async def list(self, owner: str, after: str, limit: int, now: float) -> list[Session]:
        sessions = (self._live[id].session for id in sorted(self._owned.get(owner, ())) if id > after)
        return [*islice((session for session in sessions if session.expires_at > now), limit)]

    async def sweep(self, now: float) -> int:
        self._sweep(now)
        expired, self._expired = self._expired, 0
        return expired

    async def secret(self) -> bytes:
        return self._secret

    async def size(self, now: float) -> Size:
        self._sweep(now)
        return Size(len(self._live), self._bytes)

    async def close(self) -> None:
        pass

    def _answered(self, receipt: Receipt | None, now: float) -> bool:
        if receipt is None:
            return False
        kept = self._receipts.get((receipt.owner, receipt.key))
        return kept is not None and kept.expires_at > now

    def _keep(self, receipt: Receipt | None) -> None:
        if receipt is not None:
            at = receipt.owner, receipt.key
            self._forget(at)
            self._receipts[at] = receipt
            self._bytes += len(receipt.answer)
            heapq.heappush(self._receipt_ends, (receipt.expires_at, at))

    def _forget(self, at: tuple[str, str]) -> None:
        if receipt := self._receipts.pop(at, None):
            self._bytes -= len(receipt.answer)

    def _make_room(self, owner: str, now: float) -> None:
        """For another session of the owner's."""
        most = self._limits.sessions_per_owner if owner else self._limits.sessions
        if len(self._live) >= self._limits.sessions or len(self._owned.get(owner, ())) >= most:
            self._sweep(now)
        if owner and len(self._owned.get(owner, ())) >= most:
            raise TooManySessionsError(f"{most} sessions are alive, the most that one may have")
        while len(self._live) >= self._limits.sessions:
            oldest = next(iter(self._live.values()))
            self._end(oldest, now)
            self._evicted()

    def _sweep(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            id = heapq.heappop(self._ends)[1]
            if kept := self._live.get(id):
                if kept.session.expires_at <= now:
                    self._end(kept, kept.session.expires_at)
                    self._expired += 1
                else:
                    heapq.heappush(self._ends, (kept.session.expires_at, id))
            elif id in self._swept and self._swept[id].expires_at + self._limits.remembered <= now:
                del self._swept[id]
        while self._receipt_ends and self._receipt_ends[0][0] <= now:
            at = heapq.heappop(self._receipt_ends)[1]
            if at in self._receipts and self._receipts[at].expires_at <= now:
                self._forget(at)

    def _end(self, kept: _Kept, expires_at: float) -> None:
        """Drop all but the memory of a session."""
        self._drop(kept)
        self._swept[kept.session.id] = replace(kept.session, expires_at=expires_at)
        heapq.heappush(self._ends, (expires_at + self._limits.remembered, kept.session.id))

    def _drop(self, kept: _Kept) -> None:
        id, owner = kept.session.id, kept.session.owner
        del self._live[id]
        self._owned[owner].remove(id)
        self._bytes -= sum(len(change.state) for change in kept.changes)
