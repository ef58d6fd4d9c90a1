"""What the service costs before anyone asks anything: size on disk, time to be ready, memory, processor time when idle.

`make footprint` runs it on the environment of `make run`. Ends with one JSON line.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.process_tree import cpu_seconds, resident_mib, tree


def size(folder: Path) -> float:
    """MiB of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 2**20


def start(command: list[str]) -> tuple[subprocess.Popen[str], float]:
    """Start the service; the process, and seconds until /health/ready said yes."""
    environment = os.environ | {"CARRY_PORT": "0", "CARRY_LOG_FORMAT": "json"}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port = next(line["port"] for line in map(json.loads, process.stderr) if line["event"] == "listening")
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=30):
                return process, time.perf_counter() - began
        except urllib.error.HTTPError:  # a process is yet to be ready
            time.sleep(0.01)


def main(environment: Path) -> None:
    """Measure the environment and five starts of the service in it."""
    command = [str(environment / "bin/carry"), "serve"]
    times, figures = [], {}
    for last in (False, False, False, False, True):
        process, seconds = start(command)
        times.append(seconds)
        if last:
            before = cpu_seconds(process.pid)
            time.sleep(10)
            figures = {
                "processes": len(tree(process.pid)),
                "environment_mib": round(size(environment)),
                "models_mib": round(size(Path("models")), 1),
                "ready_seconds": round(statistics.median(times), 2),
                "resident_mib": round(resident_mib(process.pid)),
                "idle_share_of_a_core": round((cpu_seconds(process.pid) - before) / 10, 4),
            }
        process.terminate()
        process.wait()
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
