"""The context of a request: its caller, its deadline, and its conditions (If-Match, Idempotency-Key).

One dependency reads all headers: five dependencies, one for each header, take a sixth of the time of a forecast.
"""

import hashlib
import math
import re
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from opentelemetry.trace import get_current_span
from starlette.types import Scope

from service.engine.engine import Engine
from service.engine.sequence import Task
from service.errors import InvalidRequestError
from service.http.spending import Spending
from service.http.state import AppState, app_state
from service.keys import Key
from service.memory import HeldMemory
from service.sessions.sessions import Caller
from service.traces import TaskSpans

Result = TypeVar("Result")

_ETAG = re.compile(r'\s*(W/)?"([^"]*)"\s*')
_KEY = re.compile(r"[\x20-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """`deadline`: time.monotonic() at which the call fails with 504. `max_share`: how much of a model's queue the
    caller may fill. `group`: shared by all tasks of the call."""

    app: AppState
    caller: Caller
    deadline: float
    memory: HeldMemory
    max_share: float = 1.0
    group: object = field(default_factory=object)
    scope: Scope = field(default_factory=dict)
    spending: Spending | None = None
    """Of the steps of the caller's key; None: the service needs no key."""

    @property
    def max_steps(self) -> int:
        """The most steps that the call may have waiting: more would never be admitted."""
        return int(self.max_share * self.app.settings.max_waiting_steps)

    def take(self, steps: int) -> None:
        """Take the steps of all tasks of this call from those of its key, so that it is not refused halfway.

        Raises:
            LimitExceededError: the key may never take so many at once.
            StepsPerMinuteError: it may take them later.
        """
        if self.spending is not None:
            self.spending.take(steps)

    def hold(self, amount: int, path: str, engine: Engine) -> None:
        """Reserve `amount` bytes of memory until the answer is sent. `path`: the field that makes the amount large.

        Raises:
            LimitExceededError: the amount exceeds the whole budget.
            QueueFullError: other requests hold too much of the budget; retry when the engine's queue is empty.
        """
        self.memory.hold(amount, path, engine.seconds_left)

    def submit(self, engine: Engine, task: Task[Result], steps: int) -> "Future[Result]":
        """Submit a task of `steps` steps, with the call's deadline and group, within the share of the caller's key.

        Raises:
            LimitExceededError, StepsPerMinuteError: as `take`, for steps that were not taken before.
            QueueFullError, NotReadyError: as `Engine.submit`.
        """
        self.scope["carry.model"] = engine.name
        submit = partial(engine.submit, task, steps, self.deadline, self.group, self.caller.owner, self.max_share)
        spans = self._spans(engine.name)
        if spans is not None:
            submit = partial(submit, on_begin=spans.begin)
        future: Future[Result] = submit() if self.spending is None else self.spending.submit(steps, submit)
        if spans is not None:
            spans.add(future, steps)
        return future

    def end(self) -> None:
        """The call has ended: give back the steps that no task took, end the spans, release the memory."""
        if self.spending is not None:
            self.spending.end()
        if "carry.spans" in self.scope:
            self.scope["carry.spans"].end()
        self.memory.release()

    def _spans(self, model: str) -> TaskSpans | None:
        """The spans of the call's tasks, if the request has a span that is recorded."""
        if "carry.spans" not in self.scope and get_current_span().is_recording():
            self.scope["carry.spans"] = TaskSpans(self.app.tracer, model)
        spans: TaskSpans | None = self.scope.get("carry.spans")
        return spans


async def _context(request: Request) -> RequestContext:
    app = app_state(request)
    headers = request.headers
    key, if_match, timeout = headers.get("idempotency-key"), headers.get("if-match"), headers.get("x-request-timeout")
    fingerprint = ""
    if key is not None:
        if not _KEY.fullmatch(key):
            raise InvalidRequestError("must be 1 to 255 printable ASCII characters", "Idempotency-Key")
        content = f"{request.method} {request.url.path}\n".encode() + await request.body()
        fingerprint = hashlib.sha256(content).hexdigest()
    caller = Caller(request.scope["carry.owner"], key, fingerprint, None if if_match is None else _versions(if_match))
    seconds = app.settings.request_timeout if timeout is None else _seconds(timeout, app.settings.request_timeout)
    api_key: Key | None = request.scope.get("carry.key")
    max_share, spending = 1.0, None
    if api_key is not None:
        max_share = api_key.limits.queue_share
        spending = Spending(api_key, app.metrics.keys)
    deadline, memory = request.scope["carry.started"] + seconds, HeldMemory(app.memory)
    call = RequestContext(app, caller, deadline, memory, max_share, scope=request.scope, spending=spending)
    request.scope["carry.call"] = call  # RequestMiddleware ends it
    return call


Context = Annotated[RequestContext, Depends(_context)]


def _seconds(header: str, limit: float) -> float:
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequestError("must be a number of seconds above 0", "X-Request-Timeout")
    return min(limit, seconds)


def _versions(if_match: str) -> frozenset[int] | None:
    """The versions in an If-Match header (RFC 9110, section 13.1.1); None for `*`. Weak ETags never match."""
    if if_match.strip() == "*":
        return None
    tags = [_ETAG.fullmatch(tag) for tag in if_match.split(",")]
    if not all(tags):
        raise InvalidRequestError('must be ETags of the session, e.g. "3", or *', "If-Match")
    strong = [tag[2] for tag in tags if tag is not None and tag[1] is None]
    return frozenset(int(tag) for tag in strong if tag.isascii() and tag.isdecimal() and len(tag) < 20)


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


_TIMEOUT = _header(
    "X-Request-Timeout",
    {"type": "number", "exclusiveMinimum": 0},
    "Seconds until the call fails with 504. The service's own limit applies if it is lower.",
)
_IF_MATCH = _header(
    "If-Match",
    {"type": "string", "pattern": r'^("[!#-~]*"|\*)$', "examples": ['"3"']},
    "ETags of the session (its version in quotes). At any other version, the call changes nothing and answers 412.",
)
_IDEMPOTENCY_KEY = _header(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    "A text that identifies this call. A repetition with the same key does not run again: it gets the first answer, "
    "with the header `Idempotency-Replayed`. Calls that change nothing ignore the key.",
)
TIMEOUT_HEADERS = {"parameters": [_TIMEOUT]}
"""For OpenAPI: the headers that a route reads."""
READ_HEADERS = {"parameters": [_IF_MATCH]}
CREATE_HEADERS = {"parameters": [_TIMEOUT, _IDEMPOTENCY_KEY]}
WRITE_HEADERS = {"parameters": [_TIMEOUT, _IF_MATCH, _IDEMPOTENCY_KEY]}
