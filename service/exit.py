"""Ends this process at once, when its memory cannot be trusted any more."""

import os
from typing import NoReturn

from service.events import log

EXIT_BROKEN = 70
"""Exit status of a process that cannot continue (EX_SOFTWARE of sysexits.h)."""


def end_process(reason: str) -> NoReturn:
    """End this process, from any thread. It finishes nothing.

    The supervisor starts another process in its place. A service of one process ends; its operator restarts it.
    """
    try:
        log().critical("the process cannot go on and ends", reason=reason, process=os.getpid())
    finally:  # even if the log cannot be written
        os._exit(EXIT_BROKEN)
