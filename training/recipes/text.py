"""Trains a text model and writes its model folder: network, loop, export, evaluation, pictures, card."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from carry.files import DataError
from carry.models import LanguageModel, write_samples
from service.text.manifest import Pairs, TextManifest
from training import plots
from training.card import ModelCard, int8_text, markdown_table
from training.data.tbptt_batches import TextStream
from training.data.texts import Encoded, Parts, encode_all
from training.evaluation.text_baselines import HMM_TOKENS, NGRAM_TOKENS, hmm_bits, ngram_bits
from training.evaluation.texts import text_scores
from training.loop import Epoch, LoopConfig, Stream, evaluate, fit
from training.models import ModelFolder, shipped_model
from training.onnx.export import GraphSpec, build_graphs, evaluate_int8, save_reference, write_folder
from training.progress import say
from training.provenance import Run, is_first_process, provenance, rank_and_world_size
from training.recipes.text_start import Start, TextConfig, begin

UNKNOWN_RATE = 0.002
VALID_SEGMENTS, VALID_TOKENS = 40, 5_000
"""Segments of the validation part that are read after each epoch, and tokens of a segment, at most."""


def train(parts: Parts, config: TextConfig, loop: LoopConfig, run: Run) -> Path | None:
    """Train on one part of the texts, choose the weights on another, measure on the last.

    Returns the model folder, or None in a process that only helped to train.

    Raises:
        DataError: a part is too short, or nothing occurs often enough to be in the vocabulary.
    """
    torch.manual_seed(loop.seed)
    start = begin(parts, config)
    tokenizer = start.tokenizer
    say(start.origin)
    tokens, valid = ([tokenizer.encode(text)[1] for text in part] for part in (parts.train, parts.valid))
    test = encode_all(tokenizer, parts.test)
    test_tokens = [document.tokens for document in test]
    if not all(any(len(document) > 1 for document in part) for part in (tokens, valid, test_tokens)):
        raise DataError(
            f"the text is too short for parts to train, to choose and to measure of two {tokenizer.level}s each"
        )
    sizes = [sum(map(len, part)) for part in (tokens, valid, test_tokens)]
    say(
        f"{sizes[0]:,} {tokenizer.level}s to train on, {sizes[1]:,} to choose the weights on, {sizes[2]:,} to measure; "
        f"the model knows {tokenizer.size - 1:,} {tokenizer.level}s"
    )
    line_end = tokenizer.vocabulary.index("\n") if "\n" in tokenizer.vocabulary else None
    validation = TextStream(_sample_segments(valid), 500, VALID_SEGMENTS)
    training = TextStream(tokens, config.context, config.rows, UNKNOWN_RATE, line_end, rank_and_world_size())

    def measure(
        folder: Path, unmeasured: TextManifest, int8: GraphSpec, history: list[Epoch], rounding: float
    ) -> TextManifest:
        models = (
            LanguageModel.of_folder(folder, unmeasured, unmeasured.graph),
            LanguageModel.of_folder(folder, unmeasured, int8.graph),
        )
        return _measure(models, int8, rounding, tokens, test, parts, config, history, folder, start.origin)

    return fit_and_write(start, training, validation, loop, run, config.context, None, measure)


Measure = Callable[[Path, TextManifest, GraphSpec, list[Epoch], float], TextManifest]
"""From the unfinished folder, its manifest, the int8 graphs, the log, and by how much rounding the matrices raised the
loss on the validation part, to the whole manifest; it measures the model and adds the card and the pictures."""


def fit_and_write(
    start: Start,
    training: Stream,
    validation: Stream,
    loop: LoopConfig,
    run: Run,
    context: int,
    pairs: Pairs | None,
    measure: Measure,
) -> Path | None:
    """Train the network, round its matrices, and write its model folder. context, pairs: of the manifest.

    Returns the model folder, or None in a process that only helped to train.
    """
    history = fit(start.network, training, validation, loop, run.folder, run.identity)
    if not is_first_process():
        return None
    network, tokenizer = start.network.cpu(), start.tokenizer
    say("exporting: rounding the matrices to int8, building the graphs, comparing them with PyTorch")
    loss = evaluate(network, validation)
    graphs, recurrent = build_graphs(network), network.recurrent
    rounding = evaluate(network, validation) / loss - 1

    def manifest(version: int, float32: GraphSpec) -> TextManifest:
        return TextManifest(
            name=run.name,
            version=version,
            description=run.description,
            graph=float32.graph,
            decode=float32.decode,
            metrics={},
            provenance=provenance(
                run, network, history, loop.seed, recurrent.cell, len(recurrent.layers), recurrent.hidden
            ),
            unit=tokenizer.level,
            vocabulary=tokenizer.vocabulary,
            replacements=dict(tokenizer.replacements),
            context=context,
            pairs=pairs,
        )

    def finalize(folder: Path, unmeasured: TextManifest, int8: GraphSpec) -> TextManifest:
        save_reference(network, folder)
        return measure(folder, unmeasured, int8, history, rounding)

    return write_folder(run.models, run.name, graphs, manifest, finalize)


def _sample_segments(documents: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Segments from all over the validation part: whole documents, or parts of long ones."""
    segments = [d[first : first + VALID_TOKENS] for d in documents for first in range(0, len(d), VALID_TOKENS)]
    segments = [segment for segment in segments if len(segment) > 1]
    mean_length = sum(map(len, segments)) / len(segments)
    count = min(len(segments), round(VALID_SEGMENTS * VALID_TOKENS / mean_length))
    return [segments[i] for i in np.unique(np.linspace(0, len(segments) - 1, count).astype(int))]


def _measure(
    models: tuple[LanguageModel, LanguageModel],
    int8: GraphSpec,
    rounding: float,
    train: Sequence[NDArray[np.int64]],
    test: Sequence[Encoded],
    parts: Parts,
    config: TextConfig,
    history: list[Epoch],
    folder: Path,
    origin: str,
) -> TextManifest:
    """Measure the network in float32 and in int8 on the test part beside the baselines, draw the pictures and write the
    card. rounding: by how much rounding the matrices raised the loss on the validation part."""
    manifest = models[0].manifest
    documents = [document.tokens for document in test]
    say(f"measuring the test part, {sum(map(len, documents)):,} {manifest.unit}s, in float32 and in int8")
    nats = [float(model.nats(documents).sum()) for model in models]
    scores = {"Carry": text_scores(manifest, test, nats[0])}
    shipped = shipped_model("text")
    if shipped is not None and isinstance(shipped.manifest, TextManifest):
        say(f"measuring the shipped {shipped.label} on the same text")
        scores[f"the shipped {shipped.label}"] = _shipped_scores(shipped, parts)
    if config.baselines:
        scores |= {
            name: text_scores(manifest, test, cost) for name, cost in _baselines(manifest, train, documents).items()
        }
    card = ModelCard(history)
    card.section("What it began with", f"{origin[0].upper()}{origin[1:]}.")
    card.section("Test part", _test_part(manifest, test, parts, config) + markdown_table(scores, digits=5))
    say("drawing pictures, writing samples and measuring the speed in int8")
    plots.plot_losses(history, folder / "pictures" / "loss.png", f"cross-entropy, nats per {manifest.unit}")
    card.losses()
    example = next((text for text in parts.test if len(text) >= MIN_EXAMPLE), max(parts.test, key=len))
    _heatmap(models[0], example, folder / "pictures" / "next_character.png")
    card.picture(
        "next_character",
        f"A line of the test part; under each {manifest.unit}, what the model expected there after all that came "
        "before: the darker, the more probable; what really came is framed.",
    )
    float32 = GraphSpec(manifest.graph, manifest.decode)
    int8_entry = evaluate_int8(folder, float32, int8, (nats[0], nats[1]))
    card.section("Samples", _samples(folder, manifest, int8 if int8_entry.default else float32, example))
    card.section("In int8", int8_text(int8_entry, "bits per character") + "\n\n" + rounding_text(rounding))
    complete = manifest.model_copy(update={"metrics": scores["Carry"], "int8": int8_entry})
    known = len(complete.vocabulary) - 1
    card.write(
        folder, complete, f"Continues text, {complete.unit} by {complete.unit}; it knows {known:,} {complete.unit}s."
    )
    return complete


def _test_part(manifest: TextManifest, test: Sequence[Encoded], parts: Parts, config: TextConfig) -> str:
    """What the card says of the test part and of how it was measured."""
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
    shipped = shipped_model("text")
    if shipped is not None:
        text += (
            f"The shipped {shipped.label} is measured on the same text. It learnt from 584 works published up to 1928: "
            "its figure flatters it if this text is one of them.\n\n"
        )
    return text


def _shipped_scores(shipped: ModelFolder, parts: Parts) -> dict[str, float]:
    """The measures of the shipped model on the test part."""
    model = next(iter(LanguageModel.open(shipped.path).values()))
    test = encode_all(model.manifest.tokenizer, parts.test)
    return text_scores(model.manifest, test, float(model.nats([document.tokens for document in test]).sum()))


def _baselines(
    manifest: TextManifest, train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]]
) -> dict[str, float]:
    """What the test part costs by other methods, in nats."""
    size = len(manifest.vocabulary)
    predicted = sum(len(tokens) - 1 for tokens in test) * math.log(2)
    orders = (3, 6) if manifest.unit == "character" else (2, 3)
    bits = {}
    for order in orders:
        say(f"measuring baselines: {order}-gram")
        bits[f"{order}-gram, Witten-Bell"] = ngram_bits(train, test, order, size)
    if manifest.unit == "character":  # of words it would have more parameters than tokens to fit them to
        say("measuring baselines: hidden Markov model")
        bits["hidden Markov model, 32 states"] = hmm_bits(train, test, 32, size, seed=0)
    return {name: of_method * predicted for name, of_method in bits.items()}


def rounding_text(rounding: float) -> str:
    """What a card says of the rounding of the matrices. rounding: by how much it raised the loss."""
    return (
        "The graphs of both precisions hold the matrices once, in int8: float32 is exact of these rounded ones. The "
        f"rounding changed the loss on what the weights were chosen on by {100 * rounding:+.3f} %."
    )


TEMPERATURES = (0.5, 0.8, 1.0)
MIN_EXAMPLE = 20
"""Characters of the document of the test part that the card shows, at least, if there is one so long."""


def _samples(folder: Path, manifest: TextManifest, graphs: GraphSpec, text: str) -> str:
    """What the card says of the texts that the model writes after some words of a text, from a paragraph's start."""
    start = text.find("\n", len(text) // 10, len(text) - 1) + 1
    prompt = text[start : start + min(200, len(text) // 2)].lstrip()
    prompt = prompt[: prompt.rfind(" ")] if " " in prompt else prompt
    assert graphs.decode is not None
    samples = write_samples(folder, manifest, (graphs.graph, graphs.decode), prompt, TEMPERATURES)
    parts = [
        "What the service writes with this model after the beginning of a paragraph of the test part, at three "
        "temperatures; the first that came, not chosen.",
        f"The prompt:\n\n~~~~\n{prompt}\n~~~~",
        *(f"Temperature {t}:\n\n~~~~\n{sample}\n~~~~" for t, sample in zip(TEMPERATURES, samples, strict=True)),
    ]
    return "\n\n".join(parts)


def _heatmap(model: LanguageModel, text: str, path: Path) -> None:
    """Draw what the model expected at each token of a line of the text, of some 50 characters."""
    line = next((line for line in text.split("\n")[5:] if 30 <= len(line) <= 60), text[1:50])
    start = text.index(line)
    tokenizer = model.manifest.tokenizer
    _, before = tokenizer.encode(text[max(0, start - 2000) : start] or "\n")
    tokens, ids = tokenizer.encode(line)
    logarithms = model.log_probabilities(np.concatenate([before, ids])[:-1])[-len(tokens) :]
    plots.plot_heatmap(tokens, tokenizer.candidates(logarithms, 5), path)
