"""A load generator that uses little processor time: HTTP/1.1 on asyncio protocols, kept alive. Answers are kept as raw
bytes with their times, and understood only after the measurement."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

import orjson

STAGGER = 0.01
"""Mean seconds between the arrivals of one client and the next."""


@dataclass
class Answer:
    """What came back on one request, and when (seconds of time.perf_counter).

    place: of the request in the list. Status 0: the connection was lost.
    """

    place: int
    sent: float
    reads: list[tuple[float, bytes]] = field(default_factory=list)
    status: int = 0

    @property
    def done(self) -> float:
        """When the last byte came."""
        return self.reads[-1][0] if self.reads else self.sent

    def body(self) -> bytes:
        """The content."""
        return b"".join(part for _, part in self.parts())

    def parts(self) -> Iterator[tuple[float, bytes]]:
        """The content as it came: the time of a read and what it completed."""
        received, chunked, place = b"", None, 0
        for moment, data in self.reads:
            received += data
            if chunked is None:
                end = received.find(b"\r\n\r\n")
                if end < 0:
                    continue
                chunked, place = b"transfer-encoding: chunked" in received[:end].lower(), end + 4
            if not chunked:
                yield moment, received[place:]
                received, place = b"", 0
                continue
            whole = []
            while (line := received.find(b"\r\n", place)) >= 0:
                stop = line + 2 + int(received[place:line], 16)
                if len(received) < stop + 2:
                    break
                whole.append(received[line + 2 : stop])
                place = stop + 2
            received, place = received[place:], 0
            yield moment, b"".join(whole)

    def arrivals(self) -> list[tuple[float, int]]:
        """Of a streamed text: when characters came and how many. Events that one read brought are one arrival."""
        found, rest = [], b""
        for moment, part in self.parts():
            *lines, rest = (rest + part).split(b"\n")
            # LitServe sends JSON lines without the "data: " of server-sent events, and may leave out the line's end.
            count = sum(_characters(line) for line in lines if line)
            if count:
                found.append((moment, count))
        return found


def _characters(line: bytes) -> int:
    event = orjson.loads(line.removeprefix(b"data: ")) if b'"text"' in line else {}
    return len(event.get("text") or "")


class Connection(asyncio.Protocol):
    """One kept-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._done: asyncio.Future[Answer] | None = None
        self._missing: int | None = None
        self._tail = b""

    @property
    def answer(self) -> Answer | None:
        """The answer that is under way."""
        return self._answer

    async def request(self, port: int, place: int, content: bytes) -> Answer:
        """Send a request, connecting first where that is needed, and wait for the whole answer."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, "127.0.0.1", port)
        assert self._transport is not None
        self._missing, self._tail = None, b""
        self._done = loop.create_future()
        self._answer = Answer(place, time.perf_counter())
        self._transport.write(content)
        return await self._done

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Note the bytes and the time; look only for the end."""
        if self._answer is None:
            return
        answer = self._answer
        answer.reads.append((time.perf_counter(), data))
        if not answer.status:
            head, separator, rest = b"".join(part for _, part in answer.reads).partition(b"\r\n\r\n")
            if not separator:
                return
            answer.status = int(head[9:12])
            _, length, after = head.lower().partition(b"content-length:")
            if length:
                self._missing = int(after.split(b"\r\n", 1)[0])
            data = rest
        if self._missing is not None:
            self._missing -= len(data)
            ended = self._missing <= 0
        else:
            self._tail = (self._tail + data)[-7:]
            ended = self._tail.endswith(b"\r\n0\r\n\r\n")
        if ended:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        """An answer under way is a failure."""
        self._transport = None
        if self._answer is not None:
            self._answer.status = 0
            self._finish()

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if self._done is not None and answer is not None and not self._done.done():
            self._done.set_result(answer)


class Clients:
    """Clients that arrive at random, each sending its next request when the last is answered."""

    def __init__(
        self,
        port: int,
        count: int,
        requests: Iterable[bytes],
        most: int | None = None,
        stagger: float = STAGGER,
        pause: float = 0.0,
    ) -> None:
        """most: stop after so many requests in all; for ever otherwise.

        stagger: mean seconds between the arrivals of one client and the next. pause: mean seconds that a client waits
        before its next request. Both exponential.
        """
        self.answers: list[Answer] = []
        self._port = port
        self._stagger = stagger
        self._pause = pause
        self._random = random.Random(1)
        self._connections = [Connection() for _ in range(count)]
        endless = itertools.cycle(enumerate(requests))
        self._requests: Iterator[tuple[int, bytes]] = endless if most is None else itertools.islice(endless, most)
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted = 0
        self._enough = asyncio.Event()

    def start(self) -> None:
        """Let them arrive."""
        moment = 0.0
        for connection in self._connections:
            self._tasks.append(asyncio.create_task(self._run(connection, moment)))
            moment += self._wait(self._stagger)

    async def more(self, count: int, seconds: float) -> None:
        """Wait for `count` more answers, at most so many seconds."""
        self._wanted = len(self.answers) + count
        self._enough.clear()
        if count > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), seconds)

    async def finish(self) -> None:
        """Wait until all requests were sent and answered."""
        await asyncio.gather(*self._tasks)

    async def drain(self, seconds: float) -> bool:
        """Send nothing new and hang up, after so many seconds even on answers under way. Whether none was."""
        self._closing = True
        late = (await asyncio.wait(self._tasks, timeout=seconds))[1] if self._tasks else set()
        for task in late:
            task.cancel()
        for connection in self._connections:
            connection.close()
        return not late

    def under_way(self) -> list[Answer]:
        """Answers that have begun or are waited for."""
        return [connection.answer for connection in self._connections if connection.answer is not None]

    async def _run(self, connection: Connection, delay: float) -> None:
        await asyncio.sleep(delay)
        for place, content in self._requests:
            if self._closing:
                return
            try:
                answer = await connection.request(self._port, place, content)
            except OSError:
                answer = Answer(place, time.perf_counter())
            self.answers.append(answer)
            if len(self.answers) >= self._wanted:
                self._enough.set()
            if not answer.status:
                return
            if self._pause:
                await asyncio.sleep(self._wait(self._pause))

    def _wait(self, mean: float) -> float:
        return self._random.expovariate(1 / mean) if mean else 0.0
