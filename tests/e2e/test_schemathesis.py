"""Schemathesis over the whole OpenAPI document, against the real service. `make fuzz` does the same for longer."""

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.serving import Service

KEY = "a-key-of-this-test"
CONFIG = Path(__file__).with_name("schemathesis.toml")
SEED = 42
EXAMPLES = int(os.environ.get("CARRY_FUZZ_EXAMPLES", "12"))
"""Generated requests for each operation and phase."""
SECONDS = int(os.environ.get("CARRY_FUZZ_SECONDS", "0"))
"""If set, the fuzzing lasts so long."""


def test_every_answer_conforms_to_the_openapi_document(models: Path, tmp_path: Path) -> None:
    """No 500, no undocumented status, no answer off its schema, no valid request refused, no invalid one accepted."""
    arguments = ["--checks", "all", "--seed", str(SEED), "--continue-on-failure", "--request-timeout", "60"]
    arguments += ["--max-examples", str(EXAMPLES), "--workers", "1"]
    arguments += ["--header", f"Authorization: Bearer {KEY}"]
    if SECONDS:
        arguments += ["--max-time", str(SECONDS)]
    store = f"sqlite:///{tmp_path / 'carry.db'}"
    with Service(models, store, api_keys=KEY) as service:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        result = subprocess.run(
            [*command, f"{service.url}/openapi.json", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
    sys.stdout.write(result.stdout[-3000:])
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-2000:]
    assert not service.errors
