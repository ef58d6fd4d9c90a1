"""The cores and the memory that this process may use, by its control groups (the limits of a container or a unit).

Reads both versions of control groups, from the group's folder up to the root. The lowest limit counts.
"""

import os
from collections.abc import Iterator
from pathlib import Path

BASE_MEMORY = 100 * 2**20
"""Bytes of the supervisor, and of what all processes share."""
PROCESS_MEMORY = 250 * 2**20
"""Bytes of each process, with the models that Carry ships, in float32, in ordinary use."""


def available_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use, by its affinity and its quotas."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, round(quota)) for quota in _quotas(root))])


def available_memory(root: Path = Path("/")) -> int | None:
    """The bytes that this process may use; None if the system does not say."""
    limits = []
    for folder in _folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += [int(text) for text in _words(folder / name) if text.isdecimal()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def processes_to_run(root: Path = Path("/")) -> int:
    """One process for each core, if memory suffices; at least one."""
    memory = available_memory(root)
    by_memory = (memory - BASE_MEMORY) // PROCESS_MEMORY if memory is not None else available_cores(root)
    return max(1, min(available_cores(root), by_memory, 256))


def _quotas(root: Path) -> Iterator[float]:
    for folder in _folders(root, "cpu"):
        version_2 = _words(folder / "cpu.max")
        version_1 = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        for pair in (version_2, version_1):  # the quota "max" or -1 means none
            if len(pair) == 2 and pair[0].isdecimal() and int(pair[0]) > 0 and int(pair[1]) > 0:
                yield int(pair[0]) / int(pair[1])


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the process's control groups and of all groups above them. Some may not exist."""
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
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(top))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
