"""Texts in composed form: in linear time, and in two pieces as in one or not at all."""

import contextlib
import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.text.unicode import MAX_MARKS, CombiningMarksError, nfc, changes_end, unstable_end

MARKS = "\u0301\u0323\u0f73\u0344\u05b0\u3099"
TEXT = st.text("ae\u00e9\r\n\u1100\u1161\u11a8\uac00\u09c7\u09be\u0f71\u212b" + MARKS, max_size=12) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
)


@given(text=TEXT)
def test_it_is_nfc_with_lf_as_line_ends(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text.replace("\r\n", "\n"))


@given(text=TEXT, cut=st.integers(0, 12))
def test_a_text_in_two_pieces_is_the_text_in_one_or_the_second_is_refused(text: str, cut: int) -> None:
    before, after = nfc(text[:cut]), text[cut:]
    if changes_end(unstable_end(before), after):
        assert before + nfc(after) != nfc(text), "refused without need"
    else:
        assert before + nfc(after) == nfc(text)


@given(texts=st.lists(TEXT, max_size=5))
def test_the_end_of_several_pieces_is_the_end_of_the_whole(texts: list[str]) -> None:
    whole = end = ""
    for text in texts:
        whole, end = whole + nfc(text), unstable_end(end + nfc(text))
    assert end == unstable_end(whole)


def test_every_character_that_may_change_the_one_before_it_is_known() -> None:
    """Against this Python's own tables: whatever composes with what it follows, or is sorted among its marks."""
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


@pytest.mark.parametrize("unit", ["x" + "\u0301\u0323" * 15, "\u0301\u0323\u0f73", "\u0f73\u0345\u0301", "e\u0301\r\n"])
def test_a_text_is_refused_or_composed_in_linear_time(unit: str) -> None:
    def seconds(count: int) -> float:
        text, best = unit * count, float("inf")
        for _ in range(5):
            started = time.perf_counter()
            with contextlib.suppress(CombiningMarksError):
                nfc(text)
            best = min(best, time.perf_counter() - started)
        return best

    nfc(unit)
    assert seconds(8 * 20_000 // len(unit)) < 5 * 8 * seconds(20_000 // len(unit))
