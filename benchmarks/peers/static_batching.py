"""Static batching over FastAPI: up to 32 requests are collected for up to 10 ms, generated in lockstep to the longest
and streamed; the next batch waits until the last one is done."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Generic, TypeVar

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from benchmarks.peers.interface import ForecastAnswer, ForecastBody, GenerateAnswer, GenerateBody, serve
from benchmarks.peers.onnx_models import OnnxForecast, OnnxText, TextRequest

MAX_BATCH = 32
MAX_WAIT = 0.01

text_model = OnnxText()
forecast_model = OnnxForecast()

Request = TypeVar("Request")
Piece = TypeVar("Piece")


class Batcher(Generic[Request, Piece]):
    """Collects requests, runs them together on a thread, and hands each its pieces as they come."""

    def __init__(self, run: Callable[[list[Request]], Iterable[list[Piece]]]) -> None:
        self._run = run
        self._waiting: asyncio.Queue[tuple[Request, asyncio.Queue[Piece | None]]] = asyncio.Queue()

    async def submit(self, request: Request) -> AsyncIterator[Piece]:
        """The pieces of the answer to one request."""
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._waiting.put_nowait((request, pieces))
        while (piece := await pieces.get()) is not None:
            yield piece

    async def work(self) -> None:
        """One batch after the other, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MAX_WAIT):
                    while len(batch) < MAX_BATCH:
                        batch.append(await self._waiting.get())
            queues = [queue for _, queue in batch]
            try:
                await asyncio.to_thread(self._step_through, loop, [request for request, _ in batch], queues)
            except Exception:
                logging.exception("a batch failed")  # its answers end early
            for queue in queues:
                queue.put_nowait(None)

    def _step_through(
        self, loop: asyncio.AbstractEventLoop, requests: list[Request], queues: list[asyncio.Queue[Piece | None]]
    ) -> None:
        for pieces in self._run(requests):
            loop.call_soon_threadsafe(_hand_out, queues, pieces)


def _hand_out(queues: list[asyncio.Queue[Piece | None]], pieces: list[Piece]) -> None:
    for queue, piece in zip(queues, pieces, strict=True):
        queue.put_nowait(piece)


def run_texts(requests: list[TextRequest]) -> Iterator[list[str]]:
    """A character of each at a time."""
    return text_model.generate(requests)


def run_forecasts(requests: list[ForecastBody]) -> Iterator[list[dict[str, list[float]]]]:
    """All in one call."""
    yield forecast_model.forecast([request.series for request in requests], requests[0].horizon)


texts = Batcher(run_texts)
forecasts = Batcher(run_forecasts)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The two workers live as long as the app."""
    workers = [asyncio.create_task(texts.work()), asyncio.create_task(forecasts.work())]
    yield
    for worker in workers:
        worker.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/generate", response_model=None)
async def generate(body: GenerateBody) -> GenerateAnswer | StreamingResponse:
    """A text, whole or streamed."""
    characters = texts.submit(TextRequest(body.prompt, body.max_length, body.temperature, body.seed))
    if body.stream:
        return StreamingResponse(_events(characters), media_type="text/event-stream")
    return GenerateAnswer(text="".join([character async for character in characters]))


async def _events(characters: AsyncIterator[str]) -> AsyncIterator[str]:
    async for character in characters:
        if character:
            yield f"data: {json.dumps({'text': character})}\n\n"
    yield 'data: {"text":"","finish_reason":"length"}\n\n'


@app.post("/forecast")
async def forecast(body: ForecastBody) -> ForecastAnswer:
    """The quantiles after the last value."""
    [quantiles] = [piece async for piece in forecasts.submit(body)]
    return ForecastAnswer(quantiles=quantiles)


if __name__ == "__main__":
    serve(app)
