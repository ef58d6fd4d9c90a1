"""POST /generate and POST /predict."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from service.engine.sequence import Snapshot
from service.errors import InvalidRequestError, LimitExceededError, SessionConflictError
from service.http.context import CHANGING, Call, ThisCall
from service.http.json_route import JsonRoute, encoded
from service.http.offload import beside
from service.http.problems import documented, problem_of
from service.http.schemas import (
    GenerateAnswer,
    GenerateBody,
    PredictAnswer,
    PredictBody,
    SessionId,
)
from service.http.state import State
from service.http.stateful import Render, Reply, Seat, carried, moving
from service.http.streaming import EventStream, broken, event, news
from service.registry import Model
from service.text.answers import (
    INLINE_ITEMS,
    json_list,
    logs_json,
    logs_of,
    positions_json,
    probabilities,
    read_texts,
)
from service.text.sampling import SamplingParams
from service.text.task import (
    RANKED_ROWS,
    GenerateRequest,
    Listener,
    PositionBlock,
    bits_per_character,
    check_follows,
    chosen_blocks,
    generate,
    position_blocks,
    predict,
    predict_bytes,
    prediction,
    whole_text,
)
from service.text.tokenizer import TokenizedText

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
        return EventStream(events, headers, call.deadline)

    async def work(seat: Seat) -> tuple[Snapshot, Render]:
        texts = await read_texts(seat.model.tokenizer, {"$.prompt": body.prompt}, body.unknown)
        generating = _Generating(body, *texts, seat, call, None)
        return await generating.finish(body.logprobs), generating.answer

    return await carried(call, body, "text", work)


class _Generating:
    """A text under way. `unknown`: what of the prompt the model does not know."""

    def __init__(
        self,
        body: GenerateBody,
        texts: list[TokenizedText],
        unknown: list[str],
        seat: Seat,
        call: Call,
        listener: Listener | None,
    ) -> None:
        self._body = body
        self._model = seat.model
        self._metrics = call.state.metrics
        self._unknown = unknown
        self._choices: list[dict[str, Any]] = []
        tokenizer = seat.model.tokenizer
        [prompt] = texts
        self._read = len(prompt.tokens)
        if seat.keeps and body.n > 1:
            raise InvalidRequestError('only one text can move a session or state; or `"commit": false`', "$.n")
        if body.logprobs:
            positions = body.max_length * body.n + (self._read if body.echo else 0)
            check_scores(positions, seat.model, "$.logprobs")
        self._seed = secrets.randbits(53) if body.seed is None else body.seed
        wish = GenerateRequest(
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
        call.hold(wish.most_bytes(tokenizer.size, seat.model.state_bytes), path, seat.model.engine)
        self.rows, task = generate(tokenizer, wish, seat.start, seat.keeps, listener)
        self.pending = seat.model.engine.submit(task, wish.work, call.deadline, call.group)

    async def finish(self, logprobs: int) -> Snapshot:
        """Wait for its end, and see what became of it."""
        after = await asyncio.wrap_future(self.pending)

        def explain() -> list[dict[str, Any]]:
            return [
                {
                    "text": whole_text(row),
                    "finish_reason": row.finish_reason,
                    "logprobs": logs_json(chosen_blocks(self._model.tokenizer, row, logprobs)) if logprobs else None,
                }
                for row in self.rows
            ]

        items = logprobs * sum(len(row.echoed) + len(row.text) for row in self.rows)
        self._choices = await beside(items > INLINE_ITEMS, explain)
        return after

    def answer(self, session: SessionId | None, carried: str | None) -> bytes:
        """A `GenerateAnswer`."""
        choices, ending = self._choices, self.ending(session, carried)
        first = choices[0]
        head = {"model": ending["model"], "text": first["text"], "finish_reason": first["finish_reason"]}
        whole = head | {"logprobs": first["logprobs"]} | ending
        return encoded(whole | {"choices": choices if self._body.n > 1 else None})

    def ending(self, session: SessionId | None, carried: str | None) -> dict[str, Any]:
        """What the end of a stream tells: all of the answer but what was streamed."""
        model, choices = self._model, self._choices
        written = sum(len(row.text) for row in self.rows)
        self._metrics.read.labels(model.label).inc(self._read)
        self._metrics.predicted.labels(model.label).inc(written)
        return {
            "model": _model_id(model),
            "finish_reason": choices[0]["finish_reason"],
            "choices": [{"finish_reason": choice["finish_reason"]} for choice in choices] if self._body.n > 1 else None,
            "seed": self._seed,
            "usage": {"prompt_characters": self._read, "generated_characters": written},
            "unknown_characters": self._unknown,
            "session": None if session is None else session.model_dump(),
            "state": carried,
        }


def _model_id(model: Model) -> dict[str, Any]:
    """A `ModelId`."""
    return {"name": model.manifest.name, "version": model.manifest.version}


async def _events(body: GenerateBody, call: Call, request: Request) -> AsyncGenerator[Any, None]:
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
            yield Reply.unpacked(turn.replay).body
            return
        if turn is not None:
            seat.take_turn(turn)
        tokenizer = seat.model.tokenizer
        texts = await read_texts(tokenizer, {"$.prompt": body.prompt}, body.unknown)
        generating = _Generating(body, *texts, seat, call, call.state.wakers)
        coming = news(call.state.wakers, tokenizer, generating.rows, body.logprobs, [generating.pending])
        repeatable = turn is not None and call.caller.key is not None
        sent, last = bytearray(), b""

        def whole(session: SessionId | None, carried: str | None) -> bytes:
            nonlocal last
            last = event(generating.ending(session, carried))
            return bytes(sent + last)

        try:
            yield headers
            async with aclosing(coming):
                async for new in coming:
                    if new.text:
                        logs = {"logprobs": logs_of(new.chosen)} if body.logprobs else {}
                        piece = event({"index": new.index, "text": new.text} | logs)
                        if repeatable:
                            sent += piece
                        yield piece
            after = await generating.finish(0)
            if turn is None:
                seat.reply(after, whole)
            elif await seat.move(after, whole) is None:
                raise SessionConflictError("another call moved the session; this one changed nothing")
        except Exception as error:
            yield event(problem_of(broken(error), request), "error")
            return
        finally:
            generating.pending.cancel()
        yield last


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
        model, tokenizer = seat.model, seat.model.tokenizer
        if body.per_position:
            check_candidates(len(body.text), min(body.top_k, tokenizer.size), call.state, "$.top_k")
        paths = {"$.text": body.text} | {f"$.candidates[{i}]": text for i, text in enumerate(continuations)}
        (text, *others), unknown = await read_texts(tokenizer, paths, body.unknown)
        if body.per_position:
            check_scores(len(text.tokens), model, "$.per_position")
        longest = max((len(other.tokens) for other in others), default=0)
        check_scores(min(RANKED_ROWS, len(others)) * longest, model, "$.candidates")
        for i, other in enumerate(others):
            if not other.pieces:
                raise InvalidRequestError("is empty", f"$.candidates[{i}]")
        check_follows(seat.start, text.composed, "$.text")
        lengths, size = [len(other.tokens) for other in others], tokenizer.size
        held = predict_bytes(len(text.tokens), body.per_position, min(body.top_k, size), lengths, size)
        call.hold(held, "$.per_position" if body.per_position else "$.text", model.engine)
        task = predict(tokenizer, text, body.per_position, seat.start, others)
        steps = 1 + len(text.tokens) + sum(len(other.tokens) for other in others)
        scored = await asyncio.wrap_future(model.engine.submit(task, steps, call.deadline, call.group))
        call.state.metrics.read.labels(model.label).inc(steps - 1)

        def explain() -> dict[str, Any]:
            after = prediction(tokenizer, text, scored.scores, body.top_k, False)
            costs: list[PositionBlock] = []

            def counted() -> Iterator[PositionBlock]:
                for block in position_blocks(tokenizer, text, scored.scores, body.top_k):
                    costs.append(PositionBlock([], block.nats, block.characters))
                    yield block

            positions = json_list(positions_json(counted())) if body.per_position else None
            return {
                "next": probabilities(after.candidates),
                "positions": positions,
                "bits_per_character": bits_per_character(costs),
            }

        items = len(scored.scores) * min(body.top_k, tokenizer.size)
        told = await beside(items > INLINE_ITEMS, explain)
        ranked = [
            {
                "index": one.index,
                "text": continuations[one.index],
                "logprob": one.log,
                "logprob_per_character": one.log_per_character,
            }
            for one in scored.ranked
        ]

        def answer(session: SessionId | None, carried: str | None) -> bytes:
            """A `PredictAnswer`."""
            return encoded(
                {
                    "model": _model_id(model),
                    **told,
                    "candidates": None if body.candidates is None else ranked,
                    "unknown_characters": unknown,
                    "session": None if session is None else session.model_dump(),
                    "state": carried,
                }
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
