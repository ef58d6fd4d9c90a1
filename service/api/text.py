"""POST /generate and POST /predict."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example
from fastapi.responses import StreamingResponse

from service.api.calls import CHANGING, Call, ThisCall
from service.api.carried import Render, Reply, Seat, carried, moving
from service.api.json_route import JsonRoute, encoded
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
    RankedCandidate,
    SessionId,
    Usage,
)
from service.api.state import State
from service.api.streams import broken, event, news
from service.engine.sequence import Snapshot
from service.errors import InvalidRequestError, LimitExceededError, SessionConflictError
from service.generation import (
    RANKED_ROWS,
    Chosen,
    Continuation,
    GenerateRequest,
    Listener,
    continuation,
    generate,
    logarithm,
    predict,
    prediction,
)
from service.registry import Model
from service.sampling import SamplingParams
from service.tokenizer import Candidate

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


STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The text; with `stream`, as it is written."}
}


@router.post(
    "/generate",
    operation_id="generate",
    response_model=GenerateAnswer,
    openapi_extra=CHANGING,
    responses=STREAM | documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
async def post_generate(
    body: Annotated[GenerateBody, Body(openapi_examples=GENERATE_EXAMPLES)],
    call: ThisCall,
    request: Request,
) -> Response:
    """Continue a text, character by character. With `stream`, as server-sent events: `{"index","text"}` for new text,
    with its `logprobs` if they are wanted, at the end one with `finish_reason` and `usage`, or an event `error` with a
    problem. A session then stands at the end of the text that was given back."""
    _check_generate(body, call.state)
    if body.stream:
        events = _events(body, call, request)
        headers = await anext(events)  # what is refused before the first character is an answer of its own
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def work(seat: Seat) -> tuple[Snapshot, Render]:
        generating = _Generating(body, seat, call, None)
        return await generating.finish(body.logprobs), generating.answer

    return await carried(call, body, "text", work)


class _Generating:
    """A text under way."""

    def __init__(self, body: GenerateBody, seat: Seat, call: Call, listener: Listener | None) -> None:
        self._body = body
        self._model = seat.model
        self._metrics = call.state.metrics
        self._choices: list[Choice] = []
        tokenizer = seat.model.tokenizer
        if seat.keeps and body.n > 1:
            raise InvalidRequestError('only one text can move a session or state; or `"commit": false`', "$.n")
        if body.unknown == "error":
            tokenizer.check_known(body.prompt, "$.prompt")
        if body.logprobs:
            positions = body.max_length * body.n + (len(tokenizer.encode(body.prompt)[1]) if body.echo else 0)
            check_scores(positions, seat.model, "$.logprobs")
        self._seed = secrets.randbits(53) if body.seed is None else body.seed
        wish = GenerateRequest(
            prompt=body.prompt,
            max_length=body.max_length,
            params=SamplingParams(
                body.temperature,
                body.top_k,
                body.top_p,
                body.min_p,
                body.repetition_penalty,
                tokenizer.biases(body.logit_bias, "$.logit_bias"),
            ),
            seed=self._seed,
            stop=tuple(body.stop),
            n=body.n,
            logprobs=body.logprobs,
            echo=body.echo,
        )
        self.rows, task = generate(tokenizer, wish, seat.start, seat.keeps, listener)
        self.pending = seat.model.engine.submit(task, wish.work, call.deadline)

    async def finish(self, logprobs: int) -> Snapshot:
        """Wait for its end, and see what became of it."""
        after = await asyncio.wrap_future(self.pending)

        def explain() -> list[Choice]:
            return [_choice(continuation(self._model.tokenizer, row, logprobs), logprobs) for row in self.rows]

        # Many would keep the others waiting for the event loop.
        many = logprobs * sum(len(row.echoed) + len(row.text) for row in self.rows) > 1000
        self._choices = await asyncio.to_thread(explain) if many else explain()
        return after

    def answer(self, session: SessionId | None, carried: str | None) -> bytes:
        """A `GenerateAnswer`."""
        body, model, choices = self._body, self._model, self._choices
        read = len(model.tokenizer.encode(body.prompt)[1])
        written = sum(len(row.text) for row in self.rows)
        self._metrics.read.labels(model.label).inc(read)
        self._metrics.predicted.labels(model.label).inc(written)
        return encoded(
            GenerateAnswer(
                model=ModelId(name=model.manifest.name, version=model.manifest.version),
                text=choices[0].text,
                finish_reason=choices[0].finish_reason,
                logprobs=choices[0].logprobs,
                choices=choices if body.n > 1 else None,
                seed=self._seed,
                usage=Usage(prompt_characters=read, generated_characters=written),
                unknown_characters=model.tokenizer.unknown(body.prompt),
                session=session,
                state=carried,
            )
        )


async def _events(body: GenerateBody, call: Call, request: Request) -> AsyncIterator[Any]:
    """The headers of a stream, as soon as nothing more can be refused; then its events."""
    headers = {"Cache-Control": "no-store"}
    seat, id, turn = Seat(call.state, body, "text"), moving(body), None
    async with AsyncExitStack() as exits:
        if id is None:
            await seat.take(call.caller)
        else:
            turn = await exits.enter_async_context(call.state.sessions.turn(call.caller, id, call.deadline))
        if turn is not None and turn.replay is not None:
            yield headers | {"Idempotency-Replayed": "true"}
            reply = Reply.unpacked(turn.replay)
            answer = orjson.loads(reply.body)
            yield event(_piece(0, answer["text"], answer["logprobs"]))
        else:
            if turn is not None:
                seat.take_turn(turn)
            generating = _Generating(body, seat, call, call.state.wakers)
            try:
                yield headers
                rows, tokenizer = generating.rows, seat.model.tokenizer
                async for new in news(call.state.wakers, tokenizer, rows, body.logprobs, [generating.pending]):
                    if new.text:
                        logs = [log.model_dump() for log in _logs(new.chosen)] if body.logprobs else None
                        yield event(_piece(new.index, new.text, logs))
                # Log-probabilities are kept for a repetition of the call.
                after = await generating.finish(0 if turn is None else body.logprobs)
                if turn is None:
                    reply = seat.reply(after, generating.answer)
                else:
                    packed = await seat.move(after, generating.answer)
                    if packed is None:
                        raise SessionConflictError("another call moved the session; this one changed nothing")
                    reply = Reply.unpacked(packed)
            except Exception as error:
                yield event(problem_of(broken(error), request), "error")
                return
            finally:
                generating.pending.cancel()
        yield event(_last(orjson.loads(reply.body)))


def _piece(index: int, text: str, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
    """What an event tells of new text."""
    return {"index": index, "text": text} | ({} if logprobs is None else {"logprobs": logprobs})


def _last(answer: dict[str, Any]) -> dict[str, Any]:
    """What the end of a stream tells: all but what was streamed."""
    last = {name: value for name, value in answer.items() if name not in ("text", "logprobs")}
    if last["choices"] is not None:
        last["choices"] = [{"finish_reason": choice["finish_reason"]} for choice in last["choices"]]
    return last


@router.post(
    "/predict",
    operation_id="predict",
    response_model=PredictAnswer,
    openapi_extra=CHANGING,
    responses=documented(400, 401, 404, 409, 410, 412, 413, 422, 429, 503, 504, 507),
)
async def post_predict(
    body: Annotated[PredictBody, Body(openapi_examples=PREDICT_EXAMPLES)],
    call: ThisCall,
) -> Response:
    """See which characters the model expects next, after a text or after each of its characters, and which of several
    continuations it finds the most probable."""
    continuations = body.candidates or []
    check_length(body.text, call.state, "$.text")
    check_length("".join(continuations), call.state, "$.candidates")

    async def work(seat: Seat) -> tuple[Snapshot, Render]:
        model, manifest = seat.model, seat.model.manifest
        tokenizer = model.tokenizer
        if body.per_position:
            check_candidates(len(body.text), min(body.top_k, tokenizer.size), call.state, "$.top_k")
            check_scores(len(tokenizer.encode(body.text)[1]), model, "$.per_position")
        longest = max((len(tokenizer.encode(text)[1]) for text in continuations), default=0)
        check_scores(min(RANKED_ROWS, len(continuations)) * longest, model, "$.candidates")
        for i, text in enumerate(continuations):
            if not tokenizer.read(text):
                raise InvalidRequestError("is empty", f"$.candidates[{i}]")
        if body.unknown == "error":
            tokenizer.check_known(body.text, "$.text")
            for i, text in enumerate(continuations):
                tokenizer.check_known(text, f"$.candidates[{i}]")
        task = predict(tokenizer, body.text, body.per_position, seat.start, continuations)
        steps = 1 + len(body.text) + sum(map(len, continuations))
        scored = await asyncio.wrap_future(model.engine.submit(task, steps, call.deadline))
        call.state.metrics.read.labels(model.label).inc(steps - 1)
        explain = partial(prediction, tokenizer, body.text, scored.scores, body.top_k, body.per_position)
        # A long one would keep the others waiting for the event loop.
        found = await asyncio.to_thread(explain) if len(scored.scores) > 1000 else explain()
        positions = None
        if found.positions is not None:
            positions = [
                PositionAnswer(character=p.character, probability=p.probability, next=_probabilities(p.candidates))
                for p in found.positions
            ]

        ranked = [
            RankedCandidate(
                index=r.index, text=continuations[r.index], logprob=r.log, logprob_per_character=r.log_per_character
            )
            for r in scored.ranked
        ]

        def answer(session: SessionId | None, carried: str | None) -> bytes:
            return encoded(
                PredictAnswer(
                    model=ModelId(name=manifest.name, version=manifest.version),
                    next=_probabilities(found.candidates),
                    positions=positions,
                    bits_per_character=found.bits_per_character,
                    candidates=None if body.candidates is None else ranked,
                    unknown_characters=tokenizer.unknown(body.text, *continuations),
                    session=session,
                    state=carried,
                )
            )

        return scored.after, answer

    return await carried(call, body, "text", work)


def _check_generate(body: GenerateBody, state: State) -> None:
    check_length(body.prompt, state, "$.prompt")
    if body.max_length * body.n > state.settings.max_generated_length:
        most = state.settings.max_generated_length
        raise LimitExceededError(f"at most {most} characters are generated at once, over all n texts", "$.max_length")
    positions = body.max_length + (len(body.prompt) if body.echo else 0)
    check_candidates(positions * body.n, body.logprobs, state, "$.logprobs")


def check_length(text: str, state: State, path: str) -> None:
    if len(text) > state.settings.max_text_length:
        raise LimitExceededError(f"at most {state.settings.max_text_length} characters are read at once", path)


def check_candidates(positions: int, count: int, state: State, path: str) -> None:
    most = state.settings.max_answer_items
    if positions * count > most:
        raise LimitExceededError(
            f"at most {most} candidates in one answer: ask for fewer, or for fewer characters", path
        )


HELD_SCORES = 50_000_000
"""Most scores, of every piece of a vocabulary at every position, that are held for one request: 200 MB."""


def check_scores(positions: int, model: Model, path: str) -> None:
    if positions * model.tokenizer.size > HELD_SCORES:
        most = HELD_SCORES // model.tokenizer.size
        raise LimitExceededError(
            f"with this model, at most {most} {model.tokenizer.unit}s are looked at so closely", path
        )


def _choice(continuation: Continuation, logprobs: int) -> Choice:
    logs = _logs(continuation.chosen) if logprobs else None
    return Choice(text=continuation.text, finish_reason=continuation.finish_reason, logprobs=logs)


def _logs(chosen: Sequence[Chosen]) -> list[ChosenLog]:
    return [
        ChosenLog(
            character=c.character,
            logprob=None if c.probability is None else logarithm(c.probability),
            top=[CandidateLog(character=character, logprob=logarithm(p)) for character, p in c.candidates],
        )
        for c in chosen
    ]


def _probabilities(candidates: Sequence[Candidate]) -> list[CandidateProbability]:
    return [CandidateProbability(character=character, probability=p) for character, p in candidates]
