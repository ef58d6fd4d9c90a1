"""POST /generate and POST /predict."""

import math
import secrets
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.openapi.models import Example

from service.api.problems import documented
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
from service.api.state import CarryState, State
from service.errors import LimitExceededError
from service.generation import Candidate, Continuation, GenerateRequest, Tokenizer, generate, predict
from service.manifest import TextManifest
from service.registry import Model
from service.sampling import SamplingParams

router = APIRouter(tags=["text"])

GENERATE_EXAMPLES: dict[str, Example] = {
    "sampled": {
        "summary": "The same seed gives the same text",
        "value": {"prompt": "ROMEO:\n", "max_length": 120, "temperature": 0.7, "seed": 7},
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


@router.post("/generate", responses=documented(400, 404, 409, 413, 422))
async def post_generate(
    body: Annotated[GenerateBody, Body(openapi_examples=GENERATE_EXAMPLES)], state: CarryState
) -> GenerateAnswer:
    """Continue a text, character by character."""
    model, manifest = _model(state, body.model, body.prompt, "$.prompt")
    if body.max_length * body.n > state.settings.max_generated_length:
        most = state.settings.max_generated_length
        raise LimitExceededError(f"at most {most} characters are generated at once, over all n texts", "$.max_length")
    _check_candidates(body.max_length * body.n, body.logprobs, state, "$.logprobs")
    seed = secrets.randbits(53) if body.seed is None else body.seed
    request = GenerateRequest(
        prompt=body.prompt,
        max_length=body.max_length,
        params=SamplingParams(body.temperature, body.top_k, body.top_p, body.min_p, body.repetition_penalty),
        seed=seed,
        stop=tuple(body.stop),
        n=body.n,
        logprobs=body.logprobs,
    )
    found = await model.engine.run(lambda runner: generate(runner, manifest, request))
    choices = [_choice(continuation, body.logprobs) for continuation in found]
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
        unknown_characters=Tokenizer(manifest).unknown(body.prompt),
    )


@router.post("/predict", responses=documented(400, 404, 409, 413, 422))
async def post_predict(
    body: Annotated[PredictBody, Body(openapi_examples=PREDICT_EXAMPLES)], state: CarryState
) -> PredictAnswer:
    """See which characters the model expects next, after a text or after each of its characters."""
    model, manifest = _model(state, body.model, body.text, "$.text")
    if body.per_position:
        _check_candidates(len(body.text), min(body.top_k, len(manifest.vocabulary)), state, "$.top_k")
    found = await model.engine.run(lambda runner: predict(runner, manifest, body.text, body.top_k, body.per_position))
    state.metrics.read.labels(model.label).inc(len(body.text))
    positions = None
    if found.positions is not None:
        positions = [
            PositionAnswer(character=p.character, probability=p.probability, next=_probabilities(p.candidates))
            for p in found.positions
        ]
    return PredictAnswer(
        model=ModelId(name=manifest.name, version=manifest.version),
        next=_probabilities(found.candidates),
        positions=positions,
        bits_per_character=found.bits_per_character,
        unknown_characters=Tokenizer(manifest).unknown(body.text),
    )


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
