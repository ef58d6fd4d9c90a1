"""Tries model folders in another process, with a time limit, so that a model that hangs, crashes or takes all memory
does no harm.

One process tries several folders, one after another, and writes a line for each. If it hangs or dies, the folder at
fault is rejected, and another process continues with the rest.
"""

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from service.folders import model_folders, reason_not_regular
from service.manifest import MANIFEST_FILE
from service.settings import Settings

LIMIT_SECONDS = 30.0
"""For one folder. The models that Carry ships take less than a tenth of a second each."""
START_SECONDS = 30.0
"""For the process to start and import, on a busy machine."""


class Trials:
    """Tries model folders. Those present when the service starts are tried once, before the fork; each process takes
    over the results."""

    def __init__(self, settings: Settings, limit: float = LIMIT_SECONDS) -> None:
        self._settings = settings
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._started: list[Path] = []
        self._results: dict[tuple[Path, str], str | None] = {}

    def begin(self) -> Sequence[Path]:
        """Start to try all folders, in the background. Returns the folders."""
        self._started = model_folders(self._settings.models_dirs)[0]
        if self._started:
            self._start(self._started)
        return self._started

    def finish(self) -> None:
        """Wait for the results of `begin`."""
        digests = {path: _digest(path) for path in self._started}
        self._results = {(path, digests[path]): reason for path, reason in self._collect(self._started).items()}

    def reasons(self, paths: Sequence[Path]) -> dict[Path, str | None]:
        """The reason to reject each folder; None if it passes."""
        reasons: dict[Path, str | None] = {}
        for path in paths:
            key = (path, _digest(path))
            if key in self._results:
                reasons[path] = self._results.pop(key)  # only once: a later reload tries the folder again
        rest = [path for path in paths if path not in reasons]
        if rest:
            self._start(rest)
            reasons |= self._collect(rest)
        return reasons

    @property
    def pid(self) -> int | None:
        """The process that tries folders now, if there is one."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """End the running trial, from another thread."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def abandon(self) -> None:
        """End the trial that `begin` started: the service does not start."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None

    def _start(self, paths: Sequence[Path]) -> None:
        # The new process imports everything: half a second of processor time. A fork would save that, but reloads run
        # in processes with threads, which cannot fork safely.
        # -P: never import a module of the working directory in place of ours.
        command = [sys.executable, "-P", "-m", f"{__package__}.tryout", str(self._limit)]
        command += [self._settings.precision, str(self._settings.threads), *(os.fspath(path) for path in paths)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def _collect(self, paths: list[Path]) -> dict[Path, str | None]:
        reasons: dict[Path, str | None] = {}
        while len(reasons) < len(paths):
            if self._stopped:
                return reasons | {path: "was not tried: the service ends" for path in paths if path not in reasons}
            process = self._process
            assert process is not None
            with process:
                lines = _Lines(process, self._limit if reasons else self._limit + START_SECONDS)
                try:
                    for line in lines:
                        reasons[paths[len(reasons)]] = json.loads(line)
                        lines.limit = self._limit
                        if len(reasons) == len(paths):
                            break
                finally:
                    process.kill()
                    status = process.wait()
            if len(reasons) < len(paths):
                reasons[paths[len(reasons)]] = _reason_of_end(lines.timed_out, status, self._limit)
                rest = paths[len(reasons) :]
                if rest and not self._stopped:
                    self._start(rest)
        self._process = None
        return reasons


def _reason_of_end(timed_out: bool, status: int, limit: float) -> str:
    if timed_out or status == -signal.SIGALRM:
        return f"the model does not answer within {limit:g} seconds"
    end = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"the process that tried the model ended with {end}: the model crashes, or there is not enough memory"


class _Lines:
    """The lines that a process writes, until it ends or a line exceeds its time limit."""

    def __init__(self, process: "subprocess.Popen[bytes]", limit: float) -> None:
        assert process.stdout is not None
        self._out = process.stdout
        self.limit = limit
        self.timed_out = False
        self._buffer = b""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> bytes:
        deadline = time.monotonic() + self.limit
        while b"\n" not in self._buffer:
            seconds = deadline - time.monotonic()
            if seconds <= 0 or not select.select([self._out], [], [], seconds)[0]:
                self.timed_out = True
                raise StopIteration
            received = os.read(self._out.fileno(), 65536)
            if not received:
                raise StopIteration
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _digest(path: Path) -> str:
    """The sha256 of the manifest, which has those of all other files; "" if the manifest cannot be read."""
    manifest = path / MANIFEST_FILE
    with contextlib.suppress(OSError):
        if reason_not_regular(manifest) is None:
            return hashlib.sha256(manifest.read_bytes()).hexdigest()
    return ""
