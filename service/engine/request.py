"""A task under way."""

from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from service.engine.sequence import Task


class Request:
    """A task under way. Cancelling its future drops it; past the deadline (on time.monotonic's clock) it fails.

    `work`: the steps that it has yet to go, at most. `group`: the requests that share one turn; each is its own if none
    is given.
    """

    def __init__(self, task: Task[Any], work: int, deadline: float, group: Hashable = None) -> None:
        self.task = task
        self.work = work
        self.deadline = deadline
        self.group: Hashable = self if group is None else group
        self.future: Future[Any] = Future()
        self.rows_left = 0
        """Of its decoding rows."""
        self.queued = False
        """Whether it waits for the engine, and not the engine for its task."""
        self.gone = False


class PartialUpdateError(Exception):
    """A change was broken off in the middle: what is held of these requests may be incomplete."""

    def __init__(self, requests: Sequence[Request]) -> None:
        super().__init__("broken off")
        self.requests = requests


@contextmanager
def whole(requests: Sequence[Request]) -> Iterator[None]:
    """A change of what is held of these requests, to be made whole.

    Raises:
        TornError: it was broken off.
    """
    try:
        yield
    except Exception as error:
        raise PartialUpdateError(requests) from error
