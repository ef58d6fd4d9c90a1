"""Tries model folders out in a process of its own, with a time limit: what hangs, crashes or takes all memory there
harms nobody here.

One process tries several folders, one after another, and writes a line for each; if it hangs or dies, the folder that
it was at is refused, and another process goes on with the rest.
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
from service.settings import Settings

LIMIT_SECONDS = 30.0
"""For one folder; the models that Carry ships take under a tenth of a second each."""
MANIFEST_FILE = "manifest.json"


class Trials:
    """Tries folders out. Those that are there when the service starts are tried once, before its processes are forked;
    each of them then takes over what was found."""

    def __init__(self, settings: Settings, limit: float = LIMIT_SECONDS) -> None:
        self._settings = settings
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._begun: list[Path] = []
        self._known: dict[tuple[Path, str], str | None] = {}

    def begin(self) -> None:
        """Start to try all folders that there are, beside whatever this process does meanwhile."""
        self._begun = model_folders(self._settings.models_dir)[0]
        if self._begun:
            self._start(self._begun)

    def finish(self) -> None:
        """Wait for what was begun."""
        digests = {path: _digest(path) for path in self._begun}
        self._known = {(path, digests[path]): reason for path, reason in self._collect(self._begun).items()}

    def reasons(self, paths: Sequence[Path]) -> dict[Path, str | None]:
        """Why each of the folders is refused; None if it is not."""
        found: dict[Path, str | None] = {}
        for path in paths:
            key = (path, _digest(path))
            if key in self._known:
                found[path] = self._known.pop(key)  # once: later, whoever asks wants to know anew
        rest = [path for path in paths if path not in found]
        if rest:
            self._start(rest)
            found |= self._collect(rest)
        return found

    def stop(self) -> None:
        """End what is under way, from another thread."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def abandon(self) -> None:
        """End what was begun, since nobody will ask what was found."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None

    def _start(self, paths: Sequence[Path]) -> None:
        # To import everything anew takes half a second of the processor. A fork would not, but reloads come from
        # processes that have threads: there would be two ways to start a trial.
        # -P: no module of the working directory's takes the place of one of ours.
        command = [sys.executable, "-P", "-m", "service.workers.tryout", str(self._limit)]
        asked = [self._settings.precision, str(self._settings.threads), *(os.fspath(path) for path in paths)]
        self._process = subprocess.Popen(
            [*command, *asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def _collect(self, paths: list[Path]) -> dict[Path, str | None]:
        found: dict[Path, str | None] = {}
        while len(found) < len(paths):
            if self._stopped:
                return found | {path: "was not tried: the service ends" for path in paths if path not in found}
            process = self._process
            assert process is not None
            with process:
                lines = _Lines(process, self._limit if found else self._limit + _START_SECONDS)
                try:
                    for line in lines:
                        found[paths[len(found)]] = json.loads(line)
                        lines.limit = self._limit
                        if len(found) == len(paths):
                            break
                finally:
                    process.kill()
                    status = process.wait()
            if len(found) < len(paths):
                found[paths[len(found)]] = _what_befell(lines.timed_out, status, self._limit)
                rest = paths[len(found) :]
                if rest and not self._stopped:
                    self._start(rest)
        self._process = None
        return found


_START_SECONDS = 30.0
"""For the process to start and to import what it needs, on a busy machine."""


def _what_befell(timed_out: bool, status: int, limit: float) -> str:
    if timed_out or status == -signal.SIGALRM:
        return f"the model does not answer: it was given up after {limit:g} seconds"
    what = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"the model ended the process that tried it out ({what}): it crashes, or there is not enough memory"


class _Lines:
    """The lines that a process writes, each within a time limit."""

    def __init__(self, process: "subprocess.Popen[bytes]", limit: float) -> None:
        assert process.stdout is not None
        self._out = process.stdout
        self.limit = limit
        self.timed_out = False
        self._rest = b""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> bytes:
        deadline = time.monotonic() + self.limit
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._out], [], [], left)[0]:
                self.timed_out = True
                raise StopIteration
            received = os.read(self._out.fileno(), 65536)
            if not received:
                raise StopIteration
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _digest(path: Path) -> str:
    """Of the manifest, which holds those of all other files; "" if there is none to read."""
    manifest = path / MANIFEST_FILE
    with contextlib.suppress(OSError):
        if reason_not_regular(manifest) is None:
            return hashlib.sha256(manifest.read_bytes()).hexdigest()
    return ""
