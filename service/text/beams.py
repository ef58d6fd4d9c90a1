"""Beam search: the most probable texts that a model can write, as far as the best beginnings lead to them. Knows
nothing of HTTP.

At each step, every kept beginning ("hypothesis") is extended by every token, and the most probable extensions are kept
(Graves, "Sequence Transduction with Recurrent Neural Networks", 2012; Sutskever, Vinyals and Le, "Sequence to Sequence
Learning with Neural Networks", 2014). An extension that completes a stop text ends a text if it is among the `beams`
best of its step. The `beams` best of the others are kept: twice as many extensions are ranked, so that ends do not
narrow the search. It is over once `beams` texts have ended, or at the maximum length. Of the texts that ended, those
with the highest mean log-probability of a token are the best: sums alone would favour short texts (Wu et al., "Google's
Neural Machine Translation System", 2016, section 7).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array
from service.engine.sequence import Prefill, PrefillResult, SequenceState, Task
from service.errors import NonFiniteOutputError
from service.text.decoder import Row
from service.text.prefill import recurrent_states
from service.text.sampling import log_softmax
from service.tokenizer import Tokenizer

Sums = NDArray[np.float64]
"""The log-probability of each hypothesis (H,)."""


class _Extension(NamedTuple):
    """A hypothesis of the step before, as an index; the token that extends it; and the log-probability of both."""

    parent: int
    token: int
    logprob: float


@dataclass(frozen=True)
class _Step:
    """The hypotheses after a step, one token longer than those before it. scores: of those before (H, V), if anybody
    asks for log-probabilities."""

    extensions: Sequence[_Extension]
    scores: Array | None


@dataclass(frozen=True)
class _Ending:
    """A text that ended: its last token extends a hypothesis of the step before `step`."""

    step: int
    last: _Extension

    @property
    def score(self) -> float:
        """The mean log-probability of its tokens."""
        return self.last.logprob / (self.step + 1)


def beam_search(tokenizer: Tokenizer, rows: list[Row], beams: int, start: SequenceState, path: str) -> Task[None]:
    """Search from the state after the prompt, and write the best texts into the rows, the best first. If the model can
    write fewer texts than there are rows, the others are removed. Each step of the search is one step of the graph for
    each hypothesis.

    Raises:
        NonFiniteOutputError: the model gives no finite scores. `path`: of the prompt.
    """
    max_length, stops, keeps_scores = rows[0].max_length, rows[0].stops, rows[0].scores is not None
    scores = start.states["logits"]
    states: Mapping[str, Array] = recurrent_states(start)
    sums, stop_states = np.zeros(1), [0]
    steps: list[_Step] = []
    endings: list[_Ending] = []
    while len(steps) < max_length and len(endings) < beams and len(sums):
        if not np.isfinite(scores).all():
            raise NonFiniteOutputError("the model gives no finite scores after this prompt", path)
        staying: list[_Extension] = []
        next_stop_states: list[int] = []
        for rank, extension in enumerate(_best_extensions(scores, sums, 2 * beams)):
            stop_state, stop_length = stop_states[extension.parent], 0
            if stops is not None:
                stop_state, stop_length = stops.read(stop_state, tokenizer.vocabulary[extension.token])
            if stop_length or len(steps) + 1 == max_length:
                if rank < beams:
                    endings.append(_Ending(len(steps), extension))
            elif len(staying) < beams:
                staying.append(extension)
                next_stop_states.append(stop_state)
        steps.append(_Step(staying, scores if keeps_scores else None))
        sums, stop_states = np.array([extension.logprob for extension in staying]), next_stop_states
        if staying and len(endings) < beams:
            parents = [extension.parent for extension in staying]
            tokens = np.array([[extension.token] for extension in staying])
            result: PrefillResult = yield Prefill(
                {"tokens": tokens}, ("logits",), {name: array[parents] for name, array in states.items()}
            )
            scores, states = result.outputs["logits"], result.states
    best = sorted(endings, key=lambda ending: -ending.score)[: len(rows)]
    del rows[len(best) :]
    for row, ending in zip(rows, best, strict=True):
        _write(row, ending, steps, tokenizer)


def search_bytes(max_length: int, beams: int, vocabulary: int) -> int:
    """The most that a search holds beside its hypotheses' states and their scores."""
    return beams * max_length * EXTENSION_BYTES + WORKING_ARRAYS * 8 * beams * vocabulary


EXTENSION_BYTES = 192
"""A hypothesis of a step."""
WORKING_ARRAYS = 4
"""Arrays of log-probabilities while a step ranks the extensions."""


def _best_extensions(scores: Array, sums: Sums, count: int) -> list[_Extension]:
    """The `count` most probable extensions of hypotheses with these scores (H, V) and sums (H,), the best first. Of
    equal ones, first those of the better hypothesis, then the token that is first in the vocabulary. The unknown token
    extends none."""
    logprobs = sums[:, None] + log_softmax(scores)
    known = logprobs[:, 1:]
    flat = known.reshape(-1)
    count = min(count, len(flat))
    threshold = np.partition(flat, len(flat) - count)[len(flat) - count]
    candidates = np.flatnonzero(flat >= threshold)
    best = candidates[np.argsort(-flat[candidates], kind="stable")[:count]]
    parents, tokens = np.divmod(best, known.shape[1])
    return [*map(_Extension, parents.tolist(), (tokens + 1).tolist(), flat[best].tolist())]


def _write(row: Row, ending: _Ending, steps: Sequence[_Step], tokenizer: Tokenizer) -> None:
    """Write a text that ended into its row: the tokens, their scores if anybody asks for them, and that it ended."""
    path = [ending.last]
    for step in reversed(steps[: ending.step]):
        path.append(step.extensions[path[-1].parent])
    path.reverse()
    row.append([tokenizer.vocabulary[extension.token] for extension in path])
    for step, extension in zip(steps[: len(path)], path, strict=True):
        if row.scores is not None and step.scores is not None:
            row.scores.append(step.scores[extension.parent])
    row.score = ending.score
    row.ended = True
