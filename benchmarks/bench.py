"""Measures whole servers over HTTP, one at a time, with the same weights and the same requests.

Usage: python -m benchmarks.bench [--quick] [--only carry,torch] [--works generate,stream]

Writes benchmarks/results/results.json and docs/images/results.png; a run of only a part,
benchmarks/results/partial.json and .png.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import uvloop
from rich.console import Console

from benchmarks import measurements, report
from benchmarks.measurements import Result
from benchmarks.servers import SERVERS, Running, Server, install, started

WORKS = ("generate", "stream", "mixed", "forecast", "batch", "check")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    seconds: float = 4.0
    levels: tuple[int, ...] = (1, 8, 32, 128)
    stream_clients: int = 32
    reader_seconds: float = 8.0
    batch_series: int = 10_000
    single_series: int = 1000
    check: int = 10_000


QUICK = Plan(seconds=0.6, levels=(1, 8, 32), reader_seconds=2.0, batch_series=2000, single_series=200, check=400)


class Restarting:
    """A server that is started when first needed and again when it is left busy, or another endpoint is wanted."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack
        self._endpoint = ""
        self._running: Running | None = None

    def at(self, endpoint: str) -> Running:
        """The server, running, for an endpoint."""
        if self._running is not None and endpoint != self._endpoint and not self._server.whole:
            self.stop()
        if self._running is None:
            self._running = self._stack.enter_context(started(self._server, endpoint))
            self._endpoint = endpoint
        return self._running

    def stop(self) -> None:
        """End it; the next use starts it afresh."""
        self._stack.close()
        self._running = None


def measure(server: Server, plan: Plan, works: Sequence[str], note: Callable[[Result], None]) -> dict[str, Any]:
    """All works on one server, each result given to `note`; what the comparison of answers found, if it ran."""
    check: dict[str, Any] = {}
    if server.works:
        works = [work for work in works if work in server.works]
    with ExitStack() as stack:
        running = Restarting(server, stack)

        def measured(result: Result, idle: bool = True) -> None:
            note(result)
            if not idle:
                running.stop()

        if "generate" in works:
            for clients in plan.levels:
                measured(*measurements.generate(running.at("generate"), clients, plan.seconds))
        if "stream" in works and server.streams:
            for pause in (True, False):
                found = measurements.stream(running.at("stream"), plan.stream_clients, plan.seconds, pause=pause)
                measured(*found)
        if "mixed" in works and server.streams and server.whole and server.name != "carry-1":
            # Just after the same without the reader.
            beside = measurements.stream(running.at("stream"), plan.stream_clients, plan.reader_seconds, reader=True)
            measured(*beside)
        if "forecast" in works:
            for clients in plan.levels:
                measured(*measurements.forecast(running.at("forecast"), clients, plan.seconds))
        if "batch" in works and server.name == "carry":
            size = 500
            measured(measurements.forecast_batches(running.at("forecast"), plan.batch_series, size))
            for clients in (1, 32):
                measured(measurements.forecast_singles(running.at("forecast"), clients, plan.single_series))
        if "check" in works and server.name == "carry" and plan.check:
            check = measurements.identical(running.at("generate"), 32, plan.check)
    return check


def chosen(names: str, known: Sequence[str]) -> list[str]:
    """The names of a list with commas, each of them known."""
    found = [name for name in names.split(",") if name]
    if odd := [name for name in found if name not in known]:
        sys.exit(f"unknown: {', '.join(odd)}; known: {', '.join(known)}")
    return found or list(known)


def lines(server: Server, failure: Exception) -> Iterator[str]:
    """A server that could not be measured, for people."""
    yield f"[red]{server.name} could not be measured[/red]"
    yield f"{type(failure).__name__}: {failure}"


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about two minutes: short windows, fewer clients")
    parser.add_argument("--only", default="", help=f"servers: {','.join(server.name for server in SERVERS)}")
    parser.add_argument("--works", default="", help=f"what to measure: {','.join(WORKS)}")
    parser.add_argument("--seconds", type=float, help="length of a window")
    parser.add_argument("--check", type=int, help="how many requests to compare alone and under load")
    given = parser.parse_args()
    plan = QUICK if given.quick else Plan()
    changes = {"seconds": given.seconds, "check": given.check}
    plan = Plan(**(vars(plan) | {key: value for key, value in changes.items() if value is not None}))
    names = chosen(given.only, [server.name for server in SERVERS])
    if given.quick and not given.only:
        names.remove("litserve-2")
    works = chosen(given.works, WORKS)
    uvloop.install()
    console = Console()
    results: list[Result] = []
    checks: dict[str, dict[str, Any]] = {}

    def note(result: Result) -> None:
        results.append(result)
        console.print(report.line(result), markup=False, highlight=False, soft_wrap=True)

    for server in SERVERS:
        if server.name not in names:
            continue
        try:
            install(server)
            check = measure(server, plan, works, note)
            if check:
                checks[server.name] = check
        except Exception as failure:
            # One server that fails must not take the others' figures with it; the report shows that it is missing.
            for text in lines(server, failure):
                console.print(text, markup="[red]" in text)
    complete = not (given.quick or given.only or given.works)
    report.write(console, results, checks, plan.seconds, "results" if complete else "partial")


if __name__ == "__main__":
    main()
