"""Sessions in one Redis or Valkey server, or the master that Sentinels name, which any number of machines share.

A change is a script, which the server runs completely or not at all. The script compares the session's version, and
recognises a change that it made before. So a call whose connection broke, or whose server became a replica, is sent
again: it is done once, whether the new master has its first run or not. A session is a hash with its state, and a hash
of its earlier states. Sorted sets hold the expiry of live sessions, in all and by owner, and of tombstones. The
server's own expiry only removes keys that no process swept. Redis Cluster is not supported: the scripts build the names
of their keys.
"""

import asyncio
import contextlib
import math
import os
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as SocketTimeoutError

from service.errors import CarryError, StoreFullError, StoreUnavailableError
from service.sessions.group_commit import Batch, GroupCommit, resolve
from service.sessions.redis_scripts import COMMIT, COMMON, DELETE, LIST, SWEEP, TOUCH, VERSIONS
from service.sessions.redis_url import open_pool
from service.sessions.store import (
    ROW_BYTES,
    Change,
    IdempotencyRecord,
    Limits,
    LoadResult,
    Session,
    Size,
    StoreError,
    Version,
)

_SECRET_SECONDS = 30.0
"""How long the secret is reused without reading it again: a server that lost its data gets another one."""

_SWEEP_BATCH = 200
"""Most sessions that one script sweeps; other processes' calls come between."""

_CONNECTIONS = 64
"""Most calls of one process at once; others wait."""

_TIMEOUT = 5.0
"""Seconds that a call may take, with its wait and all its attempts."""

SOCKET_TIMEOUT = 2.0
"""Seconds without an answer after which a connection counts as dead: the other end may have vanished silently."""

_PAUSES = (0.0, 0.1, 0.4)
"""Seconds before each further attempt. It uses new connections: the old ones lead to a dead server or to a replica."""


class RedisStore:
    """A pool of connections, opened on demand.

    Raises:
        StoreError: the URL does not name a Redis server.
    """

    def __init__(self, url: str, limits: Limits) -> None:
        # Retry after 0.1, 0.2, 0.4 and 0.8 s when a connection breaks or cannot be opened.
        retry = Retry(ExponentialBackoff(cap=0.8, base=0.05), 4, supported_errors=(ConnectionError,))
        try:
            self._pool = open_pool(
                url,
                max_connections=_CONNECTIONS,
                retry=retry,
                socket_timeout=SOCKET_TIMEOUT,
                socket_connect_timeout=SOCKET_TIMEOUT,
            )
        except ValueError as error:
            raise StoreError(f"the session store's URL does not name a Redis server: {error}") from error
        self._semaphore = asyncio.Semaphore(_CONNECTIONS)
        self._redis = Redis.from_pool(self._pool)
        self._passing: tuple[type[RedisError], ...] = (SocketTimeoutError,)
        """Errors after which a call is sent again. Sentinels may name another master by then."""
        if isinstance(self._pool, SentinelConnectionPool):
            self._passing = (SocketTimeoutError, ConnectionError)
        self._limits = limits
        self._policy_checked = False
        self._secret: tuple[float, bytes] | None = None
        self._commits: GroupCommit[tuple[Any, ...]] = GroupCommit(self._flush)
        self._flushes: set[asyncio.Task[None]] = set()
        constants = f"""
            local versions, max_sessions = {limits.versions}, {limits.sessions}
            local max_sessions_per_owner = {limits.sessions_per_owner}
            local row_bytes = {ROW_BYTES}
        """
        self._commit, self._delete, self._touch, self._versions, self._list, self._sweep = (
            self._redis.register_script(constants + COMMON + script)
            for script in (COMMIT, DELETE, TOUCH, VERSIONS, LIST, SWEEP)
        )

    async def load(self, id: str, owner: str, key: str | None) -> LoadResult:
        read = ("HMGET", f"carry:session:{id}", "about", "expires_at", "state")
        if key is None:
            metadata, expires_at, state = await self._call(self._redis.execute_command, *read)
            return LoadResult(_session(metadata, expires_at) if metadata else None, state, None)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.execute_command(*read)
        pipeline.execute_command("HMGET", f"carry:receipt:{owner}\n{key}", "fingerprint", "answer", "expires_at")
        (metadata, expires_at, state), (fingerprint, answer, until) = await self._call(pipeline.execute)
        record = IdempotencyRecord(owner, key, fingerprint.decode(), answer, float(until)) if fingerprint else None
        return LoadResult(_session(metadata, expires_at) if metadata else None, state, record)

    async def commit(self, change: Change, now: float) -> bool:
        session = change.session
        change_line = f"{change.id} {session.position} {session.updated_at!r}"
        args = (
            session.id,
            session.owner,
            session.version,
            change_line,
            orjson.dumps(session),
            change.state,
            session.expires_at,
            self._expires_at_ms(session.expires_at),
            now,
            self._limits.max_sessions(session.owner),
            self._limits.max_bytes(session.owner),
            *_record_args(change.record),
        )
        result = await self._commits.submit(args)
        if result == -1:
            raise self._limits.store_full()
        if result == -2:
            raise self._limits.too_many_sessions(session.owner)
        if result == -3:
            raise self._limits.owner_store_full(session.owner)
        return bool(result)

    async def delete(self, session: Session, record: IdempotencyRecord | None, now: float) -> bool:
        deletion_id = uuid.uuid4().hex
        args = session.id, session.owner, session.version, deletion_id, now, *_record_args(record)
        return bool(await self._run(self._delete, *args))

    async def touch(self, id: str, expires_at: float) -> None:
        await self._run(self._touch, id, expires_at, self._expires_at_ms(expires_at))

    async def versions(self, id: str) -> list[Version]:
        history = await self._run(self._versions, id)
        versions = []
        for version, change_line in zip(history[::2], history[1::2], strict=True):
            _, position, updated_at = change_line.split()
            versions.append(Version(int(version), int(position), float(updated_at)))
        return sorted(versions, key=lambda version: -version.version)

    async def earlier_state(self, id: str, version: int) -> bytes | None:
        earlier = await self._call(self._redis.execute_command, "HGET", f"carry:history:{id}", version)
        return None if earlier is None else earlier.split(b"\n", 1)[1]

    async def list(self, owner: str, after: str, limit: int, now: float) -> list[Session]:
        return [_session(*fields) for fields in await self._run(self._list, owner, after, limit, now)]

    async def sweep(self, now: float) -> int:
        total, counts = 0, [_SWEEP_BATCH]
        while _SWEEP_BATCH in counts:
            counts = await self._run(self._sweep, now, now - self._limits.tombstone_ttl, _SWEEP_BATCH)
            total += counts[0]
        return total

    async def secret(self) -> bytes:
        if self._secret is None or time.monotonic() >= self._secret[0]:
            await self._call(self._redis.execute_command, "SET", "carry:secret", os.urandom(32), "NX")
            secret = bytes(await self._call(self._redis.execute_command, "GET", "carry:secret"))
            self._secret = time.monotonic() + _SECRET_SECONDS, secret
        return self._secret[1]

    async def ping(self) -> None:
        # Write: a replica, or a server whose disk is full, can still be read.
        await self._call(self._redis.execute_command, "SET", "carry:ping", "1", "EX", 60)

    async def size(self, now: float) -> Size:
        sessions = await self._call(self._redis.zcount, "carry:live", f"({now}", "+inf")
        memory = await self._call(self._redis.info, "memory")
        return Size(sessions, memory["used_memory"])

    async def close(self) -> None:
        await asyncio.gather(*self._flushes)
        await self._redis.aclose()
        if isinstance(self._pool, SentinelConnectionPool):
            await self._pool.sentinel_manager.aclose()

    def _flush(self, batch: Batch[tuple[Any, ...]]) -> None:
        task = asyncio.create_task(self._commit_batch(batch))
        self._flushes.add(task)  # the event loop holds only a weak reference
        task.add_done_callback(self._flushes.discard)

    async def _commit_batch(self, batch: Batch[tuple[Any, ...]]) -> None:
        outcomes: Sequence[Any]
        try:
            if len(batch) == 1:
                outcomes = [await self._run(self._commit, *batch[0][0])]
            else:
                outcomes = await self._call(self._commit_pipelined, batch)
        except Exception as error:  # otherwise the callers would wait for ever
            outcomes = [error] * len(batch)
        resolve(batch, outcomes)

    async def _commit_pipelined(self, batch: Batch[tuple[Any, ...]]) -> Sequence[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for args, _ in batch:
            pipeline.execute_command("EVALSHA", self._commit.sha, 0, *args)
        outcomes = await pipeline.execute(raise_on_error=False)
        for outcome in outcomes:
            if isinstance(outcome, RedisError) and _is_of_a_replica(outcome):
                raise outcome  # the whole batch is sent again; the script makes no change twice
        for i, outcome in enumerate(outcomes):
            if isinstance(outcome, NoScriptError):
                outcomes[i] = await self._commit((), batch[i][0])
            elif isinstance(outcome, RedisError):
                outcomes[i] = _to_store_error(outcome)
        return outcomes

    def _expires_at_ms(self, expires_at: float) -> int:
        """When the server may remove a session and its tombstone, in milliseconds since 1970."""
        return math.ceil((expires_at + self._limits.tombstone_ttl) * 1000)

    async def _run(self, script: AsyncScript, *args: Any) -> Any:
        return await self._call(script, (), args)

    async def _call(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        try:
            async with asyncio.timeout(_TIMEOUT), self._semaphore:
                for pause in _PAUSES:
                    try:
                        return await self._call_once(function, *args)
                    except RedisError as error:
                        if not (isinstance(error, self._passing) or _is_of_a_replica(error)):
                            raise
                        await self._drop_connections(error)
                    await asyncio.sleep(pause)
                return await self._call_once(function, *args)
        except (RedisError, TimeoutError) as error:
            raise _to_store_error(error) from error

    async def _call_once(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        if not self._policy_checked:
            await self._check_policy()
        return await function(*args)

    async def _drop_connections(self, error: RedisError) -> None:
        """Drop all connections: they lead to the same server as the failed one. New ones resolve its name again."""
        structlog.get_logger().warning("connections to the session store are opened anew", reason=str(error))
        await self._pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]  # theirs
        with contextlib.suppress(RedisError, OSError):
            await self._pool.disconnect(inuse_connections=False)

    async def verify(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._redis.set("carry:ping", "1", ex=60)
        except (AuthenticationError, AuthorizationError, ResponseError) as error:
            if _is_of_a_replica(error) or isinstance(error, OutOfMemoryError):
                _warn(error)
                return
            raise StoreError(f"the session store refuses commands: {error}") from error
        except (RedisError, TimeoutError, OSError) as error:
            tls = _tls_error(error)
            if tls is not None:
                raise StoreError(f"the session store cannot be reached by TLS: {tls}") from error
            if scheme := await self._other_scheme():
                raise StoreError(f"the session store's URL must begin with {scheme}://") from error
            _warn(error)

    async def _other_scheme(self) -> str | None:
        """The other scheme, of redis and rediss, if the server understands that."""
        options = self._pool.connection_kwargs
        host, port = options.get("host"), options.get("port", 6379)
        if host is None:  # a Unix socket
            return None
        try:
            async with asyncio.timeout(1):
                if issubclass(self._pool.connection_class, SSLConnection):
                    reader, writer = await asyncio.open_connection(host, port)
                    writer.write(b"PING\r\n")
                    answer = await reader.read(1)
                    writer.close()
                    await writer.wait_closed()
                    return "redis" if answer in (b"+", b"-") else None
                unchecked = ssl.create_default_context()
                unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
                _, writer = await asyncio.open_connection(host, port, ssl=unchecked)
                writer.close()
                await writer.wait_closed()
                return "rediss"
        except (OSError, TimeoutError):
            return None

    async def _check_policy(self) -> None:
        """Warn if the server drops keys when its memory is full."""
        with contextlib.suppress(ResponseError):  # the server may forbid the command
            policy = (await self._redis.config_get("maxmemory-policy")).get("maxmemory-policy")
            if policy not in (None, "noeviction"):
                structlog.get_logger().warning(
                    "the session store may lose sessions: set its maxmemory-policy to noeviction", policy=policy
                )
        self._policy_checked = True


def _is_of_a_replica(error: Exception) -> bool:
    """Whether the server is a replica and takes no writes. Older servers report this from a script as a plain error."""
    return isinstance(error, ReadOnlyError) or (isinstance(error, ResponseError) and "READONLY" in str(error))


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error that caused an error, if one did."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _warn(error: Exception) -> None:
    structlog.get_logger().warning(
        "the session store cannot be used yet; calls with a session answer 503 until it can",
        reason=str(error) or type(error).__name__,
    )


def _to_store_error(error: Exception) -> CarryError:
    """The error that a caller gets."""
    if isinstance(error, OutOfMemoryError):
        return StoreFullError("the session store is full; nothing was changed")
    structlog.get_logger().error("the session store failed", error=str(error) or type(error).__name__)
    return StoreUnavailableError("the session store cannot be reached, or does not answer as it should")


def _session(metadata: bytes, expires_at: bytes) -> Session:
    return replace(Session(**orjson.loads(metadata)), expires_at=float(expires_at))


def _record_args(record: IdempotencyRecord | None) -> tuple[Any, ...]:
    """A record as arguments of a script."""
    if record is None:
        return ()
    expires_at_ms = math.ceil(record.expires_at * 1000)
    return record.owner, record.key, record.fingerprint, record.answer, record.expires_at, expires_at_ms
