"""Reloads the models of every process of the machine when one of them is asked to. Knows nothing of HTTP."""

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
"""Seconds between two looks at the board while nobody waits; ten times as often costs more than all else at rest."""


class Reloader:
    """Loads the models of the process that is number `own`, and reloads them whenever any process is asked to."""

    def __init__(
        self,
        settings: Settings,
        kinds: Kinds,
        metrics: Metrics,
        board: Board,
        own: int,
        trials: Trials | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._board = board
        self._own = own
        self._trials = trials
        self._reloading = asyncio.Lock()
        board.done[own] = 0  # what the one before it has done counts no more
        self._tried = board.wanted
        self._failed = -1
        self.registry = Registry(settings, kinds, metrics, trials.reasons if trials is not None else None)
        if not int8_is_exact() and settings.precision != "float32":
            structlog.get_logger().warning(
                "this processor multiplies int8 inexactly (x86 without VNNI): "
                "unless CARRY_PRECISION=int8 asks for int8, models are served in float32"
            )
        self._tell(Changes(self.registry.models, (), self.registry.rejected))
        board.done[own] = self._tried

    async def reload_all(self, deadline: float) -> None:
        """Return when all processes have looked at the folders after this call.

        Raises:
            DeadlineExceededError: one of them has not by then.
        """
        self._board.asked[self._own] += 1
        wanted = self._board.wanted
        while min(self._board.done) < wanted:
            if self._failed >= wanted:
                raise RuntimeError("the reload has failed; the log says why")
            if time.monotonic() > deadline:
                raise DeadlineExceededError("not all processes have reloaded their models by the deadline")
            await asyncio.sleep(POLL_SECONDS / 10)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Reload when asked to, meanwhile."""
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            if self._trials is not None:
                self._trials.stop()
            async with self._reloading:  # what is begun comes to its end
                task.cancel()
            self._board.done[self._own] = ENDED

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            wanted = self._board.wanted  # before the look at the folders: what comes later needs another
            if wanted == self._tried:  # also where it failed: until somebody asks again
                continue
            self._tried = wanted
            async with self._reloading:
                try:
                    self._tell(await asyncio.to_thread(self.registry.reload))
                    self._board.done[self._own] = wanted
                except Exception:
                    self._failed = wanted
                    structlog.get_logger().exception("reload failed")

    def _tell(self, changes: Changes) -> None:
        log = structlog.get_logger()
        for model in changes.loaded:
            log.info("model loaded", model=model.label, kind=model.manifest.kind, precision=model.precision)
        for label in changes.unloaded:
            log.info("model unloaded", model=label)
        for rejected in changes.rejected:
            log.warning("model refused", model=f"{rejected.name}@{rejected.version}", reason=rejected.reason)
        current = self.registry.current
        if not current.models:
            log.warning("no model is loaded", models_dir=str(self._settings.models_dir))
        self._metrics.models.labels("loaded").set(len(current.models))
        self._metrics.models.labels("refused").set(len(current.rejected))
