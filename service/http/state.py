"""The object that all routes share. app.py makes it and puts it on the application."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from service.http.streaming import StreamNotifier
from service.kind import Kind
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.registry import Registry
from service.sessions.sessions import Sessions
from service.settings import Settings
from service.workers.board import Board
from service.workers.reloads import Reloader


@dataclass(frozen=True)
class AppState:
    """The settings, the models and the instruments of one application."""

    kinds: Sequence[Kind[Any]]
    settings: Settings
    registry: Registry
    metrics: Metrics
    notifier: StreamNotifier
    reloader: Reloader
    sessions: Sessions
    owners: frozenset[str]
    """The owner of each API key. If it is empty, requests need no API key."""
    board: Board
    """Shared by all processes of the machine."""
    worker_index: int
    """The index of this process on the board."""
    memory: MemoryBudget
    """The memory that this process's requests may hold."""


async def _app_state(request: Request) -> AppState:
    return cast(AppState, request.app.state.carry)


App = Annotated[AppState, Depends(_app_state)]
