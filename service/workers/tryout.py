"""The process in which service/workers/trials.py tries model folders."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from service.kinds import KINDS
from service.registry import reason_to_reject


def _end_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def main(limit: float, precision: str, threads: int, paths: Sequence[Path]) -> None:
    """Write a line of JSON for each folder: the reason to reject it, or null."""
    out = os.dup(1)
    os.dup2(2, 1)  # libraries may write to standard output
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):  # if memory runs out, the system kills this process first
        Path("/proc/self/oom_score_adj").write_text("1000")

    for path in paths:
        signal.setitimer(signal.ITIMER_REAL, limit)  # ends this process, even in native code
        reason = reason_to_reject(path, KINDS, precision, threads)
        os.write(out, json.dumps(reason).encode() + b"\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], int(sys.argv[3]), [Path(path) for path in sys.argv[4:]])
