"""Whatever is killed or full, a session is at its version before a call or at the one after it, and a repeated call is
done once. CARRY_KILLS: how often the service is killed; `make faults` sets 200."""

import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.e2e.serving import PATIENCE, Answer, BrokenError, Service, call, small_disk
from tests.redis_server import RedisServer

KILLS = int(os.environ.get("CARRY_KILLS", "8"))
CLIENTS = 6
CALLS_PER_SESSION = 20
"""Calls of a client on one session, before it creates another one."""


@pytest.fixture(scope="module")
def alone(models: Path) -> Iterator[httpx2.Client]:
    """A service without faults, which gets each text or series in one call."""
    with Service(models, "memory://") as service, httpx2.Client(base_url=service.url, timeout=PATIENCE) as http:
        yield http


@dataclass(frozen=True)
class Call:
    """A call on a session, and its answer. `past`: all the text or values that the session had read before."""

    past: Any
    path: str
    body: dict[str, Any]
    answer: dict[str, Any]

    def check(self, alone: httpx2.Client) -> None:
        """Check that the answer is that of a call without a session, on the past and the new input."""
        request = {name: value for name, value in self.body.items() if name not in ("session_id", "stream")}
        if self.path == "/generate":
            once = alone.post(self.path, json=request | {"prompt": self.past + request["prompt"]}).json()
            assert (self.answer["text"], self.answer["finish_reason"]) == (once["text"], once["finish_reason"])
            return
        once = alone.post(self.path, json=request | {"series": self.past + request["series"]}).json()
        for level, row in self.answer["quantiles"].items():
            assert row == pytest.approx(once["quantiles"][level], rel=1e-4, abs=1e-3)


class Client:
    """A client that updates sessions, call by call. If a call breaks or the store fails, the client reads the session's
    version and repeats the call with its key.

    `up`: cleared while the service is down. `began`: released whenever a call begins.
    """

    def __init__(self, url: str, number: int, up: threading.Event, began: threading.Semaphore) -> None:
        self._http = httpx2.Client(base_url=url, timeout=PATIENCE)
        self._random = random.Random(number)
        self._text = number % 3 < 2
        self._up, self._began = up, began
        self.sessions: dict[str, tuple[int, int]] = {}
        """The version and the position of each session."""
        self.calls: list[Call] = []
        self.tally: Counter[str] = Counter()
        """Broken calls, by whether their session was "before" or "after" them; answers that the store is
        "unavailable"."""

    def run(self, over: threading.Event) -> None:
        """Use sessions until `over` is set."""
        with self._http:
            while not over.is_set():
                self._use_session(over)

    def _use_session(self, over: threading.Event) -> None:
        past: Any = "ab" if self._text else [3.0, 5.0]
        session = self._repeat_until_done("/sessions", {"prompt" if self._text else "series": past})["id"]
        self.sessions[session] = (0, len(past))
        for _ in range(CALLS_PER_SESSION):
            if over.is_set():
                return
            path, body = self._request()
            answer = self._repeat_until_done(path, body | {"session_id": session}, session)
            self.calls.append(Call(past, path, body, answer))
            past = past + body["prompt"] + answer["text"] if self._text else past + body["series"]
            version = self.sessions[session][0] + 1
            assert answer["session"] == {"id": session, "version": version, "position": len(past)}
            self.sessions[session] = (version, len(past))

    def _request(self) -> tuple[str, dict[str, Any]]:
        rng = self._random
        if not self._text:
            return "/forecast", {"series": rng.choices([1, 2.5, 4, None], k=rng.randint(1, 5)), "horizon": 6}
        return "/generate", {
            "prompt": rng.choice(["", "", "cd e"]),
            "max_length": rng.randint(1, 60),
            "temperature": 1.0,
            "stop": rng.choice([[], [], ["a", "ex"]]),
            "seed": 5,
            "stream": rng.random() < 0.4,
        }

    def _repeat_until_done(self, path: str, body: dict[str, Any], session: str = "") -> dict[str, Any]:
        """The answer, after as many attempts as it takes."""
        key, received = uuid4().hex, ""
        before = current = self.sessions.get(session)
        while True:
            assert self._up.wait(PATIENCE)
            self._began.release()
            try:
                answer = call(self._http, path, body, key)
                if not self._unavailable(answer.status, answer.data):
                    break
            except httpx2.ConnectError:
                continue
            except BrokenError as broken:
                received = max(received, broken.received, key=len)
            if before is not None:
                shown = self._read_session(session)
                assert shown == current or (current == before and shown[0] == before[0] + 1)
                current = shown
                self.tally["before" if shown == before else "after"] += 1
        assert answer.status in (200, 201), answer
        assert answer.data.get("text", "").startswith(received)
        if before is not None:
            updated = answer.data["session"]["version"], answer.data["session"]["position"]
            assert current in (before, updated)
            assert answer.replayed == (current == updated)
        return answer.data

    def _read_session(self, session: str) -> tuple[int, int]:
        """The version and the position of a session."""
        while True:
            assert self._up.wait(PATIENCE)
            try:
                answer = self._http.get(f"/sessions/{session}")
            except (httpx2.NetworkError, httpx2.ProtocolError):
                continue
            shown = answer.json()
            if self._unavailable(answer.status_code, shown):
                continue
            assert answer.status_code == 200, shown
            # The earlier versions are there, too.
            assert [v["version"] for v in shown["versions"]] == [*range(shown["version"])][:-9:-1]
            return shown["version"], shown["position"]

    def _unavailable(self, status: int, data: dict[str, Any]) -> bool:
        unavailable = (status, data.get("code")) == (503, "store_unavailable")
        self.tally["unavailable"] += unavailable
        return unavailable


class Load:
    """Clients that use a service while it is killed."""

    def __init__(self, service: Service) -> None:
        self.up, self._over, self._began = threading.Event(), threading.Event(), threading.Semaphore(0)
        self.up.set()
        self._url = service.url
        self._random = random.Random(0)
        self._clients = [Client(service.url, i, self.up, self._began) for i in range(CLIENTS)]

    def __enter__(self) -> "Load":
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._runs = [self._pool.submit(client.run, self._over) for client in self._clients]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.up.set()
        self._pool.shutdown()

    def moment(self) -> None:
        """Wait for a random moment within one of the next calls."""
        while self._began.acquire(blocking=False):
            pass
        for _ in range(self._random.randint(1, 40)):
            while not self._began.acquire(timeout=1):
                self._raise_errors()  # a failed client makes no more calls
        time.sleep(self._random.uniform(0, 0.02))
        self._raise_errors()

    def _raise_errors(self) -> None:
        """Raise the error of a client that failed."""
        for run in self._runs:
            if run.done():
                run.result()

    def check(self, alone: httpx2.Client, kills: int) -> Counter[str]:
        """Check at the end that nothing was lost or done twice, and that every answer is right. Return the tally."""
        for run in self._runs:
            run.result()
        known = {id: current for client in self._clients for id, current in client.sessions.items()}
        listed = httpx2.get(f"{self._url}/sessions", params={"limit": 1000}, timeout=PATIENCE).json()
        assert listed["next"] is None
        assert {s["id"]: (s["version"], s["position"]) for s in listed["sessions"]} == known
        calls = [call for client in self._clients for call in client.calls]
        for each in calls:
            each.check(alone)
        tally = sum((client.tally for client in self._clients), Counter[str]())
        report(
            f"{kills} kills, {len(known)} sessions, {len(calls)} calls; of the calls under way at a kill "
            f"{tally['before']} were not done, {tally['after']} were; 0 lost, 0 doubled"
        )
        assert tally["before"] + tally["after"] >= kills / 2
        return tally


def report(line: str) -> None:
    """Print a line, which pytest -s shows."""
    sys.stdout.write(f"\n{line}\n")


def check_integrity(file: Path) -> None:
    """Check that the database is not damaged."""
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_killed_service_has_done_each_call_once_or_not_at_all(
    models: Path, alone: httpx2.Client, tmp_path: Path
) -> None:
    with Service(models, f"sqlite:///{tmp_path}/carry.db") as service:
        with Load(service) as load:
            for _ in range(KILLS):
                load.moment()
                load.up.clear()
                service.kill()
                service.start()
                load.up.set()
        assert not load.check(alone, KILLS)["unavailable"]
    assert not service.errors
    check_integrity(tmp_path / "carry.db")


def test_a_killed_worker_has_done_each_call_once_or_not_at_all(
    models: Path, alone: httpx2.Client, tmp_path: Path
) -> None:
    """The other worker goes on meanwhile, with the same sessions."""
    kills = 3 + KILLS // 10
    with Service(models, f"sqlite:///{tmp_path}/carry.db", processes=2) as service:
        with Load(service) as load:
            for _ in range(kills):
                load.moment()
                # Kill the older worker: the supervisor delays the successor of one that lived for less than a second.
                os.kill(service.processes.pop(0), signal.SIGKILL)
                service.processes.append(service.line("process started")["process"])
        assert not load.check(alone, kills)["unavailable"]
    assert {line["event"] for line in service.errors} == {"a process died; it is started again"}
    check_integrity(tmp_path / "carry.db")


def test_a_killed_redis_has_stored_each_call_once_or_not_at_all(models: Path, alone: httpx2.Client) -> None:
    """Calls without a session go on meanwhile."""
    kills = 4 + KILLS // 10
    with RedisServer() as redis, Service(models, redis.url) as service:
        with Load(service) as load:
            for i in range(kills):
                load.moment()
                redis.kill()
                body = {"prompt": "ab", "max_length": 5, "seed": 1}
                assert httpx2.post(f"{service.url}/generate", json=body, timeout=PATIENCE).status_code == 200
                # A call waits for the store before it is refused.
                if i % 2:
                    refused = httpx2.get(f"{service.url}/sessions", timeout=PATIENCE)
                    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
                redis.start()
        assert load.check(alone, kills)["unavailable"]
    assert {line["event"] for line in service.errors} <= {"the session store failed"}


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_replicas_that_compete_for_a_session_lose_and_double_nothing(
    store: str, models: Path, alone: httpx2.Client, tmp_path: Path
) -> None:
    """One of the replicas is killed meanwhile."""
    clients, calls = 8, 15
    began = threading.Semaphore(0)
    with ExitStack() as exits:
        url = f"sqlite:///{tmp_path}/carry.db" if store == "sqlite" else exits.enter_context(RedisServer()).url
        replicas = [exits.enter_context(Service(models, url)) for _ in range(2)]
        first = {"prompt": "ab", "ttl": 1000}
        session = httpx2.post(f"{replicas[0].url}/sessions", json=first, timeout=PATIENCE).json()["id"]

        def compete(number: int) -> list[dict[str, Any]]:
            rng = random.Random(number)
            with ExitStack() as opened:
                https = [
                    opened.enter_context(httpx2.Client(base_url=replica.url, timeout=PATIENCE)) for replica in replicas
                ]
                return [update(https, rng) for _ in range(calls)]

        def update(https: list[httpx2.Client], rng: random.Random) -> dict[str, Any]:
            body = {"session_id": session, "prompt": "", "max_length": 5, "seed": 5, "stream": rng.random() < 0.3}
            key = uuid4().hex
            began.release()
            while True:
                try:
                    answer = call(rng.choice(https), "/generate", body, key)
                except httpx2.ConnectError:
                    continue
                except BrokenError:
                    tally["broken"] += 1
                    continue
                if answer.status == 200:
                    return answer.data
                assert (answer.status, answer.data["code"]) in ((409, "session_conflict"), (503, "store_unavailable"))
                tally[answer.data["code"]] += 1

        tally: Counter[str] = Counter()
        with ThreadPoolExecutor(clients) as pool:
            runs = [pool.submit(compete, number) for number in range(clients)]
            for _ in range(clients * calls // 3):
                assert began.acquire(timeout=PATIENCE)
            replicas[0].kill()
            replicas[0].start()
        answers = sorted((answer for run in runs for answer in run.result()), key=lambda a: a["session"]["version"])
        assert [answer["session"]["version"] for answer in answers] == [*range(1, clients * calls + 1)]
        text = "".join(answer["text"] for answer in answers)
        once = {"prompt": "ab", "max_length": len(text), "seed": 5}
        assert alone.post("/generate", json=once).json()["text"] == text
        for replica in replicas:
            shown = httpx2.get(f"{replica.url}/sessions/{session}", timeout=PATIENCE).json()
            assert (shown["version"], shown["position"]) == (len(answers), 2 + len(text))
            assert not replica.errors
        report(f"{len(answers)} calls of {clients} clients on one session, {dict(tally)} repeated; 0 lost, 0 doubled")


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_one_call_sent_to_two_replicas_at_once_is_done_once(store: str, models: Path, tmp_path: Path) -> None:
    with ExitStack() as exits:
        url = f"sqlite:///{tmp_path}/carry.db" if store == "sqlite" else exits.enter_context(RedisServer()).url
        replicas = [exits.enter_context(Service(models, url)) for _ in range(2)]
        https = [exits.enter_context(httpx2.Client(base_url=replica.url, timeout=PATIENCE)) for replica in replicas]
        pool = exits.enter_context(ThreadPoolExecutor(2))
        session = https[0].post("/sessions", json={"prompt": "ab"}).json()["id"]
        # Without a seed, two answers are the same only if one is a replay.
        body = {"session_id": session, "prompt": "", "max_length": 12}
        together = threading.Barrier(2)

        def send(http: httpx2.Client, key: str) -> Answer:
            together.wait(PATIENCE)
            return call(http, "/generate", body, key)

        position = 2
        for round in range(1, 31):
            first, second = pool.map(send, https, [uuid4().hex] * 2)
            assert (first.status, second.status) == (200, 200)
            assert first.data == second.data
            assert {first.replayed, second.replayed} == {False, True}
            position += 12
            assert first.data["session"] == {"id": session, "version": round, "position": position}


@pytest.mark.parametrize("full", ["disk", "limit"])
def test_a_full_store_refuses_changes_loses_none_and_can_be_emptied(
    full: str, models: Path, alone: httpx2.Client, tmp_path: Path
) -> None:
    with ExitStack() as exits:
        prefix = exits.enter_context(small_disk(tmp_path)) if full == "disk" else []
        max_bytes = 2**20 if full == "limit" else 2**30
        store = f"sqlite:///{tmp_path}/carry.db"
        service = exits.enter_context(Service(models, store, prefix, max_session_store_bytes=max_bytes))
        http = exits.enter_context(httpx2.Client(base_url=service.url, timeout=PATIENCE))
        pasts: dict[str, str] = {}
        versions: Counter[str] = Counter()
        calls: list[Call] = []
        refused: dict[str, str] = {}
        body = {"prompt": "", "max_length": 20, "temperature": 1.0, "seed": 5}

        def succeeded(answer: Answer) -> bool:
            assert (answer.status, answer.data.get("code")) in ((200, None), (201, None), (507, "store_full"))
            return answer.status != 507

        def update(id: str, key: str) -> Answer:
            answer = call(http, "/generate", body | {"session_id": id}, key)
            if succeeded(answer):
                calls.append(Call(pasts[id], "/generate", body, answer.data))
                pasts[id] += answer.data["text"]
                versions[id] += 1
            else:
                refused[id] = key
            return answer

        def check() -> None:
            shown = http.get("/sessions", params={"limit": 1000}).json()["sessions"]
            listed = {s["id"]: (s["version"], s["position"]) for s in shown}
            assert listed == {id: (versions[id], len(past)) for id, past in pasts.items()}
            assert http.post("/generate", json=body).status_code == 200

        while succeeded(created := call(http, "/sessions", {"prompt": "ab"}, uuid4().hex)):
            pasts[created.data["id"]] = "ab"
            update(created.data["id"], uuid4().hex)
        for id in pasts:
            update(id, uuid4().hex)
        check()
        service.kill()
        service.start()
        check()
        report(f"{len(pasts)} sessions, {len(calls)} calls, then full; 0 lost")
        ids = [*refused][-3:]
        for id in [*pasts]:
            if id not in ids:
                assert http.delete(f"/sessions/{id}").status_code == 204
                del pasts[id]
        for id in ids:
            again = update(id, refused[id])
            assert (again.status, again.replayed) == (200, False)
        check()
        for each in calls:
            each.check(alone)
        assert not service.errors
