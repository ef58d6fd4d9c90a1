"""The two drivers of the client, as functions, on a clock that moves when somebody sleeps."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from carry.calls import Request, Response
from carry.errors import CarryError
from carry.exchange import Wire
from carry.transport import AsyncHttp, Http
from tests.carry.flaky_server import Behaviour, Received

Answers = list[Response | CarryError]
Ask = Callable[[str, Sequence[Request], Wire], Answers]


@dataclass
class Time:
    """A clock that moves when somebody sleeps."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """At once."""
        self.now += seconds
        self.slept.append(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """At once."""
        self.sleep(seconds)


def ask_sync(url: str, requests: Sequence[Request], wire: Wire, time: Time) -> Answers:
    """The answers to requests, by the synchronous driver."""
    http = Http(url, wire, time.sleep)
    try:
        return http.answer(requests)
    finally:
        http.close()


def ask_async(url: str, requests: Sequence[Request], wire: Wire, time: Time) -> Answers:
    """The answers to requests, by the asynchronous driver."""

    async def run() -> Answers:
        http = AsyncHttp(url, wire, time.sleep_async)
        try:
            return await http.answer(requests)
        finally:
            await http.close()

    return asyncio.run(run())


DRIVERS = {"sync": ask_sync, "async": ask_async}


def script(*behaviours: Behaviour) -> Callable[[int, Received], Behaviour]:
    """These behaviours one after another; the last one from then on."""
    return lambda number, _: behaviours[min(number, len(behaviours) - 1)]
