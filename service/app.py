"""The application: the only place where settings, models and routes are wired together."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from opentelemetry.trace import NoOpTracer, Tracer

from service import DISTRIBUTION
from service.errors import CarryError
from service.http import health, invocations, models, openapi_document, page, problems, sessions
from service.http.access import OPEN, AccessMiddleware
from service.http.bodies import BodyMiddleware
from service.http.compression import CompressionMiddleware
from service.http.metrics_port import MetricsPortMiddleware
from service.http.requests import PROBES, RequestMiddleware
from service.http.state import AppState
from service.http.streaming import StreamNotifier
from service.keys import KeyRing
from service.kind import Kind
from service.kinds import KINDS
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.sessions.sessions import Sessions
from service.sessions.store import Limits, Store
from service.sessions.stores import open_store
from service.settings import Settings
from service.traces import close_exporter, open_exporter
from service.workers.board import Board
from service.workers.reloads import Reloader
from service.workers.shared_metrics import SharedMetrics
from service.workers.trials import Trials

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

DESCRIPTION = (
    "Forecasts of series and continuations of text, by recurrent networks. Errors are problem+json (RFC 9457)."
)


class _Application(FastAPI):
    def setup(self) -> None:
        """Add FastAPI's own routes. The OpenAPI document is encoded once, not for each request."""
        encoded = cache(lambda: json.dumps(self.openapi()))  # orjson takes no bound above 64 bits

        @self.get("/openapi.json", include_in_schema=False)
        async def get_openapi() -> Response:
            # The first time is slow: other requests would wait.
            return Response(await asyncio.to_thread(encoded), media_type="application/json")

        super().setup()

    def openapi(self) -> dict[str, Any]:
        is_new = self.openapi_schema is None
        openapi = super().openapi()
        if is_new:
            openapi_document.complete(openapi)
        return openapi


SWEEP_SECONDS = 30.0
BEAT_SECONDS = 1.0
GARBAGE_SECONDS = 10.0
MAX_POSTPONED = 60
"""How often in a row a search for garbage is postponed at most."""
QUIET_BYTES = 2**24
"""Bytes that requests may hold during a search for garbage."""


def create_app(
    settings: Settings,
    clock: Callable[[], float] = time.time,
    board: Board | None = None,
    worker_index: int = 0,
    shared_metrics: SharedMetrics | None = None,
    trials: Trials | None = None,
    kinds: Sequence[Kind[Any]] = KINDS,
) -> FastAPI:
    """The application. It loads its models when it starts, and closes them when it stops.

    `clock`: seconds since 1970, for the expiry of sessions. `board`, `shared_metrics`: shared with other processes, if
    there are any; `worker_index`: this process's index in them. `trials`: tries models before they are opened.
    """
    metrics = Metrics(shared_metrics)
    exporter = _exporter(settings)
    tracer = NoOpTracer() if exporter is None else exporter.get_tracer("carry")
    board = board or Board()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reloader = Reloader(settings, kinds, metrics, board, worker_index, trials)
        keys = KeyRing(settings, board.allowances, worker_index, metrics.keys)
        session_service = _sessions(settings, metrics, clock, keys, tracer)
        memory = MemoryBudget(settings.max_waiting_bytes, metrics.memory.held)
        metrics.memory.max_held.set(settings.max_waiting_bytes)
        state = AppState(
            kinds=kinds,
            settings=settings,
            registry=reloader.registry,
            metrics=metrics,
            notifier=StreamNotifier(),
            reloader=reloader,
            sessions=session_service,
            keys=keys,
            board=board,
            worker_index=worker_index,
            tracer=tracer,
            memory=memory,
        )
        app.state.carry = state
        loops = [_beat(state), keys.watch(), _sweep(session_service), collect_garbage(memory)]
        tasks = [asyncio.create_task(loop) for loop in loops]
        async with reloader.watch():
            yield
        for task in reversed(tasks):
            # Cancel until it has ended: a store's client may take one cancellation for its own timeout.
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.2)
        reloader.registry.close()
        await session_service.close()
        if exporter is not None:
            await asyncio.to_thread(close_exporter, exporter)

    app = _Application(
        title="Carry",
        version=version(DISTRIBUTION),
        description=DESCRIPTION,
        lifespan=lifespan,
        servers=[{"url": settings.root_path or "/", "description": "This service."}],
        telemetry={
            "tracing": exporter is not None,
            "tracer_provider": exporter,
            "exclude": lambda scope: scope["path"].removeprefix(settings.root_path) in PROBES,
            "operation_spans": False,
            "metrics": False,
            "logs": False,
            "auto_configure": False,
        },
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own pages load scripts from another host
        redoc_url=None,
    )
    problems.install(app)
    page_files = page.page_files() if settings.page == "on" else {}
    # Routes are tried in this order, so those of the kinds themselves come before their foreign interfaces.
    own_routers, *other_routers = zip_longest(*(kind.routers() for kind in kinds))
    # A platform may call paths that begin with /v1/, and the last route of OpenAI's API takes all of these.
    routers = [invocations.create_router(kinds, settings), *own_routers, sessions.create_router(kinds)]
    routers += [router for group in other_routers for router in group if router is not None]
    routers += [models.create_router(kinds), health.router, page.create_router(page_files)]
    for router in routers:
        app.include_router(router)
    own_routes = [route for route in app.routes if isinstance(route, APIRoute)]
    app.state.routes = [*own_routes, *(route for router in routers for route in router.routes)]
    app.add_middleware(CompressionMiddleware)  # innermost: the limits of answers in transfer count what is sent
    app.add_middleware(BodyMiddleware, settings=settings)
    origins = frozenset(settings.cors_origins)
    open_paths = OPEN | page_files.keys() | ({settings.health_route} if settings.health_route else set())
    app.add_middleware(AccessMiddleware, open_paths=open_paths, origins=origins)
    if settings.metrics_port is not None:
        app.add_middleware(MetricsPortMiddleware, port=settings.metrics_port)
    app.add_middleware(RequestMiddleware, metrics=metrics, root_path=settings.root_path)
    if origins:  # outermost, so that pages can read every answer, and need no key to ask whether they may call
        methods = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"], expose_headers=["*"]
        )
    return app


async def try_store(settings: Settings) -> None:
    """Open the session store, check that it can be used, and close it.

    Raises:
        StoreError: it cannot be used.
    """
    store = _store(settings, lambda: None)
    try:
        await store.verify()
    finally:
        await store.close()


def _store(settings: Settings, evicted: Callable[[], None], keys: KeyRing | None = None) -> Store:
    max_bytes = settings.max_session_store_bytes
    limits = Limits(
        sessions=settings.max_sessions,
        sessions_per_owner=settings.max_sessions_per_owner,
        bytes_per_owner=settings.max_session_bytes_per_owner or max_bytes // 2,
        of_owner=(lambda owner: None) if keys is None else keys.limits,
        versions=settings.session_versions,
        tombstone_ttl=settings.session_tombstone_ttl,
    )
    return open_store(settings.session_store, limits, max_bytes, evicted)


def _sessions(
    settings: Settings, metrics: Metrics, clock: Callable[[], float], keys: KeyRing, tracer: Tracer
) -> Sessions:
    return Sessions(
        _store(settings, metrics.sessions.events.labels("evicted").inc, keys),
        metrics.sessions,
        settings.session_tombstone_ttl,
        settings.idempotency_ttl,
        settings.state_key.get_secret_value().encode() if settings.state_key else None,
        clock,
        tracer,
    )


def _exporter(settings: Settings) -> "TracerProvider | None":
    """The exporter of spans, if the settings name a collector."""
    if settings.otlp_endpoint is None:
        return None
    try:
        return open_exporter(settings.otlp_endpoint)
    except ImportError:  # what serves can do without it
        log = structlog.get_logger()
        log.warning("no spans are exported: pip install 'carry-rnn[otel]'", endpoint=settings.otlp_endpoint)
        return None


async def _sweep(sessions: Sessions) -> None:
    """Drop expired sessions now and then. A failure does not end the loop: the store would fill up."""
    while True:
        try:
            await sessions.sweep()
        except CarryError as error:
            structlog.get_logger().warning("expired sessions were not swept", reason=error.detail)
        except Exception:
            structlog.get_logger().exception("expired sessions were not swept")
        await asyncio.sleep(SWEEP_SECONDS)


async def _beat(state: AppState) -> None:
    """Tell the other processes and the supervisor that the event loop runs, and whether this process is ready."""
    while True:
        for model in state.registry.models:
            model.engine.look()
        state.board.beat(state.worker_index)
        state.board.report(state.worker_index, health.reason_not_ready(state))
        await asyncio.sleep(BEAT_SECONDS)


async def collect_garbage(memory: MemoryBudget, pause: float = GARBAGE_SECONDS) -> None:
    """Search all objects for garbage now and then. A search stops the process, longer the more objects there are, so it
    waits until no large request runs, but not for ever."""
    postponed = 0
    while True:
        await asyncio.sleep(pause)
        if gc.get_count()[2] < 10:  # searches among younger objects come first
            continue
        postponed += 1
        if memory.held <= QUIET_BYTES or postponed > MAX_POSTPONED:
            gc.collect()
            postponed = 0
