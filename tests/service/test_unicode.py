"""Composed form: in linear time, and the same for a text in two calls as in one."""

import contextlib
import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.unicode import MAX_MARKS, CombiningMarksError, changes_end, nfc, unstable_end

MARKS = "\u0301\u0323\u0f73\u0344\u05b0\u3099"
TEXT = st.text("ae\u00e9\r\n\u1100\u1161\u11a8\uac00\u09c7\u09be\u0f71\u212b" + MARKS, max_size=12) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
)


@given(text=TEXT)
def test_texts_are_in_nfc_with_lf_as_line_ends(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text.replace("\r\n", "\n"))


@given(text=TEXT, cut=st.integers(0, 12))
def test_two_parts_normalize_as_the_whole_unless_the_second_changes_the_first(text: str, cut: int) -> None:
    before, after = nfc(text[:cut]), text[cut:]
    if changes_end(unstable_end(before), after):
        assert before + nfc(after) != nfc(text), "reported without need"
    else:
        assert before + nfc(after) == nfc(text)


@given(texts=st.lists(TEXT, max_size=5))
def test_the_unstable_end_of_several_parts_is_that_of_the_whole(texts: list[str]) -> None:
    whole = end = ""
    for text in texts:
        whole, end = whole + nfc(text), unstable_end(end + nfc(text))
    assert end == unstable_end(whole)


def test_every_character_that_changes_the_one_before_it_is_recognised() -> None:
    """Against this Python's own tables: characters that compose with the one before, or are sorted among its marks."""
    for point in range(sys.maxunicode + 1):
        if 0xD800 <= point < 0xE000:
            continue
        parts = unicodedata.normalize("NFD", chr(point))
        if unicodedata.combining(parts[0]):
            with pytest.raises(CombiningMarksError):
                nfc("a" + chr(point) * (MAX_MARKS + 1))
        if len(parts) > 1 and unicodedata.normalize("NFC", parts) == chr(point):
            assert changes_end(unstable_end(nfc(parts[:-1])), parts[-1]), hex(point)


@pytest.mark.parametrize("mark", MARKS)
def test_more_marks_in_a_row_than_any_language_has_are_refused(mark: str) -> None:
    nfc(("x" + mark * MAX_MARKS) * 3)
    with pytest.raises(CombiningMarksError, match=r"more than 30 combining marks in a row, from position 5 \(U\+"):
        nfc("abc \u00e9" + mark * (MAX_MARKS + 1) + "def")


@pytest.mark.parametrize("part", ["x" + "\u0301\u0323" * 15, "\u0301\u0323\u0f73", "\u0f73\u0345\u0301", "e\u0301\r\n"])
def test_a_text_is_composed_or_refused_in_linear_time(part: str) -> None:
    def seconds(count: int) -> float:
        text, best = part * count, float("inf")
        for _ in range(5):
            started = time.perf_counter()
            with contextlib.suppress(CombiningMarksError):
                nfc(text)
            best = min(best, time.perf_counter() - started)
        return best

    nfc(part)
    assert seconds(8 * 20_000 // len(part)) < 5 * 8 * seconds(20_000 // len(part))
