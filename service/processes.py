"""Several processes that share one port: started, watched, replaced when one dies, ended together.

One single-threaded process for each core does more than one with as many threads (docs/performance.md). They are
forked from one that has imported everything, so that most of their memory is shared, before it has any thread.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import structlog

CAN_FORK = hasattr(os, "fork")
SHORT_LIFE = 1.0
"""Seconds."""
ENDING = (signal.SIGTERM, signal.SIGINT)


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets on one port, over which the system spreads the connections; one where it cannot.

    Raises:
        OSError: the address cannot be had.
    """
    # Linux alone balances: without this first try, a second service on the port would silently share it.
    several = count > 1 and sys.platform == "linux"
    first = _bound(host, port, shared=False)
    if not several:
        first.listen(2048)
        return [first]
    port = first.getsockname()[1]
    first.close()
    sockets = [_bound(host, port, shared=True) for _ in range(count)]
    for one in sockets:
        one.listen(2048)
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


def supervise(
    sockets: list[socket.socket],
    count: int,
    work: Callable[[socket.socket, int], None],
    died: Callable[[int], None],
) -> None:
    """Run `work` in `count` forked processes until SIGTERM or SIGINT; then they are sent SIGTERM.

    Each is given its socket and its place among them, from 0. One that dies is started again in its place, on whose
    socket callers wait meanwhile; `died` is told its process number. All end if this process is killed.
    """
    alive, held = os.pipe()  # closed by the system, with all that this process holds
    log = structlog.get_logger()
    children: dict[int, int] = {}
    started: dict[int, float] = {}
    stopping = False

    def start(i: int) -> None:
        # Until the parent knows its child, and the child is no parent any more, no signal to end comes through.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        if stopping:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            return
        started[i] = time.monotonic()
        pid = os.fork()
        if pid:
            children[pid] = i
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            log.info("process started", process=pid)
            return
        try:
            os.setpgid(0, 0)  # Ctrl-C is for the parent
            for signum in ENDING:
                signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            os.close(held)
            threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
            work(sockets[i % len(sockets)], i)
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException:
            log.exception("a process failed")
            os._exit(1)
        os._exit(0)

    def stop(signum: int, _: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for pid in children:
            with suppress(ProcessLookupError):  # it ended, and was not yet crossed out
                os.kill(pid, signal.SIGTERM)

    for signum in ENDING:
        signal.signal(signum, stop)
    for i in range(count):
        start(i)
    while children:
        pid, status = os.wait()
        i = children.pop(pid)
        if stopping:
            continue
        died(pid)
        log.error("a process died; it is started again", process=pid, status=os.waitstatus_to_exitcode(status))
        if time.monotonic() - started[i] < SHORT_LIFE:
            time.sleep(SHORT_LIFE)  # or what dies at once would be started without end
        start(i)


def _end_with(alive: int) -> None:
    """Wait until nobody holds the other end of the pipe; then nobody is left to supervise."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)
