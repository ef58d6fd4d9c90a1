"""A request in an engine, and updates that concern several requests and must not stop halfway."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from service.engine.sequence import Task


class Request:
    """A task in an engine. Cancelling its future drops it.

    cost_steps: how many steps the task takes at most. deadline: on time.monotonic's clock; past it, the task fails.
    group: requests of one group share one turn in the queues; without a group, the request is its own. owner: the
    groups of one owner share the turns of that owner. on_settled: called with the `unrun_steps` at the end. on_begin:
    called with the time.perf_counter() of the first call of the graph that it takes part in.
    """

    def __init__(
        self,
        task: Task[Any],
        cost_steps: int,
        deadline: float,
        group: Hashable = None,
        owner: str = "",
        on_settled: Callable[[int], object] | None = None,
        on_begin: Callable[[float], object] | None = None,
    ) -> None:
        self.task = task
        self.remaining_steps = cost_steps
        """Steps that count as waiting: none of a request that has ended."""
        self.unrun_steps = cost_steps
        self.on_settled = on_settled
        self.on_begin = on_begin
        self.deadline = deadline
        self.group: Hashable = self if group is None else group
        self.owner = owner
        self.future: Future[Any] = Future()
        self.submitted = perf_counter()
        self.has_begun = False
        """Whether it has taken part in a call of the graph."""
        self.unfinished_rows = 0
        """Decoding rows that have not ended."""
        self.queued = False
        """Whether the prefill queue or the decode batch holds it."""
        self.finished = False


class PartialUpdateError(Exception):
    """An update broke off halfway: what the queues hold of these requests may be incomplete."""

    def __init__(self, requests: Sequence[Request]) -> None:
        super().__init__("an update broke off halfway")
        self.requests = requests


@contextmanager
def atomic(requests: Sequence[Request]) -> Iterator[None]:
    """A block that updates what the queues hold of these requests. Nothing is rolled back: if it fails, the scheduler
    ends the requests.

    Raises:
        PartialUpdateError: the block failed.
    """
    try:
        yield
    except Exception as error:
        raise PartialUpdateError(requests) from error
