"""The steps that one call takes of its API key, and gives back as far as they do not run."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

from service.keys import Key
from service.metrics import KeyMetrics

Result = TypeVar("Result")


class Submit(Protocol[Result]):
    """`Engine.submit` of one task."""

    def __call__(self, *, on_settled: Callable[[int], object]) -> "Future[Result]": ...


class Spending:
    """What a call takes. It takes the steps of a task when it submits it, unless it has taken them before."""

    def __init__(self, key: Key, metrics: KeyMetrics) -> None:
        self._key = key
        self._steps_run = metrics.steps.labels(key.name)
        self._ahead = 0
        """Steps taken for tasks that are not submitted yet."""

    def take(self, steps: int) -> None:
        """Take the steps of all tasks to come.

        Raises:
            LimitExceededError, StepsPerMinuteError: as `Key.take`.
        """
        self._key.take(steps)
        self._ahead += steps

    def submit(self, steps: int, submit: "Submit[Result]") -> "Future[Result]":
        """Submit a task of `steps` steps.

        Raises:
            LimitExceededError, StepsPerMinuteError: as `Key.take`.
            CarryError: as `submit`.
        """
        if self._ahead < steps:
            self._key.take(steps - self._ahead)
            self._ahead = steps
        future = submit(on_settled=partial(self._settle, steps))
        self._ahead -= steps
        return future

    def end(self) -> None:
        """The call has ended: give back the steps of tasks that were not submitted."""
        self._key.give_back(self._ahead)
        self._ahead = 0

    def _settle(self, steps: int, not_run: int) -> None:
        """A task of so many steps has ended. Runs on the engine's thread."""
        self._steps_run.inc(steps - not_run)
        if not_run:
            self._key.give_back(not_run)
