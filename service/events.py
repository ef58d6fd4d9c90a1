"""The log of rare events: in the engines, in the registry, and at a process's end. structlog takes a tenth of the time
in which a model in one's own process loads (`carry.load`), so the first event imports it.
"""

from typing import Any


def log() -> Any:
    """structlog's logger."""
    import structlog

    return structlog.get_logger()
