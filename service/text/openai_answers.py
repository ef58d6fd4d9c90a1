"""The answers of the completions API, as the `openai` client (version 3.54) reads them."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import Field

from service.http.schemas import Answer
from service.kind import Model, ModelCard
from service.settings import Settings
from service.text.logprobs import TokenLogprob, log_probability
from service.text.manifest import TextManifest


class Logprobs(Answer):
    """Four parallel lists over the tokens: the token, the natural logarithm of its probability (`null` for the first
    token of all, which nothing precedes), those of the candidates and of itself, and where in the text it begins, the
    prompt included."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One text. With several prompts, `index` counts the texts of the first prompt, then those of the next."""

    text: str
    index: int
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None = Field(description="In a stream, `null` but in the last.")


class CompletionUsage(Answer):
    """Tokens. Those of texts that were not among the best count too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionAnswer(Answer):
    """The texts; or, in a stream, new text of one of them."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="`name@version`")
    choices: list[CompletionChoice]
    usage: CompletionUsage | None
    system_fingerprint: str = Field(description="The model, its version and the hash of its graph.")


class ModelList(Answer):
    """The text models; the newest of each name under its name, older ones as `name@version`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(Answer):
    """What went wrong, and with which parameter."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str


class ErrorAnswer(Answer):
    """An error in the form of OpenAI's API."""

    error: ErrorDetail


LISTS = tuple(Logprobs.model_fields)


def logprob_lists(logprobs: Iterable[TokenLogprob], candidates: int, offset: int) -> dict[str, list[Any]]:
    """The fields of a `Logprobs`. The first token begins at `offset`."""
    lists: dict[str, list[Any]] = {name: [] for name in LISTS}
    for entry in logprobs:
        logprob, top = None, None
        if entry.probability is not None:
            logprob = log_probability(entry.probability)
            top = {token: log_probability(p) for token, p in entry.candidates[:candidates]} | {entry.token: logprob}
        for name, item in zip(LISTS, (entry.token, logprob, top, offset), strict=True):
            lists[name].append(item)
        offset += len(entry.token)
    return lists


def logprob_lists_json(
    blocks: Iterable[Sequence[TokenLogprob]], candidates: int, offset: int
) -> dict[str, orjson.Fragment]:
    """The fields of a `Logprobs` over all blocks, encoded block by block as in `answers.json_list`."""
    parts: dict[str, list[bytes]] = {name: [] for name in LISTS}
    for block in blocks:
        for name, items in logprob_lists(block, candidates, offset).items():
            parts[name].append(orjson.dumps(items)[1:-1])
        offset += sum(len(entry.token) for entry in block)
    return {name: orjson.Fragment(b"[" + b",".join(encoded) + b"]") for name, encoded in parts.items()}


def mean_logprob(logprobs: Iterable[TokenLogprob]) -> float:
    """The mean log-probability of a token; of no tokens, minus infinity."""
    values = [log_probability(entry.probability) for entry in logprobs if entry.probability is not None]
    return sum(values) / len(values) if values else -np.inf


def model_cards(models: Sequence[Model[TextManifest]], settings: Settings) -> list[ModelCard]:
    """The cards of a `ModelList`."""
    newest = {model.manifest.name: model for model in reversed(models)}
    return [
        model_card(model, model.manifest.name if newest[model.manifest.name] is model else model.label, settings)
        for model in models
    ]


def model_card(model: Model[TextManifest], id: str, settings: Settings) -> ModelCard:
    """A model under an id."""
    created = datetime.fromisoformat(model.manifest.provenance.created_at)
    limit = settings.max_text_length
    return ModelCard(id=id, created=int(created.timestamp()), root=model.label, max_model_len=limit)
