"""The worst request of each route within the limits does not make other requests wait.

Clients call /health/live and a small forecast again and again, on new connections. The test compares their longest
waits during the worst request with their medians at rest, in the same run, of one process.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.e2e.serving import Service

FACTOR = 400
"""On an idle machine, /health/live takes 0.4 ms at rest: 100 ms are 250 times as long. The margin is for a busy one.
The factor is divided by the share of the processors that other programs leave."""
MARKS = "".join("a" + "\u0300" * 29 for _ in range(6000))
MONTHS = {"freq": "MS", "start": "1000-01-01", "season_length": 1}
WALK = [float((7 * i) % 13) for i in range(199_990)]

WORST: dict[str, tuple[str, Any]] = {
    "forecast": ("/forecast", {"series": WALK, "horizon": 1000, "quantiles": [0.5], "include_history": True}),
    "batch": ("/forecast/batch", {"requests": [{"series": WALK[:120]}] * 10_000, "horizon": 18}),
    "histories": (
        "/forecast/batch",
        {"requests": [{"series": WALK[:40]}] * 10_000, "include_history": True, "horizon": 1},
    ),
    "timestamps": (
        "/forecast/batch",
        {"requests": [{"series": [1, 2]}] * 5000 + [{}] * 5000, "horizon": 300, "quantiles": [0.5]}
        | {"freq": "MS", "start": "1000-01-01"},
    ),
    "anomalies": ("/anomalies", {"series": WALK[:49_000], "level": 80} | MONTHS),
    "windows": ("/cross_validation", {"series": WALK[:90_000], "horizon": 1, "windows": 1000, "quantiles": [0.5]}),
    "months": ("/cross_validation", {"series": WALK[:90_000], "horizon": 1} | MONTHS),
    "prompt": ("/generate", {"prompt": "It was. " * 24_000, "max_length": 1}),
    "echo": ("/generate", {"prompt": "It was. " * 12_000, "max_length": 1, "echo": True, "logprobs": 1}),
    "texts": ("/generate", {"prompt": "a", "max_length": 150, "n": 64, "stop": ["a" * 99 + c for c in "bcdefghijklm"]}),
    "marks": ("/generate", {"prompt": MARKS, "max_length": 1}),
    "too many marks": ("/generate", {"prompt": "a" + "\u0300" * 90_000 + "\u0327" * 90_000, "max_length": 1}),
    "positions": ("/predict", {"text": "It was. " * 24_000, "per_position": True, "top_k": 1}),
    "ranked": ("/predict", {"text": "It was. ", "candidates": ["and it was so " * 14 + str(i) for i in range(900)]}),
    "session": ("/sessions", {"prompt": "It was. " * 24_000, "model": "text"}),
    "completions": ("/v1/completions", {"model": "text", "prompt": ["It was. "] * 10_000, "max_tokens": 1}),
    "nixtla": ("/v2/forecast", {"series": {"y": WALK, "sizes": [len(WALK)]}, "h": 100, "freq": "MS"}),
    "nixtla panel": ("/v2/forecast", {"series": {"y": WALK[:100_000], "sizes": [10] * 10_000}, "h": 18, "freq": "MS"}),
    "nixtla windows": (
        "/v2/cross_validation",
        {"series": {"y": WALK[:90_000], "sizes": [90_000]}, "h": 1, "n_windows": 1000, "freq": "MS"},
    ),
    "wrong at the end": ("/forecast", b'{"series":[' + b"1.5," * 8_000_000 + b"NaN]}"),
    "wrong lists": ("/v1/completions", b'{"model":"text","prompt":[' + b"[1]," * 8_000_000 + b"NaN]}"),
    "wrong objects": ("/forecast/batch", b'{"requests":[' + b'{"a":{}},' * 3_700_000 + b"NaN]}"),
}


NEIGHBOURS: dict[str, tuple[str, str, bytes | None]] = {
    "live": ("GET", "/health/live", None),
    "forecast": ("POST", "/forecast", b'{"series":[1.5],"horizon":1}'),
}


def wait_for(port: int, neighbour: str) -> float:
    """Seconds until the neighbour's call is answered, on a new connection."""
    started = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    method, path, body = NEIGHBOURS[neighbour]
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.read()
    assert answer.status == 200
    connection.close()
    return time.perf_counter() - started


def call_until_stopped(port: int, neighbour: str, pipe: Connection) -> None:
    """Call again and again until the pipe has a message; then send all waits."""
    waits = [wait_for(port, neighbour)]
    pipe.send(None)
    waits.clear()
    while not pipe.poll(0.005):
        waits.append(wait_for(port, neighbour))
    pipe.send(waits)


@contextmanager
def neighbours(port: int) -> Iterator[dict[str, list[float]]]:
    """Run the neighbours in other processes, since this one is busy. Yields the waits of each, complete at the end."""
    waits: dict[str, list[float]] = {name: [] for name in NEIGHBOURS}
    pipes = {name: multiprocessing.Pipe() for name in NEIGHBOURS}
    start = multiprocessing.get_context("spawn").Process
    processes = [start(target=call_until_stopped, args=(port, name, theirs)) for name, (_, theirs) in pipes.items()]
    for process in processes:
        process.start()
    for ours, _ in pipes.values():
        ours.recv()
    try:
        yield waits
    finally:
        for name, (ours, _) in pipes.items():
            ours.send(None)
            waits[name] += ours.recv()
        for process in processes:
            process.join()


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = f"sqlite:///{tmp_path_factory.mktemp('store') / 'carry.db'}"
    with Service(models, store) as started:
        yield started


def processor_seconds(pid: int) -> tuple[float, float]:
    """The seconds of all processors since the machine started, and those used by other programs than the service, this
    process and its ended children."""
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, idle, io_wait, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    service = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    times = os.times()
    ours = (int(service[11]) + int(service[12])) / tick + times.user + times.system
    ours += times.children_user + times.children_system
    busy = (user + nice + system + sum(rest)) / tick
    return busy + (idle + io_wait) / tick, busy - ours


def post(port: int, path: str, body: Any) -> int:
    """The status, after reading the whole answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    connection.request("POST", path, data, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    while answer.read(2**20):
        pass
    connection.close()
    return answer.status


@pytest.mark.parametrize("worst", WORST)
def test_no_request_waits_for_the_worst_request_of_a_route(service: Service, worst: str) -> None:
    port = int(service.url.rsplit(":", 1)[1])
    path, body = WORST[worst]
    rest = {name: statistics.median(wait_for(port, name) for _ in range(50)) for name in NEIGHBOURS}
    before = processor_seconds(service.pid)
    with neighbours(port) as waits:
        status = post(port, path, body)
    total, used = (now - then for now, then in zip(processor_seconds(service.pid), before, strict=True))
    assert status < 500
    limit = FACTOR / (1 - min(max(used / total, 0.0), 0.9))
    for name, seconds in waits.items():
        longest = max(seconds, default=0.0)  # a refusal may come before the first call
        assert longest < limit * rest[name], f"{name} waits {longest / rest[name]:.0f} times as long as at rest"
