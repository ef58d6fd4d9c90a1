"""How probable a text is: the next token after it, the tokens in it, and which continuation suits it best."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.engine.sequence import EMPTY_STATE, Prefill, PrefillResult, SequenceState, Task, repeat_states
from service.errors import NonFiniteOutputError
from service.text.footprint import CANDIDATE_BYTES, ROW_BYTES, TOKEN_BYTES, scores_bytes
from service.text.logprobs import block_size
from service.text.prefill import prefill, prefill_scores, recurrent_states
from service.text.sampling import log_softmax
from service.text_pieces import check_follows, with_text_end
from service.tokenizer import AnyText, Candidate, Ids, Tokenizer

Scores = NDArray[np.float32]

RANKED_ROWS = 16
"""Continuations in one call of the graph."""


@dataclass(frozen=True)
class RankedContinuation:
    """A continuation, by its index among those sent, and the natural logarithm of its probability after the text: in
    all, and per character as it was read."""

    index: int
    logprob: float
    logprob_per_character: float


@dataclass(frozen=True)
class ScoredText:
    """scores: after the text (1, V); or per position, those after each of its tokens (T, V), with those before the
    first where the sequence has read a token before (T + 1, V). after: the state. ranked: the continuations."""

    scores: Scores
    after: SequenceState
    ranked: tuple[RankedContinuation, ...] = ()


def predict(
    tokenizer: Tokenizer,
    text: AnyText,
    per_position: bool,
    start: SequenceState = EMPTY_STATE,
    continuations: Sequence[AnyText] = (),
) -> Task[ScoredText]:
    """Read a text from a state, and rank continuations of it, none of them empty. They do not change the state.

    The task raises NonFiniteOutputError if the model gives no finite scores for a continuation, and InvalidRequestError
    if a text cannot be read.
    """
    text = tokenizer.tokenize(text, "$.text")
    check_follows(start, text.nfc, "$.text")
    if not len(text.ids):
        after, begun = start, start
        if not start.position:
            begun = yield from prefill(tokenizer, start, np.array([tokenizer.start_id]))
        scores = begun.states["logits"]
    elif per_position:
        scores, after = yield from prefill_scores(tokenizer, start, text.ids)
        begun = after
    else:
        begun = after = yield from prefill(tokenizer, start, text.ids)
        scores = after.states["logits"]
    after = with_text_end(after, start, text.nfc)
    ranked = yield from _rank(tokenizer, replace(begun, text_end=after.text_end), continuations)
    return ScoredText(scores, after, ranked)


def predict_bytes(
    length: int, per_position: bool, candidates: int, continuations: Sequence[int], vocabulary: int
) -> int:
    """The most that `predict` holds until it is answered, for a text of `length` tokens, with so many candidates at a
    position. `continuations`: tokens of each."""
    positions = 2 * (length + 1) * per_position + 2 * RANKED_ROWS * max(continuations, default=0)
    answer = (1 + length * per_position) * candidates * CANDIDATE_BYTES
    tokens = (length + sum(continuations)) * TOKEN_BYTES
    return ROW_BYTES + tokens + scores_bytes(positions, vocabulary) + answer


def next_candidates(tokenizer: Tokenizer, scores: Scores, count: int) -> list[Candidate]:
    """The most probable tokens after the text, of the scores that `predict` returned.

    Raises:
        NonFiniteOutputError: any of the scores is not finite.
    """
    if not np.isfinite(scores).all():
        raise NonFiniteOutputError("the model gives no finite scores after this text", "$.text")
    [candidates] = tokenizer.candidates(log_softmax(scores[-1:]), count)
    return candidates


@dataclass(frozen=True)
class Position:
    """A token of a text, the probability that the model gave it (None if nothing predicted it), and the candidates for
    the token after it."""

    token: str
    probability: float | None
    candidates: list[Candidate]


@dataclass(frozen=True)
class PositionBlock:
    """Some tokens of a text. `nats`: the cost of those that the model predicted; `characters`: of these tokens."""

    positions: list[Position]
    nats: float
    characters: int


def position_blocks(tokenizer: Tokenizer, text: AnyText, scores: Scores, count: int) -> Iterator[PositionBlock]:
    """What finite scores of every position say, in blocks."""
    text = tokenizer.tokenize(text)
    tokens, ids, size = text.tokens, text.ids, block_size(count)
    lead = len(scores) - len(tokens)
    """1 where the first scores predict the first token; 0 where nothing does."""
    for begin in range(0, len(tokens), size):
        # The first row predicts the block's first token.
        logprobs = log_softmax(scores[max(0, lead + begin - 1) : lead + begin + size])
        block_ids = ids[begin : begin + size]
        candidates = tokenizer.candidates(logprobs[-len(block_ids) :], count)
        unpredicted = 0 if lead + begin else 1
        predicted = block_ids[unpredicted:]
        costs = logprobs[np.arange(len(predicted)), predicted]
        probabilities: list[float | None] = [*[None] * unpredicted, *map(math.exp, costs.tolist())]
        yield PositionBlock(
            list(map(Position, tokens[begin : begin + size], probabilities, candidates)),
            -float(costs.sum()),
            sum(map(len, tokens[begin + unpredicted : begin + size])),
        )


def bits_per_character(nats: float, characters: int) -> float | None:
    """The mean cost of a text."""
    return nats / math.log(2) / characters if characters else None


def _rank(
    tokenizer: Tokenizer, start: SequenceState, continuations: Sequence[AnyText]
) -> Task[tuple[RankedContinuation, ...]]:
    """Rank continuations, the most probable first."""
    all_ids: list[Ids] = []
    lengths: list[int] = []
    for i, continuation in enumerate(continuations):
        text = tokenizer.tokenize(continuation, f"$.candidates[{i}]")
        check_follows(start, text.nfc, f"$.candidates[{i}]")
        all_ids.append(text.ids)
        lengths.append(sum(map(len, text.tokens)))
    logprobs = np.zeros(len(all_ids))
    # By length, so that a call of the graph has little padding.
    order = sorted(range(len(all_ids)), key=lambda i: len(all_ids[i]))
    for first in range(0, len(order), RANKED_ROWS):
        group = order[first : first + RANKED_ROWS]
        padded = np.zeros((len(group), len(all_ids[group[-1]])), dtype=np.int64)
        for row, i in enumerate(group):
            padded[row, : len(all_ids[i])] = all_ids[i]
        scores = repeat_states({"logits": start.states["logits"]}, len(group))["logits"][:, None]
        if padded.shape[1] > 1:
            states = repeat_states(recurrent_states(start), len(group))
            result: PrefillResult = yield Prefill({"tokens": padded[:, :-1]}, ("logits_all",), states)
            scores = np.concatenate([scores, result.outputs["logits_all"]], axis=1)
        # Sum them now: the scores of all continuations would fill the memory.
        for row, i in enumerate(group):
            ids = all_ids[i]
            logprobs[i] = log_softmax(scores[row, : len(ids)])[np.arange(len(ids)), ids].sum()
    if not np.isfinite(logprobs).all():
        raise NonFiniteOutputError("the model gives no finite scores after this text", "$.text")
    best = sorted(range(len(all_ids)), key=lambda i: -logprobs[i])
    return tuple(RankedContinuation(i, float(logprobs[i]), float(logprobs[i]) / lengths[i]) for i in best)
