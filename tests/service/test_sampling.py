"""Sampling: each row by itself, from the distribution that was asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.sampling import SamplingParams, derived_seeds, log_softmax, sample, uniforms

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.5),
    repetition_penalty=st.sampled_from([1.0, 1.4]),
)


@given(seed=st.integers(0, 2**32), rows=st.integers(2, 40), tokens=st.integers(3, 70), params=PARAMS)
def test_a_row_is_sampled_as_if_it_were_alone(seed: int, rows: int, tokens: int, params: SamplingParams) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, (rows, tokens)).astype(np.float32)
    seen, uniform = rng.random((rows, tokens)) < 0.3, rng.random(rows)
    together = sample(scores, params, seen, uniform)
    alone = [int(sample(scores[i : i + 1], params, seen[i : i + 1], uniform[i : i + 1])[0]) for i in range(rows)]
    assert together.tolist() == alone
    assert 0 not in alone


def test_samples_follow_the_models_distribution() -> None:
    scores = np.log(np.array([[0.5, 0.1, 0.2, 0.2]], dtype=np.float32)).repeat(20_000, axis=0)
    uniform = uniforms(np.full(20_000, 9, dtype=np.uint64), np.arange(20_000))
    counts = np.bincount(sample(scores, SamplingParams(), np.zeros(scores.shape, dtype=bool), uniform), minlength=4)
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
    uniform = np.linspace(0, 1, 500, endpoint=False)
    assert set(sample(scores, params, np.zeros(scores.shape, dtype=bool), uniform).tolist()) == kept


def test_repetition_penalty_makes_seen_tokens_rarer() -> None:
    scores = np.array([[0.0, 2.0, 1.9]], dtype=np.float32)
    seen = np.array([[False, True, False]])
    greedy = SamplingParams(temperature=0)
    assert sample(scores, greedy, seen, np.zeros(1)).tolist() == [1]
    assert sample(scores, SamplingParams(temperature=0, repetition_penalty=1.5), seen, np.zeros(1)).tolist() == [2]


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
