"""The methods that a classifier of one's own is measured beside."""

from pathlib import Path

import numpy as np

from training.data.labelled import Labelled
from training.evaluation.classify_baselines import baselines
from training.evaluation.confusion_plot import plot_confusion

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


def test_texts_of_letters_or_of_no_words_are_measured_as_far_as_they_can_be() -> None:
    """A word may be one letter; without words there are no n-grams."""
    letters = Labelled(["x", "y"] * 10, ["a b", "c d"] * 10)
    rows = baselines(letters, letters, ["x", "y"])
    assert rows["words, logistic regression"]["accuracy"] == 1.0
    marks = Labelled(["x", "y"] * 10, ["!?", "..."] * 10)
    assert list(baselines(marks, marks, ["x", "y"])) == ["the most frequent class"]


def test_a_class_may_have_any_name_in_the_picture(tmp_path: Path) -> None:
    """Dollar signs make no formula; a thousand classes are drawn without their names."""
    plot_confusion(np.eye(3, dtype=np.int64), ["$\\foo$", "b$", "`c|d`"], tmp_path / "few.png")
    plot_confusion(np.ones((1000, 1000), np.int64), [f"class {i}" for i in range(1000)], tmp_path / "many.png")
    for name in ("few", "many"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert (tmp_path / "few.csv").read_text().splitlines()[1] == "$\\foo$,1,0,0"
