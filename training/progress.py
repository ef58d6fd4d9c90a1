"""What a long command says on standard error: a line for each stage, and how far a long stage is.

On a terminal a bar moves; elsewhere (a pipe, the log of a container) there is a line for each epoch, and at least every
few seconds. Without `to_stderr`, as when a test or a program calls a recipe, nothing is said.
"""

import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS = 5.0
"""Between two lines about the same stage, at least."""

_log = logging.getLogger(__package__)

Update = Callable[..., None]
"""update(completed, text, always=False): how far a stage is; `always`: write the line even if one was just written."""


def say(message: str) -> None:
    """Say which stage begins, or what was decided and why."""
    _log.info(message)


def counted(number: int, noun: str) -> str:
    """1 epoch, 2 epochs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def to_stderr(prefix: str = "carry: ") -> Iterator[None]:
    """Write to standard error what is said in this block, and warnings of this package."""
    handler = _Lines(prefix)
    level = _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)


@contextmanager
def track(total: float) -> Iterator[Update]:
    """Show how much of a stage is done, of `total`."""
    if _console().is_terminal and _log.isEnabledFor(logging.INFO):
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=_console(), transient=True) as bar:
            task = bar.add_task("", total=total)

            def move(completed: float, text: str, always: bool = False) -> None:
                bar.update(task, completed=completed, description=escape(text))

            yield move
        return
    newest = time.monotonic()

    def write(completed: float, text: str, always: bool = False) -> None:
        nonlocal newest
        now = time.monotonic()
        if always or now - newest >= SECONDS:
            newest = now
            say(text)

    yield write


@functools.cache
def _console() -> Console:
    """One for lines and bars, so that a line does not tear a bar."""
    return Console(stderr=True)


class _Lines(logging.Handler):
    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        line = self._prefix + record.getMessage()
        if _console().is_terminal:
            _console().print(line, markup=False, highlight=False, soft_wrap=True, emoji=False)
        else:  # at once, so that nothing is left of it if a signal arrives
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
