"""The methods that a classifier of one's own is measured beside."""

import numpy as np

from training.data.labelled import Labelled
from training.evaluation.classify_baselines import baselines

LENGTH = 60


def bumps(rng: np.random.Generator, count: int, shift: int) -> Labelled:
    """Series of two features, the second a thousand times as large. Those of `up` have a bump in the first, those of
    `down` a dent, somewhere; the second is noise."""
    labels, series = [], []
    for i in range(count):
        at = np.arange(LENGTH) - LENGTH / 2 - rng.integers(-shift, shift + 1)
        bump = np.exp(-((at / 4) ** 2)) * (1 if i % 2 else -1)
        labels.append("up" if i % 2 else "down")
        series.append(np.stack([bump, 1000 + rng.normal(0, 0.01, LENGTH)], axis=1))
    return Labelled(labels, series, ("bump", "noise"))


def test_the_nearest_series_is_found_where_it_is_moved_in_time() -> None:
    rng = np.random.default_rng(0)
    rows = baselines(bumps(rng, 4, 0), bumps(rng, 40, 5), ["down", "up"])
    assert rows["nearest neighbour, dynamic time warping"]["accuracy"] == 1.0
    assert rows["the most frequent class"]["accuracy"] == 0.5


def test_series_of_other_lengths_and_with_gaps_have_a_nearest_one() -> None:
    rng = np.random.default_rng(1)
    test = bumps(rng, 10, 2)
    shorter = [each[5 : 50 - i].copy() for i, each in enumerate(test.sequences)]
    for each in shorter:
        each[::7] = np.nan
    rows = baselines(bumps(rng, 20, 0), Labelled(test.labels, shorter, test.features), ["down", "up"])
    assert rows["nearest neighbour, dynamic time warping"]["accuracy"] == 1.0


def test_ngrams_tell_texts_apart() -> None:
    texts = ["ein kleiner Hund und eine Katze", "the small dog and the cat", "das Haus ist klein", "the house is small"]
    train = Labelled(["de", "en"] * 2, texts)
    test = Labelled(["de", "en"], ["eine Katze ist im Haus", "the cat is in the house"])
    rows = baselines(train, test, ["de", "en"])
    assert rows["words, logistic regression"]["accuracy"] == 1.0
    assert rows["characters, logistic regression"]["accuracy"] == 1.0
