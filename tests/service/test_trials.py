"""Model folders that hang, crash, cannot be read or compute nonsense are refused with the reason; others are served."""

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, numpy_helper

from service.folders import model_folders
from service.kinds import KINDS
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from service.workers.trials import Trials
from tests.service.test_registry import edit, rehash

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders, no alarm")


def pipe_for_a_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def pipe_for_a_graph(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def endless_file(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")


def enormous_manifest(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(2**36)


def weights_that_are_not_finite(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and numpy_helper.to_array(tensor).size > 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * float("nan"), tensor.name))
    onnx.save(model, folder / "model.onnx")
    rehash(folder)


def invalid_date(folder: Path) -> None:
    provenance = json.loads((folder / "manifest.json").read_text())["provenance"]
    edit(folder, provenance=provenance | {"created_at": "yesterday"})


def features_without_inputs(folder: Path) -> None:
    edit(folder, features=["f0", "f1"], known_ahead=["f1"])


def weights_that_no_hash_covers(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="side.bin", size_threshold=0)
    rehash(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pipe_for_a_manifest, "cannot be read: it is not a file"),
        (pipe_for_a_graph, "model.onnx is not a file"),
        (endless_file, "cannot be read: it is not a file"),
        (enormous_manifest, "cannot be read: it is larger than"),
        (weights_that_are_not_finite, "not finite"),
        (invalid_date, "created_at"),
        (features_without_inputs, "known_ahead needs the inputs"),
        (weights_that_no_hash_covers, "side.bin"),
    ],
)
def test_a_folder_that_would_fail_later_is_refused(
    models: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(models, tmp_path / "models")
    spoil(tmp_path / "models/forecast/1")
    registry = Registry(Settings(models_dir=tmp_path / "models"), KINDS, Metrics())
    try:
        assert {model.manifest.name for model in registry.models} == {"text", "weather"}
        (refused,) = registry.rejected
        assert message in refused.reason
    finally:
        registry.close()


CRASHING_TRYOUT = """
import os, signal, sys, json, time
sys.path.insert(0, {root!r})
import service.workers.tryout
real = service.workers.tryout.reason_to_reject
def reason(path, *rest):
    if path.parent.name == "weather":
        {act}
    return real(path, *rest)
service.workers.tryout.reason_to_reject = reason
from pathlib import Path
service.workers.tryout.main(float(sys.argv[1]), sys.argv[2], int(sys.argv[3]), [Path(p) for p in sys.argv[4:]])
"""


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("while True: pass", "does not answer within 5 seconds"),
        ("os._exit(3)", "status 3"),
    ],
)
def test_a_model_that_crashes_or_hangs_is_refused_and_the_others_are_tried(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, message: str
) -> None:
    stand_in = tmp_path / "python"
    script = tmp_path / "tryout.py"
    script.write_text(CRASHING_TRYOUT.format(act=act, root=str(Path(__file__).parents[2])))
    stand_in.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} {script} "$@"\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr("service.workers.trials.sys.executable", str(stand_in))
    trials = Trials(Settings(models_dir=models), limit=5)
    registry = Registry(Settings(models_dir=models), KINDS, Metrics(), trials.reasons)
    try:
        assert {model.manifest.name for model in registry.models} == {"forecast", "text"}
        (refused,) = registry.rejected
        assert message in refused.reason
    finally:
        registry.close()


def test_a_folder_tried_before_the_fork_is_not_tried_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(models, tmp_path / "models")
    trials = Trials(Settings(models_dir=folder))
    trials.begin()
    trials.finish()
    paths = model_folders([folder])[0]
    monkeypatch.delattr("service.workers.trials.subprocess.Popen")  # no other process can start
    assert trials.reasons(paths) == dict.fromkeys(paths)


def test_a_trial_ends_when_it_is_stopped(models: Path) -> None:
    trials = Trials(Settings(models_dir=models))
    paths = model_folders([models])[0]
    trials.begin()
    assert trials.pid is not None
    os.kill(trials.pid, signal.SIGSTOP)
    stopper = threading.Timer(0.2, trials.stop)
    stopper.start()
    trials.finish()
    stopper.join()
    reasons = trials.reasons(paths)
    assert set(reasons) == set(paths)
    assert all(reasons.values())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models, tmp_path / "models")
    (folder / "weather").chmod(0)
    try:
        registry = Registry(Settings(models_dir=folder), KINDS, Metrics())
        assert [refused.name for refused in registry.rejected] == ["weather"]
        registry.close()
    finally:
        (folder / "weather").chmod(0o755)


def test_a_folder_without_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bad", "good/1", "lost+found", ".export"):
        (tmp_path / name).mkdir(parents=True)
    iterdir = Path.iterdir

    def refusing(path: Path) -> object:
        if path.name in ("bad", "lost+found"):
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    assert model_folders([tmp_path]) == (
        [tmp_path / "good/1"],
        {tmp_path / "bad": "the folder cannot be read: Permission denied"},
    )


def test_a_name_that_is_not_utf_8_harms_no_answer(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models, tmp_path / "models")
    os.makedirs(os.fsencode(folder) + b"/\xff/1")
    registry = Registry(Settings(models_dir=folder), KINDS, Metrics())
    assert json.dumps([vars(refused) for refused in registry.rejected]).encode()
    assert [refused.name for refused in registry.rejected] == ["\\xff"]
    registry.close()
