"""Carry from Python: models in this process, without a server (`load`), and the same calls of a service (`Client`,
`AsyncClient`). Importing it imports nothing that is slow: each name imports what it needs when it is first used.
"""

from typing import TYPE_CHECKING, Any

import service  # noqa: F401  before ONNX Runtime: it turns its telemetry off

if TYPE_CHECKING:
    from carry.client import AsyncClient, AsyncSession, Client
    from carry.interface import Session
    from carry.local import LocalModel, load
    from carry.tables import SkippedSeriesWarning
    from service.errors import CarryError

_MODULES = {
    "AsyncClient": "carry.client",
    "AsyncSession": "carry.client",
    "CarryError": "service.errors",
    "Client": "carry.client",
    "LocalModel": "carry.local",
    "Session": "carry.interface",
    "SkippedSeriesWarning": "carry.tables",
    "load": "carry.local",
}

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "CarryError",
    "Client",
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
