"""Several processes on one port, as an operator sees them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.test_train_to_answer import CARRY, post
from tests.service.test_reload import add_version

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


class Service:
    """The service with two processes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process = process
        self._lines = (json.loads(line) for line in process.stderr)
        listening = self.line("listening")
        assert listening["processes"] == 2
        self.url = f"http://127.0.0.1:{listening['port']}"
        self.processes = [self.line("process started")["process"] for _ in range(2)]

    def line(self, event: str) -> dict[str, Any]:
        """The next log line of this event."""
        return next(line for line in self._lines if line["event"] == event)


def environment(models: Path, folder: Path, port: str) -> dict[str, str]:
    """The environment of a service with two processes and its sessions in the folder."""
    return os.environ | {
        "CARRY_PORT": port,
        "CARRY_PROCESSES": "2",
        "CARRY_MODELS_DIR": str(models),
        "CARRY_SESSION_STORE": f"sqlite:///{folder}/carry.db",
        "CARRY_LOG_FORMAT": "json",
    }


@contextmanager
def serving(models: Path, status: int = 0) -> Iterator[Service]:
    """Run the service. At the end, all of its processes must end, the first one with this status."""
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(
            [CARRY, "serve"], env=environment(models, Path(folder), "0"), stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        service = Service(process)
        try:
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)  # until all processes have closed the pipe
    assert process.returncode == status


def answered_forecasts(url: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as page:
        families = text_string_to_metric_families(page.read().decode())
    samples = (sample for family in families for sample in family.samples)
    return sum(s.value for s in samples if s.name == "carry_requests_total" and s.labels["route"] == "/forecast")


def test_all_processes_give_the_same_answers_and_metrics_count_all(models: Path) -> None:
    with serving(models) as service:
        url = service.url
        body = {"prompt": "a", "max_length": 30, "seed": 5}
        with ThreadPoolExecutor(8) as pool:
            texts = set(pool.map(lambda _: post(f"{url}/generate", body)["text"], range(40)))
            list(pool.map(lambda _: post(f"{url}/forecast", {"series": [1, 2, 3]}), range(60)))
        assert len(texts) == 1
        assert [answered_forecasts(url) for _ in range(10)] == [60] * 10


def test_a_dead_process_is_replaced_and_no_request_is_refused(models: Path) -> None:
    with serving(models) as service:
        post(f"{service.url}/forecast", {"series": [1, 2, 3]})
        killed = service.processes[0]
        os.kill(killed, signal.SIGKILL)
        assert service.line("a process died; it is started again")["process"] == killed
        assert service.line("process started")["process"] not in service.processes
        # A connection to the dead process waits for its replacement.
        for _ in range(40):
            post(f"{service.url}/forecast", {"series": [1, 2, 3]})


def test_all_processes_have_reloaded_when_the_answer_comes(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    with serving(tmp_path / "models") as service:

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


def test_all_processes_end_if_the_supervisor_is_killed(models: Path) -> None:
    with serving(models, status=-signal.SIGKILL) as service:
        post(f"{service.url}/forecast", {"series": [1, 2, 3]})
        service.process.kill()
        service.process.wait(timeout=30)


def test_a_port_in_use_is_reported_in_one_line(models: Path, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        settings = environment(models, tmp_path, str(listener.getsockname()[1]))
        result = subprocess.run([CARRY, "serve"], env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "cannot listen on 127.0.0.1:" in result.stderr
    assert "Address already in use" in result.stderr


def test_a_second_service_does_not_share_the_port(models: Path, tmp_path: Path) -> None:
    with serving(models) as service:
        settings = environment(models, tmp_path, service.url.rsplit(":", 1)[1])
        result = subprocess.run([CARRY, "serve"], env=settings, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 2
        assert post(f"{service.url}/forecast", {"series": [1, 2, 3]})["horizon"] == 12
