"""AccessMiddleware: which requests may come in. API keys tell who calls: the service and its stores know an owner,
never a key. And no web page of another origin may call."""

import math
from collections.abc import Set

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    CarryError,
    CrossOriginError,
    ForbiddenError,
    OwnerStoreFullError,
    QueueFullError,
    StepsPerMinuteError,
    TooManySessionsError,
    UnauthorizedError,
)
from service.http.problems import problem_answer
from service.http.requests import CLIENT_CLOSED_REQUEST, METRICS, PROBES
from service.http.state import AppState
from service.keys import Key, KeyRing
from service.keys_file import Scope as KeyScope
from service.metrics import KeyMetrics
from service.workers.allowances import MINUTE

OPEN = PROBES | {"/", "/openapi.json", "/version", "/ping"}
"""The paths that need no API key, beside the files of the page. /metrics needs one if a key has its scope."""
RELOAD = "/models/reload"
REFUSALS = frozenset(
    error.code
    for error in (ForbiddenError, OwnerStoreFullError, QueueFullError, StepsPerMinuteError, TooManySessionsError)
)
"""The codes of the problems that what a key may do can cause."""


class AccessMiddleware:
    """Refuses requests without a valid API key, or with one that may not make them, and from web pages of other
    origins. It reads the headers only. It counts the requests of each key.

    `open_paths`: exactly these need no key. `origins`: their pages may call, or all if one is `*`.
    """

    def __init__(self, app: ASGIApp, open_paths: Set[str], origins: Set[str] = frozenset()) -> None:
        self._app = app
        self._open_paths = open_paths
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app: AppState = scope["app"].state.carry
        headers = Headers(scope=scope)
        try:
            if self._needs_key(scope["path"], app.keys):
                key = scope["carry.key"] = authenticate(app.keys, headers.get("authorization"))
                scope["carry.owner"] = "" if key is None else key.owner
            origin = headers.get("origin")
            is_own = origin is None or origin.partition("://")[2] == headers.get("host")
            if scope["method"] != "GET" and not is_own and self._origins.isdisjoint({"*", origin}):
                raise CrossOriginError("web pages of another origin may not call this service: see CARRY_CORS_ORIGINS")
        except CarryError as error:
            await problem_answer(error, scope)(scope, receive, send)
            return
        if scope.get("carry.key") is None:
            await self._app(scope, receive, send)
        else:
            await self._with_key(scope["carry.key"], app.metrics.keys, scope, receive, send)

    def _needs_key(self, path: str, keys: KeyRing) -> bool:
        return path not in self._open_paths or (path == METRICS and keys.closes_metrics)

    async def _with_key(self, key: Key, counts: KeyMetrics, scope: Scope, receive: Receive, send: Send) -> None:
        status = CLIENT_CLOSED_REQUEST

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_rate_limit(key, MutableHeaders(scope=message))
            await send(message)

        app, needed = self._app, scope_of(scope["method"], scope["path"])
        try:
            if needed is not None:
                key.check_scope(needed)
        except ForbiddenError as error:
            app = problem_answer(error, scope)
        try:
            await app(scope, receive, answer)
        finally:
            counts.requests.labels(key.name, status).inc()
            if scope.get("carry.problem") in REFUSALS:
                counts.refused.labels(key.name, scope["carry.problem"]).inc()


def scope_of(method: str, path: str) -> KeyScope | None:
    """The scope that a call needs; None if every key may make it. A path that is not known here needs `use`."""
    if path == METRICS:
        return "metrics"
    if path == RELOAD and method == "POST":
        return "admin"
    if method == "GET" and (path == "/models" or path.startswith("/models/")):
        return None
    return "use"


def authenticate(keys: KeyRing, authorization: str | None) -> Key | None:
    """The caller's key; None if the service needs no API keys.

    Raises:
        UnauthorizedError: the header has none of the service's keys.
        NotReadyError: the keys cannot be read.
    """
    if not keys.required:
        return None
    scheme, _, secret = (authorization or "").partition(" ")
    key = keys.find(secret.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise UnauthorizedError("send `Authorization: Bearer <key>` with one of the service's API keys")
    return key


def _add_rate_limit(key: Key, headers: MutableHeaders) -> None:
    """Tell a key with a limit of steps where it stands, as draft-ietf-httpapi-ratelimit-headers does it."""
    limit = key.limits.steps_per_minute
    if key.allowance is None or limit is None:
        return
    missing = key.allowance.missing()
    left = max(0, math.floor(limit * (1 - missing / MINUTE)))
    headers["RateLimit-Policy"] = f'"steps";q={limit};qu="steps";w={round(MINUTE)}'
    headers["RateLimit"] = f'"steps";r={left};t={headers.get("retry-after") or math.ceil(missing)}'
