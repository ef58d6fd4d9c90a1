"""The examples of docs/batch.md on the real engines, in local mode: Spark, Ray, Dask, DuckDB, and Nixtla's client.

They have an environment of their own (`make .venv-clusters/installed`), which has their pins.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from carry.batch import BatchOptions, forecast_table
from tests.conftest import SHIPPED
from tests.served import KEY, served

ROOT = SHIPPED.parent
PYTHON = ROOT / ".venv-clusters" / "bin" / "python"
SECONDS = 600
"""More than any of them takes on a busy machine; an engine that hangs does not hang the tests."""
MONTHS = np.arange("2015-01", "2018-01", dtype="datetime64[M]").astype("datetime64[us]")

pytestmark = pytest.mark.skipif(
    not (PYTHON.parent.parent / "installed").exists(), reason="no .venv-clusters: make .venv-clusters/installed"
)


def example(heading: str) -> str:
    """The code below a heading of docs/batch.md."""
    text = (ROOT / "docs" / "batch.md").read_text()
    section = re.search(rf"^##+ {heading}$(.*?)(^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    code = re.search(r"^```python\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert code is not None
    return code[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has the tables that the examples read."""
    ids = [f"{i:03}" for i in range(30)]
    rng = np.random.default_rng(0)
    y = [100 + np.cumsum(rng.normal(size=len(MONTHS))).round(3) for _ in ids]
    long = pa.table({"unique_id": np.repeat(ids, len(MONTHS)), "ds": np.tile(MONTHS, len(ids)), "y": np.concatenate(y)})
    pq.write_table(long, tmp_path / "series.parquet")
    pq.write_table(pa.table({"unique_id": ids, "ds": [MONTHS] * len(ids), "y": y}), tmp_path / "lists.parquet")
    return tmp_path


def run(code: str, folder: Path) -> pa.Table:
    """Run an example; the forecasts that it writes, in order."""
    (folder / "example.py").write_text(code)
    # As in a terminal with the environment activated. Nothing leaves this machine.
    environment = {
        **os.environ,
        "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
        "CARRY_MODELS_DIR": str(SHIPPED),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    ran = subprocess.run(
        [PYTHON, "example.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    [written] = [path for path in folder.glob("forecasts*") if not path.name.startswith(".")]
    table: pa.Table = ds.dataset(written, format="parquet").to_table()
    if pa.types.is_list(table["ds"].type):
        ids = table["unique_id"].take(pa.compute.list_parent_indices(table["ds"]))
        names = [name for name in table.column_names if name not in ("unique_id", "error")]
        flat = {name: pa.compute.list_flatten(table[name]) for name in names}
        table = pa.table({"unique_id": ids, **flat})
    stamps = table["ds"].cast(pa.timestamp("us"))
    table = table.set_column(table.column_names.index("ds"), "ds", stamps)
    return table.sort_by([("unique_id", "ascending"), ("ds", "ascending")])


COLUMNS = ["unique_id", "ds", "median", "lo-80", "hi-80", "lo-95", "hi-95"]


@pytest.mark.parametrize("heading", ["The function", "Spark", "Ray Data", "Dask", "DuckDB"])
def test_each_engine_gives_the_forecasts_of_one_process(folder: Path, heading: str) -> None:
    if heading == "Spark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java, and there is none: install it, or run make test as root")
    expected = forecast_table(pq.read_table(folder / "series.parquet"), BatchOptions(12, models_dir=SHIPPED))
    table = run(example(heading), folder)
    for name in COLUMNS:
        assert table[name].to_pylist() == expected[name].to_pylist()


def test_nixtlas_client_gives_the_same_through_fugue(folder: Path) -> None:
    expected = forecast_table(pq.read_table(folder / "series.parquet"), BatchOptions(12, models_dir=SHIPPED))
    with served(SHIPPED) as url:
        code = example("Nixtla's client, through Fugue").replace("http://localhost:8000", url).replace("any", KEY)
        table = run(code, folder)
    assert table["unique_id"].to_pylist() == expected["unique_id"].to_pylist()
    assert table["ds"].to_pylist() == expected["ds"].to_pylist()
    for name in COLUMNS[2:]:
        column = "TimeGPT" if name == "median" else f"TimeGPT-{name}"
        np.testing.assert_allclose(table[column], expected[name], rtol=1e-12)
