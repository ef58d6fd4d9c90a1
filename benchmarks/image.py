"""The image, run for real: what it weighs and needs, and that it does what docs/operating.md says of it.

Usage: python -m benchmarks.image [--podman "podman"] [--image carry]

Build the image before; deploy/image/base.sh makes a base where no registry of images is in reach. It needs podman and
ports of the host's network, and ends what it starts. A check that fails raises; the figures go to
benchmarks/results/image.json. Times depend on what else runs on the machine: `load_average` is the load before.
"""

import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from socket import socket
from typing import Annotated, Any

import typer

RESULTS = Path(__file__).parent / "results" / "image.json"
LIMIT_MB = 450
STARTS = 5
PATIENCE = 120.0
LOAD_SECONDS = 15.0
CALLERS = 16
SERIES = [float(i % 7) for i in range(200)]


class Podman:
    """Commands of podman on one image."""

    def __init__(self, podman: str, image: str) -> None:
        self.words = shlex.split(podman)
        self.image = image

    def __call__(self, *words: str) -> str:
        """Run a command; what it printed."""
        ran = subprocess.run([*self.words, *words], capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise SystemExit(f"podman {shlex.join(words)}: {ran.stderr}")
        return ran.stdout.strip()

    def python(self, code: str, *options: str) -> str:
        """What a line of Python prints in a container."""
        return self("run", "--rm", "--no-healthcheck", *options, "--entrypoint", "python", self.image, "-c", code)

    @contextmanager
    def volume(self) -> Iterator[str]:
        """A new volume, mounted at /data."""
        name = self("volume", "create")
        try:
            yield f"--volume={name}:/data"
        finally:
            self("volume", "rm", "--force", name)

    @contextmanager
    def serving(self, *options: str, processes: int = 2) -> Iterator["Container"]:
        """A service that is ready, with a read-only root."""
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = (f"--env=CARRY_PORT={port}", f"--env=CARRY_PROCESSES={processes}")
        began = time.perf_counter()
        # podman's own checks need systemd; `ready` is called here.
        name = self(
            "run", "--detach", "--network=host", "--read-only", "--no-healthcheck", *settings, *options, self.image
        )
        try:
            container = Container(self, name, port)
            container.wait()
            container.ready_seconds = time.perf_counter() - began
            yield container
        finally:
            self("rm", "--force", name)


class Container:
    """A running service."""

    def __init__(self, podman: Podman, name: str, port: int) -> None:
        self.podman, self.name, self.port = podman, name, port
        self.ready_seconds = 0.0

    def call(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """The status and the answer of a call."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = None if body is None else json.dumps(body)
        connection.request(
            "GET" if body is None else "POST", path, sent, {"Content-Type": "application/json"} | (headers or {})
        )
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text)

    def good(self, path: str, body: Any = None) -> Any:
        """The answer of a call that must succeed."""
        status, answer = self.call(path, body)
        assert status in {200, 201}, (status, answer)
        return answer

    def wait(self) -> None:
        """Wait until it is ready."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if self.call("/health/ready")[0] == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > end or self.podman("inspect", "--format={{.State.Running}}", self.name) != "true":
                raise SystemExit(self.podman("logs", self.name) or "the container did not start")
            time.sleep(0.02)

    def stop(self) -> tuple[float, int]:
        """Seconds until it ended by SIGTERM, and its exit code."""
        began = time.perf_counter()
        self.podman("stop", "--time=60", self.name)
        seconds = time.perf_counter() - began
        return seconds, int(self.podman("inspect", "--format={{.State.ExitCode}}", self.name))

    def shell(self, script: str) -> str:
        """What a script prints in it."""
        return self.podman("exec", self.name, "bash", "-c", script)

    @property
    def mib(self) -> int:
        """Resident memory of all its processes; pages that they share count once."""
        lines = self.shell("grep -h ^Pss: /proc/[0-9]*/smaps_rollup").splitlines()
        return round(sum(int(line.split()[1]) for line in lines) / 1024)


def weigh(podman: Podman) -> dict[str, Any]:
    """Bytes of the image and of its layers, the newest last."""
    size = int(podman("image", "inspect", "--format={{.Size}}", podman.image))
    layers = [
        {"what": _short(layer["CreatedBy"]), "mb": round(layer["size"] / 1e6, 1)}
        for layer in json.loads(podman("history", "--format=json", "--no-trunc", podman.image))[::-1]
        if layer["size"] >= 1e5
    ]
    assert size <= LIMIT_MB * 1e6, f"{size / 1e6:.0f} MB are more than {LIMIT_MB}"
    return {"image_mb": round(size / 1e6), "layers": layers}


def _short(command: str) -> str:
    command = re.sub(r"^(/bin/sh -c )?(#\(nop\) )?", "", command)
    return re.sub(r"(dir|file|multi):\w+ in ", "", command)[:60].strip()


def check_configuration(podman: Podman) -> None:
    """The image says who runs, what, and what is in it."""
    [image] = json.loads(podman("image", "inspect", podman.image))
    configuration = image["Config"]
    assert configuration["User"] == "10001:0"
    assert configuration["Entrypoint"] == ["tini", "--", "carry"]
    assert configuration["Cmd"] == ["serve"]
    assert not configuration.get("Volumes")
    assert image["HealthCheck" if "HealthCheck" in image else "Healthcheck"]["Test"] == ["CMD", "ready"], (
        "build it with --format docker"
    )
    assert configuration["Labels"]["org.opencontainers.image.version"] in podman(
        "run", "--rm", "--no-healthcheck", podman.image, "--version"
    )
    listed = json.loads(podman.python("print(open('/opt/carry/sbom.cdx.json').read())"))
    installed = json.loads(
        podman.python(
            "import json, sysconfig; from importlib.metadata import distributions as d;"
            "print(json.dumps(sorted((x.name, x.version) for x in d(path=[sysconfig.get_path('purelib')]))))"
        )
    )
    assert sorted([part["name"], part["version"]] for part in listed["components"]) == installed
    names = {name for name, _ in installed}
    assert "carry-rnn" in names
    assert not names & {"torch", "onnx", "pandas", "pip", "setuptools"}


def check_quotas(podman: Podman) -> None:
    """The service starts as many processes as the limits of the container allow."""
    code = "from carry._service.machine import processes_to_run as p; print(p())"
    assert podman.python(code, "--cpus=1") == "1"
    assert podman.python(code, "--memory=300m") == "1"


def check_sessions(podman: Podman, *options: str) -> None:
    """A session outlives its container; SIGTERM ends the service with status 0."""
    with podman.volume() as volume:
        with podman.serving(volume, *options) as first:
            created = first.good("/sessions", {"series": SERIES[:50]})
            assert first.stop()[1] == 0
        with podman.serving(volume, *options) as second:
            session = second.good(f"/sessions/{created['id']}")
            assert session["version"] == created["version"]
            assert (
                len(second.good("/forecast", {"session_id": created["id"], "series": [1.0], "horizon": 3})["median"])
                == 3
            )


def check_user(podman: Podman) -> None:
    """As any user of group 0, without a capability, a writable root, or /tmp."""
    hardened = ("--cap-drop=all", "--security-opt=no-new-privileges", "--read-only-tmpfs=false")
    for user in ("10001:0", "1000650000:0"):
        check_sessions(podman, f"--user={user}", *hardened)
        with podman.volume() as volume, podman.serving(volume, f"--user={user}", *hardened) as container:
            assert container.shell("id -u") == user.partition(":")[0]
            assert set(container.shell("grep -E 'Cap(Eff|Prm|Bnd)' /proc/1/status | cut -f2").split()) == {"0" * 16}
            writable = container.shell("for d in / /models /opt/carry /tmp /usr; do test -w $d && echo $d; done; true")
            assert writable == "", writable
            container.shell("ready")


def check_start_and_stop(podman: Podman) -> dict[str, Any]:
    """Seconds from `podman run` to ready, and from SIGTERM to the end; memory at rest."""
    starts, stops, memory = [], [], {}
    for processes in (1, *[2] * STARTS):
        with podman.volume() as volume, podman.serving(volume, processes=processes) as container:
            memory[processes] = container.mib
            seconds, code = container.stop()
            assert code == 0
            if processes == 2:
                starts.append(container.ready_seconds)
                stops.append(seconds)
    return {
        "ready_seconds": round(statistics.median(starts), 2),
        "stop_seconds": round(statistics.median(stops), 2),
        "resident_mib": {str(processes): mib for processes, mib in memory.items()},
    }


def check_probes(podman: Podman) -> dict[str, Any]:
    """How long the probes wait while callers ask for as many forecasts as they get; what HEALTHCHECK costs."""
    with podman.volume() as volume, podman.serving(volume) as container:
        cost = container.shell("TIMEFORMAT='%U %S'; { time for i in {1..20}; do ready; done; } 2>&1")
        end = time.monotonic() + LOAD_SECONDS
        answered = [0] * CALLERS

        def ask(caller: int) -> None:
            while time.monotonic() < end:
                if caller == 0:
                    container.good("/forecast/batch", {"requests": [{"series": SERIES, "horizon": 24}] * 1000})
                else:
                    container.good("/forecast", {"series": SERIES, "horizon": 24})
                answered[caller] += 1

        threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(CALLERS)]
        for thread in threads:
            thread.start()
        waits: dict[str, list[float]] = {"live": [], "ready": []}
        while time.monotonic() < end:
            for probe, seconds in waits.items():
                began = time.perf_counter()
                container.good(f"/health/{probe}")
                seconds.append(time.perf_counter() - began)
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        assert min(answered) > 0
    return {
        "healthcheck_cpu_ms": round(sum(map(float, cost.split())) / 20 * 1000, 1),
        "probes_under_load_ms": {
            probe: {
                "p50": round(statistics.median(seconds) * 1000, 1),
                "p99": round(statistics.quantiles(seconds, n=100)[98] * 1000, 1),
                "max": round(max(seconds) * 1000, 1),
                "calls": len(seconds),
            }
            for probe, seconds in waits.items()
        },
    }


def main(
    podman: Annotated[str, typer.Option(help="The command, with its global options.")] = "podman",
    image: Annotated[str, typer.Option(help="The image to run.")] = "localhost/carry",
) -> None:
    """Check the image, and write its figures."""
    command = Podman(podman, image)
    figures = weigh(command)
    for check in (check_configuration, check_quotas, check_user):
        check(command)
        sys.stdout.write(f"{check.__name__}: yes\n")
    figures |= {"load_average": round(os.getloadavg()[0], 1)} | check_start_and_stop(command) | check_probes(command)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    typer.run(main)
