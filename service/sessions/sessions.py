"""The rules of sessions: who may use one, when it moves, and that it moves once and whole. Knows nothing of HTTP.

A call reads a session, works, and then makes one change, which the store takes only if the session still is where the
call had read it. So nothing is held in the store while a call works, a call that dies leaves no trace, and of two calls
at once, anywhere, one comes first. Within a process they wait for each other, so that no work is done twice.
"""

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

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
from service.sessions import receipts
from service.sessions.steady_clock import SteadyClock
from service.sessions.store import Change, Receipt, Session, Store, Version

MakeAnswer = Callable[[Session], bytes]
"""The answer to a call, once it is known what the session will be: kept with it, for a repetition of the call."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and on what conditions.

    `owner`: "" where the service knows no owners. `key`, `fingerprint`: the idempotency key, and what the call is.
    `expected`: the versions of the session that the caller would have it at; None: any.
    """

    owner: str
    key: str | None = None
    fingerprint: str = ""
    expected: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """A session as this process left it. `alone`: nobody else moved it between the last two times that it did."""

    session: Session
    state: bytes
    alone: bool


ATTEMPTS = 10
"""How often a call is done anew because another process changed its session meanwhile. Each time, somebody got on."""
HELD = 1000
"""Sessions that a process remembers as it left them: a few megabytes."""


PING_SECONDS = 5.0
"""How long what the store answered, whether it is up, is believed."""
PING_TIMEOUT = 1.0
"""Seconds after which a store that does not answer is taken to be down."""


class Sessions:
    """The sessions of one process of the service.

    Whose session is moved by one process alone need not be read again from the store for every call: the process takes
    it as it left it, and would be told by the store, at the end, if it had moved meanwhile. A session that others move
    too is read each time, since work would be done in vain.
    """

    def __init__(
        self,
        store: Store,
        metrics: SessionMetrics,
        remembered: float,
        receipt_ttl: float,
        state_key: bytes | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._remembered = remembered
        self._receipt_ttl = receipt_ttl
        self._state_key = state_key
        self._clock = clock
        self._sweep_clock = SteadyClock(clock)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._is_up = True
        self._ask_again_at = 0.0

    async def state_key(self) -> bytes:
        """What states that leave the service are signed with."""
        return self._state_key or await self._store.secret()

    async def look(self, caller: Caller, id: str) -> tuple[Session, bytes]:
        """A session and its state, to look at.

        Raises:
            SessionNotFoundError, SessionExpiredError, VersionMismatchError.
        """
        _check_id(id)
        found = await self._store.load(id, caller.owner, None)
        return self._checked(caller, found.session, found.state)

    async def use(self, caller: Caller, id: str) -> tuple[Session, bytes]:
        """As `look`, for a call that does not change the session, and yet keeps it alive."""
        session, state = await self.look(caller, id)
        now = self._clock()
        # Seldom enough to cost nothing.
        if session.expires_at - now < session.ttl / 2:
            await self._store.touch(id, now + session.ttl)
        return session, state

    @asynccontextmanager
    async def turn(self, caller: Caller, id: str, deadline: float) -> AsyncIterator["Turn"]:
        """One call's turn to change a session, after all that came before it in this process.

        deadline: on time.monotonic's clock.

        Raises:
            SessionNotFoundError, SessionExpiredError, VersionMismatchError, IdempotencyKeyError.
            DeadlineExceededError: it did not come by then.
        """
        async with self._alone_with(id, deadline):
            yield await self._turn(caller, id)

    async def change(
        self, caller: Caller, id: str, deadline: float, change: Callable[["Turn"], Awaitable[bytes | None]]
    ) -> tuple[bytes, bool]:
        """The answer of the change that a call makes in its turn, and whether it is that of an earlier, equal call. The
        change is made anew, on what is there then, while it returns None: another process came first.

        Raises:
            SessionConflictError: others came first all the while; nothing was changed.
            DeadlineExceededError: its turn did not come by then.
            Whatever `turn` and the change raise.
        """
        async with self._alone_with(id, deadline):
            turn = self._as_left(caller, id) or await self._turn(caller, id)
            for _ in range(ATTEMPTS):
                if turn.replay is not None:
                    return turn.replay, True
                try:
                    made = await change(turn)
                except CarryError as error:
                    if turn.read or error.status >= 500:
                        raise
                    made = None  # the caller's mistake, but perhaps only because the session has moved
                if made is not None:
                    return made, False
                turn = await self._turn(caller, id)
        raise SessionConflictError("others moved the session all the while; nothing was changed", "$.session_id")

    @asynccontextmanager
    async def _alone_with(self, id: str, deadline: float) -> AsyncIterator[None]:
        """Nobody else of this process changes the session meanwhile."""
        _check_id(id)
        lock = self._locks.setdefault(id, asyncio.Lock())
        try:
            # Also where it is not locked: others may wait to be handed it, and come first.
            async with asyncio.timeout(deadline - time.monotonic()):
                await lock.acquire()
        except TimeoutError:
            raise DeadlineExceededError("others used the session until the deadline") from None
        try:
            yield
        finally:
            lock.release()

    async def replayed(self, caller: Caller) -> bytes | None:
        """The answer that a call with the same key was given.

        Raises:
            IdempotencyKeyError: the key was used for another call.
        """
        if caller.key is None:
            return None
        return await self._replay(caller, (await self._store.load("", caller.owner, caller.key)).receipt)

    async def create(
        self,
        caller: Caller,
        model: tuple[str, int, str],
        position: int,
        state: bytes,
        ttl: float,
        answer: MakeAnswer,
    ) -> bytes:
        """A new session of a model (name, version, sha256) that stands there.

        Raises:
            StoreFullError, TooManySessionsError, IdempotencyKeyError.
        """
        now = self._clock()
        session = Session(secrets.token_hex(16), caller.owner, *model, 0, position, now, now, now + ttl, ttl)
        made = answer(session)
        change = Change(secrets.token_hex(16), session, state, await self._receipt(caller, made, now))
        if await self._committed(change, now):
            self._metrics.events.labels("created").inc()
            return made
        replay = await self.replayed(caller)
        if replay is None:
            raise SessionConflictError("the same call was made twice at once; send it again")
        return replay

    async def versions(self, session: Session) -> list[Version]:
        """The earlier versions that a session can go back to, newest first."""
        return await self._store.versions(session.id)

    async def earlier(self, session: Session, version: int) -> bytes:
        """The state of an earlier version.

        Raises:
            VersionNotKeptError: it is not kept.
        """
        state = await self._store.earlier(session.id, version) if version < session.version else None
        if state is None:
            kept = ", ".join(str(v.version) for v in await self.versions(session)) or "none"
            raise VersionNotKeptError(
                f"version {version} is not kept; the session is at {session.version}, earlier ones kept: {kept}",
                "$.version",
            )
        return state

    async def sweep(self) -> None:
        """Drop what has expired."""
        expired = await self._store.sweep(self._sweep_clock())
        self._metrics.events.labels("expired").inc(expired)

    async def is_up(self) -> bool:
        """Whether the store answered when it was last asked, some seconds ago at most. Takes a second at most."""
        if time.monotonic() >= self._ask_again_at:
            self._ask_again_at = time.monotonic() + PING_SECONDS
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    await self._store.ping()
                self._is_up = True
            except StoreFullError:  # which takes what needs no room
                self._is_up = True
            except (CarryError, TimeoutError):
                self._is_up = False
            self._metrics.up.set(self._is_up)
        return self._is_up

    async def measure(self) -> None:
        """Note whether the store answers and how much it holds."""
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
        """Let go of the store."""
        await self._store.close()

    async def list(self, owner: str, after: str, limit: int) -> list[Session]:
        """An owner's live sessions, by id, from the first beyond `after`."""
        return await self._store.list(owner, after, limit, self._clock())

    def _as_left(self, caller: Caller, id: str) -> "Turn | None":
        """A session as this process left it, if that is likely to be how it stands."""
        held = self._held.get(id)
        if held is None or not held.alone:
            return None
        try:
            return Turn(self, caller, *self._checked(caller, held.session, held.state), None, True, read=False)
        except CarryError:  # as far as is known here
            return None

    async def _turn(self, caller: Caller, id: str) -> "Turn":
        found = await self._store.load(id, caller.owner, caller.key)
        replay = await self._replay(caller, found.receipt)
        if replay is not None:
            return Turn(self, caller, found.session, found.state, replay, False)
        session, state = self._checked(caller, found.session, found.state)
        held = self._held.get(id)
        alone = held is not None and held.session.version == session.version
        return Turn(self, caller, session, state, None, alone)

    def _hold(self, session: Session, state: bytes, alone: bool) -> None:
        self._held[session.id] = _Held(session, state, alone)
        self._held.move_to_end(session.id)
        if len(self._held) > HELD:
            self._held.popitem(last=False)

    def _checked(self, caller: Caller, session: Session | None, state: bytes | None) -> tuple[Session, bytes]:
        now = self._clock()
        if session is None or session.owner != caller.owner or now >= session.expires_at + self._remembered:
            raise SessionNotFoundError("no such session", "$.session_id")
        if state is None or now >= session.expires_at:
            raise SessionExpiredError(
                f"the session expired: it was not used for {session.ttl:g} s, or made room for others", "$.session_id"
            )
        if caller.expected is not None and session.version not in caller.expected:
            raise VersionMismatchError(f"the session is at version {session.version}; nothing was changed", "If-Match")
        return session, state

    async def _replay(self, caller: Caller, receipt: Receipt | None) -> bytes | None:
        if receipt is None or receipt.expires_at <= self._clock():
            return None
        if receipt.fingerprint != caller.fingerprint:
            raise IdempotencyKeyError("this key was used for another call", "Idempotency-Key")
        self._metrics.events.labels("replayed").inc()
        return await receipts.unpack(receipt.answer)

    async def _receipt(self, caller: Caller, answer: bytes, now: float) -> Receipt | None:
        if caller.key is None:
            return None
        packed = await receipts.pack(answer)
        return Receipt(caller.owner, caller.key, caller.fingerprint, packed, now + self._receipt_ttl)

    async def _committed(self, change: Change, now: float) -> bool:
        started = time.perf_counter()
        kept = await self._store.commit(change, now)
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        return kept


_ID = re.compile("[0-9a-f]{32}")


def _check_id(id: str) -> None:
    """What is no id need not be looked for; and a store could choke on it."""
    if not _ID.fullmatch(id):
        raise SessionNotFoundError("no such session", "$.session_id")


class Turn:
    """A session as a call found it, and the one change that the call may make. `replay`: the answer, if the call was
    answered before. `read`: whether the store was asked, or it is as this process left it."""

    def __init__(
        self,
        sessions: Sessions,
        caller: Caller,
        session: Session | None,
        state: bytes | None,
        replay: bytes | None,
        alone: bool,
        read: bool = True,
    ) -> None:
        self._sessions = sessions
        self._caller = caller
        self._session = session
        self._state = state
        self.replay = replay
        self.read = read
        self._alone = alone

    @property
    def session(self) -> Session:
        """As it was found."""
        assert self._session is not None
        return self._session

    @property
    def state(self) -> bytes:
        """Where it stands."""
        assert self._state is not None
        return self._state

    async def move(self, position: int, state: bytes, answer: MakeAnswer) -> bytes | None:
        """Let the session stand there; the answer. None if another call came first."""
        sessions, now = self._sessions, self._sessions._clock()
        moved = replace(
            self.session,
            version=self.session.version + 1,
            position=position,
            updated_at=now,
            # Later than before, also where the clock went back.
            expires_at=max(self.session.expires_at, now + self.session.ttl),
        )
        made = answer(moved)
        change = Change(secrets.token_hex(16), moved, state, await sessions._receipt(self._caller, made, now))
        if await sessions._committed(change, now):
            sessions._hold(moved, state, self._alone)
            return made
        self._conflict()
        return None

    async def delete(self, answer: bytes) -> bool:
        """Forget the session. False if another call came first."""
        sessions, now = self._sessions, self._sessions._clock()
        receipt = await sessions._receipt(self._caller, answer, now)
        if await sessions._store.delete(self.session, receipt, now):
            sessions._held.pop(self.session.id, None)
            sessions._metrics.events.labels("deleted").inc()
            return True
        self._conflict()
        return False

    def _conflict(self) -> None:
        self._sessions._held.pop(self.session.id, None)
        self._sessions._metrics.events.labels("conflict").inc()
