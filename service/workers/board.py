"""The board: memory that the processes of one machine share, with heartbeats, readiness, drains and counts of reloads.

The board is made before the fork. Each cell has one writer, so there is no lock that a dead process could hold. Knows
nothing of HTTP or models.
"""

import mmap
import time

from service.workers.allowances import Allowances

SILENT_AFTER = 5.0
"""Seconds without a heartbeat after which a process is not ready."""
ENDED = 2**64 - 1
"""The count of completed reloads of a process that has ended, so that no reload waits for it."""

_REASON_BYTES = 256


class Board:
    """For each process, by its index from 0: its heartbeat, the reason why it is not ready, when it ends, and how many
    reloads it has `requested` and `completed`. `requested` and the times of the ends have one more cell, for the
    supervisor."""

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        self.allowances = Allowances(processes)
        """The steps that each API key may still take."""
        integers = memoryview(mmap.mmap(-1, 8 * (3 * processes + 1))).cast("Q")
        times = memoryview(mmap.mmap(-1, 8 * (2 * processes + 1))).cast("d")
        self._pids = integers[:processes]
        self.completed = integers[processes : 2 * processes]
        self.requested = integers[2 * processes :]
        self._beats, self._ends = times[:processes], times[processes:]
        self._reasons = memoryview(mmap.mmap(-1, _REASON_BYTES * processes))
        self._restarts = memoryview(mmap.mmap(-1, 8)).cast("Q")

    @property
    def target(self) -> int:
        """How many reloads every process has to complete: all that were requested."""
        return sum(self.requested)

    def request_reload(self) -> None:
        """Make all processes reload their models soon. Only the supervisor may call it: it writes its cell."""
        self.requested[self.processes] += 1

    def enter(self, worker_index: int, pid: int) -> None:
        """A process starts: it has no heartbeat yet and is not ready."""
        self._beats[worker_index] = 0.0
        self._ends[worker_index] = 0.0
        self._pids[worker_index] = pid
        self.report(worker_index, "is starting")

    @property
    def pids(self) -> list[int]:
        """The process of each index; 0 before it starts."""
        return self._pids.tolist()

    @property
    def restarts(self) -> int:
        """How often a process died and was started again."""
        return self._restarts[0]

    def count_restart(self) -> None:
        """A process died and is started again. Only the supervisor may call it: it writes the cell."""
        self._restarts[0] += 1

    def beat(self, worker_index: int) -> None:
        """The event loop of the process runs."""
        self._beats[worker_index] = time.monotonic()

    def last_beat(self, worker_index: int) -> float:
        """time.monotonic() of the last heartbeat, a clock that all processes of a machine share; 0 before the first."""
        return self._beats[worker_index]

    def drain(self, index: int, end: float) -> None:
        """The process drains: it is not ready, and accepts connections until `end` (time.monotonic()) or an earlier
        one. The supervisor's index, `processes`, is for all processes."""
        self._ends[index] = min(end, self._ends[index] or end)

    def end_of_drain(self, worker_index: int) -> float | None:
        """When the process's drain ends; None if it does not drain."""
        ends = [end for end in (self._ends[worker_index], self._ends[self.processes]) if end]
        return min(ends) if ends else None

    def report(self, worker_index: int, reason: str) -> None:
        """Set the reason why the process is not ready; "" if it is ready."""
        text = reason.encode()[: _REASON_BYTES - 1]
        start = _REASON_BYTES * worker_index
        self._reasons[start : start + _REASON_BYTES] = text.ljust(_REASON_BYTES, b"\0")

    def others_not_ready(self, worker_index: int) -> list[str]:
        """One sentence for each other process that is not ready."""
        return [text for other in range(self.processes) if other != worker_index and (text := self._not_ready(other))]

    def _not_ready(self, worker_index: int) -> str:
        if self.end_of_drain(worker_index) is not None:
            return f"process {self._pids[worker_index]} is ending"
        start = _REASON_BYTES * worker_index
        reason = bytes(self._reasons[start : start + _REASON_BYTES]).rstrip(b"\0").decode(errors="replace")
        if not reason and time.monotonic() - self._beats[worker_index] > SILENT_AFTER:
            reason = "does not answer"
        return f"process {self._pids[worker_index]} {reason}" if reason else ""
