"""Sessions through the client: each call changes its session once, however often it must be sent."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from carry.client import AsyncClient, Client
from carry.errors import SessionNotFoundError, UnauthorizedError, VersionMismatchError
from carry.interface import Session
from tests.carry.driving import Time
from tests.carry.flaky_server import Behaviour, Broken, Forward, Received, Reply, flaky_server
from tests.served import KEY, served

SERIES = [3.0, 4.0, 6.0, 5.0, 7.0, 8.0]


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[str]:
    """A service with small models."""
    with served(models) as url:
        yield url


@pytest.fixture
def direct(service: str) -> Iterator[Client]:
    """A client of the service."""
    with Client(service, KEY) as client:
        yield client


def live(service: str) -> int:
    """How many sessions there are."""
    answer = httpx.get(f"{service}/sessions?limit=1000", headers={"Authorization": f"Bearer {KEY}"})
    return len(answer.json()["sessions"])


def losing(service: str) -> Callable[[int, Received], Behaviour]:
    """Runs each request, and loses its answer twice: by a reset, then as a proxy whose server takes too long."""

    def behave(number: int, _: Received) -> Behaviour:
        if number % 3 == 0:
            return Broken(service)
        if number % 3 == 1:
            return Reply(504, b"<html>", {"Content-Type": "text/html"})
        return Forward(service)

    return behave


MOVES: dict[str, tuple[Callable[[Session], object], int]] = {
    "observe": (lambda session: session.observe(9.0), 7),
    "observe several": (lambda session: session.observe([9.0, None, 10.0]), 9),
    "anomalies": (lambda session: session.anomalies(9.0), 7),
    "restore": (lambda session: session.restore(session.export()), 6),
}
"""Calls that change a session, and its position afterwards, from position 6."""


@pytest.mark.parametrize("move", MOVES)
def test_a_call_whose_answers_get_lost_moves_its_session_once(service: str, direct: Client, move: str) -> None:
    time, (call, position) = Time(), MOVES[move]
    begun = direct.session(SERIES)
    with flaky_server(losing(service)) as server, Client(server.url, KEY, clock=time.clock, sleep=time.sleep) as lossy:
        session = lossy.attach(begun.id)
        call(session)
        assert (session.version, session.position) == (1, position)
        now = direct.attach(begun.id)
        assert (now.version, now.position) == (1, position)
        session.rewind()
        assert (session.version, session.position) == (2, 6)
        now = direct.attach(begun.id)
        assert (now.version, now.position) == (2, 6)


def test_a_text_whose_answer_gets_lost_is_the_same_the_next_time(service: str, direct: Client) -> None:
    time = Time()
    with flaky_server(losing(service)) as server, Client(server.url, KEY, clock=time.clock, sleep=time.sleep) as lossy:
        session = lossy.session("ab", model="text")
        text = session.generate(max_length=10).text + session.generate(max_length=10).text
        now = direct.attach(session.id)
        assert (now.version, now.position) == (2, 2 + len(text)) == (session.version, session.position)
        keys = [received.headers.get("idempotency-key") for received in server.received]
    # Three attempts each, of the session and of two texts: the service has written two texts.
    assert [keys.count(key) for key in dict.fromkeys(keys)] == [3, 3, 3]


def test_a_session_that_is_created_forked_and_deleted_over_a_bad_line_is_one(service: str) -> None:
    time, before = Time(), live(service)
    with flaky_server(losing(service)) as server, Client(server.url, KEY, clock=time.clock, sleep=time.sleep) as lossy:
        with lossy.session(SERIES) as session:
            assert live(service) == before + 1
            with session.fork() as fork:
                assert live(service) == before + 2
                fork.observe(9.0)
            assert live(service) == before + 1
            assert session.position == 6
        assert live(service) == before


def test_a_call_to_a_session_that_another_caller_has_changed_changes_nothing(direct: Client) -> None:
    session = direct.session(SERIES)
    other = direct.attach(session.id)
    other.observe(9.0)
    with pytest.raises(VersionMismatchError) as refused:
        session.observe(10.0)
    assert (refused.value.code, refused.value.status, refused.value.path) == ("version_mismatch", 412, "If-Match")
    assert direct.attach(session.id).position == 7
    with pytest.raises(VersionMismatchError):
        session.forecast(2)
    other.observe(10.0)
    assert direct.attach(session.id).position == 8


def test_a_session_goes_on_as_the_whole_series_does(direct: Client) -> None:
    with direct.session(SERIES[:2]) as session:
        session.observe(SERIES[2])
        session.observe(SERIES[3:])
        pieces = session.forecast(3, levels=[80])
    whole = direct.forecast(SERIES, 3, levels=[80])
    assert pieces.median == pytest.approx(whole.median, rel=1e-5)
    assert pieces.quantiles[0.1] == pytest.approx(whole.quantiles[0.1], rel=1e-5)


def test_an_exported_session_goes_on_elsewhere(direct: Client) -> None:
    with direct.session(SERIES) as session, direct.session(state=session.export()) as copy:
        assert copy.id != session.id
        assert (copy.forecast(3).median == session.forecast(3).median).all()


def test_a_session_is_deleted_at_the_end_of_its_block(direct: Client) -> None:
    with direct.session(SERIES) as session:
        pass
    with pytest.raises(SessionNotFoundError):
        direct.attach(session.id)


def test_a_wrong_key_is_refused(service: str) -> None:
    with Client(service, "another-key-of-this-test") as client, pytest.raises(UnauthorizedError) as refused:
        client.session(SERIES)
    assert refused.value.status == 401


def test_an_asynchronous_session_does_as_a_synchronous_one(service: str, direct: Client) -> None:
    time = Time()

    async def run(url: str) -> list[object]:
        async with (
            AsyncClient(url, KEY, clock=time.clock, sleep=time.sleep_async) as client,
            await client.session(SERIES) as session,
        ):
            await session.observe(9.0)
            fork = await session.fork()
            await session.observe([10.0, 11.0])
            await session.rewind(2)
            copy = await client.session(state=await session.export())
            await fork.restore(await session.export())
            forecasts = [(await each.forecast(2)).median.tolist() for each in (session, fork, copy)]
            attached = await client.attach(session.id)
            assert await session.accuracy() == await copy.accuracy()
            await fork.close()
            await copy.close()
            return [*forecasts, attached.version, session.position, session.model, fork.version]

    before = live(service)
    with flaky_server(losing(service)) as server:
        *forecasts, version, position, model, restored = asyncio.run(run(server.url))
    assert live(service) == before
    with direct.session(SERIES) as session:
        assert forecasts == [session.forecast(2).median.tolist()] * 3
        assert (version, position, model, restored) == (3, 6, session.model, 1)
