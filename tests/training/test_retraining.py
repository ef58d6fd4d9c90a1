"""Training again under the same name: what trains anew, goes on, stays as it is or is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest, sha256_of
from tests.conftest import Run
from training import loop
from training.checkpoint import CHECKPOINT_FILE, RunError
from training.data.tbptt_batches import TextStream
from training.loop import LoopConfig, fit

SMALL = ["--horizon", "2", "--hidden", "4", "--context", "8", "--epochs", "2", "--no-baselines", "--windows", "2"]
TEXT = ["--hidden", "4", "--embedding", "4", "--context", "8", "--epochs", "1", "--no-baselines"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sales(100.0)


def write_sales(level: float) -> None:
    values = level + 10 * np.sin(np.arange(40)) + np.random.default_rng(0).normal(size=40)
    Path("sales.csv").write_text("y\n" + "\n".join(f"{value:.2f}" for value in values) + "\n")


def train(carry: Run, *more: str) -> tuple[int, str, str]:
    return carry("train", "forecast", "sales.csv", "--name", "sales", *SMALL, *more)


def versions() -> list[str]:
    return sorted(path.name for path in Path("models/sales").iterdir() if path.name.isdecimal())


class KilledError(Exception):
    pass


def kill_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log = loop.write_log

    def killed(history: Any, path: Path) -> None:
        write_log(history, path)
        if len(history) == epochs:
            raise KilledError

    monkeypatch.setattr(loop, "write_log", killed)


def test_the_same_command_on_the_same_data_does_nothing_twice(carry: Run) -> None:
    assert train(carry)[0] == 0
    status, out, err = train(carry)
    assert (status, out) == (0, "")
    assert "nothing to do: this command made models/sales/1" in err
    assert versions() == ["1"]


def test_other_data_train_anew_into_a_new_version(carry: Run) -> None:
    train(carry)
    write_sales(5000.0)
    status, out, err = train(carry)
    assert status == 0
    assert out.endswith("wrote models/sales/2; `carry serve` loads it\n")
    assert "sales.csv has changed: training anew" in err
    old, new = (read_manifest(Path("models/sales") / version, ForecastManifest) for version in "12")
    assert old.graph.sha256 != new.graph.sha256
    assert new.provenance.data[0].sha256 == sha256_of(Path("sales.csv"))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--horizon", "1", "--horizon is 1, was 2"),
        ("--epochs", "3", "--epochs is 3, was 2"),
    ],
)
def test_other_options_train_anew_into_a_new_version(carry: Run, option: str, value: str, said: str) -> None:
    train(carry)
    status, _, err = train(carry, option, value)
    assert status == 0
    assert f"{said}: training anew" in err
    assert versions() == ["1", "2"]
    assert len(Path("runs/sales/log.csv").read_text().splitlines()) == (4 if option == "--epochs" else 3)
    first, second = (read_manifest(Path("models/sales") / version, ForecastManifest) for version in "12")
    assert first.graph.sha256 != second.graph.sha256


def test_a_new_description_is_written_with_the_weights_that_there_are(
    carry: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(carry)
    kill_after(1, monkeypatch)  # no epoch is trained
    assert train(carry, "--description", "Of shops.")[0] == 0
    first, second = (read_manifest(Path("models/sales") / version, ForecastManifest) for version in "12")
    assert second.description == "Of shops."
    assert first.graph == second.graph


def test_an_interrupted_run_goes_on_and_says_where(carry: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_after(1, patch)
        with pytest.raises(KilledError):
            train(carry)
    status, _, err = train(carry)
    assert status == 0
    assert "carry: resuming at epoch 2 of 2; --restart begins anew" in err
    whole = train(carry, "--run-dir", "runs/whole")
    assert whole[0] == 0
    first, second = (read_manifest(Path("models/sales") / version, ForecastManifest) for version in "12")
    assert first.graph == second.graph


@pytest.mark.parametrize(("changed", "said"), [("data", "sales.csv has changed"), ("hidden", "--hidden is 5, was 4")])
def test_an_unfinished_run_of_another_identity_is_refused(
    carry: Run, monkeypatch: pytest.MonkeyPatch, changed: str, said: str
) -> None:
    with monkeypatch.context() as patch:
        kill_after(1, patch)
        with pytest.raises(KilledError):
            train(carry)
    if changed == "data":
        write_sales(5000.0)
    other = ["--hidden", "5"] if changed == "hidden" else []
    status, _, err = train(carry, *other)
    assert status == 2
    newest = err.splitlines()[-1]
    assert newest.startswith("carry: runs/sales holds an unfinished run")
    assert said in newest
    assert "--restart" in newest
    assert not Path("models").exists()
    assert train(carry, *other, "--restart")[0] == 0


def test_a_run_that_a_person_stops_says_how_it_goes_on(carry: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "write_log", interrupt)
    status, _, err = train(carry)
    assert status == 130
    assert "carry: stopped at epoch 2 of 2; runs/sales holds 1 whole epoch: the same command goes on from there" in err


def test_a_checkpoint_of_an_earlier_version_is_refused(carry: Run) -> None:
    Path("runs/sales").mkdir(parents=True)
    torch.save({"history": []}, Path("runs/sales") / CHECKPOINT_FILE)
    status, _, err = train(carry)
    assert status == 2
    assert "--restart" in err
    Path("runs/sales", CHECKPOINT_FILE).write_bytes(b"torn")
    assert train(carry)[0] == 2
    assert train(carry, "--restart")[0] == 0


def test_restart_deletes_the_files_of_the_run_and_nothing_else(carry: Run) -> None:
    Path("work/src").mkdir(parents=True)
    for name in ("work/thesis.txt", "work/src/a.py", "work/checkpoint.txt", "work/log.csv"):
        Path(name).write_text("mine")
    assert train(carry, "--run-dir", "nowhere", "--restart")[0] == 0
    status, _, _ = carry("train", "forecast", "absent.csv", "--name", "sales", "--run-dir", "work", "--restart")
    assert status == 2
    assert Path("work/log.csv").read_text() == "mine"
    for _ in range(2):
        assert train(carry, "--run-dir", "work", "--restart")[0] == 0
    assert Path("work/thesis.txt").read_text() == Path("work/src/a.py").read_text() == "mine"
    assert Path("work/checkpoint.txt").read_text() == "mine"
    assert versions() == ["1", "2", "3"]


def test_another_text_trains_anew(carry: Run) -> None:
    command = ["train", "text", "a.txt", "--name", "a", *TEXT]
    Path("a.txt").write_text("she sells sea shells by the sea shore.\n" * 60)
    assert carry(*command)[0] == 0
    assert "nothing to do" in carry(*command)[2]
    Path("a.txt").write_text("he reads red books in the red room.\n" * 60)
    assert "a.txt has changed" in carry(*command)[2]
    first, second = (sha256_of(Path(f"models/a/{version}/model.onnx")) for version in "12")
    assert first != second


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 3), (2, 4)])
def test_patience_counts_epochs_without_gain_and_0_never_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, epochs: int
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.4, 2.3, 2.2])
    monkeypatch.setattr(loop, "evaluate", lambda *_: next(losses))
    history = fit_a_little(tmp_path, LoopConfig(epochs=6, learning_rate=1e-3, patience=patience))
    assert len(history) == epochs


def test_a_validation_loss_that_is_no_number_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, float("nan"), 2.0])
    monkeypatch.setattr(loop, "evaluate", lambda *_: next(losses))
    with pytest.raises(RunError, match=r"epoch 2: the validation loss is nan.*--learning-rate.*0\.003"):
        fit_a_little(tmp_path, LoopConfig(epochs=3, learning_rate=0.003, patience=2))


def test_a_gradient_that_is_no_number_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(RunError, match=r"epoch 1: a gradient is nan.*--learning-rate"):
        fit_a_little(tmp_path, LoopConfig(epochs=9, learning_rate=1e-3, patience=2))


def test_a_part_that_holds_nothing_to_predict_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no value that could be predicted"):
        fit_a_little(tmp_path, LoopConfig(epochs=3, learning_rate=0.003, patience=2), length=1)


def fit_a_little(folder: Path, config: LoopConfig, length: int = 100) -> list[loop.Epoch]:
    from tests.builders import character_model

    tokens = np.arange(length) % 20 + 1
    text = TextStream([tokens], 10, 4)
    return fit(character_model(), text, text, config, folder / "run", {})


def test_a_run_that_stops_early_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.4])
    monkeypatch.setattr(loop, "evaluate", lambda *_: next(losses))
    caplog.set_level("INFO", "training")
    config = LoopConfig(epochs=9, learning_rate=1e-3, patience=2)
    fit_a_little(tmp_path, config)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines[:4]] == [f"epoch {i} of 9" for i in range(1, 5)]
    assert ", validation 2.5000, " in lines[2]
    assert "trained 4 epochs" in lines[4]
    assert "not 9: the validation loss has not fallen for 2 epochs (--patience)" in lines[4]
    assert lines[4].endswith("kept is epoch 2, validation loss 2.0000")
    caplog.clear()
    assert len(fit_a_little(tmp_path, config)) == 4
    [line] = [record.getMessage() for record in caplog.records]
    assert line == "all epochs of this run are trained (4); --restart begins anew"


def test_validation_is_not_named_where_nothing_is_held_out(carry: Run) -> None:
    status, _, err = train(carry, "--valid", "0", "--test", "0")
    assert status == 0
    assert "carry: epoch 2 of 2: loss " in err
    assert "nothing is held out to choose" in err
    card = Path("models/sales/1/CARD.md").read_text()
    said = err.replace("nothing is held out to choose", "") + card
    assert "alidation" not in said
    assert {line.split(",")[2] for line in Path("runs/sales/log.csv").read_text().splitlines()[1:]} == {""}


def test_a_command_says_each_stage(carry: Run) -> None:
    status, out, err = train(carry)
    assert (status, out) == (0, "wrote models/sales/1; `carry serve` loads it\n")
    stages = [
        "reading sales.csv",
        "sales.csv: 40 rows, 1 series",
        "1 series, 40 values, 0 of them missing: 1 without dates, no season known",
        "training on 1 series, 32 values; ",
        "epoch 1 of 2: loss ",
        "epoch 2 of 2: loss ",
        "trained 2 epochs in ",
        "exporting to ONNX",
        "measuring the test part: 2 windows, horizon 2",
        "measuring the shipped forecast@2 on the same windows",
        "measuring baselines on the same windows: naive",
        "evaluating int8",
        "writing the card",
    ]
    places = [err.find(f"carry: {stage}") for stage in stages]
    assert -1 not in places
    assert places == sorted(places)


def test_a_command_that_is_stopped_before_it_trains_says_so(carry: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.recipes.forecast.split_series", interrupt)
        status, _, err = train(carry)
        assert (status, err.splitlines()[-1]) == (130, "carry: stopped; nothing was trained yet")
    with monkeypatch.context() as patch:
        patch.setattr("training.recipes.forecast.build_graphs", interrupt)
        status, _, err = train(carry)
        said = "carry: stopped; runs/sales holds 2 whole epochs: the same command goes on from there"
        assert (status, err.splitlines()[-1]) == (130, said)
    status, _, err = train(carry)
    assert status == 0
    assert "all epochs of this run are trained (2); --restart begins anew" in err
