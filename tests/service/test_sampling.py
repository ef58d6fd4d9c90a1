"""Sampling: each row by itself, from the distribution that was asked for."""

import math
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.engine.runner import Runner
from service.manifest import TextManifest, read_manifest
from service.sampling import SamplingParams, controls, derived_seeds, log_softmax, uniforms
from tests.builders import CHARACTERS, character_model, write_model

Scores = NDArray[np.float32]

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.5),
    repetition_penalty=st.sampled_from([1.0, 1.4]),
)


VOCABULARY = len(CHARACTERS.characters)


@cache
def sampler() -> Runner:
    """The graph that decodes, of a small model."""
    folder = write_model(character_model(), Path(mkdtemp()), "text")
    manifest = read_manifest(folder)
    assert isinstance(manifest, TextManifest)
    return Runner(folder, manifest.decode, threads=1)


def draw_rows(
    params: list[SamplingParams], scores: Scores, seen: NDArray[np.bool_], uniform: NDArray[np.float32]
) -> list[int]:
    """One token for each row; scores (B, at most V): what is missing is impossible."""
    missing = VOCABULARY - scores.shape[1]
    states = sampler().fresh(len(params))
    states["logits"] = np.pad(scores, [(0, 0), (0, missing)], constant_values=-1e30)
    states["seen"] = np.pad(seen, [(0, 0), (0, missing)])
    drawn = np.where([p.temperature > 0 for p in params], uniform, 0).astype(np.float32)
    inputs = {**controls(params, VOCABULARY), "uniforms": drawn[None]}
    inputs["given_tokens"] = np.full((1, len(params)), -1)
    (tokens,), _ = sampler().run(inputs, states, ["tokens"])
    return [int(token) for token in tokens[0]]


def draw(params: SamplingParams, scores: Scores, seen: NDArray[np.bool_], uniform: NDArray[np.float32]) -> list[int]:
    """All rows with the same controls."""
    return draw_rows([params] * len(scores), scores, seen, uniform)


@given(seed=st.integers(0, 2**32), tokens=st.integers(3, VOCABULARY), params=st.lists(PARAMS, min_size=2, max_size=20))
def test_a_row_is_sampled_as_if_it_were_alone(seed: int, tokens: int, params: list[SamplingParams]) -> None:
    """Whatever controls the others use."""
    rng, rows = np.random.default_rng(seed), len(params)
    scores = rng.normal(0, 3, (rows, tokens)).astype(np.float32)
    seen, uniform = rng.random((rows, tokens)) < 0.3, rng.random(rows, dtype=np.float32)
    together = draw_rows(params, scores, seen, uniform)
    one = [slice(i, i + 1) for i in range(rows)]
    alone = [draw(p, scores[i], seen[i], uniform[i])[0] for p, i in zip(params, one, strict=True)]
    assert together == alone
    assert 0 not in alone


@given(seed=st.integers(0, 2**32), tokens=st.integers(3, 30), params=PARAMS)
def test_a_row_is_sampled_as_the_controls_are_defined(seed: int, tokens: int, params: SamplingParams) -> None:
    """Against the plain way, one token after the other."""
    rng = np.random.default_rng(seed)
    scores, seen = rng.normal(0, 3, tokens).astype(np.float32), rng.random(tokens) < 0.3
    uniform = rng.random(dtype=np.float32)
    left = {i: float(scores[i]) for i in range(1, tokens)}
    if params.repetition_penalty != 1:
        penalty = params.repetition_penalty
        left = {i: (s / penalty if s > 0 else s * penalty) if seen[i] else s for i, s in left.items()}
    best = max(left.values())
    if params.temperature == 0:
        expected = min(i for i, s in left.items() if s == best)
    else:
        mass = {i: math.exp((s - best) / params.temperature) for i, s in left.items()}
        ranked = sorted(mass, key=lambda i: -mass[i])
        if params.top_k:
            ranked = ranked[: params.top_k]
        if params.top_p < 1:
            total, cumulated, kept = sum(mass[i] for i in ranked), 0.0, []
            # Where single precision may round to the other side, both are right.
            edges = np.cumsum([mass[i] for i in ranked]) / total
            assume(np.abs(edges - params.top_p).min() > 1e-5)
            for i in ranked:
                if cumulated < params.top_p * total:
                    kept.append(i)
                cumulated += mass[i]
            ranked = kept
        assume(min(abs(mass[i] - params.min_p) for i in ranked) > 1e-5)
        ranked = [i for i in ranked if mass[i] >= params.min_p]
        share, total = 0.0, sum(mass[i] for i in ranked)
        bounds = []
        for i in sorted(ranked):
            share += mass[i]
            bounds.append((share / total, i))
        expected = next(i for bound, i in bounds if uniform < bound or i == bounds[-1][1])
        assume(min(abs(uniform - bound) for bound, _ in bounds) > 1e-5)
    assert draw(params, scores[None], seen[None], np.array([uniform])) == [expected]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24])
def test_the_ends_of_the_unit_interval_choose_the_first_and_the_last_token(uniform: float) -> None:
    for seed in range(200):
        scores = np.random.default_rng(seed).normal(0, 2, (1, 9)).astype(np.float32)
        nothing = np.zeros(scores.shape, dtype=bool)
        assert draw(SamplingParams(), scores, nothing, np.array([uniform], dtype=np.float32)) == [8 if uniform else 1]


def test_samples_follow_the_models_distribution() -> None:
    scores = np.log(np.array([[0.5, 0.1, 0.2, 0.2]], dtype=np.float32)).repeat(20_000, axis=0)
    uniform = uniforms(np.full(20_000, 9, dtype=np.uint64), np.arange(20_000))
    counts = np.bincount(draw(SamplingParams(), scores, np.zeros(scores.shape, dtype=bool), uniform), minlength=4)
    assert counts[0] == 0  # the unknown character is never generated
    np.testing.assert_allclose(counts[1:] / 20_000, [0.2, 0.4, 0.4], atol=0.015)


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(top_k=2), {2, 3}),
        (SamplingParams(top_p=0.4), {3}),
        (SamplingParams(top_p=0.75), {2, 3}),
        (SamplingParams(min_p=0.5), {2, 3}),
        (SamplingParams(temperature=0), {3}),
    ],
)
def test_filters_keep_the_most_probable(params: SamplingParams, kept: set[int]) -> None:
    scores = np.log(np.array([[0.9, 0.1, 0.35, 0.55]], dtype=np.float32)).repeat(500, axis=0)
    uniform = np.linspace(0, 1, 500, endpoint=False, dtype=np.float32)
    assert set(draw(params, scores, np.zeros(scores.shape, dtype=bool), uniform)) == kept


def test_repetition_penalty_makes_seen_tokens_rarer() -> None:
    scores = np.array([[0.0, 2.0, 1.9]], dtype=np.float32)
    seen = np.array([[False, True, False]])
    assert draw(SamplingParams(temperature=0), scores, seen, np.zeros(1, dtype=np.float32)) == [1]
    assert draw(SamplingParams(temperature=0, repetition_penalty=1.5), scores, seen, np.zeros(1, dtype=np.float32)) == [
        2
    ]


@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 2**40), company=st.integers(1, 20))
def test_a_random_number_depends_on_seed_and_position_only(seed: int, position: int, company: int) -> None:
    alone = uniforms(np.array([seed], dtype=np.uint64), np.array([position]))
    seeds = np.concatenate([np.array([seed], dtype=np.uint64), np.arange(company).astype(np.uint64)])
    among = uniforms(seeds, np.array([position, *range(company)]))
    assert 0 <= alone[0] < 1
    assert alone[0] == among[0]


def test_random_numbers_are_uniform_over_seeds_and_over_positions() -> None:
    from scipy.stats import kstest

    by_position = uniforms(np.full(5000, 7, dtype=np.uint64), np.arange(5000))
    by_seed = uniforms(np.arange(5000).astype(np.uint64), np.full(5000, 3))
    by_row = uniforms(derived_seeds(11, 5000), np.full(5000, 3))
    for numbers in (by_position, by_seed, by_row):
        assert kstest(numbers, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(by_position[:-1], by_position[1:])[0, 1]) < 0.05


@given(st.integers(0, 2**32))
def test_log_softmax_sums_to_one(seed: int) -> None:
    scores = np.random.default_rng(seed).normal(0, 20, (3, 9)).astype(np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(scores)).sum(axis=1), 1)
