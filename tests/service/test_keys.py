"""API keys: the file, the ring, and what a key may do over all routes."""

import asyncio
import json
import math
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import structlog
from httpx2 import Response
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from starlette.testclient import TestClient
from starlette.types import Message

from service import keys as keys_module
from service.app import create_app
from service.http.access import OPEN, scope_of
from service.keys import ALL_SCOPES, Key, KeyRing
from service.keys_file import KeyEntry, KeyLimits, KeysFileError, hash_of_secret, owner_of_hash, read_keys, write_keys
from service.settings import Settings
from service.workers import allowances
from service.workers.allowances import Allowances
from tests.e2e.serving import CARRY, Service

SERIES = [float(i % 7) for i in range(36)]
FORECAST = {"series": SERIES, "horizon": 4}
STEPS, RUN = 40, 36
"""Of this forecast: values to read and to predict, and the steps that run: the model predicts four values in one."""


def secret_of(name: str) -> str:
    return f"secret-of-{name}-0123456789"


def entry(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hash_of_secret(secret_of(name)), **fields}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret_of(name)}"}


def write(path: Path, *entries: Mapping[str, Any]) -> Path:
    """Replace the file at once, as `carry keys` does."""
    other = path.with_suffix(".new")
    other.write_text(json.dumps({"keys": entries}))
    other.replace(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def ring(file: Path, *keys_of_environment: str) -> KeyRing:
    settings = Settings(api_keys_file=file, api_keys=tuple(map(SecretStr, keys_of_environment)))
    return KeyRing(settings, Allowances())


class App:
    """An application with a keys file."""

    def __init__(self, client: TestClient, file: Path) -> None:
        self.client = client
        self.file = file

    @property
    def ring(self) -> KeyRing:
        app: Any = self.client.app
        ring: KeyRing = app.state.carry.keys
        return ring

    def has(self, *entries: Mapping[str, Any]) -> TestClient:
        """Its file has these keys now."""
        write(self.file, *entries)
        self.ring.refresh()
        return self.client


@contextmanager
def opened(file: Path, **settings: Any) -> Iterator[App]:
    with TestClient(create_app(Settings(api_keys_file=file, **settings)), raise_server_exceptions=False) as client:
        yield App(client, file)


@pytest.fixture(scope="module")
def app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Tests name their keys differently: a bucket outlives the file's change."""
    folder = tmp_path_factory.mktemp("app")
    store = f"sqlite:///{folder}/sessions.db"
    with opened(write(folder / "keys.json"), models_dir=models, session_store=store) as application:
        yield application


# --- The file ---------------------------------------------------------------------------------------------------------


def test_the_file_says_who_may_do_what(file: Path) -> None:
    limits = {"steps_per_minute": 1000, "queue_share": 0.25, "sessions": 3, "stored_bytes": 4096}
    write(file, entry("app", limits=limits, models=["forecast"]), entry("ops", scopes=["admin", "metrics"]))
    found = ring(file)
    assert len(found) == 2
    app, ops = found.find(secret_of("app")), found.find(secret_of("ops"))
    assert app is not None
    assert ops is not None
    assert (app.name, app.scopes, app.models) == ("app", frozenset({"use"}), frozenset({"forecast"}))
    assert app.limits == KeyLimits(steps_per_minute=1000, queue_share=0.25, sessions=3, stored_bytes=4096)
    assert ops == Key("ops", owner_of_hash(hash_of_secret(secret_of("ops"))), frozenset({"admin", "metrics"}))
    assert found.find("secret-of-nobody") is None
    assert found.find("") is None
    assert found.find(hash_of_secret(secret_of("app"))) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON: "),
        ("[]", "the file: "),
        ("{}", "keys: field required"),
        ({"keys": {}}, "keys: "),
        ({"keys": [], "more": 1}, "more: extra inputs are not permitted"),
        ({"keys": [3]}, r"keys\[0\]: "),
        ({"keys": [{"name": "app"}]}, r"keys\[0\].sha256 \(of the key 'app'\): field required"),
        ({"keys": [{**entry("app"), "scope": "use"}]}, r"keys\[0\].scope \(of the key 'app'\): extra"),
        ({"keys": [entry("a"), entry("app", scopes=["root"])]}, r"keys\[1\].scopes\[0\] \(of the key 'app'\): .*'use'"),
        ({"keys": [entry("app", scopes=[])]}, r"keys\[0\].scopes \(of the key 'app'\): "),
        ({"keys": [entry("app", models=[])]}, r"keys\[0\].models \(of the key 'app'\): "),
        ({"keys": [entry("app", models="forecast")]}, r"keys\[0\].models \(of the key 'app'\): "),
        (
            {"keys": [entry("app", limits={"steps_per_minute": 0})]},
            r"limits.steps_per_minute \(of the key 'app'\): .*1",
        ),
        ({"keys": [entry("app", limits={"steps_per_minute": "9"})]}, r"limits.steps_per_minute \(of the key 'app'\): "),
        ({"keys": [entry("app", limits={"queue_share": 1.5})]}, r"limits.queue_share \(of the key 'app'\): .*1"),
        (
            {"keys": [entry("app", limits={"step_per_minute": 9})]},
            r"limits.step_per_minute \(of the key 'app'\): extra",
        ),
        ({"keys": [entry("a b")]}, r"keys\[0\].name \(of the key 'a b'\): "),
        ({"keys": [{"name": "app", "sha256": "ab"}]}, r"keys\[0\].sha256\[0\] \(of the key 'app'\): "),
        ({"keys": [{"name": "app", "sha256": []}]}, r"keys\[0\].sha256 \(of the key 'app'\): "),
        ({"keys": [entry("app"), entry("app")]}, "the keys app and app both have the name app"),
        ({"keys": [entry("app"), {**entry("app"), "name": "b"}]}, "the keys app and b both have the owner"),
        (
            {"keys": [entry("app"), {**entry("app"), "name": "b", "owner": "0" * 32}]},
            "the keys app and b both have the sha256",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_key_and_field(file: Path, content: object, message: str) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(KeysFileError, match=message) as refusal:
        read_keys(file)
    assert str(refusal.value).startswith(f"{file}: ")


def test_a_file_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeysFileError, match="No such file"):
        read_keys(tmp_path / "none.json")
    with pytest.raises(KeysFileError, match=r"regular file|directory"):
        read_keys(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeysFileError, match="regular file"):
        read_keys(tmp_path / "pipe")
    monkeypatch.setattr("service.keys_file.MAX_BYTES", 10)
    with pytest.raises(KeysFileError, match="more than 10 bytes"):
        read_keys(write(tmp_path / "keys.json", entry("app")))


def test_a_new_file_can_be_read_by_its_owner_only_and_another_keeps_its_mode(file: Path, tmp_path: Path) -> None:
    keys = [KeyEntry.model_validate_json(json.dumps(entry("app", scopes=["use", "admin"], models=["a"])))]
    write_keys(file, keys)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(file)
    write_keys(link, [*keys, *keys])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert len(json.loads(file.read_text())["keys"]) == 2
    write_keys(file, keys)
    assert read_keys(file) == tuple(keys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "link.json"]


# --- The ring ---------------------------------------------------------------------------------------------------------


def test_keys_of_the_environment_may_do_all_and_go_together_with_those_of_the_file(file: Path) -> None:
    both = ring(write(file, entry("app")), "a-key-of-the-environment", "another-of-the-environment")
    first, second = both.find("a-key-of-the-environment"), both.find("another-of-the-environment")
    assert first == Key("key-1", owner_of_hash(hash_of_secret("a-key-of-the-environment")))
    assert second is not None
    assert (second.name, second.scopes) == ("key-2", ALL_SCOPES)
    assert both.find(secret_of("app")) is not None
    assert not both.closes_metrics
    write(file, entry("key-2"))
    both.refresh()
    assert both.find(secret_of("app")) is not None  # the file is refused: a name of the environment


def test_a_key_that_moves_to_the_file_keeps_its_owner_and_a_changed_secret_does_too(file: Path) -> None:
    before = ring(write(file), secret_of("app")).find(secret_of("app"))
    assert before is not None
    moved = ring(write(file, entry("app")), secret_of("app")).find(secret_of("app"))  # the file says what it may do
    assert moved is not None
    assert (moved.name, moved.owner, moved.scopes) == ("app", before.owner, frozenset({"use"}))
    old, new = hash_of_secret(secret_of("app")), hash_of_secret("its next secret")
    changing = ring(write(file, {"name": "app", "sha256": [old, new]}))
    assert changing.find("its next secret") == changing.find(secret_of("app")) == moved
    changed = ring(write(file, {"name": "app", "sha256": new, "owner": before.owner}))
    assert changed.find("its next secret") == moved
    assert changed.find(secret_of("app")) is None


def put_in_place(file: Path, *entries: Mapping[str, Any]) -> None:
    """Write into the very file."""
    file.write_text(json.dumps({"keys": entries}))


def swap_links(file: Path, *entries: Mapping[str, Any]) -> None:
    """As Kubernetes updates a mounted secret: the file is a link into `..data`, a link that is replaced."""
    data = file.parent / "..data"
    folder = file.parent / f"..{len(list(file.parent.iterdir()))}"
    folder.mkdir()
    (folder / file.name).write_text(json.dumps({"keys": entries}))
    (file.parent / "..data_tmp").symlink_to(folder.name)
    (file.parent / "..data_tmp").replace(data)
    if not file.is_symlink():
        file.symlink_to(Path("..data") / file.name)


@pytest.mark.parametrize("update", [write, put_in_place, swap_links])
def test_a_changed_file_is_read_again(file: Path, update: Callable[..., object]) -> None:
    update(file, entry("one"), entry("two"))
    found = ring(file)
    one = found.find(secret_of("one"))
    update(file, entry("one"), entry("six"))
    assert found.find(secret_of("two")) is not None
    found.refresh()
    assert found.find(secret_of("two")) is None
    assert found.find(secret_of("six")) is not None
    assert found.find(secret_of("one")) == one


def test_a_broken_file_leaves_the_keys_before_and_is_logged_once(app: App) -> None:
    def ok(client: TestClient) -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        [value] = [s.value for f in families for s in f.samples if s.name == "carry_keys_last_read_successful"]
        return value

    client = app.has(entry("app"))
    file, found = app.file, app.ring
    assert ok(client) == 1
    with structlog.testing.capture_logs() as lines:
        file.write_text("{")
        found.refresh()
        found.refresh()
        file.write_text("{ ")  # the same reason
        found.refresh()
        file.unlink()
        found.refresh()
        found.refresh()
    errors = [line["reason"] for line in lines if line["log_level"] == "error"]
    assert len(errors) == len(set(errors)) <= 3
    assert "is not JSON" in errors[0]
    assert "No such file" in errors[-1]
    assert ok(client) == 0
    assert client.get("/models", headers=bearer("app")).status_code == 200
    write(file, entry("new"))
    found.refresh()
    assert ok(client) == 1
    assert client.get("/models", headers=bearer("app")).status_code == 401
    assert client.get("/models", headers=bearer("new")).status_code == 200


def test_a_process_that_starts_with_a_broken_file_refuses_until_it_is_mended_and_metrics_close_with_their_scope(
    models: Path, file: Path
) -> None:
    file.write_text("{}")
    keys = (SecretStr("a-key-of-the-environment"),)
    with opened(file, models_dir=models, api_keys=keys, session_store="memory://") as app:
        client = app.client
        answer = client.get("/models", headers=bearer("app"))
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert client.get("/metrics").status_code == 401  # perhaps a key has its scope
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert "cannot read its API keys" in ready.json()["detail"]
        assert client.get("/models", headers={"Authorization": "Bearer a-key-of-the-environment"}).status_code == 200
        app.has(entry("app"))
        assert client.get("/models", headers=bearer("app")).status_code == 200
        assert client.get("/health/ready").status_code == 200
        # Keys of CARRY_API_KEYS have all scopes, but they do not close what was open before.
        assert client.get("/metrics").status_code == 200
        app.has(entry("app"), entry("prometheus", scopes=["metrics"]))
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=bearer("app")).status_code == 403
        assert client.get("/metrics", headers=bearer("prometheus")).status_code == 200


def test_the_file_is_watched_while_the_service_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "POLL_SECONDS", 0.001)

    async def watch() -> None:
        found = ring(write(file, entry("app")))
        task = asyncio.create_task(found.watch())
        write(file, entry("new"))
        async with asyncio.timeout(30):
            while found.find(secret_of("new")) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(watch())


def test_a_file_without_keys_lets_nobody_in(app: App) -> None:
    client = app.has()
    assert client.get("/models").status_code == 401


# --- Scopes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scoped(app: App) -> TestClient:
    keys = [entry(scope, scopes=[scope]) for scope in ("use", "admin", "metrics")]
    return app.has(*keys, entry("narrow", models=["forecast"]), entry("none-of-text", models=["weather", "forecast"]))


def calls(client: TestClient) -> Iterator[tuple[str, str]]:
    """Every method and path of the application."""
    for route in client.app.state.routes:  # type: ignore[attr-defined]
        path = route.path.replace("{rest:path}", "rest").replace("{", "").replace("}", "")
        yield from ((method, path) for method in route.methods - {"HEAD"})


def test_every_route_needs_a_key_with_its_scope(scoped: TestClient) -> None:
    unguarded = set[str]()
    pages = scoped.get("/").text  # the page is open, with its files
    assert "<html" in pages
    for method, path in calls(scoped):
        answers = {
            name: scoped.request(method, path, headers=bearer(name) if name else {}, content=b"")
            for name in ("", "use", "admin", "metrics")
        }
        if answers[""].status_code != 401:
            unguarded.add(path)
            continue
        needed = scope_of(method, path)
        for name in ("use", "admin", "metrics"):
            allowed = needed in (None, name)
            assert (answers[name].status_code != 403) == allowed, (method, path, name)
            assert answers[name].status_code != 401
            if not allowed:
                assert f"`{needed}`" in answers[name].text
                assert answers[name].headers["www-authenticate"].endswith(f'scope="{needed}"')
                problem = answers[name].json()
                assert (problem.get("error") or problem)["code"] == "forbidden"
    files = {path for _, path in calls(scoped) if path in ("/docs", "/redoc") or path.startswith("/page")}
    assert unguarded - files <= OPEN - {"/metrics"}
    assert {"/health/live", "/health/ready"} <= unguarded


def test_head_needs_the_scope_of_get(scoped: TestClient) -> None:
    assert scoped.head("/metrics", headers=bearer("use")).status_code == 403
    assert scoped.head("/metrics", headers=bearer("metrics")).status_code == 200


def test_a_key_without_admin_is_told_which_scope_a_reload_needs(scoped: TestClient) -> None:
    refusal = scoped.post("/models/reload", headers=bearer("use"))
    assert refusal.status_code == 403
    assert refusal.json()["detail"] == "needs a key with the scope `admin`; the key use has `use`"
    assert scoped.post("/models/reload", headers=bearer("admin")).status_code == 200


def test_a_key_is_accepted_in_its_header_only(scoped: TestClient) -> None:
    secret = secret_of("use")
    assert scoped.post("/forecast", json=FORECAST, headers=bearer("use")).status_code == 200
    for request in (
        {"params": {"api_key": secret, "key": secret, "access_token": secret}},
        {"json": {**FORECAST, "api_key": secret}},
        {"headers": {"X-Api-Key": secret}},
        {"headers": {"Authorization": secret}},
        {"headers": {"Authorization": f"Basic {secret}"}},
        {"headers": {"Authorization": f"Bearer {hash_of_secret(secret)}"}},
        {"headers": {"Authorization": b"Bearer schl\xfcssel"}},
        {"cookies": {"Authorization": f"Bearer {secret}"}},
    ):
        arguments: dict[str, Any] = {"json": FORECAST, **request}
        cookies = arguments.pop("cookies", {})
        scoped.cookies.update(cookies)
        assert scoped.post("/forecast", **arguments).status_code == 401
        scoped.cookies.clear()


@pytest.mark.parametrize(("name", "status"), [("nobody", 401), ("metrics", 403)])
def test_a_request_that_is_refused_is_not_read(scoped: TestClient, name: str, status: int) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", bearer(name)["Authorization"].encode()), (b"content-length", b"9999999")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/forecast",
        "raw_path": b"/forecast",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }

    async def call() -> None:
        await scoped.app(scope, receive, send)

    asyncio.run(call())
    assert sent[0]["status"] == status


# --- Models -----------------------------------------------------------------------------------------------------------


def test_a_key_uses_and_sees_only_its_models(scoped: TestClient) -> None:
    me, other = bearer("narrow"), bearer("none-of-text")

    def post(path: str, body: object, headers: dict[str, str] = me) -> Response:
        return scoped.post(path, json=body, headers=headers)

    def refused(answer: Response) -> bool:
        problem = answer.json()
        problem = problem.get("error") or problem
        return answer.status_code == 403 and problem["code"] == "forbidden" and "it may use: " in answer.text

    listed = scoped.get("/models", headers=me).json()
    assert [model["name"] for model in listed["models"]] == ["forecast"]
    assert listed["data"] == []
    assert len(scoped.get("/models", headers=bearer("use")).json()["models"]) == 3
    assert post("/forecast", FORECAST).status_code == 200
    assert post("/forecast", {**FORECAST, "model": "forecast@1"}).status_code == 200
    # One that does not exist is refused alike: the key does not learn which there are.
    for model in ("weather", "weather@1", "text", "nothing", "nothing@3"):
        assert refused(post("/forecast", {**FORECAST, "model": model}))
        assert refused(scoped.get(f"/models/{model}", headers=me))
    assert refused(scoped.get("/models/text/pictures/loss.png", headers=me))
    assert refused(post("/anomalies", {"series": SERIES, "model": "weather"}))
    assert refused(post("/cross_validation", {"series": SERIES, "model": "weather"}))
    assert refused(post("/invocations", {"series": SERIES, "model": "weather"}))
    series = {"type": "univariate_time_series", "name": "a", "series": SERIES, "frequency": "D"}
    kserve = {"model": "weather", "inputs": [series], "options": {"horizon": 2}}
    assert refused(post("/v1/timeseries/forecast", kserve))
    assert post("/v1/timeseries/forecast", {**kserve, "model": "forecast"}).status_code == 200
    results = post("/forecast/batch", {"requests": [FORECAST, {**FORECAST, "model": "weather"}]}).json()["results"]
    assert [result.get("code") for result in results] == [None, "forbidden"]
    # No model of the kind, though none is named.
    assert refused(post("/generate", {"prompt": "a"}))
    assert refused(post("/predict", {"text": "a"}))
    assert refused(post("/sessions", {"prompt": "a"}))
    assert refused(post("/sessions", {"model": "text"}))
    assert refused(post("/tokenize", {"prompt": "a"}))
    assert refused(scoped.get("/tokenizer_info", headers=me))
    for name in ("text", "gpt-3.5-turbo-instruct"):
        assert refused(post("/v1/completions", {"model": name, "prompt": "a"}))
        assert refused(post("/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "a"}]}))
        assert refused(scoped.get(f"/v1/models/{name}", headers=me))
    assert scoped.get("/v1/models", headers=me).json()["data"] == []
    assert scoped.get("/v2/models", headers=other).json() == {"models": [{"name": "forecast"}, {"name": "weather"}]}
    assert scoped.get("/v2/models", headers=me).json() == {"models": [{"name": "forecast"}]}
    assert refused(scoped.get("/model_params", params={"model": "weather"}, headers=me))
    # A state of another model.
    exported = post("/generate", {"prompt": "a", "max_length": 1, "state": ""}, bearer("use")).json()["state"]
    assert refused(post("/generate", {"prompt": "a", "state": exported}))
    assert refused(post("/sessions", {"state": exported}))


def test_a_session_of_a_model_that_its_key_lost_is_kept_and_not_used(app: App) -> None:
    client = app.has(entry("app"))
    me = bearer("app")
    id = client.post("/sessions", json={"prompt": "a"}, headers=me).json()["id"]
    app.has(entry("app", models=["forecast"]))
    answer = client.post("/generate", json={"session_id": id, "prompt": "b"}, headers=me)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert client.get(f"/sessions/{id}", headers=me).json()["model_loaded"] is False
    assert client.delete(f"/sessions/{id}", headers=me).status_code == 204


# --- Limits -----------------------------------------------------------------------------------------------------------


def count(client: TestClient, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def wait_for(is_so: Callable[[], bool]) -> None:
    """The engine counts a task's steps right after it has answered."""
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the buckets stands, until a test moves its `now`."""
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr(allowances, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_steps_beyond_those_of_a_minute_are_refused_until_they_are_back(app: App, clock: SimpleNamespace) -> None:
    limit = 2 * STEPS + STEPS // 2
    client = app.has(entry("metered", limits={"steps_per_minute": limit}), entry("free"))
    first = client.post("/forecast", json=FORECAST, headers=bearer("metered"))
    assert first.status_code == 200
    assert first.headers["ratelimit-policy"] == f'"steps";q={limit};qu="steps";w=60'
    assert first.headers["ratelimit"].startswith('"steps";r=')
    left = int(first.headers["ratelimit"].split("r=")[1].split(";")[0])
    assert limit - STEPS <= left < limit
    assert client.post("/forecast", json=FORECAST, headers=bearer("metered")).status_code == 200
    wait_for(lambda: count(client, "carry_key_steps_total", key="metered") == 2 * RUN)
    refusal = client.post("/forecast", json=FORECAST, headers=bearer("metered"))
    assert (refusal.status_code, refusal.json()["code"]) == (429, "steps_per_minute")
    seconds = int(refusal.headers["retry-after"])
    assert seconds == math.ceil((STEPS - (limit - 2 * RUN)) * 60 / limit)
    assert refusal.json()["detail"] == f"the key metered may take {limit} steps a minute; try again in {seconds} s"
    assert int(refusal.headers["retry-after-ms"]) >= 1000 * seconds
    assert refusal.headers["ratelimit"].endswith(f";t={seconds}")
    openai = client.post("/v1/completions", json={"prompt": "a" * 60, "max_tokens": 1}, headers=bearer("metered"))
    assert (openai.status_code, openai.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert client.get("/models", headers=bearer("metered")).status_code == 200  # it takes no steps
    other = client.post("/forecast", json=FORECAST, headers=bearer("free"))
    assert other.status_code == 200
    assert not {"ratelimit", "ratelimit-policy"} & set(other.headers)
    assert count(client, "carry_key_steps_total", key="metered") == 2 * RUN
    assert count(client, "carry_key_requests_total", key="metered", status="200") == 3
    assert count(client, "carry_key_requests_total", key="metered", status="429") == 2
    assert count(client, "carry_key_refused_total", key="metered", reason="steps_per_minute") == 2
    assert secret_of("metered") not in client.get("/metrics").text
    clock.now += seconds
    assert client.post("/forecast", json=FORECAST, headers=bearer("metered")).status_code == 200


@pytest.mark.usefixtures("clock")
def test_a_call_of_more_steps_than_a_minute_has_is_told_so(app: App) -> None:
    many = {"requests": [FORECAST] * 5}
    client = app.has(entry("batches", limits={"steps_per_minute": 4 * STEPS}))
    answer = client.post("/forecast/batch", json=many, headers=bearer("batches"))
    assert (answer.status_code, answer.json()["code"]) == (422, "limit_exceeded")
    [error] = answer.json()["errors"]
    assert error["path"] == "$"
    assert f"takes {5 * STEPS} steps" in error["message"]
    assert f"{4 * STEPS} a minute: send it in parts" in error["message"]
    # Nothing was taken for it, and a batch is accepted or refused as a whole.
    assert (
        client.post("/forecast/batch", json={"requests": [FORECAST] * 3}, headers=bearer("batches")).status_code == 200
    )
    answer = client.post("/forecast/batch", json={"requests": [FORECAST] * 3}, headers=bearer("batches"))
    assert (answer.status_code, answer.json()["code"]) == (429, "steps_per_minute")
    assert client.post("/forecast", json=FORECAST, headers=bearer("batches")).status_code == 200


def test_steps_that_do_not_run_are_given_back(app: App) -> None:
    """Texts that stop early, and requests that the queue refuses."""
    body = {"prompt": "a", "max_length": 300, "stop": list("abcdefghijklmno"), "seed": 1}
    key = entry("texts", limits={"steps_per_minute": 400, "queue_share": 1})
    client = app.has(key)
    for _ in range(5):
        answer = client.post("/generate", json=body, headers=bearer("texts"))
        assert answer.status_code == 200, answer.text
        taken = count(client, "carry_key_steps_total", key="texts")
        wait_for(lambda taken=taken: count(client, "carry_key_steps_total", key="texts") >= taken)  # type: ignore[misc]
    assert count(client, "carry_key_steps_total", key="texts") < 200


def test_sessions_and_stored_bytes_are_limited_by_key(app: App) -> None:
    few = entry("few", limits={"sessions": 1})
    small = entry("small", limits={"stored_bytes": 1000})
    client = app.has(few, small, entry("free"))

    def create(name: str) -> Response:
        return client.post("/sessions", json={"prompt": "a"}, headers=bearer(name))

    assert create("few").status_code == 201
    refusal = create("few")
    assert (refusal.status_code, refusal.json()["code"]) == (429, "too_many_sessions")
    assert "has 1 live sessions" in refusal.json()["detail"]
    full = [create("small") for _ in range(9)][-1]
    assert (full.status_code, full.json()["code"]) == (507, "owner_store_full")
    assert "may take 1000 bytes" in full.json()["detail"]
    assert [create("free").status_code for _ in range(3)] == [201] * 3
    app.has(entry("few", limits={"sessions": 2}), small, entry("free"))
    assert create("few").status_code == 201
    assert count(client, "carry_key_refused_total", key="few", reason="too_many_sessions") == 1
    assert count(client, "carry_key_refused_total", key="small", reason="owner_store_full") >= 1


def test_a_log_line_names_the_key_and_never_its_secret(app: App) -> None:
    client = app.has(entry("app"))
    with structlog.testing.capture_logs() as lines:
        client.get("/models", headers=bearer("app"))
        client.get("/models", headers=bearer("nobody"))
    requests = [line for line in lines if line["event"] == "request"]
    assert [line.get("key") for line in requests] == ["app", None]
    assert "secret-of" not in str(lines)
    assert hash_of_secret(secret_of("app"))[:8] not in str(lines)


# --- Several processes ------------------------------------------------------------------------------------------------


def test_processes_share_the_limit_of_steps_and_all_read_the_file_again(
    models: Path, file: Path, tmp_path: Path
) -> None:
    accepted, limit = 10, 9 * RUN + STEPS
    write(file, entry("app", limits={"steps_per_minute": limit}))
    store = f"sqlite:///{tmp_path}/sessions.db"
    with Service(models, store, processes=2, api_keys_file=file) as service:

        def call(name: str) -> int:
            # Each on a connection of its own, which the system gives to either process.
            return httpx.post(f"{service.url}/forecast", json=FORECAST, headers=bearer(name), timeout=30).status_code

        started = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(call, ["app"] * 40))
        refilled = 1 + int((time.monotonic() - started) * limit / 60 / STEPS)
        assert set(statuses) == {200, 429}
        assert accepted <= statuses.count(200) <= accepted + refilled
        write(file, entry("new"))
        # Both processes look once a second.
        end, in_a_row = time.monotonic() + 30, 0
        while in_a_row < 20:
            assert time.monotonic() < end
            in_a_row = in_a_row + 1 if (call("app"), call("new")) == (401, 200) else 0


def test_a_broken_file_ends_the_start_with_its_reason(models: Path, file: Path) -> None:
    write(file, entry("app", limits={"steps_per_minute": -1}))
    settings = {"CARRY_API_KEYS_FILE": str(file), "CARRY_PORT": "0", "CARRY_MODELS_DIR": str(models)}
    ended = subprocess.run([str(CARRY), "serve"], env=os.environ | settings, capture_output=True, text=True)
    assert ended.returncode == 2
    assert f"carry: CARRY_API_KEYS_FILE: {file}: keys[0].limits.steps_per_minute (of the key 'app'): " in ended.stderr
