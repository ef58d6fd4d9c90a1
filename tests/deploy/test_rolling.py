"""Replicas restart in turn while clients call that never retry: `make rolling`, for a few seconds on small models."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.rolling import measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can pause a listening socket")


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        ("nginx", {"processes": 1, "drain_seconds": 0}),  # nginx looks at no probe: it needs no drain
        ("direct", {"processes": 1, "drain_seconds": 1}),
        ("processes", {"processes": 2, "drain_seconds": 0}),
    ],
)
def test_no_request_fails_while_replicas_restart(models: Path, way: str, settings: dict[str, object]) -> None:
    if way == "nginx" and shutil.which("nginx") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no nginx on the PATH: install it")
    result = measure(way, requests=300, clients=8, restarts=2, models_dir=models, **settings)
    assert result["failures"] == {}
    assert result["failed"] == 0
    assert set(result["by_kind"]) == {"forecast", "generate", "stream", "session"}
    assert result["sessions"]["checked"] > 0
    assert result["restarts"] >= 2
    assert set(result["exit_statuses"]) == {"0"}
    assert result["errors_in_logs"] == []
