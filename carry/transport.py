"""Sends, receives and sleeps with httpx, synchronously and asynchronously. What to send and when to send it again is
carry/exchange.py's. Knows no call of the interface.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from typing import Any, TypeVar

import httpx

from carry.calls import Call, Request, Response
from carry.errors import CarryError, DeadlineExceededError, UnreachableError
from carry.exchange import MAX_CONCURRENT, Answer, EventReader, Exchange, Failure, Send, Wait, Wire

T = TypeVar("T")


class Http:
    """Runs the calls of a synchronous client. sleep: waits so many seconds."""

    def __init__(self, url: str, wire: Wire, sleep: Callable[[float], None] = time.sleep) -> None:
        self._http = httpx.Client(**_options(url))
        self._wire = wire
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def run(self, call: Call[T]) -> T:
        """The result of a call.

        Raises:
            CarryError: the call fails.
        """
        try:
            requests = next(call)
            while True:
                requests = call.send(self.answer(requests))
        except StopIteration as result:
            value: T = result.value
            return value

    def answer(self, requests: Sequence[Request]) -> list[Response | CarryError]:
        """The answers to independent requests, of which at most `MAX_CONCURRENT` run at once."""
        exchanges = self._wire.exchanges(requests)
        if len(exchanges) == 1:
            results = [self._run(exchanges[0][1])]
        else:
            with ThreadPoolExecutor(min(MAX_CONCURRENT, max(1, len(exchanges)))) as pool:
                results = list(pool.map(self._run, [exchange for _, exchange in exchanges]))
        return _in_order(len(requests), [group for group, _ in exchanges], results)

    def stream(self, request: Request) -> "Events":
        """The events of a stream, which has begun when this returns.

        Raises:
            CarryError: the service refuses the request.
        """
        exchange = self._wire.exchange(request, stream=True)
        outcome: Answer | Failure | None = None
        response: httpx.Response | None = None
        try:
            while True:
                outcome, response = self._step(exchange.send(outcome))
        except StopIteration:
            assert response is not None
            return Events(response)
        except CarryError:
            if response is not None:  # it is no stream of events
                response.close()
            raise

    def _run(self, exchange: Exchange[T]) -> T:
        outcome: Answer | Failure | None = None
        try:
            while True:
                outcome, _ = self._step(exchange.send(outcome))
        except StopIteration as result:
            value: T = result.value
            return value

    def _step(self, step: Send | Wait) -> tuple[Answer | Failure | None, httpx.Response | None]:
        """Send or wait. The answer or failure, and the response if it is a stream that has begun."""
        if isinstance(step, Wait):
            self._sleep(step.seconds)
            return None, None
        deadline = self._wire.clock() + step.timeout
        try:
            response = self._http.send(_request(self._http, step), stream=True)
            if step.stream and response.is_success:
                return Answer(response.status_code, _headers(response), b""), response
            with closing(response):
                content = bytearray()
                for piece in response.iter_bytes():
                    content += piece
                    if self._wire.clock() > deadline:
                        return _SLOW, None
                return Answer(response.status_code, _headers(response), bytes(content)), None
        except httpx.RequestError as error:
            return _failure(error), None


class AsyncHttp:
    """Runs the calls of an asynchronous client. sleep: waits so many seconds."""

    def __init__(self, url: str, wire: Wire, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._http = httpx.AsyncClient(**_options(url))
        self._wire = wire
        self._sleep = sleep

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, call: Call[T]) -> T:
        """As `Http.run`."""
        try:
            requests = next(call)
            while True:
                requests = call.send(await self.answer(requests))
        except StopIteration as result:
            value: T = result.value
            return value

    async def answer(self, requests: Sequence[Request]) -> list[Response | CarryError]:
        """As `Http.answer`."""
        exchanges = self._wire.exchanges(requests)
        free = asyncio.Semaphore(MAX_CONCURRENT)

        async def run(exchange: Exchange[T]) -> T:
            async with free:
                return await self._run(exchange)

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(run(exchange)) for _, exchange in exchanges]
        return _in_order(len(requests), [group for group, _ in exchanges], [task.result() for task in running])

    async def stream(self, request: Request) -> "AsyncEvents":
        """As `Http.stream`."""
        exchange = self._wire.exchange(request, stream=True)
        outcome: Answer | Failure | None = None
        response: httpx.Response | None = None
        try:
            while True:
                outcome, response = await self._step(exchange.send(outcome))
        except StopIteration:
            assert response is not None
            return AsyncEvents(response)
        except CarryError:
            if response is not None:
                await response.aclose()
            raise

    async def _run(self, exchange: Exchange[T]) -> T:
        outcome: Answer | Failure | None = None
        try:
            while True:
                outcome, _ = await self._step(exchange.send(outcome))
        except StopIteration as result:
            value: T = result.value
            return value

    async def _step(self, step: Send | Wait) -> tuple[Answer | Failure | None, httpx.Response | None]:
        """As `Http._step`."""
        if isinstance(step, Wait):
            await self._sleep(step.seconds)
            return None, None
        deadline = self._wire.clock() + step.timeout
        try:
            response = await self._http.send(_request(self._http, step), stream=True)
            if step.stream and response.is_success:
                return Answer(response.status_code, _headers(response), b""), response
            async with aclosing(response):
                content = bytearray()
                async for piece in response.aiter_bytes():
                    content += piece
                    if self._wire.clock() > deadline:
                        return _SLOW, None
                return Answer(response.status_code, _headers(response), bytes(content)), None
        except httpx.RequestError as error:
            return _failure(error), None


class Events(Iterator[dict[str, Any]]):
    """The events of a stream. Closing them closes the connection, and the service stops."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._events = _events(response)

    def __next__(self) -> dict[str, Any]:
        """The next event.

        Raises:
            CarryError: the service ends the stream with an error, or the connection breaks.
        """
        return next(self._events)

    def close(self) -> None:
        """Close the connection."""
        self._events.close()
        self._response.close()

    def __del__(self) -> None:
        self.close()


class AsyncEvents(AsyncIterator[dict[str, Any]]):
    """As `Events`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._events = _async_events(response)

    async def __anext__(self) -> dict[str, Any]:
        """As `Events.__next__`."""
        return await anext(self._events)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._events.aclose()
        await self._response.aclose()


def _events(response: httpx.Response) -> Generator[dict[str, Any], None, None]:
    """The events of a response. It knows no `Events`, or these would be freed late, and the connection closed late."""
    reader = EventReader()
    with closing(response):
        try:
            for piece in response.iter_bytes():
                yield from reader.feed(piece)
        except httpx.RequestError as error:
            raise _broken(error) from error
    reader.check_complete()


async def _async_events(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    reader = EventReader()
    async with aclosing(response):
        try:
            async for piece in response.aiter_bytes():
                for event in reader.feed(piece):
                    yield event
        except httpx.RequestError as error:
            raise _broken(error) from error
    reader.check_complete()


_SLOW = Failure("the answer was not complete in time", sent=True)


def _options(url: str) -> dict[str, Any]:
    """The options of an HTTP client of the service at this address.

    Raises:
        ValueError: it is no address.
    """
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"url: {url!r} is no address: {error}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ValueError(f"url: must begin with http:// or https:// and a host, and is {url!r}")
    # Reading the certificates takes longer than all else here, and a plain connection uses none.
    return {"base_url": address, "headers": {"User-Agent": "carry"}, "verify": address.scheme == "https"}


def _request(http: httpx.Client | httpx.AsyncClient, send: Send) -> httpx.Request:
    timeout = httpx.Timeout(send.timeout, connect=send.connect)
    return http.build_request(send.method, send.path, headers=dict(send.headers), content=send.content, timeout=timeout)


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _failure(error: httpx.RequestError) -> Failure:
    sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    final = not isinstance(error, httpx.TransportError) or isinstance(
        error, httpx.LocalProtocolError | httpx.UnsupportedProtocol
    )
    return Failure(_reason(error), sent, final)


def _broken(error: httpx.RequestError) -> CarryError:
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceededError("the text was not complete in time")
    return UnreachableError(f"the connection broke before the text was complete: {_reason(error)}")


def _reason(error: httpx.RequestError) -> str:
    """What happened, and where. Some of httpx's exceptions have no text."""
    return f"{type(error).__name__} at {error.request.url}" + (f": {error}" if str(error) else "")


def _in_order(
    count: int, groups: Sequence[Sequence[int]], results: Sequence[Sequence[Response | CarryError]]
) -> list[Response | CarryError]:
    """The answers in the order of the requests."""
    by_index = {
        i: answer
        for group, answers in zip(groups, results, strict=True)
        for i, answer in zip(group, answers, strict=True)
    }
    return [by_index[i] for i in range(count)]
