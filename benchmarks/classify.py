"""Whether a class depends on who else is being served: sequences, each classified alone, then all of them again under
load, of two replicas, in four ways.

Usage: python -m benchmarks.classify [--count 10000] [--clients 32]

Exits with 1 if a single probability differs. Writes benchmarks/results/classify.json.
"""

import asyncio
import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from service.classify.manifest import ClassifyManifest
from service.manifest import read_manifest
from training.models import MANIFESTS

RESULTS = Path(__file__).parent / "results" / "classify.json"
MODELS = Path(__file__).parent.parent / "models"
LONGEST = 30
"""Steps of a sequence: each is a call of its own in a session."""

Body = dict[str, Any]
Shares = Mapping[str, float]
"""The probabilities of the classes."""


@dataclass(frozen=True)
class Asked:
    """A sequence of one model, as a list of its steps: of a series, numbers for each feature; of a text, its tokens."""

    model: str
    features: tuple[str, ...]
    steps: Sequence[Any]

    def body(self, start: int = 0, end: int | None = None) -> Body:
        """The field of a request that holds a part of it."""
        part = self.steps[start:end]
        if not self.features:
            return {"text": "".join(part)}
        columns = [list(column) for column in zip(*part, strict=True)]
        return {"series": columns[0] if len(columns) == 1 else dict(zip(self.features, columns, strict=True))}

    @property
    def whole(self) -> Body:
        """The request that classifies it."""
        return {"model": self.model, **self.body()}


def sequences(count: int, manifests: Sequence[ClassifyManifest], seed: int = 0) -> list[Asked]:
    """Random walks with gaps, and texts of words that the vocabulary can write."""
    rng = np.random.default_rng(seed)
    letters = {
        manifest.name: [token for token in manifest.vocabulary if token[-1:].isalpha()] for manifest in manifests
    }
    drawn = []
    for _ in range(count):
        manifest = manifests[int(rng.integers(len(manifests)))]
        length = int(rng.integers(1, LONGEST + 1))
        steps: list[Any]
        if manifest.reads_text:
            tokens = rng.choice(letters[manifest.name], length).tolist()
            text = "".join(" " if rng.random() < 0.2 else token for token in tokens) or "a"
            steps = list(manifest.tokenizer.encode(text)[0])
        else:
            walk = rng.normal(size=(length, len(manifest.features))).cumsum(axis=0)
            gaps = rng.random(walk.shape) < 0.1
            gaps[0] = False
            steps = [
                [None if gap else round(value, 3) for value, gap in zip(*row, strict=True)]
                for row in zip(walk.tolist(), gaps.tolist(), strict=True)
            ]
        drawn.append(Asked(manifest.name, manifest.features, steps))
    return drawn


async def _json(client: httpx2.AsyncClient, path: str, body: Body) -> Any:
    answer = await client.post(path, json=body)
    if answer.is_error:
        raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text}\n{body}")
    return answer.json()


Way = Callable[[Asked, Sequence[httpx2.AsyncClient]], Awaitable[Sequence[tuple[int, Shares]]]]
"""Classifies a sequence, of several replicas: after how many steps, and as what."""


async def in_one(asked: Asked, replicas: Sequence[httpx2.AsyncClient]) -> list[tuple[int, Shares]]:
    """`/classify`, all steps at once, and the classes after each."""
    answer = await _json(replicas[0], "/classify", {**asked.whole, "per_step": True})
    per_step = [
        (step + 1, {name: shares[step] for name, shares in answer["per_step"].items()})
        for step in range(len(asked.steps))
    ]
    return [*per_step, (len(asked.steps), answer["probabilities"])]


async def in_a_batch(asked: Asked, replicas: Sequence[httpx2.AsyncClient]) -> list[tuple[int, Shares]]:
    """`/classify/batch`: the sequence beside its own beginnings."""
    ends = sorted({len(asked.steps), *range(1, len(asked.steps), 7)})
    requests = [asked.body(0, end) for end in ends]
    answer = await _json(replicas[0], "/classify/batch", {"model": asked.model, "requests": requests})
    return [(end, result["probabilities"]) for end, result in zip(ends, answer["results"], strict=True)]


async def in_a_session(asked: Asked, replicas: Sequence[httpx2.AsyncClient]) -> list[tuple[int, Shares]]:
    """Value by value, of one replica after the other."""
    created = await _json(replicas[0], "/sessions", {"model": asked.model})
    shares = []
    for step in range(len(asked.steps)):
        body = {"session_id": created["id"], **asked.body(step, step + 1)}
        answer = await _json(replicas[step % len(replicas)], "/classify", body)
        shares.append((step + 1, answer["probabilities"]))
    return shares


async def with_its_state(asked: Asked, replicas: Sequence[httpx2.AsyncClient]) -> list[tuple[int, Shares]]:
    """In three calls, each given the state that the one before gave back."""
    bounds = sorted({0, len(asked.steps) // 3, 2 * len(asked.steps) // 3, len(asked.steps)})
    state, shares = "", []
    for start, end in itertools.pairwise(bounds):
        body = {"model": asked.model, "state": state, **asked.body(start, end)}
        answer = await _json(replicas[end % len(replicas)], "/classify", body)
        state = answer["state"]
        shares.append((end, answer["probabilities"]))
    return shares


WAYS: tuple[Way, ...] = (in_one, in_a_batch, in_a_session, with_its_state)


async def compare(
    urls: Sequence[str], count: int, clients: int, manifests: Sequence[ClassifyManifest]
) -> tuple[dict[str, dict[str, int]], float, float]:
    """Of each way, how many sequences were classified, how many classes of a sequence or of its beginning it gave, and
    how many of these differ from those of the sequence alone; seconds alone and under load. Models of two directions
    have no sessions, and are left out."""
    manifests = [manifest for manifest in manifests if manifest.directions == 1]
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    all_asked = sequences(count, manifests)
    sequences_asked: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    differ: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        opened = [httpx2.AsyncClient(base_url=url, limits=limits, timeout=120) for url in urls]
        replicas = [await stack.enter_async_context(client) for client in opened]
        began = time.perf_counter()
        alone = [dict(await in_one(asked, replicas[:1])) for asked in all_asked]
        between = time.perf_counter()
        queue = iter(np.random.default_rng(1).permutation(count).tolist())

        async def client() -> None:
            for i in queue:
                way = WAYS[i % len(WAYS)]
                name = getattr(way, "__name__", "")
                answers = await way(all_asked[i], replicas)
                sequences_asked[name] += 1
                classes[name] += len(answers)
                differ[name] += sum(shares != alone[i][step] for step, shares in answers)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        end = time.perf_counter()
    ways = {
        name: {"sequences": sequences_asked[name], "classes": classes[name], "differ": differ[name]}
        for name in sequences_asked
    }
    return ways, between - began, end - between


def classifiers(models: Path) -> list[ClassifyManifest]:
    """The classifiers in a folder of models."""
    manifests = [read_manifest(path.parent, *MANIFESTS) for path in sorted(models.glob("*/1/manifest.json"))]
    return [manifest for manifest in manifests if isinstance(manifest, ClassifyManifest)]


def main(
    count: Annotated[int, typer.Option(min=1, help="Sequences.")] = 10_000,
    clients: Annotated[int, typer.Option(min=1, help="Callers at once, under load.")] = 32,
) -> None:
    """Compare, print a table, write the results."""
    manifests = classifiers(MODELS)
    carry = next(server for server in SERVERS if server.name == "carry")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        store = {"CARRY_SESSION_STORE": f"sqlite:///{folder}/sessions.db", "CARRY_PROCESSES": "1"}
        replica = replace(carry, variables={**carry.variables, **store})
        ports = [stack.enter_context(started(replica, "generate")).port for _ in range(2)]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        ways, alone, loaded = asyncio.run(compare(urls, count, clients, manifests))
    table = Table(
        "way", "sequences", "classes", "that differ", title=f"{count:,} sequences alone, then by {clients} at once"
    )
    for way, counts in sorted(ways.items()):
        table.add_row(way.replace("_", " "), *(f"{number:,}" for number in counts.values()))
    Console().print(table, f"{alone:.0f} s one at a time, {loaded:.0f} s under load, on two replicas")
    names = [manifest.label for manifest in manifests]
    summary = {"sequences": count, "clients": clients, "models": names, "seconds": [alone, loaded]}
    RESULTS.write_text(json.dumps({**summary, **ways}, indent=1) + "\n")
    if any(counts["differ"] for counts in ways.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
