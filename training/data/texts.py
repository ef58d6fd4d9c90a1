"""Reads texts from the files that users have, learns their vocabulary, and cuts them into train, validation and test
parts."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carry.files import DataError
from service.tokenizer import UNKNOWN_WORDS, Tokenizer, TokenLevel, pre_tokenize
from service.unicode import CombiningMarksError, nfc

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
"""Typographic characters, and the plain ones that a model can read instead if it never saw them."""


def learn_tokenizer(texts: Iterable[str], min_count: int, unit: TokenLevel, max_vocabulary: int | None) -> Tokenizer:
    """A tokenizer of the tokens that occur at least `min_count` times, of these the `max_vocabulary` most frequent:
    characters in code point order, words the most frequent first. Of `REPLACEMENTS` it has those that turn a character
    that occurs in no token into characters that do."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pre_tokenize(unit, text))
    frequent = [token for token in counts if counts[token] >= min_count and token not in UNKNOWN_WORDS]
    tokens = sorted(frequent, key=lambda token: (-counts[token], token))[:max_vocabulary]
    known = {character for token in tokens for character in token}
    replacements = {old: new for old, new in REPLACEMENTS.items() if old not in known and known.issuperset(new)}
    return Tokenizer(("", *(sorted(tokens) if unit == "character" else tokens)), unit, replacements)


@dataclass(frozen=True)
class Encoded:
    """A text as tokens (T,). characters: how many the tokens after the first stand for."""

    tokens: NDArray[np.int64]
    characters: int


def encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> list[Encoded]:
    """Each text as the tokenizer reads it."""
    encoded = []
    for text in texts:
        tokens, ids = tokenizer.encode(text)
        encoded.append(Encoded(ids, sum(map(len, tokens[1:]))))
    return encoded


@dataclass(frozen=True)
class Document:
    """A text that is read from its start. name: its title, or the file (and line) that it is from."""

    name: str
    text: str


def read_documents(paths: Sequence[Path], lines: bool = False) -> list[Document]:
    """The documents of UTF-8 files, gzipped or not: a file is one document, or with `lines` each of its lines; in a
    .jsonl file each line is one, its field `text` (and `title`, if there is one). Characters get their composed form
    (NFC).

    Raises:
        DataError: a file cannot be read, is not UTF-8 or holds no text, or a text has too many combining marks in a
        row.
    """
    documents: list[Document] = []
    for path in paths:
        content = read_utf8(path)
        read = _json_documents(path, content) if is_json_lines(path) else [Document(path.name, content)]
        composed = [
            Document(each.name, compose(str(path) if each.name == path.name else f"{path}, {each.name}", each.text))
            for each in read
        ]
        if lines and not is_json_lines(path):
            numbered = enumerate(composed[0].text.split("\n"), 1)
            composed = [Document(f"{path.name}:{number}", f"{line}\n") for number, line in numbered if line]
        with_text = [document for document in composed if document.text]
        if not with_text:
            raise DataError(f"{path}: holds no text")
        documents += with_text
    return documents


def read_utf8(path: Path) -> str:
    """The text of a UTF-8 file, gzipped or not.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it to UTF-8 first") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable: {error}") from error


def compose(place: str, text: str) -> str:
    """A text in composed form (NFC). place: where it is from.

    Raises:
        DataError: it has too many combining marks in a row.
    """
    try:
        return nfc(text)
    except CombiningMarksError as error:
        raise DataError(f"{place}: {error}") from None


@dataclass(frozen=True)
class Parts:
    """The texts to train on, to choose the weights on and to measure on.

    test_files: the files of the last, if they are others than those to train on.
    """

    train: list[str]
    valid: list[str]
    test: list[str]
    test_files: tuple[str, ...] = ()

    @property
    def chosen_on_test(self) -> bool:
        """Whether some of the texts to measure on are among those to choose the weights on."""
        return not set(self.valid).isdisjoint(self.test)


def read_parts(
    paths: Sequence[Path],
    valid_on: Sequence[Path],
    test_on: Sequence[Path],
    valid: float,
    test: float,
    lines: bool = False,
) -> Parts:
    """The parts of `paths`: the shares `valid` and `test` are held out, unless `valid_on` and `test_on` name files for
    that. lines: as of `read_documents`.

    Raises:
        DataError: a file cannot be used, or is both among those to train on and among those to hold out.
    """
    to_train = {path.resolve() for path in paths}
    for path in (*valid_on, *test_on):
        if path.resolve() in to_train:
            raise DataError(f"{path}: is among the files to train on, and cannot be held out as well")
    train, valid_part, test_part = split_texts(_texts(paths, lines), 0 if valid_on else valid, 0 if test_on else test)
    names = tuple(dict.fromkeys(path.name for path in test_on))
    return Parts(train, _texts(valid_on, lines) or valid_part, _texts(test_on, lines) or test_part, names)


def _texts(paths: Sequence[Path], lines: bool) -> list[str]:
    """The documents' texts. Each of JSON lines ends with a line end, so that a model learns to end a document."""
    texts = []
    for path in paths:
        for document in read_documents([path], lines):
            texts.append(document.text.removesuffix("\n") + "\n" if is_json_lines(path) else document.text)
    return texts


def split_texts(texts: Sequence[str], valid: float, test: float) -> tuple[list[str], list[str], list[str]]:
    """Train, validation and test parts, in order. Ten documents or more go into the parts whole; fewer are each cut.

    A cut document trains up to its share 1 - valid - test, and its last share `test` begins at int(n * (1 - test)).
    """
    if len(texts) >= 10:
        last, middle = (max(1, round(share * len(texts))) if share else 0 for share in (test, valid))
        cut = len(texts) - last - middle
        return list(texts[:cut]), list(texts[cut : cut + middle]), list(texts[cut + middle :])
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for text in texts:
        first, second = int(len(text) * (1 - valid - test)), int(len(text) * (1 - test))
        for part, section in zip(parts, (text[:first], text[first:second], text[second:]), strict=True):
            if section:
                part.append(section)
    return parts


def is_json_lines(path: Path) -> bool:
    """Whether a file's name says that each of its lines is JSON."""
    return path.name.endswith((".jsonl", ".jsonl.gz"))


def _json_documents(path: Path, content: str) -> list[Document]:
    documents = []
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                fields = json.loads(line)
                text, title = fields["text"], fields.get("title")
                text.encode()  # fails for half of a surrogate pair
            except (ValueError, KeyError, TypeError, AttributeError):
                text, title = None, None
            if not isinstance(text, str):
                raise DataError(f"{path}, line {number}: needs a JSON object with a string field `text`")
            name = title if isinstance(title, str) and title else f"{path.name}:{number}"
            documents.append(Document(name, text))
    return documents
