"""What the routes share: one typed object, made by app.py and kept on the application."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.api.streams import Wakers
from service.board import Board
from service.memory import MemoryBudget
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
    board: Board
    """What all processes of the machine share."""
    place: int
    """Of this process, on the board."""
    memory: MemoryBudget
    """Of this process's requests."""


async def _state(request: Request) -> State:
    return cast(State, request.app.state.carry)


CarryState = Annotated[State, Depends(_state)]
