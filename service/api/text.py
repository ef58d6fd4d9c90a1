"""POST /generate and POST /predict."""

import asyncio
import math
import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from fastapi.responses import StreamingResponse

from service.api.json_route import JsonRoute, json_answer
from service.api.problems import documented, problem_of
from service.api.schemas import (
    CandidateLog,
    CandidateProbability,
    Choice,
    ChosenLog,
    GenerateAnswer,
    GenerateBody,
    ModelId,
    PositionAnswer,
    PredictAnswer,
    PredictBody,
    Usage,
)
from service.api.state import CarryState, Deadline, State
from service.api.streams import text_events
from service.errors import CarryError, InvalidRequestError, LimitExceededError
from service.generation import (
    Candidate,
    Continuation,
    GenerateRequest,
    continuation,
    generate,
    predict,
    prediction,
)
from service.manifest import TextManifest
from service.registry import Model
from service.sampling import SamplingParams

router = APIRouter(tags=["text"], route_class=JsonRoute)

GENERATE_EXAMPLES: dict[str, Example] = {
    "sampled": {
        "summary": "The same seed gives the same text",
        "value": {"prompt": "ROMEO:\n", "max_length": 120, "temperature": 0.7, "seed": 7},
    },
    "streamed": {
        "summary": "The text comes as it is written, in server-sent events",
        "value": {"prompt": "ROMEO:\n", "max_length": 120, "temperature": 0.7, "seed": 7, "stream": True},
    },
    "greedy": {
        "summary": "The most probable character each time, with the five most probable ones told",
        "value": {"prompt": "To be, or ", "max_length": 20, "temperature": 0, "logprobs": 5},
    },
}
PREDICT_EXAMPLES: dict[str, Example] = {
    "next": {"summary": "What comes next", "value": {"text": "To be, or not to b", "top_k": 3}},
    "each": {
        "summary": "What was expected after each character, and the bits per character",
        "value": {"text": "To be", "top_k": 2, "per_position": True},
    },
}


STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The text; with `stream`, as it is written."}
}


@router.post(
    "/generate", response_model=GenerateAnswer, responses=STREAM | documented(400, 404, 409, 413, 422, 429, 504)
)
async def post_generate(
    body: Annotated[GenerateBody, Body(openapi_examples=GENERATE_EXAMPLES)],
    state: CarryState,
    deadline: Deadline,
    request: Request,
) -> Response:
    """Continue a text, character by character. With `stream`, as server-sent events: `{"index","text"}` for new text,
    at the end one with `finish_reason` and `usage`, or an event `error` with a problem."""
    model, manifest = _model(state, body.model, body.prompt, "$.prompt")
    if body.max_length * body.n > state.settings.max_generated_length:
        most = state.settings.max_generated_length
        raise LimitExceededError(f"at most {most} characters are generated at once, over all n texts", "$.max_length")
    if body.stream and body.logprobs:
        raise InvalidRequestError("a stream tells no log-probabilities", "$.logprobs")
    _check_candidates(body.max_length * body.n, body.logprobs, state, "$.logprobs")
    seed = secrets.randbits(53) if body.seed is None else body.seed
    wish = GenerateRequest(
        prompt=body.prompt,
        max_length=body.max_length,
        params=SamplingParams(body.temperature, body.top_k, body.top_p, body.min_p, body.repetition_penalty),
        seed=seed,
        stop=tuple(body.stop),
        n=body.n,
        logprobs=body.logprobs,
    )
    rows, task = generate(model.tokenizer, wish, state.wakers if body.stream else None)
    pending = model.engine.submit(task, wish.work, deadline)

    def answer() -> GenerateAnswer:
        choices = [_choice(continuation(model.tokenizer, row, body.logprobs), body.logprobs) for row in rows]
        written = sum(len(choice.text) for choice in choices)
        state.metrics.read.labels(model.label).inc(len(body.prompt))
        state.metrics.predicted.labels(model.label).inc(written)
        return GenerateAnswer(
            model=ModelId(name=manifest.name, version=manifest.version),
            text=choices[0].text,
            finish_reason=choices[0].finish_reason,
            logprobs=choices[0].logprobs,
            choices=choices if body.n > 1 else None,
            seed=seed,
            usage=Usage(prompt_characters=len(body.prompt), generated_characters=written),
            unknown_characters=model.tokenizer.unknown(body.prompt),
        )

    if body.stream:

        def last() -> dict[str, Any]:
            return answer().model_dump(
                mode="json", exclude={"text": True, "logprobs": True, "choices": {"__all__": {"text", "logprobs"}}}
            )

        def failed(error: CarryError) -> dict[str, Any]:
            return problem_of(error, request)

        events = text_events(state.wakers, rows, pending, last, failed)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    await asyncio.wrap_future(pending)
    return json_answer(answer())


@router.post("/predict", response_model=PredictAnswer, responses=documented(400, 404, 409, 413, 422, 429, 504))
async def post_predict(
    body: Annotated[PredictBody, Body(openapi_examples=PREDICT_EXAMPLES)], state: CarryState, deadline: Deadline
) -> Response:
    """See which characters the model expects next, after a text or after each of its characters."""
    model, manifest = _model(state, body.model, body.text, "$.text")
    if body.per_position:
        _check_candidates(len(body.text), min(body.top_k, len(manifest.vocabulary)), state, "$.top_k")
    task = predict(model.tokenizer, body.text, body.per_position)
    scores = await asyncio.wrap_future(model.engine.submit(task, 1 + len(body.text), deadline))
    state.metrics.read.labels(model.label).inc(len(body.text))

    def answer() -> Response:
        found = prediction(model.tokenizer, body.text, scores, body.top_k, body.per_position)
        positions = None
        if found.positions is not None:
            positions = [
                PositionAnswer(character=p.character, probability=p.probability, next=_probabilities(p.candidates))
                for p in found.positions
            ]
        return json_answer(
            PredictAnswer(
                model=ModelId(name=manifest.name, version=manifest.version),
                next=_probabilities(found.candidates),
                positions=positions,
                bits_per_character=found.bits_per_character,
                unknown_characters=model.tokenizer.unknown(body.text),
            )
        )

    # So much of it that others would wait for the event loop.
    return await asyncio.to_thread(answer) if len(scores) > 1000 else answer()


def _model(state: State, name: str | None, text: str, path: str) -> tuple[Model, TextManifest]:
    model = state.registry.find_kind(name, "text")
    assert isinstance(model.manifest, TextManifest)
    if len(text) > state.settings.max_text_length:
        raise LimitExceededError(f"at most {state.settings.max_text_length} characters are read at once", path)
    return model, model.manifest


def _check_candidates(positions: int, count: int, state: State, path: str) -> None:
    most = state.settings.max_answer_items
    if positions * count > most:
        raise LimitExceededError(
            f"at most {most} candidates in one answer: ask for fewer, or for fewer characters", path
        )


def _choice(continuation: Continuation, logprobs: int) -> Choice:
    chosen = [
        ChosenLog(
            character=c.character,
            logprob=_log(c.probability),
            top=[CandidateLog(character=character, logprob=_log(p)) for character, p in c.candidates],
        )
        for c in continuation.chosen
    ]
    reason = "stop" if continuation.finish_reason == "stop" else "length"
    return Choice(text=continuation.text, finish_reason=reason, logprobs=chosen if logprobs else None)


def _log(probability: float) -> float:
    return math.log(max(probability, 5e-324))


def _probabilities(candidates: Sequence[Candidate]) -> list[CandidateProbability]:
    return [CandidateProbability(character=character, probability=p) for character, p in candidates]
