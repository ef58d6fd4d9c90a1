"""Fits the head of a classifier over the states of a trained model: ridge regression of the classes, in closed form."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from carry.classifier import read_to_end
from carry.files import DataError
from service.text.manifest import TextManifest
from service.tokenizer import Tokenizer
from training.data.labelled import Labelled
from training.evaluation.classify import calibrated_temperature, measures
from training.loop import Epoch
from training.models import ModelFolder
from training.nets.frozen import FrozenClassifier, FrozenSeries, FrozenText
from training.onnx.export import open_graph
from training.onnx.frozen import pooled_graph
from training.onnx.weights import read_forecaster, read_text_model
from training.progress import say

Trunk = FrozenSeries | FrozenText

PENALTIES = np.logspace(-1, 6, 15)
SHARPNESS = 10.0
"""The scores are so many times the regression of 1 and -1, before calibration divides them."""
MOST_NUMBERS = 10**8
"""What a head is fitted to, and its scores, are at most so many; memory has some five copies, 4 GB. Of more sequences,
some are drawn."""
SMALLEST = 1e-6
"""A standard deviation below this is that of a number that does not change."""


@dataclass(frozen=True)
class FrozenFit:
    """A fitted classifier, the tokenizer of texts, what the card says of it, and one line for the log."""

    network: FrozenClassifier
    tokenizer: Tokenizer | None
    origin: str
    history: list[Epoch]


def fit_frozen(
    source: ModelFolder, data: Labelled, labels: NDArray[np.int64], weights: NDArray[np.float32], seed: int
) -> FrozenFit:
    """Read all sequences once through the layers of a model, and fit a head to what they leave.

    The head is a ridge regression of each class, 1 or -1, on the standardised states, as usual over features that are
    not learnt (MiniRocket: Dempster et al. 2021). The penalty is the one of PENALTIES with the smallest squared error
    of each sequence by the head of all others, which has a closed form (Golub, Heath and Wahba 1979); the temperature
    is that of these scores. So nothing is held out. labels (N,): of `data`; weights (C,): of the classes.

    Raises:
        DataError: the model reads another form of sequences, or its layers cannot be read back.
    """
    from sklearn.linear_model import Ridge, RidgeCV

    started = time.monotonic()
    trunk, tokenizer = _trunk(source, data)
    sequences = [tokenizer.encode(text)[1] for text in data.sequences] if tokenizer else data.sequences
    kept = np.array([i for i, sequence in enumerate(sequences) if len(sequence)])
    most, drawn = MOST_NUMBERS // (trunk.width + len(PENALTIES) * len(weights)), ""
    if len(kept) > most:
        drawn = f" It was fitted to {most:,} of the {len(kept):,} training sequences, drawn at random."
        kept = np.sort(np.random.default_rng(seed).choice(kept, most, replace=False))
    labels = labels[kept]
    say(f"reading {len(kept):,} sequences through the layers of {source.label}")
    pooled = read_pooled(trunk, [sequences[i] for i in kept.tolist()]).astype(np.float64)
    read = np.isfinite(pooled)
    count = np.maximum(read.sum(axis=0), 1)
    center = np.where(read, pooled, 0.0).sum(axis=0) / count
    x = np.where(read, pooled - center, 0.0)
    scale = np.sqrt((x * x).sum(axis=0) / count)
    scale[scale < SMALLEST] = 1.0
    x /= scale
    say(f"fitting {len(weights):,} classes to {trunk.width:,} numbers of each")
    targets = np.where(np.arange(len(weights)) == labels[:, None], 1.0, -1.0)
    counts = weights[labels].astype(np.float64)
    search = RidgeCV(PENALTIES, store_cv_results=True, scoring="neg_mean_squared_error")
    by_others = search.fit(x, targets, counts).cv_results_
    best = int(np.argmin((((by_others - targets[:, :, None]) ** 2).mean(axis=1) * counts[:, None]).sum(axis=0)))
    ridge = Ridge(PENALTIES[best]).fit(x, targets, counts)
    scores = SHARPNESS * by_others[:, :, best]
    network = FrozenClassifier(trunk, len(weights))
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(SHARPNESS * ridge.coef_ / scale))
        network.head.bias.copy_(torch.from_numpy(SHARPNESS * ridge.intercept_))
        network.center.copy_(torch.from_numpy(center))
        network.temperature.fill_(calibrated_temperature(labels, scores))
    temperature = float(network.temperature)
    fitted = SHARPNESS * ridge.predict(x)
    train_loss, valid_loss = (_log_loss(labels, part / temperature) for part in (fitted, scores))
    seconds = time.monotonic() - started
    origin = (
        f"The recurrent layers are those of {source.label} and did not learn. A linear head reads, of all their units, "
        "the last output, and the mean, the maximum and the minimum of all so far; it is a ridge regression with the "
        f"penalty {PENALTIES[best]:g}, chosen by leaving out one sequence at a time. The validation loss is that of "
        f"each training sequence by the head of all others.{drawn}"
    )
    history = [Epoch(1, train_loss, valid_loss, 0.0, seconds, len(labels) / seconds)]
    return FrozenFit(network.eval(), tokenizer, origin, history)


def _log_loss(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    return measures(labels, torch.from_numpy(scores).softmax(1).numpy())["log_loss"]


def read_pooled(trunk: Trunk, sequences: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """What a head reads at the end of each sequence, (N, width), NaN where the layers have read nothing yet."""
    return read_to_end(open_graph(pooled_graph(trunk)), "pooled", trunk.width, sequences)


def _trunk(source: ModelFolder, data: Labelled) -> tuple[Trunk, Tokenizer | None]:
    manifest = source.manifest
    if manifest.kind not in ("forecast", "text"):
        raise DataError(f"{source.label} is no forecaster and no text model")
    if data.is_text != (manifest.kind == "text"):
        has, wants = ("texts", "a text model") if data.is_text else ("series", "a forecaster of any series")
        raise DataError(f"these are {has}: --features-of needs {wants}, and {source.label} is none")
    try:
        if isinstance(manifest, TextManifest):
            return FrozenText(read_text_model(source.path)[0].eval()), manifest.tokenizer
        return FrozenSeries(read_forecaster(source.path), len(data.features)), None
    except ValueError as error:
        raise DataError(str(error)) from error
