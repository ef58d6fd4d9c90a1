"""Reloads the models in every process of the machine when one process requests it. Knows nothing of HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from service.engine.runner import int8_is_exact
from service.errors import DeadlineExceededError
from service.metrics import Metrics
from service.registry import Changes, Kinds, Registry
from service.settings import Settings
from service.workers.board import ENDED, Board
from service.workers.trials import Trials

POLL_SECONDS = 0.25
"""Seconds between two looks at the board. Ten times as many looks would cost more than all else of an idle process."""


class Reloader:
    """Loads the models of the process `worker_index`, and reloads them whenever any process requests it."""

    def __init__(
        self,
        settings: Settings,
        kinds: Kinds,
        metrics: Metrics,
        board: Board,
        worker_index: int,
        trials: Trials | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._board = board
        self._worker_index = worker_index
        self._trials = trials
        self._reloading = asyncio.Lock()
        board.completed[worker_index] = 0  # the reloads of its predecessor do not count
        self._attempted = board.target
        self._failed = -1
        self.registry = Registry(settings, kinds, metrics, trials.reasons if trials is not None else None)
        if not int8_is_exact() and settings.precision != "float32":
            structlog.get_logger().warning(
                "this processor multiplies int8 inexactly (x86 without VNNI): "
                "unless CARRY_PRECISION=int8 asks for int8, models are served in float32"
            )
        self._report(Changes(self.registry.models, (), self.registry.rejected))
        board.completed[worker_index] = self._attempted

    async def reload_all(self, deadline: float) -> None:
        """Reload in all processes. Returns when all have read the folders after this call.

        Raises:
            DeadlineExceededError: a process has not done so by the deadline.
        """
        self._board.requested[self._worker_index] += 1
        target = self._board.target
        while min(self._board.completed) < target:
            if self._failed >= target:
                raise RuntimeError("the reload has failed; the log says why")
            if time.monotonic() > deadline:
                raise DeadlineExceededError("not all processes have reloaded their models by the deadline")
            await asyncio.sleep(POLL_SECONDS / 10)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Reload on request while the context is open."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            if self._trials is not None:
                self._trials.stop()
            async with self._reloading:  # let a running reload finish
                task.cancel()
            self._board.completed[self._worker_index] = ENDED

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            target = self._board.target  # read before the folders: a later request needs another reload
            if target == self._attempted:  # a failed reload, too, waits for the next request
                continue
            self._attempted = target
            async with self._reloading:
                try:
                    self._report(await asyncio.to_thread(self.registry.reload))
                    self._board.completed[self._worker_index] = target
                except Exception:
                    self._failed = target
                    self._metrics.models.last_reload_successful.set(0)
                    structlog.get_logger().exception("reload failed")

    def _report(self, changes: Changes) -> None:
        log = structlog.get_logger()
        for model in changes.loaded:
            log.info("model loaded", model=model.label, kind=model.manifest.kind, precision=model.precision)
        for label in changes.unloaded:
            log.info("model unloaded", model=label)
        for rejected in changes.rejected:
            log.warning("model refused", model=f"{rejected.name}@{rejected.version}", reason=rejected.reason)
        current = self.registry.current
        if not current.models:
            log.warning("no model is loaded", models_dirs=list(map(str, self._settings.models_dirs)))
        metrics = self._metrics.models
        metrics.count.labels("loaded").set(len(current.models))
        metrics.count.labels("refused").set(len(current.rejected))
        metrics.last_reload_successful.set(1)
        metrics.last_reload_seconds.set(time.time())
