"""Sessions in the memory of one process. A full memory drops the least recently updated sessions.

Idempotency records are never dropped before they expire, or a call could be done twice. So they may take only half of
the memory.
"""

import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from service.errors import StoreFullError
from service.sessions.store import (
    Change,
    IdempotencyRecord,
    Limits,
    LoadResult,
    Session,
    Size,
    Version,
    record_bytes,
    state_bytes,
)


@dataclass(slots=True)
class _Entry:
    """A live session with its last changes; `changes[-1].state` is its state."""

    session: Session
    changes: list[Change]


class MemoryStore:
    """Dictionaries, and heaps ordered by expiry. A session may live longer than its time in the heap says, never
    shorter: the sweep checks it again.

    `max_bytes`: the most that states and records take. `on_evicted`: called for each session dropped to make room.
    """

    def __init__(self, limits: Limits, max_bytes: int, on_evicted: Callable[[], None]) -> None:
        self._limits = limits
        self._max_bytes = max_bytes
        self._on_evicted = on_evicted
        self._secret = os.urandom(32)
        self._live: dict[str, _Entry] = {}  # the least recently updated first
        self._live_ids: dict[str, set[str]] = {}  # by owner
        self._tombstones: dict[str, Session] = {}
        self._tombstone_ids: dict[str, dict[str, None]] = {}  # by owner, the first to expire first
        self._expiries: list[tuple[float, str]] = []  # a heap, of live sessions and of tombstones
        self._records: dict[tuple[str, str], IdempotencyRecord] = {}
        self._record_expiries: list[tuple[float, tuple[str, str]]] = []  # a heap
        self._owner_bytes: Counter[str] = Counter()
        self._state_bytes = 0
        self._record_bytes = 0
        self._num_expired = 0

    async def load(self, id: str, owner: str, key: str | None) -> LoadResult:
        record = None if key is None else self._records.get((owner, key))
        if entry := self._live.get(id):
            return LoadResult(entry.session, entry.changes[-1].state, record)
        return LoadResult(self._tombstones.get(id), None, record)

    async def commit(self, change: Change, now: float) -> bool:
        session = change.session
        entry = self._live.get(session.id)
        if entry and any(change.id == earlier.id for earlier in entry.changes):
            return True
        if session.version != (entry.session.version + 1 if entry else 0) or session.id in self._tombstones:
            return False
        if self._has_record(change.record, now):
            return False
        self._make_room(change, entry, now)
        if entry is None:
            entry = _Entry(session, [])
            self._live_ids.setdefault(session.owner, set()).add(session.id)
        if not entry.changes or session.expires_at < entry.session.expires_at:
            heapq.heappush(self._expiries, (session.expires_at, session.id))
        self._add_record(change.record)
        entry.session = session
        entry.changes.append(replace(change, record=None))
        self._charge(session.owner, state_bytes(change.state))
        for dropped in entry.changes[: -1 - self._limits.versions]:
            self._charge(session.owner, -state_bytes(dropped.state))
        del entry.changes[: -1 - self._limits.versions]
        self._live.pop(session.id, None)
        self._live[session.id] = entry
        return True

    async def delete(self, session: Session, record: IdempotencyRecord | None, now: float) -> bool:
        entry = self._live.get(session.id)
        if entry is None or entry.session.version != session.version or self._has_record(record, now):
            return False
        self._remove(entry)
        self._add_record(record)
        return True

    async def touch(self, id: str, expires_at: float) -> None:
        if (entry := self._live.get(id)) and entry.session.expires_at < expires_at:
            entry.session = replace(entry.session, expires_at=expires_at)

    async def versions(self, id: str) -> list[Version]:
        entry = self._live.get(id)
        sessions = [change.session for change in entry.changes[-2::-1]] if entry else []
        return [Version(session.version, session.position, session.updated_at) for session in sessions]

    async def earlier_state(self, id: str, version: int) -> bytes | None:
        entry = self._live.get(id)
        changes = entry.changes[:-1] if entry else []
        return next((change.state for change in changes if change.session.version == version), None)

    async def list(self, owner: str, after: str, limit: int, now: float) -> list[Session]:
        sessions = (self._live[id].session for id in sorted(self._live_ids.get(owner, ())) if id > after)
        return [*islice((session for session in sessions if session.expires_at > now), limit)]

    async def sweep(self, now: float) -> int:
        self._sweep(now)
        num_expired, self._num_expired = self._num_expired, 0
        return num_expired

    async def secret(self) -> bytes:
        return self._secret

    async def size(self, now: float) -> Size:
        expired = {id for id in self._due(now) if id in self._live and self._live[id].session.expires_at <= now}
        return Size(len(self._live) - len(expired), self._state_bytes + self._record_bytes)

    async def verify(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def _has_record(self, record: IdempotencyRecord | None, now: float) -> bool:
        """Whether the record's key has a record that has not expired."""
        if record is None:
            return False
        stored = self._records.get((record.owner, record.key))
        return stored is not None and stored.expires_at > now

    def _charge(self, owner: str, growth: int) -> None:
        self._state_bytes += growth
        self._owner_bytes[owner] += growth

    def _add_record(self, record: IdempotencyRecord | None) -> None:
        if record is not None:
            owner_and_key = record.owner, record.key
            self._remove_record(owner_and_key)
            self._records[owner_and_key] = record
            self._record_bytes += record_bytes(record)
            self._owner_bytes[record.owner] += record_bytes(record)
            heapq.heappush(self._record_expiries, (record.expires_at, owner_and_key))

    def _remove_record(self, owner_and_key: tuple[str, str]) -> None:
        if record := self._records.pop(owner_and_key, None):
            self._record_bytes -= record_bytes(record)
            self._owner_bytes[record.owner] -= record_bytes(record)

    def _make_room(self, change: Change, entry: _Entry | None, now: float) -> None:
        """For a change; of a new session if `entry` is None."""
        if entry is None:
            self._make_room_for_session(change.session.owner, now)
        dropped = entry.changes[: max(0, len(entry.changes) - self._limits.versions)] if entry else []
        record_growth = record_bytes(change.record)
        growth = state_bytes(change.state) - sum(state_bytes(earlier.state) for earlier in dropped) + record_growth
        owner = change.session.owner
        if owner and growth > 0 and self._owner_bytes[owner] + growth > self._limits.max_bytes(owner):
            raise self._limits.owner_store_full(owner)
        if record_growth and self._record_bytes + record_growth > self._max_bytes // 2:
            raise StoreFullError("stored answers fill their half of the session store; nothing was changed")
        if growth > 0:
            self._make_room_for_bytes(growth, entry, now)

    def _make_room_for_bytes(self, growth: int, entry: _Entry | None, now: float) -> None:
        entry_bytes = sum(state_bytes(change.state) for change in entry.changes) if entry else 0
        if self._record_bytes + entry_bytes + growth > self._max_bytes:
            raise StoreFullError("the session store is full; nothing was changed")
        excess = self._state_bytes + self._record_bytes + growth - self._max_bytes
        for oldest in [*self._live.values()] if excess > 0 else []:
            if self._state_bytes + self._record_bytes + growth <= self._max_bytes:
                break
            if oldest is not entry:
                self._evict(oldest, now)

    def _make_room_for_session(self, owner: str, now: float) -> None:
        max_sessions = self._limits.max_sessions(owner)
        if len(self._live) >= self._limits.sessions or len(self._live_ids.get(owner, ())) >= max_sessions:
            self._sweep(now)
        if owner and len(self._live_ids.get(owner, ())) >= max_sessions:
            raise self._limits.too_many_sessions(owner)
        while len(self._live) >= self._limits.sessions:
            self._evict(next(iter(self._live.values())), now)

    def _evict(self, entry: _Entry, now: float) -> None:
        self._bury(entry, now)
        self._on_evicted()

    def _due(self, now: float) -> Iterator[str]:
        """The ids at the top of the heap whose time has come, some more than once. Leaves the heap as it is."""
        indices = [0]
        while indices:
            i = indices.pop()
            if i < len(self._expiries) and self._expiries[i][0] <= now:
                yield self._expiries[i][1]
                indices += (2 * i + 1, 2 * i + 2)

    def _sweep(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            id = heapq.heappop(self._expiries)[1]
            if entry := self._live.get(id):
                if entry.session.expires_at <= now:
                    self._bury(entry, entry.session.expires_at)
                    self._num_expired += 1
                else:
                    heapq.heappush(self._expiries, (entry.session.expires_at, id))
            elif id in self._tombstones and self._tombstones[id].expires_at + self._limits.tombstone_ttl <= now:
                self._remove_tombstone(id)
        while self._record_expiries and self._record_expiries[0][0] <= now:
            owner_and_key = heapq.heappop(self._record_expiries)[1]
            if owner_and_key in self._records and self._records[owner_and_key].expires_at <= now:
                self._remove_record(owner_and_key)

    def _bury(self, entry: _Entry, expires_at: float) -> None:
        """Replace a session by its tombstone."""
        self._remove(entry)
        id, owner = entry.session.id, entry.session.owner
        self._tombstones[id] = replace(entry.session, expires_at=expires_at)
        ids = self._tombstone_ids.setdefault(owner, {})
        ids[id] = None
        if len(ids) > self._limits.max_sessions(owner):
            self._remove_tombstone(next(iter(ids)))
        heapq.heappush(self._expiries, (expires_at + self._limits.tombstone_ttl, id))

    def _remove_tombstone(self, id: str) -> None:
        owner = self._tombstones.pop(id).owner
        del self._tombstone_ids[owner][id]
        if not self._tombstone_ids[owner]:
            del self._tombstone_ids[owner]

    def _remove(self, entry: _Entry) -> None:
        id, owner = entry.session.id, entry.session.owner
        del self._live[id]
        self._live_ids[owner].remove(id)
        if not self._live_ids[owner]:
            del self._live_ids[owner]
        self._charge(owner, -sum(state_bytes(change.state) for change in entry.changes))
