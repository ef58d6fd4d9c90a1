"""Text to the tokens of a model and back: they stand for single characters, or in a word model for words and marks."""

import bisect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequestError
from service.text.unicode import CombiningMarksError, composed

Candidate = tuple[str, float]
"""A piece of text and its probability."""

Unit = Literal["character", "word"]
"""What a token of a text model is."""

WORD_PATTERN = r" ?<unk>| ?[^\W_]+(?:'[^\W_]+)*| ?[^\w\s]|_|\s"
"""The pieces of a text in a word model: a word or a mark carries the space before it, so that the text is their
concatenation. Every character of any text is in one of them."""
UNKNOWN_WORDS = frozenset({"<unk>", " <unk>"})
"""How a text for a word model may write the unknown word, token 0."""

_WORDS = re.compile(WORD_PATTERN)


def split_into(unit: Unit, text: str) -> Sequence[str]:
    """The pieces of the text that are a token each; the text is their concatenation."""
    return text if unit == "character" else _WORDS.findall(text)


@dataclass(frozen=True)
class TokenizedText:
    """A text, read once. `sent`: as it came; `composed`: in its composed form; `pieces`: what each token of the text
    stands for, as the model reads it; `tokens` (T,): 0 where the model does not know the piece."""

    sent: str
    composed: str
    pieces: Sequence[str]
    tokens: NDArray[np.int64]


AnyText = str | TokenizedText
"""A text as it came, or read already."""


class Tokenizer:
    """The vocabulary of a model, in training and in the service.

    pieces: token -> piece of text; token 0, '', stands for any other.
    unit: what a piece is.
    replacements: single characters that are read as others.
    """

    def __init__(self, pieces: Sequence[str], unit: Unit, replacements: Mapping[str, str]) -> None:
        self.pieces = tuple(pieces)
        self.unit = unit
        self.replacements = replacements
        self.size = len(self.pieces)
        self._translation = str.maketrans(dict(replacements))
        self._tokens = {piece: token for token, piece in enumerate(self.pieces)}
        if self.unit == "character":
            # By code point; the last one stands for all that the vocabulary does not reach.
            self._by_point = np.zeros(2 + max(map(ord, self.pieces[1:]), default=0), dtype=np.int64)
            self._by_point[[ord(piece) for piece in self.pieces[1:]]] = np.arange(1, self.size)

    def tokenize(self, text: AnyText, path: str = "$") -> TokenizedText:
        """The text as the model reads it. One that was tokenized already is given back as it is.

        Raises:
            InvalidRequestError: too many combining marks in a row.
        """
        if isinstance(text, TokenizedText):
            return text
        try:
            whole = composed(text)
        except CombiningMarksError as error:
            raise InvalidRequestError(str(error), path) from None
        read = whole.translate(self._translation)
        pieces = split_into(self.unit, read)
        if self.unit == "word":
            return TokenizedText(text, whole, pieces, self.tokens(pieces))
        points = np.frombuffer(read.encode("utf-32-le"), dtype=np.uint32)
        return TokenizedText(text, whole, pieces, self._by_point[np.minimum(points, len(self._by_point) - 1)])

    def read(self, text: str) -> str:
        """The text as the model reads it: composed, then with the replacements."""
        return composed(text).translate(self._translation)

    def encode(self, text: str) -> tuple[Sequence[str], NDArray[np.int64]]:
        """The pieces of the text as it is read, and their tokens (T,), 0 where unknown."""
        found = self.tokenize(text)
        return found.pieces, found.tokens

    def tokens(self, pieces: Sequence[str]) -> NDArray[np.int64]:
        """The tokens of some pieces (T,), 0 where unknown."""
        return np.fromiter((self._tokens.get(piece, 0) for piece in pieces), dtype=np.int64, count=len(pieces))

    def unknown(self, *texts: AnyText) -> list[str]:
        """The characters or words of these texts that are outside of the vocabulary, each once, in order."""
        return list(dict.fromkeys(_bare(piece) for text in texts for piece in self._missing(self.tokenize(text))))

    def check_known(self, text: AnyText, path: str) -> None:
        """Refuse a text that is not wholly in the vocabulary.

        Raises:
            InvalidRequestError: it names the first character or word that is not, and where that is in `text`.
        """
        text = self.tokenize(text, path)
        missing = self._missing(text)
        if not missing:
            return
        first = next(at for at, piece in enumerate(text.pieces) if piece in missing)
        bare = _bare(text.pieces[first])
        place = sum(map(len, text.pieces[: first + 1])) - len(bare)
        # Which is where the text as it is read comes to be longer than that.
        lengths = range(len(text.sent))
        sent = bisect.bisect_right(lengths, place, key=lambda length: len(self.read(text.sent[:length]))) - 1
        raise InvalidRequestError(f"the model does not know the {self.unit} {_name(bare)}, at position {sent}", path)

    def biases(self, wanted: Mapping[str, float], path: str) -> tuple[tuple[int, float], ...]:
        """As SamplingParams has them, of pieces of the vocabulary.

        Raises:
            InvalidRequestError: one is not in the vocabulary.
        """
        for piece in wanted:
            if not self._tokens.get(piece):
                raise InvalidRequestError(f"the model has no {self.unit} {_name(piece)} to write", path)
        return tuple((self._tokens[piece], bias) for piece, bias in wanted.items())

    @property
    def unknown_piece(self) -> str:
        """How a text says token 0."""
        return "\ufffd" if self.unit == "character" else "<unk>"

    def start(self) -> int:
        """The token that stands for "nothing came before": a new line, where the model knows one."""
        return self._tokens.get("\n", 0)

    def candidates(self, logs: NDArray[np.float64], count: int) -> list[list[Candidate]]:
        """The most probable known pieces of each distribution (N, V), best first."""
        count = min(count, logs.shape[1] - 1)
        known = logs[:, 1:]
        best = np.argpartition(-known, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(known, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        chances = np.exp(np.take_along_axis(known, best, axis=1))
        return [
            [(self.pieces[1 + token], chance) for token, chance in zip(*row, strict=True)]
            for row in zip(best.tolist(), chances.tolist(), strict=True)
        ]

    def _missing(self, text: TokenizedText) -> dict[str, None]:
        """The pieces outside of the vocabulary, each once, in order."""
        pieces = dict.fromkeys(text.pieces[at] for at in np.flatnonzero(text.tokens == 0).tolist())
        return {piece: None for piece in pieces if piece not in UNKNOWN_WORDS}


def _bare(piece: str) -> str:
    """A piece without the space before it."""
    return piece.removeprefix(" ") or piece


def _name(piece: str) -> str:
    if len(piece) == 1:
        return f"{piece!r} (U+{ord(piece):04X})"
    return repr(piece if len(piece) <= 40 else f"{piece[:40]}...")
