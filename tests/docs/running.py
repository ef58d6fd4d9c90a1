"""Runs the blocks of a page as a person would: commands in one shell, Python in one program, beside a running service.

Service and commands use float32, which gives the same answers on every processor; int8 does not (docs/operating.md).
"""

import datetime
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.docs.blocks import ROOT, Block, Command
from tests.e2e.serving import CARRY, Service, post

PATIENCE = 300.0
"""Seconds for all blocks of a page."""
ADDRESS = "localhost:8000"
"""Where the pages find the service."""
_END = "\x1e"
"""Stands after what a command printed."""


@contextmanager
def service() -> Iterator[Service]:
    """A service as the pages describe it, on a free port. Its models are the shipped ones, and those that a page trains
    while it runs."""
    with TemporaryDirectory() as folder:
        models = Path(folder)
        for version in (ROOT / "models").glob("*/*/"):
            (models / version.parent.name).mkdir(exist_ok=True)
            (models / version.parent.name / version.name).symlink_to(version)
        with Service(models, "memory://", precision="float32") as started:
            yield started


def prepare(folder: Path, service: Service) -> None:
    """Make the folder in which the blocks run: examples/ as in the checkout, the service's models/, and the tables of a
    shop.

    sales.csv is as a German spreadsheet writes it, with gaps; sales.parquet and series.parquet have whole series.
    """
    _forget_trained(service)
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "models").symlink_to(service.models)
    (folder / "sales.csv").write_text("\n".join(_spreadsheet()) + "\n")
    days = np.arange("2023-01-01", "2025-01-01", dtype="datetime64[D]")
    week = np.array([40, 42, 45, 50, 70, 90, 20])[np.arange(len(days)) % 7]
    sold = {shop: np.random.default_rng(0).poisson(week * scale) for shop, scale in (("north", 1.0), ("south", 0.4))}
    columns = {"unique_id": np.repeat(list(sold), len(days)), "ds": np.tile(days, len(sold))}
    table = pa.table({**columns, "y": np.concatenate(list(sold.values()))})
    for name in ("sales.parquet", "series.parquet"):
        pq.write_table(table, folder / name)


def _spreadsheet() -> Iterator[str]:
    """The lines of sales.csv."""
    yield "Datum;store;Umsatz;Bemerkung"
    for day in range(731):
        for store in ("01", "02"):
            amount = "-" if day in (7, 100) and (store == "02" or day == 7) else f"1.{234 + day % 7},50"
            if day not in (50, 51, 300, 301):
                date = datetime.date(2023, 1, 1) + datetime.timedelta(days=day)
                yield f"{date:%d.%m.%Y};{store};{amount};{'Feiertag' if day % 50 == 0 else ''}"


def run(blocks: Sequence[Block], service: Service, folder: Path) -> list[tuple[Command, str]]:
    """Run the blocks of a page that are not marked, in the page's order; first the commands, then the Python.

    Returns each with what it printed.

    Raises:
        AssertionError: Python ended with an error.
    """
    run = [block for block in blocks if block.reason is None]
    return [
        *_commands(
            [command for block in run if block.language == "console" for command in block.commands], service, folder
        ),
        *_python(
            [command for block in run if block.language == "python" for command in block.commands], service, folder
        ),
    ]


def _forget_trained(service: Service) -> None:
    """Remove the models that another page has trained."""
    trained = [version for version in service.models.glob("*/*") if not version.is_symlink()]
    for version in trained:
        shutil.rmtree(version)
    if trained:
        post(f"{service.url}/models/reload", {})


def _commands(commands: Sequence[Command], service: Service, folder: Path) -> list[tuple[Command, str]]:
    if not commands:
        return []
    script = "".join(f"{{ {command.code}\n}} 2>&1\nprintf '\\036'\n" for command in commands)
    result = _run(["bash", "-c", script], service, folder)
    assert result.returncode == 0, result.stdout
    return list(zip(commands, _printed(result.stdout, service), strict=True))


def _python(commands: Sequence[Command], service: Service, folder: Path) -> list[tuple[Command, str]]:
    if not commands:
        return []
    program = "".join(f"{command.code}\nprint({_END!r}, end='')\n" for command in commands)
    result = _run([sys.executable, "-W", "error", "-c", program], service, folder)
    assert result.returncode == 0, result.stderr[-4000:]
    return list(zip(commands, _printed(result.stdout, service), strict=True))


def _run(command: Sequence[str], service: Service, folder: Path) -> "subprocess.CompletedProcess[str]":
    address = service.url.removeprefix("http://")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("CARRY_")}
    environment = outside | {
        "PATH": f"{CARRY.parent}{os.pathsep}{os.environ['PATH']}",
        "CARRY_PRECISION": "float32",
        "CARRY_PROCESSES": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",  # standard output and standard error in their order
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    return subprocess.run(
        [*command[:-1], command[-1].replace(ADDRESS, address)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def _printed(output: str, service: Service) -> list[str]:
    return [part.replace(service.url.removeprefix("http://"), ADDRESS) for part in output.split(_END)[:-1]]
