"""The completions API of OpenAI, as its `openai` client calls it (version 3.54), answered by the text models."""

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.openapi.models import Example
from fastapi.responses import StreamingResponse

from service.api.calls import TIMED, Call, ThisCall, known
from service.api.forecast import all_done
from service.api.json_route import JsonRoute, json_answer
from service.api.openai_payload import (
    CompletionAnswer,
    CompletionChoice,
    CompletionPayload,
    CompletionUsage,
    ErrorAnswer,
    ModelCard,
    ModelList,
    logprobs_of,
    mean_log,
)
from service.api.problems import openai_error, problem_of
from service.api.state import CarryState, State
from service.api.streams import broken, event, news
from service.api.text import STREAM, check_candidates, check_length, check_scores
from service.engine.sequence import Snapshot
from service.errors import (
    InvalidRequestError,
    LimitExceededError,
    ModelNotFoundError,
    NotOfferedError,
    WrongModelKindError,
)
from service.generation import Chosen, FinishReason, GenerateRequest, Listener, Row, continuation, generate
from service.registry import Model

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)

EXAMPLES: dict[str, Example] = {
    "sampled": {
        "summary": "The same seed gives the same text",
        "value": {"model": "text", "prompt": "It was ", "max_tokens": 120, "temperature": 0.7, "seed": 7},
    },
    "scored": {
        "summary": "How probable a text is, with two candidates in the place of each of its tokens",
        "value": {"model": "text", "prompt": "It was ", "max_tokens": 0, "echo": True, "logprobs": 2},
    },
}
DONE = b"data: [DONE]\n\n"


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Those of a route, for OpenAPI."""
    return {status: {"description": HTTPStatus(status).phrase, "model": ErrorAnswer} for status in statuses}


@router.post(
    "/completions",
    operation_id="openai_create_completion",
    response_model=CompletionAnswer,
    openapi_extra=TIMED,
    responses=STREAM | _errors(400, 401, 404, 409, 413, 415, 429, 503, 504),
)
async def post_completions(
    body: Annotated[CompletionPayload, Body(openapi_examples=EXAMPLES)], call: ThisCall, request: Request
) -> Response:
    """What `client.completions.create` asks for: texts that continue prompts. With `stream`, server-sent events, each
    with what is new of one text, `finish_reason` in its last, then `[DONE]`; an error ends them instead."""
    completion = _Completion(body, call)
    if body.stream:
        frames = completion.frames(request)
        headers = await anext(frames)  # what is refused before the first token is an answer of its own
        return StreamingResponse(frames, media_type="text/event-stream", headers=headers)
    return json_answer(await completion.whole())


@router.get("/models", operation_id="openai_list_models", dependencies=[Depends(known)], responses=_errors(401))
async def get_models(state: CarryState) -> ModelList:
    """The text models."""
    current = state.registry.current
    texts = [model for model in current.models if model.manifest.kind == "text"]
    newest = {model.manifest.name: model for model in reversed(texts)}
    return ModelList(data=[_card(m, m.manifest.name if newest[m.manifest.name] is m else m.label) for m in texts])


@router.get(
    "/models/{model}", operation_id="openai_get_model", dependencies=[Depends(known)], responses=_errors(401, 404, 409)
)
async def get_model(model: str, state: CarryState) -> ModelCard:
    """One text model, by `name` or `name@version`."""
    return _card(_text_model(model, state), model)


@router.api_route(
    "/{rest:path}",
    methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
    dependencies=[Depends(known)],
    include_in_schema=False,
)
async def refuse(request: Request) -> Response:
    """What else that API has."""
    raise NotOfferedError(
        f"{request.method} {request.url.path} is not offered here: these are completion models, "
        "for POST /v1/completions, GET /v1/models and GET /v1/models/{model}"
    )


def _text_model(name: str, state: State) -> Model:
    try:
        return state.registry.find_kind(name, "text")
    except WrongModelKindError as error:  # to this API, the others are not there
        raise ModelNotFoundError(error.detail, error.path) from None


def _card(model: Model, id: str) -> ModelCard:
    created = datetime.fromisoformat(model.manifest.provenance.created_at)
    return ModelCard(id=id, created=int(created.timestamp()))


class _Completion:
    """Prompts to be continued. What can be refused without work is refused when it is made."""

    def __init__(self, body: CompletionPayload, call: Call) -> None:
        self._body = body
        self._call = call
        self._model = _text_model(body.model, call.state)
        body.check(call.state.settings)
        tokenizer = self._model.tokenizer
        prompts, params = body.prompts(tokenizer), body.params(tokenizer)
        # Where texts are compared, too, each must be told how probable it was.
        self._told = 0 if body.logprobs is None and body.texts == body.n else max(1, body.logprobs or 0)
        """Candidates that are asked for at each token."""
        self._wishes = [
            GenerateRequest(
                prompt=prompt,
                max_length=body.max_tokens,
                params=params,
                # The same of all: each prompt gets what it would get alone. None: not even equal ones get the same.
                seed=secrets.randbits(53) if body.seed is None else body.seed,
                stop=tuple(body.stop),
                n=body.texts,
                logprobs=self._told,
                echo=body.echo,
            )
            for prompt in prompts.values()
        ]
        self._paths = [*prompts]
        self._rows: list[list[Row]] = [[] for _ in prompts]
        self._read = [len(tokenizer.encode(prompt)[1]) for prompt in prompts.values()]
        self._check_limits()
        self._head: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._model.label,
            "system_fingerprint": f"{self._model.label}-{self._model.codec.sha256[:12]}",
        }

    def begin(self, i: int, listener: Listener | None = None) -> "Future[Snapshot]":
        """Let the texts of one prompt be written."""
        model, wish = self._model, self._wishes[i]
        self._rows[i], task = generate(model.tokenizer, wish, listener=listener)
        return model.engine.submit(task, wish.work, self._call.deadline)

    async def whole(self) -> dict[str, Any]:
        """The answer, when all are written."""
        ended = await all_done(dict(enumerate(self._read)), self.begin)
        self._check([ended[i] for i in range(len(ended))])
        # Many log-probabilities would keep the others waiting for the event loop.
        choices = await asyncio.to_thread(self._choices) if self._told else self._choices()
        return self._head | {"choices": choices, "usage": self._usage()}

    async def frames(self, request: Request) -> AsyncIterator[Any]:
        """The headers of a stream, as soon as nothing more can be refused; then its frames."""
        wakers, pending = self._call.state.wakers, list[Future[Snapshot]]()
        try:
            for i in range(len(self._wishes)):
                pending.append(self.begin(i, wakers))
            yield {"Cache-Control": "no-store"}
            try:
                offsets = [offset for offset in self._offsets() for _ in range(self._body.n)]
                rows = [row for some in self._rows for row in some]
                async for new in news(wakers, self._model.tokenizer, rows, self._told, pending):
                    choice = self._choice(new.index, new.text, new.chosen, offsets[new.index], new.finish_reason)
                    offsets[new.index] += len(new.text)
                    yield event(self._head | {"choices": [choice], "usage": None})
                self._check(pending)
                usage = self._usage()
                if self._body.stream_options is not None and self._body.stream_options.include_usage:
                    yield event(self._head | {"choices": [], "usage": usage})
                yield DONE
            except Exception as error:
                yield event(openai_error(problem_of(broken(error), request)))
        finally:
            for done in pending:
                done.cancel()

    def _check_limits(self) -> None:
        body, state, read = self._body, self._call.state, self._read
        check_length("".join(wish.prompt for wish in self._wishes), state, "$.prompt")
        work, most = sum(wish.work for wish in self._wishes), state.settings.max_waiting_steps
        if len(read) > 1 and work > most:
            raise LimitExceededError(f"at most {most} tokens to read and to write, and these are {work}", "$.prompt")
        if self._told:
            positions = body.max_tokens * body.texts * len(read) + sum(read) * body.echo
            check_scores(positions, self._model, "$.best_of" if body.logprobs is None else "$.logprobs")
        if body.logprobs is not None:
            positions = body.n * (body.max_tokens * len(read) + sum(read) * body.echo)
            check_candidates(positions, 1 + body.logprobs, state, "$.logprobs")

    def _check(self, pending: "Sequence[Future[Snapshot]]") -> None:
        """Raise what any of them failed with; where one has, others were cancelled."""
        for path, done in sorted(zip(self._paths, pending, strict=True), key=lambda one: one[1].cancelled()):
            try:
                done.result()
            except InvalidRequestError as error:
                error.path = path
                raise

    def _offsets(self) -> list[int]:
        """Of each prompt, where the texts that are given back begin."""
        read = self._model.tokenizer.read
        return [0 if self._body.echo else len(read(wish.prompt)) for wish in self._wishes]

    def _choices(self) -> list[dict[str, Any]]:
        """Of each prompt the n texts, of more the most probable."""
        body = self._body
        found: list[dict[str, Any]] = []
        for offset, rows in zip(self._offsets(), self._rows, strict=True):
            texts = [continuation(self._model.tokenizer, row, self._told) for row in rows]
            if body.texts > body.n:
                texts.sort(key=lambda text: mean_log(text.chosen[len(rows[0].echoed) :]), reverse=True)
            for text in texts[: body.n]:
                found.append(self._choice(len(found), text.text, text.chosen, offset, text.finish_reason))
        return found

    def _choice(
        self, index: int, text: str, chosen: Sequence[Chosen], offset: int, reason: FinishReason | None
    ) -> dict[str, Any]:
        count = self._body.logprobs
        logprobs = None if count is None else logprobs_of(chosen, count, offset)
        return CompletionChoice(text=text, index=index, logprobs=logprobs, finish_reason=reason).model_dump()

    def _usage(self) -> dict[str, int]:
        read, written = sum(self._read), sum(len(row.text) for some in self._rows for row in some)
        metrics, label = self._call.state.metrics, self._model.label
        metrics.read.labels(label).inc(read)
        metrics.predicted.labels(label).inc(written)
        return CompletionUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written).model_dump()
