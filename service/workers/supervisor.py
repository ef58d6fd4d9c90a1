"""Several processes that share one port: started, watched, replaced when one dies or hangs, ended together.

One single-threaded process for each core does more than one with as many threads (docs/performance.md). They are
forked from one that has imported everything, so that most of their memory is shared, before it has any thread.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import structlog

from service.workers.board import Board

CAN_FORK = hasattr(os, "fork")
BACKLOG = 2048
LOOK_SECONDS = 1.0
"""Seconds between two looks at the heartbeats."""
FROZEN_AFTER = 30
"""Looks in a row at which a process has no new heartbeat, before it is killed. Counted by looks and not by the clock: a
machine that was paused finds its processes as late as their supervisor."""
STARTING_FOR = 600
"""Looks until the first heartbeat of a process, which loads its models before, after which it is killed."""
KILL_AFTER = 5.0
"""Seconds after the grace at which what still lives is killed."""
EARLY_DEATH = 1.0
"""Seconds: a process that lived no longer, or died before its first heartbeat, counts as a failed start."""
LONGEST_PAUSE = 30.0
"""Most seconds between two starts in one place, after failed ones."""


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets on one port, over which the system spreads the connections; one where it cannot.

    Raises:
        OSError: the address cannot be had.
    """
    first = _bound(host, port, shared=False)
    first.listen(BACKLOG)
    if count == 1 or sys.platform != "linux":  # Linux alone balances
        return [first]
    # While the first one listens, a second service cannot have the port; then those of this one may share it.
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sockets = [_bound(host, first.getsockname()[1], shared=True) for _ in range(count)]
    for one in sockets:
        one.listen(BACKLOG)
    first.close()
    return sockets


def _bound(host: str, port: int, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((host, port))
    except OSError:
        one.close()
        raise
    one.set_inheritable(True)
    return one


@dataclass
class _Worker:
    worker_index: int
    started: float
    last_beat: float = 0.0
    silent_looks: int = 0


class Supervisor:
    """Runs `work` in one forked process for each place of the board, until SIGTERM, SIGINT or SIGQUIT.

    `work` is given its listening socket and its place. A process that dies, or whose event loop stands still, is
    replaced; callers wait on its socket meanwhile. SIGHUP reloads the models. All processes end if this one is killed.
    `grace`: seconds that requests under way are given after SIGTERM.
    """

    def __init__(
        self, sockets: list[socket.socket], board: Board, work: Callable[[socket.socket, int], None], grace: float
    ) -> None:
        self._sockets = sockets
        self._board = board
        self._work = work
        self._grace = grace
        self._log = structlog.get_logger()
        self._workers: dict[int, _Worker] = {}
        self._due: dict[int, float] = {}  # when each empty place is filled
        self._failed_starts = [0] * board.processes
        self._kill_at: float | None = None  # set once they have been told to end
        self._alive, self._held = os.pipe()  # closed by the system, with all that this process holds

    def run(self) -> None:
        """Return when all processes have ended."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        # Handlers in Python run wherever the interpreter is; here a signal is a byte, read where it is expected.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for signum in _HANDLED:
            signal.signal(signum, _noted)
        self._due = dict.fromkeys(range(self._board.processes), 0.0)
        next_look = time.monotonic() + LOOK_SECONDS
        while self._workers or self._due:
            now = time.monotonic()
            for worker_index in [worker_index for worker_index, due in self._due.items() if due <= now]:
                self._start(worker_index)
            wait = min([next_look, *self._due.values()]) - now
            if select.select([reader], [], [], max(0.0, wait))[0]:
                for number in os.read(reader, 4096):
                    self._on_signal(number)
            self._reap()
            if time.monotonic() >= next_look:
                self._look()
                next_look = time.monotonic() + LOOK_SECONDS
        self._log.info("ended")

    def _start(self, worker_index: int) -> None:
        del self._due[worker_index]
        own = self._sockets[worker_index % len(self._sockets)]
        own.listen(BACKLOG)  # a process that was told to end has shut it
        self._board.enter(worker_index, 0)
        # Until the child is no supervisor any more, no signal reaches it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        pid = os.fork()
        if pid == 0:
            self._be_worker(own, worker_index)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        self._workers[pid] = _Worker(worker_index, time.monotonic())
        self._log.info("process started", process=pid)

    def _be_worker(self, own: socket.socket, worker_index: int) -> None:
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C is for the supervisor
            signal.set_wakeup_fd(-1)
            for signum in _HANDLED:
                signal.signal(signum, signal.SIG_IGN if signum in _NOT_FOR_WORKERS else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            os.close(self._held)
            # A socket that nobody accepts from must not be held open: callers would connect, and wait for nobody.
            for other in self._sockets:
                if other is not own:
                    other.close()
            self._board.enter(worker_index, os.getpid())
            threading.Thread(target=_end_with, args=(self._alive, self._grace), daemon=True).start()
            self._work(own, worker_index)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            self._log.exception("a process failed")
        os._exit(status)

    def _on_signal(self, signum: int) -> None:
        if signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            return
        # Of a terminal that is closed, SIGHUP means the end; to a service it means: look at what has changed.
        if signum == signal.SIGHUP and not sys.stderr.isatty():
            self._log.info("reload asked for", signal="SIGHUP")
            self._board.ask_for_reload()
        elif self._kill_at is None:
            self._log.info("ending", signal=signal.Signals(signum).name, grace=self._grace)
            self._kill_at = time.monotonic() + self._grace + KILL_AFTER
            self._due.clear()
            for one in self._sockets:
                one.close()
            self._tell(signal.SIGTERM)
        elif signum == signal.SIGINT:  # the second: do not wait for requests under way
            self._tell(signal.SIGINT)

    def _tell(self, signum: int) -> None:
        for pid in self._workers:
            with suppress(ProcessLookupError):  # it ended, and was not yet reaped
                os.kill(pid, signum)

    def _reap(self) -> None:
        with suppress(ChildProcessError):  # there is no child
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                # Process 1 of a container is given the orphans of others.
                worker = self._workers.pop(pid, None)
                if worker is not None and self._kill_at is None:
                    self._replace(pid, worker, os.waitstatus_to_exitcode(status))

    def _replace(self, pid: int, worker: _Worker, status: int) -> None:
        self._log.error("a process died; it is started again", process=pid, status=status)
        worker_index = worker.worker_index
        self._board.report(worker_index, "died; it is started again")
        early = self._board.last_beat(worker_index) == 0.0 or time.monotonic() - worker.started < EARLY_DEATH
        self._failed_starts[worker_index] = self._failed_starts[worker_index] + 1 if early else 0
        # The first early death may be chance; what always dies at once is not started without end.
        pause = min(LONGEST_PAUSE, 2.0 ** (self._failed_starts[worker_index] - 2)) if self._failed_starts[worker_index] > 1 else 0.0
        self._due[worker_index] = time.monotonic() + pause

    def _look(self) -> None:
        """Kill what is frozen, or has outlived the grace."""
        if self._kill_at is not None:
            if time.monotonic() >= self._kill_at and self._workers:
                self._log.error("killed after the grace", processes=list(self._workers))
                self._tell(signal.SIGKILL)
            return
        for pid, worker in self._workers.items():
            beat = self._board.last_beat(worker.worker_index)
            worker.silent_looks = worker.silent_looks + 1 if beat == worker.last_beat else 0
            worker.last_beat = beat
            if worker.silent_looks >= (FROZEN_AFTER if beat else STARTING_FOR):
                what = "a process does not answer; it is killed" if beat else "a process does not start; it is killed"
                self._log.error(what, process=pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                worker.silent_looks = 0


_HANDLED = [
    signal.Signals[name]
    for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD")
    if hasattr(signal, name)
]
_NOT_FOR_WORKERS = {signal.Signals[name] for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)}


def _noted(signum: int, _: FrameType | None) -> None:
    """A handler in Python, without which no byte is written."""


def _end_with(alive: int, grace: float) -> None:
    """Wait until nobody holds the other end of the pipe; then nobody is left to supervise."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace + KILL_AFTER)
    os.kill(os.getpid(), signal.SIGKILL)
