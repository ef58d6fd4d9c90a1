"""One process of the service: runs the application on its listening socket until SIGTERM."""

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

import structlog
import uvicorn

from service.app import create_app
from service.http.protocol import http_options
from service.settings import Settings
from service.workers.board import Board
from service.workers.shared_metrics import SharedMetrics
from service.workers.supervisor import KILL_AFTER
from service.workers.trials import Trials


class Server(uvicorn.Server):
    """uvicorn's server, for a process on the board.

    Until it has started, SIGTERM ends the process at once: it has accepted nothing yet. Afterwards, running requests
    finish first.
    """

    def __init__(self, config: uvicorn.Config, board: Board, worker_index: int, grace: int) -> None:
        super().__init__(config)
        self._grace = grace
        self._board = board
        self._place = worker_index

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Set no handlers here: `startup` sets them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the models and start to accept connections."""
        await super().startup(sockets)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.handle_exit)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no new connections, and let running requests finish."""
        log, started = structlog.get_logger().bind(process=os.getpid()), time.monotonic()
        self._board.report(self._place, "is ending")
        # A thread that never returns would keep the process alive after the grace period.
        last_resort = threading.Timer(self._grace + KILL_AFTER, os._exit, args=[1])
        last_resort.daemon = True
        last_resort.start()
        for listener in sockets or []:
            # The supervisor holds the socket, too: without a shutdown, clients would connect and wait in vain.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        for server in self.servers:
            server.close()
        log.info("draining", connections=len(self.server_state.connections), requests=len(self.server_state.tasks))
        await super().shutdown(sockets)
        log.info("drained", seconds=round(time.monotonic() - started, 2))


def run_worker(
    settings: Settings,
    board: Board,
    shared_metrics: SharedMetrics,
    trials: Trials,
    listener: socket.socket,
    worker_index: int,
) -> None:
    """Serve until SIGTERM."""
    shared_metrics.count_here(worker_index)
    # Between two calls of the graph, the engine's thread needs the interpreter at once, not after the default 5 ms.
    sys.setswitchinterval(0.0005)
    config = uvicorn.Config(
        create_app(settings, board=board, worker_index=worker_index, shared_metrics=shared_metrics, trials=trials),
        log_config=None,  # service/logs.py routes uvicorn's lines
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=settings.shutdown_grace,
        **http_options(settings),
    )
    # All objects so far stay: to search them for garbage would stop the process for a tenth of a second.
    gc.collect()
    gc.freeze()
    # So would a search among the objects of large requests: app.py searches when none is running.
    gc.set_threshold(*gc.get_threshold()[:2], 2**30)
    Server(config, board, worker_index, settings.shutdown_grace).run(sockets=[listener])
