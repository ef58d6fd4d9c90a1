"""Trains a text model on pairs of a source and a target and writes its model folder. Everything that it shares with a
model of texts is in training/recipes/text.py."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from carry.models import LanguageModel, TextWriter
from service.text.manifest import TextManifest
from training import plots
from training.card import ModelCard, int8_text, markdown_table
from training.data.pairs import MARKS, EncodedPair, Pair, PairParts, PairStream, encode_pairs
from training.data.texts import Parts
from training.evaluation.pairs import pair_scores, target_nats, write_targets
from training.loop import Epoch, LoopConfig
from training.onnx.export import GraphSpec, evaluate_int8
from training.progress import say
from training.provenance import Run, rank_and_world_size
from training.recipes.text import UNKNOWN_RATE, fit_and_write, rounding_text
from training.recipes.text_start import TextConfig, begin

VALID_PAIRS = 2_000
"""Pairs of the validation part that are read after each epoch, at most."""


def train(parts: PairParts, config: TextConfig, loop: LoopConfig, run: Run) -> Path | None:
    """Train on one part of the pairs, choose the weights on another, measure on the last.

    Returns the model folder, or None in a process that only helped to train.

    Raises:
        DataError: a pair is too long, or nothing occurs often enough to be in the vocabulary.
    """
    torch.manual_seed(loop.seed)
    start = begin(Parts([pair.text() for pair in parts.train], [], []), config, (MARKS.separator, MARKS.end))
    tokenizer = start.tokenizer
    say(start.origin)
    if parts.left_out:
        say(f"{parts.left_out:,} pairs are not trained on: their sources are held out")
    pairs, valid = encode_pairs(tokenizer, parts.train), encode_pairs(tokenizer, parts.valid[:VALID_PAIRS])
    test = encode_pairs(tokenizer, parts.test)
    longest = max(len(pair.tokens) for pair in pairs)
    say(
        f"{len(pairs):,} pairs to train on, {len(parts.valid):,} to choose the weights on, {len(test):,} to measure; "
        f"the longest has {longest:,} {tokenizer.level}s; the model knows {tokenizer.size - 1:,} {tokenizer.level}s"
    )
    training = PairStream(pairs, config.rows, UNKNOWN_RATE, rank_and_world_size())

    def measure(
        folder: Path, unmeasured: TextManifest, int8: GraphSpec, history: list[Epoch], rounding: float
    ) -> TextManifest:
        return _measure(folder, unmeasured, int8, parts, test, history, start.origin, rounding)

    return fit_and_write(start, training, PairStream(valid, config.rows), loop, run, longest, MARKS, measure)


def _measure(
    folder: Path,
    unmeasured: TextManifest,
    int8: GraphSpec,
    parts: PairParts,
    test: Sequence[EncodedPair],
    history: list[Epoch],
    origin: str,
    rounding: float,
) -> TextManifest:
    """Measure the network in float32 and in int8 on the test part and write the card. rounding: by how much rounding
    the matrices raised the loss on the validation part."""
    say(f"measuring the test part, {len(test):,} pairs, in float32 and in int8")
    float32 = GraphSpec(unmeasured.graph, unmeasured.decode)
    scores, nats, texts = {}, [], []
    for name, graphs in (("Carry", float32), ("Carry, int8", int8)):
        assert graphs.decode is not None
        with closing(TextWriter(folder, unmeasured, graphs.graph, graphs.decode)) as writer:
            texts.append(write_targets(writer, parts.test))
        nats.append(target_nats(LanguageModel.of_folder(folder, unmeasured, graphs.graph), test))
        scores[name] = pair_scores(parts.test, texts[-1], nats[-1])
    card = ModelCard(history)
    card.section("What it began with", f"{origin[0].upper()}{origin[1:]}.")
    card.section("Test part", _test_part(parts) + markdown_table(scores, digits=5))
    card.section("Examples", _examples(parts.test, texts[0]))
    say("drawing the picture and measuring the speed in int8")
    plots.plot_losses(history, folder / "pictures" / "loss.png", f"cross-entropy, nats per {unmeasured.unit}")
    card.losses()
    int8_entry = evaluate_int8(folder, float32, int8, (nats[0], nats[1]))
    card.section("In int8", int8_text(int8_entry, "bits per character") + "\n\n" + rounding_text(rounding))
    complete = unmeasured.model_copy(update={"metrics": scores["Carry"], "int8": int8_entry})
    known = len(complete.vocabulary) - 1
    card.write(
        folder,
        complete,
        f"Turns a source into a target, {complete.unit} by {complete.unit}; it knows {known:,} {complete.unit}s.",
    )
    return complete


def _test_part(parts: PairParts) -> str:
    origin = f" of {', '.join(f'`{name}`' for name in parts.test_files)}" if parts.test_files else ""
    return (
        f"{len(parts.test):,} pairs{origin}, whose sources were neither trained on nor used to choose the weights. The "
        "model writes its most probable token next until the end. `exact_match` is the share of the texts that equal "
        "their target (higher is better), `character_error_rate` the edits that turn them into it, per character of "
        "the targets (lower is better).\n\n"
    )


EXAMPLES = 10


def _examples(pairs: Sequence[Pair], written: Sequence[str]) -> str:
    """What the card shows of the test part: the first pairs, and the first that are wrong."""
    both = list(zip(pairs, written, strict=True))
    wrong = [(pair, text) for pair, text in both if text != pair.target]
    parts = [f"The first pairs of the test part, and what the model wrote:\n\n{_table(both[:EXAMPLES])}"]
    if wrong:
        parts.append(f"The first of the {len(wrong):,} that it got wrong:\n\n{_table(wrong[:EXAMPLES])}")
    return "\n\n".join(parts)


def _table(rows: Sequence[tuple[Pair, str]]) -> str:
    lines = ["| source | target | written |", "|---|---|---|"]
    lines += [f"| {_code(pair.source)} | {_code(pair.target)} | {_code(text)} |" for pair, text in rows]
    return "\n".join(lines)


def _code(text: str) -> str:
    """A text in a cell of a table, as it is."""
    quoted = text[:200].replace("|", "\\|").replace("`", "'")
    return f"`{quoted}`" if quoted else ""
