"""A clock for deletions, which nobody can undo: it ignores a jump ahead until the jump has lasted."""

import time
from collections.abc import Callable

TOLERANCE = 60.0
"""Seconds that the clock may run ahead between two calls and is still believed."""
BELIEVED_AFTER = 3600.0
"""Seconds after which a clock that jumped ahead, and was not put right, is believed."""


class SteadyClock:
    """Follows `clock`, in seconds since 1970; while that has jumped ahead, follows `elapsed`, which never jumps."""

    def __init__(self, clock: Callable[[], float], elapsed: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._elapsed = elapsed
        self._now = clock()
        self._last_elapsed = elapsed()
        self._ahead_since: float | None = None

    def __call__(self) -> float:
        """The time, or an earlier one."""
        now, elapsed = self._clock(), self._elapsed()
        expected = self._now + elapsed - self._last_elapsed
        self._last_elapsed = elapsed
        if now > expected + TOLERANCE:
            if self._ahead_since is None:
                self._ahead_since = elapsed
            if elapsed - self._ahead_since < BELIEVED_AFTER:
                self._now = expected
                return expected
        self._ahead_since = None
        self._now = now
        return now
