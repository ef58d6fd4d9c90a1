"""Reading series from the files that users have."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carry.files import DataError, read_series

WIDE = "date,a,b,note\n2024-01-01,1,,x\n2024-02-01,2,5,y\n2024-03-01,,6,z\n2024-04-01,4,7,w\n"
LONG = "unique_id,ds,y,t\nu,2,20,1\nu,1,10,2\nv,1,5,3\nv,2,,4\n"


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


def test_each_numeric_column_of_a_wide_file_is_a_series(tmp_path: Path) -> None:
    series, names = read_series([write(tmp_path, "w.csv", WIDE)])
    assert names == ("y",)
    assert [s.id for s in series] == ["a", "b"]
    np.testing.assert_array_equal(series[0].values[:, 0], [1, 2, np.nan, 4])
    assert series[0].season == 12
    assert series[0].times is not None


def test_with_a_target_the_columns_are_features_of_one_series(tmp_path: Path) -> None:
    [series], names = read_series([write(tmp_path, "w.csv", WIDE)], "b", ["a"])
    assert names == ("b", "a")
    np.testing.assert_array_equal(series.values, [[np.nan, 1], [5, 2], [6, np.nan], [7, 4]])


def test_a_long_file_is_sorted_by_time_within_each_series(tmp_path: Path) -> None:
    series, _ = read_series([write(tmp_path, "l.csv", LONG)], None, ["t"])
    assert [s.id for s in series] == ["u", "v"]
    np.testing.assert_array_equal(series[0].values, [[10, 2], [20, 1]])
    np.testing.assert_array_equal(series[1].values, [[5, 3]])
    np.testing.assert_array_equal(series[1].future, [[np.nan, 4]])


@pytest.mark.parametrize("suffix", [".parquet", ".csv.gz"])
def test_other_formats_hold_the_same(tmp_path: Path, suffix: str) -> None:
    plain = write(tmp_path, "w.csv", WIDE)
    other = tmp_path / f"w{suffix}"
    table = pd.read_csv(plain)
    if suffix == ".parquet":
        table.assign(date=pd.to_datetime(table["date"])).to_parquet(other)
    else:
        table.to_csv(other, index=False)
    for expected, actual in zip(read_series([plain])[0], read_series([other])[0], strict=True):
        assert (expected.id, expected.season) == (actual.id, actual.season)
        np.testing.assert_array_equal(expected.values, actual.values)


def test_json_lines_hold_a_series_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "s.jsonl", '{"id":"a","values":[1,null,3],"season":4}\n\n{"train":[1,2],"test":[3]}\n')
    first, second = read_series([path])[0]
    assert (first.id, first.season) == ("a", 4)
    np.testing.assert_array_equal(first.values[:, 0], [1, np.nan, 3])
    np.testing.assert_array_equal(second.values[:, 0], [1, 2])


def test_json_lines_name_their_frequency(tmp_path: Path) -> None:
    path = write(tmp_path, "s.jsonl", '{"values":[1,2],"freq":"W"}\n{"values":[1,2],"freq":"h","season":168}\n')
    assert [(series.freq, series.season) for series in read_series([path])[0]] == [("W", 52), ("h", 168)]
    assert [(series.freq, series.season) for series in read_series([path], freq="D")[0]] == [("D", 7), ("D", 7)]


@pytest.mark.parametrize(
    ("name", "content", "target", "features", "message"),
    [
        ("a.csv", "x,y\na,b\n", None, [], "no column of numbers"),
        ("a.csv", "", None, [], "not readable as CSV"),
        ("a.csv", "x\n", None, [], "no rows"),
        ("a.csv", WIDE, "c", [], "no column 'c'; its columns are 'date', 'a', 'b', 'note'"),
        ("a.csv", WIDE, "note", [], "holds text"),
        ("a.csv", "x\ninf\n1\n", None, [], "infinity"),
        ("a.csv", "x,z\n1,\n1,\n", "z", [], "no value at all"),
        ("a.csv", LONG + "u,1,3,4\n", None, [], "the time 1 in 'ds' of series 'u' is in rows 2 and 5 after the header"),
        ("a.csv", WIDE + "2024-02-01,3,4,v\n", None, [], "the time 2024-02-01 00:00:00 in 'date' is in rows 2 and 5"),
        ("a.csv", WIDE + "2024-02-01,3,4,v\n", "a", ["b"], "is in rows 2 and 5 after the header; each series has one"),
        ("a.csv", "ds,y\n2024-01-01,1\n2024-01-03,2\n2024-02-09,3\n", None, [], "do not follow a frequency"),
        ("a.parquet", "not parquet", None, [], "not readable as Parquet"),
        ("a.jsonl", '{"values":[1]}\n{"values":["x"]}', None, [], "line 2"),
        ("a.jsonl", "nonsense", None, [], "line 1"),
        ("a.jsonl.gz", "nonsense", None, [], "not readable"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: str, target: str | None, features: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_series([write(tmp_path, name, content)], target, features)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        with pytest.raises(DataError, match="no such file"):
            read_series([tmp_path / name])
