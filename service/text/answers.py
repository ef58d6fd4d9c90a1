"""Long texts and long answers, so that nobody else waits for the event loop: texts are read, and answers written, in
blocks and beside it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson

from service.http.offload import offload_if_large
from service.text.task import Chosen, PositionBlock, logarithm
from service.text.tokenizer import Candidate, TokenizedText, Tokenizer

INLINE_CHARACTERS = 5_000
"""A text of so many is read in less time than a thread takes to begin."""
INLINE_ITEMS = 500
"""So many items of an answer are written in less time than a thread takes to begin."""


async def read_texts(
    tokenizer: Tokenizer, texts: Mapping[str, str], unknown: Literal["replace", "error"]
) -> tuple[list[TokenizedText], list[str]]:
    """Texts, by their JSON path, as the model reads them, and what of them it does not know.

    Raises:
        InvalidRequestError: one is no text that can be read here; or it is not wholly known, and that is an error.
    """

    def read() -> tuple[list[TokenizedText], list[str]]:
        found = [tokenizer.tokenize(text, path) for path, text in texts.items()]
        if unknown == "error":
            for path, text in zip(texts, found, strict=True):
                tokenizer.check_known(text, path)
        return found, tokenizer.unknown(*found)

    return await offload_if_large(sum(map(len, texts.values())) > INLINE_CHARACTERS, read)


def json_list(blocks: Iterable[Sequence[Any]]) -> orjson.Fragment:
    """All items of some blocks as one JSON list. One block after another becomes bytes: together, as objects, they
    would take many times the memory, and keep every other thread waiting while they are written."""
    return orjson.Fragment(b"[" + b",".join(orjson.dumps(block)[1:-1] for block in blocks if block) + b"]")


def logs_json(blocks: Iterable[Sequence[Chosen]]) -> orjson.Fragment:
    """`ChosenLog`s."""
    return json_list(map(logs_of, blocks))


def logs_of(chosen: Sequence[Chosen]) -> list[dict[str, Any]]:
    """`ChosenLog`s."""
    return [
        {
            "character": one.character,
            "logprob": None if one.probability is None else logarithm(one.probability),
            "top": [{"character": character, "logprob": logarithm(p)} for character, p in one.candidates],
        }
        for one in chosen
    ]


def positions_json(blocks: Iterable[PositionBlock]) -> Iterator[list[dict[str, Any]]]:
    """`PositionAnswer`s, in blocks."""
    for block in blocks:
        yield [
            {"character": one.character, "probability": one.probability, "next": probabilities(one.candidates)}
            for one in block.positions
        ]


def probabilities(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """`CandidateProbability`s."""
    return [{"character": character, "probability": p} for character, p in candidates]
