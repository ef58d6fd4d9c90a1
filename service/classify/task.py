"""From a sequence to the probabilities of its classes, as a task for the engine. Knows nothing of HTTP."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.classify.manifest import ClassifyManifest
from service.engine.runner import Array
from service.engine.sequence import EMPTY_STATE, Prefill, PrefillResult, SequenceState, Task
from service.errors import InvalidRequestError, NonFiniteOutputError
from service.text_pieces import check_follows, with_text_end

Floats = NDArray[np.float64]

REQUEST_BYTES = 4096
"""Held for a request, however small."""
COPIES = 3
"""How many copies of the scores exist at the worst moment, in 64 bits."""
SCORES = "scores"
"""A tensor that a classifier's state has beside the graph's own: the scores after the last step, (1, C)."""


@dataclass(frozen=True)
class ClassifyRequest:
    """sequence: a series (T, F), NaN = missing, or tokens (T,); T = 0 classifies what the state has read. text: in
    composed form, that of the tokens. per_step: whether to classify after every step. returns_state: whether the caller
    needs the state after the last step."""

    sequence: NDArray[Any]
    text: str = ""
    per_step: bool = False
    returns_state: bool = True

    @property
    def steps_read(self) -> int:
        """Values or tokens that the model reads."""
        return len(self.sequence)

    @property
    def cost_steps(self) -> int:
        """As the engine counts."""
        return max(1, self.steps_read)

    def max_bytes(self, manifest: ClassifyManifest) -> int:
        """The most memory that the request holds until it is answered."""
        scored = self.steps_read if self.per_step else 1
        return REQUEST_BYTES + 2 * self.sequence.nbytes + 8 * COPIES * scored * len(manifest.classes)


@dataclass(frozen=True)
class Classification:
    """Scores (C,) after the last step, those after every step (T, C) if they were asked for, and the state."""

    scores: NDArray[np.float32]
    per_step: NDArray[np.float32] | None
    after: SequenceState


def classify(
    manifest: ClassifyManifest, request: ClassifyRequest, start: SequenceState = EMPTY_STATE
) -> Task[Classification]:
    """Read the sequence from a state on, and score all that was read.

    Raises:
        InvalidRequestError: there is no step, neither in the request nor read before; or the text changes how the end
            of the text before it is read.
        NonFiniteOutputError: the model gives no finite scores for these values.
    """
    path = "$.text" if manifest.reads_text else "$.series"
    check_follows(start, request.text, path)
    if not request.steps_read:
        if not start.position:
            raise InvalidRequestError("the sequence has read nothing yet; send at least one step", path)
        nothing = np.empty((0, len(manifest.classes)), np.float32) if request.per_step else None
        return Classification(start.states[SCORES][0], nothing, start)
    names = ("logits", "logits_all") if request.per_step else ("logits",)
    states = {name: array for name, array in start.states.items() if name != SCORES}
    result: PrefillResult = yield Prefill(
        graph_inputs(request.sequence[None]), names, states, whole=manifest.directions == 2
    )
    scores = result.outputs["logits"]
    if not np.isfinite(scores).all():
        raise NonFiniteOutputError("the model gives no finite scores for these values", path)
    states = {**result.states, SCORES: scores} if request.returns_state else {}
    after = with_text_end(SequenceState(start.position + request.steps_read, states), start, request.text)
    return Classification(scores[0], result.outputs["logits_all"][0] if request.per_step else None, after)


def graph_inputs(sequences: NDArray[Any]) -> dict[str, Array]:
    """The graph's inputs for series (B, T, F), or for tokens (B, T)."""
    if sequences.ndim == 2:
        return {"tokens": sequences}
    observed = np.isfinite(sequences)
    return {"values": np.where(observed, sequences, 0.0), "mask": observed.astype(np.float32)}


def softmax(scores: NDArray[Any]) -> Floats:
    """Scores (..., C) as probabilities."""
    shares: Floats = scores.astype(np.float64)
    shares -= shares.max(axis=-1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares
