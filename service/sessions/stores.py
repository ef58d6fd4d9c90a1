"""Opens the session store that a URL names."""

from collections.abc import Callable
from pathlib import Path

from service import DISTRIBUTION
from service.sessions.memory import MemoryStore
from service.sessions.sqlite import SqliteStore
from service.sessions.store import Limits, Store, StoreError

SYNCED = "synchronous=full"


def open_store(url: str, limits: Limits, max_bytes: int, on_evicted: Callable[[], None]) -> Store:
    """Open the store of memory://, sqlite:///FILE, redis://HOST:PORT/DB, or redis+sentinel://HOST:PORT/MASTER/DB. Call
    in a running event loop, after any fork.

    max_bytes: of the SQLite file, or in memory. on_evicted: called for each session that the memory drops to make room.

    Raises:
        StoreError: the store cannot be opened.
    """
    if url == "memory://":
        return MemoryStore(limits, max_bytes, on_evicted)
    if url.startswith("sqlite:///"):
        file, _, option = url.removeprefix("sqlite:///").partition("?")
        if option not in ("", SYNCED):
            raise StoreError(f"the session store's URL may end in ?{SYNCED}, not in ?{option}")
        return SqliteStore(Path(file), limits, max_bytes, synced=option == SYNCED)
    try:
        from service.sessions.redis import RedisStore
    except ImportError as error:
        raise StoreError(f"sessions in Redis need its client: pip install '{DISTRIBUTION}[redis]'") from error
    return RedisStore(url, limits)
