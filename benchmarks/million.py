"""A table of a million series through `carry forecast` into a folder: killed, resumed, and compared with the service.

`make bench-million` runs it; on two idle cores it takes five to ten minutes. Ends with one JSON line; all else goes to
standard error.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from starlette.testclient import TestClient

from benchmarks.process_tree import resident_mib, tree
from service.app import create_app
from service.logs import configure_logs
from service.machine import available_cores
from service.settings import Settings

CHUNK = 10_000
"""Series that are made, and written as a row group, at once."""
KILL_SHARE = 0.4
"""Of the parts: when there are so many, the run is killed."""
END_SECONDS = 30
"""Of the first and the last of a run, whose largest memory is compared."""
LARGER = (10_000_000, 100_000_000)
CLUSTER_CORES = 64


def write_table(path: Path, series: int, values: int) -> None:
    """Monthly series of level, trend, season and noise: unique_id, ds, y."""
    steps = np.arange(values)
    first = np.datetime64("2015-01", "M")
    times = (first + steps).astype("datetime64[us]")
    schema = pa.schema([("unique_id", pa.string()), ("ds", pa.timestamp("us")), ("y", pa.float64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, series, CHUNK):
            count = min(CHUNK, series - start)
            rng = np.random.default_rng(start)
            trend = rng.normal(0, 0.003, (count, 1)) * steps
            phase = 2 * np.pi * (steps + rng.integers(0, 12, (count, 1))) / 12
            noise = 0.05 * rng.normal(size=(count, values))
            y = np.exp(rng.normal(5, 1, (count, 1))) * (
                1 + trend + 0.2 * rng.random((count, 1)) * np.sin(phase) + noise
            )
            ids = pa.array([f"s{start + i:08}" for i in range(count)]).take(np.repeat(np.arange(count), values))
            writer.write_table(pa.table([ids, np.tile(times, count), y.ravel().round(3)], schema=schema), len(ids))


@dataclass
class Ran:
    """One run of the command. mib: the resident memory of all its processes, once a second."""

    seconds: float = 0.0
    mib: list[float] = field(default_factory=list)


def run_command(source: Path, out: Path, horizon: int, kill_at: int | None) -> Ran:
    """Run `carry forecast`; with `kill_at`, kill it when there are so many parts."""
    command = [str(Path(sys.executable).parent / "carry"), "forecast", str(source), "--horizon", str(horizon)]
    ran, began = Ran(), time.perf_counter()
    process = subprocess.Popen([*command, "--out", f"{out}/"], stdout=sys.stderr)
    while process.poll() is None:
        ran.mib.append(resident_mib(process.pid))
        if kill_at is not None and len([*out.glob("part-*")]) >= kill_at:
            workers = tree(process.pid)[1:]
            process.send_signal(signal.SIGKILL)
            process.wait()
            ran.seconds = time.perf_counter() - began
            while any(Path(f"/proc/{worker}/statm").exists() for worker in workers):
                time.sleep(0.1)
            return ran
        time.sleep(1)
    ran.seconds = time.perf_counter() - began
    assert process.returncode == 0, "the command failed"
    assert kill_at is None, "it ended before it could be killed: take more series"
    return ran


def check_complete(out: Path, series: int, horizon: int) -> None:
    """Each series must be there once, with all its values."""
    parts = sorted(out.glob("part-*.parquet"))
    ids = [pq.read_table(part, columns=["unique_id"])["unique_id"].unique() for part in parts]
    assert sum(pq.read_metadata(part).num_rows for part in parts) == series * horizon
    assert pc.count_distinct(pa.concat_arrays(ids)).as_py() == sum(map(len, ids)) == series


def count_equal(source: Path, out: Path, series: int, sample: int, horizon: int) -> int:
    """How many of a sample of series have exactly the forecasts of `POST /forecast`."""
    settings = Settings(session_store="memory://", log_level="warning")
    configure_logs(settings)  # to standard error
    numbers = np.random.default_rng(0).choice(series, min(sample, series), replace=False)
    chosen = [("unique_id", "in", [f"s{number:08}" for number in numbers])]
    inputs, outputs = pq.read_table(source, filters=chosen), pq.read_table(out, filters=chosen)
    equal = 0
    with TestClient(create_app(settings)) as client:
        for id in chosen[0][2]:
            values, rows = inputs.filter(pc.field("unique_id") == id), outputs.filter(pc.field("unique_id") == id)
            start = values["ds"][0].as_py().date().isoformat()
            body = {"series": values["y"].to_pylist(), "horizon": horizon, "levels": [80, 95]}
            answer = client.post("/forecast", json={**body, "start": start, "freq": "MS"}).json()
            levels = {"lo-95": "0.025", "lo-80": "0.1", "hi-80": "0.9", "hi-95": "0.975"}
            equal += (
                rows["median"].to_pylist() == answer["median"]
                and [time.date().isoformat() for time in rows["ds"].to_pylist()] == answer["timestamps"]
                and all(rows[name].to_pylist() == answer["quantiles"][level] for name, level in levels.items())
            )
    return equal


def main(
    series: Annotated[int, typer.Option(min=1)] = 1_000_000,
    values: Annotated[int, typer.Option(min=2)] = 120,
    horizon: Annotated[int, typer.Option(min=1)] = 18,
    sample: Annotated[int, typer.Option(min=1, help="Series to compare with POST /forecast.")] = 200,
    folder: Annotated[Path | None, typer.Option(help="Where to keep the tables; else they are removed.")] = None,
) -> None:
    """Make the table, forecast it, kill that, go on, and check."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source, out = Path(scratch) / "series.parquet", Path(scratch) / "forecasts"
        write_table(source, series, values)
        kill_at = max(1, int(KILL_SHARE * series / 2000))
        killed = run_command(source, out, horizon, kill_at)
        before = {part: (part.stat().st_ino, part.stat().st_mtime_ns) for part in out.glob("part-*")}
        resumed = run_command(source, out, horizon, None)
        after = {part: (part.stat().st_ino, part.stat().st_mtime_ns) for part in out.glob("part-*")}
        remade = sum(after[part] != stamp for part, stamp in before.items())
        check_complete(out, series, horizon)
        equal = count_equal(source, out, series, sample, horizon)
        cores, seconds = available_cores(), killed.seconds + resumed.seconds
        rate = series / seconds
        figures = {
            "series": series,
            "values": values,
            "horizon": horizon,
            "cores": cores,
            "seconds": round(seconds, 1),
            "series_per_second": round(rate),
            "killed_after_parts": len(before),
            "parts": len(after),
            "parts_made_twice": remade,
            "mib_at_start": round(max(killed.mib[:END_SECONDS])),
            "mib_at_end": round(max(resumed.mib[-END_SECONDS:])),
            "mib_peak": round(max(killed.mib + resumed.mib)),
            "input_mb": round(source.stat().st_size / 1e6),
            "output_mb": round(sum(part.stat().st_size for part in after) / 1e6),
            "equal_to_service": f"{equal} of {min(sample, series)}",
            "hours": {
                f"{larger:,} series": {
                    f"{cores} cores": round(larger / rate / 3600, 2),
                    f"{CLUSTER_CORES} cores": round(larger / (rate / cores * CLUSTER_CORES) / 3600, 2),
                }
                for larger in LARGER
            },
        }
    sys.stdout.write(json.dumps(figures) + "\n")
    if remade or equal < min(sample, series):
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
