"""What a process and all its descendants have used, from /proc (Linux)."""

import os
import threading
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """The process and its descendants that live."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _stat(int(folder.name))
            if fields:
                parents[int(folder.name)] = int(fields[1])
    found = [pid]
    for member in found:
        found.extend(child for child, parent in parents.items() if parent == member)
    return found


def cpu_seconds(pid: int) -> float:
    """Processor seconds of the tree so far, of children that ended too."""
    ticks = sum(sum(map(int, fields[11:15])) for member in tree(pid) if (fields := _stat(member)))
    return ticks / _TICKS


def machine_cpu_seconds() -> float:
    """Processor seconds that the whole machine has used so far, and that its host kept from it."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / _TICKS


def resident_mib(pid: int) -> float:
    """Resident memory of the tree; pages that members share count once (PSS) where the kernel tells, else each time."""
    return sum(_resident_bytes(member) for member in tree(pid)) / 2**20


def _resident_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    except (OSError, StopIteration):
        pass
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the name; None where the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


class PeakMemory:
    """The largest resident memory of a tree while inside a `with`, looked at once a second and at both ends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.mib = 0.0

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.mib = max(self.mib, resident_mib(self._pid))
            if self._ended.wait(1.0):
                self.mib = max(self.mib, resident_mib(self._pid))
                return
