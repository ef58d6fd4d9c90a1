"""Sessions in this process: lists of encoded states, with the rules of the service's sessions (versions, If-Match,
exported states), but without a store and without an end of life. Knows no engine.
"""

import os
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from carry.calls import Request
from service.engine.sequence import EMPTY_STATE, SequenceState
from service.errors import (
    InvalidStateError,
    SessionConflictError,
    SessionModelError,
    SessionNotFoundError,
    VersionMismatchError,
    VersionNotKeptError,
)
from service.kind import Model
from service.manifest import Manifest
from service.sessions.state import StateCodec, read_header, sign_state, split_signed
from service.settings import Settings


@dataclass
class _Session:
    """The encoded states of a session's versions, the newest last."""

    version: int
    states: dict[int, bytes]
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def state(self) -> bytes:
        return self.states[self.version]

    @property
    def earlier(self) -> list[int]:
        """Its earlier versions, newest first."""
        return [*reversed(self.states)][1:]


@dataclass(frozen=True)
class Start:
    """Where a call starts: a state, and if it goes on from a session, the session's version at that point.
    returns_state: whether the call stores or returns the state at its end."""

    state: SequenceState
    returns_state: bool
    session: _Session | None = None
    version: int = 0


class LocalSessions:
    """The sessions of one model. Any thread may use them."""

    def __init__(self, manifest: Manifest, settings: Settings) -> None:
        self._manifest = manifest
        self._max_earlier = settings.session_versions
        key = settings.state_key
        self._key = os.urandom(32) if key is None else key.get_secret_value().encode()
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Delete all sessions."""
        self._sessions.clear()

    def start(self, request: Request, codec: StateCodec) -> Start:
        """Where a call starts: from a session, from a state in its body, or from nothing.

        Raises:
            CarryError: the session or the state does not exist, or is not at the version that the call expects.
        """
        body = request.body or {}
        id, state, commit = body.get("session_id"), body.get("state"), body.get("commit", True)
        if id is not None:
            with self._lock:
                session = self._find(id, request.headers)
                payload, version = session.state, session.version
            return Start(codec.decode(payload), commit, session, version)
        start = codec.decode(self.payload(state, codec)) if state else EMPTY_STATE
        return Start(start, state is not None and commit)

    def end(self, start: Start, after: SequenceState, codec: StateCodec) -> dict[str, Any]:
        """The fields of an answer about its session or state. Moves the session.

        Raises:
            SessionConflictError: another call moved it meanwhile.
        """
        payload = codec.encode(after) if start.returns_state else b""
        session = start.session
        if session is None:
            return {"session": None, "state": sign_state(payload, self._key) if start.returns_state else None}
        with self._lock:
            if start.returns_state:
                if session.version != start.version:
                    detail = "another call updated the session; this one changed nothing"
                    raise SessionConflictError(detail, "$.session_id")
                self._commit(session, payload)
            return {"session": self._fields(session), "state": None}

    def create(self, payload: bytes) -> dict[str, Any]:
        """A new session with this state."""
        session = _Session(0, {0: payload})
        self._sessions[session.id] = session
        return self._fields(session)

    def answer(self, request: Request, model: Model[Any]) -> dict[str, Any]:
        """Answer a request about one session.

        Raises:
            CarryError: it is refused; the session is as before.
        """
        _, _, id, *rest = request.path.split("/")
        body = request.body or {}
        with self._lock:
            session = self._find(id, request.headers)
            match request.method, *rest:
                case ["GET"]:
                    accuracy = model.kind.accuracy(model.manifest, model.codec.decode(session.state))
                    return self._fields(session) | {
                        "versions": [{"version": version} for version in session.earlier],
                        "accuracy": None if accuracy is None else accuracy.model_dump(),
                    }
                case ["DELETE"]:
                    del self._sessions[id]
                    return {}
                case ["GET", "state"]:
                    return {"state": sign_state(session.state, self._key)}
                case ["POST", "fork"]:
                    return self.create(session.state)
                case ["PUT", "state"]:
                    self._commit(session, self.payload(body["state"], model.codec))
                case ["POST", "rewind"]:
                    self._commit(session, self._state_at(session, body["version"]))
                case _:
                    raise AssertionError(f"the interface makes no such request: {request.method} {request.path}")
            return self._fields(session)

    def payload(self, state: str, codec: StateCodec) -> bytes:
        """The encoded state in an exported one, of this process or of a service. Its signature is not checked: it keeps
        callers of a service from forging states, and here the caller owns the process.

        Raises:
            InvalidStateError: it is damaged.
            SessionModelError: it is of another model.
        """
        try:
            payload, _ = split_signed(state)
            codec.decode_untrusted(payload)
        except (InvalidStateError, SessionModelError) as error:
            error.path = "$.state"
            raise
        return payload

    def _find(self, id: str, headers: Mapping[str, str]) -> _Session:
        session = self._sessions.get(id)
        if session is None:
            raise SessionNotFoundError("no such session", "$.session_id")
        if headers.get("If-Match", f'"{session.version}"') != f'"{session.version}"':
            raise VersionMismatchError(f"the session is at version {session.version}; nothing was changed", "If-Match")
        return session

    def _state_at(self, session: _Session, version: int) -> bytes:
        if version not in session.states:
            earlier = ", ".join(map(str, session.earlier)) or "none"
            detail = (
                f"version {version} is not stored; the session is at {session.version}, earlier versions: {earlier}"
            )
            raise VersionNotKeptError(detail, "$.version")
        return session.states[version]

    def _commit(self, session: _Session, payload: bytes) -> None:
        session.states[session.version + 1] = payload
        session.version += 1
        for version in session.earlier[self._max_earlier :]:
            del session.states[version]

    def _fields(self, session: _Session) -> dict[str, Any]:
        """Those of a `SessionAnswer` that do not speak of time."""
        model = {"name": self._manifest.name, "version": self._manifest.version}
        position = read_header(session.state)[0].position
        return {"id": session.id, "model": model, "version": session.version, "position": position}
