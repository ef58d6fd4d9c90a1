"""Traces: the caller's trace in log lines, problems and answers, and spans for a collector."""

import gzip
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id
from pydantic import ValidationError
from starlette.testclient import TestClient

import carry
from service.settings import Settings
from tests.e2e.serving import PATIENCE, Service

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
TIMING = re.compile(r"trace;desc=00-([0-9a-f]{32})-([0-9a-f]{16})-0[0-3]")


def trace_of(client: TestClient, *traceparents: str | bytes) -> str:
    """The trace id of the answer to a request with these headers, which its log line and its problem have, too."""
    headers = [("traceparent", header) for header in traceparents]
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = client.get("/models/none", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 404
    timing = TIMING.fullmatch(answer.headers["server-timing"])
    assert timing is not None
    assert timing[2] != SPAN  # the answer names a span of its own
    assert int(timing[1], 16)
    assert answer.json()["trace_id"] == timing[1]
    [line] = [line for line in lines if line["event"] == "request"]
    assert line["trace_id"] == timing[1]
    return timing[1]


def test_the_callers_trace_is_in_the_log_the_problem_and_the_answer(client: TestClient) -> None:
    assert trace_of(client, f"00-{TRACE}-{SPAN}-01") == TRACE


def test_a_later_version_of_the_header_is_read_as_far_as_it_is_known(client: TestClient) -> None:
    assert trace_of(client, f"42-{TRACE}-{SPAN}-01-more") == TRACE


def test_each_request_without_a_trace_gets_a_new_one(client: TestClient) -> None:
    assert trace_of(client) != trace_of(client)


@given(
    st.sampled_from(
        [
            "",
            f"00-{TRACE}-{SPAN}",
            f"00-{TRACE}-{SPAN}-01-more",
            f"00-{TRACE}-{SPAN}-1",
            f"ff-{TRACE}-{SPAN}-01",
            f"00-{TRACE.upper()}-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE}-{SPAN}-01" + " " * 1000,
        ]
    )
    | st.binary().filter(lambda header: TRACE.encode() not in header)
)
def test_an_invalid_header_starts_a_new_trace(client: TestClient, header: str | bytes) -> None:
    assert trace_of(client, header) != TRACE


@given(st.lists(st.binary(max_size=600), max_size=3), st.lists(st.binary(max_size=600), max_size=3))
def test_no_header_of_a_trace_fails_a_request(client: TestClient, parents: list[bytes], states: list[bytes]) -> None:
    headers = [("traceparent", header) for header in [f"00-{TRACE}-{SPAN}-01".encode(), *parents]]
    headers += [("tracestate", header) for header in states]
    answer = client.get("/health/live", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert TRACE in answer.headers["server-timing"]


@dataclass(frozen=True)
class Span:
    """A span as the collector got it."""

    process: int
    trace: str
    id: str
    parent: str
    name: str
    attributes: dict[str, str | int]
    start: int
    end: int


class Collector:
    """A collector of OpenTelemetry: OTLP/HTTP with protobuf."""

    def __init__(self) -> None:
        spans: queue.SimpleQueue[Span] = queue.SimpleQueue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers["content-encoding"] == "gzip":
                    body = gzip.decompress(body)
                for span in _spans(ExportTraceServiceRequest.FromString(body)):
                    spans.put(span)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self._spans = spans
        self._known: list[Span] = []
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def trace(self, trace: str, count: int) -> dict[str, Span]:
        """Wait for so many spans of a trace. Returns them by name."""
        while len(found := [span for span in self._known if span.trace == trace]) < count:
            self._known.append(self._spans.get(timeout=PATIENCE))
        assert len(found) == count
        return {span.name: span for span in found}

    def received(self) -> set[str]:
        """The traces of which spans have arrived."""
        return {span.trace for span in self._known}

    def close(self) -> None:
        """Answer no more: connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        about = {item.key: item.value for item in resource.resource.attributes}
        assert about["service.name"].string_value == "carry"
        for scope in resource.scope_spans:
            for span in scope.spans:
                values = {item.key: item.value.string_value or item.value.int_value for item in span.attributes}
                yield Span(
                    about["process.pid"].int_value,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    values,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """The collector."""
    opened = Collector()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def traced(models: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, in two processes, with the collector."""
    store = f"sqlite:///{tmp_path_factory.mktemp('traced')}/sessions.db"
    service = Service(models, store, processes=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds
        service.start()
    yield service
    service.stop()


def call(service: Service, path: str, trace: str, flags: str = "01", **body: object) -> dict[str, object]:
    """The answer to a call on a new connection, which belongs to this trace."""
    headers = {"traceparent": f"00-{trace}-{SPAN}-{flags}"}
    answer = httpx2.post(f"{service.url}{path}", json=body, headers=headers, timeout=PATIENCE)
    assert answer.is_success, answer.text
    assert answer.headers["server-timing"].startswith(f"trace;desc=00-{trace}-")
    result: dict[str, object] = answer.json()
    return result


def test_the_spans_of_a_call_reach_the_collector_below_the_callers(traced: Service, collector: Collector) -> None:
    session = call(traced, "/sessions", "a" * 32, series=[1, 2, 3])["id"]
    call(traced, "/forecast", "b" * 32, series=[4, 5], horizon=3, session_id=session)
    collector.trace("a" * 32, 4)
    spans = collector.trace("b" * 32, 5)
    assert set(spans) == {"POST /forecast", "store read", "queue", "engine", "store commit"}
    request = spans.pop("POST /forecast")
    assert request.parent == SPAN
    assert {
        "http.request.method": "POST",
        "http.route": "/forecast",
        "http.response.status_code": 200,
        "url.path": "/forecast",
        "url.scheme": "http",
    }.items() <= request.attributes.items()
    for span in spans.values():
        assert span.parent == request.id
        assert request.start <= span.start <= span.end
    assert spans["queue"].end == spans["engine"].start
    assert spans["engine"].end <= spans["store commit"].end
    assert spans["engine"].attributes == {"carry.model": "forecast@1", "carry.tasks": 1, "carry.max_steps": 5}


def test_the_spans_of_every_process_arrive(traced: Service, collector: Collector) -> None:
    processes: set[int] = set()
    for number in range(1, 200):
        trace = f"{number:032x}"
        call(traced, "/forecast", trace, series=[1, 2])
        processes.add(collector.trace(trace, 3)["engine"].process)
        if len(processes) == 2:
            break
    assert processes == set(traced.processes)


def test_a_batch_has_two_spans_for_all_its_tasks(traced: Service, collector: Collector) -> None:
    call(traced, "/forecast/batch", "c" * 32, requests=[{"series": [i, 1], "horizon": 2} for i in range(50)])
    assert collector.trace("c" * 32, 3)["engine"].attributes["carry.tasks"] == 50


def test_the_caller_decides_whether_a_trace_is_recorded(traced: Service, collector: Collector) -> None:
    call(traced, "/forecast", "d" * 32, flags="00", series=[1, 2])
    httpx2.get(f"{traced.url}/health/ready", headers={"traceparent": f"00-{'e' * 32}-{SPAN}-01"})
    call(traced, "/forecast", "f" * 32, series=[1, 2])
    collector.trace("f" * 32, 3)
    assert collector.received().isdisjoint({"d" * 32, "e" * 32})
    problem = httpx2.get(f"{traced.url}/models/none", headers={"traceparent": f"00-{'9' * 32}-{SPAN}-01"}).json()
    assert problem["trace_id"] == "9" * 32
    assert collector.trace("9" * 32, 1)["GET /models/{name}"].attributes["http.response.status_code"] == 404


def test_the_calls_of_the_client_belong_to_the_programs_trace(traced: Service, collector: Collector) -> None:
    with (
        carry.Client(traced.url) as client,
        TracerProvider(shutdown_on_exit=False).get_tracer("program").start_as_current_span("work") as work,
    ):
        client.forecast([1.0, 2.0, 3.0], horizon=2)
    context = work.get_span_context()
    request = collector.trace(format_trace_id(context.trace_id), 3)["POST /forecast"]
    assert request.parent == format_span_id(context.span_id)


def test_without_a_collector_that_answers_calls_and_the_end_of_the_service_go_on(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Collector()
    closed.close()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    with Service(models, f"sqlite:///{tmp_path}/sessions.db", otlp_endpoint=closed.url) as service:
        for _ in range(20):
            call(service, "/forecast", "1" * 32, series=[1, 2])
    assert all("logger" in line for line in service.errors), service.errors  # each line is JSON


def test_without_a_collector_the_sdk_is_not_imported() -> None:
    code = "import sys, service.app as app; app.create_app(app.Settings()); print('opentelemetry.sdk' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert ended.stdout == "False\n"


def test_a_collector_needs_an_http_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
    with pytest.raises(ValidationError, match="http://localhost:4318"):
        Settings()
    monkeypatch.setenv("CARRY_OTLP_ENDPOINT", "http://localhost:4318")
    assert Settings().otlp_endpoint == "http://localhost:4318"
