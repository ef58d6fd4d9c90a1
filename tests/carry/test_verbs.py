"""The command line, run in this process: its status and its output."""

import json
import sys
from pathlib import Path
from shutil import copytree

import pytest

from carry import cli
from service.engine.runner import Runner
from service.manifest import Graph
from tests.conftest import SHIPPED


def carry(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["carry", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
    out, err = capsys.readouterr()
    code = exit_info.value.code
    return code if isinstance(code, int) else 0, out, err


@pytest.fixture(autouse=True)
def _environment(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRY_MODELS_DIR", str(models))
    commands = cli.app.registered_commands
    monkeypatch.setattr(cli.app, "registered_commands", commands.copy())
    monkeypatch.setattr(cli.app, "registered_groups", cli.app.registered_groups.copy())


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = carry("--help", capsys=capsys)
    assert status == 0
    for verb in ("serve", "models", "forecast", "generate", "train", "evaluate"):
        assert verb in out


def test_generate_prints_the_prompt_and_its_continuation(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = carry("generate", "Once", "--max-length", "9", "--seed", "4", capsys=capsys)
    assert status == 0
    assert out.startswith("Once")
    assert out == carry("generate", "Once", "--max-length", "9", "--seed", "4", capsys=capsys)[1]


def test_a_verb_opens_only_its_model_and_once(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Path] = []
    open_graph = Runner.__init__

    def record(self: Runner, folder: Path, graph: Graph, threads: int) -> None:
        opened.append(folder / graph.file)
        open_graph(self, folder, graph, threads)

    monkeypatch.setattr(Runner, "__init__", record)
    carry("models", capsys=capsys)
    assert opened == []
    carry("generate", "Once", "--max-length", "3", capsys=capsys)
    assert opened == [models / "text/1" / file for file in ("model.onnx", "decode.onnx")]
    opened.clear()
    series = models.parent / "series.csv"
    series.write_text("y\n1\n2\n3\n")
    assert carry("forecast", str(series), "--horizon", "2", capsys=capsys)[0] == 0
    assert opened == [models / "forecast/1/model.onnx"]


def test_a_version_that_cannot_be_opened_is_skipped(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(models, tmp_path / "models")
    monkeypatch.setenv("CARRY_MODELS_DIR", str(tmp_path / "models"))
    newer = tmp_path / "models/text/2"
    copytree(tmp_path / "models/text/1", newer)
    manifest = json.loads((newer / "manifest.json").read_text()) | {"version": 2}
    (newer / "manifest.json").write_text(json.dumps(manifest))
    expected = carry("generate", "Once", "--seed", "4", "--model", "text@1", capsys=capsys)[1]
    (newer / "model.onnx").write_bytes(b"torn")
    assert carry("generate", "Once", "--seed", "4", capsys=capsys)[1] == expected
    assert "text@2: refused: model.onnx is not the file" in carry("models", capsys=capsys)[1]
    status, _, err = carry("generate", "Once", "--model", "text@2", capsys=capsys)
    assert (status, "text@2 was refused" in err) == (2, True)
    assert "is a forecast model" in carry("generate", "Once", "--model", "forecast", capsys=capsys)[2]
    assert "no such model" in carry("generate", "Once", "--model", "nobody", capsys=capsys)[2]


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "forecast@1" in carry("models", capsys=capsys)[1]
    listed = json.loads(carry("models", "--json", capsys=capsys)[1])
    assert [model["name"] for model in listed["models"]] == ["forecast", "text", "weather"]


def test_a_folder_without_models_is_named_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CARRY_MODELS_DIR", str(tmp_path))
    assert str(tmp_path) in carry("models", capsys=capsys)[2]


@pytest.mark.parametrize("verb", ["serve", "models"])
def test_a_bad_setting_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setenv("CARRY_PORT", "eighty")
    status, _, err = carry(verb, capsys=capsys)
    assert status == 2
    assert err.startswith("carry: CARRY_PORT: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SESSION_STORE": "files"}, "CARRY_SESSION_STORE: must be memory://, sqlite:///FILE, redis://"),
        ({"SESSION_STORE": "memory://", "PROCESSES": "2"}, "CARRY_SESSION_STORE=memory:// needs CARRY_PROCESSES=1"),
        ({"SESSION_STORE": "sqlite:////nowhere/a", "PROCESSES": "2"}, "sessions cannot be kept in /nowhere/a:"),
        ({"SESSION_STORE": "sqlite:///a?b=c", "PROCESSES": "2"}, "may end in ?synchronous=full"),
        ({"SESSION_STORE": "redis://host:port/0", "PROCESSES": "2"}, "does not name a Redis server"),
        ({"API_KEYS": "short"}, "CARRY_API_KEYS: each key needs at least 16 characters"),
        ({"STATE_KEY": "short"}, "CARRY_STATE_KEY: needs at least 16 characters"),
        ({"SESSION_TTL": "5", "MAX_SESSION_TTL": "4"}, "CARRY_SESSION_TTL must be at most CARRY_MAX_SESSION_TTL"),
    ],
)
def test_a_bad_setting_of_sessions_is_reported_in_one_line(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"CARRY_{name}", value)
    # The verb sets these for the whole process: undo it after the test.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("service.logs.configure_logs", lambda _: None)
    status, out, err = carry("serve", capsys=capsys)
    assert (status, out) == (2, "")
    assert err.startswith("carry: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "module", "extra"),
    [
        ("forecast", "pandas", "files"),
        ("forecast", "openpyxl", "files"),
        ("forecast", "matplotlib", "plots"),
        ("evaluate", "pandas", "training"),
        ("evaluate", "torch", "training"),
    ],
)
def test_a_verb_whose_module_is_missing_names_the_extra_that_installs_it(
    verb: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking() -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part")

    monkeypatch.setattr("training.cli.evaluate", lacking)
    monkeypatch.setattr(cli.app, "registered_commands", [])
    cli.app.command("forecast")(lacking)
    status, _, err = carry(verb, capsys=capsys)
    assert status == 2
    assert err.startswith(f"carry: this command needs {module}")
    assert err.endswith(f"pip install 'carry-rnn[{extra}]'\n")


def test_a_module_of_ours_that_is_missing_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate() -> None:
        raise ModuleNotFoundError("No module named 'carry.nothing'", name="carry.nothing")

    monkeypatch.setattr("training.cli.evaluate", evaluate)
    monkeypatch.setattr(sys, "argv", ["carry", "evaluate"])
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_without_a_folder_the_models_that_come_with_carry_are_found(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CARRY_MODELS_DIR")
    monkeypatch.chdir(tmp_path)

    def paths() -> dict[str, str]:
        lines = carry("models", capsys=capsys)[1].splitlines()
        return {line.split()[0]: line.split()[2] for line in lines if not line.startswith(" ")}

    assert paths()["forecast@2"] == str(SHIPPED / "forecast/2")
    copytree(models / "forecast", tmp_path / "models/forecast")
    assert paths()["forecast@1"] == "models/forecast/1"  # the user's own model of the same name hides it
    assert "forecast@2" not in paths()
    assert paths()["text-fast@1"] == str(SHIPPED / "text-fast/1")
    listed = carry("models", "--models-dir", str(models), "--json", capsys=capsys)[1]
    assert [model["name"] for model in json.loads(listed)["models"]] == ["forecast", "text", "weather"]


def test_a_model_that_is_not_found_says_where_it_was_searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = carry("generate", "x", "--models-dir", str(tmp_path), capsys=capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert f"no default text model; name a loaded one: none; searched {tmp_path}" in err
    assert "--models-dir" in err


def test_the_list_of_models_fits_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = carry("models", "--models-dir", str(SHIPPED), capsys=capsys)[1]
    assert "m3_all_smape" in out
    assert [line for line in out.splitlines() if len(line) > 80 and str(SHIPPED) not in line] == []


def test_generate_stops_before_a_stop_text(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("generate", "Once", "--max-length", "60", "--seed", "4")
    whole = carry(*arguments, capsys=capsys)[1].removeprefix("Once").rstrip("\n")
    stop = whole[5:7]
    status, out, _ = carry(*arguments, "--stop", "never there", "--stop", stop, capsys=capsys)
    assert (status, out) == (0, "Once" + whole[: whole.index(stop)] + "\n")
    assert carry(*arguments, "--stop", "", capsys=capsys)[0] == 2
