"""Carry from Python: models in this process, without a server (`load`), and the same calls of a service (`Client`,
`AsyncClient`). Importing it imports nothing that is slow: each name imports what it needs when it is first used.
"""

from typing import TYPE_CHECKING, Any

import service  # noqa: F401  before ONNX Runtime: it turns its telemetry off

if TYPE_CHECKING:
    from carry.interface import Session
    from carry.local import LocalModel, load
    from carry.tables import SkippedSeriesWarning
    from service.errors import CarryError

_MODULES = {
    "CarryError": "service.errors",
    "LocalModel": "carry.local",
    "Session": "carry.interface",
    "SkippedSeriesWarning": "carry.tables",
    "load": "carry.local",
}

__all__ = [
    "CarryError",
    "LocalModel",
    "Session",
    "SkippedSeriesWarning",
    "load",
]


def __getattr__(name: str) -> Any:
    """A public name, from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value
