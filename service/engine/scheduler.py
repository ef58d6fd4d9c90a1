"""Continuous batching: one graph for everybody who asks, joining and leaving between its steps.

After BatchMaker's cellular batching (Gao et al., "Low latency RNN inference with cellular batching", EuroSys 2018).
Each turn lets some rows decode a few steps, all in one call of the graph, and then reads a bounded piece of what waits
to be read, several requests in one call. Nobody waits for a batch to fill or to end; where there is more than fits in
a call, groups of requests take turns. As the graph gives each row the same bits in any company, nobody's answer shows
that there was company.

A call that fails is made again for each of its requests alone, so that one that is wrong ends by itself.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

import structlog

from service.engine.decode import DecodeBatch, DecodeGraph
from service.engine.prefill import CHUNK, PREFILL_SECONDS, Reading, ReadQueue
from service.engine.request import Request, PartialUpdateError, whole
from service.engine.runner import Runner
from service.engine.sequence import Decode, PrefillResult
from service.errors import DeadlineExceededError, ModelFailedError
from service.metrics import EngineMetrics

Steps = list[tuple[Request, int]]
"""How many steps of a request's rows were done, once or more for each."""


class Scheduler:
    """Runs requests on a graph, all at once, each as if it were alone.

    `any_split`: the graph gives the same bits however its input is cut. `ended` is told of every request that ends,
    before its future is. `smoke_test`: a step of the graph that any model takes which works; it raises if this one does
    not.
    """

    def __init__(
        self,
        runner: Runner,
        decoding: DecodeGraph | None,
        split_invariant: bool,
        metrics: EngineMetrics,
        ended: Callable[[Request], None] = lambda _: None,
        chunk: int = CHUNK,
        smoke_test: Callable[[], object] = lambda: None,
    ) -> None:
        self._reads = ReadQueue(runner, split_invariant, chunk)
        self._batch = None if decoding is None else DecodeBatch(decoding)
        self._metrics = metrics
        self._ended = ended
        self._smoke_test = smoke_test
        self._requests: set[Request] = set()
        self._some_cancelled = False
        """Set on the thread of whoever cancels."""
        self._first_deadline = math.inf
        """Of those under way, or an earlier time."""
        self._decode_seconds = 0.0
        self._dropped = False
        """Whether a request has ended that waited for the engine."""
        self.failed = False
        """Whether the model failed its last smoke test. There is one whenever a step fails: that the model fails for a
        request alone says nothing of the model."""

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._requests)

    def add(self, request: Request) -> None:
        """Let a request join at the next turn."""
        self._requests.add(request)
        try:
            self._first_deadline = min(self._first_deadline, request.deadline)
            request.future.add_done_callback(self._note)
            self._resume(request, None)
        except Exception as error:
            self.end(request, error=error)

    def turn(self) -> Steps:
        """Drop who has gone, a few steps of some who decode, a piece for some who read."""
        try:
            self._drop_gone()
            return self._decode() + self._read()
        except PartialUpdateError as torn:
            self._end_each(torn.requests, torn.__cause__ if isinstance(torn.__cause__, Exception) else torn)
            return []

    def end(self, request: Request, answer: object = None, error: Exception | None = None) -> None:
        """End a request, whatever else fails meanwhile; if that is broken off, it can be done again."""
        request.gone = True
        self._dropped |= request.queued
        try:
            request.task.close()
        except Exception as broken:
            error = error or broken
        try:
            self._ended(request)
        finally:
            with suppress(InvalidStateError):  # cancelled meanwhile
                if error is None:
                    request.future.set_result(answer)
                else:
                    request.future.set_exception(error)
            self._requests.discard(request)

    def end_all(self, error: Exception) -> None:
        """Give up all requests."""
        self._end_each([*self._requests], error)
        self._drop_gone()

    def check(self) -> None:
        """Make a smoke test of the model."""
        failed = False
        try:
            self._smoke_test()
        except Exception:
            failed = True
            if not self.failed:
                with suppress(Exception):
                    structlog.get_logger().exception("the model fails its smoke test")
        if self.failed and not failed:
            with suppress(Exception):
                structlog.get_logger().info("the model passes its smoke test again")
        self.failed = failed

    def _resume(self, request: Request, result: PrefillResult | None) -> None:
        """Let a task go on to its next wish, or to its end; whoever calls this has to end the request if it fails."""
        try:
            request.queued = False
            wish = request.task.send(result)
            request.queued = True
            if isinstance(wish, Decode):
                assert self._batch is not None
                request.rows_left = len(wish.rows)
                self._batch.add(request, wish)
            else:
                self._reads.add(Reading(request, wish))
        except StopIteration as end:
            self.end(request, answer=end.value)

    def _end_each(self, requests: Sequence[Request], error: Exception) -> None:
        for request in requests:
            self.end(request, error=error)

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
                    self.end(request)
                elif now > request.deadline:
                    self._metrics.expired.inc()
                    self.end(request, error=DeadlineExceededError("not done by the deadline; nothing was changed"))
            self._first_deadline = min((request.deadline for request in self._requests), default=math.inf)
        if self._dropped:
            self._reads.drop_gone()
            if self._batch is not None:
                self._batch.drop_gone()
            self._dropped = False

    def _decode(self) -> Steps:
        """A few steps of the rows whose turn it is."""
        batch = self._batch
        if not batch:
            self._decode_seconds = 0.0
            return []
        started = time.perf_counter()
        try:
            found, states = batch.run()
        except PartialUpdateError:
            raise
        except Exception as error:
            concerned = batch.requests
            if not concerned:
                raise
            self._check_after(error)
            if len(concerned) > 1 and not self.failed:
                batch.try_alone()
            else:
                self._end_each(concerned, error)
            return []
        concerned = batch.requests
        try:
            outcome = batch.advance(found, states)
        except Exception as error:
            # Some rows may have taken the step, others not.
            batch.clear()
            raise PartialUpdateError(concerned) from error
        for request, reason in outcome.failed:
            self.end(request, error=reason)
        for request in outcome.ended:
            request.rows_left -= 1
            if not request.rows_left and not request.gone:
                try:
                    self._resume(request, None)
                except Exception as error:
                    self.end(request, error=error)
        self._decode_seconds = time.perf_counter() - started
        self._metrics.decode_calls.inc()
        self._metrics.decode_steps.inc(sum(steps for _, steps in outcome.steps))
        return outcome.steps

    def _read(self) -> Steps:
        """Read a piece for some of those who wait."""
        if not self._reads:
            return []
        group, steps = self._reads.next(self._decode_seconds or PREFILL_SECONDS)
        lengths = [min(steps, reading.ahead) for reading in group]
        started = time.perf_counter()
        try:
            found, after = self._reads.read(group, lengths, steps)
        except Exception as error:
            self._check_after(error)
            if len(group) > 1 and not self.failed:
                self._reads.try_alone(group)
            else:
                self._end_each([reading.request for reading in group], error)
            return []
        rows: int = sum(reading.rows for reading in group)
        self._reads.took(rows, (time.perf_counter() - started) / steps)
        done: Steps = [(r.request, length * r.rows) for r, length in zip(group, lengths, strict=True)]
        first = 0
        with whole([reading.request for reading in group]):
            for reading, length in zip(group, lengths, strict=True):
                own = slice(first, first + reading.rows)
                first += reading.rows
                try:
                    outputs = {name: array[own] for name, array in zip(reading.outputs, found, strict=True)}
                    reading.advance(length, outputs, {name: array[own] for name, array in after.items()})
                except Exception as error:
                    self.end(reading.request, error=error)
            self._reads.done(group)
        for reading in group:
            try:
                if not reading.ahead and not reading.request.gone:
                    self._resume(reading.request, reading.result())
            except Exception as error:
                self.end(reading.request, error=error)
        self._metrics.read_calls.inc()
        self._metrics.read_steps.inc(sum(steps for _, steps in done))
        return done

    def _check_after(self, error: Exception) -> None:
        """See whether a step failed for the model's own reasons, before anybody is told that it did."""
        if isinstance(error, ModelFailedError):
            self.check()
