"""Who calls, and on what conditions: API keys, If-Match, Idempotency-Key."""

import hashlib
import re
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.api.state import State
from service.errors import InvalidRequestError, UnauthorizedError
from service.sessions.sessions import Caller

_bearer = HTTPBearer(auto_error=False, description="One of `CARRY_API_KEYS`, where the service has any.")
_ETAG = re.compile(r'\s*(W/)?"([^"]*)"\s*')
_KEY = re.compile(r"[\x20-\x7e]{1,255}")


def owner_of(key: str) -> str:
    """The name under which the store knows whoever has the key: it never sees the key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


async def the_owner(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    state: State = request.app.state.carry
    if not state.owners:
        return ""
    owner = owner_of(given.credentials) if given is not None else ""
    if owner not in state.owners:
        raise UnauthorizedError("needs `Authorization: Bearer <key>` with a key that the service knows")
    return owner


Owner = Annotated[str, Depends(the_owner)]
"""Whose the call is; where the service has API keys, one of them was given."""


async def _caller(
    request: Request,
    owner: Owner,
    if_match: Annotated[
        str | None,
        Header(
            description="ETags of the session (its version in quotes): at any other version, the call changes nothing "
            "and answers 412."
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Any text that is this call's own. The same call with the same key is done once; sent again, "
            "it gets the same answer, with the header `Idempotency-Replayed`. Calls that change nothing ignore it."
        ),
    ] = None,
) -> Caller:
    fingerprint = ""
    if idempotency_key is not None:
        if not _KEY.fullmatch(idempotency_key):
            raise InvalidRequestError("1 to 255 printable ASCII characters", "Idempotency-Key")
        call = f"{request.method} {request.url.path}\n".encode() + await request.body()
        fingerprint = hashlib.sha256(call).hexdigest()
    return Caller(owner, idempotency_key, fingerprint, None if if_match is None else _versions(if_match))


ThisCaller = Annotated[Caller, Depends(_caller)]


def _versions(if_match: str) -> frozenset[int] | None:
    """The versions that an If-Match names (RFC 9110, section 13.1.1); None for `*`. Weak ones never match."""
    if if_match.strip() == "*":
        return None
    found = [_ETAG.fullmatch(tag) for tag in if_match.split(",")]
    if not all(found):
        raise InvalidRequestError('ETags as the service gave them, e.g. "3", or *', "If-Match")
    strong = [tag[2] for tag in found if tag is not None and tag[1] is None]
    return frozenset(int(tag) for tag in strong if tag.isascii() and tag.isdecimal() and len(tag) < 20)
