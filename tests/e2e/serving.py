"""`carry serve` as a process, to kill and to start again, and calls that may break when it dies."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
import pytest

CARRY = Path(sys.executable).parent / "carry"
PATIENCE = 60.0
"""Seconds to wait for an event before a test fails."""

Line = dict[str, Any]


class Service:
    """The service. It can be started, killed and stopped any number of times, always on the same port.

    `prefix`: a command that runs `command`. `settings`: CARRY_<NAME>.
    """

    def __init__(
        self,
        models: Path,
        store: str,
        prefix: Sequence[str] = (),
        command: Sequence[str] = (str(CARRY), "serve"),
        stdin: int | None = None,
        **settings: object,
    ) -> None:
        defaults = {"PORT": 0, "PROCESSES": 1, "MODELS_DIR": models, "SESSION_STORE": store, "LOG_FORMAT": "json"}
        self._settings = {f"CARRY_{name.upper()}": str(value) for name, value in (defaults | settings).items()}
        self._command = [*prefix, *command]
        self._stdin = stdin
        self.models = models
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self.url = ""
        self.processes: list[int] = []
        """The pids of the workers, if there are several."""
        self.all_lines: list[Line] = []
        """All log lines."""
        self.errors: list[Line] = []
        """All log lines of level error, or that are not JSON."""

    def __enter__(self) -> "Service":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is None:
            return
        if kind is None:
            assert self._end(signal.SIGTERM) == 0, self.errors
        else:
            self._end(signal.SIGKILL)

    def start(self) -> None:
        """Start the service. Returns when it is ready."""
        self._process = subprocess.Popen(
            self._command,
            env=os.environ | self._settings,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            stdin=self._stdin,
        )
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True)
        self._reader.start()
        try:
            listening = self.line("listening")
            self._settings["CARRY_PORT"] = str(listening["port"])
            self.url = f"http://127.0.0.1:{listening['port']}"
            if listening["processes"] > 1:
                self.processes = [self.line("process started")["process"] for _ in range(listening["processes"])]
            self._wait_until_ready()
        except BaseException:
            self._end(signal.SIGKILL)
            raise

    def kill(self) -> None:
        """Kill the service (SIGKILL). Returns when all of its processes have ended."""
        assert self._end(signal.SIGKILL) == -signal.SIGKILL

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None
        return self._process.pid

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Stop the service. Returns when all of its processes have ended."""
        assert self._end(signum) == 0, self.errors

    def line(self, event: str) -> Line:
        """Wait for the next log line of this event."""
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            if line["event"] == event:
                return line
        raise AssertionError(f"the service ended: {self.errors}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while (answer := httpx2.get(f"{self.url}/health/ready", timeout=PATIENCE)).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.02)

    def _end(self, signum: int) -> int:
        assert self._process is not None
        process, self._process = self._process, None
        with process:
            process.send_signal(signum)
            status = process.wait(PATIENCE)
            self._reader.join(PATIENCE)
            assert not self._reader.is_alive()  # no process holds the pipe open
        return status

    def _read(self, process: subprocess.Popen[str], lines: "queue.SimpleQueue[Line | None]") -> None:
        assert process.stderr is not None
        for text in process.stderr:
            try:
                line = json.loads(text)
            except ValueError:
                line = {"event": text, "level": "error"}
            self.all_lines.append(line)
            if line["level"] == "error":
                self.errors.append(line)
            lines.put(line)
        lines.put(None)


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request on a new connection."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        data: dict[str, Any] = json.load(answer)
    return data


@contextmanager
def small_disk(folder: Path) -> Iterator[list[str]]:
    """A small disk, mounted on the folder: 2 MiB more than the store's reserve. Yields the prefix of commands that see
    the disk."""
    mount = ["sh", "-c", 'mount -t tmpfs -o size=34m tmpfs "$0" && echo mounted && exec cat', str(folder)]
    reasons = []
    for user in ([], ["--user", "--map-root-user"]):
        with subprocess.Popen(
            ["unshare", "--mount", *user, *mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stderr is not None
            if holder.stdout.readline() == b"mounted\n":
                entering = ["--user", "--preserve-credentials"] if user else []
                yield ["nsenter", f"--target={holder.pid}", "--mount", *entering, "--"]
                holder.stdin.close()
                return
            reasons.append(holder.stderr.read().decode().strip())
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"a disk cannot be mounted: {'; '.join(reasons)}")


@dataclass(frozen=True)
class Answer:
    """The answer of a call; of a stream, the whole text."""

    status: int
    data: dict[str, Any]
    replayed: bool


class BrokenError(Exception):
    """The connection broke before the end of the answer. `received`: the text until then."""

    def __init__(self, received: str) -> None:
        super().__init__(received)
        self.received = received


def call(http: httpx2.Client, path: str, body: dict[str, Any], key: str) -> Answer:
    """Make a call with an idempotency key once.

    Raises:
        BrokenError: the connection broke, so that the effect of the call is unknown.
        httpx2.ConnectError: the service does not run.
    """
    text, data, event = "", {}, ""
    try:
        with http.stream("POST", path, json=body, headers={"Idempotency-Key": key}) as response:
            replayed = "idempotency-replayed" in response.headers
            if not response.headers["content-type"].startswith("text/event-stream"):
                return Answer(response.status_code, json.loads(response.read()), replayed)
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    data = json.loads(value)
                    text += data.get("text", "")
    except httpx2.ConnectError:
        raise
    except (httpx2.NetworkError, httpx2.ProtocolError) as error:
        raise BrokenError(text) from error
    if event == "error":
        return Answer(data["status"], data, False)
    assert "finish_reason" in data, data
    return Answer(200, data | {"text": text}, replayed)
