"""POST /generate and POST /predict."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.engine.sequence import SequenceState
from service.errors import InvalidRequestError, LimitExceededError
from service.http.context import WRITE_HEADERS, Context, RequestContext
from service.http.json_route import JsonRoute, to_json
from service.http.offload import offload_if_large
from service.http.problems import documented, problem_of
from service.http.state import AppState
from service.http.stateful import Reply, ResumedSequence, resume, stateful
from service.http.streaming import EventStream, as_carry_error, sse_event
from service.kind import Model
from service.sessions.sessions import ReplayedError
from service.text.answers import (
    INLINE_ITEMS,
    candidate_dicts,
    json_list,
    logprob_dicts,
    logprobs_json,
    position_dicts,
    read_texts,
)
from service.text.decoder import Listener
from service.text.kind import TEXT
from service.text.limits import check_candidates, check_length, check_scores
from service.text.logprobs import logprob_blocks
from service.text.manifest import TextManifest
from service.text.prefill import check_follows
from service.text.sampling import SamplingParams
from service.text.schemas import GenerateAnswer, GenerateBody, PredictAnswer, PredictBody
from service.text.scoring import (
    RANKED_ROWS,
    Position,
    ScoredText,
    bits_per_character,
    next_candidates,
    position_blocks,
    predict,
    predict_bytes,
)
from service.text.streaming import STREAM, TextDelta, stream_updates
from service.text.task import GenerateRequest, generate
from service.text.tokenizer import TokenizedText, Tokenizer

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
    "greedy": {
        "summary": "The most probable character each time, with the five most probable ones told",
        "value": {"prompt": "She looked at ", "max_length": 20, "temperature": 0, "logprobs": 5},
    },
}
PREDICT_EXAMPLES: dict[str, Example] = {
    "next": {"summary": "What comes next", "value": {"text": "She opened the do", "top_k": 3}},
    "each": {
        "summary": "What was expected after each character, and the bits per character",
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
    """Continue a text, character by character. With `stream`, as server-sent events: `{"index","text"}` for new text,
    with its `logprobs` if they are wanted, at the end one with `finish_reason` and `usage`, or an event `error` with a
    problem. A session then stands at the end of the text that was given back."""
    _check_generate(body, call.app)
    if body.stream:
        events = _events(body, call, request)
        headers = await anext(events)  # what is refused before the first character is an answer of its own
        return EventStream(events, headers, call.deadline)
    async with resume(call, body, TEXT) as run:
        generation = await _Generation.begin(body, run, call)
        ending = run.ending(await generation.finish(body.logprobs))
        return await run.commit(ending, generation.answer(ending.fields))


async def _events(body: GenerateBody, call: RequestContext, request: Request) -> AsyncGenerator[Any, None]:
    """The headers of a stream, as soon as nothing more can be refused; then its events. Where another process updates
    the session meanwhile, the stream ends with an error: what was sent cannot be taken back."""
    headers = {"Cache-Control": "no-store"}
    try:
        async with resume(call, body, TEXT, cached=False) as run:
            generation = await _Generation.begin(body, run, call, call.app.notifier)
            repeatable = body.session_id is not None and body.commit and call.caller.key is not None
            sent, last = bytearray(), b""
            try:
                yield headers
                async with aclosing(generation.updates()) as updates:
                    async for delta in updates:
                        if delta.text:
                            logs = {"logprobs": logprob_dicts(delta.logprobs)} if body.logprobs else {}
                            event = sse_event({"index": delta.index, "text": delta.text} | logs)
                            if repeatable:
                                sent += event
                            yield event
                ending = run.ending(await generation.finish(0))
                last = sse_event(generation.summary(ending.fields))
                await run.commit(ending, bytes(sent + last))
            except Exception as error:
                yield sse_event(problem_of(as_carry_error(error), request), "error")
                return
            finally:
                generation.cancel()
    except ReplayedError as replay:
        yield headers | {"Idempotency-Replayed": "true"}
        yield Reply.replayed(replay.answer).body
        return
    yield last


class _Generation:
    """The texts of one request, while they are generated and after."""

    def __init__(
        self,
        body: GenerateBody,
        run: ResumedSequence[TextManifest],
        call: RequestContext,
        prompt: TokenizedText,
        unknown: list[str],
        listener: Listener | None,
    ) -> None:
        """Submit them. `unknown`: what of the prompt the model does not know."""
        model, tokenizer = run.model, run.model.manifest.tokenizer
        self._body = body
        self._model = model
        self._app = call.app
        self._unknown = unknown
        self._choices: list[dict[str, Any]] = []
        self._read = len(prompt.ids)
        if run.returns_state and body.n > 1:
            raise InvalidRequestError('only one text can move a session or state; or `"commit": false`', "$.n")
        if body.logprobs:
            positions = body.max_length * body.n + (self._read if body.echo else 0)
            check_scores(positions, model, "$.logprobs")
        self._seed = secrets.randbits(53) if body.seed is None else body.seed
        generate_request = GenerateRequest(
            prompt=prompt,
            max_length=body.max_length,
            params=SamplingParams(
                body.temperature,
                body.top_k,
                body.top_p,
                body.min_p,
                body.repetition_penalty,
                body.frequency_penalty,
                body.presence_penalty,
                tokenizer.biases(body.logit_bias, "$.logit_bias"),
            ),
            seed=self._seed,
            stop=tuple(body.stop),
            n=body.n,
            logprobs=body.logprobs,
            echo=body.echo,
        )
        path = "$.logprobs" if body.logprobs else "$.prompt"
        run.hold(generate_request.max_bytes(tokenizer.size, model.graphs.state_bytes), path)
        self._rows, task = generate(tokenizer, generate_request, run.start, run.returns_state, listener)
        self._pending = run.begin(task, generate_request.cost_steps)

    @classmethod
    async def begin(
        cls,
        body: GenerateBody,
        run: ResumedSequence[TextManifest],
        call: RequestContext,
        listener: Listener | None = None,
    ) -> "_Generation":
        """Read the prompt, and submit the texts."""
        [prompt], unknown = await read_texts(run.model.manifest.tokenizer, {"$.prompt": body.prompt}, body.unknown)
        return cls(body, run, call, prompt, unknown, listener)

    def updates(self) -> AsyncGenerator[TextDelta, None]:
        """New text as soon as it is there."""
        tokenizer = self._model.manifest.tokenizer
        return stream_updates(self._app.notifier, tokenizer, self._rows, self._body.logprobs, [self._pending])

    def cancel(self) -> None:
        """Generate no more."""
        self._pending.cancel()

    async def finish(self, logprobs: int) -> SequenceState:
        """Wait until the texts have ended, and make their `choices`; the state after them."""
        after = await asyncio.wrap_future(self._pending)

        def choices() -> list[dict[str, Any]]:
            tokenizer = self._model.manifest.tokenizer
            return [
                {
                    "text": row.returned_text,
                    "finish_reason": row.finish_reason,
                    "logprobs": logprobs_json(logprob_blocks(tokenizer, row, logprobs)) if logprobs else None,
                }
                for row in self._rows
            ]

        items = logprobs * sum(len(row.echo) + len(row.tokens) for row in self._rows)
        self._choices = await offload_if_large(items > INLINE_ITEMS, choices)
        return after

    def answer(self, ending: dict[str, Any]) -> bytes:
        """A `GenerateAnswer`, with the fields that tell where the call ended."""
        choices, summary = self._choices, self.summary(ending)
        first = choices[0]
        head = {"model": summary["model"], "text": first["text"], "finish_reason": first["finish_reason"]}
        answer = head | {"logprobs": first["logprobs"]} | summary
        return to_json(answer | {"choices": choices if self._body.n > 1 else None})

    def summary(self, ending: dict[str, Any]) -> dict[str, Any]:
        """The last event of a stream: all of the answer but what was streamed."""
        choices, label = self._choices, self._model.label
        written = sum(len(row.tokens) for row in self._rows)
        self._app.metrics.read.labels(label).inc(self._read)
        self._app.metrics.predicted.labels(label).inc(written)
        return {
            "model": _model_id(self._model),
            "finish_reason": choices[0]["finish_reason"],
            "choices": [{"finish_reason": choice["finish_reason"]} for choice in choices] if self._body.n > 1 else None,
            "seed": self._seed,
            "usage": {"prompt_characters": self._read, "generated_characters": written},
            "unknown_characters": self._unknown,
            **ending,
        }


@router.post(
    "/predict",
    operation_id="predict",
    response_model=PredictAnswer,
    openapi_extra=WRITE_HEADERS,
    responses=documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
@stateful
async def post_predict(
    body: Annotated[PredictBody, Body(openapi_examples=PREDICT_EXAMPLES)],
    call: Context,
) -> Response:
    """See which characters the model expects next, after a text or after each of its characters, and which of several
    continuations it finds the most probable."""
    continuations = body.candidates or []
    check_length(body.text, call.app, "$.text")
    check_length("".join(continuations), call.app, "$.candidates")
    async with resume(call, body, TEXT) as run:
        tokenizer = run.model.manifest.tokenizer
        text, candidates, unknown = await _read_predict(body, run.model, call.app)
        check_follows(run.start, text.nfc, "$.text")
        lengths = [len(candidate.ids) for candidate in candidates]
        size, top_k = tokenizer.size, min(body.top_k, tokenizer.size)
        held = predict_bytes(len(text.ids), body.per_position, top_k, lengths, size)
        run.hold(held, "$.per_position" if body.per_position else "$.text")
        steps = 1 + len(text.ids) + sum(lengths)
        scored = await run.submit(predict(tokenizer, text, body.per_position, run.start, candidates), steps)
        call.app.metrics.read.labels(run.model.label).inc(steps - 1)
        expected = await offload_if_large(
            len(scored.scores) * top_k > INLINE_ITEMS, _expected, body, tokenizer, text, scored
        )
        ranked = [
            {
                "index": candidate.index,
                "text": continuations[candidate.index],
                "logprob": candidate.logprob,
                "logprob_per_character": candidate.logprob_per_character,
            }
            for candidate in scored.ranked
        ]
        ending = run.ending(scored.after)
        answer = {
            "model": _model_id(run.model),
            **expected,
            "candidates": None if body.candidates is None else ranked,
            "unknown_characters": unknown,
            **ending.fields,
        }
        return await run.commit(ending, to_json(answer))


async def _read_predict(
    body: PredictBody, model: Model[TextManifest], app: AppState
) -> tuple[TokenizedText, list[TokenizedText], list[str]]:
    """The text, its candidates, and what of them the model does not know.

    Raises:
        CarryError: they are too much, or a candidate is empty.
    """
    tokenizer = model.manifest.tokenizer
    if body.per_position:
        check_candidates(len(body.text), min(body.top_k, tokenizer.size), app, "$.top_k")
    paths = {"$.text": body.text} | {f"$.candidates[{i}]": text for i, text in enumerate(body.candidates or [])}
    (text, *candidates), unknown = await read_texts(tokenizer, paths, body.unknown)
    if body.per_position:
        check_scores(len(text.ids), model, "$.per_position")
    longest = max((len(candidate.ids) for candidate in candidates), default=0)
    check_scores(min(RANKED_ROWS, len(candidates)) * longest, model, "$.candidates")
    for i, candidate in enumerate(candidates):
        if not candidate.tokens:
            raise InvalidRequestError("is empty", f"$.candidates[{i}]")
    return text, candidates, unknown


def _expected(body: PredictBody, tokenizer: Tokenizer, text: TokenizedText, scored: ScoredText) -> dict[str, Any]:
    """The `next`, `positions` and `bits_per_character` of a `PredictAnswer`."""
    candidates = next_candidates(tokenizer, scored.scores, body.top_k)
    nats, characters = 0.0, 0

    def blocks() -> Iterator[list[Position]]:
        nonlocal nats, characters
        for block in position_blocks(tokenizer, text, scored.scores, body.top_k):
            nats += block.nats
            characters += block.characters
            yield block.positions

    positions = json_list(map(position_dicts, blocks())) if body.per_position else None
    return {
        "next": candidate_dicts(candidates),
        "positions": positions,
        "bits_per_character": bits_per_character(nats, characters),
    }


def _model_id(model: Model[TextManifest]) -> dict[str, Any]:
    """A `ModelId`."""
    return {"name": model.manifest.name, "version": model.manifest.version}


def _check_generate(body: GenerateBody, app: AppState) -> None:
    check_length(body.prompt, app, "$.prompt")
    limit = app.settings.max_generated_length
    if body.max_length * body.n > limit:
        raise LimitExceededError(f"at most {limit} characters are generated at once, over all n texts", "$.max_length")
    positions = body.max_length + (len(body.prompt) if body.echo else 0)
    check_candidates(positions * body.n, body.logprobs, app, "$.logprobs")
