"""Where sessions are kept: what every store can do. The rules are in sessions.py; a store only keeps, and compares.

All times are seconds since 1970, told by the caller, so that all of a store's users and its tests agree on them.
"""

from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """A store that cannot be opened; the message says why, in a line that is safe to show."""


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a session besides its state.

    `owner`: "" where the service knows no owners. `model`, `model_version`, `sha256`: the graph that the state belongs
    to. `version` counts the changes. `position`: values or characters read so far. `ttl`: seconds it lives after a
    change.
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
class Receipt:
    """What a call with an idempotency key was answered. `fingerprint` tells whether another call is the same one."""

    owner: str
    key: str
    fingerprint: str
    answer: bytes
    expires_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """A session as it will be, with its state. Version 0 creates it; any other replaces the version before it.

    `id` tells two tries of one change from two changes: a store that is asked to do the same one twice, since the
    first answer was lost, does it once.
    """

    id: str
    session: Session
    state: bytes
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a session that it can be rewound to."""

    version: int
    position: int
    updated_at: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a store holds of a session. `state` is None once it has expired and been swept away."""

    session: Session | None
    state: bytes | None
    receipt: Receipt | None


@dataclass(frozen=True, slots=True)
class Size:
    """Live sessions, and the bytes that all of the store takes (in memory, or on disk)."""

    sessions: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """`sessions` in all and `sessions_per_owner` (of owners other than ""): the most that are alive, and the most that
    are remembered after they expired. `bytes_per_owner` (of owners other than ""): the most that an owner's states and
    receipts take, by `state_bytes` and `receipt_bytes`. `versions`: how many earlier versions of a session are kept.
    `remembered`: seconds that an expired session is told from one that never was."""

    sessions: int
    sessions_per_owner: int
    bytes_per_owner: int
    versions: int
    remembered: float

    def most_of(self, owner: str) -> int:
        """Sessions that an owner may have alive, and remembered."""
        return self.sessions_per_owner if owner else self.sessions


ROW_BYTES = 256
"""What a state or a receipt counts for besides its bytes: how a store finds it again."""


def state_bytes(state: bytes) -> int:
    """What a state counts for."""
    return len(state) + ROW_BYTES


def receipt_bytes(receipt: Receipt | None) -> int:
    """What a receipt counts for."""
    return 0 if receipt is None else len(receipt.answer) + len(receipt.key) + ROW_BYTES


class Store(Protocol):
    """Any method may raise StoreUnavailableError: it cannot be reached or read; what was asked may or may not have been
    done. Whatever changes anything is done whole or not at all, and is kept when the call returns."""

    async def load(self, id: str, owner: str, key: str | None) -> Found:
        """A session, whoever owns it and whether or not it has expired, and the owner's receipt for `key`."""

    async def commit(self, change: Change, now: float) -> bool:
        """Make a change and keep its receipt; the version replaced becomes an earlier version, and the oldest of those
        is dropped. False, and nothing is changed, if the session is not at the version before (another change came
        first, it was deleted or swept) or there is a receipt for the key already.

        Raises:
            StoreFullError: there is no room for it; nothing was changed.
            TooManySessionsError: the owner has as many sessions as one may have; nothing was changed.
            OwnerStoreFullError: the owner has as many bytes as one may have; nothing was changed.
        """

    async def delete(self, session: Session, receipt: Receipt | None, now: float) -> bool:
        """Forget a session, with its earlier versions, if it still is at this version; as `commit` otherwise."""

    async def touch(self, id: str, expires_at: float) -> None:
        """Let a session live until then, if that is later than it would, and it is still there."""

    async def versions(self, id: str) -> list[Version]:
        """The earlier versions that are kept, newest first."""

    async def earlier(self, id: str, version: int) -> bytes | None:
        """The state of one of them."""

    async def list(self, owner: str, after: str, limit: int, now: float) -> list[Session]:
        """The owner's live sessions, by id, from the first beyond `after`."""

    async def sweep(self, now: float) -> int:
        """Drop the states of sessions that have expired, all of those that are remembered no longer or are more than
        their owner may have remembered, the oldest first, and receipts that have expired. How many sessions expired
        since the last time, whoever sweeps."""

    async def secret(self) -> bytes:
        """32 random bytes, the same for all who use this store, as long as it lives."""

    async def size(self, now: float) -> Size:
        """How much it holds."""

    async def verify(self) -> None:
        """Look, before the service starts, whether it can be used; warn if it cannot be yet.

        Raises:
            StoreError: it cannot, and waiting will not help.
        """

    async def ping(self) -> None:
        """Return if it can be reached and read."""

    async def close(self) -> None:
        """Let go of it."""
