"""Text to the tokens of a model and back. A token is a string: a character, or in a word model a word or a mark.

A token's id is its index in the vocabulary. Id 0 is the unknown token, which stands for every token outside of it.
"""

import bisect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequestError
from service.unicode import CombiningMarksError, nfc

Ids = NDArray[np.int64]
"""Token ids (T,)."""
Candidate = tuple[str, float]
"""A token and its probability."""
TokenLevel = Literal["character", "word"]
"""What a token of a model is. The manifest calls it `unit`."""

WORD_PATTERN = r" ?<unk>| ?[^\W_]+(?:'[^\W_]+)*| ?[^\w\s]|_|\s"
"""The tokens of a word model. A word or a mark includes the space before it, so that a text is the concatenation of its
tokens. Every character of every text is in a token."""
UNKNOWN_WORDS = frozenset({"<unk>", " <unk>"})
"""How a text for a word model may write the unknown word, id 0."""

_WORDS = re.compile(WORD_PATTERN)


def pre_tokenize(level: TokenLevel, text: str) -> Sequence[str]:
    """The tokens of a text, known or not; the text is their concatenation."""
    return text if level == "character" else _WORDS.findall(text)


@dataclass(frozen=True)
class TokenizedText:
    """A text, tokenized once. `sent`: as the caller sent it; `nfc`: in composed form; `tokens`: those that the model
    reads; `ids` (T,): theirs, 0 where the vocabulary lacks the token."""

    sent: str
    nfc: str
    tokens: Sequence[str]
    ids: Ids


AnyText = str | TokenizedText
"""A text as the caller sent it, or tokenized."""


class Tokenizer:
    """The vocabulary of a model, in training and in the service.

    vocabulary: id -> token; vocabulary[0], '', is the unknown token.
    level: what a token is.
    replacements: single characters that are read as other text.
    """

    def __init__(self, vocabulary: Sequence[str], level: TokenLevel, replacements: Mapping[str, str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self.level = level
        self.replacements = replacements
        self.size = len(self.vocabulary)
        self._translation = str.maketrans(dict(replacements))
        self._ids = {token: id for id, token in enumerate(self.vocabulary)}
        if self.level == "character":
            # By code point. The last entry serves every code point beyond the vocabulary's largest.
            self._id_of_point = np.zeros(2 + max(map(ord, self.vocabulary[1:]), default=0), dtype=np.int64)
            self._id_of_point[[ord(token) for token in self.vocabulary[1:]]] = np.arange(1, self.size)

    def tokenize(self, text: AnyText, path: str = "$") -> TokenizedText:
        """Tokenize a text. Returns a tokenized one unchanged.

        Raises:
            InvalidRequestError: too many combining marks in a row.
        """
        if isinstance(text, TokenizedText):
            return text
        try:
            composed = nfc(text)
        except CombiningMarksError as error:
            raise InvalidRequestError(str(error), path) from None
        normalized = composed.translate(self._translation)
        tokens = pre_tokenize(self.level, normalized)
        if self.level == "word":
            return TokenizedText(text, composed, tokens, self.ids(tokens))
        points = np.frombuffer(normalized.encode("utf-32-le"), dtype=np.uint32)
        return TokenizedText(text, composed, tokens, self._id_of_point[np.minimum(points, len(self._id_of_point) - 1)])

    def normalize(self, text: str) -> str:
        """The text as the model reads it: in composed form, then with the replacements."""
        return nfc(text).translate(self._translation)

    def encode(self, text: str) -> tuple[Sequence[str], Ids]:
        """The tokens of a text and their ids, 0 where unknown."""
        tokenized = self.tokenize(text)
        return tokenized.tokens, tokenized.ids

    def ids(self, tokens: Sequence[str]) -> Ids:
        """The ids of tokens, 0 where unknown."""
        return np.fromiter((self._ids.get(token, 0) for token in tokens), dtype=np.int64, count=len(tokens))

    def unknown(self, *texts: AnyText) -> list[str]:
        """The characters or words of these texts that the vocabulary lacks, each once, in order."""
        tokens = (token for text in texts for token in self._unknown_tokens(self.tokenize(text)))
        return list(dict.fromkeys(map(strip_leading_space, tokens)))

    def check_known(self, text: AnyText, path: str) -> None:
        """Refuse a text with unknown tokens.

        Raises:
            InvalidRequestError: names the first unknown character or word, and its position in the text as sent.
        """
        text = self.tokenize(text, path)
        unknown = self._unknown_tokens(text)
        if not unknown:
            return
        first = next(i for i, token in enumerate(text.tokens) if token in unknown)
        name = strip_leading_space(text.tokens[first])
        place = sum(map(len, text.tokens[: first + 1])) - len(name)
        # The same place in the text as sent: where its normalized beginning grows longer than `place`.
        lengths = range(len(text.sent))
        position = bisect.bisect_right(lengths, place, key=lambda n: len(self.normalize(text.sent[:n]))) - 1
        raise InvalidRequestError(
            f"the model does not know the {self.level} {_quoted(name)}, at position {position}", path
        )

    def biases(self, bias_of: Mapping[str, float], path: str) -> tuple[tuple[int, float], ...]:
        """Biases by token as `SamplingParams.logit_bias`, by id.

        Raises:
            InvalidRequestError: the vocabulary lacks a token.
        """
        for token in bias_of:
            if not self._ids.get(token):
                raise InvalidRequestError(f"the model's vocabulary has no {self.level} {_quoted(token)}", path)
        return tuple((self._ids[token], bias) for token, bias in bias_of.items())

    @property
    def unknown_token(self) -> str:
        """How a text writes id 0."""
        return "\ufffd" if self.level == "character" else "<unk>"

    @property
    def start_id(self) -> int:
        """The id that a new sequence reads first, where it has no text: a new line, if the vocabulary has one."""
        return self._ids.get("\n", 0)

    def candidates(self, logprobs: NDArray[np.float64], count: int) -> list[list[Candidate]]:
        """The most probable known tokens of each distribution (N, V), best first."""
        count = min(count, logprobs.shape[1] - 1)
        known = logprobs[:, 1:]
        best = np.argpartition(-known, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(known, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        probabilities = np.exp(np.take_along_axis(known, best, axis=1))
        return [
            [(self.vocabulary[1 + i], probability) for i, probability in zip(*row, strict=True)]
            for row in zip(best.tolist(), probabilities.tolist(), strict=True)
        ]

    def _unknown_tokens(self, text: TokenizedText) -> dict[str, None]:
        """The tokens that the vocabulary lacks, each once, in order; not those that spell the unknown word."""
        tokens = dict.fromkeys(text.tokens[i] for i in np.flatnonzero(text.ids == 0).tolist())
        return {token: None for token in tokens if token not in UNKNOWN_WORDS}


def strip_leading_space(token: str) -> str:
    """A token without the space before its word; a space itself stays."""
    return token.removeprefix(" ") or token


def _quoted(token: str) -> str:
    if len(token) == 1:
        return f"{token!r} (U+{ord(token):04X})"
    return repr(token if len(token) <= 40 else f"{token[:40]}...")
