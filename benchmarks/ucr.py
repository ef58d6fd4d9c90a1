"""Classifies the small sets of the UCR archive: by Carry's classifiers, and by the usual methods beside them.

`make bench-ucr` runs it; on two idle cores it takes about a quarter of an hour. What a set gave is kept in
results/partial.ucr.json, so that a run goes on where one ended; --restart measures all anew. Prints a table, writes
results/ucr.json, and ends with one JSON line; all else goes to standard error.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.report import RESULTS, machine
from benchmarks.servers import ENVIRONMENTS, make_environment
from service.classify.manifest import ClassifyManifest
from service.classify.task import ClassifyRequest, classify
from service.engine.engine import Engine
from service.engine.runner import Runner
from service.manifest import read_manifest
from service.metrics import Metrics
from training.cli import train as train_verbs
from training.data.labelled import Labelled, read_labelled

MAX_TRAIN, MAX_TEST, MAX_LENGTH = 400, 1200, 300
"""The rule: every set of the two packages with at most so many series to train on and to test on, none longer. It was
written down before anything was measured."""
OURS = {"carry": (), "carry, features of forecast": ("--features-of", "forecast")}
"""Our methods, and their options beside the defaults."""
PEERS = ("MiniRocket", "1-NN, DTW")
MOST_FREQUENT = "most frequent class"
METHODS = (*OURS, *PEERS, MOST_FREQUENT)
ALONE = 20
"""Series that are timed alone."""
PARTIAL = RESULTS / "partial.ucr.json"

Outcome = dict[str, dict[str, float]]
"""Of a set, by method: accuracy, alone_ms, batch_ms."""


@dataclass
class Peer:
    """The process that has the sets and the other methods."""

    process: "subprocess.Popen[str]"

    def line(self) -> Any:
        """Its next answer."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise RuntimeError("the process of the other methods ended")
        return json.loads(text)

    def ask(self, name: str, folder: Path) -> Outcome:
        """Write the parts of a set to a folder, and measure the other methods on them."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name} {folder}\n")
        self.process.stdin.flush()
        outcome: Outcome = self.line()
        return outcome


@contextlib.contextmanager
def peer() -> Iterator[Peer]:
    """In its environment, which is made where it is absent."""
    environment = ENVIRONMENTS / "ucr"
    make_environment(environment, "requirements-ucr.txt")
    command = [str(environment / "bin" / "python"), "-m", "benchmarks.peers.series_classifiers"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Peer(process)
        assert process.stdin is not None
        process.stdin.close()


def train(name: str, options: Sequence[str], folder: Path) -> Path:
    """Train on the folder's training part by `carry train classify` with its defaults; the model's folder."""
    arguments = ["classify", str(folder / "train.jsonl"), "--test-on", str(folder / "test.jsonl"), "--name", name]
    arguments += ["--models-dir", str(folder / "models"), "--run-dir", str(folder / "runs" / name), "--no-baselines"]
    with contextlib.redirect_stdout(sys.stderr):
        typer.main.get_command(train_verbs).main([*arguments, *options], "carry train", standalone_mode=False)
    return folder / "models" / name / "1"


def measure(model: Path, test: Labelled) -> dict[str, float]:
    """Accuracy, and the time of a series alone and in the whole part, by the service's engine on one thread."""
    manifest = read_manifest(model, ClassifyManifest)
    metrics = Metrics().engine(manifest.name)
    engine = Engine(manifest.name, Runner(model, manifest.graph, threads=1), None, True, 10**9, metrics)

    def classes(part: Sequence[NDArray[Any]]) -> list[int]:
        requests = [ClassifyRequest(series, returns_state=False) for series in part]
        pending = [engine.submit(classify(manifest, request), request.cost_steps) for request in requests]
        return [int(future.result().scores.argmax()) for future in pending]

    try:
        classes(test.sequences[:2])
        alone = []
        for series in test.sequences[:ALONE]:
            started = time.perf_counter()
            classes([series])
            alone.append(time.perf_counter() - started)
        started = time.perf_counter()
        predicted = classes(test.sequences)
        batch = time.perf_counter() - started
    finally:
        engine.close()
    right = np.mean([manifest.classes[each] == label for each, label in zip(predicted, test.labels, strict=True)])
    return {
        "accuracy": float(right),
        "alone_ms": 1000 * statistics.median(alone),
        "batch_ms": 1000 * batch / len(test),
    }


def measure_set(others: Peer, described: Mapping[str, Any]) -> dict[str, Any]:
    """What every method makes of a set. Nothing of it is kept but the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        outcome = others.ask(described["name"], folder)
        train_part, test = (read_labelled([folder / f"{part}.jsonl"], "label") for part in ("train", "test"))
        frequent = Counter(train_part.labels).most_common(1)[0][0]
        outcome[MOST_FREQUENT] = {"accuracy": test.labels.count(frequent) / len(test)}
        for number, (method, options) in enumerate(OURS.items()):
            outcome[method] = measure(train(f"ours-{number}", options, folder), test)
    classes = len(set(train_part.labels))
    return {**described, "classes": classes, "methods": {method: outcome[method] for method in METHODS}}


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By method: the mean accuracy, the median times, and how often Carry's first method wins, ties and loses to it."""
    rows: dict[str, dict[str, Any]] = {}
    first = METHODS[0]
    for method in METHODS:
        figures = [result["methods"][method] for result in results]
        row: dict[str, Any] = {"mean_accuracy": statistics.mean(each["accuracy"] for each in figures)}
        for time_name in ("alone_ms", "batch_ms"):
            if time_name in figures[0]:
                row[f"median_{time_name}"] = statistics.median(each[time_name] for each in figures)
        gaps = [
            round(result["methods"][first]["accuracy"] - each["accuracy"], 9)
            for result, each in zip(results, figures, strict=True)
        ]
        if method != first:
            row |= {"wins": sum(gap > 0 for gap in gaps), "ties": gaps.count(0), "losses": sum(gap < 0 for gap in gaps)}
        rows[method] = row
    return rows


def table(results: Sequence[Mapping[str, Any]]) -> Table:
    """The accuracies, a set a line."""
    lines = Table("set", "classes", "train", "test", "steps", *METHODS)
    for result in results:
        accuracies = [f"{result['methods'][method]['accuracy']:.3f}" for method in METHODS]
        sizes = [str(result[name]) for name in ("classes", "train", "test", "length")]
        lines.add_row(result["name"], *sizes, *accuracies)
    return lines


def main(
    sets: Annotated[str, typer.Option(help="Only these, separated by commas; nothing is written.")] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an unfinished run measured.")] = False,
) -> None:
    """Measure the sets that the rule names, or some sets of the packages."""
    torch.set_num_threads(1)  # small networks gain nothing by more
    results: list[dict[str, Any]] = (
        [] if restart or sets or not PARTIAL.exists() else orjson.loads(PARTIAL.read_bytes())
    )
    done = {result["name"] for result in results}
    with peer() as others:
        known = others.line()
        chosen = [
            each
            for each in known
            if (each["name"] in sets.split(",") if sets else _fits(each)) and each["name"] not in done
        ]
        for described in track(sorted(chosen, key=_values), console=Console(stderr=True)):
            results.append(measure_set(others, described))
            if not sets:
                PARTIAL.write_bytes(orjson.dumps(results))
    results.sort(key=lambda result: str(result["name"]))
    content = {"machine": {name: machine()[name] for name in ("cpu", "cores")}, "sets": results} | {
        "summary": summary(results)
    }
    if not sets:
        (RESULTS / "ucr.json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
        PARTIAL.unlink()
    Console(width=160, stderr=True).print(table(results))
    sys.stdout.write(json.dumps(content["summary"]) + "\n")


def _fits(described: Mapping[str, Any]) -> bool:
    sizes = described["train"], described["test"], described["length"]
    return all(size <= most for size, most in zip(sizes, (MAX_TRAIN, MAX_TEST, MAX_LENGTH), strict=True))


def _values(described: Mapping[str, Any]) -> int:
    """The size of a set: small ones are measured first."""
    return int(described["train"] + described["test"]) * int(described["length"])


if __name__ == "__main__":
    typer.run(main)
