"""/sessions: the sessions as resources: create, read, fork, rewind, export, import, delete."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.openapi.models import Example
from pydantic import ConfigDict, Field, create_model

from service.engine.sequence import EMPTY_STATE, SequenceState
from service.errors import CarryError, InvalidRequestError, InvalidStateError, LimitExceededError
from service.http.context import CREATE_HEADERS, READ_HEADERS, WRITE_HEADERS, Context, RequestContext
from service.http.json_route import JsonRoute, json_answer, to_json
from service.http.problems import documented
from service.http.replies import Reply, stateful
from service.http.schemas import Answer, ModelId, ModelName, SessionId
from service.http.schemas import Body as RequestBody
from service.http.state import AppState
from service.http.stateful import check_name, etag, model_of_session, model_of_state, reference
from service.kind import Kind, Model, SessionAccuracy
from service.sessions.sessions import SessionUpdate
from service.sessions.state import read_header, sign_state, verify_state
from service.sessions.store import Session
from service.validation import Number

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=JsonRoute)

Ttl = Annotated[
    Annotated[Number, Field(ge=1)] | None,
    Field(description="Seconds, at least 1, from the session's last use to its end. If absent, the service's setting."),
]

CREATE_EXAMPLES: dict[str, Example] = {
    "empty": {"summary": "Without input", "value": {"model": "text"}},
    "a text": {"summary": "With a text as first input", "value": {"prompt": "The old house ", "ttl": 3600}},
    "a series": {"summary": "With a series as first input", "value": {"series": [112, 118, 132, 129, 121, 135]}},
    "to classify": {"summary": "With the first part of a text to classify", "value": {"text": "The house stood "}},
}


class CreateBody(RequestBody):
    """A new session of a model: empty, with a first input, or with an exported state."""

    model: ModelName = None
    ttl: Ttl = None
    state: str | None = Field(default=None, description="An exported state for the session to start from.")


class ForkBody(RequestBody):
    """The version to copy, and the copy's lifetime."""

    version: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = Field(
        default=None, description="One of the session's versions. If absent, the current one."
    )
    ttl: Ttl = None


class RewindBody(RequestBody):
    """The version to restore."""

    version: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = Field(description="One of the session's `versions`.")


class StateBody(RequestBody):
    """An exported state."""

    state: str = Field(min_length=1)


class SessionAnswer(Answer):
    """A session."""

    id: str
    model: ModelId
    version: int = Field(description="The number of updates. It is also the ETag.")
    position: int = Field(description="Values or characters read so far, with the generated ones.")
    created_at: str
    updated_at: str
    expires_at: str = Field(description="When the session ends if no call uses it before.")
    ttl: float


class VersionAnswer(Answer):
    """An earlier version of a session."""

    version: int
    position: int
    updated_at: str


SESSION_EXAMPLE: dict[str, Any] = {
    "id": "aa74fcd5bf3a317a7e36ff5e42448b3e",
    "model": {"name": "forecast", "version": 2},
    "version": 24,
    "position": 120,
    "created_at": "2026-11-28T09:57:29.012+00:00",
    "updated_at": "2026-11-28T10:31:30.066+00:00",
    "expires_at": "2026-11-29T10:31:30.066+00:00",
    "ttl": 86400.0,
    "model_loaded": True,
    "versions": [{"version": 23, "position": 119, "updated_at": "2026-11-28T10:31:29.436+00:00"}],
    "accuracy": {
        "values": 24,
        "mase": 0.26,
        "scaled_quantile_loss": 0.144,
        "coverage": {"50": 0.59, "80": 0.837, "95": 1.0},
    },
}


class WholeSessionAnswer(SessionAnswer):
    """A session, and whether and from which versions it can continue."""

    model_config = ConfigDict(json_schema_extra={"examples": [SESSION_EXAMPLE]})

    model_loaded: bool = Field(description="Whether the session's model is loaded, so that calls can use the session.")
    versions: list[VersionAnswer] = Field(description="Earlier versions to fork or rewind to, newest first.")
    accuracy: SessionAccuracy | None = Field(
        description="How well its forecasts met the values that came next. `null` if none has met one yet, if the "
        "model is not loaded, and for texts."
    )


class SessionsAnswer(Answer):
    """A page of sessions. `next`: the `after` of the next page; `null` on the last page."""

    sessions: list[SessionAnswer]
    next: str | None


class StateAnswer(Answer):
    """A session's state, for `PUT /sessions/{id}/state`, `POST /sessions`, or the `state` of a prediction."""

    model: ModelId
    session: SessionId
    state: str = Field(description="Opaque and signed. Only this very model accepts it, from any caller.")


@router.get(
    "",
    operation_id="list_sessions",
    summary="List the sessions",
    response_model=SessionsAnswer,
    responses=documented(401, 422, 503),
)
async def get_sessions(
    call: Context,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str, Query(max_length=64, pattern="^[0-9a-f]*$", description="`next` of the previous page.")] = "",
) -> Response:
    """List the live sessions by id. If the service has API keys, a caller sees only its own."""
    sessions = await call.app.sessions.list(call.caller.owner, after, limit + 1)
    page = [SessionAnswer(**_fields(session)) for session in sessions[:limit]]
    return json_answer(SessionsAnswer(sessions=page, next=page[-1].id if len(sessions) > limit else None))


@router.get(
    "/{id}",
    operation_id="get_session",
    summary="Show a session, and how accurate it has been",
    response_model=WholeSessionAnswer,
    openapi_extra=READ_HEADERS,
    responses=documented(401, 404, 410, 412, 422, 503),
)
async def get_session(id: str, call: Context) -> Response:
    """Show a session: its version and position, the versions to fork or rewind to, and how accurate its forecasts have
    been."""
    app = call.app
    session, payload = await app.sessions.get(call.caller, id)
    versions = [
        VersionAnswer(version=v.version, position=v.position, updated_at=_iso(v.updated_at))
        for v in await app.sessions.versions(session)
    ]
    accuracy, loaded = None, True
    try:
        model = model_of_session(app, session)
        accuracy = model.kind.accuracy(model.manifest, model.codec.decode(payload))
    except CarryError:
        loaded = False
    answer = WholeSessionAnswer(**_fields(session), model_loaded=loaded, versions=versions, accuracy=accuracy)
    return json_answer(answer, headers=etag(session))


@router.delete(
    "/{id}",
    operation_id="delete_session",
    summary="Delete a session",
    status_code=204,
    openapi_extra=WRITE_HEADERS,
    responses=documented(401, 404, 409, 410, 412, 422, 503, 504, 507),
)
@stateful
async def delete_session(id: str, call: Context) -> Response:
    """Delete a session."""
    reply = Reply(b"", 204)
    async with call.app.sessions.update(call.caller, id, call.deadline) as update:
        await update.delete(reply.to_store(call))
    return reply.response()


@router.post(
    "/{id}/fork",
    operation_id="fork_session",
    summary="Copy a session",
    status_code=201,
    response_model=SessionAnswer,
    openapi_extra=WRITE_HEADERS,
    responses=documented(400, 401, 404, 409, 410, 412, 422, 429, 503, 507),
)
@stateful
async def post_fork(id: str, call: Context, body: ForkBody | None = None) -> Response:
    """Copy a session, at its current version or an earlier one, to a new session. The original does not change."""
    body, sessions = body or ForkBody(), call.app.sessions
    ttl = None if body.ttl is None else _ttl(body.ttl, call.app)
    await sessions.check_replay(call.caller)
    session, payload = await sessions.get(call.caller, id)
    if body.version is not None and body.version != session.version:
        payload = await sessions.state_at(session, body.version)
    return await _create(call, payload, ttl or session.ttl)


@router.post(
    "/{id}/rewind",
    operation_id="rewind_session",
    summary="Go back to an earlier version",
    response_model=SessionAnswer,
    openapi_extra=WRITE_HEADERS,
    responses=documented(400, 401, 404, 409, 410, 412, 422, 503, 504, 507),
)
@stateful
async def post_rewind(id: str, body: RewindBody, call: Context) -> Response:
    """Restore an earlier version of a session. This makes a new version, so that it can be undone by another rewind."""
    async with call.app.sessions.update(call.caller, id, call.deadline) as update:
        payload = update.state
        if body.version != update.session.version:
            payload = await call.app.sessions.state_at(update.session, body.version)
        return await _commit(call, update, payload)


@router.get(
    "/{id}/state",
    operation_id="get_session_state",
    summary="Export a session's state",
    response_model=StateAnswer,
    openapi_extra=READ_HEADERS,
    responses=documented(401, 404, 410, 412, 422, 503),
)
async def get_state(id: str, call: Context) -> Response:
    """Export a session's state."""
    session, payload = await call.app.sessions.get(call.caller, id)
    exported = sign_state(payload, await call.app.sessions.state_key())
    model = ModelId(name=session.model, version=session.model_version)
    return json_answer(StateAnswer(model=model, session=reference(session), state=exported), headers=etag(session))


@router.put(
    "/{id}/state",
    operation_id="put_session_state",
    summary="Import a state into a session",
    response_model=SessionAnswer,
    openapi_extra=WRITE_HEADERS,
    responses=documented(400, 401, 404, 409, 410, 412, 422, 503, 504, 507),
)
@stateful
async def put_state(id: str, body: StateBody, call: Context) -> Response:
    """Replace a session's state by an exported one, from this session or from another one of the same model."""
    key = await call.app.sessions.state_key()
    async with call.app.sessions.update(call.caller, id, call.deadline) as update:
        session = update.session
        try:
            payload, header = verify_state(body.state, key)
            if (header.model, header.version, header.sha256) != (session.model, session.model_version, session.sha256):
                raise InvalidStateError(
                    f"the state belongs to {header.model}@{header.version}, the session to "
                    f"{session.model}@{session.model_version}, or to another graph of that model"
                )
            model_of_session(call.app, session).codec.decode_untrusted(payload)
        except InvalidStateError as error:
            error.path = "$.state"
            raise
        return await _commit(call, update, payload)


def create_router(kinds: Sequence[Kind[Any]]) -> APIRouter:
    """The routes of sessions. The body of POST /sessions has the first inputs of these kinds."""
    bases: Any = (CreateBody, *(kind.first_input for kind in kinds))
    body_type = create_model("CreateBody", __base__=bases, __doc__=CreateBody.__doc__)
    creating = APIRouter(prefix=router.prefix, tags=router.tags, route_class=JsonRoute)

    @stateful
    async def post_session(
        body: Any,
        call: Context,
    ) -> Response:
        """Create a session."""
        ttl = _ttl(body.ttl, call.app)
        await call.app.sessions.check_replay(call.caller)
        kind = _kind_of_first_input(body, kinds, call.app)
        if kind is None:
            model, start = await _model_and_start(body, call.app)
        else:
            model, start = call.app.registry.find_kind(body.model, kind), EMPTY_STATE
        if not model.graphs.state:
            raise InvalidRequestError(f"{model.label} reads whole sequences only: it has no sessions", "$.model")
        if kind is not None:
            start = await _read_first_input(body, model, call)
        return await _create(call, model.codec.encode(start), ttl)

    # An annotation cannot name the body's type: it is made in this function.
    post_session.__annotations__["body"] = Annotated[body_type, Body(openapi_examples=CREATE_EXAMPLES)]
    creating.post(
        "",
        operation_id="create_session",
        summary="Create a session",
        status_code=201,
        response_model=SessionAnswer,
        openapi_extra=CREATE_HEADERS,
        responses=documented(400, 401, 404, 409, 422, 429, 503, 504, 507),
    )(post_session)
    creating.routes.extend(router.routes)
    return creating


def _kind_of_first_input(body: Any, kinds: Sequence[Kind[Any]], app: AppState) -> Kind[Any] | None:
    """The kind that reads the first input of the body, if it has one: that of the model which the body names, or the
    first that has models.

    Raises:
        InvalidRequestError: it has several, or one and a state, or options of an input that it lacks.
        CarryError: there is no such model.
    """
    names = (*sorted({name for kind in kinds for name in kind.inputs}), "state")
    present = [name for name in names if getattr(body, name) is not None]
    if len(present) > 1:
        *others, last = (f"`{name}`" for name in names)
        raise InvalidRequestError(f"send only one of {', '.join(others)} and {last}", f"$.{present[1]}")
    readers = [kind for kind in kinds if {*present}.intersection(kind.inputs)]
    if len(readers) > 1:
        models = app.registry.current
        named = None if body.model is None else models.find(body.model).kind
        readers.sort(key=lambda kind: (kind is not named, not models.of_kind(kind)))
    accepted = readers[0].first_input.model_fields if readers else {}
    for kind in kinds:
        inputs = " or ".join(f"`{name}`" for name in kind.inputs)
        for name in kind.first_input.model_fields:
            if name not in names and name not in accepted and getattr(body, name) is not None:
                raise InvalidRequestError(f"is an option of {inputs} of a {kind.name} model: send both", f"$.{name}")
    return readers[0] if readers else None


async def _model_and_start(body: CreateBody, app: AppState) -> tuple[Model[Any], SequenceState]:
    """The model and the start of a session without a first input: the state in the request, or the empty state."""
    if not body.state:
        if body.model is None:
            raise InvalidRequestError("name the model, or send a first input or a `state`", "$.model")
        return app.registry.find(body.model), EMPTY_STATE
    model, payload = model_of_state(app, body.state, await app.sessions.state_key())
    check_name(model, body.model)
    return model, model.codec.decode_untrusted(payload)


async def _read_first_input(body: Any, model: Model[Any], call: RequestContext) -> SequenceState:
    """The state after the first input."""
    # On another thread: a first input may be long.
    first = await asyncio.to_thread(model.kind.prepare_first_input, body, model, call.app.settings)
    call.hold(first.bytes, first.path, model.engine)
    return await asyncio.wrap_future(call.submit(model.engine, first.task, first.steps))


async def _create(call: RequestContext, payload: bytes, ttl: float) -> Response:
    """Store a new session with this state, and answer with the session."""
    header = read_header(payload)[0]
    model = (header.model, header.version, header.sha256)
    session = call.app.sessions.new(call.caller, model, header.position, ttl)
    headers = etag(session) | {"Location": f"{call.app.settings.root_path}/sessions/{session.id}"}
    reply = Reply(to_json(SessionAnswer(**_fields(session))), 201, headers)
    await call.app.sessions.create(call.caller, session, payload, reply.to_store(call))
    return reply.response()


async def _commit(call: RequestContext, update: SessionUpdate, payload: bytes) -> Response:
    """Update a session to this state, and answer with the session."""
    session = update.next_version(read_header(payload)[0].position)
    reply = Reply(to_json(SessionAnswer(**_fields(session))), headers=etag(session))
    await update.commit(session, payload, reply.to_store(call))
    return reply.response()


def _ttl(ttl: float | None, app: AppState) -> float:
    limit = app.settings.max_session_ttl
    if ttl is not None and ttl > limit:
        raise LimitExceededError(f"must be at most {limit:g} seconds", "$.ttl")
    return app.settings.session_ttl if ttl is None else ttl


def _fields(session: Session) -> dict[str, object]:
    """The fields of a `SessionAnswer`."""
    return {
        "id": session.id,
        "model": ModelId(name=session.model, version=session.model_version),
        "version": session.version,
        "position": session.position,
        "created_at": _iso(session.created_at),
        "updated_at": _iso(session.updated_at),
        "expires_at": _iso(session.expires_at),
        "ttl": session.ttl,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
