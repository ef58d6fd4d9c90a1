"""Long texts and long answers: tokenizes texts and encodes answers on a thread, so that the event loop stays free."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import orjson

from service.http.offload import offload_if_large
from service.text.logprobs import TokenLogprob, log_probability
from service.text.scoring import Position
from service.text.tokenizer import Candidate, TokenizedText, Tokenizer

INLINE_CHARACTERS = 5_000
"""A text of so many is tokenized in less time than a thread takes to start."""
INLINE_ITEMS = 500
"""So many items of an answer are encoded in less time than a thread takes to start."""


async def read_texts(
    tokenizer: Tokenizer, texts: Mapping[str, str], unknown: Literal["replace", "error"]
) -> tuple[list[TokenizedText], list[str]]:
    """Tokenize texts, given by their JSON paths; also returns the characters or words that the model does not know.

    Raises:
        InvalidRequestError: a text cannot be read; or it has unknown characters or words, and `unknown` is "error".
    """

    def read() -> tuple[list[TokenizedText], list[str]]:
        tokenized = [tokenizer.tokenize(text, path) for path, text in texts.items()]
        if unknown == "error":
            for path, text in zip(texts, tokenized, strict=True):
                tokenizer.check_known(text, path)
        return tokenized, tokenizer.unknown(*tokenized)

    return await offload_if_large(sum(map(len, texts.values())) > INLINE_CHARACTERS, read)


def json_list(blocks: Iterable[Sequence[Any]]) -> orjson.Fragment:
    """All items of the blocks as one JSON list. Encodes block by block: all objects together would take many times the
    memory, and orjson would keep every other thread waiting."""
    return orjson.Fragment(b"[" + b",".join(orjson.dumps(block)[1:-1] for block in blocks if block) + b"]")


def logprobs_json(blocks: Iterable[Sequence[TokenLogprob]]) -> orjson.Fragment:
    """A JSON list of `ChosenLog`s."""
    return json_list(map(logprob_dicts, blocks))


def logprob_dicts(logprobs: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """`ChosenLog`s."""
    return [
        {
            "character": logprob.token,
            "logprob": None if logprob.probability is None else log_probability(logprob.probability),
            "top": [{"character": token, "logprob": log_probability(p)} for token, p in logprob.candidates],
        }
        for logprob in logprobs
    ]


def position_dicts(positions: Iterable[Position]) -> list[dict[str, Any]]:
    """`PositionAnswer`s."""
    return [
        {
            "character": position.token,
            "probability": position.probability,
            "next": candidate_dicts(position.candidates),
        }
        for position in positions
    ]


def candidate_dicts(candidates: Iterable[Candidate]) -> list[dict[str, Any]]:
    """`CandidateProbability`s."""
    return [{"character": token, "probability": probability} for token, probability in candidates]
