"""Traces: the caller's trace in log lines, problems and answers."""

import re

import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

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
