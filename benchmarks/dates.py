"""Reads dates as people write them, in formats that the model `dates` did not learn from: by it, and by the usual
parsers beside it.

`make bench-dates` runs it, in a minute. Prints a table, writes results/dates.json, and ends with one JSON line; all
else goes to standard error.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

import carry
from benchmarks.report import RESULTS, machine
from benchmarks.servers import ENVIRONMENTS, make_environment
from service.folders import SHIPPED
from training.data.dates import PARTS, sample_pairs

COUNT = 1_000
"""Dates: the first of those that the card is about."""


def by_model(sources: Sequence[str]) -> dict[str, Any]:
    """What the shipped model writes, one source after the other."""
    with carry.load("dates", models_dir=SHIPPED) as model:
        started = time.perf_counter()
        dates = [model.generate(source=source, temperature=0).text for source in sources]
        return {"dates": dates, "ms": 1000 * (time.perf_counter() - started) / len(sources)}


def by_parsers(sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the other parsers read."""
    environment = ENVIRONMENTS / "dates"
    make_environment(environment, "requirements-dates.txt")
    command = [str(environment / "bin" / "python"), "-m", "benchmarks.peers.date_parsers"]
    done = subprocess.run(command, input=json.dumps(sources), stdout=subprocess.PIPE, text=True, check=True)
    results: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return results


def main() -> None:
    """Measure the model and the parsers on the same dates."""
    pairs = list(sample_pairs(PARTS["unseen"][0], COUNT, unseen=True))
    sources, targets = zip(*pairs, strict=True)
    results = {}
    for name, read in {"carry": by_model(sources), **by_parsers(sources)}.items():
        right = sum(date == target for date, target in zip(read["dates"], targets, strict=True))
        results[name] = {
            "exact_match": right / COUNT,
            "wrong": sum(bool(date) for date in read["dates"]) / COUNT - right / COUNT,
            "none": sum(not date for date in read["dates"]) / COUNT,
            "ms": read["ms"],
        }
    content = {"machine": {name: machine()[name] for name in ("cpu", "cores")}, "dates": COUNT, "results": results}
    (RESULTS / "dates.json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    lines = Table("", *next(iter(results.values())))
    for name, measures in results.items():
        lines.add_row(name, *(f"{value:.3f}" for value in measures.values()))
    Console(width=100, stderr=True).print(lines)
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
