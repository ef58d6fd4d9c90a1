"""What the processes of one machine tell each other, in memory that they share: made before they are forked.

Each cell has one writer, so there is no lock to be held by a process that died. Knows nothing of HTTP or models.
"""

import mmap
import os
import time
from typing import NoReturn

import structlog

SILENT_AFTER = 5.0
"""Seconds without a heartbeat after which a process is not ready."""
ENDED = 2**64 - 1
"""In the place of the reloads that a process has completed: nobody waits for it."""
EXIT_BROKEN = 70
"""Exit status of a process that cannot go on (EX_SOFTWARE of sysexits.h)."""

_REASON_BYTES = 256


class Board:
    """For each process, by its place from 0: its heartbeat, why it is not ready, and how many reloads it was asked for
    and has completed. `asked` has one cell more, of the supervisor."""

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        cells = memoryview(mmap.mmap(-1, 8 * (4 * processes + 1)))
        integers, self._beats = cells[: -8 * processes].cast("Q"), cells[-8 * processes :].cast("d")
        self._pids = integers[:processes]
        self.done = integers[processes : 2 * processes]
        self.asked = integers[2 * processes :]
        self._reasons = memoryview(mmap.mmap(-1, _REASON_BYTES * processes))

    @property
    def wanted(self) -> int:
        """How many reloads all processes were asked for."""
        return sum(self.asked)

    def ask_for_reload(self) -> None:
        """The supervisor's: all processes reload their models soon."""
        self.asked[self.processes] += 1

    def enter(self, worker_index: int, pid: int) -> None:
        """A process begins at this place: it has no heartbeat yet and is not ready."""
        self._beats[worker_index] = 0.0
        self._pids[worker_index] = pid
        self.report(worker_index, "is starting")

    def beat(self, worker_index: int) -> None:
        """The event loop of the process turns."""
        self._beats[worker_index] = time.monotonic()

    def last_beat(self, worker_index: int) -> float:
        """On time.monotonic's clock, which all processes of a machine share; 0 before the first."""
        return self._beats[worker_index]

    def report(self, worker_index: int, reason: str) -> None:
        """Why the process at this place is not ready; "" if it is."""
        text = reason.encode()[: _REASON_BYTES - 1]
        start = _REASON_BYTES * worker_index
        self._reasons[start : start + _REASON_BYTES] = text.ljust(_REASON_BYTES, b"\0")

    def others_not_ready(self, worker_index: int) -> list[str]:
        """One sentence for each other process that is not ready."""
        return [text for other in range(self.processes) if other != worker_index and (text := self._not_ready(other))]

    def _not_ready(self, worker_index: int) -> str:
        start = _REASON_BYTES * worker_index
        reason = bytes(self._reasons[start : start + _REASON_BYTES]).rstrip(b"\0").decode(errors="replace")
        if not reason and time.monotonic() - self._beats[worker_index] > SILENT_AFTER:
            reason = "does not answer"
        return f"process {self._pids[place]} {reason}" if reason else ""


def end_process(reason: str) -> NoReturn:
    """End this process at once, from any thread: what it holds cannot be trusted any more, so nothing is finished.

    The supervisor starts another one in its place; a service of one process ends, and whoever runs it starts it again.
    """
    try:
        structlog.get_logger().critical("the process cannot go on and ends", reason=reason, process=os.getpid())
    finally:  # even where nothing can be written
        os._exit(EXIT_BROKEN)
