"""What other methods make of labelled sequences: n-grams for texts, the nearest neighbour for series."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.labelled import Labelled
from training.evaluation.classify import Floats, measures
from training.progress import say

WORD = re.compile(r"\w+")
"""Also of one letter, which scikit-learn leaves out."""
POINTS = 100
"""Values that a series is resampled to: series of any length can be compared, at a cost that is known."""
BAND = 10
"""How many of these a warped step may be moved by (Sakoe and Chiba 1978): a tenth of the series (Ratanamahatana and
Keogh 2005)."""
MOST_SEQUENCES = 1000
"""Of the training part, for the nearest neighbour: it compares each with each of the test part."""
TEST_ROWS = 100
"""Of the test part that are compared at once."""


def baselines(train: Labelled, test: Labelled, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """The measures of the usual methods on the test part, by the method's name."""
    index = {name: i for i, name in enumerate(classes)}
    y, truth = (np.array([index[name] for name in part.labels]) for part in (train, test))
    rows = {"the most frequent class": measures(truth, np.tile(shares_of(y, len(classes)), (len(truth), 1)))}
    if train.is_text:
        if not any(map(WORD.search, train.sequences)):
            say("the texts have no words: n-grams are not measured")
            return rows
        for name, analyzer in (("words, logistic regression", "word"), ("characters, logistic regression", "char_wb")):
            rows[name] = measures(truth, _by_ngrams(train.sequences, y, test.sequences, len(classes), analyzer))
        return rows
    rows["nearest neighbour, dynamic time warping"] = measures(
        truth, _by_neighbour(train.sequences, y, test.sequences, len(classes))
    )
    return rows


def shares_of(labels: NDArray[np.int64], classes: int) -> Floats:
    """How often each class occurs."""
    return np.bincount(labels, minlength=classes) / max(1, len(labels))


def _by_ngrams(
    texts: Sequence[str], labels: NDArray[np.int64], test: Sequence[str], classes: int, analyzer: str
) -> Floats:
    """Logistic regression on the tf-idf of one and two words, or of one to four characters within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    ngrams = (1, 2) if analyzer == "word" else (1, 4)
    pattern = WORD.pattern if analyzer == "word" else None
    vectorizer = TfidfVectorizer(
        analyzer=analyzer, token_pattern=pattern, ngram_range=ngrams, sublinear_tf=True, max_features=200_000
    )
    model = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=1000))
    model.fit(texts, labels)
    return _spread(model.predict_proba(test), model.classes_, classes)


def _by_neighbour(
    series: Sequence[NDArray[Any]], labels: NDArray[np.int64], test: Sequence[NDArray[Any]], classes: int
) -> Floats:
    """The class of the nearest series by dynamic time warping: resampled to POINTS values, and each feature scaled
    by its spread in the training part. One neighbour is one vote, smoothed by one more that all classes share."""
    from dtaidistance.dtw_ndim import distance_matrix_fast

    labels = labels[:MOST_SEQUENCES]
    known, asked = ([_resampled(each) for each in part] for part in (series[:MOST_SEQUENCES], test))
    spread = np.ptp(np.concatenate(known), axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    known, asked = ([each / scale for each in part] for part in (known, asked))
    nearest = np.empty(len(asked), np.int64)
    for first in range(0, len(asked), TEST_ROWS):
        rows = asked[first : first + TEST_ROWS]
        block = (0, len(rows)), (len(rows), len(rows) + len(known))
        distances = distance_matrix_fast([*rows, *known], window=BAND + 1, block=block, parallel=False)
        nearest[first : first + len(rows)] = distances[: len(rows), len(rows) :].argmin(axis=1)
    shares = np.full((len(asked), classes), 0.5 / classes)
    shares[np.arange(len(asked)), labels[nearest]] += 0.5
    return shares


def _spread(shares: NDArray[Any], known: NDArray[np.int64], classes: int) -> Floats:
    """Probabilities of the known classes as those of all."""
    every = np.zeros((len(shares), classes))
    every[:, known] = shares
    return every


def _resampled(series: NDArray[Any]) -> Floats:
    """POINTS values of each feature (POINTS, F), linear between the observed ones."""
    at = np.linspace(0, len(series) - 1, POINTS)
    columns = []
    for column in series.T:
        observed = np.flatnonzero(np.isfinite(column))
        columns.append(np.interp(at, observed, column[observed]) if len(observed) else np.zeros(POINTS))
    return np.stack(columns, axis=1)
