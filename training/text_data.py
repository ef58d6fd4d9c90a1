"""Reads texts from the files that users have, their vocabulary, and their cut into train, validation and test parts."""

import gzip
import json
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.series_data import DataError

REPLACEMENTS = {
    "\u2018": "'",
    "\u2019": "'",
    "\u201a": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u201e": '"',
    "\u2013": "-",
    "\u2014": "--",
    "\u2026": "...",
    "\u00a0": " ",
    "\u2009": " ",
    "\t": " ",
    "`": "'",
    "\u0153": "oe",
    "\u0152": "OE",
}
"""Typographic characters that a model which never saw them can read as plain ones."""


@dataclass(frozen=True)
class Vocabulary:
    """The characters of the training part, in code point order; token 0 stands for any other character."""

    characters: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], min_count: int = 1) -> "Vocabulary":
        """Every character that occurs at least `min_count` times."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return cls(("", *sorted(character for character, count in counts.items() if count >= min_count)))

    def encode(self, text: str) -> NDArray[np.int64]:
        """Tokens of the text's characters, 0 where unknown."""
        index = {character: token for token, character in enumerate(self.characters)}
        return np.fromiter((index.get(character, 0) for character in text), dtype=np.int64, count=len(text))

    def replacements(self) -> dict[str, str]:
        """Those of `REPLACEMENTS` that turn a character this vocabulary lacks into ones it has."""
        known = set(self.characters)
        return {old: new for old, new in REPLACEMENTS.items() if old not in known and known.issuperset(new)}


def normalise(text: str, replacements: Mapping[str, str]) -> str:
    """Rewrite single characters, as the service does with prompts."""
    return text.translate({ord(old): new for old, new in replacements.items()})


def read_texts(paths: Sequence[Path]) -> list[str]:
    """One text per document: a UTF-8 file is one, every line of a .jsonl file (its field `text`) is one; each may be
    gzipped. Line ends become LF and characters their composed form (NFC).

    Raises:
        DataError: a file cannot be read, is not UTF-8, or holds no text.
    """
    texts: list[str] = []
    for path in paths:
        try:
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            content = raw.decode("utf-8").removeprefix("\ufeff")
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it to UTF-8 first") from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: not readable: {error}") from error
        documents = _json_texts(path, content) if path.name.endswith((".jsonl", ".jsonl.gz")) else [content]
        cleaned = [unicodedata.normalize("NFC", text.replace("\r\n", "\n")) for text in documents]
        if not any(cleaned):
            raise DataError(f"{path}: holds no text")
        texts += [text for text in cleaned if text]
    return texts


def split_texts(texts: Sequence[str], valid: float, test: float) -> tuple[list[str], list[str], list[str]]:
    """Train, validation and test parts, in order. Ten documents or more go to parts whole; fewer are each cut.

    A cut document trains up to its share 1 - valid - test, and its last share `test` begins at int(n * (1 - test)).
    """
    if len(texts) >= 10:
        last, middle = max(1, round(test * len(texts))), max(1, round(valid * len(texts)))
        cut = len(texts) - last - middle
        return list(texts[:cut]), list(texts[cut : cut + middle]), list(texts[cut + middle :])
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for text in texts:
        first, second = int(len(text) * (1 - valid - test)), int(len(text) * (1 - test))
        for part, piece in zip(parts, (text[:first], text[first:second], text[second:]), strict=True):
            if piece:
                part.append(piece)
    return parts


def _json_texts(path: Path, content: str) -> list[str]:
    texts = []
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise DataError(f"{path}, line {number}: needs a JSON object with a string field `text`")
            texts.append(text)
    return texts
