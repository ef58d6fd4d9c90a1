"""Baselines of text models: n-grams and hidden Markov models, in bits per token."""

from collections.abc import Sequence

import numpy as np
from hmmlearn.base import ConvergenceMonitor
from hmmlearn.hmm import CategoricalHMM
from numpy.typing import NDArray

from training.progress import Update, track

NGRAM_TOKENS = 10_000_000
"""Tokens of the training part that the n-grams count: each costs some hundred bytes and a microsecond."""
HMM_TOKENS = 200_000
"""Tokens of the training part that the hidden Markov model is fitted to."""
HMM_PASSES = 12
"""Passes of Baum-Welch over them, at most."""


def ngram_bits(
    train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]], order: int, vocabulary: int
) -> float:
    """Bits per token of interpolated Witten-Bell n-grams (Chen and Goodman 1998, section 2.4) of up to `order` tokens,
    fitted to the first `NGRAM_TOKENS`.

    p_n(w | h) = (c(h w) + t(h) p_{n-1}(w | h')) / (c(h) + t(h)), with t(h) the number of different tokens
    seen after the history h, h' the history without its first token, and p_0 uniform. Ours, since over a
    million characters it takes seconds as arrays, and minutes as the dictionaries of a general library.
    """
    documents = [np.asarray(tokens) for tokens in test]
    ends = np.cumsum([len(tokens) for tokens in train])
    sample = [d[: max(0, NGRAM_TOKENS - (end - len(d)))] for d, end in zip(train, ends.tolist(), strict=True)]
    probabilities = [np.full(max(0, len(tokens) - 1), 1 / vocabulary) for tokens in documents]
    # A gram's number is its index among the grams of its size in training. Its history's number and its last token make
    # its key, so that no key grows beyond tokens x vocabulary, however long the grams.
    numbers = [np.zeros(len(d) + 1, dtype=np.int64) for d in sample]
    test_numbers = [np.zeros(len(tokens) + 1, dtype=np.int64) for tokens in documents]
    for size in range(1, order + 1):
        parts = [_keys(d, size, before, vocabulary) for d, before in zip(sample, numbers, strict=True)]
        keys, inverse, counts = np.unique(np.concatenate(parts), return_inverse=True, return_counts=True)
        histories, first, types = np.unique(keys // vocabulary, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first) if len(counts) else counts
        numbers = np.split(inverse, np.cumsum([len(part) for part in parts])[:-1])
        for i, (tokens, probability) in enumerate(zip(documents, probabilities, strict=True)):
            before = test_numbers[i]
            test_keys = _keys(tokens, size, before, vocabulary)
            test_numbers[i] = _look_up(keys, np.arange(1, len(keys) + 1), test_keys) - 1
            # The first token is not predicted; the next ones have no history of this size and keep the shorter ones'.
            test_keys, history = test_keys[max(0, 2 - size) :], before[: len(test_keys)][max(0, 2 - size) :]
            shorter = probability[len(probability) - len(test_keys) :]
            count = _look_up(keys, counts, test_keys)
            total = _look_up(histories, totals, history)
            kinds = _look_up(histories, types, history)
            shorter[:] = np.where(total > 0, (count + kinds * shorter) / np.maximum(total + kinds, 1), shorter)
    return float(-np.log2(np.concatenate(probabilities)).mean())


def _keys(tokens: NDArray[np.int64], size: int, before: NDArray[np.int64], vocabulary: int) -> NDArray[np.int64]:
    """The key of each run of `size` tokens; before: the number of the run without its last token, which is key //
    vocabulary, -1 for one that training does not hold. Then the key is negative, too."""
    count = max(0, len(tokens) - size + 1)
    return before[:count] * vocabulary + tokens[size - 1 : size - 1 + count]


def _look_up(keys: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of each wanted key, 0 where it is not among the ascending keys."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


class _Passes(ConvergenceMonitor):  # type: ignore[misc]  # hmmlearn has no types
    """Says how many passes over the text are done."""

    def __init__(self, update: Update) -> None:
        super().__init__(tol=1.0, n_iter=HMM_PASSES, verbose=False)
        self._update = update

    def report(self, log_prob: float) -> None:
        super().report(log_prob)
        self._update(self.iter, f"measuring baselines: hidden Markov model, pass {self.iter} of {HMM_PASSES}")


def hmm_bits(
    train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]], states: int, vocabulary: int, seed: int
) -> float:
    """Bits per token of a hidden Markov model with categorical emissions (hmmlearn, Baum-Welch), on the test documents.

    A pseudo-count of 0.1 for each emission keeps a token that training never saw from costing infinitely much.
    """
    model = CategoricalHMM(
        n_components=states,
        n_features=vocabulary,
        n_iter=HMM_PASSES,
        tol=1.0,
        random_state=seed,
        emissionprob_prior=1.1,
        implementation="scaling",  # ten times as fast as with logarithms
    )
    # In sequences of 1000 tokens.
    tokens = np.concatenate(train)[:HMM_TOKENS]
    lengths = [len(part) for part in np.split(tokens, range(1000, len(tokens), 1000))]
    with track(HMM_PASSES) as update:
        model.monitor_ = _Passes(update)
        model.fit(tokens[:, None], lengths)
    nats = -sum(model.score(document[:, None]) for document in test)
    return float(nats / np.log(2) / max(1, sum(len(document) for document in test)))
