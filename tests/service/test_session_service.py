"""The service around its session store: failures of the store, forged states, limits."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from service.app import create_app
from service.errors import CarryError
from service.sessions.sessions import PING_SECONDS, Sessions
from service.sessions.state import sign_state
from service.settings import Settings
from tests.redis_server import RedisServer

STATE_KEY = "a key that signs states"


def open_client(models: Path, **settings: Any) -> TestClient:
    chosen = Settings(models_dir=models, state_key=SecretStr(STATE_KEY), **settings)
    return TestClient(create_app(chosen), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[TestClient]:
    with open_client(models) as client:
        yield client


def test_no_error_ends_the_sweep_or_breaks_the_shutdown(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = 0

    async def failing(sessions: Sessions) -> None:
        nonlocal sweeps
        sweeps += 1
        raise (CarryError("no"), ValueError("no"), OSError("no"))[sweeps % 3]

    monkeypatch.setattr(Sessions, "sweep", failing)
    monkeypatch.setattr("service.app.SWEEP_SECONDS", 0)
    with capture_logs() as logs, open_client(models) as client:
        while sweeps < 10:
            assert client.get("/health/live").status_code == 200
    assert {line["event"] for line in logs} >= {"expired sessions were not swept"}


# Whether the store answers.


def store_is_up(client: TestClient) -> list[Any]:
    """What the metrics say, the readiness, and the readiness of a service that needs its store."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    [metric] = [family.samples[0].value for family in families if family.name == "carry_session_store_up"]
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    return [metric, ready.json()["store"], client.get("/health/ready?store=true").status_code]


def test_readiness_and_metrics_report_a_store_that_is_away(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.sessions.sessions.PING_SECONDS", 0)
    with RedisServer() as server, open_client(models, session_store=server.url, processes=1) as client:
        assert store_is_up(client) == [1, "up", 200]
        server.kill()
        assert store_is_up(client) == [0, "down", 503]
        assert client.post("/forecast", json={"series": [1, 2, 3], "horizon": 1}).status_code == 200
        server.start()
        assert store_is_up(client) == [1, "up", 200]


def test_readiness_reports_a_file_that_was_removed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.sessions.sessions.PING_SECONDS", 0)
    with open_client(models, session_store=f"sqlite:///{tmp_path}/db", processes=1) as client:
        assert client.post("/sessions", json={"model": "text"}).status_code == 201
        assert store_is_up(client) == [1, "up", 200]
        (tmp_path / "db").unlink()
        assert store_is_up(client) == [0, "down", 503]
        assert client.post("/sessions", json={"model": "text"}).json()["code"] == "store_unavailable"
        for file in tmp_path.glob("db*"):
            file.unlink()
        monkeypatch.setattr("service.sessions.sqlite.REOPEN_SECONDS", 0)
        assert store_is_up(client) == [1, "up", 200]
        id = client.post("/sessions", json={"model": "text"}).json()["id"]
        assert client.get(f"/sessions/{id}").status_code == 200


def test_the_store_is_pinged_only_every_few_seconds(service: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    pings = 0

    async def ping(store: Any) -> None:
        nonlocal pings
        pings += 1

    monkeypatch.setattr("service.sessions.memory.MemoryStore.ping", ping)
    started = time.monotonic()
    for _ in range(50):
        assert service.get("/health/ready").json()["store"] == "up"
    assert pings <= 1 + (time.monotonic() - started) / PING_SECONDS


# States forged with the service's key.


def exported(client: TestClient, **body: Any) -> bytes:
    """An encoded state, without its signature."""
    id = client.post("/sessions", json=body).json()["id"]
    state = client.get(f"/sessions/{id}/state").json()["state"]
    return base64.urlsafe_b64decode(state)[:-32]


def with_header(payload: bytes, **changed: Any) -> bytes:
    size = int.from_bytes(payload[6:10], "little")
    header = orjson.dumps(orjson.loads(payload[10 : 10 + size]) | changed)
    return payload[:6] + len(header).to_bytes(4, "little") + header + payload[10 + size :]


def resume(client: TestClient, payload: bytes, **body: Any) -> Any:
    """Status and code of a call that resumes from the state, and of a session created from it."""
    state = sign_state(payload, STATE_KEY.encode())
    route, content = ("/generate", {"prompt": "ab"}) if "text" in body else ("/forecast", {"series": [4], "horizon": 2})
    answers = [
        client.post(route, json={"state": state, **content}),
        client.post("/sessions", json={"state": state}),
    ]
    return {(answer.status_code, answer.json().get("code")) for answer in answers}


@pytest.mark.parametrize("season", [0, -1, 2**40, -(2**63)])
def test_a_season_that_a_graph_cannot_divide_by_is_refused(service: TestClient, season: int) -> None:
    payload = exported(service, series=[1, 2, 3, 4], season_length=2)
    assert resume(service, payload) == {(200, None), (201, None)}
    season_bytes = (2).to_bytes(8, "little")
    assert payload.count(season_bytes) >= 1
    forged = payload.replace(season_bytes, season.to_bytes(8, "little", signed=True))
    assert resume(service, forged) == {(422, "state_refused")}
    assert service.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"position": 2**53 + 1},
        {"position": 10**30},
        {"position": -1},
        {"position": 1.5},
        {"position": True},
        {"position": "4"},
        {"position": None},
        {"model": 5},
        {"version": "1"},
        {"version": None},
        {"sha256": []},
        {"text_end": 5},
        {"more": 1},
    ],
)
def test_a_header_that_no_service_writes_is_refused(service: TestClient, changed: dict[str, Any]) -> None:
    payload = exported(service, series=[1, 2, 3, 4])
    if isinstance(changed.get("position"), int) and changed["position"] > 2**63:
        size = int.from_bytes(payload[6:10], "little")
        header = payload[10 : 10 + size].replace(b'"position":4', b'"position":%d' % changed["position"])
        forged = payload[:6] + len(header).to_bytes(4, "little") + header + payload[10 + size :]
    else:
        forged = with_header(payload, **changed)
    assert resume(service, forged) == {(422, "state_refused")}


def test_any_caller_may_use_a_state(models: Path) -> None:
    """Documented: services that share no store may share the key that signs states."""
    keys = SecretStr("first-key-of-a-test"), SecretStr("second-key-of-a-test")
    with open_client(models, api_keys=keys) as client:
        first, second = ({"Authorization": f"Bearer {key.get_secret_value()}"} for key in keys)
        id = client.post("/sessions", json={"series": [1, 2]}, headers=first).json()["id"]
        state = client.get(f"/sessions/{id}/state", headers=first).json()["state"]
        body = {"state": state, "series": [], "horizon": 1}
        assert client.post("/forecast", json=body, headers=second).status_code == 200


# Limits.


@pytest.mark.parametrize("ttl", [0.001, 0.999, 0, -1])
def test_a_session_lives_for_a_second_at_least(service: TestClient, ttl: float) -> None:
    id = service.post("/sessions", json={"model": "text", "ttl": 1}).json()["id"]
    for answer in (
        service.post("/sessions", json={"model": "text", "ttl": ttl}),
        service.post(f"/sessions/{id}/fork", json={"ttl": ttl}),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["path"] == "$.ttl"


def test_one_api_key_cannot_fill_the_store(models: Path, tmp_path: Path) -> None:
    keys = SecretStr("first-key-of-a-test"), SecretStr("second-key-of-a-test")
    settings = {"session_store": f"sqlite:///{tmp_path}/db", "processes": 1, "max_session_bytes_per_owner": 2**16}
    with open_client(models, api_keys=keys, **settings) as client:
        first, second = ({"Authorization": f"Bearer {key.get_secret_value()}"} for key in keys)
        id = client.post("/sessions", json={"model": "text"}, headers=first).json()["id"]
        body = {"session_id": id, "prompt": "ab", "max_length": 200, "logprobs": 5, "seed": 1}
        for n in range(100):
            answer = client.post("/generate", json=body, headers=first | {"Idempotency-Key": str(n)})
            if answer.status_code != 200:
                break
        assert (answer.status_code, answer.json()["code"]) == (507, "owner_store_full")
        assert 2 < n < 99
        # A repetition is answered, other keys' calls succeed, and so do this key's after a deletion.
        again = client.post("/generate", json=body, headers=first | {"Idempotency-Key": "0"})
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
        assert client.post("/sessions", json={"model": "text"}, headers=second).status_code == 201
        assert client.delete(f"/sessions/{id}", headers=first).status_code == 204
        assert client.post("/sessions", json={"model": "text"}, headers=first).status_code == 201
