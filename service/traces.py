"""The trace of a request, by W3C Trace Context: the caller's, or a new one. And its spans, if a collector of
OpenTelemetry takes them; without one, its SDK is not imported."""

import random
import threading
import time
from concurrent.futures import Future
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import SpanContext, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from service import DISTRIBUTION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, and values."""
_PROPAGATOR = TraceContextTextMapPropagator()


class _HeaderGetter(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        name = key.encode()
        return [value.decode("latin-1") for header, value in carrier if header == name] or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


_GETTER = _HeaderGetter()


def request_trace(headers: Headers) -> SpanContext:
    """The trace of the request that runs: that of its span, if spans are recorded; else the caller's, if its headers
    are valid; else a new one."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return span
    caller = trace.get_current_span(_PROPAGATOR.extract(headers, Context(), _GETTER)).get_span_context()
    # The flag that the caller's id is random stays; the flag that we record the trace does not.
    flags = caller.trace_flags & TraceFlags.RANDOM_TRACE_ID if caller.is_valid else TraceFlags.RANDOM_TRACE_ID
    trace_id = caller.trace_id if caller.is_valid else random.getrandbits(128) or 1
    return SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=TraceFlags(flags))


def server_timing(context: SpanContext) -> str:
    """The trace as a metric of the header Server-Timing, as the W3C's draft of Trace Context has it for answers:
    `traceparent` is a header of requests."""
    trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return f"trace;desc=00-{trace_id}-{span_id}-{context.trace_flags:02x}"


LAST_EXPORT_SECONDS = 2.0
"""How long the end of the service waits for the export of the last spans."""


def open_exporter(endpoint: str) -> "TracerProvider":
    """Exports spans by OTLP/HTTP to the collector at this URL, on a thread of its own. Call it in the process that
    makes the spans. If the collector does not answer, spans are dropped.

    The SDK reads its own variables: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS and so on. By
    default it follows the caller's decision to sample, and samples all requests without a trace.

    Raises:
        ImportError: the extra `otel` is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, ProcessResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    process = ProcessResourceDetector().detect().attributes["process.pid"]
    service = {"service.name": "carry", "service.version": version(DISTRIBUTION), "process.pid": process}
    resource = Resource.create(service).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    return provider


def close_exporter(provider: "TracerProvider") -> None:
    """Export the last spans, unless the collector takes too long."""
    thread = threading.Thread(target=provider.shutdown, daemon=True)
    thread.start()
    thread.join(LAST_EXPORT_SECONDS)


class TaskSpans:
    """Two spans for all tasks of a request together, ten thousand in a batch: `queue` until the first one takes part in
    a call of the graph, and `engine` from then until the last one has ended. The engine's thread notes the times."""

    def __init__(self, tracer: Tracer, model: str) -> None:
        self._tracer = tracer
        self._model = model
        self._parent = get_current()
        self._tasks = self._steps = 0
        self._submitted = time.time_ns()
        self._begun = self._ended = 0
        """Nanoseconds since 1970; 0: not yet."""

    def begin(self, at: float) -> None:
        """A task takes part in a call of the graph for the first time; the call began at this time.perf_counter()."""
        self._begun = self._begun or max(self._submitted, time.time_ns() - round((time.perf_counter() - at) * 1e9))

    def add(self, future: "Future[Any]", steps: int) -> None:
        """A task of at most so many steps was submitted."""
        self._tasks += 1
        self._steps += steps
        future.add_done_callback(self._note_end)

    def end(self) -> None:
        """The request has ended: make the spans."""
        ended = self._ended or time.time_ns()
        begun = self._begun or ended
        self._make("queue", self._submitted, begun)
        if self._begun:
            self._make("engine", begun, ended)

    def _make(self, name: str, start: int, end: int) -> None:
        attributes: Attributes = {
            "carry.model": self._model,
            "carry.tasks": self._tasks,
            "carry.max_steps": self._steps,
        }
        self._tracer.start_span(name, self._parent, attributes=attributes, start_time=start).end(end)

    def _note_end(self, _: "Future[Any]") -> None:
        self._ended = time.time_ns()
