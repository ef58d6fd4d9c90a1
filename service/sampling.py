"""How the next character is chosen from the model's scores. Knows tokens, not text; each row by itself."""

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


def sample(scores: NDArray[np.float32], params: SamplingParams, seen: NDArray[np.bool_], uniform: Floats) -> Ints:
    """Choose a token for each row. scores, seen (B, V): whether a token already occurred; uniform (B,) in [0, 1).

    Token 0, the unknown character, is never chosen.
    """
    scores = scores.astype(np.float64)
    scores[:, 0] = -np.inf
    if params.repetition_penalty != 1.0:
        penalty = params.repetition_penalty
        scores = np.where(seen, np.where(scores > 0, scores / penalty, scores * penalty), scores)
    if params.temperature == 0:
        greedy: Ints = scores.argmax(axis=1)
        return greedy
    with np.errstate(over="ignore"):  # a tiny temperature leaves the best only, which is right
        scores = (scores - scores.max(axis=1, keepdims=True)) / params.temperature
    if 0 < params.top_k < scores.shape[1] - 1:
        least = -np.partition(-scores, params.top_k - 1, axis=1)[:, params.top_k - 1, None]
        scores = np.where(scores >= least, scores, -np.inf)
    mass = np.exp(scores)  # the best has 1
    if params.top_p < 1.0:
        descending = -np.sort(-mass, axis=1)
        before = descending.cumsum(axis=1) - descending
        kept = (before < params.top_p * mass.sum(axis=1, keepdims=True)).sum(axis=1)
        least = np.take_along_axis(descending, kept[:, None] - 1, axis=1)
        mass = np.where(mass >= least, mass, 0.0)
    if params.min_p > 0.0:
        mass = np.where(mass >= params.min_p, mass, 0.0)
    cumulative = mass.cumsum(axis=1)
    chosen: Ints = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)
    last = mass.shape[1] - 1 - (mass[:, ::-1] > 0).argmax(axis=1)
    bounded: Ints = np.minimum(chosen, last)
    return bounded
