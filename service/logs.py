"""Structured logs: one line an event, JSON or for people, on standard error."""

import logging
import sys
import threading
from types import TracebackType

import structlog
from structlog.typing import Processor

from service.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Set up structlog for this process; the request id of the request at work is in every line."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            # Without the local variables, which hold what callers sent.
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
    _route_what_others_say(added, rendered, level)


def _route_what_others_say(added: list[Processor], rendered: list[Processor], level: int) -> None:
    """What libraries log, warnings, and errors that nobody catches become lines of the same form."""
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
