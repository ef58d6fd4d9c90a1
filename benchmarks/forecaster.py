"""Times a forecaster in the engine, on one thread without HTTP, alone or beside another one.

`python -m benchmarks.forecaster models/forecast/2 --beside models/forecast/1` prints a table and ends with one JSON
line. The models take turns, so that the load of the machine is the same for both. With `--peers`, Chronos-Bolt-tiny and
TiRex take turns, too: their packages, with untrained weights.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine
from benchmarks.servers import ENVIRONMENTS, make_environment
from service.engine.engine import Engine
from service.engine.runner import Runner
from service.engine.sequence import EMPTY_STATE, SequenceState
from service.forecast.intervals import Floats
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest, forecast, initial_state
from service.kinds import KINDS
from service.manifest import Graph, read_manifest
from service.metrics import Metrics

HORIZON = 24
MANY = 512
ALONE = "200 -> 24, alone"
OF_MANY = f"200 -> 24, each of {MANY} at once"
LONG = "2,000 -> 24, alone"
SESSION = "1 more in a session of 200 -> 24"
HISTORY = "200 -> 24, and the history"
RUNS = {ALONE: 300, OF_MANY: 15, LONG: 100, SESSION: 300, HISTORY: 150}
"""The timed tasks, and how often each runs."""

BESIDE = ", beside"

PEERS = ("chronos-bolt-tiny", "tirex")
PEER_TASKS = {ALONE: (1, 200), OF_MANY: (64, 200), LONG: (1, 2000)}
"""Rows and steps of a peer's call. Of many series 64 at once: larger batches gain nothing."""
SLOW = {"tirex": 16}
"""The divisor of a peer's rows, where a call would take a minute."""


class Subject:
    """A forecaster in one precision in its engine, and the requests that it is timed with."""

    def __init__(self, folder: Path, manifest: ForecastManifest, graph: Graph) -> None:
        self._manifest = manifest
        metrics = Metrics().engine(manifest.name)
        self._engine = Engine(manifest.name, Runner(folder, graph, threads=1), None, False, 10**9, metrics)
        walk = np.random.default_rng(0).normal(size=(2001, 1)).cumsum(axis=0)
        self._short, self._long, self._next = walk[:200], walk[:2000], walk[200:201]
        [self._session] = self._run(self._short)

    @classmethod
    def of_folder(cls, folder: Path, label: str = "") -> dict[str, "Subject"]:
        """The forecasters of a model folder, by precision and label.

        Raises:
            typer.BadParameter: the folder holds another kind of model.
        """
        manifest = read_manifest(folder, *(kind.manifest for kind in KINDS))
        if not isinstance(manifest, ForecastManifest):
            raise typer.BadParameter(f"{folder} holds a {manifest.kind} model, not a forecaster")
        graphs = {"float32": manifest.graph} | ({"int8": manifest.int8.graph} if manifest.int8 else {})
        return {f"{precision}{label}": cls(folder, manifest, graph) for precision, graph in graphs.items()}

    def tasks(self) -> Mapping[str, Callable[[], list[SequenceState]]]:
        """The call of each of `RUNS`."""
        return {
            ALONE: lambda: self._run(self._short),
            OF_MANY: lambda: self._run(self._short, count=MANY),
            LONG: lambda: self._run(self._long),
            SESSION: lambda: self._run(self._next, start=self._session),
            HISTORY: lambda: self._run(self._short, history=True),
        }

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    def _run(
        self, values: Floats, history: bool = False, count: int = 1, start: SequenceState = EMPTY_STATE
    ) -> list[SequenceState]:
        """Forecast `count` times at once, as the service does without a season. Returns the states after the values."""
        request = ForecastRequest(values, HORIZON, self._manifest.quantile_levels, history)
        pending = [
            self._engine.submit(
                forecast(self._manifest, request, initial_state(self._manifest, start=start)), request.cost_steps
            )
            for _ in range(count)
        ]
        return [future.result().after for future in pending]


def medians(subjects: Mapping[str, Subject], runs: Mapping[str, int] = RUNS) -> dict[str, dict[str, float]]:
    """The median milliseconds of a forecast, by task and subject."""
    milliseconds = {}
    for task, count in runs.items():
        calls = {name: subject.tasks()[task] for name, subject in subjects.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for run in range(count + 1):
            # The first of one round is the last of the next.
            for name, call in list(calls.items())[:: 1 if run % 2 else -1]:
                started = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - started))
        forecasts = MANY if task == OF_MANY else 1
        milliseconds[task] = {name: statistics.median(series[1:]) / forecasts for name, series in times.items()}
    return milliseconds


def peers(subjects: Mapping[str, Subject], rounds: int = 5) -> dict[str, dict[str, float]]:
    """The median milliseconds of a forecast, by task, of the subjects and the peers in turns."""
    environment = ENVIRONMENTS / "zero-shot"
    make_environment(environment, "requirements-zero-shot.txt")
    command = [str(environment / "bin" / "python"), "-m", "benchmarks.peers.zero_shot"]
    times: dict[str, dict[str, list[float]]] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for task, (rows, steps) in PEER_TASKS.items():
            milliseconds = times[task] = {name: [] for name in (*subjects, *PEERS)}
            for _ in range(rounds + 1):
                for name in PEERS:
                    count = max(1, rows // SLOW.get(name, 1))
                    process.stdin.write(f"{name} {count} {steps}\n")
                    process.stdin.flush()
                    milliseconds[name].append(1000 * float(process.stdout.readline()) / count)
                for name, subject in subjects.items():
                    call = subject.tasks()[task]
                    started = time.perf_counter()
                    call()
                    elapsed = 1000 * (time.perf_counter() - started)
                    milliseconds[name].append(elapsed / (MANY if task == OF_MANY else 1))
        process.stdin.close()
    return {task: {name: statistics.median(series[1:]) for name, series in row.items()} for task, row in times.items()}


def main(
    model: Annotated[Path, typer.Argument(help="A model folder.")] = Path("models/forecast/2"),
    beside: Annotated[Path | None, typer.Option(help="Another one, timed in turns with it.")] = None,
    with_peers: Annotated[
        bool, typer.Option("--peers", help="Time Chronos-Bolt-tiny and TiRex in turns with it, untrained.")
    ] = False,
) -> None:
    """Time a forecaster in both of its precisions."""
    subjects = Subject.of_folder(model) | ({} if beside is None else Subject.of_folder(beside, BESIDE))
    milliseconds = peers(subjects) if with_peers else medians(subjects)
    for subject in subjects.values():
        subject.close()
    ratios = {
        task: {name: median / times[name + BESIDE] for name, median in times.items() if name + BESIDE in times}
        | {f"{peer} to int8": times[peer] / times["int8"] for peer in PEERS if peer in times}
        for task, times in milliseconds.items()
    }
    where = {name: machine()[name] for name in ("cpu", "cores")}
    models = {"model": str(model)} | ({} if beside is None else {"beside": str(beside)})
    of = " beside ".join(models.values())
    table = Table(title=f"{of}: median ms of a forecast, one thread of {where['cpu']}, {where['cores']} cores")
    table.add_column("")
    for name in [*milliseconds[ALONE], *(f"ratio, {name}" for name in ratios[ALONE])]:
        table.add_column(name, justify="right")
    for task, times in milliseconds.items():
        table.add_row(task, *(f"{time:.3f}" for time in [*times.values(), *ratios[task].values()]))
    Console(width=160).print(table)
    sys.stdout.write(json.dumps({"machine": where, **models, "milliseconds": milliseconds, "ratios": ratios}) + "\n")


if __name__ == "__main__":
    typer.run(main)
