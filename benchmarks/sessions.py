"""What sessions cost, measured on the real service over HTTP, with the shipped models.

Usage: python -m benchmarks.sessions [--quick] [--only length,overhead,accuracy,many,conversations]

What is compared takes turns, in blocks of calls, in one run of one server; ratios are medians over neighbouring blocks.
Writes benchmarks/results/sessions.json and docs/images/sessions.png; a quick run or a part of it,
benchmarks/results/partial.sessions.json and .png.
"""

import argparse
import asyncio
import itertools
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvloop
from matplotlib.figure import Figure
from redis import Redis
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import report, workload
from benchmarks.bench import chosen
from benchmarks.load import Connection
from benchmarks.process_tree import resident_mib, tree
from benchmarks.servers import SERVERS, Running, Server, install, started
from benchmarks.workload import HORIZON, Request

PARTS = ("length", "overhead", "accuracy", "many", "conversations")
PIECE = 200_000
"""Values and characters of one call that feeds a long session."""
CLIENTS = 8
CREATORS = 32
TALKERS = 32
NEW_CHARACTERS = 50
GENERATED = 20
SHORT_PROMPT = 10
_CARRY = next(server for server in SERVERS if server.name == "carry")
_UNSCORED = replace(
    _CARRY,
    command=(
        "python",
        "-c",
        "import sys; from service.forecast import task; "
        "task.score_values = lambda manifest, start, after, *_: (after, task.NO_SCORES); "
        "from carry.cli import main; sys.argv = ['carry', 'serve']; main()",
    ),
)
"""The service without what it does for the accuracy of sessions."""
_TORCH = next(server for server in SERVERS if server.name == "torch")

Figures = dict[str, Any]
Script = Generator[Request, dict[str, Any], None]
"""What a client asks, one request after the other; it is sent the answers."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    long: int = 1_000_000
    length_blocks: int = 12
    length_calls: int = 250
    reread_calls: int = 1
    blocks: int = 12
    calls: int = 320
    sessions: int = 100_000
    many_blocks: int = 8
    turns: int = 20


QUICK = Plan(20_000, 2, 50, 1, 2, 80, 1000, 2, 5)


@dataclass(frozen=True)
class Store:
    """Where sessions are kept. pid: of the server that keeps them, if there is one."""

    url: str
    folder: Path
    pid: int | None = None

    def size(self) -> Figures:
        """MiB that it takes."""
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        found = {"disk_mib": sum(file.stat().st_size for file in files) / 2**20}
        if self.pid is not None:
            memory: Any = Redis.from_url(self.url).info("memory")
            found["redis_mib"] = memory["used_memory"] / 2**20
        return found


@contextmanager
def store(kind: str) -> Iterator[Store]:
    """A new one: memory, sqlite or redis."""
    with tempfile.TemporaryDirectory(prefix="carry") as name:
        folder = Path(name)
        if kind == "memory":
            yield Store("memory://", folder)
        elif kind == "sqlite":
            yield Store(f"sqlite:///{folder}/carry.db", folder)
        else:
            options = f"--port 0 --unixsocket {folder}/socket --dir {folder} --appendonly yes"
            server = subprocess.Popen(["redis-server", *options.split(), "--save", ""], stdout=subprocess.PIPE)
            try:
                assert server.stdout is not None
                if not any(b"ready to accept connections" in line.lower() for line in server.stdout):
                    raise RuntimeError("redis-server did not start")
                yield Store(f"unix://{folder}/socket", folder, server.pid)
            finally:
                server.kill()
                server.communicate()


@contextmanager
def carry(kept: Store, server: Server = _CARRY, **settings: object) -> Iterator[Running]:
    """The service on a store. It takes a text of any length in one call, so that it can also be given all at once."""
    longest = {"MAX_SERIES_LENGTH": 10**7, "MAX_TEXT_LENGTH": 10**7, "MAX_BODY_BYTES": 10**9}
    given = longest | {"SESSION_STORE": kept.url} | {name.upper(): value for name, value in settings.items()}
    variables = {f"CARRY_{name}": str(value) for name, value in given.items()}
    with started(replace(server, variables=variables), "generate") as running:
        yield running


class Client:
    """Asks what a script says, on one kept-alive connection."""

    def __init__(self, port: int, script: Script) -> None:
        self._port = port
        self._script = script
        self._next = next(script, None)
        self._connection = Connection()

    async def calls(self, most: int = sys.maxsize) -> list[float]:
        """The next calls; how many milliseconds each took.

        Raises:
            RuntimeError: one is refused.
        """
        times: list[float] = []
        while self._next is not None and len(times) < most:
            answer = await self._connection.request(self._port, 0, self._next.http())
            if answer.status not in (200, 201):
                raise RuntimeError(f"{self._next.path} was answered {answer.status} {answer.body()[:500]!r}")
            times.append(1000 * (answer.done - answer.sent))
            try:
                self._next = self._script.send(orjson.loads(answer.body()))
            except StopIteration:
                self._next = None
        return times

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


async def play(port: int, scripts: Sequence[Script]) -> list[list[float]]:
    """Let a client act each script to its end, all at once; milliseconds of each one's calls."""
    found = [Client(port, script) for script in scripts]
    times = await asyncio.gather(*(client.calls() for client in found))
    for client in found:
        client.close()
    return times


def once(requests: Sequence[Request]) -> Script:
    """Each request once."""
    for request in requests:  # noqa: UP028 - a list's iterator cannot be sent the answers
        yield request


def repeating(requests: Sequence[Request], ids: Sequence[str] = ()) -> Script:
    """The same requests again and again, each in one of some sessions, chosen at random."""
    chance = random.Random(1)
    for request in itertools.cycle(requests):
        yield replace(request, body=request.body | {"session_id": chance.choice(ids)}) if ids else request


def carrying(requests: Sequence[Request]) -> Script:
    """The same, each with the state that the last answer brought."""
    state = ""
    for request in itertools.cycle(requests):
        state = (yield replace(request, body=request.body | {"state": state}))["state"]


def creating(requests: Sequence[Request], ids: list[str]) -> Script:
    """Create sessions; their ids are added to a list."""
    for request in requests:
        ids.append((yield request)["id"])


async def created(running: Running, requests: Sequence[Request]) -> list[str]:
    """The ids of new sessions, in any order; made by many clients at once."""
    ids: list[str] = []
    await play(running.port, [creating(requests[i::CREATORS], ids) for i in range(min(CREATORS, len(requests)))])
    return ids


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor seconds of live processes so far, their clocks read to the nanosecond: /proc counts in hundredths, and
    blocks are short."""
    # The clock of a process, as clock_getcpuclockid(3) makes its number.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


@dataclass
class Subject:
    """Calls that take turns with others. `prepare` gives the clients of the next block; what it does does not count."""

    running: Running
    prepare: Callable[[], Awaitable[list[Client]]]
    calls: int
    store: Store | None = None
    cpu: list[float] = field(default_factory=list)
    """Milliseconds of the service for each call, block by block."""
    store_cpu: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Milliseconds of each call."""

    async def block(self) -> None:
        """Some calls."""
        asking = await self.prepare()
        service = tree(self.running.pid)
        keeper = [self.store.pid] if self.store is not None and self.store.pid is not None else []
        before = cpu_seconds(service), cpu_seconds(keeper)
        found = await asyncio.gather(*(client.calls(self.calls // len(asking)) for client in asking))
        after = cpu_seconds(service), cpu_seconds(keeper)
        for client in asking:
            client.close()  # it connects again: the service may have hung up on one that was idle
        times = [*itertools.chain(*found)]
        self.times += times
        self.cpu.append(1000 * (after[0] - before[0]) / len(times))
        self.store_cpu.append(1000 * (after[1] - before[1]) / len(times))

    def forget(self) -> None:
        """Begin anew, after it was warmed up."""
        self.cpu, self.store_cpu, self.times = [], [], []

    @property
    def all_cpu(self) -> list[float]:
        """Of service and store."""
        return [service + keeper for service, keeper in zip(self.cpu, self.store_cpu, strict=True)]

    @property
    def block_times(self) -> list[float]:
        """Median of each block."""
        size = len(self.times) // len(self.cpu)
        return [statistics.median(self.times[i * size : (i + 1) * size]) for i in range(len(self.cpu))]

    def figures(self) -> Figures:
        """In milliseconds for each call."""
        p50, p99 = np.percentile(self.times, (50, 99))
        return {
            "calls": len(self.times),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "cpu_ms": statistics.median(self.cpu),
            "store_cpu_ms": statistics.median(self.store_cpu),
        }


def still(found: list[Client]) -> Callable[[], Awaitable[list[Client]]]:
    """The same clients in each block."""

    async def same() -> list[Client]:
        return found

    return same


async def take_turns(subjects: Sequence[Subject], blocks: int) -> None:
    """Measure all of them, in turn, forwards and backwards."""
    for subject in subjects:
        await subject.block()
        subject.forget()
    for i in range(blocks):
        for subject in subjects[:: 1 - 2 * (i % 2)]:
            await subject.block()


def quotient(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the quotients of neighbouring blocks."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@dataclass
class Findings:
    """What is written down: figures by part, and what they come to."""

    figures: dict[str, Figures] = field(default_factory=dict)
    rows: list[Figures] = field(default_factory=list)

    def note(self, what: str, measured: float, unit: str = "", most: float | None = None) -> None:
        """A row of the table. most: the target, where there is one."""
        target = None if most is None else f"<= {most:g}"
        met = None if most is None else measured <= most
        self.rows.append({"what": what, "target": target, "measured": measured, "unit": unit, "met": met})


def one_value(count: int = 256) -> list[Request]:
    """Forecasts of one more value each."""
    values = itertools.chain(*workload.series(2))
    return [Request("/forecast", {"series": [v], "horizon": HORIZON}) for v in itertools.islice(values, count)]


def short_texts(count: int = 256) -> list[Request]:
    """Twenty characters after ten more each."""
    bodies = [{"prompt": workload.prompt_at(7 * i, SHORT_PROMPT), "max_length": GENERATED} for i in range(count)]
    return [Request("/generate", body | {"seed": i}) for i, body in enumerate(bodies)]


def beginnings(kind: str, count: int) -> list[Request]:
    """New sessions that have read ten values or characters."""
    if kind == "forecast":
        return [Request("/sessions", {"series": workload.series(1)[0][:SHORT_PROMPT]})] * count
    return [Request("/sessions", {"prompt": workload.prompt_at(0, SHORT_PROMPT)})] * count


async def length(plan: Plan, found: Findings) -> None:
    """The next call of a session after ten and after a million, beside calls that read it all again."""
    values = np.resize(np.array(workload.series(5)).ravel(), plan.long).tolist()
    text = workload.prompt_at(0, plan.long)
    ask: dict[str, tuple[str, str, Any, Figures]] = {
        "forecast": ("/forecast", "series", values, {"horizon": HORIZON}),
        "generate": ("/generate", "prompt", text, {"max_length": GENERATED, "seed": 1}),
    }
    with store("sqlite") as kept, carry(kept, processes=1) as running:
        for kind, (path, name, past, wish) in ask.items():
            short, long = await created(running, beginnings(kind, 2))
            quiet = wish | {"horizon": 1} if kind == "forecast" else wish | {"max_length": 0}
            pieces = [past[i : i + PIECE] for i in range(SHORT_PROMPT, plan.long, PIECE)]
            feed = [Request(path, quiet | {name: piece, "session_id": long}) for piece in pieces]
            await play(running.port, [once(feed)])
            new = {name: past[:1]} if kind == "forecast" else {name: ""}

            def forks(
                of: str, calls: int = plan.length_calls, path: str = path, body: Figures = wish | new
            ) -> Callable[[], Awaitable[list[Client]]]:
                # Each call goes on from the very place, with a copy of its own.
                async def prepare() -> list[Client]:
                    ids = await created(running, [Request(f"/sessions/{of}/fork", {})] * calls)
                    return [Client(running.port, once([Request(path, body | {"session_id": id}) for id in ids]))]

                return prepare

            def again(part: Any, path: str = path, body: Figures = wish, name: str = name) -> list[Client]:
                return [Client(running.port, repeating([Request(path, body | {name: part})]))]

            subjects = {
                "after_ten": Subject(running, forks(short), plan.length_calls),
                "after_long": Subject(running, forks(long), plan.length_calls),
                "stateless_last_200": Subject(running, still(again(past[-200:])), plan.length_calls),
            }
            await take_turns([*subjects.values()], plan.length_blocks)
            subjects["stateless_all"] = Subject(running, still(again(past)), plan.reread_calls)
            await subjects["stateless_all"].block()
            found.figures[f"length, {kind}"] = {key: subject.figures() for key, subject in subjects.items()}
            ten, many = subjects["after_ten"], subjects["after_long"]
            what = f"{kind}, session after {plan.long:,} / after 10"
            found.note(f"{what}: CPU", quotient(many.cpu, ten.cpu), most=1.1)
            found.note(f"{what}: latency p50", quotient(many.block_times, ten.block_times), most=1.1)
            for key, meaning in (("stateless_last_200", "the last 200"), ("stateless_all", "all of it")):
                ratio = statistics.median(subjects[key].cpu) / statistics.median(many.cpu)
                found.note(f"{kind}, stateless call with {meaning} / session: CPU", ratio)


async def overhead(plan: Plan, found: Findings) -> None:
    """What a session adds to a call, by store and by number of clients; and a state that the caller carries."""
    most = {"memory": None, "sqlite": 1.3, "redis": 1.5}
    for kind, calls, count in itertools.product(most, (one_value(), short_texts()), (1, CLIENTS)):
        work = calls[0].path[1:]
        with store(kind) as kept, carry(kept, processes=1) as running:
            ids = await created(running, beginnings(work, count))
            scripts = {
                "stateless": [repeating(calls) for _ in ids],
                "session": [repeating(calls, [id]) for id in ids],
            }
            if kind == "memory":
                scripts["state"] = [carrying(calls) for _ in ids]
            subjects = {
                name: Subject(running, still([Client(running.port, s) for s in of]), plan.calls, kept)
                for name, of in scripts.items()
            }
            await take_turns([*subjects.values()], plan.blocks)
        found.figures[f"overhead, {work}, {kind}, {count} clients"] = {n: s.figures() for n, s in subjects.items()}
        plain, session = subjects["stateless"], subjects["session"]
        what = f"{work}, {count} client{'s' * (count > 1)}, {{}} / stateless: CPU"
        if kind == "redis":
            found.note(what.format("redis session") + " of the service", quotient(session.cpu, plain.cpu))
            found.note(
                what.format("redis session") + " with the server's", quotient(session.all_cpu, plain.cpu), most=1.5
            )
        else:
            found.note(what.format(f"{kind} session"), quotient(session.cpu, plain.cpu), most=most[kind])
        if "state" in subjects:
            found.note(what.format("state of the caller's"), quotient(subjects["state"].cpu, plain.cpu))


async def accuracy(plan: Plan, found: Findings) -> None:
    """What it costs that a session scores its forecast of the value that a call brings."""
    with (
        store("memory") as one_store,
        store("memory") as other_store,
        carry(one_store, processes=1) as scoring,
        carry(other_store, _UNSCORED, processes=1) as silent,
    ):
        subjects = {}
        for name, running, kept in (("scored", scoring, one_store), ("unscored", silent, other_store)):
            ids = await created(running, beginnings("forecast", 1))
            subjects[name] = Subject(
                running, still([Client(running.port, repeating(one_value(), ids))]), plan.calls, kept
            )
        await take_turns([*subjects.values()], 2 * plan.blocks)
    found.figures["accuracy"] = {name: subject.figures() for name, subject in subjects.items()}
    ratio = quotient(subjects["scored"].cpu, subjects["unscored"].cpu)
    found.note("forecast, memory session, with its score / without: CPU", ratio, most=1.03)


async def many(plan: Plan, found: Findings) -> None:
    """A hundred thousand live sessions beside a hundred: two services, the same load in turn."""
    for kind in ("sqlite", "redis"):
        with (
            store(kind) as small_store,
            store(kind) as large_store,
            carry(small_store) as small,
            carry(large_store) as large,
        ):
            before = resident_mib(large.pid)
            ids: dict[tuple[str, str], list[str]] = {}
            rates = []
            for work in ("forecast", "generate"):
                ids["few", work] = await created(small, beginnings(work, 50))
                began = time.perf_counter()
                ids["many", work] = await created(large, beginnings(work, plan.sessions // 2))
                rates.append(plan.sessions // 2 / (time.perf_counter() - began))
            size = large_store.size() | {"service_mib": resident_mib(large.pid), "service_mib_before": before}
            size |= {f"created_per_s_{work}": rate for work, rate in zip(("forecast", "generate"), rates, strict=True)}
            found.figures[f"many, {kind}, size"] = size
            name = f"{plan.sessions:,} sessions, {kind}"
            for rate, what in zip(rates, ("series of 10 values", "prompts of 10 characters"), strict=True):
                found.note(f"{name}: created from {what}", rate, "/s")
            found.note(f"{name}: memory of the service, before", before, "MiB")
            found.note(f"{name}: memory of the service", size["service_mib"], "MiB")
            found.note(f"{name}: on disk", size["disk_mib"], "MiB")
            if "redis_mib" in size:
                found.note(f"{name}: memory of redis", size["redis_mib"], "MiB")
            for calls in (one_value(), short_texts()):
                work = calls[0].path[1:]
                subjects = {
                    some: Subject(running, still(sharing(running, calls, ids[some, work])), plan.calls, kept)
                    for some, running, kept in (("few", small, small_store), ("many", large, large_store))
                }
                await take_turns([*subjects.values()], plan.many_blocks)
                figures = {some: subject.figures() for some, subject in subjects.items()}
                found.figures[f"many, {kind}, {work}"] = figures
                for some, count in (("many", plan.sessions), ("few", 100)):
                    for percentile in ("p50", "p99"):
                        what = f"{work}, {CLIENTS} clients, one of {count:,}, {kind}: latency {percentile}"
                        found.note(what, figures[some][f"{percentile}_ms"], "ms")


def sharing(running: Running, calls: Sequence[Request], ids: Sequence[str]) -> list[Client]:
    """Clients that each go on with sessions of their own share: none waits for another's."""
    return [Client(running.port, repeating(calls, ids[i::CLIENTS])) for i in range(CLIENTS)]


def conversation(client: int, turns: int, session: str | None) -> Script:
    """A text that client and server write in turn; without a session, each request brings all of it."""
    text = ""
    for turn in range(turns):
        new = workload.prompt_at(101 * client + 57 * turn, NEW_CHARACTERS)
        body = {"max_length": NEW_CHARACTERS, "temperature": 0.8, "seed": client + TALKERS * turn}
        if session is None:
            answer = yield Request("/generate", body | {"prompt": text + new})
        else:
            answer = yield Request("/generate", body | {"prompt": new, "session_id": session})
        text += new + answer["text"]


async def talk(running: Running, turns: int, sessions: Sequence[str | None]) -> Figures:
    """All conversations at once. Each turn begins for all together: only so can it be told what that turn costs, and
    nobody is turns ahead because a server happens to serve whom it served last."""
    pids = tree(running.pid)
    talkers = [Client(running.port, conversation(i, turns, id)) for i, id in enumerate(sessions)]
    began, cpu, latency = time.perf_counter(), [], []
    for _ in range(turns):
        before = cpu_seconds(pids)
        times = await asyncio.gather(*(talker.calls(1) for talker in talkers))
        cpu.append(1000 * (cpu_seconds(pids) - before) / len(talkers))
        latency.append(statistics.median(itertools.chain(*times)))
    seconds = time.perf_counter() - began
    for talker in talkers:
        talker.close()
    return {"turns_per_s": turns * len(talkers) / seconds, "cpu_ms_by_turn": cpu, "p50_ms_by_turn": latency}


async def conversations(plan: Plan, found: Findings) -> None:
    """Thirty-two conversations: with sessions, and with all of the text each time, in Carry and in PyTorch."""
    nobody: list[str | None] = [None] * TALKERS
    figures: dict[str, Figures] = {}
    with store("sqlite") as kept, carry(kept) as running:
        begin = Request("/sessions", {"model": "text"})
        figures["carry, sessions"] = await talk(running, plan.turns, await created(running, [begin] * TALKERS))
        figures["carry, stateless"] = await talk(running, plan.turns, nobody)
    with started(_TORCH, "generate") as running:
        figures["torch"] = await talk(running, plan.turns, nobody)
    found.figures["conversations"] = figures
    sessions = figures["carry, sessions"]
    for name, of in figures.items():
        found.note(f"{TALKERS} conversations, {name}: turns", of["turns_per_s"], "/s")
        quarter = max(1, plan.turns // 4)
        for key, what in (("cpu_ms_by_turn", "CPU"), ("p50_ms_by_turn", "latency")):
            growth = statistics.median(of[key][-quarter:]) / statistics.median(of[key][:quarter])
            found.note(f"{TALKERS} conversations, {name}: {what}, last quarter of the turns / first", growth)
        if of is not sessions:
            faster = sessions["turns_per_s"] / of["turns_per_s"]
            found.note(f"{TALKERS} conversations, turns/s with sessions / {name}", faster)


def picture(figures: Figures, path: Path) -> None:
    """What a turn costs, and how long it takes, against the length of the text."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, key, what in zip(
        panels, ("cpu_ms_by_turn", "p50_ms_by_turn"), ("processor milliseconds", "median milliseconds"), strict=True
    ):
        for name, of in figures.items():
            positions = [2 * NEW_CHARACTERS * turn for turn in range(len(of[key]))]
            panel.plot(positions, of[key], marker="o", linewidth=2.5 if "sessions" in name else 1.2, label=name)
        panel.set_yscale("log")
        panel.set_xlabel("characters of the conversation before the turn")
        panel.set_ylabel(f"{what} of a turn, {TALKERS} clients")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.savefig(path, dpi=130)


def number(value: float, unit: str) -> str:
    """With its unit, to three digits."""
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}".rstrip()


def write(console: Console, found: Findings, plan: Plan, name: str) -> None:
    """Everything: to the terminal and to the folder of results."""
    report.RESULTS.mkdir(exist_ok=True)
    machine = report.machine()
    content = {"machine": machine, "plan": vars(plan), "figures": found.figures, "findings": found.rows}
    (report.RESULTS / f"{name}.json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    if "conversations" in found.figures:
        picture(found.figures["conversations"], report.picture_path(name))
    table = Table("what", "target", "measured", "met", box=box.MARKDOWN)
    for row in found.rows:
        verdict = {True: "yes", False: "NO", None: "-"}[row["met"]]
        table.add_row(row["what"], row["target"] or "-", number(row["measured"], row["unit"]), verdict)
    console.print(table)
    console.print(f"{machine['cores']} cores, {machine['cpu']}, Python {machine['python']}", highlight=False)


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a minute: few calls, few sessions")
    parser.add_argument("--only", default="", help=f"parts: {','.join(PARTS)}")
    given = parser.parse_args()
    if shutil.which("redis-server") is None:
        sys.exit("this needs redis-server (Redis or Valkey) on the PATH: install it, and try again")
    plan, parts, found = QUICK if given.quick else Plan(), chosen(given.only, PARTS), Findings()
    console = Console(width=140)
    install(_CARRY)
    measures = {
        "length": length,
        "overhead": overhead,
        "accuracy": accuracy,
        "many": many,
        "conversations": conversations,
    }
    for part in parts:
        began = time.perf_counter()
        uvloop.run(measures[part](plan, found))
        console.print(f"{part}: {time.perf_counter() - began:.0f} s", highlight=False)
    write(console, found, plan, "partial.sessions" if given.quick or given.only else "sessions")


if __name__ == "__main__":
    main()
