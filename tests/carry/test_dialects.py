"""Text files of rows and cells, as programs and people write them."""

import pytest

from carry.reading.columns import Table
from carry.reading.dialects import read_text, table_of_rows
from carry.reading.series import DataError


def cells(table: Table) -> dict[str, list[str]]:
    return {name: column.to_pylist() for name, column in zip(table.names, table.columns, strict=True)}


def read(content: str | bytes) -> Table:
    return read_text(content.encode() if isinstance(content, str) else content, "file")


PLAIN = {"ds": ["2024-01-01", "2024-01-02", "2024-01-03"], "y": ["1.5", "2.5", "3.5"]}
LINES = "ds,y\n2024-01-01,1.5\n2024-01-02,2.5\n2024-01-03,3.5\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_separator_of_cells_is_found(delimiter: str) -> None:
    assert cells(read(LINES.replace(",", delimiter))) == PLAIN


def test_spaces_separate_cells_if_they_align_them() -> None:
    assert cells(read("ds          y\n2024-01-01  1.5\n2024-01-02  2.5\n2024-01-03  3.5\n")) == PLAIN


def test_decimal_commas_are_no_separators() -> None:
    assert cells(read("ds;y\n2024-01-01;1,5\n2024-01-02;2,5\n")) == {
        "ds": ["2024-01-01", "2024-01-02"],
        "y": ["1,5", "2,5"],
    }
    assert cells(read("y\n1,5\n2,5\n3,5\n")) == {"y": ["1,5", "2,5", "3,5"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"])
def test_the_encoding_is_found(encoding: str) -> None:
    assert cells(read("münze,größe\n1,2\n3,4\n".encode(encoding))) == {"münze": ["1", "3"], "größe": ["2", "4"]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way(end: str) -> None:
    assert cells(read(LINES.replace("\n", end))) == PLAIN


def test_quoted_cells_hold_anything() -> None:
    table = read('a,b\n"x, ""y""\nz",1\n"1,100",2\n')
    assert cells(table) == {"a": ['x, "y"\nz', "1,100"], "b": ["1", "2"]}


@pytest.mark.parametrize(
    ("above", "skipped"),
    [
        ("Report of sales\n\n", "Report of sales"),
        ("# made by a program\n# on a Monday\n", "made by a program"),
        ("Sales,\nby day,\n\n", "by day"),
        ("\n\n", ""),
        ("sep=,\n", ""),
    ],
)
def test_lines_above_the_table_are_skipped_and_said(above: str, skipped: str) -> None:
    table = read(above + LINES)
    assert cells(table) == PLAIN
    assert any(skipped in note for note in table.notes) or not skipped
    assert table.place(0) == f"line {above.count(chr(10)) + 2}"


def test_rows_without_a_cell_are_left_out_and_sources_below_the_table_are_said() -> None:
    table = read("a;b\n1;2\n;\n3;4\nSource: the office of numbers\n;\n;\n")
    assert cells(table) == {"a": ["1", "3"], "b": ["2", "4"]}
    assert "below the table, not read: Source: the office of numbers" in table.notes
    assert "1 empty row is left out" in table.notes
    assert table.place(1) == "line 4"


def test_an_empty_line_of_a_file_of_one_column_is_a_missing_value() -> None:
    assert cells(read("y\n1\n\n3\n\n")) == {"y": ["1", "", "3"]}


def test_a_row_with_too_many_cells_is_named() -> None:
    with pytest.raises(DataError, match="line 4 has 3 cells, but there are 2 names of columns: 3,4,5"):
        read("a,b\n1,2\n5,6\n3,4,5\n")


def test_a_row_with_too_few_cells_is_completed_and_said() -> None:
    table = read("a,b,c\n1,2,3\n5\n6,7,8\n")
    assert cells(table) == {"a": ["1", "5", "6"], "b": ["2", "", "7"], "c": ["3", "", "8"]}
    assert any("1 row has fewer cells than there are columns (line 3" in note for note in table.notes)


def test_a_separator_at_the_end_of_each_line_is_no_column() -> None:
    assert cells(read("a,b\n1,2,\n3,4,\n")) == {"a": ["1", "3"], "b": ["2", "4"]}
    assert cells(read("a,b,\n1,2,\n3,4,\n")) == {"a": ["1", "3"], "b": ["2", "4"]}


def test_a_quotation_mark_that_is_not_closed_is_refused() -> None:
    rows = "".join(f"2024-01-{day:02},{day},{chr(34) if day == 5 else ''}note\n" for day in range(1, 25))
    with pytest.raises(
        DataError, match='in row 5 below the names, holds 19 more rows: a quotation mark " is not closed'
    ):
        read("ds,y,note\n" + rows)
    assert len(read('ds,y,note\n2024-01-01,1,5" pipe\n2024-01-02,2,6" pipe\n')) == 2


def test_thousands_without_quotation_marks_are_refused() -> None:
    with pytest.raises(DataError, match="line 2 has 3 cells, but there are 2 names of columns"):
        read("date,y\n2024-01-01,$1,000.00\n2024-01-02,$1,100.00\n2024-01-03,$2,000.00\n")


@pytest.mark.parametrize("content", ["1\n2\n3\n", "1.5\n2\n3\n"])
def test_one_column_of_numbers_needs_no_name(content: str) -> None:
    table = read(content)
    assert table.names == ["column 1"]
    assert cells(table)["column 1"] == content.split()
    assert "the first row holds values: the columns have no names, and are numbered" in table.notes


def test_a_first_row_of_values_is_no_row_of_names() -> None:
    assert read("0.7855,1.611\n0.7818,1.61\n").names == ["column 1", "column 2"]
    assert read("2024-01-01,5\n2024-01-02,6\n").names == ["column 1", "column 2"]
    assert read("H1,605,586,586\nH2,1,2,3\n").names == ["column 1", "column 2", "column 3", "column 4"]
    assert read("# date,v\n2024-01-01,1\n2024-01-02,2\n").names == ["date", "v"]


def test_numbers_and_dates_may_be_names() -> None:
    for names in ("country,1990,1991,1992", "Page,2015-07-01,2015-07-02,2015-07-03", "date,101,205,311"):
        first = "2024-01-01" if names.startswith("date") else "a"
        assert read(f"{names}\n{first},1,2,3\n").names == names.split(",")


def test_a_first_row_that_may_be_names_or_values_is_refused() -> None:
    with pytest.raises(DataError, match="its first row holds numbers"):
        read("3,1,2\n5,6,7\n")


def test_names_are_unique() -> None:
    table = read("y,y,,y\n1,2,3,4\n")
    assert table.names == ["y", "y.1", "column 3", "y.2"]
    assert any("several columns have the name 'y'" in note for note in table.notes)


def test_rows_of_units_and_of_second_names_are_skipped() -> None:
    days = "".join(f"2024-01-0{day},{day},{day + 1}\n" for day in range(1, 8))
    table = read("Price,Close,High\nTicker,AAPL,AAPL\nDate,,\n" + days)
    assert cells(table)["Close"] == list("1234567")
    assert "below the names, not read: Ticker AAPL AAPL | Date" in table.notes


@pytest.mark.parametrize("id", ["#1", "%a", "!", "//x"])
def test_ids_may_begin_as_comments_do(id: str) -> None:
    assert cells(read(f"A title\n\nunique_id;ds;y\n{id};2024-01-01;1\n{id};2024-01-02;\n{id};2024-01-03;3\n")) == {
        "unique_id": [id] * 3,
        "ds": ["2024-01-01", "2024-01-02", "2024-01-03"],
        "y": ["1", "", "3"],
    }


def test_a_first_row_without_a_value_is_no_row_of_units() -> None:
    rows = "".join(f"{id};2024-01-0{day};{value}\n" for id in ("x", "5") for day, value in enumerate(("", 1, 2), 1))
    assert len(read("unique_id;ds;y\n" + rows)) == 6


def test_names_of_rows_need_no_name() -> None:
    assert read('"a","b"\n"r1",1,2\n"r2",3,4\n').names == ["column 1", "a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"a,b\n", "no rows below the names"),
        (b"\x00\x01\x02PK\x00binary\x00\x07" * 100, "not a file of text"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(content)


def test_sheets_are_read_as_text_files_are() -> None:
    table = table_of_rows([["Sales", ""], [], ["ds", "y"], ["2024-01-01", "1"], ["", ""], ["2024-01-02", "2"]], "book")
    assert cells(table) == {"ds": ["2024-01-01", "2024-01-02"], "y": ["1", "2"]}
    assert table.place(1) == "row 6"
