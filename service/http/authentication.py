"""API keys: who calls. The service and its stores know an owner, never a key."""

import hashlib

from service.errors import UnauthorizedError
from service.http.state import AppState


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
