"""The protocol of a session store, and what it stores. The rules are in sessions.py; a store only compares and writes.

All times are seconds since 1970. Callers pass them, so that all processes and tests agree on the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.errors import OwnerStoreFullError, StoreFullError, TooManySessionsError


class StoreError(Exception):
    """The store cannot be opened. The message says why, in one line that is safe to show."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session without its state.

    `owner`: "" where the service has no API keys. `model`, `model_version`, `sha256`: the graph that the state belongs
    to. `version` counts the updates. `position`: values or characters read so far. `ttl`: seconds the session lives
    after an update.
    """

    id: str
    owner: str
    model: str
    model_version: int
    sha256: str
    version: int
    position: int
    created_at: float
    updated_at: float
    expires_at: float
    ttl: float


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """The answer to a call with an idempotency key. `fingerprint` identifies the call: another call with the same key
    has another one."""

    owner: str
    key: str
    fingerprint: str
    answer: bytes
    expires_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """A session as it will be, with its state. Version 0 creates it; any other replaces the version before it.

    `id` identifies the change: a store that gets the same change twice, because its first answer was lost, makes it
    once.
    """

    id: str
    session: Session
    state: bytes
    record: IdempotencyRecord | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """An earlier version of a session, to rewind to."""

    version: int
    position: int
    updated_at: float


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a store has of a session. A session without a state is a tombstone: it expired and was swept."""

    session: Session | None
    state: bytes | None
    record: IdempotencyRecord | None


@dataclass(frozen=True, slots=True)
class Size:
    """Live sessions, and the bytes of the whole store (in memory, or on disk)."""

    sessions: int
    bytes: int


class OwnerLimits(Protocol):
    """What one owner may have; None: as much as any owner."""

    @property
    def sessions(self) -> int | None: ...

    @property
    def stored_bytes(self) -> int | None: ...


def _as_any(owner: str) -> OwnerLimits | None:
    return None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a store may hold.

    `sessions`: live sessions in all. `sessions_per_owner`, `bytes_per_owner`: of each owner other than ""; the bytes
    are those of `state_bytes` and `record_bytes`. `versions`: earlier versions of a session. `tombstone_ttl`: seconds
    that a tombstone is stored; the limit of live sessions is also the limit of tombstones. `of_owner`: the limits of an
    owner that has some of its own, at this moment; any thread calls it.
    """

    sessions: int
    sessions_per_owner: int
    bytes_per_owner: int
    versions: int
    tombstone_ttl: float
    of_owner: Callable[[str], OwnerLimits | None] = _as_any

    def max_sessions(self, owner: str) -> int:
        """The most live sessions of an owner, and the most tombstones."""
        if not owner:
            return self.sessions
        own = self.of_owner(owner)
        return self.sessions_per_owner if own is None or own.sessions is None else own.sessions

    def max_bytes(self, owner: str) -> int:
        """The most bytes of an owner other than ""."""
        own = self.of_owner(owner)
        return self.bytes_per_owner if own is None or own.stored_bytes is None else own.stored_bytes

    def store_full(self) -> StoreFullError:
        """The error where `sessions` are reached."""
        return StoreFullError(f"the store holds {self.sessions} live sessions, the most it may; nothing was changed")

    def too_many_sessions(self, owner: str) -> TooManySessionsError:
        """The error where an owner has reached `max_sessions`."""
        return TooManySessionsError(
            f"this API key has {self.max_sessions(owner)} live sessions, the most it may have: delete one, or wait "
            "until one expires; nothing was changed"
        )

    def owner_store_full(self, owner: str) -> OwnerStoreFullError:
        """The error where an owner would exceed `max_bytes`."""
        return OwnerStoreFullError(
            f"the sessions and stored answers of this API key may take {self.max_bytes(owner)} bytes, and this call "
            "needs more: delete a session, or wait until one expires; nothing was changed"
        )


ROW_BYTES = 256
"""What a state or a record is charged besides its own bytes: its row and its index entries."""


def state_bytes(state: bytes) -> int:
    """The bytes that a state is charged."""
    return len(state) + ROW_BYTES


def record_bytes(record: IdempotencyRecord | None) -> int:
    """The bytes that a record is charged."""
    return 0 if record is None else len(record.answer) + len(record.key) + ROW_BYTES


class Store(Protocol):
    """Any method may raise StoreUnavailableError: the store cannot be reached or read, and the change may or may not
    have been made. A change is made completely or not at all, and is stored when the call returns."""

    async def load(self, id: str, owner: str, key: str | None) -> LoadResult:
        """Load a session, also another owner's or an expired one, and the record of the owner's `key`."""

    async def commit(self, change: Change, now: float) -> bool:
        """Make a change and store its record. The replaced version becomes an earlier version, and the oldest of these
        is dropped. Return False, and change nothing, if the session is not at the version before (another process
        updated, deleted or swept it) or the key has a record already.

        Raises:
            StoreFullError: the store is full; nothing was changed.
            TooManySessionsError: the owner has `max_sessions`; nothing was changed.
            OwnerStoreFullError: the owner would exceed `max_bytes`; nothing was changed.
        """

    async def delete(self, session: Session, record: IdempotencyRecord | None, now: float) -> bool:
        """Delete a session and its earlier versions if it is still at this version; otherwise as `commit`."""

    async def touch(self, id: str, expires_at: float) -> None:
        """Let a live session expire at this time, if it would expire sooner."""

    async def versions(self, id: str) -> list[Version]:
        """The earlier versions, newest first."""

    async def earlier_state(self, id: str, version: int) -> bytes | None:
        """The state of an earlier version."""

    async def list(self, owner: str, after: str, limit: int, now: float) -> list[Session]:
        """The owner's live sessions with ids beyond `after`, by id."""

    async def sweep(self, now: float) -> int:
        """Turn expired sessions into tombstones, and delete expired records, expired tombstones, and the oldest
        tombstones of owners who have too many. Return how many sessions expired since any process swept last."""

    async def secret(self) -> bytes:
        """32 random bytes, the same for all processes that share the store, as long as it lives."""

    async def size(self, now: float) -> Size:
        """How much the store holds."""

    async def verify(self) -> None:
        """Check, before the service starts, that the store works. Warn if it does not work yet.

        Raises:
            StoreError: it does not work, and waiting will not help.
        """

    async def ping(self) -> None:
        """Return if the store can be reached and read."""

    async def close(self) -> None:
        """Finish pending changes and close all connections."""
