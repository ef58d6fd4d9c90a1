"""The completions API of OpenAI, as its `openai` client calls it (version 3.54), answered by the text models."""

import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.openapi.models import Example

from service.api.calls import TIMED, Call, ThisCall, known
from service.api.forecast import all_done
from service.api.json_route import JsonRoute, json_answer
from service.api.offload import beside, in_turns
from service.api.openai_payload import (
    CompletionAnswer,
    CompletionPayload,
    CompletionUsage,
    ErrorAnswer,
    ModelCard,
    ModelList,
    logprobs_json,
    logprobs_of,
    mean_log,
    read_prompt,
)
from service.api.problems import openai_error, problem_of
from service.api.state import CarryState, State
from service.api.streams import EventStream, News, broken, event, news
from service.api.text import STREAM, check_candidates, check_scores
from service.api.text_answers import INLINE_CHARACTERS, INLINE_ITEMS, json_list
from service.engine.sequence import Snapshot
from service.errors import (
    InvalidRequestError,
    LimitExceededError,
    ModelNotFoundError,
    NotOfferedError,
    WrongModelKindError,
)
from service.generation import (
    FinishReason,
    GenerateRequest,
    Listener,
    Row,
    chosen,
    chosen_blocks,
    generate,
    whole_text,
)
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
        return EventStream(frames, headers, call.deadline)
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
        # Where texts are compared, too, each must be told how probable it was.
        self._told = 0 if body.logprobs is None and body.texts == body.n else max(1, body.logprobs or 0)
        """Candidates that are asked for at each token."""
        self._prompts = body.each_prompt
        self._wishes: list[GenerateRequest] = []
        self._rows: list[list[Row]] = [[] for _ in self._prompts]
        self._read: list[int] = []
        """Tokens of each prompt."""
        self._offsets: list[int] = []
        """Of each prompt, where the texts that are given back begin."""
        self._head: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._model.label,
            "system_fingerprint": f"{self._model.label}-{self._model.codec.sha256[:12]}",
        }

    async def prepare(self) -> None:
        """Read the prompts, and see whether they are too much."""
        body, tokenizer = self._body, self._model.tokenizer
        params = body.params(tokenizer)
        async for path, prompt in in_turns(self._prompts.items()):
            text = await beside(len(prompt) > INLINE_CHARACTERS, read_prompt, prompt, tokenizer, path)
            self._read.append(len(text.tokens))
            self._offsets.append(0 if body.echo else sum(map(len, text.pieces)))
            self._wishes.append(
                GenerateRequest(
                    prompt=text,
                    max_length=body.max_tokens,
                    params=params,
                    # The same of all: each prompt gets what it would get alone. None: not even equal ones get the same.
                    seed=secrets.randbits(53) if body.seed is None else body.seed,
                    stop=tuple(body.stop),
                    n=body.texts,
                    logprobs=self._told,
                    echo=body.echo,
                )
            )
        self._check_limits()

    def begin(self, i: int, listener: Listener | None = None) -> "Future[Snapshot]":
        """Let the texts of one prompt be written."""
        model, wish = self._model, self._wishes[i]
        self._rows[i], task = generate(model.tokenizer, wish, listener=listener)
        return model.engine.submit(task, wish.work, self._call.deadline)

    async def whole(self) -> dict[str, Any]:
        """The answer, when all are written."""
        await self.prepare()
        ended = await all_done(dict(enumerate(self._read)), self.begin)
        self._check([ended[i] for i in range(len(ended))])
        items = sum(len(rows) for rows in self._rows)
        items += self._told * sum(len(row.echoed) + len(row.text) for rows in self._rows for row in rows)
        choices = await beside(items > INLINE_ITEMS, self._choices)
        return self._head | {"choices": choices, "usage": self._usage()}

    async def frames(self, request: Request) -> AsyncGenerator[Any, None]:
        """The headers of a stream, as soon as nothing more can be refused; then its frames."""
        wakers, pending = self._call.state.wakers, list[Future[Snapshot]]()
        try:
            await self.prepare()
            async for i in in_turns(range(len(self._wishes))):
                pending.append(self.begin(i, wakers))
            yield {"Cache-Control": "no-store"}
            try:
                offsets = [offset for offset in self._offsets for _ in range(self._body.n)]
                rows = [row for some in self._rows for row in some]
                async with aclosing(news(wakers, self._model.tokenizer, rows, self._told, pending)) as coming:
                    async for new in coming:
                        for frame in self._frames_of(new, offsets[new.index]):
                            yield event(self._head | {"choices": [frame], "usage": None})
                        offsets[new.index] += len(new.text)
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
        for path, done in sorted(zip(self._prompts, pending, strict=True), key=lambda one: one[1].cancelled()):
            try:
                done.result()
            except InvalidRequestError as error:
                error.path = path
                raise

    def _choices(self) -> orjson.Fragment:
        """Of each prompt the n texts, of more the most probable, as JSON."""
        body, tokenizer = self._body, self._model.tokenizer

        def one(index: int, row: Row, offset: int) -> dict[str, Any]:
            logprobs = None
            if body.logprobs is not None:
                blocks = chosen_blocks(tokenizer, row, self._told)
                logprobs = logprobs_json(blocks, body.logprobs, offset)
            return _choice(index, whole_text(row), logprobs, row.finish_reason)

        def each() -> Iterator[list[dict[str, Any]]]:
            index = 0
            for offset, rows in zip(self._offsets, self._rows, strict=True):
                if body.texts > body.n:
                    rows = sorted(rows, key=self._mean_log, reverse=True)[: body.n]
                for row in rows:
                    yield [one(index, row, offset)]
                    index += 1

        return json_list(each())

    def _mean_log(self, row: Row) -> float:
        """By which texts are compared."""
        tokenizer, lead = self._model.tokenizer, len(row.echoed)
        return mean_log(chosen(tokenizer, row, lead, lead + len(row.text), self._told))

    def _frames_of(self, new: News, offset: int) -> list[dict[str, Any]]:
        """The choices of the frames that tell what is new of a text; its end comes in one of its own, without text."""
        count = self._body.logprobs
        ending = None if count is None else logprobs_of([], count, 0)
        logprobs = None if count is None else logprobs_of(new.chosen, count, offset)
        frames = [_choice(new.index, new.text, logprobs, None)] if new.text else []
        if new.finish_reason is not None:
            frames.append(_choice(new.index, "", ending, new.finish_reason))
        return frames

    def _usage(self) -> dict[str, int]:
        read, written = sum(self._read), sum(len(row.text) for some in self._rows for row in some)
        metrics, label = self._call.state.metrics, self._model.label
        metrics.read.labels(label).inc(read)
        metrics.predicted.labels(label).inc(written)
        return CompletionUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written).model_dump()


def _choice(index: int, text: str, logprobs: Any, reason: FinishReason | None) -> dict[str, Any]:
    """A `CompletionChoice`."""
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
