"""Calls about texts: from a validated body to a task of the engine, and from its result to the fields of the answer.
Knows nothing of HTTP: the routes and carry/local.py are the callers.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from service.engine.sequence import SequenceState, Task
from service.errors import InvalidRequestError, LimitExceededError
from service.kind import Model
from service.settings import Settings
from service.text.answers import candidate_dicts, json_list, logprobs_json, position_dicts
from service.text.decoder import Listener, Row
from service.text.limits import check_candidates, check_length, check_scores
from service.text.logprobs import logprob_blocks
from service.text.manifest import Pairs, TextManifest
from service.text.sampling import SamplingParams
from service.text.schemas import GenerateBody, PredictBody
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
from service.text.task import GenerateRequest, generate
from service.text_pieces import check_follows
from service.tokenizer import TokenizedText, Tokenizer

TextModel = Model[TextManifest]


@dataclass(frozen=True)
class Texts:
    """The texts of a request, tokenized, and their characters or words that the model does not know."""

    tokenized: list[TokenizedText]
    unknown: list[str]


def read_texts(tokenizer: Tokenizer, texts: Mapping[str, str], unknown: Literal["replace", "error"]) -> Texts:
    """Tokenize texts, given by their JSON paths.

    Raises:
        InvalidRequestError: a text cannot be read; or it has unknown characters or words, and `unknown` is "error".
    """
    tokenized = [tokenizer.tokenize(text, path) for path, text in texts.items()]
    if unknown == "error":
        for path, text in zip(texts, tokenized, strict=True):
            tokenizer.check_known(text, path)
    return Texts(tokenized, tokenizer.unknown(*tokenized))


def check_generate(body: GenerateBody, settings: Settings) -> None:
    """Check the limits that do not depend on a model.

    Raises:
        LimitExceededError: a field exceeds one.
    """
    text = _text_of(body)
    check_length(text, settings, body.text_path)
    limit = settings.max_generated_length
    if body.max_length * (body.beams or body.n) > limit:
        texts = "over all n texts" if body.beams is None else "over all beams"
        raise LimitExceededError(f"at most {limit} characters are generated at once, {texts}", "$.max_length")
    positions = body.max_length + (len(text) if body.echo else 0)
    check_candidates(positions * body.n, body.logprobs, settings, "$.logprobs")


def texts_of_generate(body: GenerateBody, manifest: TextManifest) -> dict[str, str]:
    """The texts to tokenize, by their JSON paths.

    Raises:
        InvalidRequestError: the body has a `source`, and the model was not trained on pairs.
    """
    if body.source is None:
        return {body.text_path: _text_of(body)}
    if manifest.pairs is None:
        detail = f"{manifest.label} was not trained on pairs: send a `prompt`, or name a model of pairs"
        raise InvalidRequestError(detail, body.text_path)
    return {body.text_path: body.source + manifest.pairs.separator}


def _check_source(text: TokenizedText, pairs: Pairs, start: SequenceState, tokenizer: Tokenizer) -> None:
    """Check that a source, with its separator, is one as in training.

    Raises:
        InvalidRequestError: it contains a mark of the pairs, or is not the first text of its sequence.
    """
    for mark in (pairs.separator, pairs.end):
        if mark in text.tokens[:-1]:
            detail = f"contains {mark!r}, which separates sources and targets in this model: leave it out"
            raise InvalidRequestError(detail, "$.source")
    if start.position:
        read = f"{start.position} {tokenizer.level}s"
        detail = f"begins a new sequence, but the session or state has read {read} already: begin a new one"
        raise InvalidRequestError(detail, "$.source")


def _text_of(body: GenerateBody) -> str:
    """The prompt or the source."""
    text = body.prompt if body.source is None else body.source
    assert text is not None
    return text


class PreparedGeneration:
    """A valid `GenerateBody`, with its task, and its `rows`: the texts, while the engine generates them and after."""

    def __init__(
        self,
        body: GenerateBody,
        model: TextModel,
        start: SequenceState,
        returns_state: bool,
        texts: Texts,
        listener: Listener | None = None,
    ) -> None:
        """`texts`: those of `texts_of_generate`.

        Raises:
            InvalidRequestError, LimitExceededError: a field is not acceptable.
        """
        [prompt], tokenizer = texts.tokenized, model.manifest.tokenizer
        self.model = model
        self._body = body
        self._unknown = texts.unknown
        self._prompt_length = len(prompt.ids)
        pairs = None if body.source is None else model.manifest.pairs
        if pairs is not None:
            _check_source(prompt, pairs, start, tokenizer)
        if returns_state and body.n > 1:
            raise InvalidRequestError('only one text can move a session or state: n is 1, or `"commit": false`', "$.n")
        if body.logprobs:
            positions = body.max_length * (body.beams or body.n) + (self._prompt_length if body.echo else 0)
            check_scores(positions, model, "$.logprobs")
        self._seed = secrets.randbits(53) if body.seed is None else body.seed
        request = GenerateRequest(
            prompt=prompt,
            max_length=body.max_length,
            params=SamplingParams(
                body.used_temperature,
                body.top_k,
                body.top_p,
                body.min_p,
                body.repetition_penalty,
                body.frequency_penalty,
                body.presence_penalty,
                tokenizer.biases(body.logit_bias, "$.logit_bias"),
            ),
            seed=self._seed,
            stop=tuple(body.stop) if pairs is None else (*body.stop, pairs.end),
            n=body.n,
            logprobs=body.logprobs,
            echo=body.echo,
            beams=body.beams or 0,
            path=body.text_path,
        )
        self.steps = request.cost_steps
        self.max_bytes = request.max_bytes(tokenizer.size, model.graphs.state_bytes)
        self.path = "$.logprobs" if body.logprobs else "$.beams" if body.beams else body.text_path
        self.task: Task[SequenceState]
        self.rows: list[Row]
        self.rows, self.task = generate(tokenizer, request, start, returns_state, listener)

    @property
    def num_read(self) -> int:
        """Tokens that the model reads."""
        return self._prompt_length

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return sum(len(row.tokens) for row in self.rows)

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer's texts, those of the echo included."""
        return sum(len(row.echo) + len(row.tokens) for row in self.rows)

    def choices(self, logprobs: int) -> list[dict[str, Any]]:
        """The texts as `Choice`s, once the task is done; `logprobs`: candidates at each token."""
        tokenizer = self.model.manifest.tokenizer
        return [
            {
                "text": row.returned_text,
                "finish_reason": row.finish_reason,
                "logprobs": logprobs_json(logprob_blocks(tokenizer, row, logprobs)) if logprobs else None,
                "score": row.score,
            }
            for row in self.rows
        ]

    def answer(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A `GenerateAnswer` without `session` and `state`."""
        summary, first = self.summary(), choices[0]
        head = {"model": summary["model"], "text": first["text"], "finish_reason": first["finish_reason"]}
        answer = head | {"logprobs": first["logprobs"], "score": first["score"]} | summary
        return answer | {"choices": choices if self._body.n > 1 else None}

    def summary(self) -> dict[str, Any]:
        """The last event of a stream: the answer without the texts."""
        reasons = [{"finish_reason": row.finish_reason} for row in self.rows]
        return {
            "model": _model_id(self.model),
            "finish_reason": reasons[0]["finish_reason"],
            "choices": reasons if self._body.n > 1 else None,
            "seed": self._seed,
            "usage": {"prompt_characters": self._prompt_length, "generated_characters": self.num_generated},
            "unknown_characters": self._unknown,
        }


def check_predict(body: PredictBody, settings: Settings) -> None:
    """Check the limits that do not depend on a model.

    Raises:
        LimitExceededError: a field exceeds one.
    """
    check_length(body.text, settings, "$.text")
    check_length("".join(body.candidates or []), settings, "$.candidates")


def texts_of_predict(body: PredictBody) -> dict[str, str]:
    """The texts to tokenize, by their JSON paths."""
    return {"$.text": body.text} | {f"$.candidates[{i}]": text for i, text in enumerate(body.candidates or [])}


def check_positions(body: PredictBody, model: TextModel, settings: Settings) -> None:
    """Check, before the texts are tokenized, how many candidates the answer has.

    Raises:
        LimitExceededError: they are too many.
    """
    if body.per_position:
        check_candidates(len(body.text), min(body.top_k, model.manifest.tokenizer.size), settings, "$.top_k")


class PreparedPrediction:
    """A valid `PredictBody`, with its task."""

    def __init__(self, body: PredictBody, model: TextModel, start: SequenceState, texts: Texts) -> None:
        """`texts`: those of `texts_of_predict`.

        Raises:
            InvalidRequestError, LimitExceededError: a field is not acceptable.
        """
        self._text, *candidates = texts.tokenized
        self._body = body
        self._unknown = texts.unknown
        self.model = model
        tokenizer = model.manifest.tokenizer
        lengths = [len(candidate.ids) for candidate in candidates]
        if body.per_position:
            check_scores(len(self._text.ids), model, "$.per_position")
        check_scores(min(RANKED_ROWS, len(candidates)) * max(lengths, default=0), model, "$.candidates")
        for i, candidate in enumerate(candidates):
            if not candidate.tokens:
                raise InvalidRequestError("is empty", f"$.candidates[{i}]")
        check_follows(start, self._text.nfc, "$.text")
        self.top_k = min(body.top_k, tokenizer.size)
        self.max_bytes = predict_bytes(len(self._text.ids), body.per_position, self.top_k, lengths, tokenizer.size)
        self.path = "$.per_position" if body.per_position else "$.text"
        self.num_read = len(self._text.ids) + sum(lengths)
        self.steps = 1 + self.num_read
        self.task: Task[ScoredText] = predict(tokenizer, self._text, body.per_position, start, candidates)

    def predictions(self, scored: ScoredText) -> dict[str, Any]:
        """The `next`, `positions` and `bits_per_character` of a `PredictAnswer`."""
        body, tokenizer = self._body, self.model.manifest.tokenizer
        nats, characters = 0.0, 0

        def blocks() -> Iterator[list[Position]]:
            nonlocal nats, characters
            for block in position_blocks(tokenizer, self._text, scored.scores, body.top_k):
                nats += block.nats
                characters += block.characters
                yield block.positions

        positions = json_list(map(position_dicts, blocks())) if body.per_position else None
        return {
            "next": candidate_dicts(next_candidates(tokenizer, scored.scores, body.top_k)),
            "positions": positions,
            "bits_per_character": bits_per_character(nats, characters),
        }

    def answer(self, scored: ScoredText, predictions: Mapping[str, Any]) -> dict[str, Any]:
        """A `PredictAnswer` with these `predictions`, without `session` and `state`."""
        continuations = self._body.candidates or []
        ranking = [
            {
                "index": ranked.index,
                "text": continuations[ranked.index],
                "logprob": ranked.logprob,
                "logprob_per_character": ranked.logprob_per_character,
            }
            for ranked in scored.ranked
        ]
        return {
            "model": _model_id(self.model),
            **predictions,
            "candidates": None if self._body.candidates is None else ranking,
            "unknown_characters": self._unknown,
        }


def _model_id(model: TextModel) -> dict[str, Any]:
    """A `ModelId`."""
    return {"name": model.manifest.name, "version": model.manifest.version}
