"""Serves the models: opens the port and the session store, tries the models, and starts the processes. Knows nothing of
the command line that calls it."""

import asyncio
import os
import signal
import socket
from contextlib import ExitStack
from functools import partial

from service.machine import available_cores
from service.settings import Settings, port_of_kubernetes, unknown_settings


class StartError(Exception):
    """The service cannot start, for this reason."""


def serve(settings: Settings) -> None:
    """Serve until a signal ends the process.

    Raises:
        StartError: the keys file, the session store or the address cannot be used.
    """
    # Nothing is open yet, so end at once. An exception from a handler could be swallowed, and for process 1 of a
    # container, the system ignores SIGTERM by default.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: os._exit(0))
    # Importing NumPy would start threads. A process with threads cannot fork safely, and the service does not use them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from service.workers.trials import Trials

    trials = Trials(settings)
    folders = trials.begin()  # during the imports

    import structlog

    from service.app import try_store
    from service.http.tls import open_certificate
    from service.keys import check_keys
    from service.keys_file import KeysFileError
    from service.logs import configure_logs
    from service.sessions.store import StoreError
    from service.workers.board import Board
    from service.workers.listeners import listen
    from service.workers.shared_metrics import SharedMetrics
    from service.workers.supervisor import CAN_FORK, Supervisor
    from service.workers.worker import run_worker

    processes = settings.processes if CAN_FORK else 1
    configure_logs(settings)
    log = structlog.get_logger()
    _warn(settings)
    with ExitStack() as failed:
        failed.callback(trials.abandon)
        if settings.tls_certificate and settings.tls_key:
            try:
                open_certificate(settings.tls_certificate, settings.tls_key)
            except OSError as error:
                raise StartError(f"cannot use CARRY_TLS_CERTIFICATE with CARRY_TLS_KEY: {error}") from error
        try:
            num_keys = check_keys(settings)
        except KeysFileError as error:
            raise StartError(f"CARRY_API_KEYS_FILE: {error}") from error
        try:
            asyncio.run(try_store(settings))
        except StoreError as error:
            raise StartError(str(error)) from error
        try:
            sockets = listen(settings.host, settings.port, processes)
        except OSError as error:
            raise StartError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
        metrics_sockets: list[socket.socket] = []
        if settings.metrics_port is not None:
            try:
                metrics_sockets = listen(settings.host, settings.metrics_port, processes)
            except OSError as error:
                address = f"{settings.host}:{settings.metrics_port}"
                raise StartError(f"cannot listen on {address} (CARRY_METRICS_PORT): {error.strerror}") from error
            settings = settings.model_copy(update={"metrics_port": metrics_sockets[0].getsockname()[1]})
        failed.pop_all()
    # Clients that connect before the models are loaded wait.
    port = sockets[0].getsockname()[1]
    scheme = "https" if settings.tls_certificate else "http"
    page = {"page": page_address(settings.host, port, scheme)} if settings.page == "on" else {}
    metrics = {} if settings.metrics_port is None else {"metrics_port": settings.metrics_port}
    log.info("listening", host=settings.host, port=port, processes=processes, keys=num_keys, **metrics, **page)
    log.info("loading", models=[f"{folder.parent.name}@{folder.name}" for folder in folders])

    trials.finish()
    board, shared_metrics = Board(processes), SharedMetrics(processes)
    run = partial(run_worker, settings, board, shared_metrics, trials, metrics_sockets)
    if processes == 1:
        board.enter(0, os.getpid())
        run(sockets[0], 0)
    else:
        Supervisor(sockets, board, run, settings.drain_seconds, settings.shutdown_grace).run()
    # Python restores the default handlers while it ends: one more signal would change the exit status.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


def page_address(host: str, port: int, scheme: str = "http") -> str:
    """Where a browser on this machine finds the page of a service that listens there."""
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}/"


def _warn(settings: Settings) -> None:
    """Warn of settings that are probably mistakes."""
    import structlog

    log = structlog.get_logger()
    for name, nearest in unknown_settings(os.environ).items():
        log.warning("unknown setting", setting=name, did_you_mean=nearest)
    if "port" not in settings.model_fields_set and (address := port_of_kubernetes(os.environ)) is not None:
        log.warning("CARRY_PORT is the address of a Kubernetes Service; it is ignored", value=address)
    cores = available_cores()
    if "processes" not in settings.model_fields_set and settings.processes < cores:
        log.warning("memory suffices for fewer processes than cores", processes=settings.processes, cores=cores)
    needs_key = settings.api_keys or settings.api_keys_file is not None
    if not needs_key and settings.host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("the service needs no API key: CARRY_API_KEYS_FILE is not set", host=settings.host)
