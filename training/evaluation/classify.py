"""Measures classifiers: their probabilities on labelled sequences, and the measures of these."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carry.classifier import Classifier
from carry.files import DataError
from service.classify.manifest import ClassifyManifest
from service.classify.task import softmax
from training.data.labelled import Labelled, read_labelled

Floats = NDArray[np.float64]
BINS = 15
"""Of the calibration error."""
SMALLEST = 1e-12
"""Probability below which none counts, so that a log loss is finite."""


def encode(manifest: ClassifyManifest, data: Labelled) -> list[NDArray[Any]]:
    """The sequences as the model reads them: series (T, F), or tokens (T,); an empty text as one unknown token."""
    if not manifest.reads_text:
        return data.sequences
    ids = (manifest.tokenizer.encode(text)[1] for text in data.sequences)
    return [tokens if len(tokens) else np.zeros(1, np.int64) for tokens in ids]


def measures(labels: NDArray[np.int64], shares: Floats) -> dict[str, float]:
    """The measures of probabilities (N, C) against the true classes (N,).

    balanced_accuracy: the mean recall of the classes that occur. macro_f1: the mean F1 of these classes.
    calibration_error: the expected calibration error over BINS equal intervals of the highest probability (Naeini et
    al. 2015).
    """
    matrix = confusion(labels, shares)
    occurs = matrix.sum(axis=1) > 0
    hits = np.diag(matrix)[occurs].astype(float)
    found, meant = matrix.sum(axis=0)[occurs], matrix.sum(axis=1)[occurs]
    highest, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    bins = np.minimum((highest * BINS).astype(int), BINS - 1)
    gaps = [abs(right[bins == b].sum() - highest[bins == b].sum()) for b in range(BINS)]
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float((hits / meant).mean()),
        "macro_f1": float((2 * hits / (found + meant)).mean()),
        "log_loss": float(-np.log(np.maximum(shares[np.arange(len(labels)), labels], SMALLEST)).mean()),
        "calibration_error": float(sum(gaps) / len(labels)),
    }


def confusion(labels: NDArray[np.int64], shares: Floats) -> NDArray[np.int64]:
    """How often each class (rows) was taken for each (columns), (C, C)."""
    classes = shares.shape[1]
    counts = np.bincount(labels * classes + shares.argmax(axis=1), minlength=classes * classes)
    return counts.reshape(classes, classes)


def calibrated_temperature(labels: NDArray[np.int64], scores: NDArray[Any]) -> float:
    """What the scores (N, C) are to be divided by for the lowest log loss (Guo et al. 2017), from 0.5 to 5. Below 0.5
    it would promise what a small part that it has wholly right cannot show."""
    candidates = np.exp(np.linspace(np.log(0.5), np.log(5.0), 117))
    losses = [measures(labels, softmax(scores / t))["log_loss"] for t in candidates]
    return float(candidates[int(np.argmin(losses))])


def evaluate_classifiers(
    folders: Sequence[Path], data: Sequence[Path], label: str, id: str | None
) -> dict[str, dict[str, float]]:
    """The measures of every graph of the folders on labelled sequences, how many these are, and the seconds that all of
    them took together.

    Raises:
        DataError: a file cannot be read, or holds a class or a form of sequence that a model does not know.
    """
    labelled = read_labelled(data, label, id)
    rows = {}
    for folder in folders:
        for name, model in Classifier.open(folder).items():
            manifest = model.manifest
            if unknown := sorted(set(labelled.labels) - set(manifest.classes)):
                raise DataError(f"{manifest.label} does not know the class {', '.join(unknown)}")
            sequences = encode(manifest, labelled.of_features(manifest.features, ", ".join(map(str, data))))
            truth = np.array([manifest.classes.index(name) for name in labelled.labels])
            started = time.perf_counter()
            shares = model.probabilities(sequences)
            seconds = time.perf_counter() - started
            rows[name.replace(manifest.name, manifest.label, 1)] = {
                **measures(truth, shares),
                "sequences": float(len(truth)),
                "seconds": seconds,
            }
    return rows
