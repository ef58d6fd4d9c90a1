"""What other methods make of labelled sequences: n-grams for texts, nearest neighbours for series."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.labelled import Labelled
from training.evaluation.classify import Floats, measures

POINTS = 100
"""Values that a series is resampled to, so that series of any length can be compared."""
NEIGHBOURS = 3
MOST_SEQUENCES = 5000
"""Of the training part, for the nearest neighbours."""


def baselines(train: Labelled, test: Labelled, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """The measures of the usual methods on the test part, by the method's name."""
    index = {name: i for i, name in enumerate(classes)}
    y, truth = (np.array([index[name] for name in part.labels]) for part in (train, test))
    rows = {"the most frequent class": measures(truth, np.tile(shares_of(y, len(classes)), (len(truth), 1)))}
    if train.is_text:
        for name, analyzer in (("words, logistic regression", "word"), ("characters, logistic regression", "char_wb")):
            rows[name] = measures(truth, _by_ngrams(train.sequences, y, test.sequences, len(classes), analyzer))
        return rows
    rows[f"{NEIGHBOURS} nearest neighbours"] = measures(
        truth, _by_neighbours(train.sequences, y, test.sequences, len(classes))
    )
    return rows


def shares_of(labels: NDArray[np.int64], classes: int) -> Floats:
    """How often each class occurs."""
    return np.bincount(labels, minlength=classes) / len(labels)


def _by_ngrams(
    texts: Sequence[str], labels: NDArray[np.int64], test: Sequence[str], classes: int, analyzer: str
) -> Floats:
    """Logistic regression on the tf-idf of one and two words, or of one to four characters within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    ngrams = (1, 2) if analyzer == "word" else (1, 4)
    vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, sublinear_tf=True, max_features=200_000)
    model = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=1000))
    model.fit(texts, labels)
    return _spread(model.predict_proba(test), model.classes_, classes)


def _by_neighbours(
    series: Sequence[NDArray[Any]], labels: NDArray[np.int64], test: Sequence[NDArray[Any]], classes: int
) -> Floats:
    """The votes of the nearest neighbours by Euclidean distance, of series resampled to POINTS values."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(NEIGHBOURS, len(labels)))
    model.fit(np.stack([_resampled(each) for each in series[:MOST_SEQUENCES]]), labels[:MOST_SEQUENCES])
    return _spread(model.predict_proba(np.stack([_resampled(each) for each in test])), model.classes_, classes)


def _spread(shares: NDArray[Any], known: NDArray[np.int64], classes: int) -> Floats:
    """Probabilities of the known classes as those of all."""
    every = np.zeros((len(shares), classes))
    every[:, known] = shares
    return every


def _resampled(series: NDArray[Any]) -> Floats:
    """POINTS values of each feature, linear between the observed ones, one feature after the other."""
    at = np.linspace(0, len(series) - 1, POINTS)
    columns = []
    for column in series.T:
        observed = np.flatnonzero(np.isfinite(column))
        columns.append(np.interp(at, observed, column[observed]) if len(observed) else np.zeros(POINTS))
    return np.concatenate(columns)
