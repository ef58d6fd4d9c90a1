"""What the routes share: one typed object, made by app.py and kept on the application."""

import math
import time
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Header, Request

from service.api.streams import Wakers
from service.errors import InvalidRequestError
from service.metrics import Metrics
from service.registry import Registry
from service.reloads import Reloader
from service.sessions.sessions import Sessions
from service.settings import Settings


@dataclass(frozen=True)
class State:
    """The settings, the models and the instruments of one application."""

    settings: Settings
    registry: Registry
    metrics: Metrics
    wakers: Wakers
    reloader: Reloader
    sessions: Sessions
    owners: frozenset[str]
    """Of the API keys that the service knows; if there are none, nobody needs one."""


async def _state(request: Request) -> State:
    return cast(State, request.app.state.carry)


CarryState = Annotated[State, Depends(_state)]


async def _deadline(
    request: Request,
    given: Annotated[
        str | None,
        Header(
            alias="X-Request-Timeout",
            description="Seconds until the request is given up with 504, if fewer than the service's own limit.",
        ),
    ] = None,
) -> float:
    state: State = request.app.state.carry
    seconds = state.settings.request_timeout
    if given is not None:
        try:
            asked = float(given)
        except ValueError:
            asked = math.nan
        if not 0 < asked < math.inf:
            raise InvalidRequestError("a number of seconds above 0", "X-Request-Timeout")
        seconds = min(seconds, asked)
    return time.monotonic() + seconds


Deadline = Annotated[float, Depends(_deadline)]
"""When the request is given up, on time.monotonic's clock."""
