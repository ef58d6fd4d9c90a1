"""AccessMiddleware: which requests may come in. API keys tell who calls: the service and its stores know an owner,
never a key. And no web page of another origin may call."""

import hashlib
from collections.abc import Set
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import CarryError, CrossOriginError, UnauthorizedError
from service.http.problems import problem_answer
from service.http.requests import PROBES
from service.http.state import AppState

OPEN = PROBES | {"/", "/openapi.json", "/version", "/ping"}
"""The paths that need no API key, beside the files of the page."""


class AccessMiddleware:
    """Refuses requests without a valid API key, and from web pages of other origins. It reads the headers only.

    `open_paths`: exactly these need no key.
    """

    def __init__(self, app: ASGIApp, open_paths: Set[str]) -> None:
        self._app = app
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            if scope["path"] not in self._open_paths:
                scope["carry.owner"] = authenticate(scope["app"].state.carry, headers.get("authorization"))
            origin = headers.get("origin")
            if origin is not None and scope["method"] != "GET" and urlsplit(origin).netloc != headers.get("host"):
                raise CrossOriginError("web pages of another origin may not call this service")
        except CarryError as error:
            await problem_answer(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def owner_of_key(key: str) -> str:
    """The owner of sessions for an API key: a hash, so that the store never sees the key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def authenticate(app: AppState, authorization: str | None) -> str:
    """The caller's owner name; "" if the service has no API keys.

    Raises:
        UnauthorizedError: the service has API keys, and the header has none of them.
    """
    if not app.owners:
        return ""
    scheme, _, key = (authorization or "").partition(" ")
    owner = owner_of_key(key.strip())
    if scheme.lower() != "bearer" or owner not in app.owners:
        raise UnauthorizedError("send `Authorization: Bearer <key>` with one of the service's API keys")
    return owner
