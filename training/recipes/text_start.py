"""What a text model starts from: nothing, or a model that knows a language, with the characters that it lacks; and the
sizes that a command does not say."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch

from carry.files import DataError
from service.text.manifest import TextManifest
from service.tokenizer import Tokenizer, TokenLevel
from training.data.texts import Parts, learn_tokenizer
from training.models import ModelFolder
from training.nets.cells import Cell
from training.nets.text import TextModel
from training.onnx.weights import read_text_model


@dataclass(frozen=True)
class TextConfig:
    """What to train. context: tokens per training window. min_count, max_vocabulary: tokens that are rarer, or not
    among the most frequent, count as unknown. start_from: a model to start from, with its network and vocabulary,
    whatever else is said here of them."""

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
    unit: TokenLevel
    min_count: int
    max_vocabulary: int | None
    baselines: bool
    start_from: ModelFolder | None


@dataclass(frozen=True)
class Start:
    """What a run starts from: a network, its tokenizer, and in words what they are."""

    network: TextModel
    tokenizer: Tokenizer
    origin: str


SMALL_TEXT = 5_000_000
"""Characters of a training part up to which it pays to start from a model that knows a language."""
KNOWN_SHARE = 0.9
"""Of the characters of such a text, what the model to start from must know: else it is of another script."""
NEW_TOKEN_COUNT = 2
"""How often a character must occur in the training part to be added to the vocabulary of the model to start from."""


@dataclass(frozen=True)
class Sizes:
    """What a command does not say of the network and of its training."""

    context: int
    hidden: int
    dropout: float
    rows: int
    epochs: int
    learning_rate: float


CHARACTERS = Sizes(128, 256, 0.2, 32, 20, 3e-3)
WORDS = Sizes(32, 128, 0.5, 16, 6, 1e-2)
"""On a novel, better than n-grams in a minute: a vocabulary of thousands makes each unit and each epoch dear."""
READ_AGAIN = 500_000
"""Characters that a model reads, all epochs together, when it goes on from another: about a minute."""


PAIR_UPDATES = 10_000
"""Steps of the optimiser that teach a network of this size what it can learn of pairs, about."""


def usual_sizes_of_pairs(pairs: int, unit: str) -> Sizes:
    """The sizes that train so many pairs well."""
    usual = WORDS if unit == "word" else CHARACTERS
    epochs = max(2, min(60, round(PAIR_UPDATES * usual.rows / pairs)))
    return replace(usual, hidden=CHARACTERS.hidden, epochs=epochs, learning_rate=CHARACTERS.learning_rate)


def usual_sizes(parts: Parts, unit: str, start: ModelFolder | None) -> Sizes:
    """The sizes that train such a text well in about a minute or, of characters from nothing, in some."""
    if start is None:
        return WORDS if unit == "word" else CHARACTERS
    epochs = max(1, min(10, round(READ_AGAIN / max(1, sum(map(len, parts.train))))))
    return replace(CHARACTERS, epochs=epochs, learning_rate=2e-3)


def reason_against(start: ModelFolder, parts: Parts) -> str | None:
    """Why training on a text should not start from a model unless a person says so; None if it should."""
    manifest = start.manifest
    assert isinstance(manifest, TextManifest)
    characters = sum(map(len, parts.train))
    if characters > SMALL_TEXT:
        return f"the text is large ({characters:,} characters)"
    unknown = sum(int((manifest.tokenizer.encode(text)[1] == 0).sum()) for text in parts.train)
    if unknown > (1 - KNOWN_SHARE) * characters:
        return f"it does not know {unknown:,} of the {characters:,} characters"
    return None


def begin(parts: Parts, config: TextConfig, marks: Collection[str] = ()) -> Start:
    """A new network and its tokenizer, or those of the model to start from, with the characters that it lacks. marks:
    characters that are read as they are, even if the model to start from replaces them.

    Raises:
        DataError: the model cannot be read back, or nothing occurs often enough to be in the vocabulary.
    """
    folder = config.start_from
    if folder is None:
        return Start(*_new(parts, config), "training from nothing")
    try:
        network, manifest = read_text_model(folder.path, config.dropout, config.weight_dropout)
    except ValueError as error:
        raise DataError(str(error)) from error
    tokenizer = manifest.tokenizer
    replacements = {old: new for old, new in tokenizer.replacements.items() if old not in marks}
    tokenizer = Tokenizer(tokenizer.vocabulary, tokenizer.level, replacements)
    new = _new_characters(tokenizer, parts) if tokenizer.level == "character" else []
    origin = f"starting from the network and the {tokenizer.level}s of {folder.label}"
    if new:
        network.add_tokens(len(new))
        tokenizer = Tokenizer((*tokenizer.vocabulary, *new), "character", replacements)
        shown = " ".join(new[:20]) + (" ..." if len(new) > 20 else "")
        origin += f", and {len(new)} characters more that this text has: {shown}"
    return Start(network, tokenizer, origin)


def _new_characters(tokenizer: Tokenizer, parts: Parts) -> list[str]:
    """The characters of the training part that a tokenizer lacks, in code point order."""
    counts: Counter[str] = Counter()
    for text in parts.train:
        counts.update(tokenizer.normalize(text))
    known = {*tokenizer.vocabulary}
    return sorted(new for new, count in counts.items() if new not in known and count >= NEW_TOKEN_COUNT)


def _new(parts: Parts, config: TextConfig) -> tuple[TextModel, Tokenizer]:
    """A new network, and a tokenizer learnt from the training part."""
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
    if config.unit == "word":
        _expect_by_frequency(network, tokenizer, parts)
    return network, tokenizer


def _expect_by_frequency(network: TextModel, tokenizer: Tokenizer, parts: Parts) -> None:
    """Let an untrained network expect each token as often as it occurs: of thousands of words it would take epochs to
    learn that."""
    counts = np.ones(tokenizer.size)
    for text in parts.train:
        counts += np.bincount(tokenizer.encode(text)[1], minlength=tokenizer.size)
    with torch.no_grad():
        network.head.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
