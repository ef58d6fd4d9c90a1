"""The trace of a request, by W3C Trace Context: the caller's, or a new one."""

import random

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

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
