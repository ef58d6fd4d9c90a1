"""The command line, in this process; the forecaster that Carry ships."""

import sys
from collections.abc import Callable

import pytest

from service import cli
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from service.settings import Settings
from tests.conftest import SHIPPED

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def carry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command: exit status, standard output, standard error."""
    monkeypatch.setattr(cli.app, "registered_commands", cli.app.registered_commands.copy())
    monkeypatch.setattr(cli.app, "registered_groups", cli.app.registered_groups.copy())

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["carry", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code if isinstance(ended.value.code, int) else 0, out, err

    return run


@pytest.fixture
def manifest() -> ForecastManifest:
    """Of the forecaster."""
    return read_manifest(SHIPPED / "forecast/2", ForecastManifest)


@pytest.fixture
def settings() -> Settings:
    """With the models that Carry ships, in one process."""
    return Settings(models_dir=SHIPPED, processes=1)
