"""Reads a text into a sequence's state: the parts of tasks that generating and scoring share."""

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array
from service.engine.sequence import Prefill, PrefillResult, SequenceState, Task
from service.tokenizer import Ids, Tokenizer


def prefill(tokenizer: Tokenizer, start: SequenceState, ids: Ids) -> Task[SequenceState]:
    """Read one token or more; the state after them."""
    result: PrefillResult = yield Prefill({"tokens": ids[None]}, ("logits",), recurrent_states(start))
    return _after(tokenizer, start, ids, result)


def prefill_scores(
    tokenizer: Tokenizer, start: SequenceState, ids: Ids
) -> Task[tuple[NDArray[np.float32], SequenceState]]:
    """Read one token or more; the scores after each, and the state after them. Where the sequence has read a token
    before, the scores begin with those after it: (T + 1, V), else (T, V)."""
    result: PrefillResult = yield Prefill({"tokens": ids[None]}, ("logits_all", "logits"), recurrent_states(start))
    scores = result.outputs["logits_all"][0]
    if start.position:
        scores = np.concatenate([start.states["logits"], scores])
    return scores, _after(tokenizer, start, ids, result)


def seen_tokens(tokenizer: Tokenizer, start: SequenceState, ids: Ids) -> NDArray[np.bool_]:
    """Which tokens have occurred by the end of these (1, V)."""
    seen = start.states["seen"].copy() if start.position else np.zeros((1, tokenizer.size), dtype=bool)
    seen[0, ids] = True
    return seen


def recurrent_states(state: SequenceState) -> dict[str, Array]:
    """The states that the graph for reading takes. The graph that decodes has two more."""
    return {name: array for name, array in state.states.items() if name not in ("logits", "seen")}


def _after(tokenizer: Tokenizer, start: SequenceState, ids: Ids, result: PrefillResult) -> SequenceState:
    states = {**result.states, "logits": result.outputs["logits"], "seen": seen_tokens(tokenizer, start, ids)}
    return SequenceState(start.position + len(ids), states)
