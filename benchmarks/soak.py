"""Mixed load for a long time: memory, descriptors and threads must stay flat, and every answer be what it is alone.

Usage: python -m benchmarks.soak [--minutes 60] [--clients 16] [--load 0.667]

First the callers find out how many calls of this mix the service can answer; then they make that share of it.
Stateless calls are drawn from a fixed set, each answered once alone before the load; every later answer is compared
with that one. Session calls create, move, fork, rewind, export and delete. Some callers leave before their answer.
Times are given by minute. Ends with one JSON line, and exits with 1 if an answer differed, failed, or the service grew.
"""

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import numpy as np
import typer

from benchmarks.process_tree import resident_mib, tree
from benchmarks.servers import SERVERS, started
from benchmarks.workload import Request, prompt_at, series

RESULTS = Path(__file__).parent / "results" / "soak.json"
EVERY = 15.0
"""Seconds between two looks at the service."""
MAX_CAPACITY_SECONDS = 120.0
"""How long the callers find out the capacity: a tenth of the whole time, at most this."""


def questions() -> list[Request]:
    """Stateless calls of every kind."""
    walks = series(40)
    asked: list[Request] = []
    for i, walk in enumerate(walks):
        prompt, short = prompt_at(37 * i), walk[: 20 + 4 * i]
        asked += [
            Request("/generate", {"prompt": prompt, "max_length": 20 + 5 * i, "seed": i, "n": 1 + i % 3}),
            Request("/generate", {"prompt": prompt, "max_length": 40, "seed": i, "logprobs": 3, "stop": ["the", ". "]}),
            Request("/predict", {"text": prompt, "top_k": 3, "per_position": i % 2 == 0}),
            Request("/forecast", {"series": short, "horizon": 1 + i, "include_history": i % 4 == 0}),
            Request("/forecast/batch", {"requests": [{"series": w[: 30 + i]} for w in walks[:20]], "horizon": 6}),
            Request("/anomalies", {"series": short, "level": 80}),
            Request("/cross_validation", {"series": walk, "horizon": 6, "windows": 3}),
            Request("/v1/completions", {"model": "text", "prompt": [prompt, "The "], "max_tokens": 30, "seed": i}),
            Request("/v2/forecast", {"series": {"y": short, "sizes": [len(short)]}, "h": 4, "freq": "MS"}),
            Request("/forecast", {"series": [None], "horizon": 3}),
        ]
    return asked


def _comparable(path: str, body: Any) -> Any:
    """An answer without what differs from call to call."""
    if isinstance(body, dict):
        return {key: value for key, value in body.items() if key not in ("id", "created", "request_id", "trace_id")}
    return body


@dataclass
class Look:
    """What the service has at one moment."""

    minute: float
    mib: float
    descriptors: int
    threads: int
    processes: int

    @classmethod
    def at(cls, pid: int, minute: float) -> "Look":
        members = tree(pid)
        return cls(
            round(minute, 2),
            round(resident_mib(pid), 1),
            sum(_count(f"/proc/{member}/fd") for member in members),
            sum(_count(f"/proc/{member}/task") for member in members),
            len(members),
        )


def _count(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0


class Pace:
    """When calls may begin: at random moments, on average `rate` in a second; without a rate, at once."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._random = random.Random(0)
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the moment of the next call."""
        if self.rate is None:
            return
        now = time.monotonic()
        self._next = max(self._next, now - 1) + self._random.expovariate(self.rate)  # late by at most a second
        await asyncio.sleep(self._next - now)


@dataclass
class Load:
    """The callers, and what they were answered."""

    http: httpx2.AsyncClient
    asked: list[Request]
    alone: list[tuple[int, Any]]
    pace: Pace = field(default_factory=Pace)
    statuses: Counter[str] = field(default_factory=Counter)
    waits: dict[str, list[float]] = field(default_factory=dict)
    minutes: dict[int, list[float]] = field(default_factory=dict)
    """Seconds that calls took, by the minute in which they ended."""
    begun: float = field(default_factory=time.monotonic)
    compared: int = 0
    different: list[str] = field(default_factory=list)

    async def caller(self, number: int, until: float) -> None:
        """Ask for one thing after the other."""
        rng = random.Random(number)
        while time.monotonic() < until:
            draw = rng.random()
            if draw < 0.85:
                await self._compare(rng)
            elif draw < 0.97:
                await self._session(rng)
            else:
                await self._leave(rng)

    async def _compare(self, rng: random.Random) -> None:
        place = rng.randrange(len(self.asked))
        request, (status, expected) = self.asked[place], self.alone[place]
        answer = await self._send("POST", request.path, request.body)
        if answer is None:
            return
        self.compared += 1
        if answer.status_code != status or _comparable(request.path, answer.json()) != expected:
            self.different.append(f"{request.path} number {place}: {answer.status_code}")

    async def _session(self, rng: random.Random) -> None:
        text = rng.random() < 0.5
        first = {"prompt": "The old house "} if text else {"series": [1, 2, 3, 4, 3, 2, 1], "season_length": 6}
        created = await self._send("POST", "/sessions", first | {"ttl": 300})
        if created is None or created.status_code != 201:
            return
        path = f"/sessions/{created.json()['id']}"
        for i in range(rng.randrange(1, 6)):
            if text:
                body = {"session_id": created.json()["id"], "prompt": "and ", "max_length": 10, "seed": i}
                await self._send("POST", "/generate", body)
            else:
                await self._send("POST", "/forecast", {"session_id": created.json()["id"], "series": [2 + i]})
        fork = await self._send("POST", f"{path}/fork", {})
        await self._send("POST", f"{path}/rewind", {"version": 0})
        await self._send("GET", f"{path}/state", None)
        await self._send("GET", "/sessions?limit=5", None)
        if fork is not None and fork.status_code == 201 and rng.random() < 0.8:
            await self._send("DELETE", f"/sessions/{fork.json()['id']}", None)
            await self._send("DELETE", path, None)

    async def _leave(self, rng: random.Random) -> None:
        await self.pace.turn()
        body = {"prompt": "It was ", "max_length": 3000, "stream": rng.random() < 0.5}
        try:
            async with asyncio.timeout(rng.uniform(0.01, 0.3)):
                await self.http.post("/generate", json=body)
        except (TimeoutError, httpx2.HTTPError):
            self.statuses["left"] += 1

    async def _send(self, method: str, path: str, body: Any) -> httpx2.Response | None:
        await self.pace.turn()
        started = time.monotonic()
        try:
            answer = await self.http.request(method, path, json=body)
        except httpx2.HTTPError as error:
            self.statuses[type(error).__name__] += 1
            return None
        kind = path.split("?")[0].split("/")[1]
        ended = time.monotonic()
        self.waits.setdefault(kind, []).append(ended - started)
        self.minutes.setdefault(int((ended - self.begun) // 60), []).append(ended - started)
        self.statuses[f"{answer.status_code}"] += 1
        return answer


async def soak(port: int, pid: int, minutes: float, clients: int, share: float) -> dict[str, Any]:
    """Load it with that share of its capacity, look at it now and then, and report."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
        asked, alone = questions(), []
        for request in asked:
            answer = await http.post(request.path, json=request.body)
            alone.append((answer.status_code, _comparable(request.path, answer.json())))
        seconds = min(MAX_CAPACITY_SECONDS, 6 * minutes)
        full = Load(http, asked, alone)
        await asyncio.gather(*(full.caller(-1 - i, full.begun + seconds) for i in range(clients)))
        capacity = sum(full.statuses.values()) / seconds
        load = Load(http, asked, alone)
        load.pace.rate = share * capacity
        begun = load.begun
        until = begun + 60 * minutes
        callers = asyncio.gather(*(load.caller(i, until) for i in range(clients)))
        looks = [Look.at(pid, 0)]
        while time.monotonic() < until:
            await asyncio.sleep(min(EVERY, max(0.1, until - time.monotonic())))
            looks.append(Look.at(pid, (time.monotonic() - begun) / 60))
            print(vars(looks[-1]), dict(load.statuses), file=sys.stderr, flush=True)  # noqa: T201 - how far it is
        await callers
        await asyncio.sleep(2)
        looks.append(Look.at(pid, (time.monotonic() - begun) / 60))
    first, second = ([vars(look) for look in half] for half in (looks[: len(looks) // 2], looks[len(looks) // 2 :]))
    return {
        "minutes": minutes,
        "clients": clients,
        "capacity_per_second": round(capacity, 1),
        "calls_per_second": round(sum(load.statuses.values()) / (60 * minutes), 1),
        "calls": sum(load.statuses.values()),
        "statuses": dict(load.statuses),
        "statuses_at_capacity": dict(full.statuses),
        "compared": load.compared + full.compared,
        "different": (full.different + load.different)[:20],
        "p50_p99_ms": {
            kind: [round(1000 * float(q), 1) for q in np.quantile(waits, [0.5, 0.99])]
            for kind, waits in load.waits.items()
        },
        "calls_p50_p99_ms_by_minute": {
            minute: [len(waits), *(round(1000 * float(q), 1) for q in np.quantile(waits, [0.5, 0.99]))]
            for minute, waits in sorted(load.minutes.items())
        },
        "start": vars(looks[0]),
        "first_half": _ranges(first),
        "second_half": _ranges(second),
        "end": vars(looks[-1]),
        "looks": [vars(look) for look in looks],
    }


def _ranges(looks: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The least and the most of each figure."""
    names = ("mib", "descriptors", "threads", "processes")
    return {name: [min(look[name] for look in looks), max(look[name] for look in looks)] for name in names}


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 60,
    clients: Annotated[int, typer.Option(help="Callers at once.")] = 16,
    load: Annotated[float, typer.Option(help="The share of its capacity that is used.")] = 2 / 3,
) -> None:
    """Soak the service, and print what became of it as one JSON line."""
    [server] = [server for server in SERVERS if server.name == "carry"]
    with tempfile.TemporaryDirectory() as folder:
        server.variables["CARRY_SESSION_STORE"] = f"sqlite:///{folder}/carry.db"
        with started(server, "generate") as running:
            result = asyncio.run(soak(running.port, running.pid, minutes, clients, load))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    del result["looks"]
    print(json.dumps(result))  # noqa: T201 - the result
    low, high = result["second_half"]["mib"]
    grown = [
        name
        for name in ("descriptors", "threads")
        if result["second_half"][name][1] > result["first_half"][name][1] + clients
    ]
    failed = {status for status in result["statuses"] if status not in ("200", "201", "204", "422", "left")}
    raise SystemExit(bool(result["different"] or failed or grown or high > 1.1 * low))


if __name__ == "__main__":
    typer.run(main)
