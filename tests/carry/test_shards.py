"""Tables of any size into a folder of Parquet files: complete, never twice, whatever kills it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from carry.arrow import shards
from carry.arrow.shards import Shard, run
from carry.batch import BatchOptions, forecast_table
from service.errors import CarryError
from service.manifest import sha256_of
from tests.conftest import SHIPPED, Run

OPTIONS = BatchOptions(3, models_dir=SHIPPED)
MONTHS = np.arange("2015-01", "2018-01", dtype="datetime64[M]").astype("datetime64[us]")


def table_of(ids: list[str], seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    y = np.concatenate([100 + np.cumsum(rng.normal(size=len(MONTHS))) for _ in ids]).round(3)
    return pa.table({"unique_id": np.repeat(ids, len(MONTHS)), "ds": np.tile(MONTHS, len(ids)), "y": y})


IDS = [f"{i:03}" for i in range(20)]
TABLE = table_of(IDS)


@cache
def expected() -> pa.Table:
    """The forecasts of TABLE."""
    return forecast_table(TABLE, OPTIONS)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK_SERIES", 6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(TABLE, path, row_group_size=100)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table, and the folder of its forecasts."""
    folder = tmp_path_factory.mktemp("finished")
    pq.write_table(TABLE, folder / "in.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BLOCK_SERIES", 6)
        report = run(folder / "in.parquet", folder / "out", OPTIONS, processes=2)
    assert (report.counts.series, report.counts.values, report.parts, report.resumed) == (20, 720, 4, 0)
    assert report.complete
    return folder / "in.parquet", folder / "out"


def forecasts_in(out: Path) -> pa.Table:
    """As a person reads the folder."""
    table: pa.Table = ds.dataset(out, format="parquet").to_table()
    return table


def test_a_folder_has_the_forecasts_of_the_whole_table(finished: tuple[Path, Path]) -> None:
    table = forecasts_in(finished[1])
    assert table.replace_schema_metadata().equals(expected())


def test_each_part_names_the_model_its_version_and_the_hash_of_the_input(finished: tuple[Path, Path]) -> None:
    path, out = finished
    parts = sorted(out.glob("part-*.parquet"))
    assert [part.name for part in parts] == [f"part-{i:06}.parquet" for i in range(4)]
    for part in parts:
        about = json.loads(pq.read_schema(part).metadata[b"carry"])
        assert about["model"] == "forecast@2"
        assert about["input_sha256"] == sha256_of(path)
    manifest = json.loads((out / "_manifest.json").read_text())
    assert manifest["input"]["files"] == [
        {"path": "in.parquet", "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    ]
    assert manifest["options"]["panel_freq"] == "MS"


def test_a_finished_run_does_nothing_again(finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = finished
    monkeypatch.setattr(shards._Workers, "submit", None)
    report = run(path, out, OPTIONS)
    assert (report.counts.series, report.parts, report.resumed) == (20, 4, 4)
    assert report.lines() == ["20 series of 720 values, MS, 4 parts; all were there already"]


def test_a_part_that_was_removed_is_made_again(finished: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    (out / "part-000002.parquet").unlink()
    assert run(path, out, OPTIONS).resumed == 3
    assert forecasts_in(out).replace_schema_metadata().equals(expected())


@pytest.mark.parametrize(
    ("changes", "shard", "reason"),
    [
        ({"horizon": 4}, Shard(), "forecasts with another horizon: 3, not 4"),
        ({"levels": (50.0,)}, Shard(), "forecasts with another levels"),
        ({"season_length": (12,)}, Shard(), "forecasts with another season_length: None"),
        ({}, Shard(1, 2), "forecasts with another number of shards: 1, not 2"),
    ],
)
def test_a_run_with_other_options_is_refused(
    finished: tuple[Path, Path], changes: dict[str, Any], shard: Shard, reason: str
) -> None:
    with pytest.raises(CarryError, match=reason):
        run(*finished, replace(OPTIONS, **changes), shard)


def test_a_run_on_another_table_is_refused(finished: tuple[Path, Path], tmp_path: Path) -> None:
    pq.write_table(table_of(IDS, seed=1), tmp_path / "in.parquet")
    with pytest.raises(CarryError, match=r"another input \(by its sha256\)"):
        run(tmp_path / "in.parquet", finished[1], OPTIONS)


KILLED = """
import sys
from pathlib import Path
from carry.arrow import shards
from carry.batch import BatchOptions
if __name__ == "__main__":
    path, out, models = map(Path, sys.argv[1:])
    shards.BLOCK_SERIES, shards.PROGRESS_SECONDS = 1, (0.0, 0.0)
    shards.run(path, out, BatchOptions(3, models_dir=models), processes=2, stream=sys.stderr)
"""


def test_a_run_that_is_killed_goes_on_and_makes_no_part_twice(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, out = tmp_path / "killed.py", tmp_path / "out"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(file), str(out), str(SHIPPED)]
    root = str(SHIPPED.parent)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})
    assert process.stderr is not None
    for line in process.stderr:
        if not line.startswith("carry: 0 series"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (out / ".part-000019-1").write_bytes(b"half a part")
    made = {part: part.stat().st_ino for part in out.glob("part-*.parquet")}
    assert 1 <= len(made) < 20
    monkeypatch.setattr(shards, "BLOCK_SERIES", 1)
    report = run(file, out, OPTIONS, processes=2)
    assert (report.counts.series, report.parts) == (20, 20)
    assert report.resumed >= len(made)  # a worker may have ended its part
    assert {part: part.stat().st_ino for part in made} == made
    assert not [*out.glob(".part*")]
    assert forecasts_in(out).replace_schema_metadata().equals(expected())


def test_shards_divide_the_series_and_an_id_is_always_in_the_same_one(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    reports = [run(file, out, OPTIONS, Shard(index, 3)) for index in (1, 2, 3)]
    assert sum(report.counts.series for report in reports) == 20
    assert max(report.counts.series for report in reports) < 15
    by_id = [("unique_id", "ascending"), ("ds", "ascending")]
    assert forecasts_in(out).replace_schema_metadata().sort_by(by_id).equals(expected().sort_by(by_id))
    assert {path.name.rpartition("-")[0] for path in out.glob("part*")} == {f"part-{i}-of-3" for i in (1, 2, 3)}
    ids = pa.array(IDS)
    masks = [shards._Ids(Shard(index, 3), rows_each=True).keep(ids) for index in (1, 2, 3)]
    assert (np.sum(masks, axis=0) == 1).all()
    reversed_mask = shards._Ids(Shard(1, 3), rows_each=True).keep(ids.take(pa.array(range(19, -1, -1))))
    np.testing.assert_array_equal(reversed_mask[::-1], masks[0])


def test_shards_are_counted_from_one() -> None:
    assert Shard.parse("3/64") == Shard(3, 64)
    assert Shard(3, 64).label == "-03-of-64"
    for text in ("0/4", "5/4", "1", "a/b", "1/", "-1/3"):
        with pytest.raises(ValueError, match="3/64"):
            Shard.parse(text)


def test_csv_keeps_its_ids_and_a_folder_of_files_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(2):
        part = TABLE.slice(10 * i * len(MONTHS), 10 * len(MONTHS))
        options = pa_csv.WriteOptions(delimiter=";")
        pa_csv.write_csv(part.set_column(1, "ds", part["ds"].cast(pa.date32())), folder / f"{i}.csv", options)
    report = run(folder, tmp_path / "out", OPTIONS)
    assert report.complete
    table = forecasts_in(tmp_path / "out")
    assert table["unique_id"].to_pylist() == [id for id in IDS for _ in range(3)]
    assert table["ds"].type == pa.date32()
    assert table["median"].equals(expected()["median"])


def test_what_cannot_be_forecast_is_listed(carry: Run, tmp_path: Path) -> None:
    empty = pa.table({"unique_id": ["no", "no"], "ds": MONTHS[:2], "y": pa.array([None, None], pa.float64())})
    with_gap = TABLE.slice(0, 2 * len(MONTHS)).take([i for i in range(2 * len(MONTHS)) if i != 5])
    table = pa.concat_tables([with_gap, empty])
    pq.write_table(table.append_column("price", table["y"]), tmp_path / "in.parquet")
    command = ["forecast", str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out"), "--models-dir", str(SHIPPED)]
    status, out, err = carry(*command, "--horizon", "3", "--levels", "50", "--freq", "MS", "--shard", "1/1")
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith("3 series of 73 values, MS, 1 part in ")
    assert lines[1:] == [
        "not used: the columns price",
        "missing values: 2",
        "times without a row: 1, in 1 series; they are missing values",
        "1 series cannot be forecast; the column `error` of the output says why:",
        "  no: holds no number, only missing values; at least one value is needed",
    ]
    assert forecasts_in(tmp_path / "out").schema.names == ["unique_id", "ds", "median", "lo-50", "hi-50", "error"]


def test_series_whose_rows_stand_apart_are_reported(tmp_path: Path) -> None:
    rows = len(MONTHS)
    apart = pa.concat_tables([TABLE.slice(0, rows // 2), TABLE.slice(rows, rows), TABLE.slice(rows // 2, rows // 2)])
    pq.write_table(apart, tmp_path / "in.parquet")
    report = run(tmp_path / "in.parquet", tmp_path / "out", OPTIONS)
    assert (report.scattered, report.complete) == (1, False)
    assert "1 series do not have all their rows together" in report.lines()[1]


def test_a_table_without_rows_gives_a_folder_with_its_columns(tmp_path: Path) -> None:
    pq.write_table(TABLE.slice(0, 0), tmp_path / "in.parquet")
    assert run(tmp_path / "in.parquet", tmp_path / "out", OPTIONS).counts.series == 0
    assert forecasts_in(tmp_path / "out").schema.names == expected().schema.names


def _break(name: str, path: Path) -> None:
    match name:
        case "damaged":
            path.write_bytes(b"PAR1 and then nothing of the kind")
        case "other columns":
            pq.write_table(pa.table({"id": [1]}), path)
        case "cells":
            path.write_text("unique_id,ds,y\na,2024-01-01,1\na,2024-01-02,two\n")
        case _:
            pq.write_table(TABLE, path)


@pytest.mark.parametrize(
    ("name", "file_name", "reason"),
    [
        ("damaged", "in.parquet", "cannot be read"),
        ("other columns", "in.parquet", "needs one column unique_id; the table has: id"),
        ("cells", "in.csv", "cannot be read: .*'two'"),
        ("kind", "in.xlsx", "accepted are .parquet"),
    ],
)
def test_a_file_that_is_no_table_of_series_is_refused(tmp_path: Path, name: str, file_name: str, reason: str) -> None:
    _break(name, tmp_path / file_name)
    with pytest.raises(CarryError, match=reason):
        run(tmp_path / file_name, tmp_path / "out", OPTIONS)


def test_a_missing_file_and_a_folder_of_somebody_else_are_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(CarryError, match="no such file or folder"):
        run(tmp_path / "nowhere.parquet", tmp_path / "out", OPTIONS)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(CarryError, match=r"has other files in it, such as cat\.png"):
        run(file, tmp_path / "photos", OPTIONS)


def test_two_runs_of_a_shard_at_once_are_refused(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "out"
    shards._make_folder(out)
    with shards._lock(out, Shard()), pytest.raises(CarryError, match="another process is at this shard"):
        run(file, out, OPTIONS)


def _end(connection: Connection, writer: object) -> None:
    os._exit(3)


def test_a_worker_that_ends_ends_the_run(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_work", _end)
    with pytest.raises(CarryError, match="a worker ended with status 3; the parts that were written stay"):
        run(file, tmp_path / "out", OPTIONS)
