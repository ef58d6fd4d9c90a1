"""Files of any format give the same series."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import zipfile
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from carry.files import DataError, Reading, ReadOptions, Series, find_categories, read_files, read_series

WIDE = "date,a,b,note\n2024-01-01,1,,x\n2024-02-01,2,5,y\n2024-03-01,,6,z\n2024-04-01,4,7,w\n"
LONG = "unique_id,ds,y,t\nu,2,20,1\nu,1,10,2\nv,1,5,3\nv,2,,4\n"
nan = float("nan")


def write(folder: Path, name: str, content: str | bytes) -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def read(path: Path, **options: Any) -> Reading:
    return read_files([path], ReadOptions(**options))


def values(series: Series) -> list[float]:
    return [float(value) for value in series.values[:, 0]]


def test_each_numeric_column_of_a_wide_file_is_a_series(tmp_path: Path) -> None:
    series, names = read_series([write(tmp_path, "w.csv", WIDE)])
    assert names == ("y",)
    assert [s.id for s in series] == ["a", "b"]
    np.testing.assert_array_equal(series[0].values[:, 0], [1, 2, nan, 4])
    assert series[0].season == 12
    assert series[0].times is not None


def test_with_a_target_the_columns_are_features_of_one_series(tmp_path: Path) -> None:
    [series], names = read_series([write(tmp_path, "w.csv", WIDE)], "b", ["a"])
    assert names == ("b", "a")
    np.testing.assert_array_equal(series.values, [[nan, 1], [5, 2], [6, nan], [7, 4]])


def test_a_long_file_is_sorted_by_time_within_each_series(tmp_path: Path) -> None:
    series, _ = read_series([write(tmp_path, "l.csv", LONG)], None, ["t"])
    assert [s.id for s in series] == ["u", "v"]
    np.testing.assert_array_equal(series[0].values, [[10, 2], [20, 1]])
    np.testing.assert_array_equal(series[1].values, [[5, 3]])
    np.testing.assert_array_equal(series[1].future, [[nan, 4]])


def compressed(content: bytes) -> dict[str, bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("w.csv", content)
        file.writestr("__MACOSX/._w.csv", b"junk")
    return {
        "w.csv.gz": gzip.compress(content),
        "w.csv.bz2": bz2.compress(content),
        "w.csv.xz": lzma.compress(content),
        "w.csv.zst": zstandard.ZstdCompressor().compress(content),
        "w.zip": archive.getvalue(),
        "gzipped without saying so.csv": gzip.compress(content),
        "w.dat": content,
    }


@pytest.mark.parametrize("name", compressed(b""))
def test_compressed_files_hold_the_same(tmp_path: Path, name: str) -> None:
    assert_same(read(write(tmp_path, "w.csv", WIDE)), read(write(tmp_path, name, compressed(WIDE.encode())[name])))


def assert_same(expected: Reading, actual: Reading) -> None:
    assert [series.id for series in expected.series] == [series.id for series in actual.series]
    for one, other in zip(expected.series, actual.series, strict=True):
        assert (one.season, one.freq) == (other.season, other.freq)
        np.testing.assert_array_equal(one.values, other.values)
        assert (one.times is None) == (other.times is None)
        if one.times is not None and other.times is not None:
            assert one.times.equals(other.times.as_unit(one.times.unit))


@pytest.mark.parametrize("name", ["w.parquet", "w.arrow", "w.xlsx", "w.json", "columns.json", "w.jsonl", "w.tsv"])
def test_other_formats_hold_the_same(tmp_path: Path, name: str) -> None:
    plain = write(tmp_path, "w.csv", WIDE)
    table = pd.read_csv(plain)
    path = tmp_path / name
    match name:
        case "w.parquet":
            table.assign(date=pd.to_datetime(table["date"])).to_parquet(path)
        case "w.arrow":
            feather.write_feather(table, str(path))
        case "w.xlsx":
            table.assign(date=pd.to_datetime(table["date"])).to_excel(path, index=False)
        case "w.json":
            path.write_text(table.to_json(orient="records"))
        case "columns.json":
            path.write_text(table.to_json())
        case "w.jsonl":
            path.write_text(table.to_json(orient="records", lines=True))
        case _:
            table.to_csv(path, index=False, sep="\t")
    assert_same(read(plain), read(path))


def test_parquet_keeps_what_its_types_say(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=8)
    table = pa.table(
        {
            "ds": pa.array([day.date() for day in days], pa.date32()),
            "exact": pa.array([Decimal("1.50")] * 8),
            "whole": pa.array(range(8), pa.uint8()),
            "kind": pa.array(["x"] * 8).dictionary_encode(),
            "flag": pa.array([True] * 8),
            "nested": pa.array([{"a": 1}] * 8),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    reading = read(tmp_path / "t.parquet")
    assert [(series.id, series.freq) for series in reading.series] == [("exact", "D"), ("whole", "D")]
    assert values(reading.series[0]) == [1.5] * 8
    assert reading.reports[0].ignored == {"kind": "text", "flag": "true or false", "nested": "nested values"}


def test_the_index_of_pandas_is_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"y": range(5)}, index=pd.date_range("2024-01-01", periods=5, freq="MS", tz="Europe/Berlin"))
    frame.to_parquet(tmp_path / "i.parquet")
    [series] = read(tmp_path / "i.parquet").series
    assert series.freq == "MS"
    assert series.times is not None
    assert str(series.times.tz) == "Europe/Berlin"


def test_a_row_with_a_list_is_a_series(tmp_path: Path) -> None:
    table = pa.table(
        {
            "store": pa.array([7, 8]),
            "start": pa.array([datetime(2024, 1, 1)] * 2),
            "freq": ["D", "D"],
            "target": pa.array([[1.0, 2.0, None, 4.0], [5.0, 6.0]]),
        }
    )
    pq.write_table(table, tmp_path / "lists.parquet")
    first, second = read(tmp_path / "lists.parquet", id=("store",)).series
    assert (first.id, second.id, first.freq, second.season) == ("7", "8", "D", 7)
    np.testing.assert_array_equal(first.values[:, 0], [1, 2, nan, 4])
    assert second.times is not None
    assert second.times[-1] == pd.Timestamp("2024-01-02")


def test_of_a_spreadsheet_the_first_sheet_with_rows_is_read_and_the_others_are_said(tmp_path: Path) -> None:
    with pd.ExcelWriter(tmp_path / "book.xlsx") as book:
        pd.DataFrame().to_excel(book, sheet_name="empty")
        pd.DataFrame({"ds": [date(2024, 1, day) for day in (1, 2, 3)], "y": [1.5, None, 3]}).to_excel(
            book, sheet_name="sales", index=False, startrow=3
        )
        pd.DataFrame({"x": [1, 2]}).to_excel(book, sheet_name="more", index=False)
    reading = read(tmp_path / "book.xlsx")
    assert [series.id for series in reading.series] == ["y"]
    np.testing.assert_array_equal(reading.series[0].values[:, 0], [1.5, nan, 3])
    assert any("sheet 'sales' is read; not 'more'" in note for note in reading.reports[0].notes)
    assert [series.id for series in read(tmp_path / "book.xlsx", sheet="more").series] == ["x"]
    with pytest.raises(DataError, match="no sheet 'no'; its sheets are 'empty', 'sales', 'more'"):
        read(tmp_path / "book.xlsx", sheet="no")


@pytest.mark.parametrize(
    ("name", "content", "target", "features", "message"),
    [
        ("a.csv", "x,y\na,b\n", None, [], "no column of numbers"),
        ("a.csv", "", None, [], "the file is empty"),
        ("a.csv", "x\n", None, [], "no rows"),
        ("a.csv", WIDE, "c", [], "no column 'c'; its columns are 'date', 'a', 'b', 'note'"),
        ("a.csv", WIDE, "note", [], "column 'note' holds text, 'x' in line 2"),
        ("a.csv", WIDE, "a", ["note"], "--categorical note makes a category of each text"),
        ("a.csv", "x\ninf\n1\n", None, [], "infinity"),
        ("a.csv", "x,z\n1,\n1,\n", "z", [], "no value at all"),
        ("a.csv", "unique_id,ds,y\nu,1,1\nu,2,2\nu,1,3\n", None, [], "the time 1 is in line 2 and line 4"),
        ("a.csv", WIDE + "2024-02-01,3,4,v\n", None, [], "the time 2024-02-01 is in line 3 and line 6"),
        ("a.csv", WIDE + "2024-02-01,3,4,v\n", "a", ["b"], "the time 2024-02-01 is in line 3 and line 6"),
        ("a.csv", "ds,y\n2024-01-01,1\n2024-01-03,2\n2024-02-09,3\n", None, [], "frequency"),
        ("a.csv", "ds,y\n2024-01-01,1\n2024-13-01,2\n2024-03-01,3\n", None, [], "'2024-13-01' in line 3 is no date"),
        ("a.csv", "unique_id,ds,y\nu,2024-01-01,1\n,2024-01-02,2\n", None, [], "line 3 names no series"),
        ("a.csv", "ds,y\n2024-01-01,1\n,2\n2024-01-03,3\n", None, [], "line 3 has no time in column 'ds'"),
        ("a.parquet", "not parquet", None, [], "not readable as Parquet"),
        ("a.parquet", "PAR1 not parquet", None, [], "not readable as Parquet"),
        ("a.jsonl", '{"values":["x"]}', None, [], "line 1: needs `values`"),
        ("a.jsonl", "nonsense", None, [], "line 1"),
        ("a.json", "[1, 2", None, [], "not readable as JSON"),
        ("a.gz", b"\x1f\x8bnonsense", None, [], "not readable"),
        ("a.zst", b"\x28\xb5\x2f\xfdnonsense", None, [], "not readable"),
        ("a.xlsx", b"PK\x03\x04nonsense", None, [], "not readable"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 64, None, [], "save it as .xlsx or CSV"),
        ("a.csv", "<!DOCTYPE html><html></html>", None, [], "it is a web page"),
        ("a.pdf", b"%PDF-1.7 \0", None, [], "it is a PDF"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: str | bytes, target: str | None, features: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_series([write(tmp_path, name, content)], target, features)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        with pytest.raises(DataError, match="no such file"):
            read_series([tmp_path / name])
    with pytest.raises(DataError, match="is a folder"):
        read_series([tmp_path])


def test_a_zip_file_of_several_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        file.writestr("a.csv", "y\n1\n")
        file.writestr("b.csv", "y\n1\n")
    with pytest.raises(DataError, match=r"holds 2 files \(a.csv, b.csv\)"):
        read(tmp_path / "two.zip")


def test_one_bad_series_does_not_end_the_others_and_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"a,2024-01-{day:02},{day % 7}" for day in range(1, 25)]
    rows += ["b,2024-01-01,", "b,2024-01-02,", "c,2024-01-01,1", "c,2024-02-09,2", "c,2024-07-20,3"]
    rows += ["d,2024-01-01,1", "d,2024-01-02,oops", "e,2024-01-01,1", "e,2024-01-01,2", "f,2024-01-01,inf"]
    path = write(tmp_path, "l.csv", "unique_id,ds,y\n" + "\n".join(rows) + "\n")
    reading = read(path)
    assert [series.id for series in reading.series] == ["a"]
    reasons = {failure.id: failure.reason for failure in reading.failures}
    assert reasons.keys() == {"b", "c", "d", "e", "f"}
    assert "no value at all" in reasons["b"]
    assert "frequency" in reasons["c"]
    assert "'oops' in line 32 is no number" in reasons["d"]
    assert "the time 2024-01-01 is in line 33 and line 34, with different values" in reasons["e"]
    assert "infinity" in reasons["f"]
    series, _ = read_series([path])
    assert [one.id for one in series] == ["a"]
    assert "d: 'oops' in line 32" in caplog.text


def test_categories_stay_as_the_file_has_them(tmp_path: Path) -> None:
    path = write(tmp_path, "p.csv", "date,y,promo\n2024-01-01,1,1\n2024-01-02,2,\n2024-01-03,3,2\n2024-01-04,4,01\n")
    categories = find_categories([path], ["promo"])
    assert categories == {"promo": ("01", "1", "2")}
    [series], _ = read_series([path], "y", ["promo"], categories)
    np.testing.assert_array_equal(series.values[:, 1], [1, nan, 2, 0])
    pd.DataFrame({"date": pd.date_range("2024-01-01", periods=3), "y": [1, 2, 3], "promo": [1, None, 2]}).to_parquet(
        tmp_path / "p.parquet"
    )
    assert find_categories([tmp_path / "p.parquet"], ["promo"]) == {"promo": ("1", "2")}


def test_an_unknown_category_is_missing_and_said(tmp_path: Path) -> None:
    path = write(tmp_path, "p.csv", "date,y,promo\n2024-01-01,1,a\n2024-01-02,2,zz\n2024-01-03,3,b\n")
    reading = read(path, target="y", features=("promo",), categories={"promo": ("a", "b")})
    np.testing.assert_array_equal(reading.series[0].values[:, 1], [0, nan, 1])
    assert any("'zz' is no category of it" in note for note in reading.reports[0].notes)


IDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters='"#'), min_size=1, max_size=6
)
NUMBERS = st.integers(-9_000, 9_000).map(lambda cents: cents / 100)  # no marks of missing values


@st.composite
def panels(draw: st.DrawFn) -> pd.DataFrame:
    """Some series of unequal lengths, with missing values but for the last."""
    ids = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    freq = draw(st.sampled_from(["D", "MS", "h", "YS", "W-MON"]))
    parts = []
    for id in ids:
        size = draw(st.integers(4, 12))
        cells = draw(st.lists(st.none() | NUMBERS, min_size=size - 1, max_size=size - 1))
        times = pd.date_range(draw(st.sampled_from(["2024-01-01", "2001-01-01"])), periods=size, freq=freq)
        parts.append(pd.DataFrame({"unique_id": id, "ds": times, "y": [*cells, draw(NUMBERS)]}))
    return pd.concat(parts, ignore_index=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    panel=panels(),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    comma=st.booleans(),
    missing=st.sampled_from(["", "NA", "-", "n.a."]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    above=st.sampled_from(["", "A title\n\n", "# a comment\n"]),
    shuffled=st.booleans(),
)
def test_a_panel_is_read_back_from_any_dialect(
    tmp_path: Path,
    panel: pd.DataFrame,
    delimiter: str,
    comma: bool,
    missing: str,
    encoding: str,
    above: str,
    shuffled: bool,
) -> None:
    written = panel.sample(frac=1, random_state=1) if shuffled else panel
    cells = written["y"].map(lambda y: missing if np.isnan(y) else f"{y:.2f}".replace(".", "," if comma else "."))
    text = written.assign(y=cells).to_csv(sep=delimiter, index=False, quoting=1 if comma and delimiter == "," else 0)
    path = write(tmp_path, "panel.csv", (above + text).encode(encoding))
    note(above + text)
    reading = read(path)
    assert not reading.failures
    assert {series.id for series in reading.series} == set(panel["unique_id"])
    for series in reading.series:
        expected = panel[panel["unique_id"] == series.id]
        np.testing.assert_array_equal(series.values[:, 0], expected["y"])
        assert series.times is not None
        assert series.times.tolist() == expected["ds"].tolist()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(panel=panels(), layout=st.sampled_from(["parquet", "json", "series", "lists", "rows"]))
def test_a_panel_is_read_back_from_any_layout(tmp_path: Path, panel: pd.DataFrame, layout: str) -> None:
    groups = dict(tuple(panel.groupby("unique_id", sort=False)))
    match layout:
        case "parquet":
            path = tmp_path / "p.parquet"
            panel.to_parquet(path)
        case "json":
            path = write(tmp_path, "p.json", panel.to_json(orient="records", date_format="iso"))
        case "series":
            lines = [
                {"item_id": id, "timestamps": part["ds"].astype(str).tolist(), "target": part["y"].tolist()}
                for id, part in groups.items()
            ]
            path = write(tmp_path, "p.jsonl", "\n".join(json.dumps(line) for line in lines))
        case "lists":
            path = tmp_path / "lists.parquet"
            columns = {name: [part[name].tolist() for part in groups.values()] for name in ("ds", "y")}
            pq.write_table(pa.table({"unique_id": list(groups), **columns}), path)
        case _:
            path = tmp_path / "rows.csv"
            assume(panel["ds"].dt.year.max() - panel["ds"].dt.year.min() < 13)  # one range of columns
            wide = panel.assign(ds=panel["ds"].astype(str)).pivot(index="unique_id", columns="ds", values="y")
            wide.rename_axis("page").to_csv(path)
    reading = read(path)
    assert not reading.failures
    assert {series.id for series in reading.series} == set(panel["unique_id"])
    for series in reading.series:
        expected = groups[series.id]
        if layout == "rows":  # cells before the first value are no values
            expected = expected[expected["y"].notna().cummax()]
        np.testing.assert_array_equal(series.values[:, 0], expected["y"])
        assert series.times is not None
        assert series.times.tolist() == expected["ds"].tolist()


def test_memory_is_a_small_multiple_of_the_file(tmp_path: Path) -> None:
    """A file of 25 MB is read with less than 250 MB more than the libraries take."""
    rows = 1_000_000
    table = pa.table(
        {
            "unique_id": np.repeat([f"s{i:05}" for i in range(rows // 500)], 500),
            "ds": np.tile(pd.date_range("2020-01-01", periods=500).strftime("%Y-%m-%d"), rows // 500),
            "y": np.arange(rows) % 977 / 10,
        }
    )
    import pyarrow.csv

    pyarrow.csv.write_csv(table, tmp_path / "big.csv")
    code = (
        "import resource, sys; from pathlib import Path; from carry.files import ReadOptions, read_files\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024; before = used()\n"
        "assert len(read_files([Path(sys.argv[1])], ReadOptions()).series) == 2000; print(used() - before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.csv")], check=True, capture_output=True, text=True
    )
    assert int(run.stdout) < 250
