"""What the tests of the examples share: the service, the folders, and the commands of a README."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.answers import compare
from tests.docs.blocks import ROOT, blocks
from tests.docs.running import run, service
from tests.e2e.serving import Service

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="package")
def served() -> Iterator[Service]:
    """The service with the shipped models."""
    with service() as running:
        yield running


def check_readme(example: str, service: Service, folder: Path) -> None:
    """Run the commands of an example's README in a copy of its folder: each prints what the README shows."""
    shutil.copytree(EXAMPLES / example, folder / example, ignore=shutil.ignore_patterns("__pycache__"))
    results = run([*blocks((EXAMPLES / example / "README.md").read_text())], service, folder / example)
    assert results
    for command, printed in results:
        compare(printed, command.answer)


def program(path: str) -> ModuleType:
    """A program of an example as a module, by its path in examples/. It is run from no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
