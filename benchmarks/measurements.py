"""What is measured on a running server. Each function returns plain figures for results.json."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson

from benchmarks import workload
from benchmarks.load import Answer, Clients
from benchmarks.process_tree import PeakMemory, cpu_seconds, machine_cpu_seconds
from benchmarks.servers import Running
from benchmarks.workload import GENERATED_LENGTH

SETTLE_SECONDS = 1.0
"""From the first client's arrival to the beginning of the window in which answers count, at least; and until there was
an answer for each client, or SETTLE_WINDOWS times the window's length has passed."""
SETTLE_WINDOWS = 3
LEAST_ANSWERS = 3
SLOWEST_SECONDS = 60.0
"""How long a window is prolonged at most, until there are that many answers."""
READ_WINDOWS = 4
"""How many times its length it is prolonged at most, until a very long prompt was read."""
DRAIN_SECONDS = 5.0
PAUSE_SECONDS = 0.2
"""Mean pause of clients that arrive at random. Without it clients of a static batch, all answered together, also ask
together, and never have to wait for a batch under way."""

Figures = dict[str, Any]


@dataclass
class Result:
    """The figures of one measurement. Times in milliseconds; rates in characters or forecasts per second."""

    server: str
    work: str
    clients: int
    seconds: float = 0.0
    answers: int = 0
    failures: int = 0
    throughput: float = 0.0
    latency_p50: float | None = None
    latency_p99: float | None = None
    first_p50: float | None = None
    first_p99: float | None = None
    gap_p50: float | None = None
    gap_p99: float | None = None
    gap_longest: float | None = None
    gap_per_character_p50: float | None = None
    gap_per_character_p99: float | None = None
    cpu_seconds_per_1000: float | None = None
    peak_mib: float | None = None
    load_generator_cores: float | None = None
    others_cores: float | None = None
    """Cores that neither the server nor the load generator used: of anything else that ran. More than a little, and the
    figures are worth little."""
    long_prompts_read: int | None = None

    def figures(self) -> Figures:
        """As plain data, rounded."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


class Window:
    """A span of time, and what the server used in it."""

    def __init__(self) -> None:
        self.start = self.end = self.cpu = self.own_cpu = self.all_cpu = self.peak_mib = 0.0

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    @contextmanager
    def of(self, running: Running) -> Iterator["Window"]:
        """Measure what runs inside the `with`."""
        with PeakMemory(running.pid) as memory:
            self.start, before, own = time.perf_counter(), cpu_seconds(running.pid), time.process_time()
            everything = machine_cpu_seconds()
            yield self
            self.own_cpu, self.all_cpu = time.process_time() - own, machine_cpu_seconds() - everything
            self.end, self.cpu = time.perf_counter(), cpu_seconds(running.pid) - before
        self.peak_mib = memory.mib


def generate(running: Running, clients: int, seconds: float) -> tuple[Result, bool]:
    """Whole texts from concurrent clients. Also whether the server had finished everything at the end."""
    requests = [running.http(request) for request in workload.texts(256)]
    answers, window, idle = asyncio.run(_for_a_while(running, clients, requests, seconds))
    result = _result(running, "generate", clients, answers, window)
    lengths = [len(_text(answer)) for answer in _good(answers)]
    result.failures += sum(length != GENERATED_LENGTH for length in lengths)
    _rates(result, sum(lengths), window)
    return result, idle


def forecast(running: Running, clients: int, seconds: float) -> tuple[Result, bool]:
    """Forecasts from concurrent clients, one series to a call."""
    requests = [running.http(request) for request in workload.forecasts(256)]
    answers, window, idle = asyncio.run(_for_a_while(running, clients, requests, seconds))
    result = _result(running, "forecast", clients, answers, window)
    _rates(result, sum(b'"quantiles"' in answer.body() for answer in _good(answers)), window)
    return result, idle


def stream(
    running: Running, clients: int, seconds: float, reader: bool = False, pause: bool = False
) -> tuple[Result, bool]:
    """Streamed texts.

    reader: while one more client sends a very long prompt over and over. pause: from clients that wait at random before
    their next request.
    """
    return asyncio.run(_stream(running, clients, seconds, reader, pause))


def forecast_batches(running: Running, count: int, size: int) -> Result:
    """`count` series in calls of `size` from eight clients, each series once."""
    requests = [running.http(request) for request in workload.forecast_batches(count, size)]
    answers, window = asyncio.run(_each_once(running, 8, requests))
    result = _result(running, "forecast_batch", 8, answers, window)
    found = sum(len(orjson.loads(answer.body()).get("results", [])) for answer in _good(answers))
    _rates(result, found, window)
    return result


def forecast_singles(running: Running, clients: int, count: int) -> Result:
    """`count` series in a call each, each series once."""
    requests = [running.http(request) for request in workload.forecasts(count)]
    answers, window = asyncio.run(_each_once(running, clients, requests))
    result = _result(running, "forecast_single", clients, answers, window)
    _rates(result, len(_good(answers)), window)
    return result


def identical(running: Running, clients: int, count: int) -> Figures:
    """How many of `count` mixed requests are answered differently under load and alone."""
    requests = [running.http(request) for request in workload.mixed(count)]
    order = list(range(count))
    random.Random(4).shuffle(order)
    loaded, _ = asyncio.run(_each_once(running, clients, [requests[i] for i in order]))
    alone, _ = asyncio.run(_each_once(running, 1, requests))
    by_request = {order[answer.place]: answer for answer in loaded}
    differences = failures = 0
    for answer in alone:
        other = by_request.get(answer.place)
        if other is None or other.status != 200 or answer.status != 200:
            failures += 1
        elif _content(answer) != _content(other):
            differences += 1
    failures += count - len(alone)
    return {"requests": count, "clients": clients, "differences": differences, "failures": failures}


async def _for_a_while(
    running: Running, count: int, requests: Sequence[bytes], seconds: float
) -> tuple[list[Answer], Window, bool]:
    """Clients for some seconds; the answers that ended inside of the window."""
    clients = Clients(running.port, count, requests)
    clients.start()
    await _settle(clients, count, seconds)
    with Window().of(running) as window:
        before = len(clients.answers)
        await asyncio.sleep(seconds)
        await clients.more(LEAST_ANSWERS - (len(clients.answers) - before), SLOWEST_SECONDS)
    answers = [answer for answer in clients.answers if window.start <= answer.done <= window.end]
    return answers, window, await clients.drain(DRAIN_SECONDS)


async def _settle(clients: Clients, count: int, seconds: float) -> None:
    await asyncio.sleep(min(SETTLE_SECONDS, seconds))
    await clients.more(count - len(clients.answers), SETTLE_WINDOWS * seconds)


async def _each_once(running: Running, count: int, requests: Sequence[bytes]) -> tuple[list[Answer], Window]:
    """Send each request once; all answers, and the time it took."""
    clients = Clients(running.port, count, requests, most=len(requests), stagger=0.0)
    with Window().of(running) as window:
        clients.start()
        await clients.finish()
    await clients.drain(0.0)
    return clients.answers, window


async def _stream(running: Running, count: int, seconds: float, reader: bool, pause: bool) -> tuple[Result, bool]:
    long_prompt = [running.http(workload.long_prompt())]
    readers = Clients(running.port, int(reader), long_prompt)
    readers.start()
    requests = [running.http(request) for request in workload.texts(256, stream=True)]
    clients = Clients(running.port, count, requests, pause=PAUSE_SECONDS if pause else 0.0)
    clients.start()
    await _settle(clients, count, seconds)
    with Window().of(running) as window:
        already = len(readers.answers)
        await asyncio.sleep(seconds)
        if reader:
            await readers.more(1 - (len(readers.answers) - already), READ_WINDOWS * seconds)
    unfinished = clients.under_way()
    answers = [answer for answer in clients.answers if window.start <= answer.done <= window.end]
    read = [answer for answer in readers.answers if window.start <= answer.done <= window.end]
    work = "stream_beside_reader" if reader else "stream_pausing" if pause else "stream"
    result = _result(running, work, count, answers, window)
    result.failures += sum(sum(brought for _, brought in a.arrivals()) != GENERATED_LENGTH for a in _good(answers))
    result.failures += sum(answer.status != 200 for answer in read)
    result.long_prompts_read = len(_good(read)) if reader else None

    first, gaps, per_character, characters, longest = [], [], [], 0, 0.0
    for answer in [*(a for a in clients.answers if a.status == 200 and a.done >= window.start), *unfinished]:
        arrivals = answer.arrivals()
        moments = [answer.sent, *(moment for moment, _ in arrivals)]
        for i, (moment, brought) in enumerate(arrivals):
            if not window.start <= moment <= window.end:
                continue
            characters += brought
            gap = 1000 * (moment - moments[i])
            if i == 0:
                first.append(gap)
            else:
                gaps.append(gap)
                per_character.append(gap / brought)
        if answer in unfinished and moments[-1] <= window.end:
            # A gap that is still open counts as the longest, if it is.
            longest = max(longest, 1000 * (window.end - moments[-1]))
    result.first_p50, result.first_p99 = _percentiles(first)
    result.gap_p50, result.gap_p99 = _percentiles(gaps)
    result.gap_per_character_p50, result.gap_per_character_p99 = _percentiles(per_character)
    result.gap_longest = max([longest, *gaps])
    _rates(result, characters, window)
    idle = await clients.drain(DRAIN_SECONDS)
    return result, await readers.drain(DRAIN_SECONDS) and idle if reader else idle


def _good(answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status == 200]


def _result(running: Running, work: str, clients: int, answers: Sequence[Answer], window: Window) -> Result:
    good = _good(answers)
    result = Result(running.server.name, work, clients, window.seconds, len(good), len(answers) - len(good))
    result.latency_p50, result.latency_p99 = _percentiles([1000 * (answer.done - answer.sent) for answer in good])
    result.peak_mib = window.peak_mib
    result.load_generator_cores = window.own_cpu / window.seconds
    result.others_cores = max(0.0, window.all_cpu - window.own_cpu - window.cpu) / window.seconds
    return result


def _rates(result: Result, count: int, window: Window) -> None:
    result.throughput = count / window.seconds
    result.cpu_seconds_per_1000 = 1000 * window.cpu / count if count else None


def _percentiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The median and the 99th percentile."""
    if not values:
        return None, None
    return float(np.percentile(values, 50)), float(np.percentile(values, 99))


def _object(answer: Answer) -> Figures:
    """The JSON object of an answer; of a list of one, the one."""
    content = orjson.loads(answer.body())
    found: Figures = content[0] if isinstance(content, list) else content
    return found


def _text(answer: Answer) -> str:
    text: str = _object(answer)["text"]
    return text


def _content(answer: Answer) -> bytes:
    """The part that may not depend on load: text or quantiles."""
    content = _object(answer)
    return orjson.dumps(content.get("text", content.get("quantiles")))
