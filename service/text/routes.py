"""POST /generate and POST /predict."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.http.context import WRITE_HEADERS, Context, RequestContext
from service.http.json_route import JsonRoute, to_json
from service.http.offload import INLINE_CHARACTERS, offload_if_large
from service.http.problems import documented, problem_of
from service.http.replies import Reply, stateful
from service.http.stateful import ResumedSequence, resume
from service.http.streaming import EventStream, as_carry_error, sse_event
from service.metrics import StreamedSteps
from service.sessions.sessions import ReplayedError
from service.text.answers import INLINE_ITEMS, logprob_dicts
from service.text.decoder import Listener
from service.text.kind import TEXT
from service.text.manifest import TextManifest
from service.text.prepare import (
    PreparedGeneration,
    PreparedPrediction,
    Texts,
    check_generate,
    check_positions,
    check_predict,
    read_texts,
    texts_of_generate,
    texts_of_predict,
)
from service.text.schemas import GenerateAnswer, GenerateBody, PredictAnswer, PredictBody
from service.text.streaming import STREAM, stream_updates
from service.tokenizer import Tokenizer

router = APIRouter(tags=["text"], route_class=JsonRoute)

GENERATE_EXAMPLES: dict[str, Example] = {
    "sampled": {
        "summary": "The same seed gives the same text",
        "value": {"prompt": "The old house ", "max_length": 120, "temperature": 0.7, "seed": 7},
    },
    "streamed": {
        "summary": "The text comes as it is written, in server-sent events",
        "value": {"prompt": "The old house ", "max_length": 120, "temperature": 0.7, "seed": 7, "stream": True},
    },
    "source": {
        "summary": "A model of pairs turns a source into the most probable target that a search finds",
        "value": {"model": "dates", "source": "3. Mai 2021", "beams": 4, "max_length": 20},
    },
    "greedy": {
        "summary": "The most probable character each time, with five candidates at each",
        "value": {"prompt": "She looked at ", "max_length": 20, "temperature": 0, "logprobs": 5},
    },
}
PREDICT_EXAMPLES: dict[str, Example] = {
    "next": {"summary": "What comes next", "value": {"text": "She opened the do", "top_k": 3}},
    "each": {
        "summary": "What the model expects after each character, and the bits per character",
        "value": {"text": "It was", "top_k": 2, "per_position": True},
    },
    "ranked": {
        "summary": "Which of several continuations is the most probable",
        "value": {"text": "She opened the ", "top_k": 1, "candidates": ["door", "sea", "letter"]},
    },
}


@router.post(
    "/generate",
    operation_id="generate",
    summary="Continue a text",
    response_model=GenerateAnswer,
    openapi_extra=WRITE_HEADERS,
    responses=STREAM | documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
@stateful
async def post_generate(
    body: Annotated[GenerateBody, Body(openapi_examples=GENERATE_EXAMPLES)],
    call: Context,
    request: Request,
) -> Response:
    """Continue a text, character by character, or turn a source into its target. With `stream`, the answer is
    server-sent events: `{"index","text"}` with new text, and its `logprobs` if the request asks for them; at the end
    one with `finish_reason` and `usage`, or an event `error` with a problem. A session moves to the end of the returned
    text."""
    check_generate(body, call.app.settings)
    if body.stream:
        events = _events(body, call, request)
        headers = await anext(events)  # a request that is refused gets an answer with its own status
        return EventStream(events, headers, call.deadline)
    async with resume(call, body, TEXT) as run:
        prepared = await _prepare_generation(body, run)
        after = await run.submit(prepared.task, prepared.steps)
        call.app.metrics.count(run.model.label, prepared.num_read, prepared.num_generated)
        large = body.logprobs * prepared.num_tokens > INLINE_ITEMS
        choices = await offload_if_large(large, prepared.choices, body.logprobs)
        ending = run.ending(after)
        return await run.commit(ending, to_json(prepared.answer(choices) | ending.fields))


async def _events(body: GenerateBody, call: RequestContext, request: Request) -> AsyncGenerator[Any, None]:
    """The headers of a stream, once nothing can be refused any more; then its events. If another process updates the
    session meanwhile, the stream ends with an error: it cannot take back the text that it sent."""
    headers = {"Cache-Control": "no-store"}
    notifier = call.app.notifier
    try:
        async with resume(call, body, TEXT, cached=False) as run:
            prepared = await _prepare_generation(body, run, notifier)
            pending = run.begin(prepared.task, prepared.steps)
            repeatable = body.session_id is not None and body.commit and call.caller.key is not None
            sent, last = bytearray(), b""
            steps = StreamedSteps(call.app.metrics, run.model.label)
            try:
                yield headers
                tokenizer = run.model.manifest.tokenizer
                deltas = stream_updates(notifier, tokenizer, prepared.rows, body.logprobs, [pending])
                async with aclosing(deltas) as updates:
                    async for delta in updates:
                        if delta.text:
                            logprobs = {"logprobs": logprob_dicts(delta.logprobs)} if body.logprobs else {}
                            event = sse_event({"index": delta.index, "text": delta.text} | logprobs)
                            if repeatable:
                                sent += event
                            yield event
                        steps.count(prepared.num_read, prepared.num_generated)
                ending = run.ending(await asyncio.wrap_future(pending))
                last = sse_event(prepared.summary() | ending.fields)
                await run.commit(ending, bytes(sent + last))
            except Exception as error:
                yield sse_event(problem_of(as_carry_error(error), request), "error")
                return
            finally:
                pending.cancel()
    except ReplayedError as replay:
        yield headers | {"Idempotency-Replayed": "true"}
        yield Reply.replayed(replay.answer).body
        return
    yield last


async def _prepare_generation(
    body: GenerateBody, run: ResumedSequence[TextManifest], listener: Listener | None = None
) -> PreparedGeneration:
    """Tokenize the prompt, and reserve the memory."""
    texts = await _read(run.model.manifest.tokenizer, texts_of_generate(body, run.model.manifest), body.unknown)
    prepared = PreparedGeneration(body, run.model, run.start, run.returns_state, texts, listener)
    run.hold(prepared.max_bytes, prepared.path)
    return prepared


@router.post(
    "/predict",
    operation_id="predict",
    summary="Show what may come next in a text",
    response_model=PredictAnswer,
    openapi_extra=WRITE_HEADERS,
    responses=documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
@stateful
async def post_predict(
    body: Annotated[PredictBody, Body(openapi_examples=PREDICT_EXAMPLES)],
    call: Context,
) -> Response:
    """Say which characters the model expects next, after a text or after each of its characters, and rank continuations
    by their probability."""
    check_predict(body, call.app.settings)
    async with resume(call, body, TEXT) as run:
        check_positions(body, run.model, call.app.settings)
        texts = await _read(run.model.manifest.tokenizer, texts_of_predict(body), body.unknown)
        prepared = PreparedPrediction(body, run.model, run.start, texts)
        run.hold(prepared.max_bytes, prepared.path)
        scored = await run.submit(prepared.task, prepared.steps)
        call.app.metrics.count(run.model.label, prepared.num_read, 0)
        large = len(scored.scores) * prepared.top_k > INLINE_ITEMS
        predictions = await offload_if_large(large, prepared.predictions, scored)
        ending = run.ending(scored.after)
        return await run.commit(ending, to_json(prepared.answer(scored, predictions) | ending.fields))


async def _read(tokenizer: Tokenizer, texts: dict[str, str], unknown: Literal["replace", "error"]) -> Texts:
    """As `read_texts`, on another thread if the texts are long."""
    large = sum(map(len, texts.values())) > INLINE_CHARACTERS
    return await offload_if_large(large, read_texts, tokenizer, texts, unknown)
