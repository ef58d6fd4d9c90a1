"""How long one caller's single requests take beside another caller's large batches, over HTTP, on the shipped models.

Usage: python -m benchmarks.fair [--only forecast,text] [--seconds 30] [--processes 1] [--code FOLDER] [--label before]

One key sends batches over and over, on several connections: 10,000 series to forecast, or 256 prompts to go on with.
Another key sends single requests, one after the other. Their times are compared with those alone, and with those of
requests that come with the batches' own key. `--code`: serve the code of another checkout, to compare; all labels are
kept in benchmarks/results/fair.json.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.report import RESULTS, machine
from benchmarks.servers import Running, Server, started
from benchmarks.workload import HORIZON, Request, forecasts, prompt_at, series

HERE = Path(__file__).parent
KEYS = {"large": "the-key-of-the-large-caller", "small": "the-key-of-the-small-caller"}
BATCH_SERIES = 10_000
BATCH_LENGTH = 170
"""Values of a series of the batch: with the horizon, ten thousand of them just fit in the queue of a model."""
BATCH_PROMPTS = 128
BATCH_TOKENS = 75
TOKENS = 20
CONNECTIONS = (1, 4)
"""On how many connections the batches come."""
REQUESTS_PER_CONNECTION = 20
"""Single requests on one connection, so that all processes of the service get some."""
REST_SECONDS = 5.0
"""Of single requests alone."""


@dataclass(frozen=True)
class Times:
    """Of single requests, in milliseconds. batches: how many were answered meanwhile, or 0 if none were sent."""

    work: str
    beside: str
    requests: int
    median_ms: float
    p95_ms: float
    max_ms: float
    batches: int = 0
    times_alone: float = 1.0
    """The median, as a multiple of the median alone."""


def single(work: str) -> Request:
    """A small request."""
    if work == "forecast":
        return forecasts(1)[0]
    return Request("/generate", {"prompt": prompt_at(0), "max_length": TOKENS, "temperature": 0.8, "seed": 1})


def batch(work: str) -> Request:
    """A large request."""
    if work == "forecast":
        items = [{"series": values[:BATCH_LENGTH]} for values in series(BATCH_SERIES)]
        return Request("/forecast/batch", {"requests": items, "horizon": HORIZON})
    prompts = [prompt_at(7 * i) for i in range(BATCH_PROMPTS)]
    return Request("/v1/completions", {"model": "text", "prompt": prompts, "max_tokens": BATCH_TOKENS, "seed": 1})


def post(connection: HTTPConnection, request: Request, content: bytes, key: str) -> int:
    """Send a request and read its answer: 0, or after how many seconds to send it again, if the queue is full.

    Raises:
        RuntimeError: it is refused for another reason.
    """
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEYS[key]}"}
    connection.request("POST", request.path, content, headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status == 429:
        return int(answer.headers["Retry-After"])
    if answer.status != 200:
        raise RuntimeError(f"{request.path}: {answer.status} {text[:300]!r}")
    return 0


def send_batches(port: int, work: str, stop: Event, counts: Any) -> None:
    """Send batches until `stop` is set; count the answers. Runs in a process of its own."""
    request = batch(work)
    content = orjson.dumps(request.body)
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    with counts.get_lock():
        counts[0] += 1
    while not stop.is_set():
        if pause := post(connection, request, content, "large"):
            stop.wait(pause)
            continue
        with counts.get_lock():
            counts[1] += 1


@contextmanager
def batches(port: int, work: str, connections: int) -> Iterator[Any]:
    """Batches on so many connections; yields the count of answers."""
    context = multiprocessing.get_context("spawn")
    stop, counts = context.Event(), context.Array("i", 2)
    senders = [
        context.Process(target=send_batches, args=(port, work, stop, counts), daemon=True) for _ in range(connections)
    ]
    for sender in senders:
        sender.start()
    try:
        while counts[0] < connections:
            if any(sender.exitcode is not None for sender in senders):
                raise RuntimeError("a sender of batches ended")
            time.sleep(0.05)
        yield counts
        if any(sender.exitcode is not None for sender in senders):
            raise RuntimeError("a sender of batches ended")
    finally:
        stop.set()
        for sender in senders:
            sender.terminate()
            sender.join()


def measure(port: int, work: str, key: str, seconds: float) -> list[float]:
    """Milliseconds of each single request, one after the other."""
    request = single(work)
    content = orjson.dumps(request.body)
    milliseconds: list[float] = []
    end = time.perf_counter() + seconds
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    while time.perf_counter() < end:
        if len(milliseconds) % REQUESTS_PER_CONNECTION == 0:
            connection.close()
        begin = time.perf_counter()
        if post(connection, request, content, key):
            raise RuntimeError("a single request was refused")
        milliseconds.append(1000 * (time.perf_counter() - begin))
    connection.close()
    return milliseconds


def figures(work: str, beside: str, milliseconds: list[float], answered: int = 0) -> Times:
    """What the times say."""
    ordered = sorted(milliseconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    median, p95, longest = (round(number, 2) for number in (statistics.median(ordered), p95, ordered[-1]))
    return Times(work, beside, len(ordered), median, p95, longest, answered)


def compare(server: Running, work: str, seconds: float) -> Iterator[Times]:
    """The times alone and beside batches."""
    measure(server.port, work, "small", 1.0)
    alone = figures(work, "nothing", measure(server.port, work, "small", REST_SECONDS))
    yield alone
    for connections in CONNECTIONS:
        with batches(server.port, work, connections) as counts:
            for key, whose in (("small", "another key"), ("large", "the same key")):
                before = counts[1]
                times = measure(server.port, work, key, seconds)
                beside = f"batches of {whose} on {connections} connection{'s' * (connections > 1)}"
                times_of = figures(work, beside, times, counts[1] - before)
                yield replace(times_of, times_alone=round(times_of.median_ms / alone.median_ms, 2))


def main(
    only: Annotated[str, typer.Option(help="Parts: forecast, text.")] = "forecast,text",
    seconds: Annotated[float, typer.Option(help="Of each measurement beside batches.")] = 30.0,
    processes: Annotated[int, typer.Option(help="Of the service.")] = 1,
    code: Annotated[Path, typer.Option(help="The checkout whose code and models are served.")] = HERE.parent,
    label: Annotated[str, typer.Option(help="The name of the run in fair.json.")] = "now",
) -> None:
    """Measure single requests beside batches."""
    console = Console()
    variables = {"CARRY_PROCESSES": str(processes), "CARRY_API_KEYS": ",".join(KEYS.values())}
    variables |= {"CARRY_SESSION_STORE": "memory://", "CARRY_REQUEST_TIMEOUT": "600"}
    variables |= {"PYTHONPATH": str(code.resolve()), "CARRY_MODELS_DIR": str(code.resolve() / "models")}
    command = ("python", "-P", "-c", "from carry.cli import main; main()", "serve")
    server = Server("carry", command, variables=variables, key=KEYS["small"])
    rows: list[Times] = []
    for work in only.split(","):
        with started(server, "forecast" if work == "forecast" else "generate") as running:
            for times in compare(running, work, seconds):
                console.print(times)
                rows.append(times)
    path = RESULTS / "fair.json"
    content = orjson.loads(path.read_bytes()) if path.exists() else {}
    load = os.getloadavg()[0]
    content[label] = {"machine": machine(), "load_average": load, "processes": processes, "times": [*map(asdict, rows)]}
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    console.print(table(rows))


def table(rows: list[Times]) -> Table:
    """What was measured, to read."""
    shown = Table("single", "beside", "requests", "median ms", "p95 ms", "max ms", "x alone", "batches")
    for row in rows:
        cells = (row.requests, row.median_ms, row.p95_ms, row.max_ms, row.times_alone, row.batches)
        shown.add_row(row.work, row.beside, *map(str, cells))
    return shown


if __name__ == "__main__":
    typer.run(main)
