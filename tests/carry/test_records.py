"""Series and rows in JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from carry.files import DataError, Reading, ReadOptions, read_files, read_series

nan = float("nan")


def read(folder: Path, content: Any, **options: Any) -> Reading:
    path = folder / "file.jsonl"
    path.write_text(content if isinstance(content, str) else "\n".join(map(json.dumps, content)))
    return read_files([path], ReadOptions(**options))


def test_json_lines_hold_a_series_a_line(tmp_path: Path) -> None:
    content = '{"id":"a","values":[1,null,3],"season":4}\n\n{"train":[1,2],"test":[3]}\n'
    reading = read(tmp_path, content)
    first, second = reading.series
    assert (first.id, first.season, second.id) == ("a", 4, "file.jsonl:2")
    np.testing.assert_array_equal(first.values[:, 0], [1, nan, 3])
    np.testing.assert_array_equal(second.values[:, 0], [1, 2])
    assert reading.reports[0].ignored == {"test": "in 1 records"}


def test_json_lines_name_their_frequency(tmp_path: Path) -> None:
    lines = [{"values": [1, 2], "freq": "W"}, {"values": [1, 2], "freq": "h", "season": 168}]
    assert [(series.freq, series.season) for series in read(tmp_path, lines).series] == [("W", 52), ("h", 168)]
    path = tmp_path / "file.jsonl"
    assert [(series.freq, series.season) for series in read_series([path], freq="D")[0]] == [("D", 7), ("D", 7)]


@pytest.mark.parametrize(
    ("start", "freq", "expected"),
    [
        ("2014-01-01", "MS", "2014-04-01"),
        ("2014-01-01 00:00:00", "M", "2014-04-01"),
        ("2014-01-31", "M", "2014-04-30"),
        ("2014-01-15", "M", "2014-04-15"),
        ("2014-01-01", "1D", "2014-01-04"),
        ("2014-01-01 00:00", "H", "2014-01-01 03:00"),
        ("2014-01-01 00:00", "15min", "2014-01-01 00:45"),
        ("2014-01-01", "W-SUN", "2014-01-22"),
        ("2014-01-03", "B", "2014-01-08"),
        ("2014-01-01", "Q", "2014-10-01"),
        ("2014", "Y", "2017-01-01"),
    ],
)
@pytest.mark.parametrize("field", ["values", "target"])
def test_a_start_and_a_frequency_give_the_times(
    tmp_path: Path, start: str, freq: str, expected: str, field: str
) -> None:
    [series] = read(tmp_path, [{"item_id": "a", "start": start, "freq": freq, field: [1, 2, "NaN", 4]}]).series
    assert series.times is not None
    assert series.times[-1] == pd.Timestamp(expected)
    np.testing.assert_array_equal(series.values[:, 0], [1, 2, nan, 4])


def test_a_start_that_is_no_time_is_said(tmp_path: Path) -> None:
    reading = read(tmp_path, [{"start": "in spring", "freq": "D", "values": [1, 2, 3]}])
    assert reading.series[0].times is None
    assert any("the start 'in spring'" in note for note in reading.reports[0].notes)


def test_arrays_and_objects_hold_series_and_rows(tmp_path: Path) -> None:
    for content in (
        "[1, 2, 3]",
        '[{"id": "a", "values": [1, 2, 3]}]',
        '{"data": [{"values": [1, 2, 3]}]}',
        "[[1, 2, 3]]",
        '[{"y": 1}, {"y": 2}, {"y": 3}]',
        '{"y": 1}\n{"y": 2}\n{"y": 3}',
        json.dumps({"values": [1, 2, 3]}, indent=2),
    ):
        [series] = read(tmp_path, content).series
        np.testing.assert_array_equal(series.values[:, 0], [1, 2, 3])


def test_rows_in_json_are_a_table(tmp_path: Path) -> None:
    rows = [{"store": store, "date": f"2024-01-0{day}", "sales": day} for day in range(1, 8) for store in ("007", "7")]
    reading = read(tmp_path, rows)
    assert [series.id for series in reading.series] == ["007", "7"]
    assert reading.series[0].freq == "D"


def test_one_bad_record_does_not_end_the_others(tmp_path: Path) -> None:
    content = '{"id":"a","values":[1,2,3]}\n{"id":"b","values":["x"]}\n{"id":"c","values":[null]}\n{"id":"d"\n'
    reading = read(tmp_path, content)
    assert [series.id for series in reading.series] == ["a"]
    assert {failure.id: failure.reason.split(":")[0] for failure in reading.failures} == {
        "b": "line 2",
        "c": "line 3",
        "file.jsonl:4": "line 4",
    }


def test_features_need_a_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="features need a table"):
        read(tmp_path, [{"values": [1, 2]}], target="y", features=("x",))
