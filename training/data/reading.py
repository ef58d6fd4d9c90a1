"""Reads series for training and for measuring, and says what was read of each file, what was not, and why."""

from collections.abc import Sequence
from pathlib import Path

from carry.files import DataError, ReadOptions, Series, read_files
from training.progress import say


def read(paths: Sequence[Path], options: ReadOptions) -> tuple[list[Series], tuple[str, ...]]:
    """The series that can be used, and the names of their features, the target first.

    Raises:
        DataError: as `read_files`; or no series can be used.
    """
    reading = read_files(paths, options)
    for report in reading.reports:
        for line in report.lines():
            say(line)
        for line in report.failure_lines():
            say(f"not used: {line}")
    if not reading.series:
        why = f": {reading.failures[0].id}: {reading.failures[0].reason}" if reading.failures else ""
        raise DataError(f"{', '.join(map(str, paths))}: no series can be used{why}")
    return reading.series, reading.names
