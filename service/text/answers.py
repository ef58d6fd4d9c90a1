"""Long answers as JSON, and how long a text or an answer is worth a thread of its own."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from service.text.logprobs import TokenLogprob, log_probability
from service.text.scoring import Position
from service.tokenizer import Candidate

INLINE_ITEMS = 500
"""So many items of an answer are encoded in less time than a thread takes to start."""


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
