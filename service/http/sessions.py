"""/sessions: states that the service keeps, as resources."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from fastapi.openapi.models import Example
from pydantic import Field

from service.engine.sequence import FRESH, Snapshot
from service.errors import (
    CarryError,
    InvalidRequestError,
    LimitExceededError,
    StateRefusedError,
)
from service.forecast.inputs import series_values
from service.forecast.task import ForecastRequest, begin, forecast
from service.http.context import CHANGING, CREATING, LOOKING, Call, ThisCall
from service.http.json_route import JsonRoute, encoded, json_answer
from service.http.problems import documented
from service.http.schemas import Answer, Freq, ModelId, ModelName, Number, SeasonLength, Series, SessionId, Text
from service.http.schemas import Body as RequestBody
from service.http.state import State
from service.http.stateful import Reply, etag, model_of_session, model_of_state, reference
from service.manifest import ForecastManifest
from service.registry import Model
from service.sessions.sessions import Turn
from service.sessions.state import read_header, signed, verified
from service.sessions.store import Session
from service.text.answers import read_texts
from service.text.routes import check_length
from service.text.task import predict, predict_bytes

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=JsonRoute)

Ttl = Annotated[
    Annotated[Number, Field(ge=1)] | None,
    Field(description="Seconds, at least 1, that it lives after its last use; the service's own time if absent."),
]

CREATE_EXAMPLES: dict[str, Example] = {
    "empty": {"summary": "Nothing read yet", "value": {"model": "text"}},
    "a text": {"summary": "A text read already", "value": {"prompt": "The old house ", "ttl": 3600}},
    "a series": {"summary": "A series read already", "value": {"series": [112, 118, 132, 129, 121, 135]}},
}


class CreateBody(RequestBody):
    """A new session: of a model, at its beginning, or with a first input read, or where a state was exported."""

    model: ModelName = None
    ttl: Ttl = None
    prompt: Text | None = Field(default=None, description="A text to read.")
    series: Series | None = Field(default=None, description="Values to read, as in `POST /forecast`.")
    freq: Freq = None
    season_length: SeasonLength = None
    state: str | None = Field(default=None, description="A state that the service gave, to go on from there.")


class ForkBody(RequestBody):
    """What the copy is to be."""

    version: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = Field(
        default=None, description="Of the session's versions; the one it stands at if absent."
    )
    ttl: Ttl = None


class RewindBody(RequestBody):
    """Where to go back to."""

    version: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = Field(description="One of the session's `versions`.")


class StateBody(RequestBody):
    """A state that the service gave."""

    state: str = Field(min_length=1)


class SessionAnswer(Answer):
    """A session."""

    id: str
    model: ModelId
    version: int = Field(description="How many times it moved; also its ETag.")
    position: int = Field(description="Values or characters read so far, generated ones among them.")
    created_at: str
    updated_at: str
    expires_at: str = Field(description="When it ends if it is not used until then.")
    ttl: float


class VersionAnswer(Answer):
    """An earlier version of a session."""

    version: int
    position: int
    updated_at: str


class WholeSessionAnswer(SessionAnswer):
    """A session, and what can be done with it."""

    model_loaded: bool = Field(description="Whether it can go on: its model is there.")
    versions: list[VersionAnswer] = Field(description="Earlier ones that it can go back to, newest first.")


class SessionsAnswer(Answer):
    """Some sessions; `next` is the `after` of the next page, `null` on the last one."""

    sessions: list[SessionAnswer]
    next: str | None


class StateAnswer(Answer):
    """A session's state, for `PUT /sessions/{id}/state`, `POST /sessions`, or the `state` of a prediction."""

    model: ModelId
    session: SessionId
    state: str = Field(description="Opaque, signed, and good for this very model only, for whoever has it.")


@router.post(
    "",
    operation_id="create_session",
    status_code=201,
    response_model=SessionAnswer,
    openapi_extra=CREATING,
    responses=documented(400, 401, 404, 409, 422, 429, 503, 504, 507),
)
async def post_session(
    body: Annotated[CreateBody, Body(openapi_examples=CREATE_EXAMPLES)],
    call: ThisCall,
) -> Response:
    """Begin a session."""
    state = call.state
    ttl = _ttl(body.ttl, state)
    replay = await state.sessions.replayed(call.caller)
    if replay is not None:
        return Reply.unpacked(replay, replayed=True).response()
    key = b"" if body.state is None else await state.sessions.state_key()
    model, start = _begin(body, state, key)
    return await _create(call, model.codec.encode(await _read(body, call, model, start)), ttl)


@router.get("", operation_id="list_sessions", response_model=SessionsAnswer, responses=documented(401, 422, 503))
async def get_sessions(
    call: ThisCall,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str, Query(max_length=64, pattern="^[0-9a-f]*$", description="`next` of the page before.")] = "",
) -> Response:
    """The sessions that live, one's own if the service has API keys, in the order of their ids."""
    found = await call.state.sessions.list(call.caller.owner, after, limit + 1)
    shown = [SessionAnswer(**_shown(session)) for session in found[:limit]]
    return json_answer(SessionsAnswer(sessions=shown, next=shown[-1].id if len(found) > limit else None))


@router.get(
    "/{id}",
    operation_id="get_session",
    response_model=WholeSessionAnswer,
    openapi_extra=LOOKING,
    responses=documented(401, 404, 410, 412, 422, 503),
)
async def get_session(id: str, call: ThisCall) -> Response:
    """A session: where it stands, and the versions that it can go back to."""
    state = call.state
    session, _ = await state.sessions.look(call.caller, id)
    versions = [
        VersionAnswer(version=v.version, position=v.position, updated_at=_iso(v.updated_at))
        for v in await state.sessions.versions(session)
    ]
    try:
        loaded = bool(model_of_session(state, session))
    except CarryError:
        loaded = False
    whole = WholeSessionAnswer(**_shown(session), model_loaded=loaded, versions=versions)
    return json_answer(whole, headers=etag(session))


@router.delete(
    "/{id}",
    operation_id="delete_session",
    status_code=204,
    openapi_extra=CHANGING,
    responses=documented(401, 404, 409, 410, 412, 422, 503, 504, 507),
)
async def delete_session(id: str, call: ThisCall) -> Response:
    """End a session."""

    async def delete(turn: Turn) -> bytes | None:
        ended = Reply(b"", 204).packed()
        return ended if await turn.delete(ended) else None

    return await _turned(call, id, delete)


@router.post(
    "/{id}/fork",
    operation_id="fork_session",
    status_code=201,
    response_model=SessionAnswer,
    openapi_extra=CHANGING,
    responses=documented(400, 401, 404, 409, 410, 412, 422, 429, 503, 507),
)
async def post_fork(id: str, call: ThisCall, body: ForkBody | None = None) -> Response:
    """A new session that stands where this one does, or did at one of its versions. This one stays as it is."""
    body, state = body or ForkBody(), call.state
    ttl = None if body.ttl is None else _ttl(body.ttl, state)
    replay = await state.sessions.replayed(call.caller)
    if replay is not None:
        return Reply.unpacked(replay, replayed=True).response()
    session, payload = await state.sessions.look(call.caller, id)
    if body.version not in (None, session.version):
        payload = await state.sessions.earlier(session, body.version)
    return await _create(call, payload, ttl or session.ttl)


@router.post(
    "/{id}/rewind",
    operation_id="rewind_session",
    response_model=SessionAnswer,
    openapi_extra=CHANGING,
    responses=documented(400, 401, 404, 409, 410, 412, 422, 503, 504, 507),
)
async def post_rewind(id: str, body: RewindBody, call: ThisCall) -> Response:
    """Let a session stand where it did at an earlier version. That is a new version: it can be taken back as well."""

    async def rewind(turn: Turn) -> bytes | None:
        payload = turn.state
        if body.version != turn.session.version:
            payload = await call.state.sessions.earlier(turn.session, body.version)
        return await turn.move(read_header(payload)[0].position, payload, _packed)

    return await _turned(call, id, rewind)


@router.get(
    "/{id}/state",
    operation_id="get_session_state",
    response_model=StateAnswer,
    openapi_extra=LOOKING,
    responses=documented(401, 404, 410, 412, 422, 503),
)
async def get_state(id: str, call: ThisCall) -> Response:
    """Export where a session stands."""
    session, payload = await call.state.sessions.look(call.caller, id)
    exported = signed(payload, await call.state.sessions.state_key())
    model = ModelId(name=session.model, version=session.model_version)
    return json_answer(StateAnswer(model=model, session=reference(session), state=exported), headers=etag(session))


@router.put(
    "/{id}/state",
    operation_id="put_session_state",
    response_model=SessionAnswer,
    openapi_extra=CHANGING,
    responses=documented(400, 401, 404, 409, 410, 412, 422, 503, 504, 507),
)
async def put_state(id: str, body: StateBody, call: ThisCall) -> Response:
    """Let a session stand where a state says that was exported, from this session or from another of its model."""
    key = await call.state.sessions.state_key()

    async def put(turn: Turn) -> bytes | None:
        try:
            payload, header = verified(body.state, key)
            own = turn.session
            if (header.model, header.version, header.sha256) != (own.model, own.model_version, own.sha256):
                raise StateRefusedError(
                    f"the state is of {header.model}@{header.version}, the session of {own.model}@{own.model_version}, "
                    "or of another graph of it"
                )
            model_of_session(call.state, own).codec.accept(payload)
        except StateRefusedError as error:
            error.path = "$.state"
            raise
        return await turn.move(header.position, payload, _packed)

    return await _turned(call, id, put)


async def _turned(call: Call, id: str, change: Callable[[Turn], Awaitable[bytes | None]]) -> Response:
    """The answer to a change of a session."""
    return Reply.unpacked(*await call.state.sessions.change(call.caller, id, call.deadline, change)).response()


def _begin(body: CreateBody, state: State, key: bytes) -> tuple[Model, Snapshot]:
    """The model, and where the session begins."""
    given = [name for name in ("prompt", "series", "state") if getattr(body, name) is not None]
    if len(given) > 1:
        raise InvalidRequestError("give one of `prompt`, `series` and `state`", f"$.{given[1]}")
    for name in ("freq", "season_length"):
        if body.series is None and getattr(body, name) is not None:
            raise InvalidRequestError("belongs to the call that brings the first values of a series", f"$.{name}")
    if body.state:
        model, payload = model_of_state(state, body.state, key)
        if body.model not in (None, model.manifest.name, model.label):
            raise InvalidRequestError(f"the state is of {model.label}", "$.model")
        return model, model.codec.accept(payload)
    if given and given[0] != "state":
        return state.registry.find_kind(body.model, "text" if body.prompt is not None else "forecast"), FRESH
    if body.model is None:
        raise InvalidRequestError("name the model, or give a `prompt`, a `series` or a `state`", "$.model")
    return state.registry.find(body.model), FRESH


async def _read(body: CreateBody, call: Call, model: Model, start: Snapshot) -> Snapshot:
    """Where it stands after the first input."""
    if body.prompt:
        check_length(body.prompt, call.state, "$.prompt")
        [prompt], _ = await read_texts(model.tokenizer, {"$.prompt": body.prompt}, "replace")
        held = predict_bytes(len(prompt.tokens), False, 0, (), model.tokenizer.size)
        call.hold(held, "$.prompt", model.engine)
        task = predict(model.tokenizer, prompt, False)
        return (
            await asyncio.wrap_future(model.engine.submit(task, 1 + len(prompt.tokens), call.deadline, call.group))
        ).after
    if body.series is not None:
        manifest = model.manifest
        assert isinstance(manifest, ForecastManifest)
        values = series_values(body.series, False, manifest, call.state.settings)
        request = ForecastRequest(values, 1, manifest.quantile_levels)
        start = begin(manifest, body.season_length, body.freq)
        call.hold(request.most_bytes(manifest), "$.series", model.engine)
        reading = forecast(manifest, request, start)
        return (await asyncio.wrap_future(model.engine.submit(reading, request.work, call.deadline, call.group))).after
    return start


async def _create(call: Call, payload: bytes, ttl: float) -> Response:
    """A new session that stands there."""
    header = read_header(payload)[0]
    model = (header.model, header.version, header.sha256)
    packed = await call.state.sessions.create(call.caller, model, header.position, payload, ttl, _packed_new)
    return Reply.unpacked(packed).response()


def _ttl(given: float | None, state: State) -> float:
    most = state.settings.max_session_ttl
    if given is not None and given > most:
        raise LimitExceededError(f"at most {most:g} seconds", "$.ttl")
    return state.settings.session_ttl if given is None else given


def _packed(session: Session) -> bytes:
    return Reply(encoded(SessionAnswer(**_shown(session))), headers=etag(session)).packed()


def _packed_new(session: Session) -> bytes:
    location = {"Location": f"/sessions/{session.id}"}
    return Reply(encoded(SessionAnswer(**_shown(session))), 201, etag(session) | location).packed()


def _shown(session: Session) -> dict[str, object]:
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
