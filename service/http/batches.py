"""Many predictions in one call: reads the items, checks their limits together, runs them on the engine, and writes for
each its answer or its problem. Knows nothing of kinds of models."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from fastapi import Request
from pydantic import ValidationError

from service.engine.sequence import Task
from service.errors import CarryError, LimitExceededError
from service.http.context import RequestContext
from service.http.json_pieces import json_pieces
from service.http.json_route import to_json
from service.http.offload import take_turns, wait_all
from service.http.problems import problem_of
from service.kind import Model
from service.settings import Settings
from service.validation import as_invalid_request


class Steps(Protocol):
    """What an item costs: the steps that the model reads, and all that the engine counts."""

    @property
    def steps_read(self) -> int: ...
    @property
    def cost_steps(self) -> int: ...


class Prepared(Protocol):
    """A valid item. `answer_items`: numbers of its answer; `max_bytes`: the most memory that it holds until then."""

    @property
    def model(self) -> Model[Any]: ...
    @property
    def request(self) -> Steps: ...
    @property
    def answer_items(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...
    def task(self) -> Task[Any]: ...


Item = TypeVar("Item", bound=Prepared)


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """The items of a call, and the results of the valid ones by index; a result may be an error."""

    items: list[Item | CarryError]
    results: dict[int, Future[Any]]

    def answers(self, write: Callable[[Item, Any], Mapping[str, Any]], request: Request) -> Iterator[bytes]:
        """The answer's JSON, in pieces: for each item what `write` makes of its result, or a problem. Drops a result
        once it is written, to free its memory."""
        for i, item in enumerate(self.items):
            yield b"," if i else b'{"results":['
            if isinstance(item, CarryError):
                yield to_json(problem_of(item, request))
                continue
            try:
                result = self.results.pop(i).result()
            except CarryError as error:
                yield to_json(problem_of(_with_index(error, i), request))
            else:
                yield from json_pieces(write(item, result))
        yield b"]}"


def read_items(requests: list[Any], read: Callable[[Any], Item]) -> Iterator[Item | CarryError]:
    """Each item of `$.requests`, prepared, or its error. Drops an item once it is read, to free its memory."""
    for i, item in enumerate(requests):
        try:
            yield read(item)
        except ValidationError as error:
            yield as_invalid_request(error, ("requests", i))
        except CarryError as error:
            yield _with_index(error, i)
        requests[i] = None


async def run_batch(prepared: Iterator[Item | CarryError], call: RequestContext, path: str) -> Batch[Item]:
    """Run the valid items, all at once. `path`: the field that holds the items.

    Raises:
        LimitExceededError: together they exceed a limit.
        CarryError: one failed for a reason that the others share, such as the deadline.
    """
    limits = _Limits(call.app.settings, call.max_steps, path)
    items: list[Item | CarryError] = []
    async for item in take_turns(prepared, call.deadline):
        if not isinstance(item, CarryError):
            limits.add(item)
        items.append(item)
    valid = {i: item for i, item in enumerate(items) if not isinstance(item, CarryError)}
    if valid:
        call.take(limits.steps)
        call.hold(limits.bytes, path, next(iter(valid.values())).model.engine)

    def submit(i: int) -> "Future[Any]":
        return call.submit(valid[i].model.engine, valid[i].task(), valid[i].request.cost_steps)

    results = await wait_all({i: item.request.steps_read for i, item in valid.items()}, submit)
    async for future in take_turns(results.values(), call.deadline):
        error = future.exception()
        if isinstance(error, CarryError) and error.status >= 500:
            raise error
    return Batch(items, results)


class _Limits:
    """Limits on all items together: the size of the answer, and the steps to queue. They are added up in the turns in
    which the items are read: over ten thousand items, a sum takes tens of milliseconds."""

    def __init__(self, settings: Settings, max_steps: int, path: str) -> None:
        self._settings = settings
        self._max_steps = max_steps
        self._path = path
        self._answer_items = 0
        self.steps = self.bytes = 0
        """Of all items: the steps, and the most memory that they hold."""

    def add(self, item: Prepared) -> None:
        """Count another item.

        Raises:
            LimitExceededError: the items exceed a limit.
        """
        self._answer_items += item.answer_items
        self.steps += item.request.cost_steps
        self.bytes += item.max_bytes
        limit = self._settings.max_batch_answer_items
        if self._answer_items > limit:
            raise LimitExceededError(f"at most {limit} numbers in one answer, and these are more", self._path)
        limit = self._max_steps
        if self.steps > limit:
            raise LimitExceededError(f"at most {limit} steps of all items together, and these are more", self._path)


def _with_index(error: CarryError, i: int) -> CarryError:
    """The error of an item, with its path in the whole body."""
    error.path = error.path and f"$.requests[{i}]{error.path[1:]}"
    return error
