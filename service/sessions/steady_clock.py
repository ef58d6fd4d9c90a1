"""A clock for what cannot be taken back: it does not believe a jump ahead until the jump has lasted."""

import time
from collections.abc import Callable

TOLERANCE = 60.0
"""Seconds that the clock may be ahead of the time that passed since the last look, and is believed."""
BELIEVED_AFTER = 3600.0
"""Seconds after which a clock that jumped ahead, and was not put right, is believed."""


class SteadyClock:
    """Follows `clock`, seconds since 1970, and where that jumps ahead, `elapsed`, which never jumps."""

    def __init__(self, clock: Callable[[], float], elapsed: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._elapsed = elapsed
        self._now = clock()
        self._looked_at = elapsed()
        self._ahead_since: float | None = None

    def __call__(self) -> float:
        """Now, or earlier."""
        now, elapsed = self._clock(), self._elapsed()
        expected = self._now + elapsed - self._looked_at
        self._looked_at = elapsed
        if now > expected + TOLERANCE:
            if self._ahead_since is None:
                self._ahead_since = elapsed
            if elapsed - self._ahead_since < BELIEVED_AFTER:
                self._now = expected
                return expected
        self._ahead_since = None
        self._now = now
        return now
