"""A release has one version in all places, and the changelog tells of it."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

from service import DISTRIBUTION
from service.app import create_app
from service.settings import Settings
from tests.conftest import SHIPPED
from tests.e2e.serving import CARRY

ROOT = SHIPPED.parent
VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
RELEASES = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
"""The releases of the changelog, newest first: version, and what stands after it."""


def test_the_changelog_begins_with_this_version_and_its_date() -> None:
    released = [(name, rest) for name, rest in RELEASES if name != "Unreleased"]
    assert released[0][0] == VERSION
    assert [rest for _, rest in released if not re.fullmatch(r" - \d{4}-\d\d-\d\d", rest)] == []


def test_releases_stand_newest_first_each_once() -> None:
    numbers = [tuple(map(int, name.split("."))) for name, _ in RELEASES if name != "Unreleased"]
    assert numbers == sorted(set(numbers), reverse=True)


def test_the_papers_name_no_wheel_of_another_version() -> None:
    deployed = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    papers = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *deployed]
    named = [wheel for paper in papers for wheel in re.findall(r"carry_rnn-(\d[\w.]*)-py3", paper.read_text())]
    assert set(named) <= {VERSION}


def test_no_module_has_a_version_of_its_own() -> None:
    sources = [path for folder in ("carry", "service", "training") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    assert [path for path in sources if re.search(r"^__version__", path.read_text(), re.MULTILINE)] == []


def test_the_command_line_and_the_service_say_the_version_of_the_distribution(models: Path) -> None:
    said = subprocess.run([CARRY, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"carry {version(DISTRIBUTION)}\n"
    assert create_app(Settings(models_dir=models)).version == version(DISTRIBUTION)
