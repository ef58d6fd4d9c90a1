"""Several processes on one port, as an operator sees them."""

import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.serving import CARRY, Service, post
from tests.service.test_reload import add_version

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/carry.db"


def serve_on(port: int, models: Path, store: str) -> "subprocess.CompletedProcess[str]":
    """Try to start a service on a port that is in use."""
    settings = {"PORT": port, "PROCESSES": 2, "MODELS_DIR": models, "SESSION_STORE": store}
    environment = os.environ | {f"CARRY_{name}": str(value) for name, value in settings.items()}
    return subprocess.run([CARRY, "serve"], env=environment, capture_output=True, text=True, timeout=60, check=False)


def answered_forecasts(url: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as page:
        families = text_string_to_metric_families(page.read().decode())
    samples = (sample for family in families for sample in family.samples)
    return sum(s.value for s in samples if s.name == "carry_http_requests_total" and s.labels["route"] == "/forecast")


def test_all_processes_give_the_same_answers_and_metrics_count_all(models: Path, store: str) -> None:
    with Service(models, store, processes=2) as service:
        url = service.url
        body = {"prompt": "a", "max_length": 30, "seed": 5}
        with ThreadPoolExecutor(8) as pool:
            texts = set(pool.map(lambda _: post(f"{url}/generate", body)["text"], range(40)))
            list(pool.map(lambda _: post(f"{url}/forecast", {"series": [1, 2, 3]}), range(60)))
        assert len(texts) == 1
        assert [answered_forecasts(url) for _ in range(10)] == [60] * 10


def test_a_dead_process_is_replaced_and_no_request_is_refused(models: Path, store: str) -> None:
    with Service(models, store, processes=2) as service:
        post(f"{service.url}/forecast", {"series": [1, 2, 3]})
        killed = service.processes[0]
        os.kill(killed, signal.SIGKILL)
        assert service.line("a process died; it is started again")["process"] == killed
        assert service.line("process started")["process"] not in service.processes
        # A connection to the dead process waits for its replacement.
        for _ in range(40):
            post(f"{service.url}/forecast", {"series": [1, 2, 3]})


def test_all_processes_have_reloaded_when_the_answer_comes(models: Path, store: str, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    with Service(tmp_path / "models", store, processes=2) as service:

        def status(_: int) -> int:
            try:
                return 200 if post(f"{service.url}/forecast", {"series": [1, 2, 3], "model": "forecast@2"}) else 0
            except HTTPError as error:
                error.close()
                return error.code

        for _ in range(2):
            add_version(models / "forecast/1", tmp_path / "models/forecast", 2)
            loaded = post(f"{service.url}/models/reload", {})["models"]
            assert [model["version"] for model in loaded if model["name"] == "forecast"] == [2, 1]
            with ThreadPoolExecutor(8) as pool:  # each on a new connection, which any process may get
                assert list(pool.map(status, range(40))) == [200] * 40
            shutil.rmtree(tmp_path / "models/forecast/2")
            assert post(f"{service.url}/models/reload", {})["unloaded"] == ["forecast@2"]
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(status, range(40))) == [404] * 40
            os.kill(service.processes[0], signal.SIGKILL)  # the next reload waits for its replacement, too
            service.processes[0] = service.line("process started")["process"]


def test_all_processes_end_if_the_supervisor_is_killed(models: Path, store: str) -> None:
    with Service(models, store, processes=2) as service:
        post(f"{service.url}/forecast", {"series": [1, 2, 3]})
        service.kill()


def test_a_port_in_use_is_reported_in_one_line(models: Path, store: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        result = serve_on(listener.getsockname()[1], models, store)
    assert result.returncode == 2
    assert "cannot listen on 127.0.0.1:" in result.stderr
    assert "Address already in use" in result.stderr


def test_a_second_service_does_not_share_the_port(models: Path, store: str) -> None:
    with Service(models, store, processes=2) as service:
        assert serve_on(int(service.url.rsplit(":", 1)[1]), models, store).returncode == 2
        assert post(f"{service.url}/forecast", {"series": [1, 2, 3]})["horizon"] == 12
