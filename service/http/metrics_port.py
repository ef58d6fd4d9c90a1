"""MetricsPortMiddleware: serves the metrics on a port of their own."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import RouteNotFoundError
from service.http.problems import problem_answer
from service.http.requests import METRICS

SERVED = frozenset({METRICS, "/health/live", "/health/ready"})
"""The paths on the port of the metrics."""


class MetricsPortMiddleware:
    """Answers 404 to /metrics on any other port than `port`, and to all but metrics and health on this one."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            _, port = scope["server"]
            if scope["path"] not in SERVED if port == self._port else scope["path"] == METRICS:
                app = problem_answer(RouteNotFoundError("Not Found"), scope)
        await app(scope, receive, send)
