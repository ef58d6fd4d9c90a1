"""Continuous batching: requests join and leave one graph between its steps.

After BatchMaker's cellular batching (Gao et al., "Low latency RNN inference with cellular batching", EuroSys 2018).
Each iteration makes one decode call for the running rows, and one call that prefills a bounded chunk of some waiting
requests. No request waits for a batch to fill or to end; if more want to run than fit in a call, groups of requests
take turns. The graph gives each row the same bits in any batch, so no answer depends on the other requests.

If a call fails, each of its requests runs alone, so that only the request at fault ends.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from service.engine.decode import DecodeBatch, DecodeGraph
from service.engine.prefill import CHUNK, MIN_CHUNK, PREFILL_SECONDS, PrefillQueue, PrefillState
from service.engine.request import PartialUpdateError, Request, atomic
from service.engine.runner import Runner
from service.engine.sequence import Decode, PrefillResult
from service.errors import DeadlineExceededError, ModelFailedError
from service.events import log

if TYPE_CHECKING:
    from service.metrics import EngineMetrics

SHARED_SECONDS = 10.0
"""How long an engine counts as used by several owners after a request of another owner than the one before it."""

StepCounts = list[tuple[Request, int]]
"""Steps of rows that were done, by request; a request may occur more than once."""


class Scheduler:
    """Runs requests on a graph, all at once, each as if it were alone.

    `split_invariant`: the graph gives the same bits however its input is cut. `on_finished` is called with each request
    that finishes, before its future is set. `smoke_test` runs a few steps that any working model can run, and raises
    if the model fails them.
    """

    def __init__(
        self,
        runner: Runner,
        decode_graph: DecodeGraph | None,
        split_invariant: bool,
        metrics: "EngineMetrics",
        on_finished: Callable[[Request], None] = lambda _: None,
        chunk: int = CHUNK,
        smoke_test: Callable[[], object] = lambda: None,
    ) -> None:
        self.prefill_queue = PrefillQueue(runner, split_invariant, chunk)
        self.decode_batch = None if decode_graph is None else DecodeBatch(decode_graph)
        self._metrics = metrics
        metrics.up.set(1)
        self._on_finished = on_finished
        self._smoke_test = smoke_test
        self._requests: set[Request] = set()
        self._any_cancelled = False
        """Set by the thread that cancels a future."""
        self._first_deadline = math.inf
        """Of the requests, or an earlier time."""
        self._decode_seconds = 0.0
        self._last_owner: str | None = None
        self._shared_until = 0.0
        """On time.monotonic's clock; see SHARED_SECONDS."""
        self._any_dropped = False
        """Whether a request finished while the prefill queue or the decode batch held it."""
        self.failed = False
        """Whether the model failed its last smoke test. One runs whenever a step fails, since a step may fail because
        of a request alone."""

    @property
    def busy(self) -> bool:
        """Whether there are unfinished requests."""
        return bool(self._requests)

    @property
    def _shared(self) -> bool:
        """Whether several owners use the engine."""
        return monotonic() < self._shared_until

    def add(self, request: Request) -> None:
        """Start a request at the next step."""
        self._requests.add(request)
        if request.owner != self._last_owner:
            if self._last_owner is not None:
                self._shared_until = monotonic() + SHARED_SECONDS
            self._last_owner = request.owner
        try:
            self._first_deadline = min(self._first_deadline, request.deadline)
            request.future.add_done_callback(self._note_cancellation)
            self._run_task(request, None)
        except Exception as error:
            self.finish(request, error=error)

    def step(self) -> StepCounts:
        """One iteration: drop finished requests, make one decode call, prefill one chunk. Returns the steps of rows."""
        try:
            self._drop_finished()
            return self._decode() + self._prefill()
        except PartialUpdateError as partial:
            self._fail(partial.requests, partial.__cause__ if isinstance(partial.__cause__, Exception) else partial)
            return []

    def finish(self, request: Request, answer: object = None, error: Exception | None = None) -> None:
        """Finish a request with its answer or an error, whatever else fails. Can be repeated if it is interrupted."""
        request.finished = True
        self._any_dropped |= request.queued
        try:
            request.task.close()
        except Exception as close_error:
            error = error or close_error
        try:
            self._on_finished(request)
        finally:
            with suppress(InvalidStateError):  # cancelled meanwhile
                if error is None:
                    request.future.set_result(answer)
                else:
                    request.future.set_exception(error)
            self._requests.discard(request)

    def fail_all(self, error: Exception) -> None:
        """Finish all requests with an error."""
        self._fail([*self._requests], error)
        self._drop_finished()

    def run_smoke_test(self) -> None:
        """Run the model's smoke test, which sets `failed`."""
        failed = False
        try:
            self._smoke_test()
        except Exception:
            failed = True
            if not self.failed:
                with suppress(Exception):
                    log().exception("the model fails its smoke test")
        if self.failed and not failed:
            with suppress(Exception):
                log().info("the model passes its smoke test again")
        self.failed = failed
        self._metrics.up.set(not failed)

    def _run_task(self, request: Request, result: PrefillResult | None) -> None:
        """Run a task up to its next prefill or decode, or to its end. The caller finishes the request if this fails."""
        try:
            request.queued = False
            command = request.task.send(result)
            request.queued = True
            if isinstance(command, Decode):
                assert self.decode_batch is not None
                request.unfinished_rows = len(command.rows)
                self.decode_batch.add(request, command)
            else:
                self.prefill_queue.add(PrefillState(request, command))
        except StopIteration as end:
            self.finish(request, answer=end.value)

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        for request in requests:
            self.finish(request, error=error)

    def _measure_wait(self, requests: Sequence[Request], started: float) -> None:
        """The requests took part in a call of the graph that started then (perf_counter)."""
        for request in requests:
            if not request.has_begun:
                request.has_begun = True
                self._metrics.queue_wait_seconds.observe(started - request.submitted)
                if request.on_begin is not None:
                    request.on_begin(started)

    def _note_cancellation(self, future: Future[Any]) -> None:
        if future.cancelled():
            self._any_cancelled = True

    def _drop_finished(self) -> None:
        """Drop requests that were cancelled or are past their deadline, before they cost another step."""
        now = monotonic()
        # Every step comes here: do not look at ten thousand requests without a reason.
        if self._any_cancelled or now > self._first_deadline:
            self._any_cancelled = False
            for request in [*self._requests]:
                if request.future.cancelled():
                    self._metrics.cancelled.inc()
                    self.finish(request)
                elif now > request.deadline:
                    self._metrics.expired.inc()
                    self.finish(request, error=DeadlineExceededError("not done by the deadline; nothing was changed"))
            self._first_deadline = min((request.deadline for request in self._requests), default=math.inf)
        if self._any_dropped:
            self.prefill_queue.drop_finished()
            if self.decode_batch is not None:
                self.decode_batch.drop_finished()
            self._any_dropped = False

    def _decode(self) -> StepCounts:
        """Make one decode call for the running rows."""
        batch = self.decode_batch
        if not batch:
            self._decode_seconds = 0.0
            return []
        started = perf_counter()
        try:
            outputs, states = batch.run(self._shared)
        except PartialUpdateError:
            raise
        except Exception as error:
            requests = batch.requests
            if not requests:
                raise
            self._smoke_test_after(error)
            if len(requests) > 1 and not self.failed:
                batch.isolate()
            else:
                self._fail(requests, error)
            return []
        requests = batch.requests
        self._measure_wait(requests, started)
        try:
            outcome = batch.advance(outputs, states)
        except Exception as error:
            # Some rows may have taken the step, others not.
            batch.clear()
            raise PartialUpdateError(requests) from error
        for request, row_error in outcome.failed:
            self.finish(request, error=row_error)
        for request in outcome.ended:
            request.unfinished_rows -= 1
            if not request.unfinished_rows and not request.finished:
                try:
                    self._run_task(request, None)
                except Exception as error:
                    self.finish(request, error=error)
        self._decode_seconds = perf_counter() - started
        self._metrics.decode_seconds.inc(self._decode_seconds)
        self._metrics.decode_rows.observe(len(outcome.steps))
        self._metrics.decode_steps.inc(sum(steps for _, steps in outcome.steps))
        return outcome.steps

    def _prefill(self) -> StepCounts:
        """Prefill one chunk of some waiting requests."""
        queue = self.prefill_queue
        if not queue:
            return []
        batch, steps = queue.next_batch(self._decode_seconds or PREFILL_SECONDS, self._shared)
        lengths = [min(steps, prefill.remaining) for prefill in batch]
        started = perf_counter()
        try:
            batch_outputs, batch_states = queue.run(batch, lengths, steps)
        except Exception as error:
            self._smoke_test_after(error)
            if len(batch) > 1 and not self.failed:
                queue.isolate(batch)
            else:
                self._fail([prefill.request for prefill in batch], error)
            return []
        rows: int = sum(prefill.rows for prefill in batch)
        seconds = perf_counter() - started
        # A call of few steps, such as each of a beam search, is mostly overhead: it says little of a step's time.
        if steps >= MIN_CHUNK:
            queue.record(rows, seconds / steps)
        self._metrics.prefill_seconds.inc(seconds)
        self._measure_wait([prefill.request for prefill in batch], started)
        done: StepCounts = [(p.request, length * p.rows) for p, length in zip(batch, lengths, strict=True)]
        start = 0
        with atomic([prefill.request for prefill in batch]):
            for prefill, length in zip(batch, lengths, strict=True):
                part = slice(start, start + prefill.rows)
                start += prefill.rows
                try:
                    outputs = {name: a[part] for name, a in zip(prefill.output_names, batch_outputs, strict=True)}
                    prefill.advance(length, outputs, {name: array[part] for name, array in batch_states.items()})
                except Exception as error:
                    self.finish(prefill.request, error=error)
            queue.complete(batch, lengths)
        for prefill in batch:
            try:
                if not prefill.remaining and not prefill.request.finished:
                    self._run_task(prefill.request, prefill.result())
            except Exception as error:
                self.finish(prefill.request, error=error)
        self._metrics.prefill_rows.observe(rows)
        self._metrics.prefill_steps.inc(sum(steps for _, steps in done))
        return done

    def _smoke_test_after(self, error: Exception) -> None:
        """Find out whether a step failed because of the model, before its requests fail."""
        if isinstance(error, ModelFailedError):
            self.run_smoke_test()
