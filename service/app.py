"""The application: the only place where settings, models and routes are wired together."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse

from service.errors import CarryError
from service.http import context, health, models, openapi_document, problems, sessions
from service.http.middleware import AccessMiddleware, BodyMiddleware, RequestMiddleware
from service.http.state import AppState
from service.http.streaming import StreamNotifier
from service.kind import Kind
from service.kinds import KINDS
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.sessions.sessions import Sessions
from service.sessions.store import Limits, Store
from service.sessions.stores import open_store
from service.settings import Settings
from service.workers.board import Board
from service.workers.reloads import Reloader
from service.workers.shared_metrics import SharedMetrics
from service.workers.trials import Trials

DESCRIPTION = (
    "Forecasts of series and continuations of text, by recurrent networks. Errors are problem+json (RFC 9457)."
)


class _Application(FastAPI):
    def setup(self) -> None:
        """FastAPI's own routes; the document is encoded once, not for each who asks."""

        encoded = cache(lambda: json.dumps(self.openapi()))  # orjson takes no bound above 64 bits

        @self.get("/openapi.json", include_in_schema=False)
        async def get_openapi() -> Response:
            # The first time takes long enough that others would wait.
            return Response(await asyncio.to_thread(encoded), media_type="application/json")

        super().setup()

    def openapi(self) -> dict[str, Any]:
        made = self.openapi_schema is None
        openapi = super().openapi()
        if made:
            openapi_document.complete(openapi)
        return openapi


SWEEP_SECONDS = 30.0
BEAT_SECONDS = 1.0
GARBAGE_SECONDS = 10.0
GARBAGE_WAITS = 60
"""So often is a search for garbage put off."""
QUIET_BYTES = 2**24
"""What requests may hold while there is a search for garbage."""


def create_app(
    settings: Settings,
    clock: Callable[[], float] = time.time,
    board: Board | None = None,
    worker_index: int = 0,
    shared_metrics: SharedMetrics | None = None,
    trials: Trials | None = None,
    kinds: Sequence[Kind[Any]] = KINDS,
) -> FastAPI:
    """The service; its models are loaded when it starts, and closed when it stops.

    `clock`: seconds since 1970, by which sessions expire. `board`, `place`, `figures`: where several processes serve,
    what they share, and the place of this one in it. `trials`: where models are tried out before they are opened.
    """
    metrics = Metrics(shared_metrics)
    shared = board or Board()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reloader = Reloader(settings, kinds, metrics, shared, worker_index, trials)
        kept = _sessions(settings, metrics, clock)
        owners = frozenset(context.owner_of_key(key.get_secret_value()) for key in settings.api_keys)
        memory = MemoryBudget(settings.max_waiting_bytes, metrics.held)
        state = AppState(
            kinds, settings, reloader.registry, metrics, StreamNotifier(), reloader, kept, owners, shared, worker_index, memory
        )
        app.state.carry = state
        beating = asyncio.create_task(_beat(state))
        sweeping = asyncio.create_task(_sweep(kept))
        collecting = asyncio.create_task(_collect_garbage(memory))
        async with reloader.watch():
            yield
        for task in (collecting, sweeping, beating):
            # Again until it has ended: a store's client may take one cancellation for a timeout of its own.
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.2)
        reloader.registry.close()
        await kept.close()

    app = _Application(
        title="Carry", version=version("carry"), description=DESCRIPTION, lifespan=lifespan, redirect_slashes=False
    )
    problems.install(app)
    routers = [router for kind in kinds for router in kind.routers()]
    routers += [sessions.create_router(kinds), models.router, health.router]
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes]
    app.add_middleware(BodyMiddleware, settings=settings)
    app.add_middleware(AccessMiddleware)
    app.add_middleware(RequestMiddleware, metrics=metrics)

    @app.get("/", include_in_schema=False)
    async def get_root() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app


async def try_store(settings: Settings) -> None:
    """Open the session store, look whether it can be used, and let go of it.

    Raises:
        StoreError: it cannot.
    """
    store = _store(settings, lambda: None)
    try:
        await store.verify()
    finally:
        await store.close()


def _store(settings: Settings, evicted: Callable[[], None]) -> Store:
    max_bytes = settings.max_session_store_bytes
    limits = Limits(
        sessions=settings.max_sessions,
        sessions_per_owner=settings.max_sessions_per_owner,
        bytes_per_owner=settings.max_session_bytes_per_owner or max_bytes // 2,
        versions=settings.session_versions,
        tombstone_ttl=settings.session_tombstone_ttl,
    )
    return open_store(settings.session_store, limits, max_bytes, evicted)


def _sessions(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> Sessions:
    return Sessions(
        _store(settings, metrics.sessions.events.labels("evicted").inc),
        metrics.sessions,
        settings.session_tombstone_ttl,
        settings.idempotency_ttl,
        settings.state_key.get_secret_value().encode() if settings.state_key else None,
        clock,
    )


async def _sweep(sessions: Sessions) -> None:
    """Drop what has expired, now and then, until cancelled: no failure ends it, or it would fill the store."""
    while True:
        try:
            await sessions.sweep()
        except CarryError as error:
            structlog.get_logger().warning("expired sessions were not swept", reason=error.detail)
        except Exception:
            structlog.get_logger().exception("expired sessions were not swept")
        await asyncio.sleep(SWEEP_SECONDS)


async def _beat(state: AppState) -> None:
    """Tell the other processes, and the supervisor, that the event loop turns, and whether this process is ready."""
    while True:
        state.board.beat(state.worker_index)
        state.board.report(state.worker_index, health.reason_not_ready(state))
        await asyncio.sleep(BEAT_SECONDS)


async def _collect_garbage(memory: MemoryBudget, pause: float = GARBAGE_SECONDS) -> None:
    """Search all objects for garbage now and then. It stops everybody, the longer the more objects there are: it waits
    until no large request is under way, but not for ever."""
    put_off = 0
    while True:
        await asyncio.sleep(pause)
        if gc.get_count()[2] < 10:  # so many searches among younger objects come before one among all
            continue
        put_off += 1
        if memory.held <= QUIET_BYTES or put_off > GARBAGE_WAITS:
            gc.collect()
            put_off = 0
