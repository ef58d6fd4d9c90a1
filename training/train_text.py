"""Trains a character model, from texts to a model folder: network, loop, export, evaluation, pictures, card."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.manifest import TextManifest
from training import plots
from training.baselines import hmm_bits_per_character, ngram_bits_per_character
from training.card import ModelCard, figures_table, int8_text
from training.cells import Cell
from training.export import Described, build_graphs, judge_int8, save_reference, write_folder
from training.inference import CharacterModel
from training.loop import Epoch, LoopConfig, fit
from training.networks import TextModel
from training.provenance import Run, is_first_process, provenance, share_of_this_process
from training.series_data import DataError
from training.streams import TextStream
from training.text_data import Vocabulary, normalise, split_texts

UNKNOWN_RATE = 0.002


@dataclass(frozen=True)
class TextConfig:
    """What to train. `context`: characters per training window; `min_count`: rarer characters count as unknown."""

    cell: Cell
    embedding: int
    hidden: int
    layers: int
    dropout: float
    weight_dropout: float
    context: int
    rows: int
    valid: float
    test: float
    min_count: int
    baselines: bool


def train(texts: Sequence[str], config: TextConfig, loop: LoopConfig, run: Run) -> Path | None:
    """Train on the first part of the texts, choose the weights on the next, measure on the last.

    Returns the model folder, or None in a process that only helped to train.

    Raises:
        DataError: the texts are too short to cut into parts.
    """
    torch.manual_seed(loop.seed)
    parts = split_texts(texts, config.valid, config.test)
    if min(sum(map(len, part)) for part in parts) < 2:
        raise DataError("the text is too short to hold out a validation and a test part of two characters each")
    vocabulary = Vocabulary.of(parts[0], config.min_count)
    replacements = vocabulary.replacements()
    tokens, valid, test = ([vocabulary.encode(normalise(text, replacements)) for text in part] for part in parts)
    network = TextModel(
        config.cell,
        len(vocabulary.characters),
        config.embedding,
        config.hidden,
        config.layers,
        config.dropout,
        config.weight_dropout,
    )
    stretches = np.array_split(np.concatenate(tokens), config.rows)
    shared = np.concatenate(share_of_this_process(stretches))
    history = fit(
        network,
        TextStream(shared, config.context, config.rows, UNKNOWN_RATE),
        TextStream(np.concatenate(valid), 500, 4),
        loop,
        run.folder,
    )
    if not is_first_process():
        return None
    graphs = build_graphs(network)

    def manifest(version: int, described: Described) -> TextManifest:
        return TextManifest(
            name=run.name,
            version=version,
            description=run.description,
            graph=described.graph,
            decode=described.decode,
            metrics={},
            provenance=provenance(run, network, history, loop.seed, config.cell, config.layers, config.hidden),
            vocabulary=vocabulary.characters,
            replacements=replacements,
            context=config.context,
        )

    def fill(folder: Path, made: TextManifest, int8: Described) -> TextManifest:
        save_reference(network, folder)
        models = [CharacterModel.of_folder(folder, made, graph) for graph in (made.graph, int8.graph)]
        return _measure(models[0], models[1], int8, tokens, test, parts[2], config, history, folder)

    return write_folder(run.models, run.name, graphs, manifest, fill)


def _measure(
    model: CharacterModel,
    in_int8: CharacterModel,
    int8: Described,
    train: Sequence[NDArray[np.int64]],
    test: Sequence[NDArray[np.int64]],
    test_texts: Sequence[str],
    config: TextConfig,
    history: list[Epoch],
    folder: Path,
) -> TextManifest:
    """Measure on the test part beside the baselines, draw the pictures and write the card."""
    size = len(model.manifest.vocabulary)
    bits = model.bits_per_character(test)
    scores = {"Carry": _line(bits)}
    if config.baselines:
        for order in (3, 6):
            scores[f"{order}-gram, Witten-Bell"] = _line(ngram_bits_per_character(train, test, order, size))
        scores["hidden Markov model, 32 states"] = _line(hmm_bits_per_character(train, test, 32, size, seed=0))
    characters = sum(map(len, test))
    unknown = sum(int((document == 0).sum()) for document in test)
    card = ModelCard(history)
    card.section(
        "Test part",
        f"{characters:,} characters that were neither trained on nor used to choose the weights, read once from the "
        f"start with the state carried; {unknown} of them are outside the vocabulary. Lower is better.\n\n"
        + figures_table(scores),
    )
    plots.plot_losses(history, folder / "pictures" / "loss.png", "cross-entropy, nats per character")
    card.picture("loss", "Training and validation loss by epoch.")
    line = next((line for line in test_texts[0].split("\n")[5:] if 30 <= len(line) <= 60), test_texts[0][1:50])
    _heatmap(model, test_texts[0], line, folder / "pictures" / "next_character.png")
    card.picture(
        "next_character",
        "A line of the test part; under each character, what the model expected there after all that came before: the "
        "darker, the more probable; what really came is framed.",
    )
    float32 = Described(model.manifest.graph, model.manifest.decode)
    judged = judge_int8(folder, float32, int8, (bits, in_int8.bits_per_character(test)))
    card.section("In int8", int8_text(judged, "bits per character"))
    made = model.manifest.model_copy(update={"metrics": scores["Carry"], "int8": judged})
    card.write(folder, made)
    return made


def _line(bits: float) -> dict[str, float]:
    return {"bits_per_character": bits, "nats_per_character": bits * math.log(2)}


def _heatmap(model: CharacterModel, text: str, line: str, path: Path) -> None:
    characters = model.manifest.vocabulary
    start = text.index(line)
    vocabulary = Vocabulary(characters)
    context = text[max(0, start - 2000) : start] or "\n"
    tokens = vocabulary.encode(normalise(context + line, {}))
    logs = np.concatenate(list(model.log_probabilities(tokens[:-1])))[-len(line) :]
    best = np.argsort(-logs, axis=1)[:, :5]
    candidates = [
        [(characters[token] or "?", float(np.exp(row[token]))) for token in order]
        for row, order in zip(logs, best, strict=True)
    ]
    plots.plot_heatmap(line, candidates, path)
