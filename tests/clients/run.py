"""Makes clients from the OpenAPI document with openapi-python-client and openapi-typescript, and calls the service with
them; and runs a task of lm-evaluation-harness. `make clients`; it needs Node.js, and package registries."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx2

from tests.e2e.serving import Service

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "models"
ENVIRONMENT = HERE.parents[1] / ".venv-clients"
GENERATOR = "openapi-python-client==0.29.1"
HARNESS = "lm-eval==0.4.13"
TYPESCRIPT = ("openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3", "@types/node@20", "tsx@4.23.15")
KEY = "a-key-of-this-test"


def main() -> None:
    """Make them, use them, and say so."""
    with tempfile.TemporaryDirectory() as name, Service(MODELS, "memory://", api_keys=KEY) as service:
        folder = Path(name)
        document = folder / "openapi.json"
        document.write_text(httpx2.get(f"{service.url}/openapi.json").text)
        _python(folder, document, service.url)
        _typescript(folder, document, service.url)
        _harness(folder, service.url)


def _python(folder: Path, document: Path, url: str) -> None:
    python, made = str(ENVIRONMENT / "bin" / "python"), str(folder / "made")
    if not Path(python).exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", GENERATOR], check=True)
    # It warns that it cannot tidy up without ruff on the PATH, which changes nothing that is used.
    command = [python, "-m", "openapi_python_client", "generate", "--path", str(document), "--output-path", made]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([python, str(HERE / "use_python.py"), url, KEY], check=True, env={"PYTHONPATH": made})
    print("openapi-python-client: made and used")  # noqa: T201 - the result


def _harness(folder: Path, url: str) -> None:
    """A task with several choices, from its file to its score."""
    python = str(ENVIRONMENT / "bin" / "python")
    packages = (HARNESS, "aiohttp", "requests", "tenacity")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
    (folder / "carry_choices.yaml").write_text((HERE / "carry_choices.yaml").read_text())
    (folder / "choices.jsonl").write_text((HERE / "choices.jsonl").read_text())
    model = f"model=text,base_url={url}/v1/completions,auth_token={KEY},tokenizer_backend=auto"
    command = [str(ENVIRONMENT / "bin" / "lm_eval"), "--model", "local-completions", "--model_args", model]
    command += ["--tasks", "carry_choices", "--include_path", ".", "--output_path", "scores"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "OPENAI_API_KEY": KEY}
    subprocess.run(command, check=True, cwd=folder, env=os.environ | offline, capture_output=True)
    [scores] = (folder / "scores").rglob("results_*.json")
    accuracy = json.loads(scores.read_text())["results"]["carry_choices"]["acc,none"]
    assert accuracy == 1.0, accuracy
    print("lm-evaluation-harness: a task was scored")  # noqa: T201 - the result


def _typescript(folder: Path, document: Path, url: str) -> None:
    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    run("npm", "install", "--silent", "--no-audit", "--no-fund", *TYPESCRIPT)
    run("npx", "openapi-typescript", str(document), "--default-non-nullable=false", "--output", "carry.d.ts")
    (folder / "use.ts").write_text((HERE / "use_typescript.ts").read_text())
    run("npx", "tsc", "--noEmit", "--strict", "--esModuleInterop", "--module", "nodenext", "--skipLibCheck", "use.ts")
    run("npx", "tsx", "use.ts", url, KEY)
    print("openapi-typescript: made, checked and used")  # noqa: T201 - the result


if __name__ == "__main__":
    main()
