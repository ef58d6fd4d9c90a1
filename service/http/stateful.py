"""Calls that go on from where another one ended: from a session, or from a state that the caller brought."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson
from fastapi import Response

from service.engine.sequence import FRESH, Snapshot
from service.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ModelRefusedError,
    SessionModelError,
    StateRefusedError,
    WrongModelKindError,
)
from service.http.context import Call
from service.http.schemas import CarriedBody, SessionId
from service.http.state import State
from service.registry import Kind, Model
from service.sessions.sessions import Caller, Turn
from service.sessions.state import signed, verified
from service.sessions.store import Session


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it is sent, and as it is kept for a repetition of the call."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def packed(self) -> bytes:
        """All of it."""
        return orjson.dumps([self.status, self.headers]) + b"\n" + self.body

    @classmethod
    def unpacked(cls, packed: bytes, replayed: bool = False) -> "Reply":
        """What was packed; `replayed`: it says that it is a repetition."""
        head, body = packed.split(b"\n", 1)
        status, headers = orjson.loads(head)
        return cls(body, status, headers | {"Idempotency-Replayed": "true"} if replayed else headers)

    def response(self) -> Response:
        """To send it."""
        return Response(self.body, self.status, self.headers, media_type="application/json" if self.body else None)


def etag(session: Session) -> dict[str, str]:
    """The header that tells the session's version."""
    return {"ETag": f'"{session.version}"'}


def reference(session: Session) -> SessionId:
    """A session in the answer of a call that went on from it."""
    return SessionId(id=session.id, version=session.version, position=session.position)


Render = Callable[[SessionId | None, str | None], bytes]
"""The body of the answer, given the session as the call leaves it, or the state that the caller is to carry."""


class Seat:
    """Where a call begins: a model, and where its sequence stands.

    `keeps`: whether it must tell where it ends.
    """

    def __init__(self, state: State, body: CarriedBody, kind: Kind) -> None:
        self._state = state
        self._body = body
        self._kind = kind
        self._turn: Turn | None = None
        self._session: Session | None = None
        self._state_key = b""
        self.model: Model
        self.start = FRESH
        self.keeps = False

    async def take(self, caller: Caller) -> None:
        """Find out where it is, without a wish to move a session."""
        body, state = self._body, self._state
        if body.session_id is not None:
            self._session, payload = await state.sessions.use(caller, body.session_id)
            self._stand_at(self._session, payload)
            return
        if caller.expected is not None:
            raise InvalidRequestError("only a call with a `session_id` has a version to match", "If-Match")
        self.take_state(b"" if body.state is None else await state.sessions.state_key())

    def take_state(self, key: bytes) -> None:
        """Stand where the state says that the caller brought, or at the beginning."""
        self._state_key = key
        self.keeps = self._body.state is not None and self._body.commit
        if self._body.state:
            self.model, payload = model_of_state(self._state, self._body.state, key)
            self._check_model("$.state")
            self.start = self.model.codec.accept(payload)
        else:
            self.model = self._state.registry.find_kind(self._body.model, self._kind)

    def take_turn(self, turn: Turn) -> None:
        """Stand where the session does, to move it."""
        self._turn = turn
        self.keeps = True
        self._stand_at(turn.session, turn.state)

    async def move(self, after: Snapshot, render: Render) -> bytes | None:
        """Move the session: the `Reply`, packed. None if another process moved it meanwhile."""
        assert self._turn is not None
        state = self.model.codec.encode(after)

        def answer(session: Session) -> bytes:
            return Reply(render(reference(session), None), headers=etag(session)).packed()

        return await self._turn.move(after.position, state, answer)

    def reply(self, after: Snapshot, render: Render) -> Reply:
        """The answer of a call that moves no session, with the state if the caller carries it."""
        if self._session is not None:
            return Reply(render(reference(self._session), None), headers=etag(self._session))
        return Reply(render(None, self.carry(after)))

    def carry(self, after: Snapshot) -> str | None:
        """The state for the caller to carry, if it carries any."""
        return signed(self.model.codec.encode(after), self._state_key) if self.keeps else None

    def _stand_at(self, session: Session, payload: bytes) -> None:
        self.model = model_of_session(self._state, session)
        self._check_model("$.session_id")
        self.start = self.model.codec.decode(payload)

    def _check_model(self, path: str) -> None:
        manifest, wanted = self.model.manifest, self._body.model
        if manifest.kind != self._kind:
            raise WrongModelKindError(f"it is of {self.model.label}, a {manifest.kind} model", path)
        if wanted not in (None, manifest.name, self.model.label):
            raise InvalidRequestError(f"the call goes on with {self.model.label}, not with this one", "$.model")


Work = Callable[[Seat], Awaitable[tuple[Snapshot, Render]]]
"""Runs the model from where the seat stands: where it ended, and how to answer."""


async def carried(call: Call, body: CarriedBody, kind: Kind, work: Work) -> Response:
    """The answer to a call, after its session has moved."""

    async def change(turn: Turn) -> bytes | None:
        seat = Seat(call.state, body, kind)
        seat.take_turn(turn)
        return await seat.move(*await work(seat))

    id = moving(body)
    if id is not None:
        return Reply.unpacked(*await call.state.sessions.change(call.caller, id, call.deadline, change)).response()
    seat = Seat(call.state, body, kind)
    await seat.take(call.caller)
    return seat.reply(*await work(seat)).response()


def moving(body: CarriedBody) -> str | None:
    """The session that a call is to move."""
    if body.session_id is not None and body.state is not None:
        raise InvalidRequestError("give `session_id` or `state`, not both", "$.state")
    return body.session_id if body.commit else None


def model_of_session(state: State, session: Session) -> Model:
    """The model that a session belongs to, the very graph.

    Raises:
        SessionModelError: it is not loaded.
    """
    label = f"{session.model}@{session.model_version}"
    try:
        model = state.registry.find(label)
    except (ModelNotFoundError, ModelRefusedError):
        there = "is not loaded"
    else:
        if model.codec.sha256 == session.sha256:
            return model
        there = "is loaded with another graph, or in another precision"
    raise SessionModelError(
        f"the session is of {label}, which {there}: bring that back and POST /models/reload, or begin a new session",
        "$.session_id",
    )


def model_of_state(state: State, text: str, key: bytes) -> tuple[Model, bytes]:
    """The model that a state belongs to which a caller brought, and its bytes.

    Raises:
        StateRefusedError: it is none, or not of this service, or not whole.
        SessionModelError: its model is not loaded.
    """
    try:
        payload, header = verified(text, key)
        label = f"{header.model}@{header.version}"
        return state.registry.find(label), payload
    except (ModelNotFoundError, ModelRefusedError):
        raise SessionModelError(f"the state is of {label}, which is not loaded", "$.state") from None
    except StateRefusedError as error:
        error.path = "$.state"
        raise
