"""Sessions in one Redis or Valkey server, which any number of machines share.

A change is a script, which the server runs whole or not at all, and which sees when it was run before: a call whose
connection broke is made again. A session is a hash with its state, and a hash of its earlier states; sorted sets say
which sessions live until when, of all and of each owner, and which are remembered. The server's own expiry only takes
away what nobody swept. No cluster: the scripts make the names of their keys.
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
from urllib.parse import urlsplit

import orjson
import structlog
from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
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
from redis.exceptions import TimeoutError as SilenceError

from service.errors import CarryError, OwnerStoreFullError, StoreFullError, StoreUnavailableError, TooManySessionsError
from service.sessions.batches import Batch, Batches, settle
from service.sessions.store import ROW_BYTES, Change, Found, Limits, Receipt, Session, Size, StoreError, Version

# What all scripts begin with. A server whose memory is full refuses a script's first write, if it is one that takes
# memory, and none after it: so nothing is ever done by half, and what frees memory can always be done.
_COMMON = """
local function answered(owner, key, now)
  local expires = key and redis.call('HGET', 'carry:receipt:' .. owner .. '\\n' .. key, 'expires_at')
  return expires and tonumber(expires) > tonumber(now)
end
-- What an owner's session counts for, or receipt (of the name '\\n' .. key); nil if it is older than this count.
local function counted(owner, name)
  return tonumber(redis.call('HGET', 'carry:sizes:' .. owner, name) or nil)
end
local function count(owner, name, size)
  local growth = size - (counted(owner, name) or 0)
  if size == 0 then
    redis.call('HDEL', 'carry:sizes:' .. owner, name)
  elseif growth ~= 0 then
    redis.call('HSET', 'carry:sizes:' .. owner, name, size)
  end
  if growth ~= 0 and redis.call('HINCRBY', 'carry:bytes', owner, growth) == 0 then
    redis.call('HDEL', 'carry:bytes', owner)
  end
end
local function answer_size(key, answer)
  return key and #answer + #key + row_bytes or 0
end
-- Of an earlier version, which is its state behind a line about it.
local function earlier_size(history, version)
  local kept = redis.call('HGET', history, version)
  return #kept - #string.match(kept, '^[^\\n]*') - 1 + row_bytes
end
local function keep(owner, key, fingerprint, answer, expires, gone)
  if key then
    local name = 'carry:receipt:' .. owner .. '\\n' .. key
    redis.call('HSET', name, 'fingerprint', fingerprint, 'answer', answer, 'expires_at', expires)
    redis.call('PEXPIREAT', name, gone)
    redis.call('ZADD', 'carry:receipts', expires, key .. '\\n' .. owner)
    count(owner, '\\n' .. key, answer_size(key, answer))
  end
end
local function live(id, owner, expires, gone)
  redis.call('ZADD', 'carry:live', expires, id .. '\\n' .. owner)
  redis.call('ZADD', 'carry:live:' .. owner, expires, id)
  redis.call('PEXPIREAT', 'carry:session:' .. id, gone)
  redis.call('PEXPIREAT', 'carry:history:' .. id, gone)
end
local function ended(id, owner)
  redis.call('ZREM', 'carry:live', id .. '\\n' .. owner)
  redis.call('ZREM', 'carry:live:' .. owner, id)
  redis.call('ZREM', 'carry:ids:' .. owner, id)
  redis.call('DEL', 'carry:history:' .. id)
  count(owner, id, 0)
end
-- Forget a session that was swept; its name is its id and, if it is newer than this, its owner.
local function forget(name)
  local id, owner = string.match(name, '^([^\\n]*)\\n?(.*)$')
  redis.call('ZREM', 'carry:swept', name)
  redis.call('ZREM', 'carry:swept:' .. owner, id)
  redis.call('DEL', 'carry:session:' .. id)
end
"""
_COMMIT = """
local id, owner, version, made, about, state, expires, gone, now = unpack(ARGV)
local session, history = 'carry:session:' .. id, 'carry:history:' .. id
local kept = redis.call('HMGET', session, 'version', 'made', 'state')
local at, to = tonumber(kept[1] or -1), tonumber(version)
if at == to then
  return kept[3] and made == kept[2] and 1 or 0
elseif at > to then
  local before = redis.call('HGET', history, version)
  return before and made == string.match(before, '^[^\\n]*') and 1 or 0
elseif at ~= to - 1 or (to > 0 and not kept[3]) or answered(ARGV[10], ARGV[11], now) then
  return 0
end
-- Those that have expired do not count until they are as many again.
local function full(sessions, limit)
  local there = redis.call('ZCARD', sessions)
  return there >= 2 * limit or there >= limit and redis.call('ZCOUNT', sessions, '(' .. now, '+inf') >= limit
end
if to == 0 then
  if owner ~= '' and full('carry:live:' .. owner, most_of_owner) then
    return -2
  elseif full('carry:live', most) then
    return -1
  end
end
local size, dropped = #state + row_bytes, {}
if to > 0 then
  size = size + (counted(owner, id) or 0)
  if not counted(owner, id) then
    size = size + #kept[3] + row_bytes
    for _, old in ipairs(redis.call('HKEYS', history)) do
      size = size + earlier_size(history, old)
    end
  end
  if versions == 0 then
    size = size - #kept[3] - row_bytes
  end
  if redis.call('HLEN', history) >= math.max(versions, 1) then
    for _, old in ipairs(redis.call('HKEYS', history)) do
      if tonumber(old) < to - versions then
        table.insert(dropped, old)
        size = size - earlier_size(history, old)
      end
    end
  end
end
local growth = size - (counted(owner, id) or 0) + answer_size(ARGV[11], ARGV[13])
  - (ARGV[11] and counted(ARGV[10], '\\n' .. ARGV[11]) or 0)
if owner ~= '' and growth > 0 and (redis.call('HGET', 'carry:bytes', owner) or 0) + growth > bytes_of_owner then
  return -3
end
redis.call('HSET', session, 'version', version, 'made', made, 'about', about, 'state', state,
  'owner', owner, 'expires_at', expires)
if to == 0 then
  redis.call('ZADD', 'carry:ids:' .. owner, 0, id)
elseif versions > 0 then
  redis.call('HSET', history, kept[1], kept[2] .. '\\n' .. kept[3])
end
for _, old in ipairs(dropped) do
  redis.call('HDEL', history, old)
end
count(owner, id, size)
live(id, owner, expires, gone)
keep(unpack(ARGV, 10))
return 1
"""
_DELETE = """
local id, owner, version, token, now = unpack(ARGV)
local kept = redis.call('HGET', 'carry:session:' .. id, 'version')
if not kept then
  return redis.call('GET', 'carry:deleted:' .. id) == token and 1 or 0
elseif kept ~= version or redis.call('HEXISTS', 'carry:session:' .. id, 'state') == 0
    or answered(ARGV[6], ARGV[7], now) then
  return 0
end
redis.call('DEL', 'carry:session:' .. id)
ended(id, owner)
redis.call('SET', 'carry:deleted:' .. id, token, 'EX', 60)
keep(unpack(ARGV, 6))
return 1
"""
_TOUCH = """
local id, expires, gone = unpack(ARGV)
local kept = redis.call('HMGET', 'carry:session:' .. id, 'expires_at', 'owner')
local there = redis.call('HEXISTS', 'carry:session:' .. id, 'state') == 1
if there and tonumber(kept[1]) < tonumber(expires) then
  redis.call('HSET', 'carry:session:' .. id, 'expires_at', expires)
  live(id, kept[2], expires, gone)
end
"""
_VERSIONS = """
local found = redis.call('HGETALL', 'carry:history:' .. ARGV[1])
for i = 2, #found, 2 do
  found[i] = string.match(found[i], '^[^\\n]*')
end
return found
"""
_LIST = """
local owner, after, limit, now = ARGV[1], '(' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found, ids = {}
repeat
  ids = redis.call('ZRANGEBYLEX', 'carry:ids:' .. owner, after, '+', 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    local kept = redis.call('HMGET', 'carry:session:' .. id, 'about', 'expires_at')
    if kept[1] and tonumber(kept[2]) > now and #found < limit then
      table.insert(found, kept)
    end
    after = '(' .. id
  end
until #ids < limit or #found == limit
return found
"""
_SWEEP = """
local now, forgotten, most_at_once = unpack(ARGV)
local expired = redis.call('ZRANGEBYSCORE', 'carry:live', '-inf', now, 'WITHSCORES', 'LIMIT', 0, most_at_once)
for i = 1, #expired, 2 do
  local id, owner = string.match(expired[i], '^([^\\n]*)\\n(.*)$')
  ended(id, owner)
  if redis.call('HDEL', 'carry:session:' .. id, 'state') == 1 then
    redis.call('ZADD', 'carry:swept', expired[i + 1], id .. '\\n' .. owner)
    redis.call('ZADD', 'carry:swept:' .. owner, expired[i + 1], id)
    if redis.call('ZCARD', 'carry:swept:' .. owner) > (owner == '' and most or most_of_owner) then
      forget(redis.call('ZRANGE', 'carry:swept:' .. owner, 0, 0)[1] .. '\\n' .. owner)
    end
  end
end
local gone = redis.call('ZRANGEBYSCORE', 'carry:swept', '-inf', forgotten, 'LIMIT', 0, most_at_once)
for _, name in ipairs(gone) do
  forget(name)
end
local receipts = redis.call('ZRANGEBYSCORE', 'carry:receipts', '-inf', now, 'LIMIT', 0, most_at_once)
for _, name in ipairs(receipts) do
  local key, owner = string.match(name, '^([^\\n]*)\\n(.*)$')
  redis.call('ZREM', 'carry:receipts', name)
  redis.call('DEL', 'carry:receipt:' .. owner .. '\\n' .. key)
  count(owner, '\\n' .. key, 0)
end
return {#expired / 2, #gone, #receipts}
"""

_SECRET_SECONDS = 30.0
"""How long the secret is known without a look: another one is there after the server lost all that it held."""

_SWEPT_AT_ONCE = 200
"""Sessions that one script sweeps; others' calls come between."""

_CONNECTIONS = 64
"""Calls of one process at once; others wait for them."""

_TIMEOUT = 5.0
"""Seconds until a call is given up, with all its waiting and all its tries."""

_SILENCE = 2.0
"""Seconds without an answer after which a connection is taken to be dead: the other end may be gone without a word."""

_PAUSES = (0.0, 0.1, 0.4)
"""Seconds before each of the tries that follow, by new connections, when those that there were lead to nobody, or to a
server that became a replica."""


class RedisStore:
    """A pool of connections, made when they are needed.

    Raises:
        StoreError: the URL is none of a server.
    """

    def __init__(self, url: str, limits: Limits) -> None:
        # Again after 0.1, 0.2, 0.4 and 0.8 s when a connection breaks, or none is to be had.
        retry = Retry(ExponentialBackoff(cap=0.8, base=0.05), 4, supported_errors=(ConnectionError,))
        try:
            self._pool = ConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                retry=retry,
                socket_timeout=_SILENCE,
                socket_connect_timeout=_SILENCE,
            )
            _check_database(url)
        except ValueError as error:
            raise StoreError(f"the session store's URL is not one of a Redis server: {error}") from error
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._redis = Redis.from_pool(self._pool)
        self._limits = limits
        self._looked_at_policy = False
        self._secret: tuple[float, bytes] | None = None
        self._commits: Batches[tuple[Any, ...]] = Batches(self._send)
        self._sending: set[asyncio.Task[None]] = set()
        own = f"""
            local versions, most = {limits.versions}, {limits.sessions}
            local most_of_owner, bytes_of_owner = {limits.sessions_per_owner}, {limits.bytes_per_owner}
            local row_bytes = {ROW_BYTES}
        """
        self._commit, self._delete, self._touch, self._versions, self._list, self._sweep = (
            self._redis.register_script(own + _COMMON + script)
            for script in (_COMMIT, _DELETE, _TOUCH, _VERSIONS, _LIST, _SWEEP)
        )

    async def load(self, id: str, owner: str, key: str | None) -> Found:
        read = ("HMGET", f"carry:session:{id}", "about", "expires_at", "state")
        if key is None:
            about, expires_at, state = await self._ask(self._redis.execute_command, *read)
            return Found(_session(about, expires_at) if about else None, state, None)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.execute_command(*read)
        pipeline.execute_command("HMGET", f"carry:receipt:{owner}\n{key}", "fingerprint", "answer", "expires_at")
        (about, expires_at, state), (fingerprint, answer, until) = await self._ask(pipeline.execute)
        receipt = Receipt(owner, key, fingerprint.decode(), answer, float(until)) if fingerprint else None
        return Found(_session(about, expires_at) if about else None, state, receipt)

    async def commit(self, change: Change, now: float) -> bool:
        session, limits = change.session, self._limits
        args = (
            session.id,
            session.owner,
            session.version,
            f"{change.id} {session.position} {session.updated_at!r}",
            orjson.dumps(session),
            change.state,
            session.expires_at,
            self._gone(session.expires_at),
            now,
            *_kept(change.receipt),
        )
        done = await self._commits.ask(args)
        if done == -1:
            raise StoreFullError(f"{limits.sessions} sessions are alive, the most that there may be")
        if done == -3:
            raise OwnerStoreFullError(
                "the sessions and the answers kept for repetitions take all of the "
                f"{limits.bytes_per_owner} bytes that one may have; nothing was changed"
            )
        if done == -2:
            raise TooManySessionsError(f"{limits.sessions_per_owner} sessions are alive, the most that one may have")
        return bool(done)

    async def delete(self, session: Session, receipt: Receipt | None, now: float) -> bool:
        this_call = uuid.uuid4().hex
        args = session.id, session.owner, session.version, this_call, now, *_kept(receipt)
        return bool(await self._run(self._delete, *args))

    async def touch(self, id: str, expires_at: float) -> None:
        await self._run(self._touch, id, expires_at, self._gone(expires_at))

    async def versions(self, id: str) -> list[Version]:
        found = await self._run(self._versions, id)
        versions = []
        for version, made in zip(found[::2], found[1::2], strict=True):
            _, position, updated_at = made.split()
            versions.append(Version(int(version), int(position), float(updated_at)))
        return sorted(versions, key=lambda kept: -kept.version)

    async def earlier(self, id: str, version: int) -> bytes | None:
        found = await self._ask(self._redis.execute_command, "HGET", f"carry:history:{id}", version)
        return None if found is None else found.split(b"\n", 1)[1]

    async def list(self, owner: str, after: str, limit: int, now: float) -> list[Session]:
        return [_session(*kept) for kept in await self._run(self._list, owner, after, limit, now)]

    async def sweep(self, now: float) -> int:
        total, swept = 0, [_SWEPT_AT_ONCE]
        while _SWEPT_AT_ONCE in swept:
            swept = await self._run(self._sweep, now, now - self._limits.remembered, _SWEPT_AT_ONCE)
            total += swept[0]
        return total

    async def secret(self) -> bytes:
        if self._secret is None or time.monotonic() >= self._secret[0]:
            await self._ask(self._redis.execute_command, "SET", "carry:secret", os.urandom(32), "NX")
            secret = bytes(await self._ask(self._redis.execute_command, "GET", "carry:secret"))
            self._secret = time.monotonic() + _SECRET_SECONDS, secret
        return self._secret[1]

    async def ping(self) -> None:
        # A real write: a replica, or a server whose disk is full, can still be read.
        await self._ask(self._redis.execute_command, "SET", "carry:ping", "1", "EX", 60)

    async def size(self, now: float) -> Size:
        alive = await self._ask(self._redis.zcount, "carry:live", f"({now}", "+inf")
        memory = await self._ask(self._redis.info, "memory")
        return Size(alive, memory["used_memory"])

    def _send(self, batch: Batch[tuple[Any, ...]]) -> None:
        task = asyncio.create_task(self._answer(batch))
        self._sending.add(task)  # or nobody would hold it
        task.add_done_callback(self._sending.discard)

    async def _answer(self, batch: Batch[tuple[Any, ...]]) -> None:
        answers: Sequence[Any]
        try:
            if len(batch) == 1:
                answers = [await self._run(self._commit, *batch[0][0])]
            else:
                answers = await self._ask(self._pipelined, batch)
        except Exception as error:  # whatever it is, they must not wait for ever
            answers = [error] * len(batch)
        settle(batch, answers)

    async def _pipelined(self, batch: Batch[tuple[Any, ...]]) -> Sequence[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for args, _ in batch:
            pipeline.execute_command("EVALSHA", self._commit.sha, 0, *args)
        answers = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, RedisError) and _is_of_a_replica(answer):
                raise answer  # all of it again: what was done is not done twice
        for i, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):
                answers[i] = await self._commit((), batch[i][0])
            elif isinstance(answer, RedisError):
                answers[i] = _meaning(answer)
        return answers

    async def close(self) -> None:
        await asyncio.gather(*self._sending)
        await self._redis.aclose()

    def _gone(self, expires_at: float) -> int:
        """When the server may forget a session, in its milliseconds."""
        return math.ceil((expires_at + self._limits.remembered) * 1000)

    async def _run(self, script: AsyncScript, *args: Any) -> Any:
        return await self._ask(script, (), args)

    async def _ask(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        try:
            async with asyncio.timeout(_TIMEOUT), self._slots:
                for pause in _PAUSES:
                    try:
                        return await self._ask_once(call, *args)
                    except RedisError as error:
                        if not (isinstance(error, SilenceError) or _is_of_a_replica(error)):
                            raise
                        await self._drop_connections(error)
                    await asyncio.sleep(pause)
                return await self._ask_once(call, *args)
        except (RedisError, TimeoutError) as error:
            raise _meaning(error) from error

    async def _ask_once(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        if not self._looked_at_policy:
            await self._look_at_policy()
        return await call(*args)

    async def _drop_connections(self, error: RedisError) -> None:
        """All of them lead where this one did: the next ones are made to whom the name stands for now."""
        structlog.get_logger().warning("connections to the session store are made anew", reason=str(error))
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
            raise StoreError(f"the session store refuses to work: {error}") from error
        except (RedisError, TimeoutError, OSError) as error:
            tls = _tls_error(error)
            if tls is not None:
                raise StoreError(f"the session store cannot be reached by TLS: {tls}") from error
            if other := await self._speaks():
                raise StoreError(f"the session store wants a URL that begins with {other}://") from error
            _warn(error)

    async def _speaks(self) -> str | None:
        """The scheme that a server understands which does not understand this one's."""
        options = self._pool.connection_kwargs
        host, port = options.get("host"), options.get("port", 6379)
        if host is None:  # a socket of this machine
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

    async def _look_at_policy(self) -> None:
        """Warn of a server that throws away what it holds when its memory is full."""
        with contextlib.suppress(ResponseError):  # it may be forbidden to ask
            policy = (await self._redis.config_get("maxmemory-policy")).get("maxmemory-policy")
            if policy not in (None, "noeviction"):
                structlog.get_logger().warning(
                    "the session store may lose sessions: set its maxmemory-policy to noeviction", policy=policy
                )
        self._looked_at_policy = True


def _check_database(url: str) -> None:
    """The client would take any word for database 0."""
    path = urlsplit(url).path.strip("/")
    if not url.startswith("unix:") and path and not path.isdecimal():
        raise ValueError(f"it ends in the number of a database, and not in {path!r}")


def _is_of_a_replica(error: Exception) -> bool:
    """Whether it says that the server takes no writes (in a script, too, of older servers)."""
    return isinstance(error, ReadOnlyError) or (isinstance(error, ResponseError) and "READONLY" in str(error))


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """What went wrong below it, if TLS did."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _warn(error: Exception) -> None:
    structlog.get_logger().warning(
        "the session store cannot be used yet; calls with a session answer 503 until it can",
        reason=str(error) or type(error).__name__,
    )


def _meaning(error: Exception) -> CarryError:
    """What a caller is told."""
    if isinstance(error, OutOfMemoryError):
        return StoreFullError("the session store is full; nothing was changed")
    structlog.get_logger().error("the session store failed", error=str(error) or type(error).__name__)
    return StoreUnavailableError("the session store cannot be reached, or does not answer as it should")


def _session(about: bytes, expires_at: bytes) -> Session:
    return replace(Session(**orjson.loads(about)), expires_at=float(expires_at))


def _kept(receipt: Receipt | None) -> tuple[Any, ...]:
    """A receipt as the scripts take it."""
    if receipt is None:
        return ()
    gone = math.ceil(receipt.expires_at * 1000)
    return receipt.owner, receipt.key, receipt.fingerprint, receipt.answer, receipt.expires_at, gone
