"""The rules of sessions: who may use one, when it is updated, and that an update is atomic. Knows nothing of HTTP.

A call loads a session, runs the model, and then makes one change. The store accepts the change only if the session is
still at the version that the call loaded. The store holds no lock while a call runs, and a call that dies leaves no
trace. Of two concurrent calls, anywhere, one comes first. Calls of one process wait for each other, so that no work is
done twice.
"""

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NoReturn
from weakref import WeakValueDictionary

from opentelemetry.trace import NoOpTracer, Tracer

from service.errors import (
    CarryError,
    DeadlineExceededError,
    IdempotencyKeyError,
    SessionConflictError,
    SessionExpiredError,
    SessionNotFoundError,
    StoreFullError,
    VersionMismatchError,
    VersionNotKeptError,
)
from service.metrics import SessionMetrics
from service.sessions import answers
from service.sessions.steady_clock import SteadyClock
from service.sessions.store import Change, IdempotencyRecord, LoadResult, Session, Store, Version


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and on what conditions.

    `owner`: "" where the service has no API keys. `key`: the idempotency key; `fingerprint`: a hash of the call.
    `expected`: the session versions that the caller accepts; None: any.
    """

    owner: str
    key: str | None = None
    fingerprint: str = ""
    expected: frozenset[int] | None = None


class ReplayedError(Exception):
    """The same call, with the same idempotency key, was answered before; `answer` is that answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("answered before")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class _Cached:
    """A session as this process last stored it. `uncontended`: no other process updated it between this process's last
    two updates."""

    session: Session
    state: bytes
    uncontended: bool


MAX_CACHED = 1000
"""Sessions that a process caches: a few megabytes."""
PING_SECONDS = 5.0
"""How long the outcome of a ping is reused."""
PING_TIMEOUT = 0.5
"""Seconds after which a store that does not answer counts as down."""


class Sessions:
    """The sessions of one process of the service.

    If only this process has been updating a session, its cached copy is reused. The store's version check rejects the
    update if another process updated the session; the call then runs again on the stored session. A session that
    several processes update is loaded for each call.
    """

    def __init__(
        self,
        store: Store,
        metrics: SessionMetrics,
        tombstone_ttl: float,
        idempotency_ttl: float,
        state_key: bytes | None,
        clock: Callable[[], float] = time.time,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer or NoOpTracer()
        self._store = store
        self._metrics = metrics
        self._tombstone_ttl = tombstone_ttl
        self._idempotency_ttl = idempotency_ttl
        self._state_key = state_key
        self._clock = clock
        self._sweep_clock = SteadyClock(clock)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._is_up = True
        self._next_ping = 0.0

    async def state_key(self) -> bytes:
        """The key that signs states for callers."""
        return self._state_key or await self._store.secret()

    async def get(self, caller: Caller, id: str) -> tuple[Session, bytes]:
        """A session and its state, to read.

        Raises:
            SessionNotFoundError, SessionExpiredError, VersionMismatchError.
        """
        _check_id(id)
        loaded = await self._read(id, caller.owner, None)
        return self._checked(caller, loaded.session, loaded.state)

    async def get_and_touch(self, caller: Caller, id: str) -> tuple[Session, bytes]:
        """As `get`, for a call that uses the session without updating it: the use prolongs its life."""
        session, state = await self.get(caller, id)
        now = self._clock()
        # Rarely, so that most calls write nothing.
        if session.expires_at - now < session.ttl / 2:
            await self._store.touch(id, now + session.ttl)
        return session, state

    @asynccontextmanager
    async def update(
        self, caller: Caller, id: str, deadline: float, cached: bool = True
    ) -> AsyncIterator["SessionUpdate"]:
        """Begin a call's update of a session, once the earlier calls of this process have ended.

        deadline: on time.monotonic's clock. cached: start from this process's copy where it is likely to be current.
        A `SessionConflictError` then means: run the call again.

        Raises:
            ReplayedError: the call was answered before.
            SessionNotFoundError, SessionExpiredError, VersionMismatchError, IdempotencyKeyError.
            SessionConflictError: another process updated the session meanwhile; nothing was written.
            DeadlineExceededError: other calls used the session until the deadline.
        """
        async with self._lock(id, deadline):
            update = self._from_cache(caller, id) if cached else None
            if update is not None:
                try:
                    yield update
                except CarryError as error:
                    if error.status >= 500 or isinstance(error, SessionConflictError):
                        raise
                    # The caller's mistake, but perhaps only because the cached copy is out of date.
                    self._cache.pop(id, None)
                    raise SessionConflictError("the session may have been updated", "$.session_id") from error
            else:
                yield await self._load(caller, id)

    @asynccontextmanager
    async def _lock(self, id: str, deadline: float) -> AsyncIterator[None]:
        """Keep other calls of this process from updating the session."""
        _check_id(id)
        lock = self._locks.setdefault(id, asyncio.Lock())
        try:
            # The deadline also applies to a free lock: it may be about to go to a waiting call.
            async with asyncio.timeout(deadline - time.monotonic()):
                await lock.acquire()
        except TimeoutError:
            raise DeadlineExceededError("other calls used the session until the deadline") from None
        try:
            yield
        finally:
            lock.release()

    async def check_replay(self, caller: Caller) -> None:
        """Check whether a call that creates a session was answered before.

        Raises:
            ReplayedError: it was answered before.
            IdempotencyKeyError: its key was used for another call.
        """
        if caller.key is not None:
            await self._check_replay(caller, (await self._read("", caller.owner, caller.key)).record)

    def new(self, caller: Caller, model: tuple[str, int, str], position: int, ttl: float) -> Session:
        """A session of a model (name, version, sha256), not stored yet."""
        now = self._clock()
        return Session(secrets.token_hex(16), caller.owner, *model, 0, position, now, now, now + ttl, ttl)

    async def create(self, caller: Caller, session: Session, state: bytes, answer: bytes | None) -> None:
        """Store a new session, with the answer for a repetition of the call if it has a key.

        Raises:
            StoreFullError, TooManySessionsError, IdempotencyKeyError.
            ReplayedError: the same call was answered meanwhile.
        """
        now = session.created_at
        change = Change(secrets.token_hex(16), session, state, await self._record(caller, answer, now))
        if not await self._commit(change, now):
            await self.check_replay(caller)
            raise SessionConflictError("the same call was sent twice at once; send it again")
        self._metrics.events.labels("created").inc()

    async def versions(self, session: Session) -> list[Version]:
        """The earlier versions that a session can go back to, newest first."""
        return await self._store.versions(session.id)

    async def state_at(self, session: Session, version: int) -> bytes:
        """The state of an earlier version.

        Raises:
            VersionNotKeptError: the version is not stored.
        """
        state = await self._store.earlier_state(session.id, version) if version < session.version else None
        if state is None:
            versions = ", ".join(str(v.version) for v in await self.versions(session)) or "none"
            raise VersionNotKeptError(
                f"version {version} is not stored; the session is at {session.version}, earlier versions: {versions}",
                "$.version",
            )
        return state

    async def sweep(self) -> None:
        """Drop expired sessions and answers."""
        expired = await self._store.sweep(self._sweep_clock())
        self._metrics.events.labels("expired").inc(expired)

    async def is_up(self) -> bool:
        """Whether the store answered the last ping, at most `PING_SECONDS` ago. Takes at most `PING_TIMEOUT`."""
        if time.monotonic() >= self._next_ping:
            self._next_ping = time.monotonic() + PING_SECONDS
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    await self._store.ping()
                self._is_up = True
            except StoreFullError:  # a full store still serves calls that need no room
                self._is_up = True
            except (CarryError, TimeoutError):
                self._is_up = False
            self._metrics.up.set(self._is_up)
        return self._is_up

    async def measure(self) -> None:
        """Update the metrics of the store: whether it answers, and how much it holds."""
        if not await self.is_up():
            return
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                size = await self._store.size(self._clock())
        except TimeoutError:
            return
        self._metrics.live.set(size.sessions)
        self._metrics.bytes.set(size.bytes)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def list(self, owner: str, after: str, limit: int) -> list[Session]:
        """An owner's live sessions with ids beyond `after`, by id."""
        return await self._store.list(owner, after, limit, self._clock())

    def _from_cache(self, caller: Caller, id: str) -> "SessionUpdate | None":
        """Begin an update of this process's copy, if that is likely to be current."""
        cached = self._cache.get(id)
        if cached is None or not cached.uncontended:
            return None
        try:
            return SessionUpdate(self, caller, *self._checked(caller, cached.session, cached.state), uncontended=True)
        except CarryError:  # the copy may be out of date
            return None

    async def _load(self, caller: Caller, id: str) -> "SessionUpdate":
        """Begin an update of the stored session."""
        loaded = await self._read(id, caller.owner, caller.key)
        await self._check_replay(caller, loaded.record)
        session, state = self._checked(caller, loaded.session, loaded.state)
        cached = self._cache.get(id)
        return SessionUpdate(
            self, caller, session, state, uncontended=cached is not None and cached.session.version == session.version
        )

    def _remember(self, session: Session, state: bytes, uncontended: bool) -> None:
        self._cache[session.id] = _Cached(session, state, uncontended)
        self._cache.move_to_end(session.id)
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)

    def _checked(self, caller: Caller, session: Session | None, state: bytes | None) -> tuple[Session, bytes]:
        now = self._clock()
        if session is None or session.owner != caller.owner or now >= session.expires_at + self._tombstone_ttl:
            raise SessionNotFoundError("no such session", "$.session_id")
        if state is None or now >= session.expires_at:
            raise SessionExpiredError(
                f"the session expired: it was not used for {session.ttl:g} s, or other sessions took its room",
                "$.session_id",
            )
        if caller.expected is not None and session.version not in caller.expected:
            raise VersionMismatchError(f"the session is at version {session.version}; nothing was changed", "If-Match")
        return session, state

    async def _check_replay(self, caller: Caller, record: IdempotencyRecord | None) -> None:
        if record is None or record.expires_at <= self._clock():
            return
        if record.fingerprint != caller.fingerprint:
            raise IdempotencyKeyError("this key was used for another call", "Idempotency-Key")
        self._metrics.events.labels("replayed").inc()
        raise ReplayedError(await answers.decompress(record.answer))

    async def _record(self, caller: Caller, answer: bytes | None, now: float) -> IdempotencyRecord | None:
        if caller.key is None:
            return None
        assert answer is not None
        data = await answers.compress(answer)
        return IdempotencyRecord(caller.owner, caller.key, caller.fingerprint, data, now + self._idempotency_ttl)

    async def _read(self, id: str, owner: str, key: str | None) -> LoadResult:
        with self._tracer.start_as_current_span("store read"):
            return await self._store.load(id, owner, key)

    async def _commit(self, change: Change, now: float) -> bool:
        started = time.perf_counter()
        with self._tracer.start_as_current_span("store commit"):
            accepted = await self._store.commit(change, now)
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        return accepted


_ID = re.compile("[0-9a-f]{32}")


def _check_id(id: str) -> None:
    """Reject malformed ids before querying the store."""
    if not _ID.fullmatch(id):
        raise SessionNotFoundError("no such session", "$.session_id")


class SessionUpdate:
    """A session and its `state` as a call loaded them, and the one change that the call may make."""

    def __init__(self, sessions: Sessions, caller: Caller, session: Session, state: bytes, uncontended: bool) -> None:
        self.session = session
        self.state = state
        self._sessions = sessions
        self._caller = caller
        self._uncontended = uncontended

    def next_version(self, position: int) -> Session:
        """The session as a commit will store it: the next version, at this position."""
        session, now = self.session, self._sessions._clock()
        return replace(
            session,
            version=session.version + 1,
            position=position,
            updated_at=now,
            # Never earlier than before, even if the clock went back.
            expires_at=max(session.expires_at, now + session.ttl),
        )

    async def commit(self, session: Session, state: bytes, answer: bytes | None) -> None:
        """Store the session (`next_version`) with this state, and the answer for a repetition of a call with a key.

        Raises:
            SessionConflictError: another process updated it meanwhile; nothing was written.
        """
        sessions, now = self._sessions, session.updated_at
        change = Change(secrets.token_hex(16), session, state, await sessions._record(self._caller, answer, now))
        if not await sessions._commit(change, now):
            self._conflict()
        sessions._remember(session, state, self._uncontended)

    async def delete(self, answer: bytes | None) -> None:
        """Delete the session.

        Raises:
            SessionConflictError: as `commit`.
        """
        sessions, now = self._sessions, self._sessions._clock()
        if not await sessions._store.delete(self.session, await sessions._record(self._caller, answer, now), now):
            self._conflict()
        sessions._cache.pop(self.session.id, None)
        sessions._metrics.events.labels("deleted").inc()

    def _conflict(self) -> NoReturn:
        self._sessions._cache.pop(self.session.id, None)
        self._sessions._metrics.events.labels("conflict").inc()
        raise SessionConflictError("another call updated the session; this one changed nothing", "$.session_id")
