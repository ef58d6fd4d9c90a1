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
from service.http.replies import Reply, stateful
from service.http.stateful import ResumedSequence, resume
from service.http.streaming import EventStream, as_carry_error, sse_event
from service.kind import Model
from service.sessions.sessions import ReplayedError
from service.settings import Settings
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
    """Continue a text, character by character. With `stream`, the answer is server-sent events: `{"index","text"}` with
    new text, and its `logprobs` if the request asks for them; at the end one with `finish_reason` and `usage`, or an
    event `error` with a problem. A session moves to the end of the returned text."""
    _check_generate(body, call.app.settings)
    if body.stream:
        events = _events(body, call, request)
        headers = await anext(events)  # a request that is refused gets an answer with its own status
        return EventStream(events, headers, call.deadline)
    async with resume(call, body, TEXT) as run:
        generation = await _Generation.begin(body, run, call)
        ending = run.ending(await generation.finish(body.logprobs))
        return await run.commit(ending, generation.answer(ending.fields))


async def _events(body: GenerateBody, call: RequestContext, request: Request) -> AsyncGenerator[Any, None]:
    """The headers of a stream, once nothing can be refused any more; then its events. If another process updates the
    session meanwhile, the stream ends with an error: it cannot take back the text that it sent."""
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
                            logprobs = {"logprobs": logprob_dicts(delta.logprobs)} if body.logprobs else {}
                            event = sse_event({"index": delta.index, "text": delta.text} | logprobs)
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
    """The texts of one request, while the engine generates them and after."""

    def __init__(
        self,
        body: GenerateBody,
        run: ResumedSequence[TextManifest],
        call: RequestContext,
        prompt: TokenizedText,
        unknown: list[str],
        listener: Listener | None,
    ) -> None:
        """Submit the texts. `unknown`: the prompt's characters or words that the model does not know."""
        model, tokenizer = run.model, run.model.manifest.tokenizer
        self._body = body
        self._model = model
        self._app = call.app
        self._unknown = unknown
        self._choices: list[dict[str, Any]] = []
        self._prompt_length = len(prompt.ids)
        if run.returns_state and body.n > 1:
            raise InvalidRequestError('only one text can move a session or state: n is 1, or `"commit": false`', "$.n")
        if body.logprobs:
            positions = body.max_length * body.n + (self._prompt_length if body.echo else 0)
            check_scores(positions, model, "$.logprobs")
        self._seed = secrets.randbits(53) if body.seed is None else body.seed
        texts = GenerateRequest(
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
        run.hold(texts.max_bytes(tokenizer.size, model.graphs.state_bytes), path)
        self._rows, task = generate(tokenizer, texts, run.start, run.returns_state, listener)
        self._pending = run.begin(task, texts.cost_steps)

    @classmethod
    async def begin(
        cls,
        body: GenerateBody,
        run: ResumedSequence[TextManifest],
        call: RequestContext,
        listener: Listener | None = None,
    ) -> "_Generation":
        """Tokenize the prompt and submit the texts."""
        [prompt], unknown = await read_texts(run.model.manifest.tokenizer, {"$.prompt": body.prompt}, body.unknown)
        return cls(body, run, call, prompt, unknown, listener)

    def updates(self) -> AsyncGenerator[TextDelta, None]:
        """New text as soon as the engine generates it."""
        tokenizer = self._model.manifest.tokenizer
        return stream_updates(self._app.notifier, tokenizer, self._rows, self._body.logprobs, [self._pending])

    def cancel(self) -> None:
        """Stop generating."""
        self._pending.cancel()

    async def finish(self, logprobs: int) -> SequenceState:
        """Wait until the texts have ended and prepare the answer's choices; the state after the first text."""
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
        """A `GenerateAnswer`. `ending`: its fields about the session or state."""
        choices, summary = self._choices, self.summary(ending)
        first = choices[0]
        head = {"model": summary["model"], "text": first["text"], "finish_reason": first["finish_reason"]}
        answer = head | {"logprobs": first["logprobs"]} | summary
        return to_json(answer | {"choices": choices if self._body.n > 1 else None})

    def summary(self, ending: dict[str, Any]) -> dict[str, Any]:
        """The last event of a stream: the answer without the texts. Adds to the metrics."""
        choices, label = self._choices, self._model.label
        generated = sum(len(row.tokens) for row in self._rows)
        self._app.metrics.read.labels(label).inc(self._prompt_length)
        self._app.metrics.predicted.labels(label).inc(generated)
        return {
            "model": _model_id(self._model),
            "finish_reason": choices[0]["finish_reason"],
            "choices": [{"finish_reason": choice["finish_reason"]} for choice in choices] if self._body.n > 1 else None,
            "seed": self._seed,
            "usage": {"prompt_characters": self._prompt_length, "generated_characters": generated},
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
    """Say which characters the model expects next, after a text or after each of its characters, and rank continuations
    by their probability."""
    continuations = body.candidates or []
    check_length(body.text, call.app.settings, "$.text")
    check_length("".join(continuations), call.app.settings, "$.candidates")
    async with resume(call, body, TEXT) as run:
        tokenizer = run.model.manifest.tokenizer
        text, candidates, unknown = await _read_predict(body, run.model, call.app.settings)
        check_follows(run.start, text.nfc, "$.text")
        lengths = [len(candidate.ids) for candidate in candidates]
        size, top_k = tokenizer.size, min(body.top_k, tokenizer.size)
        max_bytes = predict_bytes(len(text.ids), body.per_position, top_k, lengths, size)
        run.hold(max_bytes, "$.per_position" if body.per_position else "$.text")
        steps = 1 + len(text.ids) + sum(lengths)
        scored = await run.submit(predict(tokenizer, text, body.per_position, run.start, candidates), steps)
        call.app.metrics.read.labels(run.model.label).inc(steps - 1)
        predictions = await offload_if_large(
            len(scored.scores) * top_k > INLINE_ITEMS, _predictions, body, tokenizer, text, scored
        )
        ranking = [
            {
                "index": ranked.index,
                "text": continuations[ranked.index],
                "logprob": ranked.logprob,
                "logprob_per_character": ranked.logprob_per_character,
            }
            for ranked in scored.ranked
        ]
        ending = run.ending(scored.after)
        answer = {
            "model": _model_id(run.model),
            **predictions,
            "candidates": None if body.candidates is None else ranking,
            "unknown_characters": unknown,
            **ending.fields,
        }
        return await run.commit(ending, to_json(answer))


async def _read_predict(
    body: PredictBody, model: Model[TextManifest], settings: Settings
) -> tuple[TokenizedText, list[TokenizedText], list[str]]:
    """The text and the candidates, tokenized, and their characters or words that the model does not know.

    Raises:
        CarryError: they exceed a limit, cannot be read, or a candidate is empty.
    """
    tokenizer = model.manifest.tokenizer
    if body.per_position:
        check_candidates(len(body.text), min(body.top_k, tokenizer.size), settings, "$.top_k")
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


def _predictions(body: PredictBody, tokenizer: Tokenizer, text: TokenizedText, scored: ScoredText) -> dict[str, Any]:
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


def _check_generate(body: GenerateBody, settings: Settings) -> None:
    check_length(body.prompt, settings, "$.prompt")
    limit = settings.max_generated_length
    if body.max_length * body.n > limit:
        raise LimitExceededError(f"at most {limit} characters are generated at once, over all n texts", "$.max_length")
    positions = body.max_length + (len(body.prompt) if body.echo else 0)
    check_candidates(positions * body.n, body.logprobs, settings, "$.logprobs")
