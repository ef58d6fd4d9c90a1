"""Calls about texts, answered in this process."""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import orjson

from carry.calls import Request, Response
from carry.local import Finish, LocalPlace, read_body
from carry.local_sessions import Start
from service.engine.sequence import SequenceState
from service.text.answers import logprob_dicts
from service.text.prepare import (
    PreparedGeneration,
    PreparedPrediction,
    check_generate,
    check_positions,
    check_predict,
    read_texts,
    texts_of_generate,
    texts_of_predict,
)
from service.text.schemas import GenerateBody, PredictBody
from service.text.streaming import UnsentText


def generate(place: LocalPlace, request: Request) -> Finish:
    """As `POST /generate`."""
    body = read_body(GenerateBody, request)
    start = place.start(request)
    prepared = _prepare(place, body, start)
    pending = prepared.model.engine.submit(prepared.task, prepared.steps)

    def finish() -> Response:
        after = pending.result()
        answer = prepared.answer(prepared.choices(body.logprobs))
        return Response(_from_json(answer | place.end(start, after)))

    return finish


def predict(place: LocalPlace, request: Request) -> Finish:
    """As `POST /predict`."""
    body = read_body(PredictBody, request)
    start, model = place.start(request), place.model
    check_predict(body, place.settings)
    check_positions(body, model, place.settings)
    texts = read_texts(model.manifest.tokenizer, texts_of_predict(body), body.unknown)
    prepared = PreparedPrediction(body, model, start.state, texts)
    pending = model.engine.submit(prepared.task, prepared.steps)

    def finish() -> Response:
        scored = pending.result()
        answer = prepared.answer(scored, prepared.predictions(scored))
        return Response(_from_json(answer | place.end(start, scored.after)))

    return finish


ROUTES = {"generate": generate, "predict": predict}


class LocalEvents(Iterator[dict[str, Any]]):
    """The events of a stream. Closing them stops the model, and so does leaving them unread."""

    def __init__(self, events: Generator[dict[str, Any], None, None], pending: "Future[SequenceState]") -> None:
        self._events = events
        self._pending = pending

    def __next__(self) -> dict[str, Any]:
        return next(self._events)

    def close(self) -> None:
        """Stop."""
        self._pending.cancel()
        self._events.close()

    def __del__(self) -> None:
        self._pending.cancel()


def stream(place: LocalPlace, request: Request) -> LocalEvents:
    """The events of `POST /generate` with `stream`. The text is being written when this returns."""
    body = read_body(GenerateBody, request)
    start = place.start(request)
    updated = threading.Event()
    prepared = _prepare(place, body, start, lambda _: updated.set())
    pending = prepared.model.engine.submit(prepared.task, prepared.steps)
    pending.add_done_callback(lambda _: updated.set())
    return LocalEvents(_events(place, body, start, prepared, pending, updated), pending)


def _events(
    place: LocalPlace,
    body: GenerateBody,
    start: Start,
    prepared: PreparedGeneration,
    pending: "Future[SequenceState]",
    updated: threading.Event,
) -> Generator[dict[str, Any], None, None]:
    unsent = UnsentText(prepared.model.manifest.tokenizer, prepared.rows, body.logprobs)
    done = False
    while not done:
        updated.wait()
        updated.clear()
        done = pending.done()
        if done:
            pending.result()  # raises what went wrong
        for delta in unsent.deltas():
            if delta.text:
                logprobs = {"logprobs": logprob_dicts(delta.logprobs)} if body.logprobs else {}
                yield {"index": delta.index, "text": delta.text} | logprobs
    yield _from_json(prepared.summary() | place.end(start, pending.result()))


def _prepare(
    place: LocalPlace, body: GenerateBody, start: Start, listener: Callable[[Any], None] | None = None
) -> PreparedGeneration:
    check_generate(body, place.settings)
    manifest = place.model.manifest
    texts = read_texts(manifest.tokenizer, texts_of_generate(body, manifest), body.unknown)
    return PreparedGeneration(body, place.model, start.state, start.returns_state, texts, listener)


def _from_json(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as its JSON says it: parts of it are written as JSON already."""
    values: dict[str, Any] = orjson.loads(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))
    return values
