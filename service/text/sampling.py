"""The controls and random numbers by which a model's graph samples the next token. Knows token ids, not text.

The graph itself samples (training/onnx/text.py): Python between two calls would double the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SamplingParams:
    """The usual controls. The defaults sample from the model's own distribution. They act in this order, each on the
    result of the one before:

    1. repetition_penalty: above 1 makes tokens that already occurred less likely. Divides their positive scores and
       multiplies their negative ones (Keskar et al. 2019).
    2. frequency_penalty, presence_penalty: subtract from a token's score the first times how often the request wrote
       it, and the second if the request wrote it at all (OpenAI's). Neither the prompt nor earlier requests count.
    3. logit_bias: pairs of a token id and a number in [-100, 100] to add to its score; -100 bans the token.
    4. temperature: divides the scores; 0 is greedy, with the lowest id on ties.
    5. top_k: keep the k most probable tokens; 0: all.
    6. top_p: keep the fewest most probable tokens whose mass reaches p of the mass left (Holtzman et al. 2020); 0 is
       greedy, too.
    7. min_p: keep the tokens at least min_p times as probable as the best (Nguyen et al. 2024).

    5 and 6 also keep the tokens that are as probable as the last one they keep. The graph then draws a token in
    proportion to the remaining probabilities.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def greedy(self) -> bool:
        """Whether the best token wins, without chance."""
        return not (self.temperature and self.top_p)

    @property
    def controlled(self) -> bool:
        """Whether it uses a control that costs time: any but the bias and the temperature."""
        penalised = self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty
        return bool(penalised or self.top_k or self.top_p < 1 or self.min_p)


def controls(params: Sequence[SamplingParams], vocabulary: int) -> dict[str, NDArray[Any]]:
    """The controls of several rows as inputs of a model's `decode` graph (manifest.TextManifest).

    A row that does not use a control gets the value that changes nothing, exactly. Id 0, the unknown token, is banned.
    """
    columns = {
        "temperature": [TINY if p.greedy else max(p.temperature, TINY) for p in params],
        "top_p": [max(p.top_p, TINY) if p.top_p < 1 else 2.0 for p in params],
        "min_p": [p.min_p for p in params],
        "penalty": [p.repetition_penalty for p in params],
        "frequency_penalty": [p.frequency_penalty for p in params],
        "presence_penalty": [p.presence_penalty for p in params],
    }
    bias = np.zeros((len(params), vocabulary), dtype=np.float32)
    for row, p in zip(bias, params, strict=True):
        if p.logit_bias:
            ids, biases = zip(*p.logit_bias, strict=True)
            row[list(ids)] = biases
    bias[bias <= BAN] = -np.inf
    bias[:, 0] = -np.inf
    return {
        **{name: np.array(column, dtype=np.float32).reshape(-1, 1) for name, column in columns.items()},
        "top_k": np.array([min(p.top_k or vocabulary, vocabulary) for p in params], dtype=np.int64).reshape(-1, 1),
        "bias": bias,
        "controlled": np.array(any(p.controlled for p in params)),
    }


BAN = -100.0
"""The bias that bans a token."""
TINY = 1e-30
"""The temperature that leaves only the best token, and with the random number 0 the first of several. Also the smallest
number in single precision that is safe to divide by."""


def uniforms(seeds: NDArray[np.uint64], positions: Ints) -> NDArray[np.float32]:
    """One number in [0, 1) for each (seed, position). It depends on nothing else, so neither load nor the split of a
    text over calls changes a text. SplitMix64's mixer (Steele, Lea and Flood 2014), twice."""
    mixed = _mix(seeds ^ _mix(positions.astype(np.uint64)))
    return (mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def derived_seeds(seed: int, count: int) -> NDArray[np.uint64]:
    """`count` seeds from one. The first is the seed itself, modulo 2**64."""
    first = np.array([seed % 2**64], dtype=np.uint64)
    return np.concatenate([first, _mix(first + np.arange(1, count).astype(np.uint64))])


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def log_softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """The natural logarithms of the probabilities (B, V)."""
    shifted = scores.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
