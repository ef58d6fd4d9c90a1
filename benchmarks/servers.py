"""The servers that are measured: how each is installed, started, found ready and stopped."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.workload import Request, forecasts, texts

_HERE = Path(__file__).parent
ENVIRONMENTS = _HERE / ".environments"
_START_SECONDS = 120
_STOP_SECONDS = 15


@dataclass(frozen=True)
class Server:
    """How to run one server.

    command: its first word is looked up in the environment; {port} is filled in.
    environment: the folder with `bin`; None is ours. envelope: the field of a list around each body.
    key: the API key that it wants.
    The variables PORT and ENDPOINT (generate, stream, forecast) are always set.
    """

    name: str
    command: tuple[str, ...]
    ready: str = "/health/ready"
    environment: Path | None = None
    requirements: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    envelope: str | None = None
    key: str = ""
    streams: bool = False
    whole: bool = True
    """Whether one start of it serves all endpoints, so that whole and streamed texts can be asked at the same time."""
    one_core: bool = False
    """Whether the system lets it run on one core only."""
    works: tuple[str, ...] = ()
    """What is measured; () is all it can."""


def _peer(module: str) -> tuple[str, ...]:
    return ("python", "-m", f"benchmarks.peers.{module}")


_BENTOML = ("bentoml", "serve", "benchmarks.peers.bentoml_server:Peer", "--host", "127.0.0.1", "--port", "{port}")
_SERVICE = _HERE.parent / ".venv"

SERVERS = (
    Server("torch", _peer("torch_tutorial")),
    Server("onnx_loop", _peer("onnx_loop")),
    Server(
        "litserve",
        _peer("litserve_server"),
        ready="/health",
        environment=ENVIRONMENTS / "litserve",
        requirements="requirements-litserve.txt",
        streams=True,
        whole=False,
    ),
    Server(
        "litserve-2",
        _peer("litserve_server"),
        ready="/health",
        environment=ENVIRONMENTS / "litserve",
        requirements="requirements-litserve.txt",
        variables={"WORKERS": "2"},
        whole=False,
        works=("generate",),
    ),
    Server(
        "bentoml",
        _BENTOML,
        ready="/readyz",
        environment=ENVIRONMENTS / "bentoml",
        requirements="requirements-bentoml.txt",
        variables={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(ENVIRONMENTS / "bentoml" / "home")},
        envelope="requests",
        whole=False,
    ),
    Server("static", _peer("static_batching"), streams=True),
    Server("carry-1", ("carry", "serve"), environment=_SERVICE, variables={"CARRY_PROCESSES": "1"}, streams=True),
    Server(
        "carry-core",
        ("carry", "serve"),
        environment=_SERVICE,
        variables={"CARRY_PROCESSES": "1"},
        one_core=True,
        works=("generate",),
    ),
    Server("carry", ("carry", "serve"), environment=_SERVICE, streams=True),
)


def install(server: Server) -> None:
    """Make the server's environment where it is absent."""
    if server.environment is None:
        return
    if server.requirements is None:
        if (server.environment / "installed").exists():
            return
        subprocess.run(["make", f"{server.environment.name}/installed"], cwd=_HERE.parent, check=True)
        return
    make_environment(server.environment, server.requirements)


def make_environment(environment: Path, requirements: str) -> None:
    """Make a peer's environment where it is absent."""
    done = environment / "installed"
    if done.exists():
        return
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(_HERE / "peers" / requirements)], check=True)
    done.touch()


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    port: int
    pid: int

    def http(self, request: Request) -> bytes:
        """A request as this server wants it."""
        return request.http(self.server.envelope)


@contextmanager
def started(server: Server, endpoint: str) -> Iterator[Running]:
    """The server, ready and warmed up by one request; `endpoint` is the one that will be asked most."""
    port = _free_port()
    folder = Path(sys.executable).parent if server.environment is None else server.environment / "bin"
    words = [word.format(port=port) for word in server.command]
    variables = os.environ | server.variables
    variables |= {"PORT": str(port), "ENDPOINT": endpoint, "CARRY_PORT": str(port), "CARRY_LOG_LEVEL": "warning"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [str(folder / words[0]), *words[1:]],
            cwd=_HERE.parent,
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        if server.one_core:
            os.sched_setaffinity(process.pid, {0})  # before it has any other thread
        running = Running(server, port, process.pid)
        try:
            if not _await_ready(process, port, server.ready):
                log.seek(0)
                tail = log.read().decode(errors="replace")[-2000:]
                raise RuntimeError(f"{server.name} did not start:\n{tail}")
            _warm_up(running, endpoint)
            yield running
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_ready(process: subprocess.Popen[bytes], port: int, path: str) -> bool:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
                return True
        except (OSError, urllib.error.URLError):
            time.sleep(0.05)
    return False


def _warm_up(running: Running, endpoint: str) -> None:
    """One request of the kind.

    Raises:
        RuntimeError: it is refused.
    """
    request = forecasts(1)[0] if endpoint == "forecast" else texts(1, stream=endpoint == "stream")[0]
    content = running.http(request)
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
        headers = f"\r\nConnection: close\r\nAuthorization: Bearer {running.server.key}\r\n"
        connection.sendall(content.replace(b"\r\n", headers.encode(), 1))
        head = connection.recv(65536)
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"{running.server.name} answered {head[:500]!r}")
        while connection.recv(65536):
            pass


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, then end what is left of its process group."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
