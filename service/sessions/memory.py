"""Sessions in the memory of one process: gone with it, and, when it is full, the least recently updated before.

Receipts are not dropped before their time, or a call could be done twice; so they may take half of the memory only.
"""

import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from service.errors import OwnerStoreFullError, StoreFullError, TooManySessionsError
from service.sessions.store import (
    Change,
    Found,
    Limits,
    Receipt,
    Session,
    Size,
    Version,
    receipt_bytes,
    state_bytes,
)


@dataclass(slots=True)
class _Kept:
    """A session with the changes that led to it, the last ones: `changes[-1].state` is where it stands."""

    session: Session
    changes: list[Change]


class MemoryStore:
    """Dictionaries, and heaps of what ends when. A session's end in the heap may be too early, never too late: it is
    looked at again when it comes up. `max_bytes`: the most that states and receipts take. `evicted` is told of each
    session that makes room for another."""

    def __init__(self, limits: Limits, max_bytes: int, evicted: Callable[[], None]) -> None:
        self._limits = limits
        self._max_bytes = max_bytes
        self._evicted = evicted
        self._secret = os.urandom(32)
        self._live: dict[str, _Kept] = {}  # the least recently updated first
        self._swept: dict[str, Session] = {}
        self._swept_of: dict[str, dict[str, None]] = {}  # by owner, the first to end first
        self._owned: dict[str, set[str]] = {}
        self._ends: list[tuple[float, str]] = []
        self._receipts: dict[tuple[str, str], Receipt] = {}
        self._receipt_ends: list[tuple[float, tuple[str, str]]] = []
        self._bytes_of: Counter[str] = Counter()
        self._state_bytes = 0
        self._receipt_bytes = 0
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
        self._make_room(change, kept, now)
        if kept is None:
            kept = _Kept(session, [])
            self._owned.setdefault(session.owner, set()).add(session.id)
        if not kept.changes or session.expires_at < kept.session.expires_at:
            heapq.heappush(self._ends, (session.expires_at, session.id))
        self._keep(change.receipt)
        kept.session = session
        kept.changes.append(replace(change, receipt=None))
        self._count(session.owner, state_bytes(change.state))
        for dropped in kept.changes[: -1 - self._limits.versions]:
            self._count(session.owner, -state_bytes(dropped.state))
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
        expired = {id for id in self._due(now) if id in self._live and self._live[id].session.expires_at <= now}
        return Size(len(self._live) - len(expired), self._state_bytes + self._receipt_bytes)

    async def verify(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def _answered(self, receipt: Receipt | None, now: float) -> bool:
        if receipt is None:
            return False
        kept = self._receipts.get((receipt.owner, receipt.key))
        return kept is not None and kept.expires_at > now

    def _count(self, owner: str, growth: int) -> None:
        self._state_bytes += growth
        self._bytes_of[owner] += growth

    def _keep(self, receipt: Receipt | None) -> None:
        if receipt is not None:
            at = receipt.owner, receipt.key
            self._forget(at)
            self._receipts[at] = receipt
            self._receipt_bytes += receipt_bytes(receipt)
            self._bytes_of[receipt.owner] += receipt_bytes(receipt)
            heapq.heappush(self._receipt_ends, (receipt.expires_at, at))

    def _forget(self, at: tuple[str, str]) -> None:
        if receipt := self._receipts.pop(at, None):
            self._receipt_bytes -= receipt_bytes(receipt)
            self._bytes_of[receipt.owner] -= receipt_bytes(receipt)

    def _make_room(self, change: Change, kept: _Kept | None, now: float) -> None:
        """For a change, of a new session if `kept` is None."""
        if kept is None:
            self._make_room_for_session(change.session.owner, now)
        dropped = kept.changes[: max(0, len(kept.changes) - self._limits.versions)] if kept else []
        growth = state_bytes(change.state) - sum(state_bytes(earlier.state) for earlier in dropped)
        answer, owner, most = receipt_bytes(change.receipt), change.session.owner, self._limits.bytes_per_owner
        if owner and growth + answer > 0 and self._bytes_of[owner] + growth + answer > most:
            raise OwnerStoreFullError(
                f"the sessions and the answers kept for repetitions take {self._bytes_of[owner]} bytes of the {most} "
                "that one may have; nothing was changed"
            )
        if answer and self._receipt_bytes + answer > self._max_bytes // 2:
            raise StoreFullError("the answers kept for repetitions fill their half of the store; nothing was changed")
        if growth + answer > 0:
            self._make_room_for_bytes(growth + answer, kept, now)

    def _make_room_for_bytes(self, growth: int, kept: _Kept | None, now: float) -> None:
        own = sum(state_bytes(change.state) for change in kept.changes) if kept else 0
        if self._receipt_bytes + own + growth > self._max_bytes:
            raise StoreFullError("the session store is full; nothing was changed")
        excess = self._state_bytes + self._receipt_bytes + growth - self._max_bytes
        for oldest in [*self._live.values()] if excess > 0 else []:
            if self._state_bytes + self._receipt_bytes + growth <= self._max_bytes:
                break
            if oldest is not kept:
                self._evict(oldest, now)

    def _make_room_for_session(self, owner: str, now: float) -> None:
        most = self._limits.most_of(owner)
        if len(self._live) >= self._limits.sessions or len(self._owned.get(owner, ())) >= most:
            self._sweep(now)
        if owner and len(self._owned.get(owner, ())) >= most:
            raise TooManySessionsError(f"{most} sessions are alive, the most that one may have")
        while len(self._live) >= self._limits.sessions:
            self._evict(next(iter(self._live.values())), now)

    def _evict(self, kept: _Kept, now: float) -> None:
        self._end(kept, now)
        self._evicted()

    def _due(self, now: float) -> Iterator[str]:
        """The sessions at the top of the heap, whose end may have come; of some more than once."""
        looked_at = [0]
        while looked_at:
            i = looked_at.pop()
            if i < len(self._ends) and self._ends[i][0] <= now:
                yield self._ends[i][1]
                looked_at += (2 * i + 1, 2 * i + 2)

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
                self._forget_swept(id)
        while self._receipt_ends and self._receipt_ends[0][0] <= now:
            at = heapq.heappop(self._receipt_ends)[1]
            if at in self._receipts and self._receipts[at].expires_at <= now:
                self._forget(at)

    def _end(self, kept: _Kept, expires_at: float) -> None:
        """Drop all but the memory of a session."""
        self._drop(kept)
        id, owner = kept.session.id, kept.session.owner
        self._swept[id] = replace(kept.session, expires_at=expires_at)
        swept = self._swept_of.setdefault(owner, {})
        swept[id] = None
        if len(swept) > self._limits.most_of(owner):
            self._forget_swept(next(iter(swept)))
        heapq.heappush(self._ends, (expires_at + self._limits.remembered, id))

    def _forget_swept(self, id: str) -> None:
        owner = self._swept.pop(id).owner
        del self._swept_of[owner][id]
        if not self._swept_of[owner]:
            del self._swept_of[owner]

    def _drop(self, kept: _Kept) -> None:
        id, owner = kept.session.id, kept.session.owner
        del self._live[id]
        self._owned[owner].remove(id)
        if not self._owned[owner]:
            del self._owned[owner]
        self._count(owner, -sum(state_bytes(change.state) for change in kept.changes))
