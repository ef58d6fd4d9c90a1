"""What this process may use of its machine: cores and memory, by its control groups (a container's or a unit's limits).

Both versions of control groups are read, from the group's own folder up to the root: the least limit counts.
"""

import os
from collections.abc import Iterator
from pathlib import Path

BASE_MEMORY = 100 * 2**20
"""What the supervisor takes, and what all processes share."""
PROCESS_MEMORY = 150 * 2**20
"""What a process takes of its own, with the models that Carry ships, at rest and in ordinary use."""


def available_cores(root: Path = Path("/")) -> int:
    """By the affinity of this process, and by quotas."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, round(quota)) for quota in _quotas(root))])


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes; None if nobody says."""
    limits = []
    for folder in _folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += [int(text) for text in _words(folder / name) if text.isdecimal()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def processes_to_run(root: Path = Path("/")) -> int:
    """One for each core, as far as memory goes; at least one."""
    memory = available_memory(root)
    by_memory = (memory - BASE_MEMORY) // PROCESS_MEMORY if memory is not None else available_cores(root)
    return max(1, min(available_cores(root), by_memory, 256))


def _quotas(root: Path) -> Iterator[float]:
    for folder in _folders(root, "cpu"):
        of_two = _words(folder / "cpu.max")
        of_one = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        for pair in (of_two, of_one):
            if len(pair) == 2 and pair[0].isdecimal() and int(pair[0]) > 0 and int(pair[1]) > 0:  # "max", or -1: none
                yield int(pair[0]) / int(pair[1])


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Of the process's groups and all above them, which of them there are."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    groups = [(mounted, "/"), (mounted / controller, "/")]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            groups.append((mounted, path))
        elif controller in controllers.split(","):
            groups += [(mounted / controller, path), (mounted / controllers, path)]
    for top, path in groups:
        folder = top / path.lstrip("/")
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(top))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
