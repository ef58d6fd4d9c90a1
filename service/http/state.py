"""The object that all routes share. app.py makes it and puts it on the application."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from opentelemetry.trace import Tracer

from service.http.streaming import StreamNotifier
from service.keys import KeyRing
from service.kind import Kind
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.registry import AllowedModels, LoadedModels
from service.sessions.sessions import Sessions
from service.settings import Settings
from service.workers.board import Board
from service.workers.reloads import Reloader


@dataclass(frozen=True)
class AppState:
    """The settings, the models and the instruments of one application."""

    kinds: Sequence[Kind[Any]]
    settings: Settings
    registry: LoadedModels
    metrics: Metrics
    notifier: StreamNotifier
    reloader: Reloader
    sessions: Sessions
    keys: KeyRing
    """The API keys that are valid now."""
    board: Board
    """Shared by all processes of the machine."""
    worker_index: int
    """The index of this process on the board."""
    tracer: Tracer
    """Makes spans, if there is a collector."""
    memory: MemoryBudget
    """The memory that this process's requests may hold."""


def app_state(request: Request) -> AppState:
    """The state of the application, with the models that the caller's API key may use."""
    app = cast(AppState, request.app.state.carry)
    key = request.scope.get("carry.key")
    if key is None or key.models is None:
        return app
    return replace(app, registry=AllowedModels(app.registry, key.models))


async def _app_state(request: Request) -> AppState:
    return app_state(request)


App = Annotated[AppState, Depends(_app_state)]
