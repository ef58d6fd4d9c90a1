"""What can be known of the image and of the compose files without building: their context, settings, versions, ports.

benchmarks/image.py checks the image itself.
"""

import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.settings import Settings, unknown_settings
from service.workers.supervisor import KILL_AFTER
from tests.conftest import SHIPPED
from tests.service.test_proxies import write_certificate

ROOT = SHIPPED.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
STAGES = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]
READY = ROOT / "deploy/image/ready"
NEEDED_BY_BOTH = {"rich"}
"""Packages that `training` names, and that the service has in any case."""
COMPOSE = ("docker-compose.yml", "docker-compose.replicas.yml")


def instructions(name: str, text: str = DOCKERFILE) -> list[str]:
    """The arguments of all instructions of a name."""
    return re.findall(rf"^{name} +(.*)$", text, re.MULTILINE)


def in_context() -> set[str]:
    """The files of this checkout that .dockerignore lets into the build."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name for name in tracked.split("\0") if name and (ROOT / name).exists()}
    return {name for name in names if not _ignored(name, patterns)}


def _ignored(name: str, patterns: list[str]) -> bool:
    """Whether the last pattern that fits a file, or a folder above it, excludes it."""
    paths = [name, *(str(parent) for parent in Path(name).parents if str(parent) != ".")]
    ignored = False
    for pattern in patterns:
        glob = pattern.removeprefix("!")
        fits = [path for path in paths if fnmatch(path, glob) and ("**" in glob or path.count("/") == glob.count("/"))]
        if fits or (glob.startswith("**/") and any(fnmatch(Path(path).name, glob[3:]) for path in paths)):
            ignored = not pattern.startswith("!")
    return ignored


def test_every_file_that_the_image_copies_is_in_the_context_and_nothing_else_is() -> None:
    sources = [word for line in instructions("COPY") if "--from=" not in line for word in line.split()[:-1]]
    context = in_context()
    used: set[str] = set()
    for source in sources:
        files = {name for name in context if name == source or name.startswith(f"{source}/")}
        assert files, source
        used |= files
    assert context == used
    assert "LICENSE" in context
    assert not [name for name in context if name.startswith(("tests/", ".env", ".git"))]


def test_stages_copy_from_stages_that_exist() -> None:
    names = set(re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE))
    copied = set(re.findall(r"--from=(\w+)", DOCKERFILE))
    assert copied <= names
    assert copied == {"dependencies", "code"}
    bases = {line.split()[0] for line in instructions("FROM")} - names
    assert bases == {"python:3.11-slim"}
    assert "docker.io/library/python:3.11-slim" in (ROOT / "deploy/image/base.sh").read_text()
    assert "lib/python3.11/" in STAGES[1]


def test_the_code_comes_after_the_dependencies_and_needs_no_network() -> None:
    dependencies, code, image = STAGES
    assert instructions("COPY", dependencies) == ["constraints.txt ./"]
    assert "--mount=type=secret,id=pip" in dependencies
    assert "secret" not in code
    assert "--no-build-isolation" in code
    copies = instructions("COPY", image)
    assert copies[0] == "--from=dependencies /opt/carry /opt/carry"
    assert copies[-1] == "--from=code /code /"


def test_the_variables_of_the_image_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    [words] = instructions("ENV", STAGES[-1])
    variables = dict(word.split("=", 1) for word in words.split())
    assert unknown_settings(variables) == {}
    for name, value in variables.items():
        if name.startswith("CARRY_"):
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.host, settings.port, settings.log_format) == ("0.0.0.0", 8000, "json")
    assert instructions("EXPOSE", STAGES[-1]) == [str(settings.port)]
    assert str(settings.models_dir) in [line.split()[-1] for line in instructions("COPY", STAGES[-1])]


def test_versions_are_those_of_this_checkout() -> None:
    pins = (ROOT / "constraints-dev.txt").read_text().splitlines()
    [setuptools] = re.findall(r"setuptools==\S+", DOCKERFILE)
    assert setuptools in pins
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="(.*?)"', DOCKERFILE))
    assert labels["version"] == PROJECT["version"]
    assert labels["licenses"] == PROJECT["license"]


def test_the_container_runs_the_service_as_a_number_of_group_zero_and_keeps_no_volume_by_itself() -> None:
    image = STAGES[-1]
    assert instructions("USER", image) == ["10001:0"]
    assert json.loads(instructions("ENTRYPOINT", image)[0]) == ["tini", "--", "carry"]
    assert json.loads(instructions("CMD", image)[0]) == ["serve"]
    assert instructions("VOLUME", image) == []
    assert re.search(r"^HEALTHCHECK .*CMD \[\"ready\"\]$", image, re.MULTILINE)
    assert "COPY deploy/image/ready /usr/local/bin/ready" in image
    assert os.access(READY, os.X_OK)


def test_the_pinned_versions_are_all_that_the_service_needs() -> None:
    pins = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    }
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["otel"], *extras["redis"]]
    reached: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": "", "python_full_version": "3.11.14"}):
            continue
        assert name in pins, f"{requirement} is not in constraints.txt"
        assert requirement.specifier.contains(pins[name]), requirement
        for extra in ["", *requirement.extras]:
            if f"{name}[{extra}]" in reached:
                continue
            reached.add(f"{name}[{extra}]")
            for each in map(Requirement, requires(name) or ()):
                marker = each.marker
                if marker is None or marker.evaluate({"extra": extra, "python_full_version": "3.11.14"}):
                    each.marker = None
                    wanted.append(str(each))
    # The image installs all of them: nothing of training or development.
    others = [*PROJECT["optional-dependencies"]["training"], *PROJECT["optional-dependencies"]["dev"]]
    assert not pins.keys() & {canonicalize_name(Requirement(other).name) for other in others} - NEEDED_BY_BOTH


class Answers(BaseHTTPRequestHandler):
    """Answers with the status of the server."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]  # set by the fixture
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def answers() -> Iterator[HTTPServer]:
    """A server whose status a test sets."""
    server = HTTPServer(("127.0.0.1", 0), Answers)
    server.status, server.asked = 200, []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ready(server: HTTPServer, **settings: str) -> bool:
    """Whether the health check succeeds in a container with these settings."""
    environment = {
        "CARRY_HOST": "0.0.0.0",
        "CARRY_PORT": str(server.server_port),
        "PATH": os.environ["PATH"],
    } | settings
    return subprocess.run(["bash", str(READY)], env=environment, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("tls", [False, True])
def test_the_health_check_succeeds_only_if_the_service_says_that_it_is_ready(
    tls: bool, answers: HTTPServer, tmp_path: Path
) -> None:
    settings = {}
    if tls:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        certificate, key = write_certificate(tmp_path, "ready")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        answers.socket = context.wrap_socket(answers.socket, server_side=True)
        settings = {"CARRY_TLS_CERTIFICATE": str(certificate)}
    assert ready(answers, **settings)
    assert answers.asked == ["/health/ready"]  # type: ignore[attr-defined]
    answers.status = 503  # type: ignore[attr-defined]
    assert not ready(answers, **settings)
    answers.shutdown()
    answers.server_close()
    assert not ready(answers, **settings)


class Loader(yaml.SafeLoader):
    """Reads `!reset`, by which a service does without what it extends."""


Loader.add_constructor("!reset", lambda loader, node: None)


def compose(name: str) -> dict[str, Any]:
    """A compose file, with the defaults of its variables, and with what its services extend."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / name).read_text())
    file = yaml.load(text, Loader)
    for service in file["services"].values():
        if "extends" in service:
            extended = service.pop("extends")
            base = compose(extended["file"])["services"][extended["service"]]
            service["environment"] = base.get("environment", {}) | service.get("environment", {})
            service.update({key: value for key, value in base.items() if key not in service})
    assert isinstance(file, dict)
    return file


def variables_of(name: str) -> set[str]:
    """The variables that a compose file takes from .env or the shell."""
    return set(re.findall(r"\$\{(\w+)", (ROOT / name).read_text()))


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_sets_what_the_service_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    services = [service for service in compose(name)["services"].values() if service["image"] == "carry"]
    assert len(services) == 1
    [service] = services
    values = {key: str(value) for key, value in service["environment"].items() if value is not None}
    assert unknown_settings(dict.fromkeys([*service["environment"], *variables_of(name)], "")) == {}
    assert service["env_file"] == [{"path": ".env", "required": False}]
    monkeypatch.delenv("CARRY_SESSION_STORE")  # that of the tests
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    settings = Settings()
    assert settings.port == 8000
    ending = settings.drain_seconds + settings.shutdown_grace + KILL_AFTER
    assert int(service["stop_grace_period"].removesuffix("s")) > ending
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["healthcheck"]["test"] == ["CMD", "ready"]
    stores = [volume for volume in service["volumes"] or () if volume.endswith(":/data")]
    assert bool(stores) == settings.session_store.startswith("sqlite:")


@pytest.mark.parametrize("name", COMPOSE)
def test_a_port_of_the_machine_is_published_once_and_volumes_are_named(name: str) -> None:
    file = compose(name)
    ports = [
        str(port).rpartition(":")[0] for service in file["services"].values() for port in service.get("ports") or ()
    ]
    assert len(ports) == len(set(ports)) >= 1
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == ["8000"]
    for service in file["services"].values():
        for volume in service.get("volumes") or ():
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in file["volumes"], volume
        assert service["mem_limit"]
        assert service["cap_drop"] == ["ALL"]
        assert service["restart"] == "unless-stopped"


def test_replicas_run_without_those_who_watch_them_but_not_the_other_way_round() -> None:
    services = compose("docker-compose.replicas.yml")["services"]
    watching = {name for name, service in services.items() if service.get("profiles") == ["monitored"]}
    assert watching == {"prometheus", "grafana"}
    for name in services.keys() - watching:
        assert not watching & set(services[name].get("depends_on", ())), name
    assert services["replica"]["deploy"]["replicas"] == 2
    nginx = (ROOT / "deploy/nginx.conf").read_text()
    assert "server replica:8000 " in nginx
    [kept] = re.findall(r"keepalive_timeout (\d+)s;", nginx)
    assert int(kept) < float(services["replica"]["environment"]["CARRY_DRAIN_SECONDS"])


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_itself_accepts_the_file(name: str, tmp_path: Path) -> None:
    commands = (["docker", "compose"], ["docker-compose"])
    works = [
        words
        for words in commands
        if shutil.which(words[0])
        and subprocess.run([*words, "version"], capture_output=True, check=False).returncode == 0
    ]
    if not works:
        pytest.skip("no Docker Compose on the PATH")
    checked = subprocess.run(
        [*works[0], "--file", name, "--profile", "monitored", "config"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    service = yaml.safe_load(checked.stdout)["services"]["carry" if name == COMPOSE[0] else "replica"]
    assert service["environment"]["CARRY_PORT"] == "8000"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    "script", sorted(path for path in (ROOT / "deploy/image").iterdir()), ids=lambda path: path.name
)
def test_the_scripts_are_bash(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/bash\n")
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_unit_of_systemd_gives_the_service_time_to_end_and_a_folder_to_write_to() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their capitals
    unit.read(ROOT / "deploy/carry.service")
    service = unit["Service"]
    defaults = Settings()
    assert int(service["TimeoutStopSec"]) > defaults.drain_seconds + defaults.shutdown_grace + KILL_AFTER
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
    assert service["ExecStart"].endswith("/carry serve")
    assert service["ExecReload"].startswith("kill -HUP ")
