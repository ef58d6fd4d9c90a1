"""The one crossing between the event loop and a model: its worker thread, which alone runs its graph."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.engine.runner import Runner
from service.errors import ModelFailedError

Answer = TypeVar("Answer")


class Engine:
    """Runs jobs on a model's graph, one after the other."""

    def __init__(self, name: str, runner: Runner) -> None:
        self._runner = runner
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self.failed = False
        """Whether the last job failed in the model itself."""

    async def run(self, job: Callable[[Runner], Answer]) -> Answer:
        """Run a job on the worker thread. Errors come back as the job raised them."""
        return await asyncio.wrap_future(self._worker.submit(self._watched, job))

    def run_now(self, job: Callable[[Runner], Answer]) -> Answer:
        """The same for a caller that has no event loop."""
        return self._worker.submit(self._watched, job).result()

    def close(self) -> None:
        """Finish what runs and end the thread."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _watched(self, job: Callable[[Runner], Answer]) -> Answer:
        try:
            answer = job(self._runner)
        except ModelFailedError:
            self.failed = True
            raise
        self.failed = False
        return answer
