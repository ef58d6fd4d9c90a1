"""Trains a classifier and writes its model folder: network, loop, calibration, export, evaluation, pictures, card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from carry.classifier import Classifier
from carry.files import DataError
from service.classify.manifest import ClassifyManifest
from service.manifest import Graph
from service.tokenizer import Tokenizer
from training import plots
from training.card import ModelCard, int8_text, markdown_table
from training.checkpoint import LOG_FILE, resumable_checkpoint, save_checkpoint
from training.data.labelled import Labelled, SequenceStream, class_names, split_by_class
from training.data.texts import learn_tokenizer
from training.evaluation.classify import (
    Floats,
    calibrated_temperature,
    confusion,
    encode,
    measures,
)
from training.evaluation.classify_baselines import baselines, shares_of
from training.evaluation.confusion_plot import plot_confusion
from training.loop import Epoch, LoopConfig, fit, write_log
from training.models import ModelFolder
from training.nets.cells import Cell
from training.nets.classifier import Classifier as Network
from training.nets.classifier import SeriesInput, TextInput
from training.nets.frozen import FrozenClassifier
from training.nets.scaling import StandardScaler
from training.onnx.classify import classify_graph  # noqa: F401  # registers classifiers with the export
from training.onnx.export import GraphSpec, build_graphs, evaluate_int8, save_reference, standardise, write_folder
from training.progress import say
from training.provenance import Run, is_first_process, provenance
from training.recipes.classify_frozen import fit_frozen

LOSS = "log_loss"
VALID, SMALL = 0.15, 200
"""The share held out to choose the weights; of fewer sequences than SMALL, nothing is: a handful chooses badly, and
training lacks it. Then the last weights are kept, and no temperature is found."""
BATCHES = 16
"""An epoch has about so many batches at least: a small training part is read several times in it."""


@dataclass(frozen=True)
class ClassifyConfig:
    """What to train. valid: the share held out to choose the weights; None: VALID, or nothing of a small set.
    smoothing: of the labels. weighted: by how rare a class is. mask_rate: the share of values or characters that is
    hidden. unit, min_count: of texts. features_of: a model whose layers to use as they are, whatever else is said here
    of layers and of how to train them."""

    cell: Cell
    hidden: int
    layers: int
    dropout: float
    directions: int
    embedding: int
    unit: str
    min_count: int
    rows: int
    valid: float | None
    test: float
    smoothing: float
    weighted: bool
    mask_rate: float
    baselines: bool
    features_of: ModelFolder | None = None


def default_rate(data: Labelled) -> float:
    """The learning rate of these sequences, unless another is asked for."""
    return 0.003 if data.is_text else 0.01


def train(
    data: Labelled, config: ClassifyConfig, loop: LoopConfig, run: Run, test_data: Labelled | None = None
) -> Path | None:
    """Train on one part of the sequences, choose the weights and calibrate on another, measure on the last, or on
    `test_data`. Each class is in each part by its share.

    Returns the model folder, or None in a process that only helped to train.

    Raises:
        DataError: there are too few sequences, or the test part has a class that training lacks.
    """
    torch.manual_seed(loop.seed)
    classes = class_names(data)
    valid_share = (VALID if len(data) >= SMALL else 0.0) if config.valid is None else config.valid
    if config.features_of is not None:
        valid_share = 0.0  # its head is chosen and calibrated by leaving out one sequence at a time
    valid, test, train_part = split_by_class(data, [valid_share, 0.0 if test_data else config.test], loop.seed)
    test = test if test_data is None else test_data.of_features(data.features, "--test-on")
    if unknown := sorted(set(test.labels) - set(classes)):
        raise DataError(f"the test part has classes that the training part lacks: {', '.join(unknown)}")
    say(
        f"{len(classes):,} classes; {len(train_part):,} sequences to train on, {len(valid):,} to "
        f"choose the weights on, {len(test):,} to measure"
    )
    labels = {name: i for i, name in enumerate(classes)}
    fit_network = _fit_layers if config.features_of is None else _fit_head
    fitted = fit_network(train_part, valid, labels, config, loop, run)
    if fitted is None:
        return None
    network, tokenizer, history = fitted.network, fitted.tokenizer, fitted.history
    say(f"exporting to ONNX, and comparing it with PyTorch; the scores are divided by {float(network.temperature):.2f}")
    recurrent = network.recurrent

    def manifest(version: int, graphs: GraphSpec) -> ClassifyManifest:
        return ClassifyManifest(
            name=run.name,
            version=version,
            description=run.description,
            graph=graphs.graph,
            metrics={},
            provenance=provenance(
                run, network, history, loop.seed, recurrent.cell, len(recurrent.layers), recurrent.hidden
            ),
            classes=classes,
            features=data.features,
            unit="character" if tokenizer is None else tokenizer.level,
            vocabulary=() if tokenizer is None else tokenizer.vocabulary,
            replacements={} if tokenizer is None else dict(tokenizer.replacements),
            directions=fitted.directions,
        )

    def finalize(folder: Path, unmeasured: ClassifyManifest, int8: GraphSpec) -> ClassifyManifest:
        save_reference(network, folder)
        card = ModelCard(history)
        if fitted.origin:
            card.section("What it began with", fitted.origin)
        else:
            plots.plot_losses(history, folder / "pictures" / "loss.png", "cross-entropy, nats")
            card.losses()
        metrics: dict[str, float] = {}
        losses = None
        if len(test):
            truth = np.array([labels[name] for name in test.labels], dtype=np.int64)
            shares = [_shares(folder, unmeasured, graph, test) for graph in (unmeasured.graph, int8.graph)]
            metrics = measures(truth, shares[0])
            losses = metrics[LOSS], measures(truth, shares[1])[LOSS]
            table = {"Carry": metrics}
            if config.baselines:
                say("measuring baselines")
                table |= baselines(train_part, test, classes)
            card.section("Test part", _test_part(test, run, test_data is not None) + markdown_table(table))
            plot_confusion(confusion(truth, shares[0]), classes, folder / "pictures" / "confusion.png")
            card.picture("confusion", "What each class was taken for: rows are the truth, in shares of the row.")
        else:
            card.section("Test part", "Nothing was held out to measure.")
        int8_entry = evaluate_int8(folder, GraphSpec(unmeasured.graph, None), int8, losses)
        card.section("In int8", int8_text(int8_entry, "log loss"))
        complete = unmeasured.model_copy(update={"metrics": metrics, "int8": int8_entry})
        card.write(folder, complete, _what_it_does(complete))
        return complete

    return write_folder(run.models, run.name, build_graphs(network), manifest, finalize)


@dataclass(frozen=True)
class _Fitted:
    """A trained network on the CPU, the tokenizer of texts, its log, and what the card says of what it began with."""

    network: Network | FrozenClassifier
    tokenizer: Tokenizer | None
    history: list[Epoch]
    directions: int = 1
    origin: str = ""


def _fit_layers(
    train: Labelled, valid: Labelled, labels: Mapping[str, int], config: ClassifyConfig, loop: LoopConfig, run: Run
) -> _Fitted | None:
    """Train a new network; None in a process that only helped to."""
    tokenizer = None
    if train.is_text:
        tokenizer = learn_tokenizer(train.sequences, config.min_count, config.unit, None)  # type: ignore[arg-type]
        reader: SeriesInput | TextInput = TextInput(tokenizer.size, config.embedding)
    else:
        reader = SeriesInput(StandardScaler(*standardise(train.sequences)))
    network = Network(reader, config.cell, config.hidden, config.layers, config.dropout, len(labels), config.directions)

    def stream(part: Labelled, smoothing: float, mask_rate: float) -> SequenceStream:
        y = _indices(part, labels)
        sequences = part.sequences if tokenizer is None else [tokenizer.encode(text)[1] for text in part.sequences]
        kept = [i for i, sequence in enumerate(sequences) if len(sequence)]
        weights = _class_weights(y, len(labels), config)
        return SequenceStream([sequences[i] for i in kept], y[kept], weights, config.rows, smoothing, mask_rate)

    passes = max(1, BATCHES * config.rows // max(1, len(train)))
    often = train.take(np.tile(np.arange(len(train)), passes))
    training, validation = stream(often, config.smoothing, config.mask_rate), stream(valid, 0.0, 0.0)
    history = fit(network, training, validation if len(valid) else None, loop, run.folder, run.identity)
    if not is_first_process():
        return None
    network = network.cpu().eval()
    if len(valid):
        network.temperature.fill_(calibrated_temperature(validation.labels, _torch_scores(network, validation)))
    return _Fitted(network, tokenizer, history, config.directions)


def _fit_head(
    train: Labelled, valid: Labelled, labels: Mapping[str, int], config: ClassifyConfig, loop: LoopConfig, run: Run
) -> _Fitted | None:
    """Fit a head to the layers of a model. `valid` is empty."""
    assert config.features_of is not None
    if not is_first_process():
        return None
    resumable_checkpoint(run.folder, run.identity)  # an unfinished run of another command is not overwritten
    y = _indices(train, labels)
    frozen = fit_frozen(config.features_of, train, y, _class_weights(y, len(labels), config), loop.seed)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_log(frozen.history, run.folder / LOG_FILE)
    saved = {"identity": dict(run.identity), "wrote": None, "history": [vars(line) for line in frozen.history]}
    save_checkpoint(run.folder, saved)
    return _Fitted(frozen.network, frozen.tokenizer, frozen.history, origin=frozen.origin)


def _indices(part: Labelled, labels: Mapping[str, int]) -> NDArray[np.int64]:
    return np.array([labels[name] for name in part.labels], dtype=np.int64)


def _class_weights(y: NDArray[np.int64], classes: int, config: ClassifyConfig) -> NDArray[np.float32]:
    """How much a sequence of each class counts, (C,)."""
    if not config.weighted:
        return np.ones(classes, np.float32)
    return (1 / np.maximum(shares_of(y, classes), 1e-6) / classes).astype(np.float32)


def _torch_scores(network: Network, stream: SequenceStream) -> NDArray[np.float32]:
    """PyTorch's scores (N, C) of a stream's sequences, in the order of its labels."""
    results = []
    with torch.no_grad():
        for batch in stream.batches(None):
            _, _, _, lengths, *inputs = batch.arguments
            pooled = network.pooled(tuple(inputs), lengths)
            results.append(network.scores(pooled[torch.arange(len(lengths)), lengths - 1]))
    order = np.argsort([len(sequence) for sequence in stream.sequences], kind="stable")
    scores = np.empty((len(order), results[0].shape[1]), np.float32)
    scores[order] = torch.cat(results).numpy()
    return scores


def _shares(folder: Path, manifest: ClassifyManifest, graph: Graph, data: Labelled) -> Floats:
    """The probabilities (N, C) by one graph of a folder."""
    return Classifier(folder, manifest, graph).probabilities(encode(manifest, data))


def _test_part(test: Labelled, run: Run, published: bool) -> str:
    what = "texts" if test.is_text else "series"
    split = "a file of their own" if published else "held out, each class by its share"
    return (
        f"{len(test):,} {what}, {split}; neither trained on nor used to choose the weights or to calibrate. Higher "
        "accuracies and F1, lower losses and errors are better.\n\n"
    )


def _what_it_does(manifest: ClassifyManifest) -> str:
    names = ", ".join(f"`{name}`" for name in manifest.classes[:20])
    more = f" and {len(manifest.classes) - 20} more" if len(manifest.classes) > 20 else ""
    if manifest.reads_text:
        what = f"texts, {manifest.unit} by {manifest.unit}"
    else:
        what = f"series of {', '.join(f'`{name}`' for name in manifest.features)}"
    how = "after every step" if manifest.directions == 1 else "of whole sequences only: it reads them both ways"
    return f"Classifies {what}: {names}{more}. It knows the class {how}."
