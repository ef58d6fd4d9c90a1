"""How the next character is chosen from the model's scores. Knows tokens, not text; each row by itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SamplingParams:
    """The usual controls; the defaults sample from the model's own distribution.

    temperature: 0 is greedy. top_k: keep the k most probable, 0 all. top_p: keep the fewest most probable whose mass
    reaches p (Holtzman et al. 2020). min_p: keep those at least min_p times as probable as the best (Nguyen et al.
    2024). repetition_penalty: above 1 makes characters that already occurred less likely (Keskar et al. 2019).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class SamplingBatch:
    """The controls of several rows, each (B, 1); what no row uses costs nothing."""

    def __init__(self, params: Sequence[SamplingParams]) -> None:
        columns = np.array(
            [(p.temperature, p.top_k, p.top_p, p.min_p, p.repetition_penalty) for p in params], dtype=np.float64
        ).reshape(-1, 5, 1)
        temperature, top_k, self.top_p, self.min_p, self.penalty = columns.transpose(1, 0, 2)
        self.greedy = temperature[:, 0] == 0
        self.temperature = np.where(temperature == 0, 1.0, temperature)
        self.top_k = top_k.astype(np.int64)
        self.any_greedy = bool(self.greedy.any())
        self.any_top_k = bool(self.top_k.any())
        self.any_top_p = bool((self.top_p < 1).any())
        self.any_min_p = bool(self.min_p.any())
        self.any_penalty = bool((self.penalty != 1).any())


def uniforms(seeds: NDArray[np.uint64], positions: Ints) -> Floats:
    """One number in [0, 1) for each (seed, position): a function of these two and nothing else, so that neither load
    nor the split of a text over calls changes what is drawn. SplitMix64's mixer (Steele, Lea and Flood 2014), twice."""
    mixed = _mix(seeds ^ _mix(positions.astype(np.uint64)))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def derived_seeds(seed: int, count: int) -> NDArray[np.uint64]:
    """`count` seeds from one: the first is the seed itself."""
    first = np.array([seed], dtype=np.uint64)
    return np.concatenate([first, _mix(first + np.arange(1, count).astype(np.uint64))])


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def log_softmax(scores: NDArray[np.float32]) -> Floats:
    """Natural logarithms of the probabilities (B, V)."""
    shifted = scores.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def sample(scores: NDArray[np.float32], params: SamplingBatch, seen: NDArray[np.bool_] | None, uniform: Floats) -> Ints:
    """Choose a token for each row. scores (B, V); seen (B, V): whether a token already occurred, None if no row has a
    penalty; uniform (B,) in [0, 1).

    Token 0, the unknown character, is never chosen. Every step is the identity for a row that does not use it, so that
    a row's choice does not depend on what the others use.
    """
    scores = scores.astype(np.float64)
    scores[:, 0] = -np.inf
    if params.any_penalty:
        assert seen is not None
        penalised = np.where(scores > 0, scores / params.penalty, scores * params.penalty)
        scores = np.where(seen & (params.penalty != 1), penalised, scores)
    scores -= scores.max(axis=1, keepdims=True)
    greedy = scores.argmax(axis=1) if params.any_greedy else None
    with np.errstate(over="ignore"):  # a tiny temperature leaves the best only, which is right
        scores /= params.temperature
    if params.any_top_k:
        descending = -np.sort(-scores, axis=1)
        limited = (params.top_k > 0) & (params.top_k < scores.shape[1] - 1)
        least = np.take_along_axis(descending, np.where(limited, params.top_k, 1) - 1, axis=1)
        scores = np.where(limited & (scores < least), -np.inf, scores)
    mass = np.exp(scores, out=scores)  # the best has 1
    if params.any_top_p:
        descending = -np.sort(-mass, axis=1)
        before = descending.cumsum(axis=1) - descending
        kept = (before < params.top_p * mass.sum(axis=1, keepdims=True)).sum(axis=1)
        least = np.take_along_axis(descending, kept[:, None] - 1, axis=1)
        mass = np.where((params.top_p < 1) & (mass < least), 0.0, mass)
    if params.any_min_p:
        mass = np.where(mass < params.min_p, 0.0, mass)
    cumulative = mass.cumsum(axis=1)
    # The first token whose cumulated mass is above the share drawn; rounding must not lead past the last one.
    total = cumulative[:, -1:]
    drawn = np.minimum(uniform[:, None] * total, np.nextafter(total, 0.0))
    chosen: Ints = (cumulative <= drawn).sum(axis=1)
    return chosen if greedy is None else np.where(params.greedy, greedy, chosen)
