"""When the client sends a request again, and when it must not: against a server that fails as told."""

import gzip
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import zstandard

from carry.calls import Request, Response
from carry.errors import (
    CarryError,
    DeadlineExceededError,
    QueueFullError,
    TooManySessionsError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnreachableError,
)
from carry.exchange import Wire, retry_after
from carry.transport import Http
from tests.carry.driving import DRIVERS, Answers, Time, script
from tests.carry.flaky_server import Behaviour, Broken, Reply, flaky_server, problem

FORECAST = Request("/forecast", {"series": [1.0, 2.0], "horizon": 2})
MOVE = Request("/forecast", {"series": [3.0], "session_id": "a" * 32}, headers={"If-Match": '"3"'})
BUSY = Reply(503, problem(503, "busy"), {"Retry-After": "1"})
FULL = Reply(429, problem(429, "queue_full"), {"Retry-After": "7"})
PAGE = {"Content-Type": "text/html"}


Ask = Callable[..., Answers]


@pytest.fixture
def time() -> Time:
    """The clock of the client."""
    return Time()


@pytest.fixture(params=DRIVERS)
def ask(request: pytest.FixtureRequest, time: Time) -> Ask:
    """Sends requests, with one of the two drivers."""

    def ask(url: str, requests: Sequence[Request], **options: Any) -> Answers:
        wire = Wire(clock=time.clock, random=lambda: 1.0, **options)
        return DRIVERS[request.param](url, requests, wire, time)

    return ask


@pytest.fixture
def unused_url() -> str:
    """The address of a server that has ended."""
    with flaky_server(script(Reply())) as server:
        url = server.url
    return url


@pytest.mark.parametrize(
    "failure",
    [BUSY, FULL, Broken(), Reply(body=b'{"median"', broken=True), Reply(502, b"<html>", PAGE), Reply(504, b"", PAGE)],
    ids=["503", "429", "reset", "reset in the middle", "a proxy's 502", "a proxy's 504"],
)
@pytest.mark.parametrize("request_", [FORECAST, MOVE], ids=["stateless", "session"])
def test_a_failure_that_may_pass_is_repeated_with_the_same_key(ask: Ask, failure: Behaviour, request_: Request) -> None:
    with flaky_server(script(failure, failure, Reply(body={"median": [1.0]}))) as server:
        [answer] = ask(server.url, [request_])
    assert isinstance(answer, Response)
    assert answer.body == {"median": [1.0]}
    keys = [received.headers.get("idempotency-key") for received in server.received]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert (keys[0] is not None) == (request_ is MOVE)
    assert [received.body for received in server.received] == [request_.body] * 3
    assert {received.headers.get("if-match") for received in server.received} == {request_.headers.get("If-Match")}


@pytest.mark.parametrize(
    "failure",
    [
        Reply(500, problem(500, "model_failed")),
        Reply(500, b"<html>", PAGE),
        Reply(504, problem(504, "deadline_exceeded")),
        Reply(422, problem(422, "invalid_request", "$.series")),
        Reply(401, problem(401, "unauthorized")),
        Reply(429, problem(429, "too_many_sessions")),
        Reply(409, problem(409, "session_conflict")),
    ],
    ids=lambda failure: f"{failure.status} {failure.body[:60]!r}",
)
def test_a_failure_that_stays_is_not_repeated(ask: Ask, failure: Reply) -> None:
    with flaky_server(script(failure, Reply())) as server:
        [answer] = ask(server.url, [FORECAST])
    assert isinstance(answer, CarryError)
    assert answer.status == failure.status
    assert len(server.received) == 1


@pytest.mark.parametrize("failure", [Broken(), Reply(502, b"<html>", PAGE), BUSY], ids=["reset", "502", "503"])
def test_a_request_that_changes_something_and_has_no_key_is_sent_once(ask: Ask, failure: Behaviour) -> None:
    with flaky_server(script(failure, Reply())) as server:
        [answer] = ask(server.url, [Request("/models/reload", None)])
    assert isinstance(answer, CarryError)
    assert len(server.received) == 1


def test_a_refusal_before_anything_ran_is_repeated_without_a_key_too(ask: Ask) -> None:
    with flaky_server(script(FULL, Reply())) as server:
        [answer] = ask(server.url, [Request("/models/reload", None)])
    assert isinstance(answer, Response)
    assert len(server.received) == 2


def test_the_client_waits_as_long_as_the_service_asks_and_a_random_time_more(ask: Ask, time: Time) -> None:
    with flaky_server(script(FULL, BUSY, Broken(), Reply())) as server:
        ask(server.url, [FORECAST])
    assert time.slept == [7 + 0.5, 1 + 1.0, 2.0]


def test_the_random_time_may_be_none_at_all(time: Time) -> None:
    with flaky_server(script(Broken())) as server:
        [answer] = DRIVERS["sync"](server.url, [FORECAST], Wire(clock=time.clock, random=lambda: 0.0), time)
    assert isinstance(answer, UnreachableError)
    assert time.slept == [0, 0, 0, 0]


def test_after_the_last_repetition_the_error_is_the_last_one(ask: Ask) -> None:
    with flaky_server(script(BUSY, FULL)) as server:
        [answer] = ask(server.url, [FORECAST], max_retries=2)
    assert isinstance(answer, QueueFullError)
    assert (answer.code, answer.status, answer.request_id, answer.retry_after) == ("queue_full", 429, "r1", 7)
    assert len(server.received) == 3


def test_no_repetition_begins_that_cannot_end_before_the_deadline(ask: Ask, time: Time) -> None:
    with flaky_server(script(FULL, Reply())) as server:
        [answer] = ask(server.url, [FORECAST], timeout=5)
    assert isinstance(answer, QueueFullError)
    assert time.slept == []
    assert len(server.received) == 1


def test_the_service_is_told_how_much_time_is_left(ask: Ask) -> None:
    with flaky_server(script(FULL, Reply())) as server:
        ask(server.url, [FORECAST], timeout=20)
    assert [received.headers["x-request-timeout"] for received in server.received] == ["20.000", "12.500"]


def test_an_answer_that_drips_ends_at_the_deadline(ask: Ask, time: Time) -> None:
    def late() -> None:
        time.now += 21

    with flaky_server(script(Reply(body={"median": [1.0] * 100_000}, between=late))) as server:
        [answer] = ask(server.url, [FORECAST], timeout=20)
    assert isinstance(answer, DeadlineExceededError)
    assert len(server.received) == 1


def test_a_service_that_is_not_there_is_unreachable(ask: Ask, time: Time, unused_url: str) -> None:
    [answer] = ask(unused_url, [MOVE])
    assert isinstance(answer, UnreachableError)
    assert unused_url in str(answer)
    assert time.slept == [0.5, 1.0, 2.0, 4.0]


def test_an_error_has_code_path_status_and_request_id(ask: Ask) -> None:
    with flaky_server(script(Reply(422, problem(422, "invalid_request", "$.series[3]")))) as server:
        [answer] = ask(server.url, [FORECAST])
    assert isinstance(answer, CarryError)
    assert (answer.code, answer.path, answer.status, answer.request_id) == (
        "invalid_request",
        "$.series[3]",
        422,
        "r1",
    )
    assert answer.__notes__ == ["field: $.series[3]; code: invalid_request; status: 422; request id: r1"]


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [("unauthorized", 401, UnauthorizedError), ("too_many_sessions", 429, TooManySessionsError)],
)
def test_an_error_has_the_class_of_its_code(ask: Ask, code: str, status: int, expected: type[CarryError]) -> None:
    with flaky_server(script(Reply(status, problem(status, code)))) as server:
        [answer] = ask(server.url, [FORECAST])
    assert type(answer) is expected


def test_an_error_of_an_unknown_code_keeps_it(ask: Ask) -> None:
    with flaky_server(script(Reply(418, problem(418, "teapot")))) as server:
        [answer] = ask(server.url, [FORECAST])
    assert isinstance(answer, CarryError)
    assert (answer.code, answer.status) == ("teapot", 418)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            Reply(500, b"<html>\n<h1>Bad</h1>", PAGE),
            "status 500 (text/html) is no answer of Carry: <html> <h1>Bad</h1>",
        ),
        (Reply(200, b"<html>log in", PAGE), "status 200 (text/html) is no answer of Carry: <html>log in"),
        (Reply(308, b"", {"Location": "https://x/", **PAGE}), "status 308, to https://x/ (text/html) is no answer"),
        (Reply(404, b'{"detail":"Not Found"}'), "status 404"),
        (Reply(200, b"[1]"), "status 200"),
    ],
    ids=["html", "a log-in page", "redirect", "another service's JSON", "a list"],
)
def test_what_is_no_answer_of_carry_is_shown(ask: Ask, reply: Reply, words: str) -> None:
    with flaky_server(script(reply)) as server:
        [answer] = ask(server.url, [FORECAST])
    assert isinstance(answer, UnexpectedAnswerError)
    assert words in str(answer)
    assert answer.status == reply.status


def test_the_key_goes_along(ask: Ask) -> None:
    with flaky_server(script(Reply())) as server:
        ask(server.url, [FORECAST], api_key="a key")
        ask(server.url, [FORECAST])
    assert [received.headers.get("authorization") for received in server.received] == ["Bearer a key", None]


@pytest.mark.parametrize("count", [2, 300_000])
def test_a_large_body_is_compressed(ask: Ask, count: int) -> None:
    body = {"series": [1.5] * count}
    with flaky_server(script(Reply())) as server:
        ask(server.url, [Request("/anomalies", body)])
    assert server.received[0].body == body
    assert server.received[0].headers.get("content-encoding") == ("zstd" if count > 2 else None)


@pytest.mark.parametrize(
    ("encoding", "compress"), [("zstd", zstandard.ZstdCompressor().compress), ("gzip", gzip.compress)]
)
def test_a_compressed_answer_is_read(ask: Ask, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    with flaky_server(
        script(Reply(body=compress(b'{"median":[1.5]}'), headers={"Content-Encoding": encoding}))
    ) as server:
        [answer] = ask(server.url, [FORECAST])
    assert encoding in server.received[0].headers["accept-encoding"]
    assert isinstance(answer, Response)
    assert answer.body == {"median": [1.5]}


def test_an_answer_that_cannot_be_decompressed_is_an_error(ask: Ask) -> None:
    with flaky_server(script(Reply(body=b"no gzip", headers={"Content-Encoding": "gzip"}))) as server:
        [answer] = ask(server.url, [FORECAST])
    assert isinstance(answer, UnreachableError)
    assert "DecodingError" in str(answer)
    assert len(server.received) == 1


def test_a_path_stands_below_the_address(ask: Ask) -> None:
    with flaky_server(script(Reply())) as server:
        ask(f"{server.url}/behind/a/proxy/", [FORECAST])
    assert server.received[0].path == "/behind/a/proxy/forecast"


@pytest.mark.parametrize("url", ["localhost:8000", "", "http://", "ftp://x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"url: must begin with http:// or https:// and a host"):
        Http(url, Wire())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "Sat, 28 Nov 2026 10:00:07 GMT", "date": "Sat, 28 Nov 2026 10:00:00 GMT"}, 7),
        ({"retry-after": "Sat, 28 Nov 2026 09:00:00 GMT", "date": "Sat, 28 Nov 2026 10:00:00 GMT"}, 0),
        ({"retry-after": "Sat, 28 Nov 2026 10:00:07 GMT"}, 0),
        ({"retry-after": "soon"}, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds
