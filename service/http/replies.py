"""Answers that are stored for a repetition of the call, and calls that are run again."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import ParamSpec

import orjson
from fastapi import Response

from service.errors import SessionConflictError
from service.http.context import RequestContext
from service.sessions.sessions import ReplayedError

P = ParamSpec("P")

MAX_ATTEMPTS = 10
"""Attempts of a call whose session other processes keep updating. With each failed one, another call succeeded."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, to send and to store for a repetition of the call."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def to_store(self, call: RequestContext) -> bytes | None:
        """The answer as bytes; None if the call has no idempotency key, so that nothing is to be stored."""
        if call.caller.key is None:
            return None
        return orjson.dumps([self.status, self.headers]) + b"\n" + self.body

    @classmethod
    def replayed(cls, stored: bytes) -> "Reply":
        """The stored answer, marked as a repetition."""
        head, body = stored.split(b"\n", 1)
        status, headers = orjson.loads(head)
        return cls(body, status, headers | {"Idempotency-Replayed": "true"})

    def response(self) -> Response:
        """The answer, to send."""
        return Response(self.body, self.status, self.headers, media_type="application/json" if self.body else None)


def stateful(route: Callable[P, Awaitable[Response]]) -> Callable[P, Awaitable[Response]]:
    """Make a route retry when another process updates its session first, and replay the answer of an earlier call with
    the same idempotency key."""

    @wraps(route)
    async def run(*args: P.args, **kwargs: P.kwargs) -> Response:
        for _ in range(MAX_ATTEMPTS):
            try:
                return await route(*args, **kwargs)
            except ReplayedError as replay:
                return Reply.replayed(replay.answer).response()
            except SessionConflictError:
                continue
        raise SessionConflictError("other calls kept updating the session; nothing was written", "$.session_id")

    return run
