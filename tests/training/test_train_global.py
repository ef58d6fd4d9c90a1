"""`carry train global`, from files to a folder that is served, on a network too small to be good."""

import json
from pathlib import Path

import numpy as np
import pytest

from carry.files import DataError
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from tests.conftest import Run as Command
from training.loop import LoopConfig
from training.provenance import Run
from training.recipes.global_forecast import GlobalConfig, read_pool, train

CONFIG = GlobalConfig(cell="gru", hidden=8, layers=2, steps=2, synthetic=0.5)
LOOP = LoopConfig(epochs=1, learning_rate=1e-3, patience=1, average=0.9)


def a_run(folder: Path, name: str) -> Run:
    return Run(name, "made by a test", folder / "models", folder / "runs" / name, (), "carry train global", {})


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Series, one of which holds a segment of the benchmark's test part, in another unit; and the benchmark."""
    rng = np.random.default_rng(1)
    whole = 50 + rng.normal(size=(3, 60)).cumsum(axis=1)
    other = 50 + rng.normal(size=(2, 90)).cumsum(axis=1)
    other[1, 20:60] = 7 * whole[0, 20:60] + 3
    data, benchmark = tmp_path / "data.jsonl", tmp_path / "benchmark.jsonl"
    data.write_text("\n".join(json.dumps({"values": row.tolist(), "season": 12}) for row in other))
    records = [{"train": row[:48].tolist(), "test": row[48:].tolist(), "freq": "M", "season": 12} for row in whole]
    benchmark.write_text("\n".join(map(json.dumps, records)))
    return data, benchmark


def test_a_series_that_holds_values_of_a_test_part_is_left_out(files: tuple[Path, Path]) -> None:
    data, benchmark = files
    pool = read_pool([data], [benchmark])
    assert (len(pool.series), pool.dropped) == (1, 1)
    assert [len(each.values) for each in read_pool([data, benchmark], []).series] == [90, 48, 48, 48]
    with pytest.raises(DataError, match="no test part"):
        read_pool([benchmark], [data])


def test_a_measured_folder_is_written_and_another_run_starts_from_it(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, benchmark = files
    first = train([data], [benchmark], CONFIG, LOOP, a_run(tmp_path, "first"), None, baselines=False)
    assert first is not None
    manifest = read_manifest(first, ForecastManifest)
    assert manifest.longest_season == 371
    assert manifest.int8 is not None
    assert manifest.int8.loss is not None
    assert {"benchmark_M_mase", "benchmark_M_smape"} <= set(manifest.metrics)
    card = (first / "CARD.md").read_text()
    assert "1 real series" in card
    assert "SeasonalNaive" in card
    second = a_run(tmp_path, "second")
    assert train([data, benchmark], [], CONFIG, LOOP, second, tmp_path / "runs/first", baselines=False) is not None
    with pytest.raises(DataError, match="holds no run"):
        train([data], [], CONFIG, LOOP, a_run(tmp_path, "third"), tmp_path, baselines=False)


def test_the_command_in_the_provenance_names_no_folder_of_the_data(
    files: tuple[Path, Path], tmp_path: Path, carry: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, benchmark = map(str, files)
    small = ["--hidden", "8", "--steps", "1", "--epochs", "1", "--no-baselines"]
    tests = f"{benchmark},{benchmark}"
    status, _, err = carry("train", "global", data, "--name", "global", "--benchmarks", tests, *small)
    assert status == 0, err
    command = read_manifest(tmp_path / "models/global/1", ForecastManifest).provenance.command
    assert "global data.jsonl --name global --benchmarks benchmark.jsonl,benchmark.jsonl --hidden 8" in command


def test_no_data_at_all_is_enough(tmp_path: Path) -> None:
    config = GlobalConfig(cell="lstm", hidden=8, layers=1, steps=1, synthetic=1.0, widening={1: 1.2, 12: 1.1})
    folder = train([], [], config, LOOP, a_run(tmp_path, "nothing"), None, baselines=False)
    assert folder is not None
    assert read_manifest(folder, ForecastManifest).metrics == {}
