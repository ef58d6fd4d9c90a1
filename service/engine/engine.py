"""The one crossing between those who ask and a model: its queue, and the thread that alone runs its graph."""

import math
import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress

import structlog

from service.engine.backlog import Backlog
from service.engine.decode import DecodeGraph
from service.engine.prefill import CHUNK
from service.engine.request import Request
from service.engine.runner import Runner
from service.engine.scheduler import Scheduler
from service.engine.sequence import Answer, Task
from service.errors import NotReadyError
from service.metrics import EngineMetrics
from service.workers.board import end_process

CHECK_SECONDS = 0.5
"""How often a model that failed its smoke test is given another."""
MOST_FAILURES = 3
"""Turns that may fail one after the other, for reasons of our own, before the thread gives up."""


class Engine:
    """A scheduler on a thread of its own, which sleeps while there is nothing to do.

    `most_work`: steps yet to be gone beyond which new requests are refused. `smoke_test`: as of `Scheduler`.
    `thread_died`: is called, on the thread and with the reason, if it ends for any other reason than `close`: whoever
    waits for it would wait for ever.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        decoding: DecodeGraph | None,
        split_invariant: bool,
        max_waiting_steps: int,
        metrics: EngineMetrics,
        chunk: int = CHUNK,
        smoke_test: Callable[[], object] = lambda: None,
        on_thread_death: Callable[[str], object] = end_process,
    ) -> None:
        self._scheduler = Scheduler(runner, decoding, split_invariant, metrics, self._ended, chunk, smoke_test)
        self._backlog = Backlog(max_waiting_steps)
        self._metrics = metrics
        self._thread_died = on_thread_death
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether the model fails its smoke test, or nobody is there to run it."""
        return self._scheduler.failed or not self._thread.is_alive()

    @property
    def seconds_left(self) -> int:
        """How long what waits should take."""
        return self._backlog.seconds_left()

    @property
    def waiting_steps(self) -> int:
        """Steps that were accepted and are not done yet."""
        return self._backlog.total

    def submit(
        self, task: Task[Answer], work: int, deadline: float = math.inf, group: Hashable = None
    ) -> "Future[Answer]":
        """Begin a task of `work` steps; cancelling the future drops it within one step.

        deadline: on time.monotonic's clock; past it, the task fails with DeadlineExceededError. group: those that share
        it take one turn together, and one share of the queue. Without one, the task is a group of its own.

        Raises:
            QueueFullError: too much work waits already.
            NotReadyError: the engine is closed.
        """
        request = Request(task, work, deadline, group)
        with self._lock:
            if self._closing:
                raise NotReadyError("the model is being closed")
            self._backlog.admit(request.group, work)
            self._inbox.put(request)
        self._metrics.waiting.set(self._backlog.total)
        return request.future

    def close(self) -> None:
        """Finish what was begun, then end the thread."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._inbox.put(None)
        self._thread.join()

    def _ended(self, request: Request) -> None:
        try:
            self._backlog.done([(request, request.cost_steps)])
        except Exception:  # once more: what is not counted out now would be in the way for ever
            self._backlog.done([(request, request.cost_steps)])
        self._metrics.waiting.set(self._backlog.total)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:
            with suppress(BaseException):  # even where nothing can be written
                structlog.get_logger().exception("an engine's thread ended", engine=self._thread.name)
            self._thread_died(f"the thread of the engine {self._thread.name} ended")

    def _work(self) -> None:
        """Until it is closed and nothing is left to do. An error of our own ends no request the first time, in case the
        turn can just be made again; all of them the next time; and the thread if even that does not help."""
        failures, next_check, closing = 0, 0.0, False
        while not closing or self._scheduler.busy:
            try:
                if not closing:
                    closing = self._take_new()
                if self._scheduler.failed and time.monotonic() >= next_check:
                    self._scheduler.check()
                    next_check = time.monotonic() + CHECK_SECONDS
                self._turn()
                failures = 0
            except Exception as error:
                failures += 1
                if failures > MOST_FAILURES:
                    raise
                with suppress(Exception):
                    structlog.get_logger().exception("the engine failed", engine=self._thread.name)
                if failures > 1:
                    self._scheduler.end_all(error)

    def _take_new(self) -> bool:
        """Let all requests that have come join, waiting for one if nothing else is to be done; whether the engine is to
        close."""
        with suppress(queue.Empty):
            while True:
                idle = not self._scheduler.busy
                request = self._inbox.get(block=idle, timeout=CHECK_SECONDS if self._scheduler.failed else None)
                if request is None:
                    return True
                try:
                    self._scheduler.add(request)
                except Exception as error:
                    self._scheduler.end(request, error=error)
        return False

    def _turn(self) -> None:
        started = time.perf_counter()
        done = self._scheduler.turn()
        if not done:
            return
        self._backlog.took(time.perf_counter() - started, sum(steps for _, steps in done))
        self._backlog.done(done)
        self._metrics.waiting.set(self._backlog.total)
