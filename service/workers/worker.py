"""One process of the service: runs the application on its listening socket until SIGTERM."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import cast

import structlog
import uvicorn

from service.app import create_app
from service.http.protocol import LimitedProtocol, http_options
from service.settings import Settings
from service.workers import listeners
from service.workers.board import Board
from service.workers.shared_metrics import SharedMetrics
from service.workers.supervisor import KILL_AFTER
from service.workers.trials import Trials

HANDSHAKE_SECONDS = 0.05
"""Seconds for connections that are being made when the process stops to accept new ones."""
MAX_PAUSES = 40
"""How many such pauses to make at most, while connections wait to be accepted."""
CUT_SECONDS = 2
"""Seconds after the grace period in which requests that were cut may end."""


class Server(uvicorn.Server):
    """uvicorn's server, for a process on the board.

    Until it has started, SIGTERM ends the process at once: it has accepted nothing yet. Afterwards, SIGTERM makes it
    drain: it is not ready, and answers with `Connection: close`, but accepts connections. After the drain, running
    requests finish. SIGINT ends the drain, or skips it. A second signal ends the process at once, except a second
    SIGTERM to one of several processes: systemd sends it to all, and so does the supervisor.
    """

    def __init__(self, config: uvicorn.Config, board: Board, worker_index: int, drain: float, grace: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._grace = grace
        self._board = board
        self._place = worker_index
        self._is_draining = False
        self._log = structlog.get_logger().bind(process=os.getpid())

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Set no handlers here: `startup` sets them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the models and start to accept connections."""
        await super().startup(sockets)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signum, self.handle_exit)
        if self._board.processes == 1:  # there is no supervisor that takes these
            signal.signal(signal.SIGHUP, self.handle_hangup)
            for signum in (signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(signum, signal.SIG_IGN)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end at once."""
        ends_already = self._board.end_of_drain(self._place) is not None
        if ends_already and (sig == signal.SIGINT or self._board.processes == 1):
            self.force_exit = True
        self._board.drain(self._place, time.monotonic() + (self._drain if sig != signal.SIGINT else 0.0))

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """On a terminal, SIGHUP means that it closed: end. To a service, it means: reload the models."""
        if sys.stderr.isatty():
            self.handle_exit(sig, frame)
        else:
            self._log.info("reload requested", signal="SIGHUP")
            self._board.request_reload()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Returns whether to end."""
        end = self._board.end_of_drain(self._place)
        if end is not None and not self._is_draining:
            self._is_draining = True
            self._report("draining", seconds=round(max(0.0, end - time.monotonic()), 1))
            for connection in self._connections:
                connection.close_after_answer()
        await super().on_tick(counter)
        return self.force_exit or (end is not None and time.monotonic() >= end)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that were made, and no others. Let requests finish."""
        started = time.monotonic()
        # A thread that never returns would keep the process alive after the grace period.
        last_resort = threading.Timer(self._grace + KILL_AFTER, os._exit, args=[1])
        last_resort.daemon = True
        last_resort.start()
        await self._stop_accepting(sockets or [])
        self._report("finishing")
        for connection in self._connections:
            connection.leave()
        try:
            async with asyncio.timeout(self._grace):
                await self._wait_tasks_to_complete()
        except TimeoutError:
            self._log.error("requests are cut after the grace period", requests=len(self.server_state.tasks))
        for connection in self._connections:
            connection.cut()
        if self.force_exit:
            self._log.info("ended at once", requests=len(self.server_state.tasks))
            os._exit(0)
        await super().shutdown(sockets)
        self._log.info("drained", seconds=round(time.monotonic() - started, 2))

    async def _stop_accepting(self, sockets: list[socket.socket]) -> None:
        if not self.force_exit:
            for listener in sockets:
                listeners.pause(listener)
            for _ in range(MAX_PAUSES):
                await asyncio.sleep(HANDSHAKE_SECONDS)
                if not any(map(listeners.has_waiting, sockets)):
                    break
        for listener in sockets:
            # The supervisor holds the socket, too: if it were only closed, clients would connect and wait in vain.
            listeners.stop(listener)
        for server in self.servers:
            server.close()

    @property
    def _connections(self) -> list[LimitedProtocol]:
        return cast(list[LimitedProtocol], list(self.server_state.connections))

    def _report(self, event: str, **values: float) -> None:
        requests = len(self.server_state.tasks)
        self._log.info(event, connections=len(self.server_state.connections), requests=requests, **values)


def run_worker(
    settings: Settings,
    board: Board,
    shared_metrics: SharedMetrics,
    trials: Trials,
    metrics_sockets: list[socket.socket],
    listener: socket.socket,
    worker_index: int,
) -> None:
    """Serve until SIGTERM. `metrics_sockets`: those of all processes, if the metrics have a port of their own."""
    shared_metrics.count_here(worker_index)
    # Between two calls of the graph, the engine's thread needs the interpreter at once, not after the default 5 ms.
    sys.setswitchinterval(0.0005)
    config = uvicorn.Config(
        create_app(settings, board=board, worker_index=worker_index, shared_metrics=shared_metrics, trials=trials),
        log_config=None,  # service/logs.py routes uvicorn's lines
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=CUT_SECONDS,
        **http_options(settings, lambda: board.end_of_drain(worker_index) is not None),
    )
    # All objects so far stay: to search them for garbage would stop the process for a tenth of a second.
    gc.collect()
    gc.freeze()
    # So would a search among the objects of large requests: app.py searches when none is running.
    gc.set_threshold(*gc.get_threshold()[:2], 2**30)
    server = Server(config, board, worker_index, settings.drain_seconds, settings.shutdown_grace)
    server.run(sockets=[listener, *_of_this_process(metrics_sockets, worker_index)])


def _of_this_process(sockets: list[socket.socket], worker_index: int) -> list[socket.socket]:
    """The socket of this process. The others are closed: if their processes die, connections must not wait on our
    copies."""
    mine = sockets[worker_index % len(sockets)] if sockets else None
    for other in sockets:
        if other is not mine:
            other.close()
    if mine is None:
        return []
    listeners.resume(mine)  # its last process may have stopped it
    return [mine]
