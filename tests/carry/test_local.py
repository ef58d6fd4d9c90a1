"""Models in this process: how they are found, opened and closed; and what they import."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

import carry
from service.errors import ModelNotFoundError, ModelRefusedError, NotReadyError
from tests.builders import character_model, write_model
from tests.conftest import SHIPPED


def imported(code: str) -> set[str]:
    """The modules of a fresh process after some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return {*subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()}


def test_importing_carry_imports_nothing_slow() -> None:
    slow = {"numpy", "onnxruntime", "httpx", "pydantic", "fastapi", "pandas", "polars", "pyarrow", "torch", "narwhals"}
    assert imported("import carry") & slow == set()


def test_a_model_in_this_process_needs_no_server_and_no_data_frames() -> None:
    code = (
        f"import carry; model = carry.load('forecast', {str(SHIPPED)!r}); model.forecast([1, 2, 3], 2); model.close()"
    )
    modules = imported(code)
    assert "onnxruntime" in modules
    assert modules & {"fastapi", "starlette", "uvicorn", "httpx", "pandas", "polars", "torch", "narwhals"} == set()


def test_a_process_that_ends_at_once_waits_for_the_graph_that_it_opens() -> None:
    code = f"""
import threading, carry, carry.local
open_folder = carry.local.open_folder
def open_while_the_process_ends(*arguments):
    threading.main_thread().join()
    model = open_folder(*arguments)
    print("opened", flush=True)
    return model
carry.local.open_folder = open_while_the_process_ends
carry.load("forecast", {str(SHIPPED)!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "opened\n", "")


def test_a_model_has_a_name_a_version_or_only_its_kind(tmp_path: Path) -> None:
    write_model(character_model(), tmp_path, "prose")
    write_model(character_model(), tmp_path, "prose")
    for name, label in (("prose", "prose@2"), ("prose@1", "prose@1"), ("text", "prose@2")):
        with carry.load(name, tmp_path) as model:
            assert model.name == label
            assert model.generate("ab", 3, seed=1).model == label


def test_a_model_that_is_missing_names_those_that_there_are(tmp_path: Path) -> None:
    write_model(character_model(), tmp_path, "prose")
    with pytest.raises(ModelNotFoundError, match="prose@1"):
        carry.load("verse", tmp_path)
    with pytest.raises(ModelNotFoundError):
        carry.load("forecast", tmp_path)


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    folder = write_model(character_model(), tmp_path, "prose")
    for graph in folder.glob("*.onnx"):
        graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(ModelRefusedError, match="sha256"):
        carry.load("prose", tmp_path)


def test_a_closed_model_answers_no_more(models: Path) -> None:
    model = carry.load("forecast", models)
    session = model.session([1, 2])
    model.close()
    model.close()
    with pytest.raises(NotReadyError):
        model.forecast([1, 2])
    with pytest.raises(carry.CarryError):
        session.observe(3)


@pytest.mark.parametrize("num_read", [0, 1])
def test_closing_a_stream_stops_the_model(models: Path, num_read: int) -> None:
    with carry.load("text", models) as model:
        engine = model._local.model.engine
        with model.generate("a", 400, seed=1, stream=True) as pieces:
            assert [next(pieces) for _ in range(num_read)] != [""]
        assert model.generate("a", 1, seed=1).text
        assert engine.waiting_steps == 0


def test_an_error_prints_its_field_and_its_code(models: Path) -> None:
    with carry.load("forecast", models) as model, pytest.raises(carry.CarryError) as raised:
        model.forecast([1, "a"])
    assert raised.value.__notes__ == ["field: $.series[1]; code: invalid_request"]


@pytest.mark.parametrize(
    "last_words",
    [
        "pieces = model.generate('a', 400, stream=True); next(pieces)",
        "",
        "model = None; import gc; gc.collect()",
    ],
)
def test_a_process_ends_well_whatever_its_models_do(models: Path, last_words: str) -> None:
    code = f"import carry\nmodel = carry.load('text', {str(models)!r})\n{last_words}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_model_that_nobody_holds_ends(models: Path) -> None:
    model = carry.load("text", models)
    assert model.generate("a", 3, seed=1).text
    thread = model._local.model.engine.thread
    del model
    gc.collect()
    assert not thread.is_alive()
