"""From a data file through `carry train` to an answer over HTTP, with the real commands."""

import json
import math
import os
import random
import re
import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest

from service.tokenizer import WORD_PATTERN
from tests.conftest import SHIPPED
from tests.e2e.serving import CARRY, Service, post

SERVICE_PYTHON = Path(os.environ.get("CARRY_SERVICE_PYTHON", ".venv/bin/python"))


def carry(*arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment
    command = [str(CARRY), *arguments]
    return subprocess.run(command, check=check, env=settings, capture_output=True, text=True, timeout=300)


def promoted(day: int) -> bool:
    """Whether the day has a promotion: about one day of three, without a pattern."""
    return random.Random(day).random() < 0.3


def sales(day: int, promotion: bool) -> float:
    """A weekly season, slow growth, and the effect of a promotion."""
    return 50 + 10 * math.sin(2 * math.pi * day / 7) + 0.01 * day + 12 * promotion


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder after training a forecaster, on a season with a gap, a second column and a third one known
    ahead, and a text model."""
    folder = tmp_path_factory.mktemp("user")
    rows = ["ds,sales,price,promotion"]
    for day in range(336):
        sold = "" if day == 50 else f"{sales(day, promoted(day)):.6}"
        offer = "double points" if promoted(day) else "none"
        rows.append(f"{date(2023, 1, 1) + timedelta(day)},{sold},{3 + day % 7},{offer}")
    (folder / "sales.csv").write_text("\n".join(rows) + "\n")
    (folder / "letters.txt").write_text("she sells sea shells by the sea shore.\n" * 200)
    runs = ["--models-dir", str(folder / "models"), "--run-dir"]
    series = ["train", "forecast", str(folder / "sales.csv"), "--target", "sales", "--features", "price,promotion"]
    series += ["--known-ahead", "promotion", "--categorical", "promotion"]
    shape = ["--horizon", "7", "--context", "28", "--hidden", "24", "--quantiles", "0.1,0.5,0.9"]
    effort = ["--epochs", "400", "--patience", "400", "--rows", "4", "--windows", "4"]
    effort += ["--learning-rate", "0.005", "--seed", "1"]
    carry(*series, "--name", "sales", *shape, *effort, *runs, str(folder / "run1"))
    text = ["train", "text", str(folder / "letters.txt"), "--name", "letters", "--cell", "gru", "--no-baselines"]
    small = [
        "--hidden",
        "48",
        "--embedding",
        "16",
        "--context",
        "32",
        "--rows",
        "8",
        "--epochs",
        "12",
        "--dropout",
        "0",
    ]
    carry(*text, *small, "--learning-rate", "0.01", *runs, str(folder / "run2"))
    return folder / "models"


def test_trained_models_are_served(trained: Path) -> None:
    with Service(trained, "memory://") as service:
        days, coming = range(84), range(84, 94)
        seen = {
            "sales": [sales(day, promoted(day)) for day in days],
            "price": [3 + day % 7 for day in days],
            "promotion": ["double points" if promoted(day) else "none" for day in days],
        }
        plan = {"promotion": ["double points" if day % 2 else "none" for day in coming]}
        body = {"series": seen, "future": plan, "horizon": 10, "season_length": 7}
        median = post(f"{service.url}/forecast", body)["median"]
        expected = [sales(day, day % 2 == 1) for day in coming]
        errors = [abs(a - b) for a, b in zip(median, expected, strict=True)]
        assert max(errors[:7]) < 4
        assert max(errors[7:]) < 8  # beyond the model's horizon of 7, from forecasts
        text = post(f"{service.url}/generate", {"prompt": "she sells ", "max_length": 28, "temperature": 0})["text"]
        assert text == "sea shells by the sea shore."
        scored = post(f"{service.url}/predict", {"text": "she sells sea shells", "per_position": True})
        assert scored["bits_per_character"] < 0.8


def test_a_model_folder_describes_the_model_and_its_metrics(trained: Path) -> None:
    folder = trained / "sales/1"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["features"] == ["sales", "price", "promotion"]
    assert manifest["known_ahead"] == ["promotion"]
    assert manifest["categories"] == {"promotion": ["double points", "none"]}
    assert {"mase", "smape", "scaled_quantile_loss", "coverage_80"} <= set(manifest["metrics"])
    card = (folder / "CARD.md").read_text()
    for method in ("Carry", "SeasonalNaive", "AutoETS", "AutoTheta"):
        assert f"| {method} |" in card
    assert manifest["provenance"]["command"].startswith("carry train forecast sales.csv --target sales")
    assert str(trained.parent) not in manifest["provenance"]["command"].replace(str(trained), "").split("--run-dir")[0]
    for name in ("loss", "forecasts", "test"):
        assert (folder / f"pictures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len((folder / f"pictures/{name}.csv").read_text().splitlines()) > 2
    assert (trained / "letters/1/pictures/next_character.png").exists()
    assert [path.name for path in (trained / "sales").iterdir()] == ["1"]


def test_training_continues_from_a_model_folder_on_another_text(tmp_path: Path) -> None:
    (tmp_path / "first.txt").write_text("she sells sea shells by the sea shore.\n" * 150)
    (tmp_path / "second.txt").write_text("the sea shells that she sells are by the shore.\n" * 30)
    places = ["--models-dir", str(tmp_path / "models"), "--no-baselines", "--dropout", "0"]
    shape = ["--layers", "2", "--residual", "--ngrams", "3", "--hidden", "32", "--context", "24", "--rows", "4"]
    first = ["train", "text", str(tmp_path / "first.txt"), "--name", "first", "--run-dir", str(tmp_path / "run1")]
    carry(*first, *shape, "--epochs", "15", "--learning-rate", "0.02", *places)
    second = ["train", "text", str(tmp_path / "second.txt"), "--name", "second", "--run-dir", str(tmp_path / "run2")]
    again = ["--start-from", str(tmp_path / "models/first/1"), "--epochs", "1", "--learning-rate", "0.0001"]
    carry(*second, *again, "--context", "24", "--rows", "4", *places)
    before, after = (
        json.loads((tmp_path / f"models/{name}/1/manifest.json").read_text()) for name in ("first", "second")
    )
    assert after["vocabulary"] == before["vocabulary"]
    assert after["provenance"]["parameters"] == before["provenance"]["parameters"]
    scores = [
        json.loads(carry("evaluate", str(tmp_path / f"models/{name}/1"), str(tmp_path / "second.txt"), "--json").stdout)
        for name in ("first", "second")
    ]
    before_training, after_training = (
        rows[name]["nats_per_character"] for name, rows in zip(("first", "second"), scores, strict=True)
    )
    assert 0.8 * before_training < after_training < before_training  # one short epoch more


def test_a_word_model_is_trained_on_other_files_than_it_is_measured_on(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("she sells sea shells by the sea shore, and nothing else.\n" * 150)
    (tmp_path / "others.jsonl").write_text(
        "\n".join(json.dumps({"title": name, "text": f"{name} sells sea shells by the shore.\n" * 10}) for name in "ab")
    )
    held_out = ["--valid-on", str(tmp_path / "others.jsonl"), "--test-on", str(tmp_path / "others.jsonl")]
    small = ["--unit", "word", "--layers", "2", "--residual", "--hidden", "32", "--embedding", "16", "--dropout", "0"]
    effort = ["--average", "0.9", "--context", "16", "--rows", "8", "--epochs", "15", "--learning-rate", "0.02"]
    places = ["--models-dir", str(tmp_path / "models"), "--run-dir", str(tmp_path / "run")]
    carry("train", "text", str(tmp_path / "letters.txt"), "--name", "words", *held_out, *small, *effort, *places)
    folder = tmp_path / "models/words/1"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["unit"], set(manifest["vocabulary"]) > {" sells", ",", "\n"}) == ("word", True)
    assert [source["file"] for source in manifest["provenance"]["data"]] == ["letters.txt", "others.jsonl"]
    card = (folder / "CARD.md").read_text()
    assert "of `others.jsonl` that were not trained on; but the weights were chosen on them" in card
    assert "2-gram, Witten-Bell" in card
    for temperature in (0.5, 0.8, 1.0):
        assert f"Temperature {temperature}:" in card
    rows = json.loads(carry("evaluate", str(folder), str(tmp_path / "others.jsonl"), "--json").stdout)
    total, [first, second] = rows["words"], [rows["words, 1. a"], rows["words, 2. b"]]
    assert total["nats_per_character"] == pytest.approx(manifest["metrics"]["nats_per_character"], rel=1e-4)
    assert total["unknown_words"] == first["unknown_words"] + second["unknown_words"] == 20
    words = 2 * (9 * 10 - 1)
    nats = total["nats_per_character"] * total["characters"]
    assert total["perplexity_per_word"] == pytest.approx(math.exp(nats / words))
    generated = ["generate", "she sells", "--temperature", "0", "--max-length", "5"]
    written = carry(*generated, CARRY_MODELS_DIR=str(tmp_path / "models")).stdout
    pieces = re.findall(WORD_PATTERN, written.removeprefix("she sells").removesuffix("\n"))
    assert len(pieces) == 5
    assert set(pieces) < set(manifest["vocabulary"])


def test_evaluate_measures_beside_baselines(trained: Path, tmp_path: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text("she sells shells\n" * 5)
    rows = json.loads(carry("evaluate", str(trained / "letters/1"), str(text), "--json").stdout)
    assert 0 < rows["letters"]["bits_per_character"] < 4
    data = str(trained.parent / "sales.csv")
    measure = ["evaluate", str(trained / "sales/1"), data, "--json", "--baselines", "none", "--windows", "4"]
    scores = {row["method"]: row["scores"] for row in json.loads(carry(*measure).stdout)}
    assert scores["sales"]["mase"] < scores["Naive"]["mase"]
    with Service(trained, "memory://") as service:
        through = {row["method"]: row["scores"] for row in json.loads(carry(*measure, "--url", service.url).stdout)}
    for name in ("smape", "mase", "scaled_quantile_loss"):
        assert through["sales, served"][name] in [pytest.approx(scores[row][name]) for row in ("sales", "sales, int8")]


def test_models_generate_and_forecast_need_no_server(trained: Path, tmp_path: Path) -> None:
    listed = carry("models", CARRY_MODELS_DIR=str(trained)).stdout
    assert "sales@1" in listed
    assert "letters@1" in listed
    generated = carry("generate", "by the ", "--temperature", "0", "--max-length", "9", CARRY_MODELS_DIR=str(trained))
    assert generated.stdout == "by the sea shore\n"
    source = str(trained.parent / "sales.csv")
    printed = carry("forecast", source, "--horizon", "3", "--json", CARRY_MODELS_DIR=str(trained)).stdout
    assert len(json.loads(printed)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "forecast", "nothing.csv", "--name", "x"], "no such file"),
        (["train", "forecast", "pyproject.toml", "--name", "X!"], "lower-case letters"),
        (["train", "text", "README.md", "--name", "x", "--cell", "transformer"], "elman, jordan, lstm, gru"),
        (["train", "forecast", "a.csv", "--name", "x", "--quantiles", "0.1"], "0.5 among them"),
        (["forecast", "nothing.csv"], "no such file"),
        (["generate", "x", "--model", "nobody"], "no such model"),
        (["evaluate", "nowhere", "README.md"], "no model folder"),
        (["evaluate", str(SHIPPED / "text/1"), "README.md", "--limit", "3"], "not of a text model"),
        (["train", "text", "README.md", "--name", "x", "--valid-on", "README.md"], "cannot be held out"),
        (["train", "text", "README.md", "--name", "x", "--unit", "byte"], "character, word"),
        (["train", "text", "README.md", "--name", "x", "--start-from", "docs"], "docs/manifest.json: no such file"),
        (
            ["train", "text", "README.md", "--name", "x", "--start-from", "docs", "--hidden", "9"],
            "is that of the model",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line(arguments: list[str], message: str) -> None:
    result = carry(*arguments, check=False, CARRY_MODELS_DIR=str(SHIPPED))
    assert result.returncode == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


def test_a_bad_setting_is_reported_in_one_line() -> None:
    result = carry("serve", check=False, CARRY_PORT="eighty")
    assert result.returncode == 2
    assert result.stderr.startswith("carry: CARRY_PORT: ")


def test_the_service_runs_and_says_what_is_missing_without_torch() -> None:
    """In the environment of `make run`."""
    assert SERVICE_PYTHON.exists(), "made by `make test`"
    for module in ("torch", "onnx", "pandas"):
        missing = subprocess.run([SERVICE_PYTHON, "-c", f"import {module}"], capture_output=True, text=True)
        assert "ModuleNotFoundError" in missing.stderr
    command = str(SERVICE_PYTHON.parent / "carry")
    assert "forecast" in subprocess.run([command, "train", "--help"], check=True, capture_output=True, text=True).stdout
    arguments = [command, "train", "text", "README.md", "--name", "x"]
    train = subprocess.run(arguments, capture_output=True, text=True)
    assert train.returncode == 2
    assert train.stderr.splitlines() == [train.stderr.strip()]
    assert "pip install 'carry-rnn[training]'" in train.stderr
    with Service(SHIPPED, "memory://", command=[command, "serve"]) as service:
        assert len(post(f"{service.url}/forecast", {"series": [1, 2, 3, 4], "horizon": 2})["median"]) == 2
