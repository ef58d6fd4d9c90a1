"""Rolling restarts under load: two replicas restart in turn, again and again, while clients call that never retry.

Usage: python -m benchmarks.rolling [--requests 20000] [--clients 16] [--processes 2] [WAY...]

Ways: `nginx` is deploy/nginx.conf in front of two replicas. `direct` has no balancer: clients connect to replicas that
are ready, as a Service of Kubernetes lets them, and look at a kept connection before they use it. `processes` restarts
the processes of one replica, which share its port (SO_REUSEPORT).

The load is forecasts, generations, streams and sessions, whose versions are checked: no call may be lost or done twice.
Writes results/rolling.json, ends with one JSON line, and exits with 1 if a request failed.
"""

import http.client
import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.workload import prompt_at, series

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/rolling.json"
WAYS = ("nginx", "direct", "processes")
DRAIN = 5.0
"""Seconds of CARRY_DRAIN_SECONDS: more than nginx keeps an idle connection."""
PATIENCE = 120.0
"""Seconds to wait for a start, an end or an answer."""
REPORT_SECONDS = 15.0
WATCH_SECONDS = 0.2
"""How often readiness is probed, for clients without a balancer."""
CALLS_PER_SESSION = 40
_SERIES = series(20)


class Replica:
    """`carry serve` on a port of its own, which it keeps over restarts."""

    def __init__(self, store: str, **settings: object) -> None:
        self.port = 0
        defaults = {"PORT": 0, "SESSION_STORE": store, "LOG_FORMAT": "json", "DRAIN_SECONDS": DRAIN}
        self._variables = {f"CARRY_{name.upper()}": str(value) for name, value in (defaults | settings).items()}
        self.processes: list[int] = []
        """The worker processes, if there are several."""
        self.errors: list[str] = []
        """Log lines of level error."""
        self.exits: Counter[str] = Counter()

    def start(self) -> None:
        """Start it. Returns when it is ready."""
        carry = Path(sys.executable).parent / "carry"
        self.processes = []
        self._process = subprocess.Popen(
            [carry, "serve"], env=os.environ | self._variables, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_until_ready()
        self._variables["CARRY_PORT"] = str(self.port)

    def stop(self) -> None:
        """End it by SIGTERM. Returns when it has ended."""
        with self._process as process:
            process.send_signal(signal.SIGTERM)
            self.exits[str(process.wait(PATIENCE))] += 1
            self._reader.join(PATIENCE)

    def kill(self) -> None:
        """End it if it runs still."""
        with self._process as process:
            process.kill()

    def is_ready(self) -> bool:
        """Whether it says so, on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        """Returns when it is ready."""
        deadline = time.monotonic() + PATIENCE
        while not self.is_ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"a replica is not ready: {self.errors}")
            time.sleep(0.05)

    def restart(self) -> None:
        """Restart it."""
        self.stop()
        self.start()

    def restart_process(self) -> None:
        """End the oldest process by SIGTERM. Returns when another one is ready in its place."""
        started, oldest = set(self.processes), self.processes.pop(0)
        os.kill(oldest, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while set(self.processes) <= started:
            if time.monotonic() > deadline:
                raise RuntimeError("no process replaces the one that ended")
            time.sleep(0.05)
        self.wait_until_ready()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            line: dict[str, Any] = json.loads(text) if text.startswith("{") else {"event": text, "level": "error"}
            if line["event"] == "listening":
                self.port = line["port"]
            elif line["event"] == "process started":
                self.processes.append(line["process"])
            elif line["level"] == "error" and not line["event"].startswith("a process died; it is started again"):
                self.errors.append(line["event"])


@contextmanager
def redis() -> Iterator[str]:
    """A Redis server. Yields its URL."""
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        options = f"--port 0 --unixsocket {folder}/socket --dir {folder} --appendonly yes --appendfsync always"
        with subprocess.Popen(["redis-server", *options.split(), "--save", ""], stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            if not any(b"ready to accept connections" in line.lower() for line in server.stdout):
                raise RuntimeError("redis-server did not start")
            threading.Thread(target=server.stdout.read, daemon=True).start()
            try:
                yield f"unix://{folder}/socket"
            finally:
                server.kill()


@contextmanager
def nginx(ports: Sequence[int]) -> Iterator[int]:
    """nginx with deploy/nginx.conf before replicas on these ports. Yields its port.

    The servers are written into the configuration: older versions of nginx do not resolve names again.
    """
    text = (ROOT / "deploy/nginx.conf").read_text()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = "\n".join(f"    server 127.0.0.1:{replica} max_fails=0;" for replica in ports)
    text = re.sub(r" *resolver .*\n", "", text)
    text, replaced = re.subn(r" *server replica:8000 resolve max_fails=0;", servers, text)
    text, listens = re.subn(r"listen 80;", f"listen 127.0.0.1:{port};", text)
    if (replaced, listens) != (1, 1):
        raise RuntimeError("deploy/nginx.conf is not what this script expects")
    with tempfile.TemporaryDirectory(prefix="nginx") as folder:
        temporary = "\n".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.getuid() == 0 else ""
        main = f"{user}daemon off;\npid {folder}/pid;\nerror_log stderr crit;\nevents {{}}\n"
        Path(folder, "nginx.conf").write_text(f"{main}http {{\naccess_log off;\n{temporary}\n{text}}}\n")
        with subprocess.Popen(["nginx", "-p", folder, "-e", "stderr", "-c", f"{folder}/nginx.conf"]) as process:
            try:
                _wait_for(port)
                yield port
            finally:
                process.terminate()


def _wait_for(port: int) -> None:
    """Returns when a server listens on the port."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class FailedError(Exception):
    """A request failed, for this reason."""


@dataclass
class Tally:
    """What became of the requests of all clients."""

    requests: Counter[str] = field(default_factory=Counter)
    failures: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    sessions: Counter[str] = field(default_factory=Counter)
    """Sessions, and those with a call that was lost or done twice."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, seconds: float, reason: str = "") -> None:
        """A request was answered, or failed for the reason."""
        with self._lock:
            self.requests[kind] += 1
            self.seconds.setdefault(kind, []).append(seconds)
            if reason:
                self.failures.setdefault(kind, Counter())[reason] += 1

    def note_session(self, difference: int) -> None:
        """A session is at the version of the calls that were answered, or `difference` beyond it."""
        with self._lock:
            self.sessions["checked"] += 1
            self.sessions["lost calls"] += max(0, -difference)
            self.sessions["doubled calls"] += max(0, difference)

    @property
    def failed(self) -> int:
        """The requests that failed, and calls of sessions that were lost or doubled."""
        failures = sum(sum(reasons.values()) for reasons in self.failures.values())
        return failures + self.sessions["lost calls"] + self.sessions["doubled calls"]


class Connection:
    """A kept-alive connection that never repeats a request.

    `port`: where a new connection goes. `looks`: whether it looks if the server has closed a kept connection, before it
    uses it, as urllib3 and httpx do.
    """

    def __init__(self, port: Callable[[], int], looks: bool) -> None:
        self._port, self._looks = port, looks
        self._http: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def call(self, method: str, path: str, body: Any = None) -> bytes:
        """The answer to a request.

        Raises:
            FailedError: there is none, or it is no success.
        """
        stage = "connecting"
        try:
            connection = self._connection()
            stage = "sending"
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            stage = "waiting for the answer"
            response = connection.getresponse()
            stage = "reading the answer"
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise FailedError(f"{type(error).__name__} while {stage}") from error
        if response.will_close:
            self.close()
        if response.status not in (200, 201, 204):
            code = json.loads(answer)["code"] if "json" in response.headers.get("content-type", "") else "no problem"
            raise FailedError(f"status {response.status}, {code}")
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        if self._http is not None and self._looks and select.select([self._http.sock], [], [], 0)[0]:
            self.close()  # the server has closed it
        if self._http is None:
            self._http = http.client.HTTPConnection("127.0.0.1", self._port(), timeout=PATIENCE)
            self._http.connect()
        return self._http


class Client:
    """Makes one call after another, of every kind."""

    def __init__(self, number: int, connection: Connection, tally: Tally, expected: dict[str, Any]) -> None:
        self._random = random.Random(number)
        self._text = number % 2 == 0
        self._connection = connection
        self._tally = tally
        self._expected = expected
        self._session, self._version = "", 0

    def run(self, turns: Iterator[int]) -> None:
        """Call until the turns are over, and check the last session."""
        kinds = {"forecast": 50, "generate": 10, "stream": 10, "session": 30}
        for _ in turns:
            [kind] = self._random.choices(list(kinds), list(kinds.values()))
            if kind == "session":
                self._call_session()
            else:
                self._call(kind)
        self._end_session()
        self._connection.close()

    def _call(self, kind: str) -> None:
        place = self._random.randrange(len(_SERIES))
        body: dict[str, Any]
        if kind == "forecast":
            body, path = {"series": _SERIES[place][: 60 + 4 * place], "horizon": 12}, "/forecast"
        else:
            body, path = {"prompt": prompt_at(37 * place), "max_length": 20 + 2 * place, "seed": place}, "/generate"
            body |= {"stream": kind == "stream"}

        def check(answer: bytes) -> None:
            value = text_of_stream(answer) if kind == "stream" else json.loads(answer)
            if value != self._expected.setdefault(f"{kind} {place}", value):
                raise FailedError("another answer than before")

        self._send(kind, "POST", path, body, check)

    def _call_session(self) -> None:
        if not self._session or self._version >= CALLS_PER_SESSION:
            self._end_session()
            first = {"prompt": "The old house "} if self._text else {"series": [1, 2, 3, 4, 3, 2, 1]}
            answer = self._send("session", "POST", "/sessions", first)
            if answer is not None:
                self._session, self._version = json.loads(answer)["id"], 0
            return
        body: dict[str, Any] = {"session_id": self._session}
        if self._text:
            body |= {"prompt": "and ", "max_length": 8, "seed": 1}
        else:
            body |= {"series": [self._random.randrange(5)], "horizon": 2}

        def check(answer: bytes) -> None:
            version = json.loads(answer)["session"]["version"]
            if version != self._version + 1:
                raise FailedError(f"version {version - self._version - 1:+d}")

        if self._send("session", "POST", "/generate" if self._text else "/forecast", body, check) is not None:
            self._version += 1

    def _end_session(self) -> None:
        """Check the session's version, and leave the session."""
        if self._session:
            answer = self._send("session", "GET", f"/sessions/{self._session}")
            if answer is not None:
                self._tally.note_session(json.loads(answer)["version"] - self._version)
        self._session = ""

    def _send(
        self, kind: str, method: str, path: str, body: Any = None, check: Callable[[bytes], None] = lambda answer: None
    ) -> bytes | None:
        """The answer; None if the request failed."""
        started, reason, answer = time.monotonic(), "", None
        try:
            answer = self._connection.call(method, path, body)
            check(answer)
        except FailedError as error:
            reason = str(error)
        self._tally.note(kind, time.monotonic() - started, reason)
        return answer if not reason else None


def text_of_stream(events: bytes) -> str:
    """The text of a stream that is complete.

    Raises:
        FailedError: it is not.
    """
    data = [json.loads(line.removeprefix("data: ")) for line in events.decode().splitlines() if line.startswith("data")]
    if not data or "finish_reason" not in data[-1]:
        raise FailedError("a stream without its end")
    return "".join(event.get("text", "") for event in data)


class Ready:
    """The ports of the replicas that are ready, as of the last probe."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas
        self._ports = [replica.port for replica in replicas]
        self._over = threading.Event()

    def __enter__(self) -> "Ready":
        self._threads = [threading.Thread(target=self._watch, args=[replica]) for replica in self._replicas]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def port(self) -> int:
        """One of them, at random."""
        return random.choice(self._ports)

    def _watch(self, replica: Replica) -> None:
        while not self._over.wait(WATCH_SECONDS):
            others = [port for port in self._ports if port != replica.port]
            self._ports = [*others, replica.port] if replica.is_ready() else others or self._ports


def measure(way: str, requests: int, clients: int, restarts: int, **settings: object) -> dict[str, Any]:
    """Put on load until so many requests were made and replicas restarted so often. `settings`: CARRY_<NAME>."""
    tally, done = Tally(), threading.Event()
    rolled: list[float] = []
    with ExitStack() as stack:
        store = stack.enter_context(redis())
        replicas = [Replica(store, **settings) for _ in range(1 if way == "processes" else 2)]
        for replica in replicas:
            stack.callback(replica.kill)
            replica.start()
        port: Callable[[], int] = (lambda port: lambda: port)(replicas[0].port)
        if way == "nginx":
            port = (lambda port: lambda: port)(stack.enter_context(nginx([replica.port for replica in replicas])))
        elif way == "direct":
            port = stack.enter_context(Ready(replicas)).port
        turns = _Turns(requests, lambda: len(rolled) >= restarts)
        expected: dict[str, Any] = {}
        callers = [Client(number, Connection(port, way != "nginx"), tally, expected) for number in range(clients)]
        pool = stack.enter_context(ThreadPoolExecutor(clients + 1))
        stack.callback(done.set)
        began = time.monotonic()
        roller = pool.submit(_roll, way, replicas, done, rolled)
        running = {pool.submit(caller.run, turns) for caller in callers}
        while running:
            finished, running = wait(running, timeout=REPORT_SECONDS)
            for each in finished | ({roller} if roller.done() else set()):
                each.result()
            report = {"requests": sum(tally.requests.values()), "failed": tally.failed, "restarts": len(rolled)}
            print(way, report, file=sys.stderr, flush=True)  # noqa: T201 - how far it is
        seconds = time.monotonic() - began
        done.set()
        roller.result()
        for replica in replicas:
            replica.stop()
    return {
        "requests": sum(tally.requests.values()),
        "failed": tally.failed,
        "by_kind": dict(tally.requests),
        "failures": {kind: dict(reasons) for kind, reasons in tally.failures.items()},
        "sessions": dict(tally.sessions),
        "restarts": len(rolled),
        "seconds_per_restart": round(float(np.mean(rolled)), 1),
        "exit_statuses": dict(sum((replica.exits for replica in replicas), Counter())),
        "errors_in_logs": [error for replica in replicas for error in replica.errors],
        "seconds": round(seconds, 1),
        "clients": clients,
        "p50_p99_max_ms": {
            kind: [round(1000 * float(quantile), 1) for quantile in np.quantile(waits, [0.5, 0.99, 1])]
            for kind, waits in tally.seconds.items()
        },
    }


class _Turns:
    """The turns of all clients: so many, and more until it is enough."""

    def __init__(self, count: int, is_enough: Callable[[], bool]) -> None:
        self._count, self._is_enough = count, is_enough
        self._lock, self._numbers = threading.Lock(), itertools.count()

    def __iter__(self) -> "_Turns":
        return self

    def __next__(self) -> int:
        with self._lock:
            number = next(self._numbers)
        if number >= self._count and self._is_enough():
            raise StopIteration
        return number


def _roll(way: str, replicas: Sequence[Replica], done: threading.Event, rolled: list[float]) -> None:
    """Restart one after another, until it is done."""
    for replica in itertools.cycle(replicas):
        if done.is_set():
            return
        started = time.monotonic()
        if way == "processes":
            replica.restart_process()
        else:
            replica.restart()
        rolled.append(time.monotonic() - started)


def main(
    ways: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(WAYS)}; all if none is named.")] = None,
    requests: Annotated[int, typer.Option(help="Requests of each way.")] = 20_000,
    clients: Annotated[int, typer.Option(help="Callers at once.")] = 16,
    processes: Annotated[int, typer.Option(help="Processes of each replica.")] = 2,
    restarts: Annotated[int, typer.Option(help="Restarts of each way, at least.")] = 10,
) -> None:
    """Restart replicas under load, and print what became of the requests as one JSON line."""
    for program in ("redis-server", "nginx"):
        if shutil.which(program) is None:
            sys.exit(f"this needs {program} on the PATH: install it, and try again")
    results = {
        way: measure(way, requests, clients, restarts, processes=2 if way == "processes" else processes)
        for way in ways or WAYS
    }
    written = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(written | results, indent=1) + "\n")
    print(json.dumps(results))  # noqa: T201 - the result
    raise SystemExit(any(result["failed"] for result in results.values()))


if __name__ == "__main__":
    typer.run(main)
