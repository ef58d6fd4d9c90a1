"""Settings from the environment: mistyped, injected by Kubernetes, limited by control groups."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.machine import BASE_MEMORY, PROCESS_MEMORY, available_cores, available_memory, processes_to_run
from service.serve import page_address
from service.settings import Settings, port_of_kubernetes, unknown_settings


@pytest.mark.parametrize("keys", ["", " ", ",", "0123456789abcdefé", "0123456789 abcdef"])
def test_keys_that_no_header_can_carry_are_refused(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("CARRY_API_KEYS", keys)
    with pytest.raises(ValidationError, match=r"holds no key|printable ASCII"):
        Settings()


def test_a_kubernetes_service_named_carry_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    injected = {
        "CARRY_PORT": "tcp://10.96.0.12:80",
        "CARRY_SERVICE_HOST": "10.96.0.12",
        "CARRY_SERVICE_PORT": "80",
        "CARRY_SERVICE_PORT_HTTP": "80",
        "CARRY_PORT_80_TCP": "tcp://10.96.0.12:80",
        "CARRY_PORT_80_TCP_ADDR": "10.96.0.12",
        "CARRY_VALKEY_PORT": "tcp://10.96.0.13:6379",
        "CARRY_VALKEY_SERVICE_HOST": "10.96.0.13",
    }
    for name, value in injected.items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 8000
    assert port_of_kubernetes(os.environ) == "tcp://10.96.0.12:80"
    assert not unknown_settings(injected)


def test_a_mistyped_setting_is_named_with_the_most_similar_one() -> None:
    environment = {"CARRY_PROCESES": "1", "CARRY_MAX_HORIZN": "3", "CARRY_ZZZZ": "1", "CARRY_PORT": "1", "PATH": ""}
    assert unknown_settings(environment) == {
        "CARRY_PROCESES": "CARRY_PROCESSES",
        "CARRY_MAX_HORIZN": "CARRY_MAX_HORIZON",
        "CARRY_ZZZZ": None,
    }


def test_the_old_name_of_a_setting_is_an_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRY_SESSION_REMEMBERED", "5")
    assert Settings().session_tombstone_ttl == 5
    assert not unknown_settings(os.environ)
    monkeypatch.setenv("CARRY_SESSION_TOMBSTONE_TTL", "-1")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert refused.value.errors()[0]["loc"] == ("session_tombstone_ttl",)
    monkeypatch.setenv("CARRY_SESSION_TOMBSTONE_TTL", "6")
    assert Settings().session_tombstone_ttl == 6


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


UNIT = "sys/fs/cgroup/system.slice/carry.service"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"proc/self/cgroup": "0::/system.slice/carry.service\n", f"{UNIT}/cpu.max": "300000 100000\n"}, 3),
        (
            {
                "proc/self/cgroup": "0::/system.slice/carry.service\n",
                f"{UNIT}/cpu.max": "max 100000\n",
                "sys/fs/cgroup/system.slice/cpu.max": "200000 100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
    ],
)
def test_cores_are_those_of_the_group_and_all_above_it(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert available_cores(write(tmp_path, files)) == cores


def test_memory_limits_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        root = write(tmp_path / name, {f"sys/fs/cgroup/{name}": f"{700 * 2**20}\n"})
        assert available_memory(root) == 700 * 2**20
        assert processes_to_run(root) == (700 * 2**20 - BASE_MEMORY) // PROCESS_MEMORY == 2
    assert processes_to_run(write(tmp_path, {"sys/fs/cgroup/memory.max": "1000000\n"})) == 1


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/"),
        ("0.0.0.0", "http://localhost:8000/"),
        ("::", "http://localhost:8000/"),
        ("::1", "http://[::1]:8000/"),
        ("carry.example", "http://carry.example:8000/"),
    ],
)
def test_the_log_names_an_address_of_the_page_that_a_browser_takes(host: str, address: str) -> None:
    assert page_address(host, 8000) == address
