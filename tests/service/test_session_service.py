"""The service around its session store: what it does when the store fails, and what it refuses."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from service.app import create_app
from service.errors import CarryError
from service.sessions.sessions import Sessions
from service.settings import Settings


def test_nothing_ends_the_sweep_or_breaks_the_shutdown(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[int] = []

    async def failing(sessions: Sessions) -> None:
        swept.append(len(swept))
        raise (CarryError("no"), ValueError("no"), OSError("no"))[len(swept) % 3]

    monkeypatch.setattr(Sessions, "sweep", failing)
    monkeypatch.setattr("service.app.SWEEP_SECONDS", 0)
    with capture_logs() as logs, TestClient(create_app(Settings(models_dir=models))) as client:
        while len(swept) < 10:
            assert client.get("/health/live").status_code == 200
    assert {line["event"] for line in logs} >= {"expired sessions were not swept"}
