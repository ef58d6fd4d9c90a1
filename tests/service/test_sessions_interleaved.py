"""Any interleaving of calls on many sessions gives each session what it gets alone, in one call: with forks, rewinds,
imports, expiry, repetitions, restarts, and two replicas of the service that take turns."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.redis_server import RedisServer

TTL = 100.0
WORDS = st.text("abc \n", max_size=12)
SERIES = st.lists(st.none() | st.integers(-50, 50), max_size=6)


@dataclass
class Known:
    """What a session should be. `pasts`: all the text or values that it had read at each version."""

    id: str
    text: bool
    pasts: dict[int, Any]
    expires_at: float
    version: int = 0
    deleted: bool = False

    @property
    def past(self) -> Any:
        return self.pasts[self.version]

    def update(self, past: Any, now: float) -> None:
        self.version += 1
        self.pasts[self.version] = past
        self.pasts.pop(self.version - 9, None)
        self.expires_at = now + TTL


@dataclass
class Call:
    """A call that changed a session, to repeat later."""

    method: str
    path: str
    body: Any
    key: str
    answer: bytes = field(repr=False)


class Machine(RuleBasedStateMachine):
    """Two replicas on one store; and `alone`, a service without sessions that gets each text or series in one call."""

    models: ClassVar[Path]
    alone: ClassVar[TestClient]
    store_of: ClassVar[Callable[[Path], str]]

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_900_000_000.0
        self.folder = Path(tempfile.mkdtemp())
        self.known: list[Known] = []
        self.calls: list[Call] = []
        self.keys = 0
        self.exits = [ExitStack(), ExitStack()]
        self.replicas: list[TestClient] = []

    @initialize()
    def start(self) -> None:
        self.replicas = [self._open(i) for i in range(2)]

    def _open(self, i: int) -> TestClient:
        chosen = Settings(
            models_dir=self.models, session_store=type(self).store_of(self.folder), processes=1, session_ttl=TTL
        )
        return self.exits[i].enter_context(TestClient(create_app(chosen, lambda: self.now)))

    def teardown(self) -> None:
        for exits in self.exits:
            exits.close()
        shutil.rmtree(self.folder)

    def _call(self, replica: int, method: str, path: str, body: Any, commit: bool = True) -> Any:
        self.keys += 1
        key = f"{self.folder.name}-{self.keys}"
        answer = self.replicas[replica].request(method, path, json=body, headers={"Idempotency-Key": key})
        if answer.is_success and commit:
            self.calls.append(Call(method, path, body, key, answer.content))
        return answer

    def _alive(self, session: Known, answer: Any) -> bool:
        """Whether the session is alive; check the answer if it is not."""
        if session.deleted:
            assert answer.status_code == 404
        elif session.expires_at <= self.now:
            assert answer.status_code == 410
        else:
            assert answer.is_success, answer.text
            return True
        return False

    def _any(self, data: st.DataObject, text: bool | None = None) -> Known | None:
        known = [session for session in self.known if text in (None, session.text)]
        return data.draw(st.sampled_from(known)) if known else None

    @rule(replica=st.integers(0, 1), prompt=WORDS)
    def create_a_text(self, replica: int, prompt: str) -> None:
        created = self._call(replica, "POST", "/sessions", {"prompt": prompt}).json()
        assert created["position"] == len(prompt)
        self.known.append(Known(created["id"], True, {0: prompt}, self.now + TTL))

    @rule(replica=st.integers(0, 1), values=SERIES)
    def create_a_series(self, replica: int, values: list[float | None]) -> None:
        values = [5.0, *values]
        created = self._call(replica, "POST", "/sessions", {"series": values}).json()
        assert created["position"] == len(values)
        self.known.append(Known(created["id"], False, {0: values}, self.now + TTL))

    @precondition(lambda self: self.known)
    @rule(
        data=st.data(),
        replica=st.integers(0, 1),
        prompt=WORDS,
        length=st.integers(0, 40),
        temperature=st.sampled_from([0.0, 0.8]),
        repetition_penalty=st.sampled_from([1.0, 1.2]),
        frequency_penalty=st.sampled_from([0.0, 0.3]),
        stop=st.lists(st.text("abet ", min_size=1, max_size=2), max_size=1),
        seed=st.integers(0, 1000),
        commit=st.booleans(),
    )
    def generate(self, data: st.DataObject, replica: int, prompt: str, length: int, commit: bool, **more: Any) -> None:
        session = self._any(data, text=True)
        if session is None:
            return
        body = {"prompt": prompt, "max_length": length, "session_id": session.id, "commit": commit, **more}
        answer = self._call(replica, "POST", "/generate", body, commit)
        if not self._alive(session, answer):
            return
        whole = session.past + prompt
        once = self.alone.post("/generate", json={"prompt": whole, "max_length": length, **more}).json()
        generated = answer.json()
        assert (generated["text"], generated["finish_reason"]) == (once["text"], once["finish_reason"])
        if commit:
            start = whole or ("\n" if length else "")
            session.update(start + generated["text"], self.now)
        elif session.expires_at - self.now < TTL / 2:
            session.expires_at = self.now + TTL
        assert generated["session"] == {"id": session.id, "version": session.version, "position": len(session.past)}

    @precondition(lambda self: self.known)
    @rule(data=st.data(), replica=st.integers(0, 1), text=WORDS)
    def predict(self, data: st.DataObject, replica: int, text: str) -> None:
        session = self._any(data, text=True)
        if session is None:
            return
        answer = self._call(replica, "POST", "/predict", {"text": text, "session_id": session.id})
        if not self._alive(session, answer):
            return
        once = self.alone.post("/predict", json={"text": session.past + text}).json()
        assert answer.json()["next"] == once["next"]
        session.update(session.past + text, self.now)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), replica=st.integers(0, 1), values=SERIES, horizon=st.integers(1, 7))
    def forecast(self, data: st.DataObject, replica: int, values: list[float | None], horizon: int) -> None:
        session = self._any(data, text=False)
        if session is None:
            return
        body = {"series": values, "horizon": horizon, "session_id": session.id}
        answer = self._call(replica, "POST", "/forecast", body)
        if not self._alive(session, answer):
            return
        whole = session.past + values
        once = self.alone.post("/forecast", json={"series": whole, "horizon": horizon}).json()
        for level, row in answer.json()["quantiles"].items():
            assert row == pytest.approx(once["quantiles"][level], rel=1e-4, abs=1e-3)
        session.update(whole, self.now)
        assert answer.json()["session"]["position"] == len(whole)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), replica=st.integers(0, 1))
    def fork(self, data: st.DataObject, replica: int) -> None:
        session = self._any(data)
        assert session is not None
        version = data.draw(st.sampled_from(sorted(session.pasts)))
        answer = self._call(replica, "POST", f"/sessions/{session.id}/fork", {"version": version})
        if self._alive(session, answer):
            past = session.pasts[version]
            self.known.append(Known(answer.json()["id"], session.text, {0: past}, self.now + TTL))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), replica=st.integers(0, 1))
    def rewind(self, data: st.DataObject, replica: int) -> None:
        session = self._any(data)
        assert session is not None
        version = data.draw(st.sampled_from(sorted(session.pasts)))
        answer = self._call(replica, "POST", f"/sessions/{session.id}/rewind", {"version": version})
        if self._alive(session, answer):
            session.update(session.pasts[version], self.now)
            assert answer.json()["version"] == session.version

    @precondition(lambda self: self.known)
    @rule(data=st.data(), replica=st.integers(0, 1))
    def import_a_state(self, data: st.DataObject, replica: int) -> None:
        session, other = self._any(data), self._any(data)
        assert session is not None
        assert other is not None
        exported = self.replicas[replica].get(f"/sessions/{other.id}/state")
        if not self._alive(other, exported) or other.text != session.text:
            return
        body = {"state": exported.json()["state"]}
        answer = self._call(1 - replica, "PUT", f"/sessions/{session.id}/state", body)
        if self._alive(session, answer):
            session.update(other.past, self.now)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), replica=st.integers(0, 1))
    def delete(self, data: st.DataObject, replica: int) -> None:
        session = self._any(data)
        assert session is not None
        if self._alive(session, self._call(replica, "DELETE", f"/sessions/{session.id}", None)):
            session.deleted = True

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), replica=st.integers(0, 1))
    def repeat_a_call(self, data: st.DataObject, replica: int) -> None:
        """It gets the same answer, whatever has happened since. It changes nothing, or the next calls would fail."""
        call = data.draw(st.sampled_from(self.calls))
        again = self.replicas[replica].request(
            call.method, call.path, json=call.body, headers={"Idempotency-Key": call.key}
        )
        assert again.headers["idempotency-replayed"] == "true"
        assert again.content == call.answer

    @rule(seconds=st.floats(1, TTL * 0.7))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(replica=st.integers(0, 1))
    def restart(self, replica: int) -> None:
        self.exits[replica].close()
        self.exits[replica] = ExitStack()
        self.replicas[replica] = self._open(replica)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), replica=st.integers(0, 1))
    def look(self, data: st.DataObject, replica: int) -> None:
        session = self._any(data)
        assert session is not None
        answer = self.replicas[replica].get(f"/sessions/{session.id}")
        if self._alive(session, answer):
            shown = answer.json()
            assert (shown["version"], shown["position"]) == (session.version, len(session.past))
            assert [v["version"] for v in shown["versions"]] == sorted(session.pasts, reverse=True)[1:]


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_interleaved_sessions_are_what_each_is_alone(store: str, models: Path, client: TestClient) -> None:
    with ExitStack() as exits:
        if store == "redis":
            url = exits.enter_context(RedisServer()).url

        class Chosen(Machine):
            pass

        Chosen.models, Chosen.alone = models, client
        Chosen.store_of = staticmethod(lambda folder: f"sqlite:///{folder}/db" if store == "sqlite" else url)
        run_state_machine_as_test(Chosen, settings=settings(max_examples=12, stateful_step_count=30))
