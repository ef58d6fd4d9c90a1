"""The supervisor: orphans, signals at any moment, and processes that hang, end or die."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.e2e.serving import CARRY, PATIENCE, Service, post

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has /proc, and balances over sockets")

STARTS = int(os.environ.get("CARRY_KILLS", "8"))

IMPATIENT = """
import sys
import service.workers.supervisor
service.workers.supervisor.FROZEN_AFTER = 2
from carry.cli import main
sys.argv = ["carry", "serve"]
main()
"""

HANGS_ONCE = """
import os, sys, threading
import service.workers.supervisor, service.workers.worker
service.workers.supervisor.STARTING_FOR = 5
once, run_worker = sys.argv[1], service.workers.worker.run_worker

def hang_once(*arguments):
    try:
        os.mkdir(once)
    except FileExistsError:
        run_worker(*arguments)
    else:
        threading.Event().wait()

service.workers.worker.run_worker = hang_once
from carry.cli import main
sys.argv = ["carry", "serve"]
main()
"""


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/carry.db"


def until(condition: Any) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    waiting = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        waiting.wait(0.05)


def readiness(url: str) -> tuple[int, str]:
    answer = httpx2.get(f"{url}/health/ready", timeout=PATIENCE)
    return answer.status_code, answer.text


def is_ready(url: str) -> bool:
    return readiness(url)[0] == 200


@contextmanager
def one_call_under_way(url: str) -> Iterator[int]:
    """Stream a text of a million characters. Yields the port of the client, after the first bytes."""
    body = {"prompt": "a", "max_length": 1_000_000, "stream": True}
    with httpx2.stream("POST", f"{url}/generate", json=body, timeout=PATIENCE) as response:
        assert response.status_code == 200, response.read()
        received = response.iter_bytes()  # keep it: its end closes the connection
        assert next(received)
        yield response.extensions["network_stream"].get_extra_info("client_addr")[1]


def test_an_inherited_orphan_is_reaped_and_ignored(models: Path, store: str) -> None:
    # `exec` makes the service the parent of a process that it did not start, as process 1 of a container inherits
    # orphans. The orphan ends when its input is closed.
    read_end, write_end = os.pipe()
    prefix = ["sh", "-c", 'exec 3<&0; cat <&3 > /dev/null & exec "$@"', "sh"]
    with Service(models, store, prefix, stdin=read_end, processes=2) as service:
        (orphan,) = [pid for pid in children(service.pid) if pid not in service.processes]
        os.close(write_end)
        until(lambda: not Path(f"/proc/{orphan}").exists())
        assert readiness(service.url)[0] == 200
        assert not service.errors
    os.close(read_end)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_at_any_moment_of_the_start_ends_the_service(models: Path, store: str, processes: int) -> None:
    environment = os.environ | {
        "CARRY_PORT": "0",
        "CARRY_PROCESSES": str(processes),
        "CARRY_MODELS_DIR": str(models),
        "CARRY_SESSION_STORE": store,
    }

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([CARRY, "serve"], env=environment, stderr=subprocess.PIPE)

    started = time.monotonic()
    with Service(models, store, processes=processes):
        whole_start = time.monotonic() - started
    rng = random.Random(processes)
    for _ in range(STARTS):
        with start() as process:
            try:
                process.wait(rng.uniform(0, whole_start))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
            try:
                _, log = process.communicate(timeout=PATIENCE)  # until all processes have closed the pipe
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            assert process.returncode in (0, -signal.SIGTERM), log
            assert b"Traceback" not in log


def test_a_frozen_process_is_replaced_while_others_serve(models: Path, store: str) -> None:
    with Service(models, store, command=[sys.executable, "-c", IMPATIENT], processes=2) as service:
        until(lambda: is_ready(service.url))
        frozen = service.processes[0]
        os.kill(frozen, signal.SIGSTOP)
        assert service.line("a process does not answer; it is killed")["process"] == frozen
        replacement = service.line("process started")["process"]
        assert replacement not in service.processes
        until(lambda: is_ready(service.url))
        service.errors.clear()


def test_a_process_that_hangs_before_its_first_heartbeat_is_replaced(models: Path, store: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGS_ONCE, str(tmp_path / "once")]
    with Service(models, store, command=command, processes=2) as service:  # starts when all processes are ready
        hung = service.line("a process does not start; it is killed")["process"]
        assert hung in service.processes
        assert service.line("a process died; it is started again")["process"] == hung
        service.errors.clear()


def test_readiness_covers_all_processes(models: Path, store: str) -> None:
    with Service(models, store, processes=2) as service:
        frozen = service.processes[0]
        os.kill(frozen, signal.SIGSTOP)

        def is_reported() -> bool:
            try:  # the connection may reach the frozen process
                answer = httpx2.get(f"{service.url}/health/ready", timeout=0.5)
            except httpx2.TimeoutException:
                return False
            return answer.status_code == 503 and f"process {frozen} does not answer" in answer.json()["detail"]

        try:
            until(is_reported)
        finally:
            os.kill(frozen, signal.SIGCONT)
        until(lambda: is_ready(service.url))


def peer_ports(pid: int) -> set[int]:
    """The ports of the clients that are connected to the process."""
    inodes = {inode_of(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].split(":")[1], 16) for row in rows if row[9] in inodes}


def inode_of(descriptor: Path) -> str:
    """The inode of a socket; "" if it is closed."""
    try:
        return os.readlink(descriptor).removeprefix("socket:[").removesuffix("]")
    except FileNotFoundError:
        return ""


def test_a_process_that_outlives_the_grace_period_is_killed(models: Path, store: str) -> None:
    with Service(models, store, processes=2, shutdown_grace=1) as service:
        os.kill(service.processes[1], signal.SIGSTOP)
        service.stop()
        assert service.line("killed after the grace")["processes"] == [service.processes[1]]
        service.errors.clear()


def test_a_draining_service_refuses_new_connections_at_once(models: Path, store: str) -> None:
    with Service(models, store, processes=2, shutdown_grace=1, max_generated_length=10**6) as service:
        url = urlsplit(service.url)
        with one_call_under_way(service.url):
            os.kill(service.pid, signal.SIGTERM)
            for _ in range(2):
                service.line("finishing")
            for _ in range(20):
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((url.hostname or "", url.port or 0), timeout=PATIENCE)
        service.errors.clear()  # the running call was cut after the grace period


def test_a_draining_process_takes_no_new_connection(models: Path, store: str) -> None:
    with Service(models, store, processes=2, max_generated_length=10**6) as service:
        until(lambda: is_ready(service.url))
        with one_call_under_way(service.url) as port:
            (busy,) = [pid for pid in service.processes if port in peer_ports(pid)]
            os.kill(busy, signal.SIGTERM)
            service.line("finishing")
            for _ in range(20):  # all go to the other process
                assert httpx2.get(f"{service.url}/health/live", timeout=PATIENCE).status_code == 200
            assert Path(f"/proc/{busy}").exists()
        assert service.line("a process died; it is started again")["process"] == busy
        until(lambda: is_ready(service.url))
        service.errors.clear()


def test_many_deaths_leave_no_file_and_no_metric_behind(
    models: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with Service(models, store, processes=2) as service:
        for _ in range(12):
            post(f"{service.url}/forecast", {"series": [1, 2, 3]})
        metrics(service.url)
        before = metrics(service.url)  # with the first scrape, which counts, too
        for _ in range(STARTS):
            os.kill(service.processes.pop(0), signal.SIGKILL)
            service.processes.append(service.line("process started")["process"])
            until(lambda: is_ready(service.url))
        after = metrics(service.url)
        assert {name for name in after if "/health" not in name} == {name for name in before if "/health" not in name}
        labels = 'method="POST",model="forecast",route="/forecast",status="200",version="1"'
        forecasts = f"carry_http_requests_total{{{labels}}}"
        assert after[forecasts] == before[forecasts] == 12
        restarts = "carry_process_restarts_total"
        assert (before[restarts], after[restarts]) == (0, STARTS)
        assert not list(temporary.iterdir())
        service.errors.clear()


def metrics(url: str) -> dict[str, float]:
    page = httpx2.get(f"{url}/metrics", timeout=PATIENCE).text
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in page.splitlines() if line[0] != "#")}


def test_the_service_opens_only_its_listening_sockets_and_writes_nothing_at_home(
    models: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    with Service(models, store, processes=2) as service:
        post(f"{service.url}/forecast", {"series": [1, 2, 3]})
        assert len(list(Path(f"/proc/{service.pid}/task").iterdir())) == 1  # or it could not be forked safely
        port = urlsplit(service.url).port
        for pid in (service.pid, *service.processes):
            inodes = {inode_of(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
            for protocol in ("tcp", "tcp6", "udp", "udp6"):
                for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[9] in inodes:
                        assert int(fields[1].split(":")[1], 16) == port, line
    assert not list(home.rglob("*"))


def test_signals_mean_the_same_as_to_other_services(models: Path, store: str) -> None:
    with Service(models, store, processes=2) as service:
        for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            os.kill(service.pid, signum)
        service.line("reload requested")
        assert readiness(service.url)[0] == 200
        service.stop(signal.SIGQUIT)
    with Service(models, store, processes=2) as service:
        service.stop()
        assert [service.line(event)["event"] for event in ("ending", "draining", "finishing", "drained", "ended")]


def test_every_log_line_is_json_and_of_no_higher_level_than_warning(
    models: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARRY_PROCESES", "3")
    monkeypatch.setenv("CARRY_SERVICE_HOST", "10.96.0.12")
    with Service(models, store, processes=2) as service:
        url = urlsplit(service.url)
        for request in (
            b"no HTTP\r\n\r\n",
            b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        ):
            with socket.create_connection((url.hostname or "", url.port or 0), timeout=PATIENCE) as connection:
                connection.sendall(request)
                assert connection.recv(100)
    lines = list(service.all_lines)
    assert [line["did_you_mean"] for line in lines if line["event"] == "unknown setting"] == ["CARRY_PROCESSES"]
    assert all("timestamp" in line for line in lines), lines
    assert {line["level"] for line in lines} <= {"info", "warning"}


def test_a_bad_setting_is_one_line_of_json(models: Path, store: str) -> None:
    environment = os.environ | {"CARRY_LOG_FORMAT": "json", "CARRY_PORT": "eighty"}
    result = subprocess.run([CARRY, "serve"], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert json.loads(result.stderr)["event"].startswith("CARRY_PORT: ")


def test_the_version_is_printed() -> None:
    result = subprocess.run([CARRY, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == f"carry {version('carry-rnn')}\n"


def test_a_model_folder_that_hangs_stops_neither_start_nor_reload_nor_the_end(
    models: Path, store: str, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    (folder / "pipe/1").mkdir(parents=True)
    os.mkfifo(folder / "pipe/1/manifest.json")
    with Service(folder, store, processes=2) as service:
        (folder / "another/1").mkdir(parents=True)
        os.mkfifo(folder / "another/1/manifest.json")
        refused = post(f"{service.url}/models/reload", {})["refused"]
        assert [model["name"] for model in refused] == ["another", "pipe"]
        post(f"{service.url}/forecast", {"series": [1, 2, 3]})
