"""Texts that continue prompts, as answers of OpenAI's API, whole and streamed."""

import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import Request

from service.engine.sequence import SequenceState
from service.errors import InvalidRequestError, LimitExceededError, ModelNotFoundError, WrongModelKindError
from service.http.context import RequestContext
from service.http.offload import offload_if_large, take_turns, wait_all
from service.http.problems import openai_error, problem_of
from service.http.state import AppState
from service.http.streaming import as_carry_error, sse_event
from service.kind import Model
from service.registry import labels
from service.text.answers import INLINE_CHARACTERS, INLINE_ITEMS, json_list
from service.text.decoder import FinishReason, Listener, Row
from service.text.kind import TEXT
from service.text.limits import check_candidates, check_scores
from service.text.logprobs import logprob_blocks, row_logprobs
from service.text.manifest import TextManifest
from service.text.openai_answers import CompletionUsage, logprob_lists, logprob_lists_json, mean_logprob
from service.text.openai_payload import CompletionPayload, read_prompt
from service.text.streaming import TextDelta, stream_updates
from service.text.task import GenerateRequest, generate

DONE = b"data: [DONE]\n\n"
DEFAULT_NAMES = frozenset(
    {
        "babbage-002",
        "davinci-002",
        "gpt-3.5-turbo",
        "gpt-3.5-turbo-instruct",
        "gpt-4o-mini",
        "text-davinci-003",
    }
)
"""What clients name if nobody tells them a model: the default text model stands for it, unless one is called so."""


def text_model(name: str | None, app: AppState) -> Model[TextManifest]:
    """A text model by the name that a client of that API gives.

    Raises:
        ModelNotFoundError, ModelRefusedError: there is none, or its folder was refused.
    """
    models = app.registry.current
    try:
        if name in DEFAULT_NAMES and not any(model.manifest.name == name for model in models.models):
            name = None
        return models.find_kind(name, TEXT)
    except (ModelNotFoundError, WrongModelKindError):  # to this API, the others are not there
        there = labels(models.of_kind(TEXT))
        asked = "no text model is the default" if name is None else f"no text model {name!r}"
        raise ModelNotFoundError(f"{asked}; those loaded are: {there}", "$.model") from None


class Completion:
    """Prompts to be continued. What can be refused without work is refused when it is made."""

    id_prefix = "cmpl"
    answer_object = "text_completion"
    frame_object = "text_completion"

    def __init__(self, body: CompletionPayload, call: RequestContext) -> None:
        self._body = body
        self._call = call
        self._model = text_model(body.model, call.app)
        body.check(call.app.settings)
        self._length = body.length(call.app.settings)
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
            "id": f"{self.id_prefix}-{uuid.uuid4().hex}",
            "object": self.frame_object if body.stream else self.answer_object,
            "created": int(time.time()),
            "model": self._model.label,
            "system_fingerprint": f"{self._model.label}-{self._model.codec.sha256[:12]}",
        }

    async def prepare(self) -> None:
        """Read the prompts, and see whether they are too much."""
        body, tokenizer, state_bytes = self._body, self._model.manifest.tokenizer, self._model.graphs.state_bytes
        params = body.params(tokenizer)
        work, held = 0, 0
        async for path, prompt in take_turns(self._prompts.items()):
            text = await offload_if_large(len(prompt) > INLINE_CHARACTERS, read_prompt, prompt, tokenizer, path)
            self._read.append(len(text.ids))
            self._offsets.append(0 if body.echo else sum(map(len, text.tokens)))
            wish = GenerateRequest(
                prompt=text,
                max_length=self._length,
                params=params,
                # The same of all: each prompt gets what it would get alone. None: not even equal ones get the same.
                seed=secrets.randbits(53) if body.seed is None or body.seed < 0 else body.seed,
                stop=tuple(body.stop),
                n=body.texts,
                logprobs=self._told,
                echo=body.echo,
            )
            work += wish.cost_steps
            held += wish.max_bytes(tokenizer.size, state_bytes)
            self._wishes.append(wish)
        self._check_limits(work)
        self._call.hold(held, "$.logprobs" if body.logprobs else body.prompt_path, self._model.engine)

    def begin(self, i: int, listener: Listener | None = None) -> "Future[SequenceState]":
        """Let the texts of one prompt be written."""
        model, wish = self._model, self._wishes[i]
        self._rows[i], task = generate(model.manifest.tokenizer, wish, listener=listener)
        return model.engine.submit(task, wish.cost_steps, self._call.deadline, self._call.group)

    async def whole(self) -> dict[str, Any]:
        """The answer, when all are written."""
        await self.prepare()
        ended = await wait_all(dict(enumerate(self._read)), self.begin)
        self._check([ended[i] for i in range(len(ended))])
        items = sum(len(rows) for rows in self._rows)
        items += self._told * sum(len(row.echo) + len(row.tokens) for rows in self._rows for row in rows)
        choices = await offload_if_large(items > INLINE_ITEMS, self._choices)
        return self._head | {"choices": choices, "usage": self._usage()}

    async def frames(self, request: Request) -> AsyncGenerator[Any, None]:
        """The headers of a stream, as soon as nothing more can be refused; then its frames."""
        notifier, pending = self._call.app.notifier, list[Future[SequenceState]]()
        try:
            await self.prepare()
            async for i in take_turns(range(len(self._wishes))):
                pending.append(self.begin(i, notifier))
            yield {"Cache-Control": "no-store"}
            try:
                offsets = [offset for offset in self._offsets for _ in range(self._body.n)]
                rows = [row for some in self._rows for row in some]
                options = self._body.stream_options
                counted = options is not None and options.continuous_usage_stats
                for frame in self._opening(len(rows)):
                    yield sse_event(self._head | {"choices": [frame], "usage": self._count() if counted else None})
                async with aclosing(
                    stream_updates(notifier, self._model.manifest.tokenizer, rows, self._told, pending)
                ) as coming:
                    async for new in coming:
                        for frame in self._frames_of(new, offsets[new.index]):
                            yield sse_event(
                                self._head | {"choices": [frame], "usage": self._count() if counted else None}
                            )
                        offsets[new.index] += len(new.text)
                self._check(pending)
                total = self._usage()
                if options is not None and options.include_usage:
                    yield sse_event(self._head | {"choices": [], "usage": total})
                yield DONE
            except Exception as error:
                yield sse_event(openai_error(problem_of(as_carry_error(error), request)))
        finally:
            for done in pending:
                done.cancel()

    def _check_limits(self, work: int) -> None:
        """`work`: steps of all texts."""
        body, app, read = self._body, self._call.app, self._read
        most = app.settings.max_waiting_steps
        if len(read) > 1 and work > most:
            raise LimitExceededError(
                f"at most {most} tokens to read and to write, and these are {work}", body.prompt_path
            )
        if self._told:
            positions = self._length * body.texts * len(read) + sum(read) * body.echo
            check_scores(positions, self._model, "$.best_of" if body.logprobs is None else "$.logprobs")
        if body.logprobs is not None:
            positions = body.n * (self._length * len(read) + sum(read) * body.echo)
            check_candidates(positions, 1 + body.logprobs, app, "$.logprobs")

    def _check(self, pending: "Sequence[Future[SequenceState]]") -> None:
        """Raise what any of them failed with; where one has, others were cancelled."""
        for path, done in sorted(zip(self._prompts, pending, strict=True), key=lambda one: one[1].cancelled()):
            try:
                done.result()
            except InvalidRequestError as error:
                error.path = path
                raise

    def _choices(self) -> orjson.Fragment:
        """Of each prompt the n texts, of more the most probable, as JSON."""
        body = self._body

        def each() -> Iterator[list[dict[str, Any]]]:
            index = 0
            for offset, rows in zip(self._offsets, self._rows, strict=True):
                if body.texts > body.n:
                    rows = sorted(rows, key=self._mean_log, reverse=True)[: body.n]
                for row in rows:
                    yield [self._choice(index, row, offset)]
                    index += 1

        return json_list(each())

    def _choice(self, index: int, row: Row, offset: int) -> dict[str, Any]:
        """One text, whole."""
        logprobs, count = None, self._body.logprobs
        if count is not None:
            logprobs = logprob_lists_json(
                logprob_blocks(self._model.manifest.tokenizer, row, self._told), count, offset
            )
        return _choice(index, row.returned_text, logprobs, row.finish_reason)

    def _mean_log(self, row: Row) -> float:
        """By which texts are compared."""
        tokenizer, lead = self._model.manifest.tokenizer, len(row.echo)
        return mean_logprob(row_logprobs(tokenizer, row, lead, lead + len(row.tokens), self._told))

    def _opening(self, texts: int) -> list[dict[str, Any]]:
        """The choices of the frames that begin a stream of so many texts."""
        return []

    def _frames_of(self, new: TextDelta, offset: int) -> list[dict[str, Any]]:
        """The choices of the frames that tell what is new of a text; its end comes in one of its own, without text."""
        count = self._body.logprobs
        ending = None if count is None else logprob_lists([], count, 0)
        logprobs = None if count is None else logprob_lists(new.logprobs, count, offset)
        frames = [_choice(new.index, new.text, logprobs, None)] if new.text else []
        if new.finish_reason is not None:
            frames.append(_choice(new.index, "", ending, new.finish_reason))
        return frames

    def _count(self) -> dict[str, int]:
        """A `CompletionUsage`, so far."""
        read, written = sum(self._read), sum(len(row.tokens) for some in self._rows for row in some)
        return CompletionUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written).model_dump()

    def _usage(self) -> dict[str, int]:
        """At the end."""
        usage = self._count()
        metrics, label = self._call.app.metrics, self._model.label
        metrics.read.labels(label).inc(usage["prompt_tokens"])
        metrics.predicted.labels(label).inc(usage["completion_tokens"])
        return usage


def _choice(index: int, text: str, logprobs: Any, reason: FinishReason | None) -> dict[str, Any]:
    """A `CompletionChoice`."""
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
