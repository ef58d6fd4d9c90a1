"""Labelled sequences: what of files is read, what is refused and why, and how they are split by class."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carry.files import DataError
from training.data.labelled import Labelled, class_names, read_labelled, split_by_class

LONG = "id,ds,speed,height,kind\na,1,1.5,9,run\na,2,2.5,8,run\nb,1,3,7,walk\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """A file of this content."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lists(data: Labelled) -> list[Any]:
    """The sequences as lists, None where a value is missing."""
    if data.is_text:
        return data.sequences
    return [[[None if np.isnan(x) else x for x in step] for step in series] for series in data.sequences]


def test_a_long_table_has_a_series_for_each_id(tmp_path: Path) -> None:
    """Times are no feature; rows of an id need not be neighbours; a column may be chosen."""
    path = write(tmp_path, "long.csv", LONG)
    data = read_labelled([path], "kind", "id")
    assert (data.labels, data.features) == (["run", "walk"], ("speed", "height"))
    assert lists(data) == [[[1.5, 9], [2.5, 8]], [[3, 7]]]
    assert lists(read_labelled([path], "kind", "id", ["height"])) == [[[9], [8]], [[7]]]
    rows = LONG.splitlines()
    mixed = write(tmp_path, "mixed.csv", "\n".join([rows[0], rows[1], rows[3], rows[2]]))
    assert lists(read_labelled([mixed], "kind", "id")) == lists(data)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("comma.csv", "kind,0,1,2\nup,1,2.5,3\ndown,3,,\n"),
        ("tabs.tsv", "kind\t0\t1\t2\nup\t1\t2.5\t3\ndown\t3\t\t\n"),
        ("semicolons.csv", "kind;0;1;2\nup;1;2,5;3\ndown;3;;\n"),
        ("mark.csv", "\ufeffkind,0,1,2\nup,1,2.5,3\ndown,3,,\n"),
        ("windows.csv", "kind,0,1,2\r\nup,1,2.5,3\r\ndown,3,,\r\n"),
        ("wide.csv", "kind,0,1,2\nup,1,2.5,3\ndown,3,,\n".encode("utf-16")),
        ("wide.csv.gz", gzip.compress(b"kind,0,1,2\nup,1,2.5,3\ndown,3,,\n")),
        ("lines.jsonl", '{"kind":"up","series":[1,2.5,3]}\n\n{"kind":"down","series":[3]}\n'),
        ("lines.jsonl.gz", gzip.compress(b'{"kind":"up","values":[1,2.5,3]}\n{"kind":"down","values":[3]}')),
        ("array.json", '\ufeff[{"kind":"up","target":[1,2.5,3]},{"kind":"down","target":[3]}]'),
        ("steps.json", '[{"kind":"up","series":[[1],[2.5],[3]]},{"kind":"down","series":[[3]]}]'),
    ],
)
def test_a_series_a_row_is_read_from_any_format(tmp_path: Path, name: str, content: str | bytes) -> None:
    """Empty cells at the end are no steps."""
    data = read_labelled([write(tmp_path, name, content)], "kind")
    assert (data.labels, lists(data)) == (["up", "down"], [[[1], [2.5], [3]], [[3]]])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.csv", 'kind,text\ngood,"A fine, long day"\nbad,Rain\n'),
        ("other.csv", "words;kind\nA fine, long day;good\nRain;bad\n"),
        ("more.csv", 'page,kind,text\n1,good,"A fine, long day"\n2,bad,Rain\n'),
        ("lines.jsonl", '{"kind":"good","sentence":"A fine, long day"}\n{"kind":"bad","text":"Rain"}'),
    ],
)
def test_a_text_a_row_is_read_from_any_format(tmp_path: Path, name: str, content: str) -> None:
    """Beside other columns, the one named `text` is it."""
    data = read_labelled([write(tmp_path, name, content)], "kind")
    assert (data.labels, data.sequences, data.features) == (["good", "bad"], ["A fine, long day", "Rain"], ())


def test_features_name_the_columns_of_steps_or_the_one_of_texts(tmp_path: Path) -> None:
    """Where others are in the table."""
    path = write(tmp_path, "many.csv", "who,kind,0,1,note\nann,up,1,2,a\nbob,down,3,4,b\n")
    assert lists(read_labelled([path], "kind", None, ["1", "0"])) == [[[2], [1]], [[4], [3]]]
    assert read_labelled([path], "kind", None, ["who"]).sequences == ["ann", "bob"]


def test_a_folder_has_a_folder_for_each_class(tmp_path: Path) -> None:
    """Of texts in any encoding; hidden files and folders are no classes."""
    texts = tmp_path / "texts"
    write(texts, "good/a.txt", "\ufeffÜber")
    write(texts, "good/b.TXT", "Über".encode("utf-16"))
    write(texts, "bad/c.txt", "Über".encode("latin-1"))
    write(texts, "bad/.DS_Store", b"\0\1")
    write(texts, ".git/config", "[core]")
    write(texts, "README", "a note")
    data = read_labelled([texts], "label")
    assert (data.labels, data.sequences) == (["bad", "good", "good"], ["Über"] * 3)
    series = tmp_path / "series"
    write(series, "run/1.csv", "speed,height\n1,2\n3,4\n")
    write(series, "walk/2.csv", "height,speed\n2,1\n")
    data = read_labelled([series], "label")
    assert (data.labels, data.features, lists(data)) == (
        ["run", "walk"],
        ("speed", "height"),
        [[[1, 2], [3, 4]], [[1, 2]]],
    )


def test_objects_of_features_may_have_any_order(tmp_path: Path) -> None:
    """JSON's objects have none; gaps are null."""
    lines = [{"kind": 1, "series": {"x": [1, None], "y": [3, 4]}}, {"kind": 2, "series": {"y": [3], "x": [1]}}]
    path = write(tmp_path, "lines.jsonl", "\n".join(map(json.dumps, lines)))
    data = read_labelled([path], "kind")
    assert (data.features, lists(data)) == (("x", "y"), [[[1, 3], [None, 4]], [[1, 3]]])


def test_labels_may_be_numbers_and_truth_values(tmp_path: Path) -> None:
    """1.0 of a column of numbers is 1, but no two numbers become one; classes are in the order of numbers."""
    lines = [{"kind": kind, "text": "a"} for kind in (True, False, 10, 9, 2.5, 1234567, 1234568, "x ")]
    path = write(tmp_path, "lines.jsonl", "\n".join(map(json.dumps, lines)))
    assert read_labelled([path], "kind").labels == ["true", "false", "10", "9", "2.5", "1234567", "1234568", "x"]
    table = pa.table({"kind": [10.0, 9.0, None, 1234567.0], "text": ["a", "b", "c", "d"]})
    pq.write_table(table, tmp_path / "typed.parquet")
    data = read_labelled([tmp_path / "typed.parquet"], "kind")
    assert data.labels == ["10", "9", "1234567"]
    assert class_names(data) == ("9", "10", "1234567")
    assert class_names(Labelled(["b", "-", "10", "--1"], ["", "", "", ""])) == ("-", "--1", "10", "b")


def test_what_has_no_label_or_nothing_to_read_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By its count."""
    content = "kind,text\n,a\ngood,b\nbad,\nbad,c\n"
    caplog.set_level("INFO", "training")
    assert read_labelled([write(tmp_path, "texts.csv", content)], "kind").sequences == ["b", "c"]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "1 sequence without a label left out",
        "1 sequence without a character left out",
    ]
    lines = '{"kind":"a","series":[null]}\n{"kind":null,"series":[1]}\n{"kind":"b","series":[null,1]}'
    assert read_labelled([write(tmp_path, "lines.jsonl", lines)], "kind").labels == ["b"]


def test_files_are_read_as_one_if_they_hold_the_same(tmp_path: Path) -> None:
    """Columns by their names; an empty part does not matter."""
    one = write(tmp_path, "one.csv", LONG)
    two = write(tmp_path, "two.csv", "kind,height,id,speed\nrun,7,a,1\n")
    empty = write(tmp_path, "empty.csv", "id,speed,height,kind\na,1,2,\n")
    data = read_labelled([empty, one, two], "kind", "id")
    assert (data.labels, lists(data)[-1]) == (["run", "walk", "run"], [[1, 7]])
    other = write(tmp_path, "other.csv", "id,speed,kind\na,1,run\n")
    with pytest.raises(DataError, match=r"other\.csv: holds series of 'speed'; needed are series of 'speed', 'height'"):
        read_labelled([one, other], "kind", "id")


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", LONG, {"label": "class"}, "no column 'class'; its columns are 'id', 'ds', 'speed', 'height', 'kind'"),
        ("a.csv", LONG, {"id": "who"}, "no column 'who'; its columns are"),
        ("a.csv", LONG, {"features": ["width"]}, "no column 'width'; its columns are"),
        ("a.csv", LONG.replace("2.5,8,run", "2.5,8,walk"), {"id": "id"}, "series 'a' has the labels 'run', 'walk'"),
        ("a.csv", "kind,who,0\nup,ann,1\ndown,bob,2\n", {}, "line 2: 'ann' in the column 'who' is no number"),
        ("a.csv", "id,kind,speed\na,up,1\na,up,fast\n", {"id": "id", "features": ["speed"]}, "line 3: 'fast'"),
        ("a.csv", "id,kind,note\na,up,x\nb,up,y\n", {"id": "id"}, "needs columns of numbers, or a column of text"),
        ("a.csv", "kind\nup\n", {}, "needs columns of numbers, or a column of text"),
        ("a.csv", "", {}, "the file is empty"),
        ("a.csv", "kind,text\n,a\n", {}, "no labelled sequence"),
        ("a.jsonl", '{"series":[1]}', {}, "no field 'kind'; its fields are 'series'"),
        ("a.jsonl", '{"kind":"a","series":[1]}\n{"kind":', {}, "line 2: not readable as JSON"),
        ("a.jsonl", '{"kind":"a","series":[1]}\n[1]', {}, "line 2: must be an object"),
        ("a.jsonl", '{"kind":["a"],"series":[1]}', {}, "line 1: 'kind' must be a text or a number"),
        ("a.jsonl", '{"kind":"a","series":[[1,2],[3]]}', {}, "line 1: needs `text`, or `series`"),
        ("a.jsonl", '{"kind":"a","series":["x"]}', {}, "line 1: needs `text`, or `series`"),
        ("a.jsonl", '{"kind":"a","series":5}', {}, "line 1: needs `text`, or `series`"),
        ("a.jsonl", '{"kind":"a","series":{"x":[1],"y":[1,2]}}', {}, "'x', 'y' have lists of different lengths"),
        ("a.jsonl", '{"kind":"a","series":[1]}\n{"kind":"b","text":"c"}', {}, "line 2: holds texts; needed are series"),
        ("a.jsonl", '{"kind":"a","series":[[1,2]]}\n{"kind":"b","series":[1]}', {}, "line 2: holds series of 'value'"),
        ("a.txt", "\x00\x01\x02\x03 binary \x00", {}, "not a file of text"),
    ],
)
def test_a_faulty_file_is_refused_with_its_reason(
    tmp_path: Path, name: str, content: str, options: dict[str, Any], message: str
) -> None:
    """And with its name."""
    path = write(tmp_path, name, content)
    with pytest.raises(DataError) as error:
        read_labelled([path], **{"label": "kind", **options})
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "needs a folder of files for each class"),
        (["a.txt"], "needs a folder of files for each class"),
        (["x/.hidden"], "the folders of its classes have no files"),
        (["x/a.txt", "y/b.csv"], "b.csv: holds series of 'n'; needed are texts"),
    ],
)
def test_a_faulty_folder_is_refused_with_its_reason(tmp_path: Path, files: list[str], message: str) -> None:
    """It has another form than is read."""
    for name in files:
        write(tmp_path, name, "n\n1\n" if name.endswith(".csv") else "a text")
    with pytest.raises(DataError, match=message):
        read_labelled([tmp_path], "label")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """As a table, and as JSON lines."""
    for name in ("none.csv", "none.jsonl"):
        with pytest.raises(DataError, match=f"{name}: no such file"):
            read_labelled([tmp_path / name], "label")


def test_one_class_or_very_many_are_refused() -> None:
    """A thousand can be told apart."""
    with pytest.raises(DataError, match="the labels are 1: 'a'"):
        class_names(Labelled(["a", "a"], ["x", "y"]))
    names = [f"class {i}" for i in range(1001)]
    assert len(class_names(Labelled(names[1:], names[1:]))) == 1000
    with pytest.raises(DataError, match=r"the labels are 1001: 'class 0', .* and 981 more"):
        class_names(Labelled(names, names))


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    valid=st.sampled_from([0.0, 0.1, 0.15, 0.5]),
    test=st.sampled_from([0.0, 0.2, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_split_is_stratified(sizes: list[int], valid: float, test: float, seed: int) -> None:
    """Each sequence is in one part; each class is in each part by its share of all, at least once if it can be, and in
    the training part at least once; the same seed splits alike."""
    labels = [f"c{i}" for i, size in enumerate(sizes) for _ in range(size)]
    data = Labelled(labels, [f"{name} {i}" for i, name in enumerate(labels)])
    parts = split_by_class(data, [valid, test], seed)
    assert sorted(text for part in parts for text in part.sequences) == sorted(data.sequences)
    counts = [Counter(part.labels) for part in parts]
    for i, size in enumerate(sizes):
        in_valid, in_test, in_train = (count[f"c{i}"] for count in counts)
        assert in_train >= 1
        for share, count in ((valid, in_valid), (test, in_test)):
            assert count <= max(1, round(share * size)) * (share > 0)
        if size >= (valid > 0) + (test > 0) + 1 and valid + test <= 0.7:
            assert (in_valid >= 1, in_test >= 1) == (valid > 0, test > 0)
        if size >= 4 and valid + test <= 0.7:
            assert (in_valid, in_test) == tuple(max(1, round(s * size)) if s else 0 for s in (valid, test))
    assert split_by_class(data, [valid, test], seed) == parts
    for part in parts:
        assert all(text.startswith(f"{name} ") for name, text in zip(part.labels, part.sequences, strict=True))
