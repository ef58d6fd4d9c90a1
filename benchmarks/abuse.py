"""What one caller can do to the others: requests that once froze, filled or ended the service, each replayed alone.

Usage: python -m benchmarks.abuse [--only 1,10a] [--code FOLDER] [--label before]

Beside each, three neighbours ask again and again, on fresh connections: /health/live, a forecast from a short series, a
text of 50 characters. Their longest wait is told, that of /health/live as a multiple of its longest at rest, and the
memory of the service above what it had at rest. `--code`: serve the code of another checkout, to compare; both
labels are kept in benchmarks/results/abuse.json and shown side by side. Everything is bounded, and local.
"""

import json
import multiprocessing
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
import zstandard
from rich.console import Console
from rich.table import Table

from benchmarks.process_tree import resident_mib, tree

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "abuse.json"
KEY = "a-key-of-the-benchmark"
PATIENCE = 150.0
"""Seconds after which an attack's own request is given up."""
REST = 3.0
"""Seconds of neighbours alone."""


@dataclass(frozen=True)
class Target:
    """A running service."""

    port: int
    pid: int

    def post(self, path: str, body: Any, key: bool = True, headers: dict[str, str] | None = None) -> str:
        """Send a request, read the whole answer: its status, or how it broke."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        sent = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {KEY}"} if key else {})
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("POST", path, data, sent | (headers or {}))
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()
        return str(answer.status)

    def together(self, count: int, ask: Callable[[], str]) -> str:
        """Ask so many times at once: how often each outcome came."""
        outcomes: Counter[str] = Counter()
        threads = [threading.Thread(target=lambda: outcomes.update([ask()])) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ", ".join(f"{n} x {outcome}" for outcome, n in sorted(outcomes.items()))

    def open(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@dataclass(frozen=True)
class Attack:
    """One of them. number: the finding that it replays; run: returns what became of it."""

    number: str
    what: str
    run: Callable[[Target], str]
    settings: dict[str, str] = field(default_factory=dict)


# ---- What is sent

ZSTD = {"Content-Encoding": "zstd"}


def _head(path: str, length: int, key: bool) -> bytes:
    """Of a request that is written out, with a body of so many bytes."""
    authorization = f"Authorization: Bearer {KEY}\r\n" if key else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: a\r\n{authorization}Content-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def _marks(target: Target) -> str:
    return target.post("/generate", {"prompt": "a" + "\u0300" * 20_000 + "\u0327" * 20_000, "max_length": 1})


def _zstd(target: Target) -> str:
    text = b'{"model":"text","prompt":[' + b"[1]," * 8_300_000 + b"[1]]}"
    return target.post("/v1/completions", zstandard.compress(text), headers=ZSTD)


def _zstd_without_key(target: Target) -> str:
    text = b'{"requests":[' + b'{"a":{}},' * 3_700_000 + b"NaN]}"
    body = zstandard.compress(text)
    return target.together(8, lambda: target.post("/forecast/batch", body, key=False, headers=ZSTD))


def _plain_lists(target: Target) -> str:
    return target.post("/v1/completions", b'{"model":"text","prompt":[' + b'"a",' * 8_000_000 + b'"a"]}')


def _timestamps(target: Target) -> str:
    body = {
        "horizon": 1000,
        "freq": "MS",
        "quantiles": [0.5],
        "requests": [{"series": [1], "start": "1000-01-31"}] * 10_000,
    }
    started = time.monotonic()
    status = target.post("/forecast/batch", body, headers={"X-Request-Timeout": "1"})
    return f"{status} after {time.monotonic() - started:.0f} s, asked for 1"


def _slow_connections(target: Target) -> str:
    held: list[socket.socket] = []
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-", _head("/forecast", 99, key=False) + b"{"):
        for _ in range(200):
            with suppress(OSError):
                connection = target.open()
                connection.sendall(sent)
                held.append(connection)
    deadline = time.monotonic() + 100
    alive = len(held)
    while alive > len(held) // 10 and time.monotonic() < deadline:
        time.sleep(1)
        alive = sum(not _closed(connection) for connection in held)
    for connection in held:
        connection.close()
    return f"{alive} of {len(held)} open after {100 + time.monotonic() - deadline:.0f} s"


def _unfinished_bodies(target: Target) -> str:
    held = []
    for _ in range(30):
        with suppress(OSError):
            connection = target.open()
            held.append(connection)
            connection.sendall(_head("/forecast", 2**25 - 1, key=False) + b" " * (30 * 2**20))
    time.sleep(3)
    refused = len(select.select(held, [], [], 0)[0])  # said something, or ended it
    for connection in held:
        connection.close()
    return f"{refused} of {len(held)} refused"


def _header(target: Target) -> str:
    with target.open() as connection:
        try:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * (60 * 2**20) + b"\r\n\r\n")
            connection.settimeout(60)
            return connection.recv(100).split(b"\r\n")[0].decode() or "closed"
        except OSError as error:
            return type(error).__name__


def _pipeline(target: Target) -> str:
    with target.open() as connection:
        connection.settimeout(20)
        sent = 0
        block = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 1000
        with suppress(OSError):
            for _ in range(200):
                connection.sendall(block)
                sent += 1000
        time.sleep(2)
        return f"{sent} taken"


def _unread(target: Target) -> str:
    body = orjson.dumps({"horizon": 330, "requests": [{"series": [1, 2, 3]}] * 1000})
    held = []
    for _ in range(12):
        connection = target.open()
        connection.sendall(_head("/forecast/batch", len(body), key=True) + body)
        held.append(connection)
    deadline = time.monotonic() + 100
    alive = len(held)
    while alive and time.monotonic() < deadline:
        time.sleep(5)
        alive = sum(not _reset(connection) for connection in held)
    for connection in held:
        connection.close()
    return f"{alive} of {len(held)} held after {100 + time.monotonic() - deadline:.0f} s"


def _many_prompts(target: Target) -> str:
    prompts = [f"The old house {i:05} " for i in range(10_000)]
    return target.post("/v1/completions", {"model": "text", "prompt": prompts, "max_tokens": 1})


def _large_batch(target: Target) -> str:
    requests = [{"series": [float((7 * i + j) % 13) for j in range(120)]} for i in range(10_000)]
    return target.post("/forecast/batch", {"horizon": 18, "quantiles": [0.5], "requests": requests})


def _long_series(target: Target) -> str:
    series = [float(i % 24) for i in range(199_990)]
    body = {"requests": [{"series": series, "horizon": 1}] * 9, "quantiles": [0.5], "season_length": 24}
    return target.post("/forecast/batch", zstandard.compress(orjson.dumps(body)), headers=ZSTD)


def _stops(target: Target) -> str:
    stops = ["a" * 99 + chr(98 + i) for i in range(16)]  # all of them half met, all the time
    return target.post("/generate", {"prompt": "a", "max_length": 156, "n": 64, "stop": stops, "logit_bias": {"a": 60}})


def _windows(target: Target) -> str:
    body = {"series": [float(i % 12) for i in range(83_100)], "horizon": 1, "windows": 83_000, "quantiles": [0.5]}
    return target.post("/cross_validation", body)


def _positions(target: Target) -> str:
    return target.post("/predict", {"text": "It was a dark night. " * 9500, "per_position": True, "top_k": 1})


def _candidates(target: Target) -> str:
    return target.post("/predict", {"text": "It was a dark night. " * 119, "per_position": True, "top_k": 100})


def _months(target: Target) -> str:
    body = {"series": [1.0, 2.0] * 45_000, "horizon": 1, "freq": "MS", "start": "0001-01-01", "season_length": 1}
    return target.post("/cross_validation", body)


def _judged_months(target: Target) -> str:
    body = {"series": [1.0, 2.0] * 25_000, "freq": "MS", "start": "1000-01-01", "season_length": 1}
    return target.post("/anomalies", body)


def _echo(target: Target) -> str:
    body = {"prompt": "It was a dark night. " * 5000, "max_length": 1, "echo": True, "logprobs": 1}
    return target.post("/generate", body)


def _histories(target: Target) -> str:
    series = {"series": [float(i % 7) for i in range(50)]}
    return target.post(
        "/forecast/batch", {"horizon": 1, "quantiles": [0.5], "include_history": True, "requests": [series] * 10_000}
    )


ATTACKS = (
    Attack("1", "40,000 combining marks out of order", _marks),
    Attack("2a", "33 MB of short lists in 4 kB of zstd", _zstd),
    Attack("2b", "8 x 33 MB of objects as zstd, without a key", _zstd_without_key),
    Attack("2c", "8 million prompts in 32 MB", _plain_lists),
    Attack("3", "10,000 x 1,000 timestamps, X-Request-Timeout: 1", _timestamps),
    Attack("5a", "600 connections that say nothing, half a head, half a body", _slow_connections),
    Attack("5b", "30 bodies of 30 of 32 MiB, without a key", _unfinished_bodies),
    Attack("6", "a header of 60 MiB", _header),
    Attack("7", "200,000 pipelined requests, answers unread", _pipeline),
    Attack("10a", "10,000 prompts in one call", _many_prompts),
    Attack("10b", "10,000 series of 120 in one call", _large_batch),
    Attack("10c", "9 series of 199,990 in one call", _long_series),
    Attack("10d", "16 stop texts of 100 characters, 64 texts", _stops),
    Attack("11", "12 answers of 100 MB, unread", _unread),
    Attack("12a", "cross validation of 83,000 windows", _windows),
    Attack("12b", "per_position of 200,000 characters", _positions),
    Attack("12c", "per_position of 2,500 characters, top_k 100", _candidates),
    Attack("12d", "cross validation of 90,000 months with timestamps", _months),
    Attack("12e", "anomalies of 50,000 months with timestamps", _judged_months),
    Attack("12f", "echo with logprobs of 105,000 characters", _echo),
    Attack("12g", "10,000 histories in one call", _histories),
)


# ---- Attacks on the processes themselves, which have no neighbours


def orphans(code: Path) -> str:
    """4: a child that the supervisor did not start ends."""
    with _started(code, {"CARRY_PROCESSES": "2"}, shell="sleep 2 & exec") as target:
        time.sleep(4)
        return "serves" if target.post("/forecast", {"series": [1, 2]}) == "200" else "dead"


def early_signals(code: Path, tries: int = 25) -> str:
    """8: SIGTERM at a random moment of the start."""
    outcomes: Counter[str] = Counter()
    rng = random.Random(8)
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as folder:
            process = _process(code, folder, {"CARRY_PROCESSES": "2"})
            time.sleep(rng.uniform(0.3, 3.0))
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
                outcomes["ended"] += 1
            except subprocess.TimeoutExpired:
                outcomes["hung"] += 1
                for pid in reversed(tree(process.pid)):
                    os.kill(pid, signal.SIGKILL)
                process.wait()
    return ", ".join(f"{n} of {tries} {outcome}" for outcome, n in outcomes.items())


def full_disk(code: Path) -> str:
    """9: the folder for temporary files is full."""
    with tempfile.TemporaryDirectory() as mounted:
        fill = f"(sleep 8; cat /dev/zero > {mounted}/full) &"
        shell = f"mount -t tmpfs -o size=2m tmpfs {mounted}; {fill} TMPDIR={mounted} exec"
        with _started(code, {"CARRY_PROCESSES": "2"}, shell=shell, prefix=("unshare", "--mount")) as target:
            time.sleep(9)
            answers = Counter(target.post("/forecast", {"series": [1, 2], "horizon": 1}) for _ in range(40))
            return ", ".join(f"{n} x {outcome}" for outcome, n in answers.items())


PROCESSES: dict[str, tuple[str, Callable[[Path], str]]] = {
    "4": ("an orphan ends", orphans),
    "8": ("SIGTERM during the start", early_signals),
    "9": ("the folder for temporary files is full", full_disk),
}


# ---- What is measured


def _neighbours(port: int, say: Connection) -> None:
    """Ask again and again until told to stop; the longest wait of each, in seconds, since the last report."""
    asked: dict[str, tuple[str, str, bytes | None]] = {
        "live": ("GET", "/health/live", None),
        "forecast": ("POST", "/forecast", orjson.dumps({"series": [1, 2, 3, 2, 1], "horizon": 1})),
        "text": ("POST", "/generate", orjson.dumps({"prompt": "The ", "max_length": 50, "seed": 1})),
    }
    longest = dict.fromkeys(asked, 0.0)
    begun: dict[str, float] = {}
    refused = dict.fromkeys(asked, 0)
    lock = threading.Lock()

    def ask(name: str) -> None:
        method, path, body = asked[name]
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        while True:
            started = time.monotonic()
            begun[name] = started
            connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                answer.read()
                failed = answer.status != 200
            except (OSError, HTTPException):
                failed = True
            connection.close()
            with lock:
                longest[name] = max(longest[name], time.monotonic() - started)
                refused[name] += failed
            time.sleep(0.02)

    for name in asked:
        threading.Thread(target=ask, args=(name,), daemon=True).start()
    while True:
        say.recv()
        with lock:
            now = time.monotonic()
            waits = {name: max(longest[name], now - begun.get(name, now)) for name in asked}
            say.send((waits, dict(refused)))
            longest.update(dict.fromkeys(asked, 0.0))
            refused.update(dict.fromkeys(asked, 0))


def _process(
    code: Path, folder: str, settings: dict[str, str], shell: str = "", prefix: tuple[str, ...] = ()
) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "PYTHONPATH": str(code),
        "CARRY_PORT": "0",
        "CARRY_LOG_FORMAT": "json",
        "CARRY_API_KEYS": KEY,
        "CARRY_MODELS_DIR": str(code / "models"),
        "CARRY_SESSION_STORE": f"sqlite:///{folder}/carry.db",
    }
    command = [sys.executable, "-c", "from carry.cli import main; main()", "serve"]
    if shell:
        command = ["sh", "-c", f'{shell} "$@"', "sh", *command]
    return subprocess.Popen(
        [*prefix, *command], env=environment | settings, stderr=subprocess.PIPE, text=True, cwd=folder
    )


@contextmanager
def _started(code: Path, settings: dict[str, str], shell: str = "", prefix: tuple[str, ...] = ()) -> Iterator[Target]:
    """A service, from when it is ready until it is killed."""
    with tempfile.TemporaryDirectory() as folder:
        process = _process(code, folder, settings, shell, prefix)
        assert process.stderr is not None
        port = 0
        while not port:
            line = process.stderr.readline()
            if not line:
                raise RuntimeError("the service did not start")
            with suppress(ValueError):
                event = json.loads(line)
                port = event["port"] if event.get("event") == "listening" else 0
        threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
        target = Target(port, process.pid)
        try:
            while target.post("/forecast", {"series": [1, 2], "horizon": 1}) != "200":
                time.sleep(0.1)
            target.post("/generate", {"prompt": "a", "max_length": 5})
            yield target
        finally:
            for pid in reversed(tree(process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


class _Peak(threading.Thread):
    """The largest memory of a process tree, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self.mib = resident_mib(pid)

    def run(self) -> None:
        while not self._over.wait(0.1):
            self.mib = max(self.mib, resident_mib(self._pid))

    def end(self) -> float:
        self._over.set()
        self.join()
        return self.mib


def measured(attack: Attack, code: Path) -> dict[str, Any]:
    """What an attack did, to itself and to the neighbours."""
    with _started(code, {"CARRY_PROCESSES": "1"} | attack.settings) as target:
        ours, theirs = multiprocessing.Pipe()
        neighbours = multiprocessing.get_context("spawn").Process(
            target=_neighbours, args=(target.port, theirs), daemon=True
        )
        neighbours.start()

        def waits() -> tuple[dict[str, float], dict[str, int]]:
            ours.send(None)
            found: tuple[dict[str, float], dict[str, int]] = ours.recv()
            return found

        time.sleep(REST)
        waits()  # the first ones pay for what is made once
        time.sleep(REST)
        rest, _ = waits()
        before = resident_mib(target.pid)
        peak = _Peak(target.pid)
        peak.start()
        started = time.monotonic()
        outcome = attack.run(target)
        seconds = time.monotonic() - started
        beside, refused = waits()
        neighbours.kill()
        return {
            "outcome": outcome,
            "seconds": round(seconds, 1),
            "rest_ms": {name: round(1000 * wait, 1) for name, wait in rest.items()},
            "beside_ms": {name: round(1000 * wait, 1) for name, wait in beside.items()},
            "refused": refused,
            "memory_mib": round(peak.end() - before),
        }


def _closed(connection: socket.socket) -> bool:
    """Whether the other side has ended it."""
    connection.setblocking(False)
    try:
        return any(connection.recv(65536) == b"" for _ in range(2))
    except BlockingIOError:
        return False
    except OSError:
        return True


def _reset(connection: socket.socket) -> bool:
    """Whether the other side has broken it off, without reading from it."""
    with suppress(OSError):
        connection.setblocking(False)
        connection.send(b"\r\n")
        return bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    return True


def main(
    only: Annotated[str, typer.Option(help="Numbers, separated by commas; all if absent.")] = "",
    code: Annotated[Path, typer.Option(help="The checkout whose code and models are served.")] = HERE.parent,
    label: Annotated[str, typer.Option(help="Under which the results are kept.")] = "now",
) -> None:
    """Replay them and print a table."""
    wanted = {number for number in only.split(",") if number}
    results: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    own = results.setdefault(label, {})
    for attack in ATTACKS:
        if not wanted or attack.number in wanted:
            own[attack.number] = {"what": attack.what, **measured(attack, code.absolute())}
            print(attack.number, own[attack.number], file=sys.stderr, flush=True)  # noqa: T201 - how far it is
    for number, (what, run) in PROCESSES.items():
        if not wanted or number in wanted:
            own[number] = {"what": what, "outcome": run(code.absolute())}
            print(number, own[number], file=sys.stderr, flush=True)  # noqa: T201 - how far it is
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    table = Table(
        "",
        "",
        *(
            f"{name}, {part}"
            for name in results
            for part in ("outcome", "live ms", "x rest", "forecast, text ms", "MiB")
        ),
    )
    for number in sorted({number for found in results.values() for number in found}, key=_order):
        cells = []
        for found in results.values():
            row = found.get(number, {})
            beside = row.get("beside_ms", {})
            cells += [row.get("outcome", ""), f"{beside['live']:.0f}" if beside else ""]
            cells += [f"{beside['live'] / row['rest_ms']['live']:.1f}" if beside else ""]
            cells += [
                f"{beside['forecast']:.0f}, {beside['text']:.0f}" if beside else "",
                str(row.get("memory_mib", "")),
            ]
        table.add_row(number, next(found[number]["what"] for found in results.values() if number in found), *cells)
    Console(width=220).print(table)


def _order(number: str) -> tuple[int, str]:
    digits = number.rstrip("abcdefgh")
    return int(digits), number


if __name__ == "__main__":
    typer.run(main)
