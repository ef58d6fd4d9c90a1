"""The application: the only place where settings, models and routes are wired together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from service.api import forecast, health, models, problems, text
from service.api.middleware import BodyMiddleware, RequestMiddleware
from service.api.state import State
from service.api.streams import Wakers
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings

DESCRIPTION = (
    "Forecasts of series and continuations of text, by recurrent networks. Errors are problem+json (RFC 9457)."
)


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        made = self.openapi_schema is None
        openapi = super().openapi()
        if made:
            problems.document(openapi)
        return openapi


def create_app(settings: Settings) -> FastAPI:
    """The service; its models are loaded when it starts, and closed when it stops."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        registry = Registry(settings, metrics)
        log = structlog.get_logger()
        for model in registry.models:
            log.info("model loaded", model=model.label, kind=model.manifest.kind, precision=model.precision)
        if not registry.models:
            log.warning("no model is loaded", models_dir=str(settings.models_dir))
        for refused in registry.refused:
            log.warning("model refused", model=f"{refused.name}@{refused.version}", reason=refused.reason)
        metrics.models.labels("loaded").set(len(registry.models))
        metrics.models.labels("refused").set(len(registry.refused))
        app.state.carry = State(settings, registry, metrics, Wakers())
        yield
        registry.close()

    app = _Application(title="Carry", version=version("carry"), description=DESCRIPTION, lifespan=lifespan)
    problems.install(app)
    for module in (forecast, text, models, health):
        app.include_router(module.router)
    app.add_middleware(BodyMiddleware, limit=settings.max_body_bytes)
    app.add_middleware(RequestMiddleware, metrics=metrics)

    @app.get("/", include_in_schema=False)
    async def get_root() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app
