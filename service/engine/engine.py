"""The one crossing between those who ask and a model: its queue, and the thread that alone runs its graph."""

import math
import queue
import threading
import time
from concurrent.futures import Future

import structlog

from service.engine.runner import Runner
from service.engine.scheduler import CHUNK, Decoding, Request, Scheduler
from service.engine.sequence import Answer, Task
from service.errors import NotReadyError, QueueFullError
from service.metrics import EngineMetrics


class Engine:
    """A scheduler on a thread of its own, which sleeps while there is nothing to do.

    `most_work`: steps asked for and not yet answered beyond which new requests are refused.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        decoding: Decoding | None,
        any_split: bool,
        most_work: int,
        metrics: EngineMetrics,
        chunk: int = CHUNK,
    ) -> None:
        self._scheduler = Scheduler(runner, decoding, any_split, metrics, self._ended, chunk)
        self._most_work = most_work
        self._metrics = metrics
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._work = 0
        self._closing = False
        self._seconds_per_step = 1e-4
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether the last step failed in the model itself."""
        return self._scheduler.failed

    def submit(self, task: Task[Answer], work: int, deadline: float = math.inf) -> "Future[Answer]":
        """Begin a task of `work` steps; cancelling the future drops it within one step.

        deadline: on time.monotonic's clock; past it, the task fails with DeadlineExceededError.

        Raises:
            QueueFullError: too much work waits already.
            NotReadyError: the engine is closed.
        """
        request = Request(task, work, deadline)
        with self._lock:
            if self._closing:
                raise NotReadyError("the model is being closed")
            # A request larger than the whole queue is taken when nothing else is there.
            if self._work and self._work + work > self._most_work:
                raise QueueFullError(self._work, max(1, math.ceil(self._work * self._seconds_per_step)))
            self._work += work
            self._metrics.waiting.set(self._work)
            self._inbox.put(request)
        return request.future

    def close(self) -> None:
        """Finish what was begun, then end the thread."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._inbox.put(None)
        self._thread.join()

    def _ended(self, request: Request) -> None:
        with self._lock:
            self._work -= request.work
            self._metrics.waiting.set(self._work)

    def _run(self) -> None:
        scheduler, closing = self._scheduler, False
        while not closing or scheduler.busy:
            try:
                while not closing:
                    request = self._inbox.get(block=not scheduler.busy)
                    if request is None:
                        closing = True
                    else:
                        scheduler.add(request)
            except queue.Empty:
                pass
            started = time.perf_counter()
            try:
                steps = scheduler.turn()
            except Exception as error:  # of our own making; it must not end the thread
                structlog.get_logger().exception("the engine failed")
                scheduler.end_all(error)
                continue
            if steps:
                self._seconds_per_step += 0.05 * ((time.perf_counter() - started) / steps - self._seconds_per_step)
