"""Structured logs on standard error: one line for each event, as JSON or for people."""

import logging
import sys
import threading
from types import TracebackType

import structlog
from structlog.typing import Processor

from service.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Set up structlog for this process. Every line has the id of the request that runs."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            # Without local variables: they hold the callers' data.
            exception_formatter=structlog.dev.plain_traceback
        )
    )
    added: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[Processor] = [*([structlog.processors.format_exc_info] if as_json else []), renderer]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*added, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    _route_other_logs(added, rendered, level)


def _route_other_logs(added: list[Processor], rendered: list[Processor], level: int) -> None:
    """Write the logs of libraries, warnings, and uncaught exceptions in the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *added],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    log = structlog.get_logger()

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("uncaught error", exc_info=(kind, error, trace))

    def uncaught_in_thread(raised: threading.ExceptHookArgs) -> None:
        if raised.exc_value is not None:
            log.critical(
                "uncaught error in a thread",
                thread=raised.thread.name if raised.thread else None,
                exc_info=(raised.exc_type, raised.exc_value, raised.exc_traceback),
            )

    def unraisable(raised: "sys.UnraisableHookArgs") -> None:
        log.error("ignored error", where=repr(raised.object), exc_info=raised.exc_value)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
    sys.unraisablehook = unraisable
