"""The context of a request: who calls, until when, and on what conditions the call may change a session.

One dependency reads all headers: five that declare one each cost a sixth of a forecast.
"""

import hashlib
import math
import re
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from service.engine.engine import Engine
from service.engine.sequence import Task
from service.errors import InvalidRequestError, UnauthorizedError
from service.http.state import AppState
from service.memory import HeldMemory
from service.sessions.sessions import Caller

Result = TypeVar("Result")

_ETAG = re.compile(r'\s*(W/)?"([^"]*)"\s*')
_KEY = re.compile(r"[\x20-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """`deadline`: when the call is given up, on time.monotonic's clock. `group`: of all its tasks for an engine."""

    app: AppState
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

    def submit(self, engine: Engine, task: Task[Result], steps: int) -> "Future[Result]":
        """Submit a task of so many steps, with the call's deadline and in its group."""
        return engine.submit(task, steps, self.deadline, self.group)

    def receipt(self, pack: Callable[[], bytes]) -> bytes | None:
        """The answer packed for a repetition of the call; None if the call has no idempotency key."""
        return None if self.caller.key is None else pack()


async def _context(request: Request) -> RequestContext:
    app: AppState = request.app.state.carry
    headers = request.headers
    key, if_match, timeout = headers.get("idempotency-key"), headers.get("if-match"), headers.get("x-request-timeout")
    fingerprint = ""
    if key is not None:
        if not _KEY.fullmatch(key):
            raise InvalidRequestError("1 to 255 printable ASCII characters", "Idempotency-Key")
        content = f"{request.method} {request.url.path}\n".encode() + await request.body()
        fingerprint = hashlib.sha256(content).hexdigest()
    caller = Caller(request.scope["carry.owner"], key, fingerprint, None if if_match is None else _versions(if_match))
    seconds = app.settings.request_timeout if timeout is None else _seconds(timeout, app.settings.request_timeout)
    memory = request.scope["carry.memory"] = HeldMemory(app.memory)
    return RequestContext(app, caller, request.scope["carry.started"] + seconds, memory)


Context = Annotated[RequestContext, Depends(_context)]


def owner_of_key(key: str) -> str:
    """The owner that the store knows for an API key: it never sees the key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def authenticate(app: AppState, authorization: str | None) -> str:
    """The owner who calls; "" where the service has no API keys.

    Raises:
        UnauthorizedError: the service has API keys, and this is none of them.
    """
    if not app.owners:
        return ""
    scheme, _, key = (authorization or "").partition(" ")
    owner = owner_of_key(key.strip())
    if scheme.lower() != "bearer" or owner not in app.owners:
        raise UnauthorizedError("needs `Authorization: Bearer <key>` with a key that the service knows")
    return owner


def _seconds(header: str, limit: float) -> float:
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequestError("a number of seconds above 0", "X-Request-Timeout")
    return min(limit, seconds)


def _versions(if_match: str) -> frozenset[int] | None:
    """The versions that an If-Match names (RFC 9110, section 13.1.1); None for `*`. Weak ones never match."""
    if if_match.strip() == "*":
        return None
    tags = [_ETAG.fullmatch(tag) for tag in if_match.split(",")]
    if not all(tags):
        raise InvalidRequestError('ETags as the service gave them, e.g. "3", or *', "If-Match")
    strong = [tag[2] for tag in tags if tag is not None and tag[1] is None]
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
TIMEOUT_HEADERS = {"parameters": [_TIMEOUT]}
"""For OpenAPI: the headers of a route."""
READ_HEADERS = {"parameters": [_IF_MATCH]}
CREATE_HEADERS = {"parameters": [_TIMEOUT, _IDEMPOTENCY_KEY]}
WRITE_HEADERS = {"parameters": [_TIMEOUT, _IF_MATCH, _IDEMPOTENCY_KEY]}
