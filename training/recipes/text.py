"""Trains a text model, from texts to a model folder: network, loop, export, evaluation, pictures, card."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from carry.local import LanguageModel, text_scores, write_samples
from service.text.manifest import TextManifest
from service.text.tokenizer import Tokenizer, Unit
from training import plots
from training.card import ModelCard, figures_table, int8_text
from training.data.series import DataError
from training.data.tbptt_batches import TextStream
from training.data.texts import Encoded, Parts, encode_all, learn_tokenizer
from training.evaluation.baselines import HMM_TOKENS, NGRAM_TOKENS, hmm_bits, ngram_bits
from training.loop import Epoch, LoopConfig, evaluate, fit
from training.nets.cells import Cell
from training.nets.networks import TextModel
from training.onnx.export import Described, build_graphs, judge_int8, save_reference, write_folder
from training.onnx.weights import read_text_model
from training.provenance import Run, is_first_process, process_of_all, provenance

UNKNOWN_RATE = 0.002
VALID_ROWS, VALID_ROW = 40, 5_000
"""Of the validation part at most so many stretches are read after each epoch, each at most so long."""


@dataclass(frozen=True)
class TextConfig:
    """What to train. `context`: tokens per training window; `min_count`: rarer ones count as unknown, and so do those
    that are not among the `max_vocabulary` most frequent. `start_from`: a model folder, whose network and vocabulary
    are gone on from, whatever is said here of their making."""

    cell: Cell
    embedding: int
    hidden: int
    layers: int
    dropout: float
    weight_dropout: float
    context: int
    rows: int
    residual: bool
    ngrams: int
    unit: Unit
    min_count: int
    max_vocabulary: int | None
    baselines: bool
    start_from: Path | None


def train(parts: Parts, config: TextConfig, loop: LoopConfig, run: Run) -> Path | None:
    """Train on one part of the texts, choose the weights on another, measure on the last.

    Returns the model folder, or None in a process that only helped to train.

    Raises:
        DataError: a part is too short, or nothing occurs often enough to be in the vocabulary.
    """
    torch.manual_seed(loop.seed)
    network, tokenizer = _begin(parts, config)
    tokens, valid = ([tokenizer.encode(text)[1] for text in part] for part in (parts.train, parts.valid))
    test = encode_all(tokenizer, parts.test)
    measured = [document.tokens for document in test]
    if not all(any(len(document) > 1 for document in part) for part in (tokens, valid, measured)):
        raise DataError(
            f"the text is too short for parts to train, to choose and to measure of two {tokenizer.unit}s each"
        )
    line_end = tokenizer.pieces.index("\n") if "\n" in tokenizer.pieces else None
    validation = TextStream(_sample(valid), 500, VALID_ROWS)
    history = fit(
        network,
        TextStream(tokens, config.context, config.rows, UNKNOWN_RATE, line_end, process_of_all()),
        validation,
        loop,
        run.folder,
        run.identity,
    )
    if not is_first_process():
        return None
    network = network.cpu()
    before = evaluate(network, validation)
    graphs, recurrent = build_graphs(network), network.recurrent
    rounding = evaluate(network, validation) / before - 1

    def manifest(version: int, described: Described) -> TextManifest:
        return TextManifest(
            name=run.name,
            version=version,
            description=run.description,
            graph=described.graph,
            decode=described.decode,
            metrics={},
            provenance=provenance(
                run, network, history, loop.seed, recurrent.cell, len(recurrent.layers), recurrent.hidden
            ),
            unit=tokenizer.unit,
            vocabulary=tokenizer.pieces,
            replacements=dict(tokenizer.replacements),
            context=config.context,
        )

    def fill(folder: Path, made: TextManifest, int8: Described) -> TextManifest:
        save_reference(network, folder)
        models = (LanguageModel.of_folder(folder, made, graph) for graph in (made.graph, int8.graph))
        return _measure((next(models), next(models)), int8, rounding, tokens, test, parts, config, history, folder)

    return write_folder(run.models, run.name, graphs, manifest, fill)


def _begin(parts: Parts, config: TextConfig) -> tuple[TextModel, Tokenizer]:
    """A new network and its tokenizer, or those to go on from."""
    if config.start_from is not None:
        try:
            network, manifest = read_text_model(config.start_from, config.dropout, config.weight_dropout)
        except ValueError as error:
            raise DataError(str(error)) from error
        return network, manifest.tokenizer
    tokenizer = learn_tokenizer(parts.train, config.min_count, config.unit, config.max_vocabulary)
    if tokenizer.size < 2:
        raise DataError(f"no {config.unit} occurs {config.min_count} times, which --min-count asks for")
    network = TextModel(
        config.cell,
        tokenizer.size,
        config.embedding,
        config.hidden,
        config.layers,
        config.dropout,
        config.weight_dropout,
        residual=config.residual,
        ngrams=config.ngrams,
    )
    return network, tokenizer


def _sample(documents: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Stretches from all over the validation part, the longer ones cut."""
    stretches = [d[first : first + VALID_ROW] for d in documents for first in range(0, len(d), VALID_ROW)]
    stretches = [stretch for stretch in stretches if len(stretch) > 1]
    typical = sum(map(len, stretches)) / len(stretches)
    count = min(len(stretches), round(VALID_ROWS * VALID_ROW / typical))
    return [stretches[i] for i in np.unique(np.linspace(0, len(stretches) - 1, count).astype(int))]


def _measure(
    models: tuple[LanguageModel, LanguageModel],
    int8: Described,
    rounding: float,
    train: Sequence[NDArray[np.int64]],
    test: Sequence[Encoded],
    parts: Parts,
    config: TextConfig,
    history: list[Epoch],
    folder: Path,
) -> TextManifest:
    """Measure the network in float32 and in int8 on the test part beside the baselines, draw the pictures and write the
    card. `rounding`: what the loss on the validation part gained by the rounding of the matrices."""
    manifest = models[0].manifest
    documents = [document.tokens for document in test]
    nats = [float(model.nats(documents).sum()) for model in models]
    scores = {"Carry": text_scores(manifest, test, nats[0])}
    if config.baselines:
        scores |= {
            name: text_scores(manifest, test, cost) for name, cost in _baselines(manifest, train, documents).items()
        }
    card = ModelCard(history)
    card.section("Test part", _test_part(manifest, test, parts, config) + figures_table(scores, digits=5))
    plots.plot_losses(history, folder / "pictures" / "loss.png", f"cross-entropy, nats per {manifest.unit}")
    card.picture("loss", "Training and validation loss by epoch.")
    shown = next((text for text in parts.test if len(text) >= SHOWN), max(parts.test, key=len))
    _heatmap(models[0], shown, folder / "pictures" / "next_character.png")
    card.picture(
        "next_character",
        f"A line of the test part; under each {manifest.unit}, what the model expected there after all that came "
        "before: the darker, the more probable; what really came is framed.",
    )
    float32 = Described(manifest.graph, manifest.decode)
    judged = judge_int8(folder, float32, int8, (nats[0], nats[1]))
    card.section("Samples", _samples(folder, manifest, int8 if judged.default else float32, shown))
    card.section("In int8", int8_text(judged, "bits per character") + "\n\n" + _rounding_text(rounding))
    made = manifest.model_copy(update={"metrics": scores["Carry"], "int8": judged})
    card.write(folder, made)
    return made


def _test_part(manifest: TextManifest, test: Sequence[Encoded], parts: Parts, config: TextConfig) -> str:
    """What the card says of what was measured, and how."""
    characters = sum(map(len, parts.test))
    unknown = sum(int((document.tokens == 0).sum()) for document in test)
    origin = f" of {', '.join(f'`{name}`' for name in parts.test_files)}" if parts.test_files else ""
    use = (
        "were not trained on; but the weights were chosen on them, which flatters these figures a little"
        if parts.chosen_on_test
        else "were neither trained on nor used to choose the weights"
    )
    text = (
        f"{characters:,} characters{origin} that {use}. Each document is read once from its start with the state "
        f"carried; {unknown:,} {manifest.unit}s are outside the vocabulary. Lower is better.\n\n"
    )
    if manifest.unit == "word":
        text += (
            "An unknown word costs what the model gave the unknown word, however it is spelt: the more there are, the "
            "less these bits are worth. Marks and line ends count as words.\n\n"
        )
    if config.baselines:
        text += (
            f"The n-grams are fitted to the first {NGRAM_TOKENS:,} {manifest.unit}s of the training part, a hidden "
            f"Markov model to the first {HMM_TOKENS:,}, or to all where there are fewer.\n\n"
        )
    return text


def _baselines(
    manifest: TextManifest, train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]]
) -> dict[str, float]:
    """What the test part costs by other methods, in nats."""
    size = len(manifest.vocabulary)
    predicted = sum(len(tokens) - 1 for tokens in test) * math.log(2)
    orders = (3, 6) if manifest.unit == "character" else (2, 3)
    found = {f"{order}-gram, Witten-Bell": ngram_bits(train, test, order, size) for order in orders}
    if manifest.unit == "character":  # of words it would have more parameters than it is fitted to tokens
        found["hidden Markov model, 32 states"] = hmm_bits(train, test, 32, size, seed=0)
    return {name: bits * predicted for name, bits in found.items()}


def _rounding_text(rounding: float) -> str:
    return (
        "The graphs of both precisions hold the matrices once, in int8: float32 is exact of these rounded ones. The "
        f"rounding changed the loss on what the weights were chosen on by {100 * rounding:+.3f} %."
    )


TEMPERATURES = (0.5, 0.8, 1.0)
SHOWN = 20
"""Characters of the least document of the test part that is shown in the card, where there is one so long."""


def _samples(folder: Path, manifest: TextManifest, graphs: Described, text: str) -> str:
    """What the model writes after some words of a text, from a paragraph's start where there is one."""
    start = text.find("\n", len(text) // 10, len(text) - 1) + 1
    prompt = text[start : start + min(200, len(text) // 2)].lstrip()
    prompt = prompt[: prompt.rfind(" ")] if " " in prompt else prompt
    assert graphs.decode is not None
    written = write_samples(folder, manifest, (graphs.graph, graphs.decode), prompt, TEMPERATURES)
    parts = [
        "What the service writes with this model after the beginning of a paragraph of the test part, at three "
        "temperatures; the first that came, not chosen.",
        f"The prompt:\n\n~~~~\n{prompt}\n~~~~",
        *(f"Temperature {t}:\n\n~~~~\n{one}\n~~~~" for t, one in zip(TEMPERATURES, written, strict=True)),
    ]
    return "\n\n".join(parts)


def _heatmap(model: LanguageModel, text: str, path: Path) -> None:
    """Draw what the model expected at each place of a line of the text, some 50 characters long."""
    line = next((line for line in text.split("\n")[5:] if 30 <= len(line) <= 60), text[1:50])
    start = text.index(line)
    tokenizer = model.manifest.tokenizer
    _, before = tokenizer.encode(text[max(0, start - 2000) : start] or "\n")
    pieces, tokens = tokenizer.encode(line)
    logs = model.log_probabilities(np.concatenate([before, tokens])[:-1])[-len(pieces) :]
    plots.plot_heatmap(pieces, tokenizer.candidates(logs, 5), path)
