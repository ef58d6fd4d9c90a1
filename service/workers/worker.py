"""What one process of the service does: runs the application on its listening socket, until it is told to end."""

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
    """uvicorn's, for a process at one place of the board.

    Until it has started, SIGTERM ends the process where it stands: nothing has been accepted yet. Then SIGTERM lets
    the requests under way end.
    """

    def __init__(self, config: uvicorn.Config, board: Board, worker_index: int, grace: int) -> None:
        super().__init__(config)
        self._grace = grace
        self._board = board
        self._place = worker_index

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals as they are: `startup` takes them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the models and begin to accept."""
        await super().startup(sockets)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.handle_exit)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and let the requests under way end."""
        log, started = structlog.get_logger().bind(process=os.getpid()), time.monotonic()
        self._board.report(self._place, "is ending")
        # What outlives the grace, such as a thread that never returns, ends with the process.
        last_resort = threading.Timer(self._grace + KILL_AFTER, os._exit, args=[1])
        last_resort.daemon = True
        last_resort.start()
        for one in sockets or []:
            # The supervisor holds it, too: without this, callers would still connect, and wait for nobody.
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for server in self.servers:
            server.close()
        log.info("draining", connections=len(self.server_state.connections), requests=len(self.server_state.tasks))
        await super().shutdown(sockets)
        log.info("drained", seconds=round(time.monotonic() - started, 2))


def run_worker(
    settings: Settings, board: Board, shared_metrics: SharedMetrics, trials: Trials, listener: socket.socket, worker_index: int
) -> None:
    """Serve until told to end."""
    shared_metrics.count_here(worker_index)
    # The engine's thread asks for the interpreter between two calls of the graph, many times in five milliseconds.
    sys.setswitchinterval(0.0005)
    config = uvicorn.Config(
        create_app(settings, board=board, worker_index=worker_index, shared_metrics=shared_metrics, trials=trials),
        log_config=None,  # service/logs.py writes what uvicorn says
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=settings.shutdown_grace,
        **http_options(settings),
    )
    # What is there now stays: looking through it for garbage would stop everybody for a tenth of a second.
    gc.collect()
    gc.freeze()
    # So would looking through all that large requests make: app.py does that when none is under way.
    gc.set_threshold(*gc.get_threshold()[:2], 2**30)
    Server(config, board, worker_index, settings.shutdown_grace).run(sockets=[listener])
