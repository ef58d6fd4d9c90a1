"""Unicode's composed form in linear time, and where two texts meet. Knows nothing of models."""

import functools
import unicodedata

import numpy as np
from numpy.typing import NDArray

MAX_MARKS = 30
"""Most combining marks in a row (UAX 15, "Stream-Safe Text Format"): no language needs more, and sorting a run of them,
as normalisation does, takes time in proportion to the square of its length."""
_OPEN_END = 64
"""Most characters that a later one may still change: a character, its marks, and those that compose with it."""
_HANGUL = range(0x1161, 0x11C3)
"""Vowels and final consonants, which compose with the one before them."""
_TABLE_SIZE = 0x20000
"""Beyond it, no character is a combining mark or composes with the one before it."""


class CombiningMarksError(ValueError):
    """A text has more combining marks in a row than MAX_MARKS."""


def composed(text: str) -> str:
    """The text with LF as line ends, and its characters in their composed form (NFC).

    Raises:
        CombiningMarksError: it has more than MAX_MARKS combining marks in a row.
    """
    if not text.isascii():
        _check_marks(text)
        text = unicodedata.normalize("NFC", text)
    return text.replace("\r\n", "\n")


def continues(before: str, text: str) -> bool:
    """Whether a text that follows `before`, the `open_end` of another one, changes how that one's end is read: the two
    in one text are then read otherwise than one after the other."""
    if not before or not text or (not _continuing(text[0]) and before[-1] != "\r"):
        return False
    head = text[:_OPEN_END]
    try:
        return composed(before + head) != composed(before) + composed(head)
    except CombiningMarksError:
        return True


def open_end(text: str) -> str:
    """The end of a text that what follows may change: its last character that begins one, with the marks after it."""
    begin = len(text) - 1
    while begin > len(text) - _OPEN_END and begin > 0 and _continuing(text[begin]):
        begin -= 1
    return text[max(0, begin) :]


def _check_marks(text: str) -> None:
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    marks, _ = _tables()
    others = np.flatnonzero(~marks[np.minimum(points, _TABLE_SIZE - 1)])
    edges = np.concatenate([[-1], others, [len(points)]])
    runs = np.diff(edges) - 1
    if runs.max() > MAX_MARKS:
        first = int(edges[np.argmax(runs > MAX_MARKS)]) + 1
        raise CombiningMarksError(
            f"has more than {MAX_MARKS} combining marks in a row, from position {first} (U+{points[first]:04X}) on"
        )


def _continuing(character: str) -> bool:
    """Whether a character may change how the one before it is read."""
    _, continuing = _tables()
    return bool(continuing[min(ord(character), _TABLE_SIZE - 1)])


@functools.cache
def _tables() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """By code point: what is a combining mark, or decomposes to such; and what of these or others may compose with the
    character before it."""
    marks, continuing = np.zeros((2, _TABLE_SIZE), dtype=bool)
    firsts: dict[int, int] = {}
    for point in range(_TABLE_SIZE):
        if unicodedata.combining(chr(point)):
            marks[point] = True
        decomposition = unicodedata.decomposition(chr(point))
        if decomposition and not decomposition.startswith("<"):
            firsts[point], *rest = (int(part, 16) for part in decomposition.split())
            # Three Tibetan vowel signs are no marks themselves, and yet fall into some.
            marks[point] |= bool(unicodedata.combining(chr(firsts[point])))
            continuing[rest] = True
    continuing[_HANGUL] = True
    continuing |= marks
    continuing[list(firsts)] |= continuing[np.minimum(list(firsts.values()), _TABLE_SIZE - 1)]
    return marks, continuing
