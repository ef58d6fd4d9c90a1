"""Reads pairs of a source and a target, splits them, and makes batches of them for training.

A network reads `source + separator + target + end`, each pair from its initial state, and only the target and the end
count. No source of a part that is held out is trained on.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from carry.files import DataError
from service.text.manifest import Pairs
from service.tokenizer import Tokenizer
from training.data.tbptt_batches import Batch
from training.data.texts import compose, is_json_lines, read_utf8

MARKS = Pairs()
"""Between a source and its target, and after the target."""
MAX_TOKENS = 2_000
"""Of a pair: all its steps are held at once to train on."""
EPOCH = 500_000
"""Tokens of an epoch, about, where there are more: after each epoch the loop measures on the validation part."""


@dataclass(frozen=True)
class Pair:
    """A source, and the target that it is to be turned into."""

    source: str
    target: str

    def prompt(self, marks: Pairs = MARKS) -> str:
        """What a model reads before it writes the target."""
        return self.source + marks.separator

    def text(self, marks: Pairs = MARKS) -> str:
        """What a model is trained on."""
        return self.prompt(marks) + self.target + marks.end


def read_pairs(paths: Sequence[Path]) -> list[Pair]:
    """The pairs of UTF-8 files, gzipped or not: in each line a source, a tab and its target; in a .jsonl file an object
    with the fields `source` and `target`. Characters get their composed form (NFC).

    Raises:
        DataError: a file cannot be read or holds no pair; a line is none, or holds a tab or a line end within its
            source or target.
    """
    pairs: list[Pair] = []
    for path in paths:
        lines = [
            (f"{path}, line {number}", line.removesuffix("\r"))
            for number, line in enumerate(read_utf8(path).split("\n"), 1)
            if line.strip()
        ]
        if not lines:
            raise DataError(f"{path}: holds no pair")
        read = _json_pair if is_json_lines(path) else _tsv_pair
        pairs += [read(place, line) for place, line in lines]
    return pairs


def _tsv_pair(place: str, line: str) -> Pair:
    columns = line.split("\t")
    if len(columns) != 2:
        has = "has no tab" if len(columns) == 1 else f"has {len(columns) - 1} tabs"
        raise DataError(f"{place}: {has}; needs a source, one tab and its target")
    return _pair(place, *columns)


def _json_pair(place: str, line: str) -> Pair:
    try:
        fields = json.loads(line)
        source, target = fields["source"], fields["target"]
        f"{source}{target}".encode()  # fails for half of a surrogate pair
    except (ValueError, KeyError, TypeError):
        source, target = None, None
    if not isinstance(source, str) or not isinstance(target, str):
        raise DataError(f"{place}: needs a JSON object with the string fields `source` and `target`")
    return _pair(place, source, target)


def _pair(place: str, source: str, target: str) -> Pair:
    for name, text in (("source", source), ("target", target)):
        if not text:
            raise DataError(f"{place}: the {name} is empty")
        if MARKS.separator in text or MARKS.end in text:
            raise DataError(f"{place}: the {name} holds a tab or a line end, which end a source and a target")
    return Pair(compose(place, source), compose(place, target))


@dataclass(frozen=True)
class PairParts:
    """The pairs to train on, to choose the weights on and to measure on. test_files: the files of the last, if they are
    others than those to train on. left_out: pairs that are not trained on, since their source is held out."""

    train: list[Pair]
    valid: list[Pair]
    test: list[Pair]
    test_files: tuple[str, ...] = ()
    left_out: int = 0


def read_pair_parts(
    paths: Sequence[Path], valid_on: Sequence[Path], test_on: Sequence[Path], valid: float, test: float, seed: int
) -> PairParts:
    """The parts of `paths`: random shares `valid` and `test` of the sources are held out, unless `valid_on` and
    `test_on` name files for that.

    Raises:
        DataError: a file cannot be used, or a part has no pair.
    """
    pairs, valid_pairs, test_pairs = read_pairs(paths), read_pairs(valid_on), read_pairs(test_on)
    held_out = {pair.source for pair in (*valid_pairs, *test_pairs)}
    rest = [pair for pair in pairs if pair.source not in held_out]
    sources = list(dict.fromkeys(pair.source for pair in rest))
    order = np.random.default_rng(seed).permutation(len(sources))
    counts = [
        max(1, round(share * len(sources))) if share and not files else 0
        for share, files in ((test, test_on), (valid, valid_on))
    ]
    part_of: Mapping[str, int] = {
        sources[i]: 0 if k < counts[0] else 1 if k < sum(counts) else 2 for k, i in enumerate(order.tolist())
    }
    test_part, valid_part, train_part = ([pair for pair in rest if part_of[pair.source] == i] for i in range(3))
    parts = PairParts(
        train_part,
        valid_pairs or valid_part,
        test_pairs or test_part,
        tuple(dict.fromkeys(path.name for path in test_on)),
        len(pairs) - len(rest),
    )
    for name, part in (("train", parts.train), ("choose the weights", parts.valid), ("measure", parts.test)):
        if not part:
            raise DataError(f"{len(pairs):,} pairs, of {len(sources):,} sources: no pair is left to {name} on")
    return parts


@dataclass(frozen=True)
class EncodedPair:
    """A pair as tokens (T,); the target begins at the token `target_from`."""

    tokens: NDArray[np.int64]
    target_from: int

    @property
    def prompt(self) -> NDArray[np.int64]:
        """The source and the separator, which a model reads."""
        return self.tokens[: self.target_from]


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[Pair], marks: Pairs = MARKS) -> list[EncodedPair]:
    """Pairs as the tokenizer reads them.

    Raises:
        DataError: a pair has more than MAX_TOKENS tokens.
    """
    encoded = []
    for pair in pairs:
        tokens = tokenizer.encode(pair.text(marks))[1]
        if len(tokens) > MAX_TOKENS:
            raise DataError(
                f"a pair has {len(tokens):,} {tokenizer.level}s, at most {MAX_TOKENS:,} are trained on: "
                f"{pair.source[:40]!r}..."
            )
        encoded.append(EncodedPair(tokens, len(tokenizer.encode(pair.prompt(marks))[1])))
    return encoded


class PairStream:
    """Batches of whole pairs of about equal length, as the arguments of `TextModel.forward`: only the predictions of
    the target and of the end count.

    In training, a few tokens of the sources are read as unknown, so that the network learns to go on after a character
    or word that it does not know. Pairs of many millions of tokens are read once in several epochs. share: the index of
    this process and the number of processes; each reads its own batches.
    """

    def __init__(
        self, pairs: Sequence[EncodedPair], rows: int, unknown_rate: float = 0.0, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.pairs = pairs
        self.rows = max(1, min(rows, len(pairs) // share[1]))
        self.unknown_rate = unknown_rate
        self._share = share
        self._lengths = np.array([len(pair.tokens) for pair in pairs])
        self.epochs = max(1, round(int(self._lengths.sum()) / (EPOCH * share[1])))
        """Epochs in which the pairs are read once."""
        self.steps = max(1, len(pairs) // (self.rows * self.epochs * share[1]))
        """About how many batches an epoch has."""

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]:
        """The pairs of an epoch in random order; without `rng` all of them, nothing hidden."""
        indices, noise = np.arange(len(self.pairs)), np.zeros(1)
        if rng is not None:
            # All processes draw the same order, and each takes its batches of it.
            reading, part = divmod(epoch, self.epochs)
            order = np.random.default_rng([len(self.pairs), reading])
            indices = order.permutation(len(self.pairs))[part :: self.epochs]
            noise = order.random(len(indices))
        by_length = indices[np.argsort(self._lengths[indices] * (1 + 0.2 * noise), kind="stable")]
        batches = [by_length[first : first + self.rows] for first in range(0, len(by_length), self.rows)]
        if rng is not None:
            mixed = np.random.default_rng([len(self.pairs), epoch, 1]).permutation(len(batches))
            batches = [batches[i] for i in mixed[self._share[0] :: self._share[1]]]
        for batch in batches:
            yield self._batch([self.pairs[i] for i in batch], rng)

    def _batch(self, pairs: Sequence[EncodedPair], rng: np.random.Generator | None) -> Batch:
        shape = len(pairs), max(len(pair.tokens) for pair in pairs) - 1
        inputs, targets = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        for row, pair in enumerate(pairs):
            steps = len(pair.tokens) - 1
            inputs[row, :steps] = pair.tokens[:-1]
            targets[row, pair.target_from - 1 : steps] = pair.tokens[pair.target_from :]
            if rng is not None:
                hidden = rng.random(pair.target_from - 1) < self.unknown_rate
                inputs[row, : pair.target_from - 1][hidden] = 0
        return Batch(
            arguments=(torch.from_numpy(inputs), torch.from_numpy(targets)),
            fresh=torch.ones(len(pairs), dtype=torch.bool),
            weight=int((targets >= 0).sum()),
        )
