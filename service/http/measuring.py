"""What the metrics say of one request."""

import time

from starlette.datastructures import Headers
from starlette.types import Message, Scope

from service.metrics import HttpMetrics, model_labels


class Measurement:
    """Measures one request, from its arrival to its `end`. `method`: as the client sent it."""

    def __init__(self, metrics: HttpMetrics, scope: Scope, method: str) -> None:
        self._metrics = metrics
        self._scope = scope
        self._method = method
        self._started = time.perf_counter()
        self._is_stream = self._has_begun = self._is_complete = False
        metrics.in_flight.inc()

    def sent(self, message: Message) -> None:
        """A part of the answer was sent."""
        if message["type"] == "http.response.start":
            self._is_stream = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
            return
        if self._is_stream and not self._has_begun:
            seconds = time.perf_counter() - self._started
            self._metrics.first_byte_seconds.labels(*self._route_and_model).observe(seconds)
        self._has_begun, self._is_complete = True, not message.get("more_body", False)

    def end(self, status: int) -> float:
        """The request has ended. Returns the seconds that it took."""
        seconds = time.perf_counter() - self._started
        metrics, problem = self._metrics, self._scope.get("carry.problem")
        route, *model = self._route_and_model
        metrics.in_flight.dec()
        metrics.requests.labels(self._method, route, *model, status).inc()
        metrics.seconds.labels(route, *model, f"{status // 100}xx").observe(seconds)
        # The problems of some requests of a batch are no problem of the whole.
        if problem is not None and (status >= 400 or self._is_stream):
            metrics.problems.labels(problem).inc()
        if self._is_stream and (problem is not None or not self._is_complete):
            metrics.broken_streams.labels("client" if problem is None else "error").inc()
        return seconds

    @property
    def _route_and_model(self) -> tuple[str, str, str]:
        """The template of the route, and the name and version of the model that the request runs, or "", ""."""
        route: str = getattr(self._scope.get("route"), "path", "unmatched")
        return route, *model_labels(self._scope.get("carry.model", ""))
