"""Whether a text depends on who else is being served: generations with random controls, each asked for alone, then all
of them again under load, of two replicas, in five ways.

Usage: python -m benchmarks.consistency [--count 10000] [--clients 64]

Exits with 1 if a single text differs. Writes benchmarks/results/consistency.json.
"""

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import httpx2
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.servers import SERVERS, started
from service.manifest import read_manifest
from service.text.manifest import TextManifest
from training.models import MANIFESTS

RESULTS = Path(__file__).parent / "results" / "consistency.json"
MODELS = Path(__file__).parent.parent / "models"
LONGEST = 80
STOPS = ("\n", ". ", "the", " and ", "e", "zq")
PROMPTS = ("", "\n", "The ", "It was ", "ROMEO:\n", "She said nothing, and ", "Once upon a time there was " * 8)

Body = dict[str, Any]
Way = Callable[["Asked"], Awaitable[list[str]]]


@dataclass(frozen=True)
class Asked:
    """A generation, by which replicas, one after the other, and where it is cut into calls."""

    body: Body
    replicas: tuple[httpx2.AsyncClient, ...]
    cuts: tuple[int, ...]
    vocabulary: Sequence[str]

    @property
    def whole(self) -> bool:
        """Whether it can be cut into several calls: a stop text that is cut would not be one, and what earlier calls
        wrote has no penalty."""
        penalised = self.body["frequency_penalty"] or self.body["presence_penalty"]
        return not self.body["stop"] and self.body["n"] == 1 and not penalised


def requests(count: int, models: dict[str, TextManifest], seed: int = 0) -> list[Body]:
    """Generations by any model with any mixture of controls."""
    rng = np.random.default_rng(seed)

    def sometimes(value: float | int, usual: float | int) -> float | int:
        return value if rng.random() < 0.4 else usual

    made = []
    for _ in range(count):
        model = str(rng.choice(list(models)))
        letters = rng.choice([c for c in models[model].vocabulary if c.isalpha()], 2)
        penalised = rng.random() < 0.3
        made.append(
            {
                "model": model,
                "prompt": str(rng.choice(PROMPTS)),
                "max_length": int(rng.integers(1, LONGEST + 1)),
                "temperature": float(rng.choice([0.0, 0.5, 0.8, 1.0, 1.5])),
                "top_k": sometimes(int(rng.integers(1, 40)), 0),
                "top_p": sometimes(float(rng.uniform(0.3, 1.0)), 1.0),
                "min_p": sometimes(float(rng.uniform(0.0, 0.3)), 0.0),
                "repetition_penalty": sometimes(float(rng.uniform(0.8, 1.5)), 1.0),
                "frequency_penalty": float(rng.uniform(-0.5, 1)) if penalised else 0.0,
                "presence_penalty": float(rng.uniform(-2, 2)) if penalised else 0.0,
                "logit_bias": {str(c): float(rng.uniform(-5, 5)) for c in letters} if rng.random() < 0.3 else {},
                "stop": [str(stop) for stop in rng.choice(STOPS, 2, replace=False)] if rng.random() < 0.3 else [],
                "seed": int(rng.integers(2**53)),
                "n": int(sometimes(3, 1)),
            }
        )
    return made


async def _json(client: httpx2.AsyncClient, path: str, body: Body) -> Any:
    answer = await client.post(path, json=body)
    if answer.is_error:
        raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text}\n{body}")
    return answer.json()


async def in_one(asked: Asked) -> list[str]:
    """`/generate`, all at once."""
    found = await _json(asked.replicas[0], "/generate", asked.body)
    return [choice["text"] for choice in found["choices"] or [found]]


async def streamed(asked: Asked) -> list[str]:
    """`/generate` with `stream`."""
    texts = [""] * asked.body["n"]
    async with asked.replicas[0].stream("POST", "/generate", json={**asked.body, "stream": True}) as answer:
        answer.raise_for_status()
        broken = False
        async for line in answer.aiter_lines():
            if broken:
                raise RuntimeError(f"a stream broke with {line}: {asked.body}")
            broken = line.startswith("event: error")
            if line.startswith("data: ") and "text" in (event := json.loads(line.removeprefix("data: "))):
                texts[event["index"]] += event["text"]
    return texts


async def in_a_session(asked: Asked) -> list[str]:
    """In several calls, of one replica after the other."""
    created = await _json(asked.replicas[0], "/sessions", {"model": asked.body["model"]})
    return ["".join([piece["text"] async for piece in _pieces(asked, {"session_id": created["id"]})])]


async def with_its_state(asked: Asked) -> list[str]:
    """In several calls, of one replica after the other, each given the state that the one before gave back."""
    return ["".join([piece["text"] async for piece in _pieces(asked, {"state": ""})])]


async def _pieces(asked: Asked, carried: Body) -> Any:
    prompt = asked.body["prompt"]
    for number, length in enumerate(np.diff([0, *asked.cuts, asked.body["max_length"]]).tolist()):
        body = {**asked.body, "prompt": prompt, "max_length": length, **carried}
        piece = await _json(asked.replicas[number % len(asked.replicas)], "/generate", body)
        yield piece
        prompt, carried = "", {"state": piece["state"]} if "state" in carried else carried


async def as_completions(asked: Asked) -> list[str]:
    """`/v1/completions`."""
    body = dict(asked.body)
    body["max_tokens"] = body.pop("max_length")
    tokens = {piece: token for token, piece in enumerate(asked.vocabulary)}
    body["logit_bias"] = {str(tokens[piece]): bias for piece, bias in body["logit_bias"].items()}
    found = await _json(asked.replicas[0], "/v1/completions", body)
    return [choice["text"] for choice in found["choices"]]


WAYS: tuple[Way, ...] = (in_one, streamed, in_a_session, with_its_state, as_completions)


async def compare(
    urls: Sequence[str], count: int, clients: int, models: dict[str, TextManifest]
) -> tuple[dict[str, dict[str, int]], float, float]:
    """Of each way, how many texts were asked for and how many differ; seconds alone and under load."""
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with AsyncExitStack() as stack:
        opened = [httpx2.AsyncClient(base_url=url, limits=limits, timeout=120) for url in urls]
        replicas = tuple([await stack.enter_async_context(client) for client in opened])
        rng = np.random.default_rng(1)
        all_asked = []
        for body in requests(count, models):
            cuts = sorted({int(cut) for cut in rng.integers(1, LONGEST, 2) if cut < body["max_length"]})
            order = tuple(replicas[i] for i in rng.permutation(len(replicas)))
            all_asked.append(Asked(body, order, tuple(cuts), models[body["model"]].vocabulary))
        began = time.perf_counter()
        alone = [await in_one(replace(asked, replicas=replicas[:1])) for asked in all_asked]
        between = time.perf_counter()
        queue = iter([int(i) for i in rng.permutation(count)])
        asked_for: Counter[str] = Counter()
        differ: Counter[str] = Counter()
        console = Console(stderr=True)

        async def client() -> None:
            for i in queue:
                asked = all_asked[i]
                way = WAYS[i % len(WAYS)] if asked.whole else (in_one, streamed, as_completions)[i % 3]
                found = await way(asked)
                asked_for[way.__name__] += len(found)
                if found != alone[i]:
                    differ[way.__name__] += 1
                    console.print(f"{way.__name__}: {found} for {asked.body}, alone {alone[i]}", markup=False)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        end = time.perf_counter()
    ways = {way.__name__: {"texts": asked_for[way.__name__], "differ": differ[way.__name__]} for way in WAYS}
    return ways, between - began, end - between


def main(
    count: Annotated[int, typer.Option(min=1, help="Generations.")] = 10_000,
    clients: Annotated[int, typer.Option(min=1, help="Callers at once, under load.")] = 64,
) -> None:
    """Compare, print a table, write the results."""
    manifests = [read_manifest(path.parent, *MANIFESTS) for path in sorted(MODELS.glob("*/1/manifest.json"))]
    models = {manifest.name: manifest for manifest in manifests if isinstance(manifest, TextManifest)}
    carry = next(server for server in SERVERS if server.name == "carry")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        store = {"CARRY_SESSION_STORE": f"sqlite:///{folder}/sessions.db"}
        replica = replace(carry, variables={**carry.variables, **store})
        ports = [stack.enter_context(started(replica, "generate")).port for _ in range(2)]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        ways, alone, loaded = asyncio.run(compare(urls, count, clients, models))
    table = Table("way", "texts", "that differ", title=f"{count:,} generations alone, then by {clients} at once")
    for way, found in ways.items():
        table.add_row(way.replace("_", " "), f"{found['texts']:,}", f"{found['differ']:,}")
    Console().print(table, f"{alone:.0f} s one at a time, {loaded:.0f} s under load, on two replicas")
    RESULTS.write_text(
        json.dumps(
            {"generations": count, "clients": clients, "models": sorted(models), "seconds": [alone, loaded]} | ways,
            indent=1,
        )
        + "\n"
    )
    if any(found["differ"] for found in ways.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
