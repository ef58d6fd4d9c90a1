"""The baselines of text models, against their definitions."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from training.evaluation.text_baselines import hmm_bits, ngram_bits

TEXTS = st.lists(st.integers(0, 4), min_size=7, max_size=60)


@given(
    train=TEXTS,
    test=TEXTS,
    order=st.integers(1, 7),
    characters=st.sampled_from([[0, 1, 2, 3, 4], [0, 7, 1448, 1449, 4999], [0, 1, 65_535, 99_998, 99_999]]),
)
@example(train=[0, 1, 2, 3, 4, 1, 2, 4] * 7, test=[0, 1, 2, 3, 4, 1, 2] * 3, order=6, characters=[0, 1, 500, 998, 1999])
def test_ngrams_are_witten_bells(train: list[int], test: list[int], order: int, characters: list[int]) -> None:
    vocabulary = characters[-1] + 1  # of Chinese there are thousands
    train, test = ([characters[token] for token in tokens] for tokens in (train, test))
    counts = Counter(tuple(train[i : i + n]) for n in range(1, 8) for i in range(len(train) - n + 1))

    def probability(history: tuple[int, ...], token: int) -> float:
        shorter = probability(history[1:], token) if history else 1 / vocabulary
        seen = [counts[(*history, w)] for w in characters]
        kinds = sum(count > 0 for count in seen)
        if not kinds:
            return shorter
        return (counts[(*history, token)] + kinds * shorter) / (sum(seen) + kinds)

    nats = [math.log2(probability(tuple(test[max(0, i - order + 1) : i]), test[i])) for i in range(1, len(test))]
    bits = ngram_bits([np.array(train)], [np.array(test)], order, vocabulary)
    assert bits == pytest.approx(-sum(nats) / len(nats))


def test_a_hidden_markov_model_learns_an_order() -> None:
    train, test = np.arange(4000) % 3, np.arange(100) % 3
    assert hmm_bits([train], [test], states=3, vocabulary=4, seed=1) < 0.8 * math.log2(3)
