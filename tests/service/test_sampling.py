"""Sampling: each row by itself, from the distribution that its controls define."""

import math
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.engine.runner import Runner
from service.manifest import read_manifest
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams, controls, derived_seeds, log_softmax, uniforms
from tests.builders import CHARACTERS, character_model, write_model

Scores = NDArray[np.float32]

VOCABULARY = CHARACTERS.size

BIAS = st.tuples(st.integers(1, 29), st.sampled_from([-100.0, -5.0, -0.5, 0.0, 2.0, 100.0]))
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.integers(0, 12),
    top_p=st.just(0.0) | st.floats(0.05, 1),
    min_p=st.floats(0, 0.5),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.4]),
    frequency_penalty=st.sampled_from([-0.25, 0.0, 0.5, 2.0]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 0.25, 1.5]),
    logit_bias=st.lists(BIAS, max_size=4, unique_by=lambda pair: pair[0]).map(tuple),
)


@cache
def sampler() -> Runner:
    """The graph that decodes, of a small model."""
    folder = write_model(character_model(), Path(mkdtemp()), "text")
    manifest = read_manifest(folder, TextManifest)
    return Runner(folder, manifest.decode, threads=1)


def draw_rows(
    params: list[SamplingParams],
    scores: Scores,
    seen: NDArray[np.bool_],
    uniform: NDArray[np.float32],
    counts: Scores | None = None,
) -> list[int]:
    """One token for each row. scores (B, V or fewer): the missing tokens are impossible."""
    missing = VOCABULARY - scores.shape[1]
    states = sampler().initial_states(len(params))
    states["logits"] = np.pad(scores, [(0, 0), (0, missing)], constant_values=-1e30)
    states["seen"] = np.pad(seen, [(0, 0), (0, missing)])
    if counts is not None:
        states["counts"] = np.pad(counts, [(0, 0), (0, missing)])
    drawn = np.where([p.greedy for p in params], 0, uniform).astype(np.float32)
    inputs = {**controls(params, VOCABULARY), "uniforms": drawn[None]}
    inputs["given_tokens"] = np.full((1, len(params)), -1)
    (tokens,), _ = sampler().run(inputs, states, ["tokens"])
    return [int(token) for token in tokens[0]]


def draw(
    params: SamplingParams,
    scores: Scores,
    seen: NDArray[np.bool_],
    uniform: NDArray[np.float32],
    counts: Scores | None = None,
) -> list[int]:
    """One token for each row, all with the same controls."""
    return draw_rows([params] * len(scores), scores, seen, uniform, counts)


def some_counts(rng: np.random.Generator, *shape: int) -> Scores:
    """How often each token was written: most of them never."""
    return np.maximum(0, rng.integers(-6, 5, shape)).astype(np.float32)


@given(seed=st.integers(0, 2**32), tokens=st.integers(3, VOCABULARY), params=st.lists(PARAMS, min_size=2, max_size=20))
def test_a_row_is_sampled_as_if_it_were_alone(seed: int, tokens: int, params: list[SamplingParams]) -> None:
    """Whatever controls the other rows use."""
    rng, rows = np.random.default_rng(seed), len(params)
    scores = rng.normal(0, 3, (rows, tokens)).astype(np.float32)
    seen, uniform = rng.random((rows, tokens)) < 0.3, rng.random(rows, dtype=np.float32)
    counts = some_counts(rng, rows, tokens)
    together = draw_rows(params, scores, seen, uniform, counts)
    one = [slice(i, i + 1) for i in range(rows)]
    alone = [draw(p, scores[i], seen[i], uniform[i], counts[i])[0] for p, i in zip(params, one, strict=True)]
    assert together == alone
    assert 0 not in alone


def masses(params: SamplingParams, scores: Scores, seen: NDArray[np.bool_], counts: Scores) -> dict[int, float]:
    """The plain way, one control after the other: the tokens that may be drawn, and their mass. Rejects an example in
    which single precision may round either way."""
    left = {token: float(score) for token, score in enumerate(scores) if token}
    for token in left:
        if seen[token] or counts[token]:
            left[token] *= params.repetition_penalty if left[token] < 0 else 1 / params.repetition_penalty
        left[token] -= params.frequency_penalty * counts[token] + params.presence_penalty * (counts[token] > 0)
    for token, bias in params.logit_bias:
        if token in left:
            left[token] += bias if bias > -100 else -math.inf
    best = max(left.values())
    ties = [token for token, score in left.items() if score == best]
    # Otherwise rounding may decide which of two is the better one.
    assume(all(score == best or best - score > 1e-4 for score in left.values()))
    if 0 in (params.temperature, params.top_p):
        return {min(ties): 1.0}
    mass = {token: math.exp((score - best) / params.temperature) for token, score in left.items()}
    ranked = sorted(mass.values(), reverse=True)
    if params.top_k:
        threshold = ranked[min(params.top_k, len(ranked)) - 1]
        assume(all(m == threshold or abs(m - threshold) > 1e-6 * threshold for m in ranked))
        mass = {token: m for token, m in mass.items() if m >= threshold}
    if params.top_p < 1:
        ranked = sorted(mass.values(), reverse=True)
        reached = np.cumsum(ranked) / sum(ranked)
        assume(np.abs(reached - params.top_p).min() > 1e-5)
        threshold = ranked[int(np.argmax(reached >= params.top_p))]
        assume(all(m == threshold or abs(m - threshold) > 1e-6 * threshold for m in ranked))
        mass = {token: m for token, m in mass.items() if m >= threshold}
    assume(all(m == 0 or abs(m - params.min_p) > 1e-5 * params.min_p for m in mass.values()))
    return {token: m for token, m in mass.items() if m >= params.min_p}


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(3, 30),
    params=PARAMS,
    grid=st.sampled_from([None, 0.5, 3.0]),
)
def test_the_controls_do_what_their_definition_says(
    seed: int, tokens: int, params: SamplingParams, grid: float | None
) -> None:
    """All of them together, in their order. On a grid of scores, many tokens are equally probable."""
    rng = np.random.default_rng(seed)
    scores, seen = rng.normal(0, 3, tokens).astype(np.float32), rng.random(tokens) < 0.3
    counts = some_counts(rng, tokens)
    if grid:
        scores = np.round(scores / grid) * np.float32(grid)
    assume(len({token for token, bias in params.logit_bias if bias == -100 and token < tokens}) < tokens - 1)
    mass = masses(params, scores, seen, counts)
    uniform = rng.random(dtype=np.float32)
    bounds = np.cumsum([mass[token] for token in sorted(mass)]) / sum(mass.values())
    assume(np.abs(bounds[:-1] - uniform).min(initial=1) > 1e-5)
    expected = sorted(mass)[int(np.argmax(bounds > uniform))]
    assert draw(params, scores[None], seen[None], np.array([uniform]), counts[None]) == [expected]


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
    ("params", "expected"),
    [
        (SamplingParams(top_k=2), {2, 3}),
        (SamplingParams(top_p=0.4), {3}),
        (SamplingParams(top_p=0.75), {2, 3}),
        (SamplingParams(min_p=0.5), {2, 3}),
        (SamplingParams(temperature=0), {3}),
        (SamplingParams(top_p=0), {3}),
    ],
)
def test_filters_keep_the_most_probable(params: SamplingParams, expected: set[int]) -> None:
    scores = np.log(np.array([[0.9, 0.1, 0.35, 0.55]], dtype=np.float32)).repeat(500, axis=0)
    uniform = np.linspace(0, 1, 500, endpoint=False, dtype=np.float32)
    assert set(draw(params, scores, np.zeros(scores.shape, dtype=bool), uniform)) == expected


ALL = np.linspace(0, 1, 4000, endpoint=False, dtype=np.float32)


def drawable(params: SamplingParams, scores: list[float]) -> set[int]:
    """All tokens that may be drawn; each score is that of one token, from 1 on."""
    rows = np.array([[0.0, *scores]], dtype=np.float32).repeat(len(ALL), axis=0)
    return set(draw(params, rows, np.zeros(rows.shape, dtype=bool), ALL))


@pytest.mark.parametrize(
    ("params", "scores", "expected"),
    [
        # Tokens as probable as the last one kept are kept.
        (SamplingParams(top_k=1), [2.0, 2.0, 1.0], {1, 2}),
        (SamplingParams(top_k=2), [3.0, 2.0, 2.0, 1.0], {1, 2, 3}),
        (SamplingParams(top_p=0.5), [1.0, 1.0, 1.0, 1.0], {1, 2, 3, 4}),
        (SamplingParams(top_p=0.01), [0.0, 1.0, 1.0], {2, 3}),
        # A mass of exactly p is enough; one just below p is not.
        (SamplingParams(top_p=0.5), [0.0, 0.0, -1e30, -1e30], {1, 2}),
        (SamplingParams(top_p=1 - 2.0**-24), [0.0, -60.0], {1}),
        (SamplingParams(top_k=2, top_p=0.6), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0], {1, 2, 3, 4, 5, 6}),
        (SamplingParams(top_k=1, top_p=0.9), [1.0, 0.9, 0.9, 0.9], {1}),
        # min_p 1 keeps the best and its ties.
        (SamplingParams(min_p=1.0), [1.0, 1.0, 0.999], {1, 2}),
        (SamplingParams(min_p=0.5), [0.0, math.log(0.5) + 1e-5, math.log(0.5) - 1e-5], {1, 2}),
        (SamplingParams(min_p=0.5, temperature=2.0), [0.0, 2 * math.log(0.5) + 1e-5, 2 * math.log(0.5) - 1e-5], {1, 2}),
        # More than there are.
        (SamplingParams(top_k=1000), [0.0, 0.1, 0.2], {1, 2, 3}),
        (SamplingParams(top_k=VOCABULARY - 1), [0.0, 0.1, 0.2], {1, 2, 3}),
        # The temperature comes before the filters: it can raise the tail.
        (SamplingParams(top_p=0.9, temperature=10.0), [0.0, -3.0, -3.0], {1, 2, 3}),
        (SamplingParams(top_p=0.9, temperature=0.1), [0.0, -3.0, -3.0], {1}),
        # The bias comes before the temperature; it can bring back, take away, and ban.
        (SamplingParams(top_k=1, logit_bias=((2, 5.0),)), [3.0, 0.0, 0.0], {2}),
        (SamplingParams(top_k=1, logit_bias=((1, -5.0),)), [3.0, 1.0, 0.0], {2}),
        (SamplingParams(logit_bias=((1, -100.0), (3, 0.0))), [300.0, 0.0, 0.0], {2, 3}),
        (SamplingParams(logit_bias=((1, -99.0),)), [300.0, 0.0, 0.0], {1}),
        (SamplingParams(temperature=0, logit_bias=((1, -100.0),)), [300.0, 7.0, 7.0], {2}),
        (SamplingParams(temperature=0), [1.0, 7.0, 7.0], {2}),
        (SamplingParams(top_p=0), [1.0, 7.0, 7.0], {2}),
        (SamplingParams(logit_bias=((0, 100.0),)), [0.0, 0.0], {1, 2}),
    ],
)
def test_at_the_borders_of_the_controls(params: SamplingParams, scores: list[float], expected: set[int]) -> None:
    assert drawable(params, scores) == expected


def test_the_penalty_comes_before_the_bias() -> None:
    """A score of 2 with a penalty of 4 and a bias of 1 becomes 2 / 4 + 1, not (2 + 1) / 4."""
    params = SamplingParams(temperature=0, repetition_penalty=4.0, logit_bias=((1, 1.0),))
    for other, best in ((1.4, 1), (1.6, 2)):
        scores, seen = np.array([[0.0, 2.0, other]], dtype=np.float32), np.array([[False, True, False]])
        assert draw(params, scores, seen, np.zeros(1, dtype=np.float32)) == [best]


def test_the_repetition_penalty_comes_before_the_other_penalties() -> None:
    """A score of 2 with a penalty of 4, written three times at 0.5 and 0.25, becomes 2 / 4 - 1.75, not 0.25 / 4."""
    params = SamplingParams(temperature=0, repetition_penalty=4.0, frequency_penalty=0.5, presence_penalty=0.25)
    for other, best in ((-1.3, 1), (-1.2, 2)):
        scores, seen = np.array([[0.0, 2.0, other]], dtype=np.float32), np.array([[False, True, False]])
        counts = np.array([[0, 3, 0]], dtype=np.float32)
        assert draw(params, scores, seen, np.zeros(1, dtype=np.float32), counts) == [best]


@given(
    seed=st.integers(0, 2**32),
    params=st.lists(PARAMS, min_size=1, max_size=5),
    given_share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_graph_counts_sampled_tokens_and_not_given_ones(
    seed: int, params: list[SamplingParams], given_share: float
) -> None:
    rng, shape = np.random.default_rng(seed), (7, len(params) + 1)
    given_tokens = np.where(rng.random(shape) < given_share, rng.integers(0, 4, shape), -1)
    states = sampler().initial_states(shape[1])
    states["counts"] = some_counts(rng, shape[1], VOCABULARY)
    states["seen"] = rng.random(states["seen"].shape) < 0.3
    # The last row uses a control in any case.
    inputs = controls([*params, SamplingParams(presence_penalty=0.5)], VOCABULARY)
    inputs |= {"uniforms": rng.random(shape, dtype=np.float32), "given_tokens": given_tokens}
    (tokens,), after = sampler().run(inputs, states, ["tokens"])
    for row in range(shape[1]):
        sampled = tokens[given_tokens[:, row] < 0, row]
        expected = states["counts"][row] + np.bincount(sampled, minlength=VOCABULARY)
        assert np.array_equal(after["counts"][row], expected)
    assert np.array_equal(after["seen"], states["seen"])


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
