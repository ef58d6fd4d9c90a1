"""Every command in the tables of docs/shapes.md works: training at a tiny size, and the calls as they stand."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tests.docs import running
from tests.docs.blocks import ROOT, Block, Command, blocks
from tests.e2e.serving import Service, post
from training.cli import train

PAGE = (ROOT / "docs/shapes.md").read_text()
ROWS = re.findall(r"^\|(?!---).*", PAGE, re.MULTILINE)
COMMANDS = sorted({command for row in ROWS for command in re.findall(r"`((?:curl|carry) [^`]+)`", row)})
CALLS, TRAININGS = ([each for each in COMMANDS if each.startswith(name)] for name in ("curl ", "carry train "))
TINY = ["--hidden", "8", "--epochs", "1", "--no-baselines"]
"""Options after those of the page: the last one counts."""
TINY_OF_KIND = {"forecast": ["--scaling", "standard"], "text": ["--embedding", "8"], "classify": ["--embedding", "8"]}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The service that the page calls."""
    with running.service() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, service: Service) -> Path:
    """The folder with the files that the page makes, and models/ of the service."""
    folder = tmp_path_factory.mktemp("shapes")
    running.prepare(folder, service)
    running.run(list(blocks(PAGE)), service, folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path, service: Service) -> None:
    """The models of the tables, trained and served."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in TRAININGS:
            arguments = shlex.split(command)[2:]
            typer.main.get_command(train)([*arguments, *TINY, *TINY_OF_KIND[arguments[0]]], standalone_mode=False)
    post(f"{service.url}/models/reload", {})


def test_every_row_of_the_tables_has_a_command() -> None:
    heads = [row for row in ROWS if row.endswith("| command |") or "| train one |" in row]
    assert [row for row in ROWS if row not in heads and not any(f"`{command}`" in row for command in COMMANDS)] == []
    assert sorted(CALLS + TRAININGS) == COMMANDS


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("command", TRAININGS)
def test_every_training_of_the_tables_writes_a_model(command: str, service: Service) -> None:
    arguments = shlex.split(command)
    name = arguments[arguments.index("--name") + 1]
    assert (service.models / name / "1" / "manifest.json").exists()


@pytest.mark.usefixtures("trained")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_call_of_the_tables_is_answered(service: Service, folder: Path) -> None:
    calls = Block("console", "", None, [Command(call, "", (0, 0)) for call in CALLS])
    for command, printed in running.run([calls], service, folder):
        assert "errors" not in json.loads(printed), f"{command.code}\n{printed}"
