"""The calls of the interface to a service: `Client`, `AsyncClient` and their sessions. What a call asks is
carry/calls.py's, how it travels carry/transport.py's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal, Self, Unpack, overload

from carry import calls
from carry.answers import Accuracy, Anomalies, Classification, Forecast, Generation, Prediction
from carry.calls import (
    AnomalyOptions,
    BacktestOptions,
    ClassifyOptions,
    Data,
    ForecastOptions,
    GenerateOptions,
    PredictOptions,
    SessionCalls,
)
from carry.exchange import MAX_RETRIES, TIMEOUT, Wire
from carry.interface import Interface, Session, SessionFacts
from carry.transport import AsyncEvents, AsyncHttp, Http


class AsyncTextStream(AsyncIterator[str]):
    """The text of a generation in pieces, as the service writes it. `aclose`, the end of an `async with` block and
    cancelling the task that reads it close the connection, and the service stops."""

    def __init__(self, events: AsyncEvents, session: SessionCalls | None = None) -> None:
        """session: moves to the end of the text."""
        self._events = events
        self._session = session

    async def __anext__(self) -> str:
        """The next piece.

        Raises:
            CarryError: the text breaks off; what came before is all there is.
        """
        async for event in self._events:
            if self._session is not None:
                self._session.end(event)
            if text := calls.text_of(event):
                return text
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Client(Interface):
    """A service of Carry, at an address such as http://localhost:8000. Threads may share it. Close it when done, or use
    it as a context manager.

    A request that fails on the way is sent again: when the connection breaks, after 429 and 503, after a proxy's 502
    and 504; later each time, and not before the service's `Retry-After`. One that changes a session has one idempotency
    key for all its repetitions, so that it changes the session once. Many series travel in batches that the service
    takes, a few at once.

    A session sends its version with each call: if another caller has changed it meanwhile, the call changes nothing and
    raises a `VersionMismatchError`; `attach` finds it as it is then. After an `UnreachableError`, too, it may have
    changed.

    Every call raises a `CarryError` (carry.errors) with `code`, `status`, `path` and `request_id`.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        max_retries: int = MAX_RETRIES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """api_key: one of the service's API keys, if it has some. timeout: seconds for each request, with all its
        repetitions. clock, sleep: for tests.

        Raises:
            ValueError: the url is no address.
        """
        self._http = Http(url, Wire(api_key, timeout, max_retries, clock), sleep)
        super().__init__(self._http)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, id: str) -> Session:
        """The session with this id, such as one that another process has begun.

        Raises:
            CarryError: there is none, or the service cannot be reached.
        """
        return Session(self._http, self._http.run(SessionCalls.attach(id)))

    def close(self) -> None:
        """Close the connections. Sessions stay in the service."""
        self._http.close()


class AsyncClient:
    """As `Client`, for asyncio: `await client.forecast(...)`; use it in an `async with` block, or await `close`."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        max_retries: int = MAX_RETRIES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """api_key: one of the service's API keys, if it has some. timeout: seconds for each request, with all its
        repetitions. clock, sleep: for tests.

        Raises:
            ValueError: the url is no address.
        """
        self._http = AsyncHttp(url, Wire(api_key, timeout, max_retries, clock), sleep)

    async def forecast(
        self, data: Data, horizon: int = 12, *, model: str | None = None, **options: Unpack[ForecastOptions]
    ) -> Any:
        """As `Interface.forecast`."""
        return await self._http.run(calls.forecast(data, horizon, model=model, **options))

    async def anomalies(self, data: Data, *, model: str | None = None, **options: Unpack[AnomalyOptions]) -> Any:
        """As `Interface.anomalies`."""
        return await self._http.run(calls.anomalies(data, model=model, **options))

    async def backtest(
        self,
        data: Data,
        horizon: int = 12,
        windows: int = 1,
        *,
        model: str | None = None,
        **options: Unpack[BacktestOptions],
    ) -> Any:
        """As `Interface.backtest`."""
        return await self._http.run(calls.backtest(data, horizon, windows, model=model, **options))

    async def classify(self, data: Data, *, model: str | None = None, **options: Unpack[ClassifyOptions]) -> Any:
        """As `Interface.classify`."""
        return await self._http.run(calls.classify(data, model=model, **options))

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        max_length: int = 200,
        *,
        model: str | None = None,
        stream: Literal[False] = False,
        **options: Unpack[GenerateOptions],
    ) -> Generation: ...

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        max_length: int = 200,
        *,
        model: str | None = None,
        stream: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> AsyncTextStream: ...

    async def generate(
        self,
        prompt: str | None = None,
        max_length: int = 200,
        *,
        model: str | None = None,
        stream: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Generation | AsyncTextStream:
        """As `Interface.generate`."""
        if stream:
            request = calls.generate_request(prompt, max_length, model=model, stream=True, **options)
            return AsyncTextStream(await self._http.stream(request))
        return await self._http.run(calls.generate(prompt, max_length, model=model, **options))

    async def predict(
        self, text: str, top_k: int = 5, *, model: str | None = None, **options: Unpack[PredictOptions]
    ) -> Prediction:
        """As `Interface.predict`."""
        return await self._http.run(calls.predict(text, top_k, model=model, **options))

    async def session(
        self,
        first: Any = None,
        *,
        model: str | None = None,
        freq: str | None = None,
        season_length: int | Sequence[int] | None = None,
        state: str | None = None,
    ) -> "AsyncSession":
        """As `Interface.session`."""
        create = SessionCalls.create(first, model=model, freq=freq, season_length=season_length, state=state)
        return AsyncSession(self._http, await self._http.run(create))

    async def attach(self, id: str) -> "AsyncSession":
        """As `Client.attach`."""
        return AsyncSession(self._http, await self._http.run(SessionCalls.attach(id)))

    async def close(self) -> None:
        """As `Client.close`."""
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncSession(SessionFacts):
    """As `Session`, for asyncio. The end of an `async with` block deletes it."""

    def __init__(self, http: AsyncHttp, session: SessionCalls) -> None:
        super().__init__(session)
        self._http = http

    async def observe(self, new: Any) -> None:
        """As `Session.observe`."""
        await self._http.run(self._calls.observe(new))

    async def anomalies(self, new: Any, level: float | None = None) -> Anomalies:
        """As `Session.anomalies`."""
        return await self._http.run(self._calls.anomalies(new, level))

    async def forecast(
        self, horizon: int = 12, *, levels: Sequence[float] | None = None, quantiles: Sequence[float] | None = None
    ) -> Forecast:
        """As `Session.forecast`."""
        return await self._http.run(self._calls.forecast(horizon, levels=levels, quantiles=quantiles))

    async def classify(self, new: Any, top_k: int | None = None) -> Classification:
        """As `Session.classify`."""
        return await self._http.run(self._calls.classify(new, top_k))

    async def accuracy(self) -> Accuracy | None:
        """As `Session.accuracy`."""
        return await self._http.run(self._calls.accuracy())

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        max_length: int = 200,
        *,
        stream: Literal[False] = False,
        **options: Unpack[GenerateOptions],
    ) -> Generation: ...

    @overload
    async def generate(
        self,
        prompt: str | None = None,
        max_length: int = 200,
        *,
        stream: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> AsyncTextStream: ...

    async def generate(
        self,
        prompt: str | None = None,
        max_length: int = 200,
        *,
        stream: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Generation | AsyncTextStream:
        """As `Session.generate`."""
        if stream:
            request = self._calls.generate_request(prompt, max_length, stream=True, **options)
            return AsyncTextStream(await self._http.stream(request), self._calls)
        return await self._http.run(self._calls.generate(prompt, max_length, **options))

    async def fork(self) -> "AsyncSession":
        """As `Session.fork`."""
        return AsyncSession(self._http, await self._http.run(self._calls.fork()))

    async def rewind(self, steps: int = 1) -> None:
        """As `Session.rewind`."""
        await self._http.run(self._calls.rewind(steps))

    async def export(self) -> str:
        """As `Session.export`."""
        return await self._http.run(self._calls.export())

    async def restore(self, state: str) -> None:
        """As `Session.restore`."""
        await self._http.run(self._calls.restore(state))

    async def close(self) -> None:
        """As `Session.close`."""
        await self._http.run(self._calls.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
