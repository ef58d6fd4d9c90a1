"""Tables in files of each format, as a stream of record batches."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.feather as feather
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from carry.arrow import sources
from carry.arrow.sources import open_source
from service.errors import CarryError

DAYS = np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]")
TABLE = pa.table(
    {
        "unique_id": ["007"] * 10 + ["NA"] * 10,
        "ds": np.tile(DAYS.astype("datetime64[us]"), 2),
        "y": [float(i) for i in range(19)] + [None],
        "other": ["x"] * 20,
    }
)
COLUMNS = ["unique_id", "ds", "y"]


def as_json_lines(path: Path) -> None:
    rows = [{**row, "ds": row["ds"].isoformat()} for row in TABLE.to_pylist()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_csv(delimiter: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pa_csv.write_csv(TABLE, path, pa_csv.WriteOptions(delimiter=delimiter, quoting_style="none"))

    return write


def as_gzip(path: Path) -> None:
    plain = path.with_suffix("")
    as_csv(",")(plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def as_arrow(path: Path) -> None:
    with pa.ipc.new_file(path, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=7)


WRITERS: dict[str, Callable[[Path], object]] = {
    "in.parquet": lambda path: pq.write_table(TABLE, path, row_group_size=7),
    "in.feather": lambda path: feather.write_feather(TABLE, path),
    "in.arrow": as_arrow,
    "in.orc": lambda path: orc.write_table(TABLE, path),
    "in.csv": as_csv(","),
    "IN.CSV": as_csv(";"),
    "in.tsv": as_csv("\t"),
    "in.csv.gz": as_gzip,
    "in.jsonl": as_json_lines,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_each_format_is_the_same_table(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BATCH_ROWS", 6)
    path = tmp_path / name
    WRITERS[name](path)
    source = open_source(path, "unique_id", "y")
    batches = [*source.batches(COLUMNS)]
    assert max(map(len, batches)) <= 6
    table = pa.Table.from_batches(batches)
    assert table["unique_id"].to_pylist() == TABLE["unique_id"].to_pylist()
    assert table["y"].to_pylist() == TABLE["y"].to_pylist()
    assert table["ds"].cast(pa.timestamp("us")).to_pylist() == TABLE["ds"].to_pylist()
    assert len(source.sha256) == 64


def test_the_files_of_a_folder_come_by_name_with_one_type_for_all(tmp_path: Path) -> None:
    pq.write_table(TABLE.slice(10), tmp_path / "b.parquet")
    coarser = TABLE.slice(0, 10).set_column(1, "ds", TABLE["ds"].slice(0, 10).cast(pa.timestamp("ms")))
    pq.write_table(coarser, tmp_path / "a.parquet")
    (tmp_path / "_SUCCESS").touch()
    source = open_source(tmp_path, "unique_id", "y")
    table = pa.Table.from_batches(source.batches(COLUMNS))
    assert table["y"].to_pylist() == TABLE["y"].to_pylist()
    assert table["ds"].to_pylist() == TABLE["ds"].to_pylist()
    assert source.rows == 20
    assert [file.path for file in source.files] == ["a.parquet", "b.parquet"]


def test_files_of_several_formats_are_refused(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    as_csv(",")(tmp_path / "b.csv")
    with pytest.raises(CarryError, match="must be of one format"):
        open_source(tmp_path, "unique_id", "y")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CarryError, match="holds no files"):
        open_source(tmp_path, "unique_id", "y")
