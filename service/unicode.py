"""Unicode's composed form (NFC) in linear time, and where it depends on the text before. Knows nothing of models."""

import functools
import unicodedata

import numpy as np
from numpy.typing import NDArray

MAX_MARKS = 30
"""The most combining marks in a row (UAX 15, "Stream-Safe Text Format"). No language needs more. Normalization sorts
each run of marks, in time quadratic in its length."""
_MAX_UNSTABLE = 64
"""The most characters that a later one may still change: a character, its marks, and those that compose with it."""
_HANGUL = range(0x1161, 0x11C3)
"""Vowels and final consonants, which compose with the character before them."""
_TABLE_SIZE = 0x20000
"""Beyond it, no character is a combining mark or composes with the character before it."""


class CombiningMarksError(ValueError):
    """A text has more than MAX_MARKS combining marks in a row."""


def nfc(text: str) -> str:
    """The text in composed form (NFC), with LF as line ends.

    Raises:
        CombiningMarksError: the text has more than MAX_MARKS combining marks in a row.
    """
    if not text.isascii():
        _check_marks(text)
        text = unicodedata.normalize("NFC", text)
    return text.replace("\r\n", "\n")


def changes_end(end: str, text: str) -> bool:
    """Whether a text changes the `unstable_end` of the text before it: the two together then normalize otherwise than
    one after the other."""
    if not end or not text or (not _may_change_previous(text[0]) and end[-1] != "\r"):
        return False
    head = text[:_MAX_UNSTABLE]
    try:
        return nfc(end + head) != nfc(end) + nfc(head)
    except CombiningMarksError:
        return True


def unstable_end(text: str) -> str:
    """The end of a text that a following text may still change: the last base character and the marks after it."""
    begin = len(text) - 1
    while begin > len(text) - _MAX_UNSTABLE and begin > 0 and _may_change_previous(text[begin]):
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


def _may_change_previous(character: str) -> bool:
    """Whether a character may change how the one before it is read."""
    _, changes_previous = _tables()
    return bool(changes_previous[min(ord(character), _TABLE_SIZE - 1)])


@functools.cache
def _tables() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """By code point: is it a combining mark, or does it decompose to one; and may it change the character before it,
    as a mark or by composing with it."""
    marks, changes_previous = np.zeros((2, _TABLE_SIZE), dtype=bool)
    firsts: dict[int, int] = {}
    for point in range(_TABLE_SIZE):
        if unicodedata.combining(chr(point)):
            marks[point] = True
        decomposition = unicodedata.decomposition(chr(point))
        if decomposition and not decomposition.startswith("<"):
            firsts[point], *rest = (int(part, 16) for part in decomposition.split())
            # Three Tibetan vowel signs are no marks themselves, but decompose to marks.
            marks[point] |= bool(unicodedata.combining(chr(firsts[point])))
            changes_previous[rest] = True
    changes_previous[_HANGUL] = True
    changes_previous |= marks
    changes_previous[list(firsts)] |= changes_previous[np.minimum(list(firsts.values()), _TABLE_SIZE - 1)]
    return marks, changes_previous
