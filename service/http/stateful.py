"""Calls that resume a sequence: from a session, or from a state in the request.

A route reads from top to bottom:

    @stateful
    async def post_forecast(body, call):
        async with resume(call, body, FORECAST) as run:
            result = await run.submit(task, steps)
            ending = run.ending(result.after)
            return await run.commit(ending, encoded({**answer, **ending.fields}))
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from fastapi import Response

from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import (
    InvalidRequestError,
    InvalidStateError,
    ModelNotFoundError,
    ModelRefusedError,
    SessionModelError,
    WrongModelKindError,
)
from service.http.context import RequestContext
from service.http.replies import Reply
from service.http.schemas import SessionId, StatefulBody
from service.http.state import AppState
from service.kind import Kind, Model
from service.manifest import M
from service.sessions.sessions import SessionUpdate
from service.sessions.state import sign_state, verify_state
from service.sessions.store import Session

Result = TypeVar("Result")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a call ends. `session`: as it will be stored, if the call has one. `state`: as bytes, if the call stores or
    returns it. `fields`: the answer's `session` and `state`."""

    session: Session | None
    state: bytes
    fields: dict[str, Any]


class ResumedSequence(Generic[M]):
    """A sequence that a call resumes: its model and its state at the `start`. `returns_state`: whether the call stores
    or returns the state at its end."""

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

    @property
    def updates_session(self) -> bool:
        """Whether `commit` updates a session."""
        return self._update is not None

    def hold(self, amount: int, path: str) -> None:
        """As `RequestContext.hold`."""
        self._call.hold(amount, path, self.model.engine)

    def begin(self, task: Task[Result], steps: int) -> "Future[Result]":
        """Submit a task of `steps` steps to the engine."""
        return self._call.submit(self.model.engine, task, steps)

    async def submit(self, task: Task[Result], steps: int) -> Result:
        """Submit a task and wait for its result."""
        return await asyncio.wrap_future(self.begin(task, steps))

    def ending(self, after: SequenceState) -> Ending:
        """Where the call ends, if its sequence ends in the state `after`. Stores nothing."""
        state = self.model.codec.encode(after) if self.returns_state else b""
        session = self._session if self._update is None else self._update.next_version(after.position)
        if session is not None:
            return Ending(session, state, {"session": reference(session).model_dump(), "state": None})
        returned_state = sign_state(state, self._state_key) if self.returns_state else None
        return Ending(None, state, {"session": None, "state": returned_state})

    async def commit(self, ending: Ending, body: bytes) -> Response:
        """Store the ending if the call updates a session. Returns the answer with this body.

        Raises:
            SessionConflictError: another process updated the session first. Nothing was written.
        """
        session = ending.session
        reply = Reply(body, headers={} if session is None else etag(session))
        if self._update is not None and session is not None:
            await self._update.commit(session, ending.state, reply.to_store(self._call))
        return reply.response()


@asynccontextmanager
async def resume(
    call: RequestContext, body: StatefulBody, kind: Kind[M], cached: bool = True
) -> AsyncIterator[ResumedSequence[M]]:
    """The sequence that a call resumes. `cached`: as in `Sessions.update`; requires a route that can run again.

    Raises:
        CarryError: the session, model or state does not exist, or they do not belong together.
        ReplayedError: an earlier call with the same idempotency key has an answer.
    """
    app = call.app
    if body.session_id is None:
        if call.caller.expected is not None:
            raise InvalidRequestError("needs a `session_id`: only a session has a version", "If-Match")
        key = b"" if body.state is None else await app.sessions.state_key()
        model, start = model_and_start(app, body, kind, key)
        yield ResumedSequence(call, model, start, body.state is not None and body.commit, key)
        return
    if body.state is not None:
        raise InvalidRequestError("send `session_id` or `state`, not both", "$.state")
    if not body.commit:
        session, payload = await app.sessions.get_and_touch(call.caller, body.session_id)
        model = _session_model(app, body, kind, session)
        yield ResumedSequence(call, model, model.codec.decode(payload), False, session=session)
        return
    async with app.sessions.update(call.caller, body.session_id, call.deadline, cached) as update:
        model = _session_model(app, body, kind, update.session)
        yield ResumedSequence(call, model, model.codec.decode(update.state), True, update=update)


def model_and_start(app: AppState, body: StatefulBody, kind: Kind[M], key: bytes) -> tuple[Model[M], SequenceState]:
    """The model of a call without a session, and the state in the request, or the empty state if it has none.

    Raises:
        CarryError: as `resume`.
    """
    if not body.state:
        return app.registry.find_kind(body.model, kind), EMPTY_STATE
    model, payload = model_of_state(app, body.state, key)
    return _checked(model, body, kind, "$.state"), model.codec.decode_untrusted(payload)


def etag(session: Session) -> dict[str, str]:
    """The ETag header: the session's version."""
    return {"ETag": f'"{session.version}"'}


def reference(session: Session) -> SessionId:
    """The session as the answer of a call shows it."""
    return SessionId(id=session.id, version=session.version, position=session.position)


def _session_model(app: AppState, body: StatefulBody, kind: Kind[M], session: Session) -> Model[M]:
    return _checked(model_of_session(app, session), body, kind, "$.session_id")


def _checked(model: Model[Any], body: StatefulBody, kind: Kind[M], path: str) -> Model[M]:
    if model.kind is not kind:
        raise WrongModelKindError(f"belongs to {model.label}, a {model.kind.name} model", path)
    check_name(model, body.model)
    return model


def check_name(model: Model[Any], name: str | None) -> None:
    """Check that a request with a session or state names its model, or none.

    Raises:
        InvalidRequestError: it names another model.
    """
    if name not in (None, model.manifest.name, model.label):
        message = f"the session or state belongs to {model.label}: name that model, or leave `model` out"
        raise InvalidRequestError(message, "$.model")


def model_of_session(app: AppState, session: Session) -> Model[Any]:
    """The loaded model whose graph made the session's state.

    Raises:
        SessionModelError: it is not loaded, or with another graph.
    """
    label = f"{session.model}@{session.model_version}"
    try:
        model = app.registry.find(label)
    except (ModelNotFoundError, ModelRefusedError):
        reason = "is not loaded"
    else:
        if model.codec.sha256 == session.sha256:
            return model
        reason = "is loaded with another graph or precision"
    raise SessionModelError(
        f"the session belongs to {label}, which {reason}: restore that model and POST /models/reload, "
        "or create a new session",
        "$.session_id",
    )


def model_of_state(app: AppState, state: str, key: bytes) -> tuple[Model[Any], bytes]:
    """The model of a state from a request, and the state as bytes.

    Raises:
        InvalidStateError: it is damaged, or this service did not sign it.
        SessionModelError: its model is not loaded.
    """
    try:
        payload, header = verify_state(state, key)
        label = f"{header.model}@{header.version}"
        return app.registry.find(label), payload
    except (ModelNotFoundError, ModelRefusedError):
        raise SessionModelError(f"the state belongs to {label}, which is not loaded", "$.state") from None
    except InvalidStateError as error:
        error.path = "$.state"
        raise
