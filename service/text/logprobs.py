"""What the model predicted in the place of each token of a text, in blocks, so that a long text takes little memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from service.text.decoder import Row
from service.text.sampling import log_softmax
from service.tokenizer import Candidate, Tokenizer

BLOCK_ITEMS = 2000
"""Candidates in one block."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a text, the probability that the model gave it, and the most probable tokens in its place. The first
    token of a sequence has None and no candidates: nothing predicted it."""

    token: str
    probability: float | None
    candidates: list[Candidate]


def log_probability(probability: float) -> float:
    """The natural logarithm; of 0, that of the smallest positive number."""
    return math.log(max(probability, 5e-324))


def block_size(candidates: int) -> int:
    """How many positions with so many candidates are in a block."""
    return max(1, BLOCK_ITEMS // max(1, candidates))


def logprob_blocks(tokenizer: Tokenizer, row: Row, candidates: int) -> Iterator[list[TokenLogprob]]:
    """The `row_logprobs` of all tokens that a row returns, in blocks."""
    size, end = block_size(candidates), len(row.echo) + len(row.tokens)
    for begin in range(0, end if candidates else 0, size):
        yield row_logprobs(tokenizer, row, begin, min(end, begin + size), candidates)


def row_logprobs(tokenizer: Tokenizer, row: Row, begin: int, end: int, candidates: int) -> list[TokenLogprob]:
    """The tokens from `begin` to `end` of those that a row returns, each with so many candidates; none without
    candidates."""
    lead = len(row.echo)
    if not candidates or row.scores is None:
        return []
    tokens = row.returned_tokens(begin, end)
    scores = list(row.scores[max(0, begin - lead) : max(0, end - lead)])
    if row.echo_scores is not None:
        unpredicted = lead - len(row.echo_scores)
        scores = [*row.echo_scores[max(0, begin - unpredicted) : max(0, end - unpredicted)], *scores]
    if not scores:
        return [TokenLogprob(token, None, []) for token in tokens]
    logprobs = log_softmax(np.stack(scores))
    predicted = tokens[len(tokens) - len(scores) :]
    probabilities = np.exp(logprobs[np.arange(len(predicted)), tokenizer.ids(predicted)]).tolist()
    return [
        *(TokenLogprob(token, None, []) for token in tokens[: -len(scores)]),
        *map(TokenLogprob, predicted, probabilities, tokenizer.candidates(logprobs, candidates)),
    ]
