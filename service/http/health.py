"""GET /health/live, GET /health/ready, GET /version and GET /metrics, for operators and orchestrators."""

import asyncio
import os
import platform
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field

from service import DISTRIBUTION
from service.errors import CarryError, NotReadyError
from service.http.problems import documented
from service.http.schemas import Answer
from service.http.state import App, AppState
from service.metrics import LoadedModel, Moment

router = APIRouter(tags=["operation"])


class Live(Answer):
    """The process answers."""

    status: Literal["live"] = "live"


class Version(Answer):
    """The version of Carry."""

    version: str


class Ready(Answer):
    """Every process has models, and the last step of each, at most half a minute ago, was good."""

    status: Literal["ready"] = "ready"
    models: int
    store: Literal["up", "down"] = Field(
        description="Whether the session store answers. While it is down, calls with a session answer 503."
    )


@router.get("/health/live", operation_id="health_live", summary="Does the process answer?")
async def get_live() -> Live:
    """Whether the process answers."""
    return Live()


@router.get(
    "/health/ready", operation_id="health_ready", summary="Can the service take calls?", responses=documented(422, 503)
)
async def get_ready(
    app: App,
    store: Annotated[bool, Query(description="Answer 503 also while the session store is down.")] = False,
) -> Ready:
    """Whether every process of the machine has loaded its models, and each model runs: its last step was good, and none
    hangs. A model without requests runs a smoke test every half minute, and after a failed step twice a second, until
    one passes. While the service ends, it is not ready."""
    reason = reason_not_ready(app)
    reasons = [f"process {os.getpid()} {reason}"] if reason else []
    reasons += app.board.others_not_ready(app.worker_index)
    if reasons:
        raise NotReadyError("; ".join(reasons))
    is_up = await app.sessions.is_up()
    if store and not is_up:
        raise NotReadyError("the session store does not answer")
    return Ready(models=len(app.registry.models), store="up" if is_up else "down")


def reason_not_ready(app: AppState) -> str:
    """Why this process is not ready; "" if it is."""
    if app.board.end_of_drain(app.worker_index) is not None:
        return "is ending"
    if app.keys.reason_not_ready:
        return app.keys.reason_not_ready
    models = app.registry.models
    if not models:
        return "has no model loaded; see GET /models"
    failed = [model.label for model in models if model.engine.failed]
    return f"has models that fail their smoke test, or hang: {', '.join(failed)}" if failed else ""


@router.get("/health", include_in_schema=False)
@router.get("/ping", include_in_schema=False)
async def get_health(app: App) -> Response:
    """As `/health/ready`, without a body, at the paths that clients of vLLM and SageMaker use."""
    await get_ready(app)
    return Response()


@router.get("/version", operation_id="get_version", summary="Show the version of the service")
async def get_version() -> Version:
    """The version of the service."""
    return Version(version=version(DISTRIBUTION))


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}, **documented(422)},
)
async def get_metrics(app: App, accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
    """The metrics of all processes of the machine, in Prometheus' text format, or as OpenMetrics if `Accept` asks for
    it."""
    with suppress(CarryError):  # the store is down: show its last figures
        await app.sessions.measure()
    # With thousands of series, it takes tens of milliseconds, in which other requests must not wait.
    content, content_type = await asyncio.to_thread(app.metrics.exposition, _moment(app), accept)
    return Response(content, headers={"Content-Type": content_type})


def _moment(app: AppState) -> Moment:
    board, manifests = app.board, [(model.manifest, model.precision) for model in app.registry.models]
    not_ready = board.others_not_ready(app.worker_index) + [reason for reason in [reason_not_ready(app)] if reason]
    pids = {str(index): pid for index, pid in enumerate(board.pids) if pid} | {str(app.worker_index): os.getpid()}
    return Moment(
        models=[LoadedModel(each.name, str(each.version), each.kind, precision) for each, precision in manifests],
        build={"version": version(DISTRIBUTION), "python": platform.python_version()},
        processes=board.processes,
        ready=board.processes - len(not_ready),
        restarts=board.restarts,
        pids=pids | ({"supervisor": os.getppid()} if board.processes > 1 else {}),
    )
