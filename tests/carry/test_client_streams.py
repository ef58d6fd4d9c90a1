"""Texts that come as the service writes them, through the client."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from carry.client import AsyncClient, Client
from carry.errors import LimitExceededError, NonFiniteOutputError, UnexpectedAnswerError, UnreachableError
from carry.exchange import EventReader
from tests.carry.driving import Time, script
from tests.carry.flaky_server import Broken, Forward, Reply, Stream, flaky_server, problem
from tests.served import KEY, served

PIECES = [b'data: {"index":0,"text":"It "}\n\n', b'data: {"index":0,"text":"was"}\n\n']
END = b'data: {"finish_reason":"length","seed":1,"session":null}\n\n'


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[str]:
    """A service with small models."""
    with served(models) as url:
        yield url


def client(url: str, time: Time | None = None) -> Client:
    """A client whose clock moves when it sleeps."""
    time = time or Time()
    return Client(url, KEY, clock=time.clock, sleep=time.sleep)


def async_client(url: str) -> AsyncClient:
    """As `client`."""
    time = Time()
    return AsyncClient(url, KEY, clock=time.clock, sleep=time.sleep_async)


def test_a_streamed_text_is_the_whole_text(service: str) -> None:
    with client(service) as carry:
        whole = carry.generate("ab", 50, seed=3)
        pieces = [*carry.generate("ab", 50, seed=3, stream=True)]
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1


def test_an_asynchronous_stream_is_the_whole_text(service: str) -> None:
    async def texts() -> tuple[str, str]:
        async with async_client(service) as carry:
            whole = await carry.generate("ab", 50, seed=3)
            stream = await carry.generate("ab", 50, seed=3, stream=True)
            return whole.text, "".join([piece async for piece in stream])

    whole, streamed = asyncio.run(texts())
    assert streamed == whole


def test_a_refused_stream_raises_at_once(service: str) -> None:
    with client(service) as carry, pytest.raises(LimitExceededError) as refused:
        carry.generate("ab", 10**8, stream=True)
    assert refused.value.path == "$.max_length"


def test_a_session_moves_to_the_end_of_a_streamed_text(service: str) -> None:
    with client(service) as carry, carry.session("ab", model="text") as session:
        text = "".join(session.generate(max_length=20, seed=1, stream=True))
        assert (session.version, session.position) == (1, 2 + len(text))
        session.observe("c")
        assert session.version == 2


def test_a_session_stays_where_it_is_if_its_stream_is_closed(service: str) -> None:
    with client(service) as carry, carry.session("ab", model="text") as session:
        for _ in session.generate(max_length=5000, seed=1, stream=True):
            break
        session.observe("c")  # the service would refuse it if the session had moved
        assert (session.version, session.position) == (1, 3)


def test_an_asynchronous_session_moves_to_the_end_of_a_streamed_text(service: str) -> None:
    async def run() -> tuple[int, int]:
        async with async_client(service) as carry, await carry.session("ab", model="text") as session:
            stream = await session.generate(max_length=20, seed=1, stream=True)
            text = "".join([piece async for piece in stream])
            return session.version, session.position - len(text)

    assert asyncio.run(run()) == (1, 2)


@pytest.mark.parametrize("read", [0, 1], ids=["before the first piece", "after it"])
def test_closing_a_stream_closes_the_connection(read: int) -> None:
    closed = threading.Event()
    with flaky_server(script(Stream(PIECES, closed=closed))) as server, client(server.url) as carry:
        stream = carry.generate("x", stream=True)
        texts = [next(stream) for _ in range(read)]
        del stream
        assert closed.wait(30)
    assert texts == ["It "][:read]


def test_leaving_the_block_of_an_asynchronous_stream_closes_the_connection() -> None:
    closed = threading.Event()

    async def run(url: str) -> None:
        async with async_client(url) as carry:
            async with await carry.generate("x", stream=True) as stream:
                assert await anext(stream) == "It "
            assert await asyncio.to_thread(closed.wait, 30)

    with flaky_server(script(Stream(PIECES, closed=closed))) as server:
        asyncio.run(run(server.url))


def test_cancelling_the_task_that_reads_closes_the_connection() -> None:
    closed, begun = threading.Event(), threading.Event()

    async def read(carry: AsyncClient) -> None:
        async for _ in await carry.generate("x", stream=True):
            begun.set()

    async def run(url: str) -> None:
        async with async_client(url) as carry:
            task = asyncio.create_task(read(carry))
            assert await asyncio.to_thread(begun.wait, 30)
            task.cancel()
            assert await asyncio.to_thread(closed.wait, 30)
            with pytest.raises(asyncio.CancelledError):
                await task

    with flaky_server(script(Stream(PIECES, closed=closed))) as server:
        asyncio.run(run(server.url))


def test_a_stream_that_breaks_is_not_begun_again() -> None:
    with (
        flaky_server(script(Stream(PIECES, broken=True))) as server,
        client(server.url) as carry,
        pytest.raises(UnreachableError, match="broke before the text was complete"),
    ):
        [*carry.generate("x", stream=True)]
    assert len(server.received) == 1


def test_a_stream_that_ends_too_early_is_an_error() -> None:
    with flaky_server(script(Stream(PIECES))) as server, client(server.url) as carry:
        stream = carry.generate("x", stream=True)
        assert [next(stream), next(stream)] == ["It ", "was"]
        with pytest.raises(UnreachableError, match="the answer ended before the text was complete"):
            next(stream)


def test_an_error_in_a_stream_is_raised_after_the_text_before_it() -> None:
    failure = b"event: error\ndata: " + problem(422, "not_predictable") + b"\n\n"
    with flaky_server(script(Stream([PIECES[0], failure]))) as server, client(server.url) as carry:
        stream = carry.generate("x", stream=True)
        assert next(stream) == "It "
        with pytest.raises(NonFiniteOutputError) as failed:
            next(stream)
    assert failed.value.request_id == "r1"


def test_a_stream_that_has_not_begun_is_asked_for_again() -> None:
    behaviours = script(Broken(), Reply(503, problem(503, "busy"), {"Retry-After": "2"}), Stream([*PIECES, END]))
    time = Time()
    with flaky_server(behaviours) as server, client(server.url, time) as carry:
        assert "".join(carry.generate("x", stream=True)) == "It was"
    assert len(server.received) == 3
    assert sum(time.slept) >= 2


def test_a_stream_of_a_session_keeps_its_key_over_repetitions(service: str) -> None:
    behaviours = script(Forward(service), Broken(), Broken(service), Forward(service))
    with flaky_server(behaviours) as server, client(server.url) as carry:
        session = carry.session("ab", model="text")
        text = "".join(session.generate(max_length=5, stream=True))
    keys = [received.headers["idempotency-key"] for received in server.received]
    assert len(keys) == 4
    assert len({*keys[1:]}) == 1 < len({*keys})
    # The third time, the service had run the call already: it sends the same events again.
    assert (session.version, session.position) == (1, 2 + len(text))


def test_what_is_no_stream_is_an_error_that_shows_it() -> None:
    page = Reply(200, b"<html>log in", {"Content-Type": "text/html"})
    with (
        flaky_server(script(page)) as server,
        client(server.url) as carry,
        pytest.raises(UnexpectedAnswerError, match="status 200"),
    ):
        carry.generate("x", stream=True)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_may_be_cut_anywhere(size: int) -> None:
    stream = b": a comment\r\n\r\n" + PIECES[0].replace(b"\n", b"\r\n") + PIECES[1] + END
    reader, texts = EventReader(), []
    for at in range(0, len(stream), size):
        texts += [event.get("text") for event in reader.feed(stream[at : at + size])]
    reader.check_complete()
    assert texts == ["It ", "was", None]
