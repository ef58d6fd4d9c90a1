"""POST /models/reload: models are added, replaced and removed while requests run, in all processes."""

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime import InferenceSession
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.app import create_app
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest, forecast
from service.http.state import AppState
from service.kind import Model
from service.kinds import KINDS
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from service.workers.board import Board
from tests.builders import character_model, forecaster, write_model
from tests.service.test_registry import edit, tamper, truncate

Call = tuple[str, dict[str, Any], list[dict[str, Any]]]
"""A path, a body, and the answers that are right."""
SERIES = {"series": [3, 1, 4, 1, 5, 9, 2, 6], "model": "forecast"}
PROMPT = {"prompt": "Once upon", "max_length": 20, "seed": 3, "model": "text"}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other models of the same names."""
    folder = tmp_path_factory.mktemp("others")
    write_model(forecaster("gru"), folder, "forecast")
    write_model(character_model("gru"), folder, "text")
    return folder


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A copy of the models, to serve and to change."""
    shutil.copytree(models, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with serving(folder) as client:
        yield client


@contextmanager
def serving(folder: Path, board: Board | None = None, worker_index: int = 0) -> Iterator[TestClient]:
    app = create_app(Settings(models_dir=folder, request_timeout=60), board=board, worker_index=worker_index)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def registry_of(client: TestClient) -> Registry:
    carry: AppState = client.app.state.carry  # type: ignore[attr-defined]  # set by the lifespan
    return carry.reloader.registry


def reload(client: TestClient) -> dict[str, Any]:
    answer = client.post("/models/reload")
    assert answer.status_code == 200, answer.text
    reloaded: dict[str, Any] = answer.json()
    shown = client.get("/models").json()
    assert reloaded == {**shown, "loaded": reloaded["loaded"], "unloaded": reloaded["unloaded"]}
    return reloaded


def changes(client: TestClient) -> tuple[list[str], list[str]]:
    reloaded = reload(client)
    return reloaded["loaded"], reloaded["unloaded"]


def add_version(source: Path, folder: Path, version: int) -> Path:
    """Copy a model as a version of the model in `folder`. It appears whole at once, as an export does it."""
    partial = folder / f".partial-{version}"
    shutil.copytree(source, partial)
    edit(partial, version=version)
    return partial.rename(folder / str(version))


def replace(source: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(source, folder)


def gauge(client: TestClient, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    [value] = [s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
    return value


def test_without_changes_nothing_is_loaded_again(client: TestClient) -> None:
    before = registry_of(client).models
    assert changes(client) == ([], [])
    assert all(old is new for old, new in zip(before, registry_of(client).models, strict=True))


def test_a_new_model_answers_and_the_others_are_not_loaded_again(client: TestClient, folder: Path) -> None:
    before = registry_of(client).models
    old = client.post("/forecast", json=SERIES).json()
    add_version(folder / "forecast/1", folder / "forecast", 2)
    assert client.post("/forecast", json=SERIES).json() == old
    assert changes(client) == (["forecast@2"], [])
    assert client.post("/forecast", json=SERIES).json() == {**old, "model": {"name": "forecast", "version": 2}}
    assert client.post("/forecast", json={**SERIES, "model": "forecast@1"}).json() == old
    assert all(registry_of(client).find(model.label) is model for model in before)
    assert gauge(client, "carry_models", status="loaded") == 4


def test_a_deleted_model_is_unknown_and_its_memory_is_released(client: TestClient, folder: Path) -> None:
    assert client.post("/generate", json=PROMPT).status_code == 200
    too_late = client.post("/forecast", json=SERIES, headers={"x-request-timeout": "1e-9"})
    assert too_late.status_code == 504  # its exception holds references
    assert client.post("/forecast", json=SERIES).status_code == 200
    references = [weakref.ref(part) for name in ("text", "forecast") for part in parts(registry_of(client).find(name))]
    threads = [registry_of(client).find(name).engine.thread for name in ("text", "forecast")]
    shutil.rmtree(folder / "text")
    shutil.rmtree(folder / "forecast/1")
    assert changes(client) == ([], ["forecast@1", "text@1"])
    assert client.post("/generate", json=PROMPT).status_code == 404
    assert client.post("/forecast", json=SERIES).status_code == 404
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    deadline = time.monotonic() + 30
    while any(part() for part in references) and time.monotonic() < deadline:
        gc.collect()  # the service collects, too, but perhaps not yet
    assert [part() for part in references] == [None] * len(references)
    assert 'model="text"' not in client.get("/metrics").text
    assert gauge(client, "carry_models", status="loaded") == 1


def parts(model: Model[Any]) -> list[Any]:
    sessions = [part for part in vars(model.engine.runner).values() if isinstance(part, InferenceSession)]
    assert sessions
    return [model, model.engine, *sessions]


def test_a_model_replaced_in_place_gives_the_answers_of_the_new_one(
    client: TestClient, folder: Path, others: Path
) -> None:
    old = client.post("/generate", json=PROMPT).json()
    replace(others / "text/1", folder / "text/1")
    assert client.post("/generate", json=PROMPT).json() == old
    assert changes(client) == (["text@1"], ["text@1"])
    new = client.post("/generate", json=PROMPT).json()
    assert new != old
    with serving(others) as other:
        assert new == other.post("/generate", json=PROMPT).json()


def test_a_broken_new_version_is_refused_and_the_old_one_answers_until_it_is_repaired(
    client: TestClient, folder: Path
) -> None:
    old = client.post("/forecast", json=SERIES).json()
    added = add_version(folder / "forecast/1", folder / "forecast", 2)
    truncate(added)
    reloaded = reload(client)
    assert (reloaded["loaded"], reloaded["unloaded"]) == ([], [])
    [refused] = reloaded["refused"]
    assert (refused["name"], refused["version"]) == ("forecast", "2")
    assert client.post("/forecast", json=SERIES).json() == old
    assert client.post("/forecast", json={**SERIES, "model": "forecast@2"}).status_code == 409
    assert gauge(client, "carry_models", status="refused") == 1
    shutil.copy(folder / "forecast/1/model.onnx", added)
    reloaded = reload(client)
    assert (reloaded["loaded"], reloaded["refused"]) == (["forecast@2"], [])
    assert client.post("/forecast", json=SERIES).json()["model"]["version"] == 2


def test_under_load_every_answer_is_that_of_an_old_model_or_of_a_new_one(
    client: TestClient, folder: Path, others: Path
) -> None:
    with serving(others) as other:
        replaced = other.post("/forecast", json=SERIES).json()
    first, continued = client.post("/forecast", json=SERIES).json(), client.post("/generate", json=PROMPT).json()
    second = {**continued, "model": {"name": "text", "version": 2}}
    unchanged: Call = ("/generate", {**PROMPT, "model": "text@1"}, [continued])
    newest: Call = ("/generate", PROMPT, [continued, second])
    # Large enough for another thread, so that the models change between the parsing and the answer.
    changing: Call = ("/forecast/batch", {"requests": [SERIES] * 60}, [first, replaced])
    originals = folder.parent / "originals"
    shutil.copytree(folder, originals)
    done = threading.Event()

    def ask(path: str, body: dict[str, Any], right: list[dict[str, Any]]) -> int:
        count = 0
        while not done.is_set():
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            data = answer.json()
            assert all(result in right for result in data.get("results", [data]))
            count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask, *call) for call in [unchanged, newest, changing] * 2]
        try:
            for _ in range(3):
                add_version(originals / "text/1", folder / "text", 2)
                truncate(add_version(originals / "text/1", folder / "text", 3))
                replace(others / "forecast/1", folder / "forecast/1")
                assert changes(client) == (["forecast@1", "text@2"], ["forecast@1"])
                assert client.post("/forecast", json=SERIES).json() == replaced
                for version in (2, 3):
                    shutil.rmtree(folder / f"text/{version}")
                replace(originals / "forecast/1", folder / "forecast/1")
                assert changes(client) == (["forecast@1"], ["forecast@1", "text@2"])
                assert client.post("/forecast", json=SERIES).json() == first
        finally:
            done.set()
    assert all(count.result() for count in asking)


def test_a_model_found_before_it_was_unloaded_still_answers(folder: Path) -> None:
    registry = Registry(Settings(models_dir=folder), KINDS, Metrics())
    model = registry.find("forecast")
    thread = model.engine.thread
    shutil.rmtree(folder / "forecast")
    assert registry.reload().unloaded == ("forecast@1",)
    assert isinstance(model.manifest, ForecastManifest)
    request = ForecastRequest(np.array([[1.0], [2.0]]), 4, model.manifest.quantile_levels)
    answer = model.engine.submit(forecast(model.manifest, request), request.cost_steps).result(30)
    assert answer.quantiles.shape == (4, 3)
    assert thread.is_alive()
    del model
    thread.join(30)
    assert not thread.is_alive()
    registry.close()


def test_an_unloaded_model_that_is_still_held_ends_after_the_timeout_of_requests(folder: Path) -> None:
    registry = Registry(Settings(models_dir=folder, request_timeout=0.01), KINDS, Metrics())
    held = registry.find("forecast")
    shutil.rmtree(folder / "forecast")
    registry.reload()
    held.engine.thread.join(30)
    assert not held.engine.thread.is_alive()
    registry.close()


def test_reloads_at_once_load_each_model_once(client: TestClient, folder: Path) -> None:
    add_version(folder / "forecast/1", folder / "forecast", 2)
    with structlog.testing.capture_logs() as lines, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: reload(client), range(8)))
    assert [line["model"] for line in lines if line["event"] == "model loaded"] == ["forecast@2"]
    assert all([model["name"] for model in answer["models"]].count("forecast") == 2 for answer in answers)


def test_all_processes_have_reloaded_when_one_of_them_answers(folder: Path) -> None:
    shared = Board(2)
    with serving(folder, shared, 0) as first, serving(folder, shared, 1) as second:
        for client in (first, second):
            shutil.rmtree(folder / "text")
            assert changes(client) == ([], ["text@1"])
            assert [each.post("/generate", json=PROMPT).status_code for each in (first, second)] == [404, 404]
            write_model(character_model(), folder, "text")
            assert changes(client) == (["text@1"], [])
            assert [each.post("/generate", json=PROMPT).status_code for each in (first, second)] == [200, 200]


def test_a_reload_that_a_process_does_not_finish_by_the_deadline_gets_504(folder: Path) -> None:
    shared = Board(2)
    with serving(folder, shared, 0) as client:
        late = client.post("/models/reload", headers={"x-request-timeout": "0.01"})
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        with serving(folder, shared, 1):  # the process that replaces a dead one
            reload(client)
        reload(client)  # a reload does not wait for an ended process


def test_a_failed_reload_is_a_500_changes_nothing_and_can_be_repeated(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> list[Path]:
        raise PermissionError("secret of the house")

    shutil.rmtree(folder / "text")
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as lines:
        patch.setattr("service.registry.model_folders", broken)
        answer = client.post("/models/reload")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "secret" not in answer.text
        assert client.post("/generate", json=PROMPT).status_code == 200
    assert [line for line in lines if line["event"] == "reload failed"]
    assert changes(client) == ([], ["text@1"])


def test_the_documentation_describes_the_reload(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/models/reload"]["post"]
    assert "all processes" in operation["description"]
    assert {"200", "422", "504"} <= set(operation["responses"])


def put(version: Path, source: Path) -> None:
    remove(version, source)
    shutil.copytree(source, version)
    edit(version, version=int(version.name))


def remove(version: Path, _: Path) -> None:
    shutil.rmtree(version, ignore_errors=True)


def describe_anew(version: Path, _: Path) -> None:
    if version.exists():
        edit(version, description="another")


def spoil(version: Path, _: Path) -> None:
    if version.exists():
        tamper(version)


EDITS = st.tuples(
    st.sampled_from([put, remove, describe_anew, spoil]), st.sampled_from(["1", "2"]), st.sampled_from(["lstm", "gru"])
)


@given(rounds=st.lists(st.lists(EDITS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_after_any_edits_a_reload_finds_what_a_restart_would(
    models: Path, others: Path, rounds: list[list[tuple[Callable[[Path, Path], None], str, str]]]
) -> None:
    sources = {"lstm": models / "forecast/1", "gru": others / "forecast/1"}
    with TemporaryDirectory() as folder:
        settings = Settings(models_dir=Path(folder))
        reloaded = Registry(settings, KINDS, Metrics())
        for edits in rounds:
            for change, version, source in edits:
                change(Path(folder) / "forecast" / version, sources[source])
            before = {model.label: model for model in reloaded.models}
            changed = reloaded.reload()
            fresh = Registry(settings, KINDS, Metrics())
            assert [model.manifest for model in reloaded.models] == [model.manifest for model in fresh.models]
            assert reloaded.rejected == fresh.rejected
            after = {model.label: model for model in reloaded.models}
            assert {model.label for model in changed.loaded} == {m for m in after if after[m] is not before.get(m)}
            assert set(changed.unloaded) == {m for m in before if before[m] is not after.get(m)}
            fresh.close()
        reloaded.close()
