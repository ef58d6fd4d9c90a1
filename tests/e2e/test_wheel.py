"""The wheel, as a person installs it: in an environment and a folder with nothing of the checkout.

The dependencies are those of `make run` and of the tests: a path file names their folders, in place of an installation.
"""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

from tests.conftest import SHIPPED
from tests.e2e.serving import Service, post

CHECKOUT = SHIPPED.parent
MAX_MIB = 15
SERVICE_ONLY = CHECKOUT / ".venv/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
"""What the service needs, and no extra."""
EVERYTHING = Path(sysconfig.get_path("purelib"))

USE = """
import json, sys
import carry
slow = {"fastapi", "httpx", "narwhals", "numpy", "onnxruntime", "pandas", "torch"}
assert not slow & set(sys.modules), slow & set(sys.modules)
model = carry.load("forecast")
answer = model.forecast([3, 4, 6, 5, 7, 8], horizon=2)
text = carry.load("text").generate("The old house ", max_length=20, seed=7)
assert not {"fastapi", "httpx", "pandas", "torch"} & set(sys.modules)
print(json.dumps({"median": list(answer.median), "text": text.text, "at": carry.__file__}))
"""

SPAWN = """
from carry._service.settings import Settings
from carry.models import ForecastProcesses
from carry._service.forecast.task import ForecastRequest
import numpy as np

if __name__ == "__main__":
    request = ForecastRequest(np.arange(9.0)[:, None], 3, (0.1, 0.5, 0.9)), None
    with ForecastProcesses(Settings(processes=2), "forecast") as processes:
        print([np.shape(quantiles) for quantiles in processes.forecast([request] * 40)] == [(3, 3)] * 40)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    [path] = folder.glob("*.whl")
    return path


class Environment:
    """An environment with the wheel and the packages of a folder; commands run in an empty folder."""

    def __init__(self, root: Path, wheel: Path, packages: Path) -> None:
        venv.create(root / "venv", symlinks=True)
        self.bin = root / "venv/bin"
        self.folder = root / "empty"
        self.folder.mkdir()
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet", "--no-deps"]
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("CARRY_", "PYTHON"))}
        self.variables = outside | {"COLUMNS": "80"}
        subprocess.run(
            [*command, "--no-index", "--disable-pip-version-check", str(wheel)], env=self.variables, check=True
        )
        [site_packages] = (root / "venv/lib").glob("*/site-packages")
        (site_packages / "dependencies.pth").write_text(f"{packages}\n")

    def run(self, *command: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run a command of the environment."""
        result = subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == status, result.stderr
        return result

    def service(self, processes: int) -> Service:
        """`carry serve` in the empty folder."""
        outside = ["env", f"--chdir={self.folder}", "--unset=CARRY_MODELS_DIR", "--unset=PYTHONPATH"]
        command = [str(self.bin / "carry"), "serve", "--port", "0"]
        return Service(SHIPPED, "sqlite:///carry.db", outside, command, processes=processes)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel without extras."""
    assert SERVICE_ONLY.exists(), "made by `make test`"
    return Environment(tmp_path_factory.mktemp("installed"), wheel, SERVICE_ONLY)


@pytest.fixture(scope="module")
def complete(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with all extras."""
    return Environment(tmp_path_factory.mktemp("complete"), wheel, EVERYTHING)


def test_the_wheel_is_one_package_with_the_default_models(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_MIB * 2**20
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        sources = {name: archive.read(name).decode() for name in names if name.endswith(".py")}
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"carry", "carry_rnn"}
    for model in ("forecast/2", "text-fast/1"):
        files = {path.relative_to(SHIPPED).as_posix() for path in (SHIPPED / model).rglob("*") if path.is_file()}
        assert files <= {name.removeprefix("carry/models/") for name in names}
    page = [path for path in (CHECKOUT / "service/page").rglob("*") if path.is_file()]
    assert {f"carry/_{path.relative_to(CHECKOUT).as_posix()}" for path in page} <= set(names)
    assert len(sources) > 100
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source, name)):
            modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {"service", "training"} & {module.partition(".")[0] for module in modules}, name


def test_an_empty_folder_forecasts_and_generates(installed: Environment) -> None:
    printed = json.loads(installed.run("python", "-c", USE).stdout)
    assert len(printed["median"]) == 2
    assert printed["text"]
    assert printed["at"].startswith(str(installed.bin.parent))
    assert "text-fast@1" in installed.run("carry", "models").stdout
    assert installed.run("carry", "--version").stdout.startswith("carry ")
    generated = installed.run("carry", "generate", "The old house ", "--seed", "7", "--max-length", "20").stdout
    assert generated.startswith("The old house ")
    assert len(generated) > 20


def test_no_module_of_the_wheel_has_a_common_name(installed: Environment) -> None:
    find = "import importlib.util as u; print([m for m in ('service', 'training', 'setup') if u.find_spec(m)])"
    assert installed.run("python", "-c", find).stdout == "[]\n"


@pytest.mark.parametrize("processes", [1, 2])
def test_an_empty_folder_serves(installed: Environment, processes: int) -> None:
    with installed.service(processes) as service:
        assert len(post(f"{service.url}/forecast", {"series": [1, 2, 3, 4], "horizon": 2})["median"]) == 2
        assert post(f"{service.url}/generate", {"prompt": "The ", "max_length": 5})["text"]
        with urllib.request.urlopen(f"{service.url}/openapi.json", timeout=30) as page:
            assert b"_service" not in page.read()  # no name of a class in two modules
        with urllib.request.urlopen(service.url, timeout=30) as page:
            assert page.read() == (CHECKOUT / "service/page/index.html").read_bytes()


def test_modules_of_a_user_named_service_and_training_are_the_users(installed: Environment) -> None:
    for name in ("service", "training"):
        (installed.folder / f"{name}.py").write_text("MINE = True\n")
    script = f"import service, training\n{USE}\nassert service.MINE and training.MINE\n"
    (installed.folder / "mine.py").write_text(script)
    try:
        assert json.loads(installed.run("python", "mine.py").stdout)["median"]
        with installed.service(processes=1) as service:
            assert post(f"{service.url}/forecast", {"series": [1, 2, 3]})["median"]
    finally:
        for name in ("service", "training", "mine"):
            (installed.folder / f"{name}.py").unlink()


@pytest.mark.parametrize(
    ("verb", "extra"),
    [
        (["forecast", "y.csv"], "files"),
        (["train", "text", "y.csv", "--name", "x"], "training"),
        (["evaluate", "text-fast", "y.csv"], "training"),
    ],
)
def test_a_verb_names_the_extra_that_it_lacks(installed: Environment, verb: list[str], extra: str) -> None:
    (installed.folder / "y.csv").write_text("y\n1\n2\n3\n")
    error = installed.run("carry", *verb, status=2).stderr
    assert error.count("\n") == 1
    assert f"pip install 'carry-rnn[{extra}]'" in error


def test_a_file_is_forecast_and_processes_are_spawned(complete: Environment) -> None:
    (complete.folder / "y.csv").write_text("y\n1\n2\n3\n4\n")
    rows = json.loads(complete.run("carry", "forecast", "y.csv", "--horizon", "2", "--json").stdout)
    assert [row["unique_id"] for row in rows] == ["y", "y"]
    (complete.folder / "spawn.py").write_text(SPAWN)
    assert complete.run("python", "spawn.py").stdout == "True\n"
    assert "--test-on" in complete.run("carry", "train", "text", "--help").stdout


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    """setup.py, without running it."""
    spec = importlib.util.spec_from_file_location("setup_of_carry", CHECKOUT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_imports_and_names_of_modules_are_rewritten_and_nothing_else(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    source = (
        "import service  # from service import nothing\n"
        "if True:\n"
        "    from training.cli import (\n        train,\n    )\n"
        "from carry.service import service\n"
        "lazy = {'ä': 'service.errors', 'service': \"service.no_module\", 'training': 'of service.errors'}\n"
    )
    expected = (
        "from carry import _service as service  # from service import nothing\n"
        "if True:\n"
        "    from carry._training.cli import (\n        train,\n    )\n"
        "from carry.service import service\n"
        "lazy = {'ä': 'carry._service.errors', 'service': \"service.no_module\", 'training': 'of service.errors'}\n"
    )
    assert setup.rewritten(source, "module.py") == expected


@pytest.mark.parametrize(
    "source", ["import service.app", "import os, service", "import service as s", "name = f'service.errors'"]
)
def test_a_name_that_cannot_be_rewritten_ends_the_build(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(CHECKOUT)
    with pytest.raises(SystemExit, match=r"module\.py:1: write"):
        setup.rewritten(source, "module.py")
