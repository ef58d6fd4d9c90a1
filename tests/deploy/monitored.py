"""A service under traffic of every sort, and a real Prometheus that scrapes it by the files of deploy/prometheus."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from service.keys_file import hash_of_secret
from tests.docs.blocks import ROOT
from tests.e2e.serving import PATIENCE, Service

FOLDER = ROOT / "deploy/prometheus"
SECRETS = {name: f"the-secret-of-{name}" for name in ("shop", "trial")}


def program(name: str) -> str:
    """The path of a program of Prometheus. Without it, the test is skipped; where CI is set, it fails."""
    path = shutil.which(name)
    if path is None:
        reason = f"no {name} on the PATH: `make prometheus` installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@dataclass(frozen=True)
class Prometheus:
    """Prometheus' API."""

    url: str

    def get(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer."""
        answer = httpx2.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=PATIENCE)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now: each has its labels as `metric`, and its `value` (time, text)."""
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result


@contextmanager
def prometheus(target: str, folder: Path, seconds: int = 1) -> Iterator[Prometheus]:
    """Prometheus with the configuration and the rules of deploy/prometheus, but with one target, scraped every so many
    seconds."""
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": f"{seconds}s", "evaluation_interval": f"{seconds}s"}
    configuration["rule_files"] = [str(FOLDER / "rules.yml")]
    [job] = configuration["scrape_configs"]
    del job["dns_sd_configs"]
    configuration["scrape_configs"] = [
        job | {"scrape_timeout": f"{seconds}s", "static_configs": [{"targets": [target]}]}
    ]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([program("prometheus"), *options], stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                with suppress(httpx2.HTTPError):
                    if httpx2.get(f"http://{address}/-/ready").status_code == 200:
                        break
                gone = process.poll() is not None or time.monotonic() > deadline
                assert not gone, (folder / "prometheus.log").read_text()
                time.sleep(0.05)
            yield Prometheus(f"http://{address}")
        finally:
            process.kill()
            process.wait()


@contextmanager
def service(models: Path | None, processes: int = 2, **settings: Any) -> Iterator[tuple[Service, int]]:
    """The service with two API keys, one of them with few steps a minute, and the port of its metrics."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = [
            {"name": "shop", "sha256": hash_of_secret(SECRETS["shop"]), "scopes": ["use", "admin"]},
            {"name": "trial", "sha256": hash_of_secret(SECRETS["trial"]), "limits": {"steps_per_minute": 2000}},
        ]
        (folder / "keys.json").write_text(json.dumps({"keys": keys}))
        (folder / "keys.json").chmod(0o600)
        with Service(
            models or ROOT / "models",
            f"sqlite:///{folder}/sessions.db",
            processes=processes,
            api_keys_file=folder / "keys.json",
            metrics_port=0,
            **settings,
        ) as running:
            [listening] = [line for line in running.all_lines if line["event"] == "listening"]
            yield running, listening["metrics_port"]


class Traffic:
    """Calls of every sort, again and again on a thread, until the end of the `with` block."""

    def __init__(self, url: str, pause: float = 0.0) -> None:
        self._url = url
        self._pause = pause
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(PATIENCE)
        self.check()

    def check(self) -> None:
        """Raise what ended the traffic, if it has ended."""
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            turn = 0
            while not self._ends.is_set():
                # A new connection, so that each process gets some.
                with httpx2.Client(base_url=self._url, timeout=PATIENCE) as client:
                    self.round(client, turn)
                turn += 1
                self._ends.wait(self._pause)
        except BaseException as error:
            self.failure = error

    def round(self, client: httpx2.Client, turn: int) -> None:
        """Each sort of call."""
        shop, trial = ({"Authorization": f"Bearer {SECRETS[name]}"} for name in ("shop", "trial"))

        def call(method: str, path: str, *expected: int, body: Any = None, **headers: str) -> httpx2.Response:
            answer = client.request(method, path, json=body, headers=shop | headers)
            assert answer.status_code in (expected or (200,)), f"{method} {path}: {answer.text}"
            return answer

        series = [float(10 + (i + turn) % 7) for i in range(60)]
        call("POST", "/forecast", body={"series": series, "horizon": 5})
        call("POST", "/forecast/batch", body={"requests": [{"series": series, "horizon": 3}] * 8})
        call("POST", "/anomalies", body={"series": series})
        call("POST", "/predict", body={"text": "ab"})
        call("POST", "/generate", body={"prompt": "ab", "max_length": 30})
        call("POST", "/v1/completions", body={"model": "text", "prompt": "ab", "max_tokens": 20, "stream": True})
        call("POST", "/generate", body={"prompt": "ab", "max_length": 20, "stream": True})
        call("GET", "/models")
        # Refused, failed and broken off.
        call("POST", "/forecast", 422, body={"series": "no list"})
        call("GET", "/nowhere", 404)
        call("GET", "/models", 401, Authorization="Bearer not-one-of-the-keys")
        call("POST", "/models/reload", 403, **trial)
        call("POST", "/forecast", 200, 429, body={"series": series * 10, "horizon": 5}, **trial)
        call("POST", "/generate", 504, body={"prompt": "ab", "max_length": 9000}, **{"X-Request-Timeout": "0.02"})
        long = {"prompt": "ab", "max_length": 9000, "stream": True}
        call("POST", "/generate", 200, 504, body=long, **{"X-Request-Timeout": "0.05"})
        with client.stream("POST", "/generate", json=long, headers=shop) as answer:
            next(answer.iter_bytes())  # and leave
        # A session.
        created = call("POST", "/sessions", 201, body={"series": series[:20]}).json()
        id = created["session"]["id"] if "session" in created else created["id"]
        for value in series[20:40]:
            call("POST", "/forecast", body={"session_id": id, "series": [value], "horizon": 1})
        call("GET", f"/sessions/{id}")
        call("DELETE", f"/sessions/{id}", 204, 200)
        if turn % 10 == 0:
            call("POST", "/models/reload")
