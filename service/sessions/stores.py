"""Opens the store that a URL names."""

from collections.abc import Callable
from pathlib import Path

from service.sessions.memory import MemoryStore
from service.sessions.sqlite import SqliteStore
from service.sessions.store import Limits, Store, StoreError

SYNCED = "synchronous=full"


def open_store(url: str, limits: Limits, max_bytes: int, evicted: Callable[[], None]) -> Store:
    """The store of memory://, sqlite:///FILE, or redis://HOST:PORT/DB; in a running event loop, after any fork.

    max_bytes: of the file of sqlite, or of what is kept in memory. evicted: told of each session that makes room for
    another, in memory.

    Raises:
        StoreError: it cannot be opened.
    """
    if url == "memory://":
        return MemoryStore(limits, max_bytes, evicted)
    if url.startswith("sqlite:///"):
        file, _, option = url.removeprefix("sqlite:///").partition("?")
        if option not in ("", SYNCED):
            raise StoreError(f"the session store's URL may end in ?{SYNCED}, and not in ?{option}")
        return SqliteStore(Path(file), limits, max_bytes, synced=option == SYNCED)
    try:
        from service.sessions.redis import RedisStore
    except ImportError as error:
        raise StoreError("sessions in Redis need its client: pip install 'carry[redis]'") from error
    return RedisStore(url, limits)
