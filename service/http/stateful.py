"""Calls that resume a sequence: from a session, or from a state that the caller brought.

A route reads from top to bottom:

    @stateful
    async def post_forecast(body, call):
        async with resume(call, body, FORECAST) as run:
            result = await run.submit(task, steps)
            ending = run.ending(result.after)
            return await run.commit(ending, encoded({**answer, **ending.fields}))
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar

import orjson
from fastapi import Response

from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ModelRefusedError,
    SessionConflictError,
    SessionModelError,
    InvalidStateError,
    WrongModelKindError,
)
from service.http.context import RequestContext
from service.http.schemas import SessionId, StatefulBody
from service.http.state import AppState
from service.kind import Kind, Model
from service.manifest import M
from service.sessions.sessions import ReplayedError, SessionUpdate
from service.sessions.state import signed, verified
from service.sessions.store import Session

Result = TypeVar("Result")
P = ParamSpec("P")

MAX_ATTEMPTS = 10
"""How often a call is run because other processes update its session first. Each time, one of them made progress."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it is sent, and as it is stored for a repetition of the call."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def packed(self) -> bytes:
        """As bytes."""
        return orjson.dumps([self.status, self.headers]) + b"\n" + self.body

    @classmethod
    def replayed(cls, packed: bytes) -> "Reply":
        """The answer to a repetition: what was packed, with a header that says so."""
        head, body = packed.split(b"\n", 1)
        status, headers = orjson.loads(head)
        return cls(body, status, headers | {"Idempotency-Replayed": "true"})

    def response(self) -> Response:
        """To send it."""
        return Response(self.body, self.status, self.headers, media_type="application/json" if self.body else None)


def stateful(route: Callable[P, Awaitable[Response]]) -> Callable[P, Awaitable[Response]]:
    """A route that is run again while other processes update its session first, and that answers a repetition of an
    earlier call as that call was answered."""

    @wraps(route)
    async def run(*args: P.args, **kwargs: P.kwargs) -> Response:
        for _ in range(MAX_ATTEMPTS):
            try:
                return await route(*args, **kwargs)
            except ReplayedError as replay:
                return Reply.replayed(replay.answer).response()
            except SessionConflictError:
                continue
        raise SessionConflictError("other calls kept updating the session; nothing was written", "$.session_id")

    return run


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a call ended: the session as it will be, if the call has one, its state as bytes, if the call stores or
    returns it, and the `fields` of the answer that tell it."""

    session: Session | None
    state: bytes
    fields: dict[str, Any]


class ResumedSequence(Generic[M]):
    """A sequence that a call resumes: its model, and where it stood at the `start`. `returns_state`: whether anybody
    goes on from where the call ends."""

    def __init__(
        self,
        call: RequestContext,
        model: Model[M],
        start: SequenceState,
        returns_state: bool,
        state_key: bytes = b"",
        session: Session | None = None,
        update: SessionUpdate | None = None,
    ) -> None:
        self.model = model
        self.start = start
        self.returns_state = returns_state
        self._call = call
        self._state_key = state_key
        self._session = session
        self._update = update

    def hold(self, amount: int, path: str) -> None:
        """As `RequestContext.hold`."""
        self._call.hold(amount, path, self.model.engine)

    def begin(self, task: Task[Result], steps: int) -> "Future[Result]":
        """Submit a task of so many steps to the engine."""
        return self._call.submit(self.model.engine, task, steps)

    async def submit(self, task: Task[Result], steps: int) -> Result:
        """As `begin`; wait for its result."""
        return await asyncio.wrap_future(self.begin(task, steps))

    def ending(self, after: SequenceState) -> Ending:
        """Where the call ends. Nothing is stored yet."""
        state = self.model.codec.encode(after) if self.returns_state else b""
        session = self._session if self._update is None else self._update.moved_to(after.position)
        if session is not None:
            return Ending(session, state, {"session": reference(session).model_dump(), "state": None})
        carried = signed(state, self._state_key) if self.returns_state else None
        return Ending(None, state, {"session": None, "state": carried})

    async def commit(self, ending: Ending, body: bytes) -> Response:
        """Store where the call ended, if it updates a session; the answer with this body.

        Raises:
            SessionConflictError: another process updated the session meanwhile; nothing was written.
        """
        session = ending.session
        reply = Reply(body, headers={} if session is None else etag(session))
        if self._update is not None and session is not None:
            await self._update.commit(session, ending.state, self._call.receipt(reply.packed))
        return reply.response()


@asynccontextmanager
async def resume(
    call: RequestContext, body: StatefulBody, kind: Kind[M], cached: bool = True
) -> AsyncIterator[ResumedSequence[M]]:
    """The sequence that a call resumes. `cached`: as `Sessions.update`; only where the call can be run again.

    Raises:
        CarryError: there is no such session, model or state, or they do not belong together.
        ReplayedError: the call was answered before.
    """
    app = call.app
    if body.session_id is None:
        if call.caller.expected is not None:
            raise InvalidRequestError("only a call with a `session_id` has a version to match", "If-Match")
        key = b"" if body.state is None else await app.sessions.state_key()
        model, start = model_and_start(app, body, kind, key)
        yield ResumedSequence(call, model, start, body.state is not None and body.commit, key)
        return
    if body.state is not None:
        raise InvalidRequestError("give `session_id` or `state`, not both", "$.state")
    if not body.commit:
        session, payload = await app.sessions.get_and_touch(call.caller, body.session_id)
        model = _session_model(app, body, kind, session)
        yield ResumedSequence(call, model, model.codec.decode(payload), False, session=session)
        return
    async with app.sessions.update(call.caller, body.session_id, call.deadline, cached) as update:
        model = _session_model(app, body, kind, update.session)
        yield ResumedSequence(call, model, model.codec.decode(update.state), True, update=update)


def model_and_start(app: AppState, body: StatefulBody, kind: Kind[M], key: bytes) -> tuple[Model[M], SequenceState]:
    """The model of a call without a session, and where it starts: at the state that the caller brought, if any.

    Raises:
        CarryError: as `resume`.
    """
    if not body.state:
        return app.registry.find_kind(body.model, kind), EMPTY_STATE
    model, payload = model_of_state(app, body.state, key)
    return _checked(model, body, kind, "$.state"), model.codec.accept(payload)


def etag(session: Session) -> dict[str, str]:
    """The header with a session's version."""
    return {"ETag": f'"{session.version}"'}


def reference(session: Session) -> SessionId:
    """A session in the answer of a call that resumed it."""
    return SessionId(id=session.id, version=session.version, position=session.position)


def _session_model(app: AppState, body: StatefulBody, kind: Kind[M], session: Session) -> Model[M]:
    return _checked(model_of_session(app, session), body, kind, "$.session_id")


def _checked(model: Model[Any], body: StatefulBody, kind: Kind[M], path: str) -> Model[M]:
    if model.kind is not kind:
        raise WrongModelKindError(f"it is of {model.label}, a {model.kind.name} model", path)
    if body.model not in (None, model.manifest.name, model.label):
        raise InvalidRequestError(f"the call goes on with {model.label}, not with this one", "$.model")
    return model


def model_of_session(app: AppState, session: Session) -> Model[Any]:
    """The model that a session belongs to, the very graph.

    Raises:
        SessionModelError: it is not loaded.
    """
    label = f"{session.model}@{session.model_version}"
    try:
        model = app.registry.find(label)
    except (ModelNotFoundError, ModelRefusedError):
        reason = "is not loaded"
    else:
        if model.codec.sha256 == session.sha256:
            return model
        reason = "is loaded with another graph, or in another precision"
    raise SessionModelError(
        f"the session is of {label}, which {reason}: bring that back and POST /models/reload, or begin a new session",
        "$.session_id",
    )


def model_of_state(app: AppState, state: str, key: bytes) -> tuple[Model[Any], bytes]:
    """The model that a state belongs to which a caller brought, and its bytes.

    Raises:
        InvalidStateError: it is none, or not of this service, or not whole.
        SessionModelError: its model is not loaded.
    """
    try:
        payload, header = verified(state, key)
        label = f"{header.model}@{header.version}"
        return app.registry.find(label), payload
    except (ModelNotFoundError, ModelRefusedError):
        raise SessionModelError(f"the state is of {label}, which is not loaded", "$.state") from None
    except InvalidStateError as error:
        error.path = "$.state"
        raise
