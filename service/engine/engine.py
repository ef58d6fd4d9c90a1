"""A model's engine: any thread submits tasks and gets futures; the engine's own thread runs the graph."""

import math
import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from service.engine.backlog import Backlog
from service.engine.decode import DecodeGraph
from service.engine.prefill import CHUNK
from service.engine.request import Request
from service.engine.runner import Runner
from service.engine.scheduler import Scheduler, StepCounts
from service.engine.sequence import Answer, Task
from service.errors import NotReadyError
from service.events import log
from service.exit import end_process

if TYPE_CHECKING:
    from service.metrics import EngineMetrics

SMOKE_TEST_SECONDS = 0.5
"""How often a model that failed its smoke test gets another."""
IDLE_TEST_SECONDS = 30.0
"""A model without requests runs its smoke test this often, so that its health is that of a real step."""
STUCK_LOOKS = 10
"""After so many looks (see `Engine.look`) within one step, the model has failed. A step takes tens of milliseconds."""
DEAD_LOOKS = 60
"""After so many, the thread counts as dead."""
MAX_FAILURES = 3
"""How many iterations in a row may fail because of our own code before the thread ends."""


class Engine:
    """A scheduler on its own thread, which sleeps while there is nothing to do.

    `max_waiting_steps`: new requests are refused while more steps wait. `smoke_test`: see `Scheduler`.
    `on_thread_death`: called on the thread, with the reason, if it ends other than by `close`; otherwise callers would
    wait for ever.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        decode_graph: DecodeGraph | None,
        split_invariant: bool,
        max_waiting_steps: int,
        metrics: "EngineMetrics",
        chunk: int = CHUNK,
        smoke_test: Callable[[], object] = lambda: None,
        on_thread_death: Callable[[str], object] = end_process,
    ) -> None:
        self.name = name
        self.runner = runner
        self.scheduler = Scheduler(runner, decode_graph, split_invariant, metrics, self._on_finished, chunk, smoke_test)
        self._backlog = Backlog(max_waiting_steps)
        self._metrics = metrics
        metrics.max_waiting.set(max_waiting_steps)
        self._on_thread_death = on_thread_death
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        """None: close."""
        self._unsettled: list[Request] = []
        """Requests that ended in this iteration. How many of their steps ran is known at its end."""
        self._phase = 0
        """Grows at the begin and at the end of each step: odd within one."""
        self._last_phase, self._looks = 0, 0
        self._lock = threading.Lock()
        self._closing = False
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    @property
    def failed(self) -> bool:
        """Whether the model fails its smoke test, a step of it does not end, or the thread has ended."""
        return self.scheduler.failed or self._looks >= STUCK_LOOKS or not self.thread.is_alive()

    @property
    def seconds_left(self) -> int:
        """The expected time until all waiting steps are done."""
        return self._backlog.seconds_left()

    @property
    def waiting_steps(self) -> int:
        """Steps that were accepted and are not done yet."""
        return self._backlog.total

    def submit(
        self,
        task: Task[Answer],
        cost_steps: int,
        deadline: float = math.inf,
        group: Hashable = None,
        owner: str = "",
        max_share: float = 1.0,
        on_settled: Callable[[int], object] | None = None,
        on_begin: Callable[[float], object] | None = None,
    ) -> "Future[Answer]":
        """Submit a task that takes at most `cost_steps`; cancelling the future drops it within one step.

        deadline: on time.monotonic's clock; past it, the task fails with DeadlineExceededError. group: tasks of one
        group share one turn and one share of the queue; without a group, the task is its own. owner: the groups of one
        owner share the turns of that owner. max_share: how much of the queue the owner may fill. on_settled: called on
        the engine's thread with the steps that did not run, once the task has ended. on_begin: called on the engine's
        thread with the time.perf_counter() of the first call of the graph that the task takes part in.

        Raises:
            QueueFullError: too many steps wait already, in all or of the owner.
            NotReadyError: the engine is closed.
        """
        request = Request(task, cost_steps, deadline, group, owner, on_settled, on_begin)
        with self._lock:
            if self._closing:
                raise NotReadyError("the model is being closed")
            self._backlog.admit(request.group, cost_steps, owner, max_share)
            self._inbox.put(request)
        self._metrics.waiting.set(self._backlog.total)
        return request.future

    def look(self) -> None:
        """Look whether a step does not end. Call it once a second, on one thread: looks are counted and not seconds, so
        that a process that was stopped for a while goes on."""
        phase = self._phase
        self._looks = self._looks + 1 if phase % 2 and phase == self._last_phase else 0
        self._last_phase = phase
        if self._looks == STUCK_LOOKS:
            log().error("a step does not end", engine=self.name)
        elif self._looks == DEAD_LOOKS:
            self._on_thread_death(f"a step of the engine {self.name} does not end")

    def close(self) -> None:
        """Finish all accepted requests, then end the thread."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._inbox.put(None)
        self.thread.join()

    def _on_finished(self, request: Request) -> None:
        try:
            self._backlog.complete([(request, request.remaining_steps)])
        except Exception:  # once more: steps that are not counted out would block the queue for ever
            self._backlog.complete([(request, request.remaining_steps)])
        self._metrics.waiting.set(self._backlog.total)
        if request.on_settled is not None:
            self._unsettled.append(request)

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException:
            with suppress(BaseException):  # the log may be closed
                log().exception("an engine's thread ended", engine=self.thread.name)
            self._on_thread_death(f"the thread of the engine {self.thread.name} ended")

    def _loop(self) -> None:
        """Iterate until the engine is closed and idle. After one error of our own, the next iteration just tries again;
        after the next errors it fails all requests; after MAX_FAILURES it gives up."""
        failures, last_step, closing = 0, time.monotonic(), False
        while not closing or self.scheduler.busy:
            try:
                if not closing:
                    closing = self._receive()
                self._phase |= 1
                seconds = SMOKE_TEST_SECONDS if self.scheduler.failed else IDLE_TEST_SECONDS
                if time.monotonic() >= last_step + seconds:
                    self.scheduler.run_smoke_test()
                    last_step = time.monotonic()
                if self._step() and not self.scheduler.failed:
                    last_step = time.monotonic()
                failures = 0
            except Exception as error:
                failures += 1
                if failures > MAX_FAILURES:
                    raise
                with suppress(Exception):
                    log().exception("the engine failed", engine=self.thread.name)
                if failures > 1:
                    self.scheduler.fail_all(error)
            finally:
                self._phase += self._phase & 1

    def _receive(self) -> bool:
        """Start all requests in the inbox; if idle, wait for one. Returns whether to close."""
        with suppress(queue.Empty):
            while True:
                idle = not self.scheduler.busy
                self._phase += self._phase & 1
                seconds = SMOKE_TEST_SECONDS if self.scheduler.failed else IDLE_TEST_SECONDS
                request = self._inbox.get(block=idle, timeout=seconds)
                if request is None:
                    return True
                try:
                    self._phase |= 1
                    self.scheduler.add(request)
                except Exception as error:
                    self.scheduler.finish(request, error=error)
        return False

    def _step(self) -> bool:
        """Returns whether there was something to do."""
        started = time.perf_counter()
        done: StepCounts = []
        try:
            done = self.scheduler.step()
        finally:
            self._settle(done)
        if not done:
            return False
        self._backlog.record(time.perf_counter() - started, sum(steps for _, steps in done))
        self._backlog.complete(done)
        self._metrics.waiting.set(self._backlog.total)
        return True

    def _settle(self, done: StepCounts) -> None:
        for request, steps in done:
            request.unrun_steps = max(0, request.unrun_steps - steps)
        ended, self._unsettled = self._unsettled, []
        for request in ended:
            if request.on_settled is not None:
                request.on_settled(request.unrun_steps)
