"""Numbers in columns of text, in the ways in which people write them."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carry.reading.columns import Decimal, find_sentinel, read_numbers

nan = math.nan


def text(*cells: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(cells, pa.string())])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1,100", "1,200.5", "-2,000,000"], [1100, 1200.5, -2e6]),
        (["1.100,5", "17", "1.000"], [1100.5, 17, 1000]),
        (["1,5", "2,25", "-,5"], [1.5, 2.25, -0.5]),
        (["0,123", "0,456"], [0.123, 0.456]),
        (["$1,234.50", "-$5", "$-7"], [1234.5, -5, -7]),
        (["12,5 €", "1.012,50 EUR", "3 €"], [12.5, 1012.5, 3]),
        (["12%", "13.5 %"], [12, 13.5]),
        (["1 234", "12 345,6"], [1234, 12345.6]),
        (["1\u202f234,5", "7"], [1234.5, 7]),
        (["1'234.5", "1'000'000"], [1234.5, 1e6]),
        (["1,00,000", "12,34,567.5"], [100000, 1234567.5]),
        (["1.23M", "456.7K", "2B"], [1.23e6, 456700, 2e9]),
        (["1.4 p", ": c", "12 e"], [1.4, nan, 12]),
        (["(1,234)", "5-", "\u22127"], [-1234, -5, -7]),
        (["+5", "2E3", "1.5e-3", ".5", " 7 "], [5, 2000, 0.0015, 0.5, 7]),
        (["1", "", "NA", "n.a.", "?", "-", "..", "#N/A", "NULL", ":"], [1, *[nan] * 9]),
        (["true", "FALSE", ""], [1, 0, nan]),
        (["1", "-inf"], [1, -math.inf]),
    ],
)
def test_cells_are_numbers_as_people_write_them(cells: list[str], expected: list[float]) -> None:
    numbers = read_numbers(text(*cells))
    np.testing.assert_array_equal(numbers.values, expected)
    assert not len(numbers.bad)


def test_what_stands_for_a_missing_value_is_counted() -> None:
    numbers = read_numbers(text("1", "-", "-", "", "x", "-200"), missing=("x", "-200"))
    np.testing.assert_array_equal(numbers.values, [1, nan, nan, nan, nan, nan])
    assert numbers.words == {"-": 2, "x": 1, "-200": 1}


def test_a_cell_that_is_no_number_is_named() -> None:
    numbers = read_numbers(text("1", "oops", "3", "1.5.2024"))
    assert numbers.bad.tolist() == [1, 3]
    assert numbers.count == 2


@pytest.mark.parametrize(("decimal", "expected"), [(".", [1234.0]), (",", [1.234]), (None, [1234.0])])
def test_a_comma_that_may_be_either_is_said(decimal: Decimal | None, expected: list[float]) -> None:
    numbers = read_numbers(text("1,234"), decimal)
    assert numbers.values.tolist() == expected
    assert "1,234 is read as" in numbers.notes[0]
    assert ("--decimal" in numbers.notes[0]) == (decimal is None)


def test_the_file_decides_where_a_column_does_not() -> None:
    assert read_numbers(text("1,234", "5"), suggested=",").values.tolist() == [1.234, 5]
    assert read_numbers(text("3.805", "1.020"), suggested=",").values.tolist() == [3805, 1020]
    assert read_numbers(text("980", "1.020"), suggested=",").values.tolist() == [980, 1020]
    assert read_numbers(text("980", "1.020"), likely=",").values.tolist() == [980, 1020]
    numbers = read_numbers(text("3.805", "1.020"), likely=",")
    assert numbers.values.tolist() == [3.805, 1.02]
    assert numbers.notes == ("3.805 is read as 3.805 (--decimal , if the point separates thousands)",)
    assert read_numbers(text("980", "1.020")).values.tolist() == [980, 1.02]


def test_typed_columns_keep_their_values() -> None:
    from decimal import Decimal as Exact

    for values, kind in (
        ([1, None, 3], pa.int32()),
        ([True, False, None], pa.bool_()),
        ([Exact("1.50"), None], pa.decimal128(10, 2)),
        ([1.5, None], pa.float32()),
        ([None, None], pa.null()),
    ):
        numbers = read_numbers(pa.chunked_array([pa.array(values, kind)]))
        np.testing.assert_array_equal(numbers.values, [nan if value is None else float(value) for value in values])


@given(
    st.lists(st.integers(-(10**9), 10**9).map(lambda cents: cents / 100), min_size=1, max_size=20),
    st.sampled_from(".,"),
    st.sampled_from(["", "group", " ", "\u202f"]),
    st.sampled_from(["{}", "{} €", "${}", "{}%"]),
)
def test_numbers_are_read_back_from_any_style(values: list[float], mark: str, group: str, around: str) -> None:
    separator = ({".": ",", ",": "."}[mark] if group == "group" else group) or ""
    cells = []
    for value in values:
        plain = f"{value:,.2f}".replace(",", "\0").replace(".", mark).replace("\0", separator)
        cells.append(around.format(plain))
    numbers = read_numbers(text(*cells))
    assert not len(numbers.bad)
    np.testing.assert_allclose(numbers.values, values, rtol=1e-15)


def test_a_number_far_from_all_others_that_repeats_stands_for_missing() -> None:
    values = np.array([1.5, 2.0, -200, 2.6, -200, 1.9])
    assert find_sentinel(values) == (-200, 2)
    assert find_sentinel(np.array([5.0, 7, 9999, 6, 9999])) == (9999, 2)
    assert find_sentinel(np.array([-150.0, 100, -200, 40, -200])) is None  # one value of many
    assert find_sentinel(np.array([1.0, 2, -200, 3])) is None  # it does not repeat
    assert find_sentinel(np.array([1.0, 2, -200, 3]), frozenset({-200.0})) == (-200, 1)  # but elsewhere in the file
    assert find_sentinel(np.array([647.0, 2040, -200, 1100, -200])) == (-200, 2)  # nothing else is below 0
    assert find_sentinel(np.array([1.0, 2, -201, -201, 3])) is None
