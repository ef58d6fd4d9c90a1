"""Many forecasts through the client: in batches that the service takes, a few at once, and nothing lost."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from carry.calls import Request, Response
from carry.errors import CarryError, InvalidRequestError, LimitExceededError, UnexpectedAnswerError
from carry.exchange import MAX_BATCH, MAX_CONCURRENT, Wire
from tests.carry.driving import DRIVERS, Answers, Time, script
from tests.carry.flaky_server import Behaviour, Broken, Forward, Received, Reply, flaky_server, problem
from tests.served import KEY, served

Ask = Callable[[str, Sequence[Request], Wire], Answers]
OPTIONS = {"horizon": 3, "levels": [80.0]}


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[str]:
    """A service with small models."""
    with served(models) as url:
        yield url


@pytest.fixture(params=DRIVERS)
def ask(request: pytest.FixtureRequest) -> Ask:
    """Sends requests, with one of the two drivers."""
    return lambda url, requests, wire: DRIVERS[request.param](url, requests, wire, Time())


def forecasts(count: int) -> list[Request]:
    """Forecasts of as many series, each with values of its own."""
    return [Request("/forecast", {"series": [i + 1.0, i + 4.0, i - 2.0, i + 3.0], **OPTIONS}) for i in range(count)]


def medians(answers: Sequence[Response | CarryError]) -> list[Any]:
    """The median of each answer, which must not be an error."""
    return [answer.body["median"] for answer in answers if isinstance(answer, Response)]


def test_batches_answer_as_single_calls_do_in_the_order_of_the_requests(ask: Ask, service: str) -> None:
    requests = forecasts(20)
    with flaky_server(script(Forward(service))) as server:
        together = ask(server.url, requests, Wire(KEY, max_batch=6))
    alone = [ask(service, [request], Wire(KEY))[0] for request in requests]
    assert [isinstance(answer, Response) for answer in alone] == [True] * 20
    assert [answer.body for answer in together if isinstance(answer, Response)] == [
        answer.body for answer in alone if isinstance(answer, Response)
    ]
    assert sorted(len(received.body["requests"]) for received in server.received) == [2, 6, 6, 6]
    assert {received.path for received in server.received} == {"/forecast/batch"}


def test_bad_series_are_errors_in_their_places_and_the_others_are_forecast(ask: Ask, service: str) -> None:
    requests = forecasts(9)
    for bad in (0, 4, 8):
        requests[bad] = Request("/forecast", {"series": [None], **OPTIONS})
    requests[5] = Request("/forecast", {"series": [1.0, "x"], **OPTIONS})
    answers = ask(service, requests, Wire(KEY, max_batch=4))
    errors = {i: answer for i, answer in enumerate(answers) if isinstance(answer, CarryError)}
    assert set(errors) == {0, 4, 5, 8}
    assert {(type(errors[i]), errors[i].path, errors[i].code) for i in (0, 4, 8)} == {
        (InvalidRequestError, "$.series", "invalid_request")
    }
    assert errors[5].path == "$.series[1]"
    assert errors[0].request_id is not None
    assert len(medians(answers)) == 5


def test_forecasts_of_other_options_and_other_calls_go_alone(ask: Ask, service: str) -> None:
    series = {"series": [1.0, 2.0, 3.0]}
    requests = [
        Request("/forecast", {**series, "horizon": 2}),
        Request("/anomalies", series),
        Request("/forecast", {**series, "horizon": 3}),
        Request("/forecast", {**series, "horizon": 2, "start": "2024-01-01", "freq": "D"}),
        Request("/forecast", {**series, "horizon": 2}),
    ]
    with flaky_server(script(Forward(service))) as server:
        answers = ask(server.url, requests, Wire(KEY))
    assert sorted(received.path for received in server.received) == [
        *("/anomalies", "/forecast", "/forecast", "/forecast/batch")
    ]
    bodies = [answer.body for answer in answers if isinstance(answer, Response)]
    assert [len(body["median"]) for body in bodies] == [2, 3, 3, 2, 2]
    assert bodies[3]["timestamps"] == ["2024-01-04", "2024-01-05"]
    assert bodies[0] == bodies[4]


@pytest.fixture(scope="module")
def small_limits(models: Path) -> Iterator[str]:
    """A service with small limits."""
    limits = {
        "max_batch_requests": 16,
        "max_body_bytes": 16_384,
        "max_body_items": 3000,
        "max_batch_answer_items": 200,
    }
    with served(models, **limits) as url:
        yield url


@pytest.mark.parametrize(
    ("count", "values", "horizon"),
    [(60, [1], 1), (10, [1] * 400, 1), (10, [0.1234567890123456] * 100, 1), (10, [1, 2], 15)],
    ids=["requests", "values", "bytes", "quantiles"],
)
def test_batches_are_split_to_the_limits_of_the_service(
    ask: Ask, small_limits: str, count: int, values: list[float], horizon: int
) -> None:
    body = {"series": values, "horizon": horizon, "levels": [80.0]}
    requests, wire = [Request("/forecast", body)] * count, Wire(KEY)
    with flaky_server(script(Forward(small_limits))) as server:
        answers = ask(server.url, requests, wire)
        first_time = len(server.received)
        again = ask(server.url, requests, wire)
    assert len(medians(answers)) == count
    assert medians(again) == medians(answers)
    assert wire.max_batch < count
    # What the refusals told is remembered: the second time there are only batches that the service takes.
    assert len(server.received) - first_time == -(-count // wire.max_batch) < first_time


def test_a_single_series_that_is_too_large_is_an_error_of_its_own(ask: Ask, small_limits: str) -> None:
    requests = forecasts(5)
    requests[2] = Request("/forecast", {"series": [1] * 4000, **OPTIONS})
    answers = ask(small_limits, requests, Wire(KEY))
    assert len(medians(answers)) == 4
    assert isinstance(answers[2], LimitExceededError)


def test_a_proxy_that_takes_small_bodies_only_gets_small_batches(ask: Ask, service: str) -> None:
    def behave(_: int, received: Received) -> Behaviour:
        if len(received.body.get("requests", ())) > 3:
            return Reply(413, b"<html>too large", {"Content-Type": "text/html"})
        return Forward(service)

    with flaky_server(behave) as server:
        answers = ask(server.url, forecasts(10), Wire(KEY))
    assert len(medians(answers)) == 10


def test_a_batch_that_cannot_be_answered_fails_alone(ask: Ask, service: str) -> None:
    def behave(_: int, received: Received) -> Behaviour:
        first = received.body["requests"][0]["series"][0]
        return Reply(500, b"<html>", {"Content-Type": "text/html"}) if first == 5.0 else Forward(service)

    with flaky_server(behave) as server:
        answers = ask(server.url, forecasts(12), Wire(KEY, max_batch=4))
    assert [isinstance(answer, UnexpectedAnswerError) for answer in answers] == [False] * 4 + [True] * 4 + [False] * 4


def test_a_batch_whose_answer_gets_lost_is_asked_again(ask: Ask, service: str) -> None:
    behaviours = script(Broken(service), Reply(429, problem(429, "queue_full"), {"Retry-After": "3"}), Forward(service))
    with flaky_server(behaviours) as server:
        answers = ask(server.url, forecasts(3), Wire(KEY))
    assert len(medians(answers)) == 3
    assert len(server.received) == 3


@pytest.mark.parametrize("path", ["/anomalies", "/forecast"])
def test_a_bounded_number_of_requests_runs_at_once(ask: Ask, path: str) -> None:
    together = threading.Barrier(MAX_CONCURRENT)  # they are answered when so many are there

    def behave(_: int, received: Received) -> Behaviour:
        together.wait(30)
        return Reply(body={"results": [{}]} if received.path == "/forecast/batch" else {})

    # Of different options, so that they are no batch.
    requests = [Request(path, {"series": [1.0, 2.0], "horizon": 1 + i}) for i in range(3 * MAX_CONCURRENT)]
    with flaky_server(behave) as server:
        answers = ask(server.url, requests, Wire())
    assert all(isinstance(answer, Response) for answer in answers)
    assert server.most_at_once == MAX_CONCURRENT


@pytest.mark.parametrize("code", ["unauthorized", "queue_full"])
def test_an_error_that_all_batches_would_have_ends_them_all(ask: Ask, code: str) -> None:
    reply = Reply(401 if code == "unauthorized" else 429, problem(401 if code == "unauthorized" else 429, code))
    with flaky_server(script(reply)) as server:
        answers = ask(server.url, forecasts(100), Wire(max_batch=1))
    assert {answer.code for answer in answers if isinstance(answer, CarryError)} == {code}
    assert len(answers) == 100
    assert len(server.received) <= MAX_CONCURRENT if code == "unauthorized" else len(server.received) == 100


def test_a_service_that_is_not_there_is_not_tried_for_each_batch(ask: Ask) -> None:
    with flaky_server(script(Reply())) as server:
        url = server.url
    pauses = []

    def random() -> float:
        pauses.append(0.0)
        return 0.0

    answers = ask(url, forecasts(100), Wire(max_batch=1, random=random))
    assert {answer.code for answer in answers if isinstance(answer, CarryError)} == {"unreachable"}
    assert len(answers) == 100
    assert len(pauses) <= 5 * MAX_CONCURRENT


def test_what_is_wrong_with_many_is_said_as_of_one(ask: Ask, service: str) -> None:
    for wrong in ({"horizon": "x"}, {"series": 3}, {"levels": [200]}, {"series": {"y": [1.0], "x": [2.0]}}):
        request = Request("/forecast", {"series": [1.0, 2.0], "horizon": 2, **wrong})
        [alone] = ask(service, [request], Wire(KEY))
        assert isinstance(alone, CarryError)
        for answer in ask(service, [request] * 3, Wire(KEY)):
            assert isinstance(answer, CarryError)
            assert (type(answer), answer.code, answer.path) == (type(alone), alone.code, alone.path)


def test_no_request_has_no_answer(ask: Ask, service: str) -> None:
    assert ask(service, [], Wire(KEY)) == []


def test_a_batch_has_a_bounded_number_of_values() -> None:
    long = [Request("/forecast", {"series": [1.0] * 50_000, **OPTIONS}) for _ in range(10)]
    short = forecasts(MAX_BATCH + 1)
    assert [len(group) for group, _ in Wire().exchanges(long)] == [3, 3, 3, 1]
    assert [len(group) for group, _ in Wire().exchanges(short)] == [MAX_BATCH, 1]
