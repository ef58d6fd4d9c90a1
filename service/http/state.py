"""What the routes share: one typed object, made by app.py and kept on the application."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.http.streaming import Wakers
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.registry import Registry
from service.sessions.sessions import Sessions
from service.settings import Settings
from service.workers.board import Board
from service.workers.reloads import Reloader


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
