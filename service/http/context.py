"""What a call brings besides its body: who makes it, how long it may take, on what conditions it may change anything.

One dependency reads all of it from the request: five that declare a header each cost a sixth of a forecast.
"""

import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

from service.engine.engine import Engine
from service.errors import InvalidRequestError, UnauthorizedError
from service.http.state import State
from service.memory import HeldMemory
from service.sessions.sessions import Caller

_ETAG = re.compile(r'\s*(W/)?"([^"]*)"\s*')
_KEY = re.compile(r"[\x20-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Call:
    """`deadline`: when it is given up, on time.monotonic's clock. `group`: that of all its tasks for an engine."""

    state: State
    caller: Caller
    deadline: float
    memory: HeldMemory
    group: object = field(default_factory=object)

    def hold(self, amount: int, path: str, engine: Engine) -> None:
        """Hold so many bytes until the call is answered; `path` is the field that makes them many.

        Raises:
            LimitExceededError: it is more than there is.
            QueueFullError: others hold too much of it; they should be done when the engine has done what waits.
        """
        self.memory.hold(amount, path, engine.seconds_left)


async def _call(request: Request) -> Call:
    state: State = request.app.state.carry
    headers = request.headers
    key, if_match, timeout = headers.get("idempotency-key"), headers.get("if-match"), headers.get("x-request-timeout")
    fingerprint = ""
    if key is not None:
        if not _KEY.fullmatch(key):
            raise InvalidRequestError("1 to 255 printable ASCII characters", "Idempotency-Key")
        content = f"{request.method} {request.url.path}\n".encode() + await request.body()
        fingerprint = hashlib.sha256(content).hexdigest()
    caller = Caller(request.scope["carry.owner"], key, fingerprint, None if if_match is None else _versions(if_match))
    seconds = state.settings.request_timeout if timeout is None else _seconds(timeout, state)
    memory = request.scope["carry.memory"] = HeldMemory(state.memory)
    return Call(state, caller, request.scope["carry.started"] + seconds, memory)


ThisCall = Annotated[Call, Depends(_call)]


def owner_of(key: str) -> str:
    """The name under which the store knows whoever has the key: it never sees the key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def owner_of_call(state: State, authorization: str | None) -> str:
    """Whose the call is; "" where the service knows no owners.

    Raises:
        UnauthorizedError: it knows some, and this is none of them.
    """
    if not state.owners:
        return ""
    scheme, _, key = (authorization or "").partition(" ")
    owner = owner_of(key.strip())
    if scheme.lower() != "bearer" or owner not in state.owners:
        raise UnauthorizedError("needs `Authorization: Bearer <key>` with a key that the service knows")
    return owner


def _seconds(given: str, state: State) -> float:
    try:
        asked = float(given)
    except ValueError:
        asked = math.nan
    if not 0 < asked < math.inf:
        raise InvalidRequestError("a number of seconds above 0", "X-Request-Timeout")
    return min(state.settings.request_timeout, asked)


def _versions(if_match: str) -> frozenset[int] | None:
    """The versions that an If-Match names (RFC 9110, section 13.1.1); None for `*`. Weak ones never match."""
    if if_match.strip() == "*":
        return None
    found = [_ETAG.fullmatch(tag) for tag in if_match.split(",")]
    if not all(found):
        raise InvalidRequestError('ETags as the service gave them, e.g. "3", or *', "If-Match")
    strong = [tag[2] for tag in found if tag is not None and tag[1] is None]
    return frozenset(int(tag) for tag in strong if tag.isascii() and tag.isdecimal() and len(tag) < 20)


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


_TIMEOUT = _header(
    "X-Request-Timeout",
    {"type": "number", "exclusiveMinimum": 0},
    "Seconds until the call is given up with 504, if fewer than the service's own limit.",
)
_IF_MATCH = _header(
    "If-Match",
    {"type": "string", "pattern": r'^("[!#-~]*"|\*)$', "examples": ['"3"']},
    "ETags of the session (its version in quotes): at any other version, the call changes nothing and answers 412.",
)
_IDEMPOTENCY_KEY = _header(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    "Any text that is this call's own. The same call with the same key is done once; sent again, it gets the same "
    "answer, with the header `Idempotency-Replayed`. Calls that change nothing ignore it.",
)
TIMED = {"parameters": [_TIMEOUT]}
"""For OpenAPI: the headers of a route."""
LOOKING = {"parameters": [_IF_MATCH]}
CREATING = {"parameters": [_TIMEOUT, _IDEMPOTENCY_KEY]}
CHANGING = {"parameters": [_TIMEOUT, _IF_MATCH, _IDEMPOTENCY_KEY]}
