"""The service needs no PyTorch: neither as an import, nor in its environment."""

import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / ".venv/bin/python"


def test_the_service_and_the_command_line_import_no_training_library() -> None:
    code = (
        "import sys, service.app, carry.cli, training.cli; "
        "print([m for m in ('torch', 'onnx', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.skipif(not SERVICE.exists(), reason="made by `make run` and `make test`")
def test_the_environment_of_make_run_has_no_pytorch() -> None:
    code = "import importlib.util as u; print([m for m in ('torch', 'onnx', 'pandas') if u.find_spec(m)])"
    result = subprocess.run([SERVICE, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
