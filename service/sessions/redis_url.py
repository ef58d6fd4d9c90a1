"""Opens connections to the server that a URL of Redis names: itself, or the master that its Sentinels watch.

The URLs are redis-py's, with its options (`?ssl_ca_certs=FILE`), and for Sentinels
`redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/MASTER[/DB]`, where user and password are those of the
servers. `rediss` means TLS, to the Sentinels too.
"""

from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

_SENTINEL_PORT = 26379
_OF_SENTINEL = "sentinel_"
"""Options that begin so are those of the connections to the Sentinels: `sentinel_username`, `sentinel_password`."""


def open_pool(url: str, **options: Any) -> ConnectionPool:
    """A pool of connections, which are opened on demand. `options`: of each connection, and of the pool.

    Raises:
        ValueError: the URL does not name a server.
    """
    parts = urlsplit(url)
    if not parts.scheme.endswith("+sentinel"):
        _check_database(url, parts.path.strip("/"))
        return ConnectionPool.from_url(url, **options)
    name, _, database = parts.path.strip("/").partition("/")
    credentials, at, addresses = parts.netloc.rpartition("@")
    if not name or not addresses:
        raise ValueError("it must name Sentinels and their master: redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB")
    scheme = parts.scheme.removesuffix("+sentinel")
    server_url = f"{scheme}://{credentials}{at}master/{database}?{parts.query}"
    _check_database(server_url, database)
    server: dict[str, Any] = {**parse_url(server_url)}
    del server["host"]
    of_sentinel = {key.removeprefix(_OF_SENTINEL): server.pop(key) for key in [*server] if key.startswith(_OF_SENTINEL)}
    tls = server.pop("connection_class", None) is SSLConnection
    server |= {"ssl": True} if tls else {}
    of_sentinel |= {key: value for key, value in server.items() if key.startswith("ssl")}
    of_sentinel |= {key: value for key, value in options.items() if key.startswith("socket_")}
    # A Sentinel that is away must not be waited for: the next one knows as much.
    of_sentinel["retry"] = Retry(NoBackoff(), 0)
    sentinels = [_address(address) for address in addresses.split(",")]
    sentinel = Sentinel(sentinels, sentinel_kwargs=of_sentinel)  # type: ignore[no-untyped-call]  # theirs
    return SentinelConnectionPool(name, sentinel, **server, **options)  # type: ignore[no-untyped-call]


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is not the address of a Sentinel, HOST:PORT")
    return parts.hostname, parts.port or _SENTINEL_PORT


def _check_database(url: str, database: str) -> None:
    """Reject a database that is no number: the client would use database 0."""
    if not url.startswith("unix:") and database and not database.isdecimal():
        raise ValueError(f"it must end in the number of a database, not in {database!r}")
