"""The worst request of each route, within the limits: nobody else waits for it.

/health/live is asked again and again on fresh connections. Its longest wait beside a request is compared with its
median at rest, in the same run, of one process.
"""

import multiprocessing
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
"""At rest it is 0.4 ms on an idle machine: a hundred milliseconds are 250 times as long. The rest is for a busy one."""
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


def wait_for_live(port: int) -> float:
    """Seconds until /health/live has answered on a new connection."""
    started = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/health/live")
    assert connection.getresponse().read()
    connection.close()
    return time.perf_counter() - started


def ask_until_told(port: int, pipe: Connection) -> None:
    """Wait for /health/live all the time; then send how long, each time."""
    waits = [wait_for_live(port)]
    pipe.send(None)
    waits.clear()
    while not pipe.poll(0.005):
        waits.append(wait_for_live(port))
    pipe.send(waits)


@contextmanager
def neighbour(port: int) -> Iterator[list[float]]:
    """Somebody who does so; how long it took each time. In a process of its own: this one is busy with its request."""
    waits: list[float] = []
    ours, theirs = multiprocessing.Pipe()
    asking = multiprocessing.get_context("spawn").Process(target=ask_until_told, args=(port, theirs))
    asking.start()
    ours.recv()
    try:
        yield waits
    finally:
        ours.send(None)
        waits += ours.recv()
        asking.join()


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = f"sqlite:///{tmp_path_factory.mktemp('store') / 'carry.db'}"
    with Service(models, store) as started:
        yield started


def post(port: int, path: str, body: Any) -> int:
    """Its status, once all of the answer was read."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    connection.request("POST", path, data, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    while answer.read(2**20):
        pass
    connection.close()
    return answer.status


@pytest.mark.parametrize("worst", WORST)
def test_nobody_waits_for_the_worst_request_of_a_route(service: Service, worst: str) -> None:
    port = int(service.url.rsplit(":", 1)[1])
    path, body = WORST[worst]
    rest = statistics.median(wait_for_live(port) for _ in range(50))
    with neighbour(port) as waits:
        status = post(port, path, body)
    longest = max(waits, default=0.0)  # a refusal may come before anybody has asked
    assert status < 500
    assert longest < FACTOR * rest, f"{longest / rest:.0f} times its wait at rest, which is {1000 * rest:.1f} ms"
