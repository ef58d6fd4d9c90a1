"""Reads texts from the files that users have, their vocabulary, and their cut into train, validation and test parts."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.text.tokenizer import UNKNOWN_WORDS, Tokenizer, Unit, split_into
from service.text.unicode import CombiningMarksError, composed
from training.data.series import DataError

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


def learn_tokenizer(texts: Iterable[str], min_count: int, unit: Unit, most: int | None) -> Tokenizer:
    """Of every piece that occurs at least `min_count` times, at most the `most` most frequent of them; characters in
    code point order, words the most frequent first. It replaces of `REPLACEMENTS` those that turn a character that
    occurs in no piece into ones that do."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_into(unit, text))
    kept = [piece for piece in counts if counts[piece] >= min_count and piece not in UNKNOWN_WORDS]
    kept = sorted(kept, key=lambda piece: (-counts[piece], piece))[:most]
    known = {character for piece in kept for character in piece}
    replacements = {old: new for old, new in REPLACEMENTS.items() if old not in known and known.issuperset(new)}
    return Tokenizer(("", *(sorted(kept) if unit == "character" else kept)), unit, replacements)


@dataclass(frozen=True)
class Encoded:
    """A text as tokens (T,). `characters`: those that the tokens after the first stand for."""

    tokens: NDArray[np.int64]
    characters: int


def encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> list[Encoded]:
    """Each text as the tokenizer reads it."""
    found = []
    for text in texts:
        pieces, tokens = tokenizer.encode(text)
        found.append(Encoded(tokens, sum(map(len, pieces[1:]))))
    return found


@dataclass(frozen=True)
class Document:
    """A text that is read from its start. `name`: its title, or the file (and line) that it is from."""

    name: str
    text: str


def read_documents(paths: Sequence[Path], lines: bool = False) -> list[Document]:
    """A UTF-8 file is one document, or with `lines` each line of it; every line of a .jsonl file (its field `text`;
    `title`, if there) is one; each may be gzipped. Line ends become LF and characters their composed form (NFC).

    Raises:
        DataError: a file cannot be read, is not UTF-8, or holds no text, or one with too many combining marks in a row.
    """
    documents: list[Document] = []
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
        in_json = _in_json(path)
        found = _json_documents(path, content) if in_json else [Document(path.name, content)]
        cleaned = [Document(one.name, _composed(path, one)) for one in found]
        if lines and not in_json:
            parts = enumerate(cleaned[0].text.split("\n"), 1)
            cleaned = [Document(f"{path.name}:{number}", f"{line}\n") for number, line in parts if line]
        if not any(one.text for one in cleaned):
            raise DataError(f"{path}: holds no text")
        documents += [one for one in cleaned if one.text]
    return documents


def _composed(path: Path, document: Document) -> str:
    try:
        return composed(document.text)
    except CombiningMarksError as error:
        where = f"{path}" if document.name == path.name else f"{path}, {document.name}"
        raise DataError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Parts:
    """The texts that are trained on, those that the weights are chosen on, and those that are measured on.

    `test_files`: where the last are from, if they were not held out of the same files as the first.
    """

    train: list[str]
    valid: list[str]
    test: list[str]
    test_files: tuple[str, ...] = ()

    @property
    def chosen_on_test(self) -> bool:
        """Whether the weights are chosen on some of what is measured on."""
        return not set(self.valid).isdisjoint(self.test)


def read_parts(
    paths: Sequence[Path],
    valid_on: Sequence[Path],
    test_on: Sequence[Path],
    valid: float,
    test: float,
    lines: bool = False,
) -> Parts:
    """Train on `paths`, but for the shares of them that are held out where no files are given for that. `lines`: as
    `read_documents`.

    Raises:
        DataError: a file cannot be used, or is to be trained on and held out.
    """
    trained = {path.resolve() for path in paths}
    for path in (*valid_on, *test_on):
        if path.resolve() in trained:
            raise DataError(f"{path}: is among the files to train on, and cannot be held out as well")
    kept, chosen, measured = split_texts(_texts(paths, lines), 0 if valid_on else valid, 0 if test_on else test)
    names = tuple(dict.fromkeys(path.name for path in test_on))
    return Parts(kept, _texts(valid_on, lines) or chosen, _texts(test_on, lines) or measured, names)


def _texts(paths: Sequence[Path], lines: bool) -> list[str]:
    """The documents' texts. One of JSON lines ends with a line end, by which a model learns to say that it is over."""
    texts = []
    for path in paths:
        documents = read_documents([path], lines)
        texts += [f"{one.text.removesuffix(chr(10))}\n" if _in_json(path) else one.text for one in documents]
    return texts


def split_texts(texts: Sequence[str], valid: float, test: float) -> tuple[list[str], list[str], list[str]]:
    """Train, validation and test parts, in order. Ten documents or more go to parts whole; fewer are each cut.

    A cut document trains up to its share 1 - valid - test, and its last share `test` begins at int(n * (1 - test)).
    """
    if len(texts) >= 10:
        last, middle = (max(1, round(share * len(texts))) if share else 0 for share in (test, valid))
        cut = len(texts) - last - middle
        return list(texts[:cut]), list(texts[cut : cut + middle]), list(texts[cut + middle :])
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for text in texts:
        first, second = int(len(text) * (1 - valid - test)), int(len(text) * (1 - test))
        for part, piece in zip(parts, (text[:first], text[first:second], text[second:]), strict=True):
            if piece:
                part.append(piece)
    return parts


def _in_json(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz"))


def _json_documents(path: Path, content: str) -> list[Document]:
    documents = []
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                fields = json.loads(line)
                text, title = fields["text"], fields.get("title")
                text.encode()  # half of a surrogate pair can be neither written nor encoded
            except (ValueError, KeyError, TypeError, AttributeError):
                text, title = None, None
            if not isinstance(text, str):
                raise DataError(f"{path}, line {number}: needs a JSON object with a string field `text`")
            name = title if isinstance(title, str) and title else f"{path.name}:{number}"
            documents.append(Document(name, text))
    return documents
