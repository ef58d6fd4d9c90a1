"""The steps a minute that each API key may still take, in memory that the processes of one machine share.

Each key has a token bucket, made before the fork, without a lock that a dead process could hold: of each cell, one
process is the writer. A bucket counts in seconds of its key's limit: 60 fill it, a second brings one, and a task takes
the seconds in which the limit allows its steps. So the memory means the same after a limit changes.
"""

import hashlib
import mmap
import threading
import time

MINUTE = 60.0
"""Seconds of its limit that a key may save up, and so take at once."""
SLOTS = 2**14
"""How many keys can have a bucket while the service runs. The system allocates only the memory that is written."""
_ROUNDING = 1e-6
"""Seconds: far above the rounding of sums of seconds, far below a step."""


class NoRoomError(Exception):
    """No slot is left for another key."""


class Allowances:
    """The buckets of all keys. A table by hash, with open addressing: slots are taken and never freed."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._tags = memoryview(mmap.mmap(-1, 8 * SLOTS)).cast("Q")
        """The tag of the key that has the slot; 0 if none has."""
        self._cells = memoryview(mmap.mmap(-1, 8 * SLOTS * 2 * processes)).cast("d")

    def of(self, owner: str, worker_index: int) -> "Allowance":
        """The bucket of a key, for one process.

        Raises:
            NoRoomError: too many keys had a bucket since the service started.
        """
        tag = int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8]) or 1
        return Allowance(self, tag, worker_index)

    def attach(self, tag: int) -> int:
        """The slot of this tag. Two processes may take one slot at once for different keys: the last writer has it, and
        the other one finds that out at its next look."""
        for i in range(SLOTS):
            slot = (tag + i) % SLOTS
            if self._tags[slot] in (0, tag):
                self._tags[slot] = tag
                return slot
        raise NoRoomError(f"more than {SLOTS} keys had a limit of steps since the service started: restart it")

    def has(self, slot: int, tag: int) -> bool:
        """Whether the tag has the slot."""
        return self._tags[slot] == tag

    def cells(self, slot: int) -> "tuple[memoryview[float], memoryview[float]]":
        """By process: the seconds that it took from the bucket, and the lowest balance that it has seen."""
        start, size = 2 * self._processes * slot, self._processes
        return self._cells[start : start + size], self._cells[start + size : start + 2 * size]


class Allowance:
    """The bucket of one key, as one process uses it. Any thread may.

    The balance, all seconds ever taken minus the clock, rises with what is taken and falls by a second a second. It is
    lowest when the bucket is full; what it is above its lowest is missing in the bucket. It sinks to a new lowest only
    until something is taken, so whoever takes notes the balance before.
    """

    def __init__(self, allowances: Allowances, tag: int, worker_index: int) -> None:
        self._allowances = allowances
        self._tag = tag
        self._worker_index = worker_index
        self._lock = threading.Lock()  # of this process's threads
        self._slot = allowances.attach(tag)
        self._taken, self._lowest = allowances.cells(self._slot)

    def take(self, seconds: float, now: float | None = None) -> float:
        """Take seconds from the bucket if it has them: return 0. Else return in how many seconds it will have them.
        `now`: time.monotonic(), which all processes of a machine share."""
        with self._lock:
            wait = self._missing(time.monotonic() if now is None else now) + seconds - MINUTE
            if wait > _ROUNDING:
                return wait
            self._taken[self._worker_index] += seconds
            return 0.0

    def give_back(self, seconds: float) -> None:
        """Put seconds back that were taken and not used."""
        with self._lock:
            self._taken[self._worker_index] -= seconds

    def missing(self, now: float | None = None) -> float:
        """The seconds until the bucket is full."""
        with self._lock:
            return self._missing(time.monotonic() if now is None else now)

    def _missing(self, now: float) -> float:
        if not self._allowances.has(self._slot, self._tag):
            self._slot = self._allowances.attach(self._tag)
            self._taken, self._lowest = self._allowances.cells(self._slot)
        balance, lowest = sum(self._taken) - now, self._lowest
        if balance < lowest[self._worker_index]:
            lowest[self._worker_index] = balance
        return float(balance - min(lowest))
