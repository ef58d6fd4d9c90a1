"""Continuous batching: one graph for everybody who asks, joining and leaving between its steps.

After BatchMaker's cellular batching (Gao et al., "Low latency RNN inference with cellular batching", EuroSys 2018).
Each turn lets every decoding row take a few steps, all in one call of the graph, and then reads a bounded
piece of what waits to be read, several requests in one call. Nobody waits for a batch to fill or to end, and as the
graph gives each row the same bits in any company, nobody's answer shows that there was company.
"""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.runner import Array, Runner, States
from service.engine.sequence import Decode, Decoder, Read, Result, Task
from service.errors import DeadlineExceededError, ModelFailedError
from service.manifest import PER_STEP_OUTPUTS
from service.metrics import EngineMetrics

CHUNK = 512
"""Most steps of input read in one call of the graph: more gains nothing, and would keep the others waiting."""
LEAST_CHUNK = 8
READ_ROWS = 16
"""Rows read in one call: more of them fall out of the processor's cache."""
READ_SECONDS = 0.02
"""How long one call may read while nobody decodes; while somebody does, as long as a decoding step takes."""


class Request:
    """A task under way. Cancelling its future drops it; past the deadline (on time.monotonic's clock) it fails."""

    def __init__(self, task: Task[Any], work: int, deadline: float) -> None:
        self.task = task
        self.work = work
        self.deadline = deadline
        self.future: Future[Any] = Future()
        self.rows_left = 0
        """Of its decoding rows."""
        self.gone = False


class _Reading:
    """A read under way."""

    def __init__(self, request: Request, read: Read) -> None:
        self.request = request
        self.inputs = read.inputs
        self.outputs = read.outputs
        self.timeless = read.timeless
        self.states: Mapping[str, Array] = read.states
        """Those that are not fresh."""
        self.rows: int
        self.length: int
        self.rows, self.length = next(iter(read.inputs.values())).shape[:2]
        self.at = 0
        self.last: dict[str, Array] = {}
        self.pieces: dict[str, list[Array]] = {name: [] for name in read.outputs if name in PER_STEP_OUTPUTS}


@dataclass(frozen=True)
class Decoding:
    """The graph that takes several steps at once, and who knows what they mean."""

    runner: Runner
    decoder: Decoder


class Scheduler:
    """Runs requests on a graph, all at once, each as if it were alone.

    `any_split`: the graph gives the same bits however its input is cut; otherwise input is cut every `chunk` steps from
    its own start, whoever else is there. `ended` is told of every request that ends, before its future is.
    """

    def __init__(
        self,
        runner: Runner,
        decoding: Decoding | None,
        any_split: bool,
        metrics: EngineMetrics,
        ended: Callable[[Request], None] = lambda _: None,
        chunk: int = CHUNK,
    ) -> None:
        self._runner = runner
        self._decoding = decoding
        self._any_split = any_split
        self._metrics = metrics
        self._ended = ended
        self._chunk = chunk
        self._requests: set[Request] = set()
        self._some_cancelled = False
        """Set on the thread of whoever cancels."""
        self._first_deadline = math.inf
        """Of those under way, or an earlier time."""
        self._reads: deque[_Reading] = deque()
        self._owners: list[Request] = []
        """Whose the rows are that decode."""
        self._states: States = {}
        """Theirs, in contiguous tensors."""
        self._joining: list[tuple[Request, Decode]] = []
        self._pace: dict[int, float] = {}
        """Seconds a step of reading takes, by the logarithm of the rows."""
        self._decode_seconds = 0.0
        self._dropped = False
        """Whether a request may have ended before its wish was done."""
        self.failed = False
        """Whether the last step failed in the model itself."""

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._requests)

    def add(self, request: Request) -> None:
        """Let a request join at the next turn."""
        self._requests.add(request)
        self._first_deadline = min(self._first_deadline, request.deadline)
        request.future.add_done_callback(self._note)
        self._resume(request, None)

    def turn(self) -> int:
        """Drop who has gone, one step for all who decode, a piece for some who read; how many steps of rows it was."""
        self._drop_gone()
        return self._decode() + self._read()

    def end_all(self, error: Exception) -> None:
        """Give up all requests."""
        for request in [*self._requests]:
            self._end(request, error=error)
        self._drop_gone()

    def _resume(self, request: Request, result: Result | None) -> None:
        """Let a task go on to its next wish, or to its end."""
        try:
            wish = request.task.send(result)
        except StopIteration as end:
            self._end(request, answer=end.value)
        except Exception as error:
            self._end(request, error=error)
        else:
            if isinstance(wish, Decode):
                request.rows_left = len(wish.rows)
                self._joining.append((request, wish))
            else:
                self._reads.append(_Reading(request, wish))

    def _end(self, request: Request, answer: object = None, error: Exception | None = None) -> None:
        request.gone = True
        self._dropped |= answer is None
        request.task.close()
        self._requests.discard(request)
        self._ended(request)
        try:
            if error is None:
                request.future.set_result(answer)
            else:
                request.future.set_exception(error)
        except InvalidStateError:
            pass  # cancelled meanwhile

    def _note(self, future: Future[Any]) -> None:
        if future.cancelled():
            self._some_cancelled = True

    def _drop_gone(self) -> None:
        """Drop those whose caller has gone or whose time is up, before they cost another step."""
        now = time.monotonic()
        # Each turn comes here: of ten thousand requests, it must not look at all without a reason.
        if self._some_cancelled or now > self._first_deadline:
            self._some_cancelled = False
            for request in [*self._requests]:
                if request.future.cancelled():
                    self._metrics.cancelled.inc()
                    self._end(request)
                elif now > request.deadline:
                    self._metrics.expired.inc()
                    self._end(request, error=DeadlineExceededError("not done by the deadline; nothing was changed"))
            self._first_deadline = min((request.deadline for request in self._requests), default=math.inf)
        if not self._dropped:
            return
        self._dropped = False
        if any(reading.request.gone for reading in self._reads):
            self._reads = deque(reading for reading in self._reads if not reading.request.gone)
        self._joining = [(request, wish) for request, wish in self._joining if not request.gone]
        if any(request.gone for request in self._owners):
            self._keep(np.array([not request.gone for request in self._owners]))

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        assert self._decoding is not None
        self._decoding.decoder.keep(kept)
        self._states = {name: array[kept] for name, array in self._states.items()}
        self._owners = [request for request, stays in zip(self._owners, kept, strict=True) if stays]

    def _join(self) -> None:
        assert self._decoding is not None
        for request, wish in self._joining:
            self._decoding.decoder.join(wish.rows)
            states = self._decoding.runner.fresh(len(wish.rows)) | wish.states
            if self._owners:
                states = {name: np.concatenate([array, states[name]]) for name, array in self._states.items()}
            self._states = states
            self._owners += [request] * len(wish.rows)
        self._joining = []

    def _decode(self) -> int:
        """A few steps of every row that decodes; how many steps of rows that was."""
        if self._joining:
            self._join()
        if not self._owners:
            self._decode_seconds = 0.0
            return 0
        assert self._decoding is not None
        started, decoder = time.perf_counter(), self._decoding.decoder
        try:
            found, self._states = self._watched(
                self._decoding.runner.run, decoder.inputs(), self._states, decoder.outputs
            )
        except ModelFailedError as error:
            for request in set(self._owners):
                self._end(request, error=error)
            self._drop_gone()
            return 0
        rows = len(self._owners)
        steps, going = decoder.take(found, self._states)
        if not going.all():
            ended = [request for request, goes in zip(self._owners, going, strict=True) if not goes]
            self._keep(going)
            for request in ended:
                request.rows_left -= 1
                if not request.rows_left:
                    self._resume(request, None)
        self._decode_seconds = time.perf_counter() - started
        self._metrics.decode_calls.inc()
        self._metrics.decode_steps.inc(rows * steps)
        return rows * steps

    def _read(self) -> int:
        """Read a piece for some of those who wait, the first come first; how many steps of how many rows that was."""
        if not self._reads:
            return 0
        group, steps = self._next_reads()
        lengths = [min(steps, reading.length - reading.at) for reading in group]
        rows: int = sum(reading.rows for reading in group)
        inputs = {name: _padded(group, name, lengths, steps) for name in group[0].inputs}
        inputs |= {name: np.concatenate([r.timeless[name] for r in group]) for name in group[0].timeless}
        states = self._gathered(group, rows)
        started = time.perf_counter()
        try:
            found, after = self._watched(
                self._runner.read, inputs, np.repeat(lengths, [r.rows for r in group]), states, group[0].outputs
            )
        except ModelFailedError as error:
            for reading in group:
                self._end(reading.request, error=error)
            return rows * steps
        pace, size = (time.perf_counter() - started) / steps, rows.bit_length()
        self._pace[size] = 0.7 * self._pace.get(size, pace) + 0.3 * pace
        self._metrics.read_calls.inc()
        self._metrics.read_steps.inc(sum(length * r.rows for length, r in zip(lengths, group, strict=True)))
        first = 0
        for reading, length in zip(group, lengths, strict=True):
            own = slice(first, first + reading.rows)
            first += reading.rows
            reading.at += length
            reading.states = {name: array[own] for name, array in after.items()}
            for name, array in zip(reading.outputs, found, strict=True):
                if name in reading.pieces:
                    reading.pieces[name].append(array[own, :length])
                else:
                    reading.last[name] = array[own]
            if reading.at < reading.length:
                self._reads.append(reading)
            else:
                self._resume(reading.request, _result(reading))
        return rows * steps

    def _gathered(self, group: Sequence[_Reading], rows: int) -> States:
        """The states of the group in contiguous tensors."""
        states, first = self._runner.fresh(rows), 0
        for reading in group:
            for name, array in reading.states.items():
                states[name][first : first + reading.rows] = array
            first += reading.rows
        return states

    def _next_reads(self) -> tuple[list[_Reading], int]:
        """Take those who are read next from the queue, and for how many steps. The first of them is first in the queue;
        the others want the same outputs and as many steps, to a factor of two, so that little is padded."""
        first = self._reads[0]
        rows = max(
            first.rows, min(READ_ROWS, sum(reading.rows for reading in itertools.islice(self._reads, READ_ROWS)))
        )
        most = self._chunk
        if self._any_split:
            allowed = (self._decode_seconds or READ_SECONDS) / self._expected_pace(rows)
            most = min(most, max(LEAST_CHUNK, int(allowed)))
        steps = min(most, first.length - first.at)
        group: list[_Reading] = []
        others: deque[_Reading] = deque()
        taken = 0
        while self._reads and taken < rows:
            reading = self._reads.popleft()
            ahead = reading.length - reading.at
            if not self._any_split:
                ahead = min(ahead, self._chunk)
            fits = taken + reading.rows <= rows and reading.outputs == first.outputs
            if fits and 2 * ahead >= steps and (self._any_split or ahead <= steps):
                group.append(reading)
                taken += reading.rows
            else:
                others.append(reading)
        others.extend(self._reads)
        self._reads = others
        return group, steps

    def _expected_pace(self, rows: int) -> float:
        """Seconds a step of so many rows takes: as last time, else at most in proportion to a smaller batch."""
        size = rows.bit_length()
        smaller = [known for known in self._pace if known <= size]
        if smaller:
            return self._pace[max(smaller)] * float(2 ** (size - max(smaller)))
        return max(self._pace.values(), default=READ_SECONDS / LEAST_CHUNK)

    def _watched(self, run: Callable[..., tuple[list[Array], States]], *arguments: Any) -> tuple[list[Array], States]:
        """Run the graph, and note whether it failed."""
        try:
            found = run(*arguments)
        except ModelFailedError:
            self.failed = True
            raise
        self.failed = False
        return found


def _padded(group: Sequence[_Reading], name: str, lengths: Sequence[int], steps: int) -> Array:
    """The next piece of one input of all of the group: (B, steps, ...), zero past each one's end."""
    pieces = [r.inputs[name][:, r.at : r.at + length] for r, length in zip(group, lengths, strict=True)]
    if len(pieces) == 1 and lengths[0] == steps:
        return pieces[0]
    padded = np.zeros((sum(map(len, pieces)), steps, *pieces[0].shape[2:]), dtype=pieces[0].dtype)
    first = 0
    for piece in pieces:
        padded[first : first + len(piece), : piece.shape[1]] = piece
        first += len(piece)
    return padded


def _result(reading: _Reading) -> Result:
    pieces = {
        name: found[0] if len(found) == 1 else np.concatenate(found, axis=1) for name, found in reading.pieces.items()
    }
    return Result(reading.last | pieces, reading.states)
