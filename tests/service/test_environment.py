"""The service needs neither PyTorch nor data frames, neither as imports, nor in its environment."""

import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / ".venv/bin/python"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("carry.cli, service.serve, service.app, service.workers.worker", "httpx, narwhals, pandas, polars, pyarrow"),
        ("carry.cli, training.cli, service.app", "matplotlib, onnx, pandas, polars, pyarrow, torch"),
    ],
)
def test_the_service_and_the_command_line_import_no_library_of_files_or_training(modules: str, absent: str) -> None:
    code = f"import sys, {modules}; print([name for name in {absent.split(', ')} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.skipif(not SERVICE.exists(), reason="made by `make run` and `make test`")
def test_the_environment_of_make_run_has_no_pytorch() -> None:
    code = "import importlib.util as u; print([m for m in ('torch', 'onnx', 'pandas') if u.find_spec(m)])"
    result = subprocess.run([SERVICE, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
