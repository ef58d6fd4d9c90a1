"""The supervisor: starts several processes on one port, replaces a process that dies or hangs, and ends all together.

One single-threaded process for each core does more than one process with as many threads (docs/performance.md). The
supervisor imports everything and then forks, before it has any thread, so that the processes share most memory.
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

from service.workers import listeners
from service.workers.board import Board

CAN_FORK = hasattr(os, "fork")
CHECK_SECONDS = 1.0
"""Seconds between two checks of the heartbeats."""
FROZEN_AFTER = 30
"""Checks in a row without a new heartbeat after which a process is killed. Checks and not seconds: when a machine was
paused, its processes and their supervisor are late alike."""
STARTING_FOR = 600
"""Checks without a first heartbeat after which a process is killed. It loads its models before the first one."""
KILL_AFTER = 5.0
"""Seconds after the drain and the grace period until the remaining processes are killed."""
EARLY_DEATH = 1.0
"""Seconds. A process that lived shorter, or died before its first heartbeat, counts as a failed start."""
MAX_PAUSE = 30.0
"""Maximum seconds before the next start, after failed starts."""


@dataclass
class _Worker:
    index: int
    started: float
    last_beat: float = 0.0
    silent_checks: int = 0


class Supervisor:
    """Runs `serve` in one forked process for each index of the board, until SIGTERM, SIGINT or SIGQUIT.

    `serve` takes a listening socket and the process's index. The supervisor replaces a process that dies, or whose
    event loop hangs; new connections wait on its socket meanwhile. SIGHUP reloads the models. If the supervisor is
    killed, all processes end. `drain`: seconds after SIGTERM in which the processes are not ready, but accept
    connections; after SIGINT there are none. `grace`: seconds after that, in which running requests may finish. A
    second signal ends all at once.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        board: Board,
        serve: Callable[[socket.socket, int], None],
        drain: float,
        grace: float,
    ) -> None:
        self._sockets = sockets
        self._board = board
        self._serve = serve
        self._drain = drain
        self._grace = grace
        self._log = structlog.get_logger()
        self._workers: dict[int, _Worker] = {}
        self._due: dict[int, float] = {}  # index -> when its process starts
        self._failed_starts = [0] * board.processes
        self._drain_end: float | None = None  # set by the first signal that ends the service
        self._kill_at: float | None = None  # set at the end of the drain
        self._read_end, self._write_end = os.pipe()  # the system closes the write end when the supervisor dies

    def run(self) -> None:
        """Run the processes. Returns when all have ended."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        # A handler in Python runs between any two instructions. From a pipe, the loop reads a signal when it is ready.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for signum in _HANDLED:
            signal.signal(signum, _ignore)
        self._due = dict.fromkeys(range(self._board.processes), 0.0)
        next_check = time.monotonic() + CHECK_SECONDS
        while self._workers or self._due:
            now = time.monotonic()
            for index in [index for index, due in self._due.items() if due <= now]:
                self._start(index)
            moments = [next_check, *self._due.values()]
            if self._drain_end is not None and self._kill_at is None:
                moments.append(self._drain_end)
            wait = min(moments) - now
            if select.select([reader], [], [], max(0.0, wait))[0]:
                for number in os.read(reader, 4096):
                    self._on_signal(number)
            if self._drain_end is not None and self._kill_at is None and time.monotonic() >= self._drain_end:
                self._end_drain()
            self._reap()
            if time.monotonic() >= next_check:
                self._check_workers()
                next_check = time.monotonic() + CHECK_SECONDS
        self._log.info("ended")

    def _start(self, index: int) -> None:
        del self._due[index]
        listener = self._sockets[index % len(self._sockets)]
        listeners.resume(listener)  # its last process may have stopped it
        self._board.enter(index, 0)
        # Block signals until the child has replaced the supervisor's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        pid = os.fork()
        if pid == 0:
            self._run_worker(listener, index)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        self._workers[pid] = _Worker(index, time.monotonic())
        self._log.info("process started", process=pid)

    def _run_worker(self, listener: socket.socket, index: int) -> None:
        """In the child: serve, and end the process."""
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C is for the supervisor
            signal.set_wakeup_fd(-1)
            for signum in _HANDLED:
                signal.signal(signum, signal.SIG_IGN if signum in _NOT_FOR_WORKERS else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            os.close(self._write_end)
            # Close the sockets of the other processes: if they die, new connections must not wait on our copies.
            for other in self._sockets:
                if other is not listener:
                    other.close()
            self._board.enter(index, os.getpid())
            threading.Thread(target=self._end_with_supervisor, args=[index], daemon=True).start()
            self._serve(listener, index)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            self._log.exception("a process failed")
        os._exit(status)

    def _end_with_supervisor(self, index: int) -> None:
        """In the child, on a thread: wait until the supervisor has died, which closes the pipe; then end this
        process."""
        os.read(self._read_end, 1)
        self._board.drain(index, time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace + KILL_AFTER)
        os.kill(os.getpid(), signal.SIGKILL)

    def _on_signal(self, signum: int) -> None:
        if signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            return
        # On a terminal, SIGHUP means that it closed: end. To a service, SIGHUP means: reload.
        if signum == signal.SIGHUP and not sys.stderr.isatty():
            self._log.info("reload requested", signal="SIGHUP")
            self._board.request_reload()
        elif self._drain_end is None:
            serving = any(self._board.last_beat(worker.index) for worker in self._workers.values())
            drain = self._drain if serving and signum != signal.SIGINT else 0.0
            self._log.info("ending", signal=signal.Signals(signum).name, drain=drain, grace=self._grace)
            self._drain_end = time.monotonic() + drain
            self._board.drain(self._board.processes, self._drain_end)
            self._send_to_all(signal.SIGTERM)
        else:
            self._log.info("ending at once", signal=signal.Signals(signum).name)
            self._drain_end = time.monotonic()
            self._board.drain(self._board.processes, self._drain_end)
            self._send_to_all(signal.SIGINT)

    def _end_drain(self) -> None:
        """The processes stop their sockets and finish their requests. Start none again."""
        self._kill_at = time.monotonic() + self._grace + KILL_AFTER
        self._due.clear()
        for listener in self._sockets:
            listener.close()

    def _send_to_all(self, signum: int) -> None:
        for pid in self._workers:
            with suppress(ProcessLookupError):  # it has ended, but is not reaped yet
                os.kill(pid, signum)

    def _reap(self) -> None:
        with suppress(ChildProcessError):  # no child is left
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                # As process 1 of a container, the supervisor also inherits orphans of other processes.
                worker = self._workers.pop(pid, None)
                if worker is not None:
                    self._on_death(pid, worker, os.waitstatus_to_exitcode(status))

    def _on_death(self, pid: int, worker: _Worker, status: int) -> None:
        if self._drain_end is None or (self._kill_at is None and status != 0):
            self._replace(pid, worker, status)
        elif status not in (0, -signal.SIGTERM) and time.monotonic() < (self._kill_at or 0):
            self._log.error("a process died while it was ending; its requests are lost", process=pid, status=status)

    def _replace(self, pid: int, worker: _Worker, status: int) -> None:
        self._log.error("a process died; it is started again", process=pid, status=status)
        index = worker.index
        self._board.count_restart()
        self._board.report(index, "died; it is started again")
        early = self._board.last_beat(index) == 0.0 or time.monotonic() - worker.started < EARLY_DEATH
        failed_starts = self._failed_starts[index] + 1 if early else 0
        # The first early death may be chance; after more of them, wait longer before each start.
        pause = min(MAX_PAUSE, 2.0 ** (failed_starts - 2)) if failed_starts > 1 else 0.0
        self._failed_starts[index] = failed_starts
        self._due[index] = time.monotonic() + pause

    def _check_workers(self) -> None:
        """Kill processes that hang, or that still run after the grace period."""
        if self._kill_at is not None:
            if time.monotonic() >= self._kill_at and self._workers:
                self._log.error("killed after the grace", processes=list(self._workers))
                self._send_to_all(signal.SIGKILL)
            return
        for pid, worker in self._workers.items():
            beat = self._board.last_beat(worker.index)
            worker.silent_checks = worker.silent_checks + 1 if beat == worker.last_beat else 0
            worker.last_beat = beat
            if worker.silent_checks >= (FROZEN_AFTER if beat else STARTING_FOR):
                event = "a process does not answer; it is killed" if beat else "a process does not start; it is killed"
                self._log.error(event, process=pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                worker.silent_checks = 0


_HANDLED = [
    signal.Signals[name]
    for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD")
    if hasattr(signal, name)
]
_NOT_FOR_WORKERS = {signal.Signals[name] for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)}


def _ignore(signum: int, _: FrameType | None) -> None:
    """Python writes a signal's byte to the pipe only if the signal has a handler in Python."""
