"""Completions of OpenAI's API: from the request to the engine and back, whole and streamed."""

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
from service.http.offload import INLINE_CHARACTERS, offload_if_large, take_turns, wait_all
from service.http.problems import openai_error, problem_of
from service.http.state import AppState
from service.http.streaming import as_carry_error, sse_event
from service.kind import Model
from service.metrics import StreamedSteps
from service.registry import labels
from service.text.answers import INLINE_ITEMS, json_list
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
"""Names that clients send by default. They mean the default text model, unless a model has the name."""


def find_text_model(name: str | None, app: AppState) -> Model[TextManifest]:
    """The text model that a client of OpenAI's API names.

    Raises:
        ModelNotFoundError, ModelRefusedError: no text model has the name, or its folder was refused.
    """
    models = app.registry.current
    try:
        if name in DEFAULT_NAMES and not any(model.manifest.name == name for model in models.models):
            name = None
        return models.find_kind(name, TEXT)
    except (ModelNotFoundError, WrongModelKindError):  # this API knows text models only
        loaded = labels(models.of_kind(TEXT))
        problem = "no text model is the default" if name is None else f"no text model {name!r}"
        raise ModelNotFoundError(f"{problem}; those loaded are: {loaded}", "$.model") from None


class Completion:
    """Texts that continue the prompts of one request. The constructor refuses what it can without reading them."""

    id_prefix = "cmpl"
    answer_object = "text_completion"
    frame_object = "text_completion"

    def __init__(self, body: CompletionPayload, call: RequestContext) -> None:
        self._body = body
        self._call = call
        self._model = find_text_model(body.model, call.app)
        self._tokenizer = self._model.manifest.tokenizer
        body.check(call.app.settings)
        self._length = body.length(call.app.settings)
        # `best_of` compares texts by their log-probabilities: it needs them though nobody asks for them.
        self._candidates = 0 if body.logprobs is None and body.texts == body.n else max(1, body.logprobs or 0)
        """Candidates at each token."""
        self._prompts = body.each_prompt
        self._requests: list[GenerateRequest] = []
        self._rows: list[list[Row]] = [[] for _ in self._prompts]
        self._lengths: list[int] = []
        """Tokens of each prompt."""
        self._offsets: list[int] = []
        """By prompt: the character at which its returned texts begin."""
        self._head: dict[str, Any] = {
            "id": f"{self.id_prefix}-{uuid.uuid4().hex}",
            "object": self.frame_object if body.stream else self.answer_object,
            "created": int(time.time()),
            "model": self._model.label,
            "system_fingerprint": f"{self._model.label}-{self._model.codec.sha256[:12]}",
        }

    async def prepare(self) -> None:
        """Tokenize the prompts and check the limits."""
        body, tokenizer, state_bytes = self._body, self._tokenizer, self._model.graphs.state_bytes
        params = body.params(tokenizer)
        steps, max_bytes = 0, 0
        async for path, prompt in take_turns(self._prompts.items()):
            text = await offload_if_large(len(prompt) > INLINE_CHARACTERS, read_prompt, prompt, tokenizer, path)
            self._lengths.append(len(text.ids))
            self._offsets.append(0 if body.echo else sum(map(len, text.tokens)))
            request = GenerateRequest(
                prompt=text,
                max_length=self._length,
                params=params,
                # One seed for all prompts: each gets what it would get alone. Without one, equal prompts differ.
                seed=secrets.randbits(53) if body.seed is None or body.seed < 0 else body.seed,
                stop=tuple(body.stop),
                n=body.texts,
                logprobs=self._candidates,
                echo=body.echo,
            )
            steps += request.cost_steps
            max_bytes += request.max_bytes(tokenizer.size, state_bytes)
            self._requests.append(request)
        self._check_limits(steps)
        self._call.take(steps)
        self._call.hold(max_bytes, "$.logprobs" if body.logprobs else body.prompt_path, self._model.engine)

    def submit(self, i: int, listener: Listener | None = None) -> "Future[SequenceState]":
        """Submit one prompt to the engine."""
        model, request = self._model, self._requests[i]
        self._rows[i], task = generate(self._tokenizer, request, listener=listener)
        return self._call.submit(model.engine, task, request.cost_steps)

    async def whole(self) -> dict[str, Any]:
        """The whole answer."""
        await self.prepare()
        done = await wait_all(dict(enumerate(self._lengths)), self.submit)
        self._raise_failure([done[i] for i in range(len(done))])
        items = sum(len(rows) for rows in self._rows)
        items += self._candidates * sum(len(row.echo) + len(row.tokens) for row in self._all_rows())
        choices = await offload_if_large(items > INLINE_ITEMS, self._choices)
        usage = self._usage()
        self._call.app.metrics.count(self._model.label, usage["prompt_tokens"], usage["completion_tokens"])
        return self._head | {"choices": choices, "usage": usage}

    async def frames(self, request: Request) -> AsyncGenerator[Any, None]:
        """The headers of a stream, once nothing can be refused any more; then its frames."""
        notifier, pending = self._call.app.notifier, list[Future[SequenceState]]()
        try:
            await self.prepare()
            async for i in take_turns(range(len(self._requests))):
                pending.append(self.submit(i, notifier))
            yield {"Cache-Control": "no-store"}
            try:
                rows, options = self._all_rows(), self._body.stream_options
                offsets = [offset for offset in self._offsets for _ in range(self._body.n)]
                for choice in self._opening_choices(len(rows)):
                    yield self._frame(choice)
                updates = stream_updates(notifier, self._tokenizer, rows, self._candidates, pending)
                steps = StreamedSteps(self._call.app.metrics, self._model.label)
                async with aclosing(updates):
                    async for delta in updates:
                        for choice in self._delta_choices(delta, offsets[delta.index]):
                            yield self._frame(choice)
                        offsets[delta.index] += len(delta.text)
                        steps.count(sum(self._lengths), sum(len(row.tokens) for row in rows))
                self._raise_failure(pending)
                if options is not None and options.include_usage:
                    yield sse_event(self._head | {"choices": [], "usage": self._usage()})
                yield DONE
            except Exception as error:
                yield sse_event(openai_error(problem_of(as_carry_error(error), request)))
        finally:
            for future in pending:
                future.cancel()

    def _frame(self, choice: dict[str, Any]) -> bytes:
        options = self._body.stream_options
        usage = self._usage() if options is not None and options.continuous_usage_stats else None
        return sse_event(self._head | {"choices": [choice], "usage": usage})

    def _all_rows(self) -> list[Row]:
        return [row for rows in self._rows for row in rows]

    def _check_limits(self, steps: int) -> None:
        """`steps`: the most that all texts take."""
        body, app, lengths = self._body, self._call.app, self._lengths
        limit = int(self._call.max_share * app.settings.max_waiting_steps)
        if len(lengths) > 1 and steps > limit:
            raise LimitExceededError(
                f"at most {limit} tokens to read and to write, and these are {steps}", body.prompt_path
            )
        if self._candidates:
            positions = self._length * body.texts * len(lengths) + sum(lengths) * body.echo
            check_scores(positions, self._model, "$.best_of" if body.logprobs is None else "$.logprobs")
        if body.logprobs is not None:
            positions = body.n * (self._length * len(lengths) + sum(lengths) * body.echo)
            check_candidates(positions, 1 + body.logprobs, app.settings, "$.logprobs")

    def _raise_failure(self, pending: "Sequence[Future[SequenceState]]") -> None:
        """Raise the error of the first prompt that failed. Those that were cancelled come last: a failure cancels the
        others."""
        for path, future in sorted(zip(self._prompts, pending, strict=True), key=lambda pair: pair[1].cancelled()):
            try:
                future.result()
            except InvalidRequestError as error:
                error.path = path
                raise

    def _choices(self) -> orjson.Fragment:
        """The `n` best texts of each prompt, as JSON."""
        body = self._body

        def blocks() -> Iterator[list[dict[str, Any]]]:
            index = 0
            for offset, rows in zip(self._offsets, self._rows, strict=True):
                if body.texts > body.n:
                    rows = sorted(rows, key=self._mean_logprob, reverse=True)[: body.n]
                for row in rows:
                    yield [self._choice(index, row, offset)]
                    index += 1

        return json_list(blocks())

    def _choice(self, index: int, row: Row, offset: int) -> dict[str, Any]:
        """A whole text as a choice of the answer."""
        logprobs, count = None, self._body.logprobs
        if count is not None:
            blocks = logprob_blocks(self._tokenizer, row, self._candidates)
            logprobs = logprob_lists_json(blocks, count, offset)
        return _completion_choice(index, row.returned_text, logprobs, row.finish_reason)

    def _mean_logprob(self, row: Row) -> float:
        lead = len(row.echo)
        return mean_logprob(row_logprobs(self._tokenizer, row, lead, lead + len(row.tokens), self._candidates))

    def _opening_choices(self, texts: int) -> list[dict[str, Any]]:
        """The choices of the frames that open a stream of so many texts, one a frame."""
        return []

    def _delta_choices(self, delta: TextDelta, offset: int) -> list[dict[str, Any]]:
        """The choices of the frames with new text, one a frame. The finish reason comes in a frame without text."""
        count, choices = self._body.logprobs, []
        if delta.text:
            logprobs = None if count is None else logprob_lists(delta.logprobs, count, offset)
            choices.append(_completion_choice(delta.index, delta.text, logprobs, None))
        if delta.finish_reason is not None:
            logprobs = None if count is None else logprob_lists([], count, 0)
            choices.append(_completion_choice(delta.index, "", logprobs, delta.finish_reason))
        return choices

    def _usage(self) -> dict[str, int]:
        """The `CompletionUsage` so far."""
        prompt, completion = sum(self._lengths), sum(len(row.tokens) for row in self._all_rows())
        return CompletionUsage(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        ).model_dump()


def _completion_choice(index: int, text: str, logprobs: Any, reason: FinishReason | None) -> dict[str, Any]:
    """A `CompletionChoice`."""
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
