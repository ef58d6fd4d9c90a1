"""Fixtures: a folder of small models, and the application on it."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from starlette.testclient import TestClient

from carry import cli
from service.app import create_app
from service.settings import Settings
from tests.builders import character_model, forecaster, write_model

# A shared machine may pause: a property does not fail for being slow once.
settings.register_profile(
    "carry",
    deadline=None,
    max_examples=25,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("carry")
torch.set_num_threads(1)
# Unless a test sets a store, sessions end with the application.
os.environ["CARRY_SESSION_STORE"] = "memory://"

SHIPPED = Path(__file__).parent.parent / "models"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models `forecast` (one feature), `weather` (two features) and `text`."""
    folder = tmp_path_factory.mktemp("models")
    write_model(forecaster(), folder, "forecast")
    write_model(forecaster(features=2), folder, "weather")
    write_model(character_model(), folder, "text")
    return folder


@pytest.fixture(scope="session")
def client(models: Path) -> Iterator[TestClient]:
    """The application on small models, with small limits."""
    small_limits = Settings(
        models_dir=models,
        max_body_bytes=100_000,
        max_series_length=5000,
        max_horizon=100,
        max_text_length=5000,
        max_generated_length=400,
        max_answer_items=10_000,
        request_timeout=30,
    )
    with TestClient(create_app(small_limits), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="session")
def shipped() -> Iterator[TestClient]:
    """The application on the models that Carry ships."""
    with TestClient(create_app(Settings(models_dir=SHIPPED)), raise_server_exceptions=False) as opened:
        yield opened


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def carry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command of the command line in this process: exit status, standard output, standard error."""
    monkeypatch.setattr(cli.app, "registered_commands", cli.app.registered_commands.copy())
    monkeypatch.setattr(cli.app, "registered_groups", cli.app.registered_groups.copy())

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["carry", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code if isinstance(ended.value.code, int) else 0, out, err

    return run
