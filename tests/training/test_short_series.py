"""Short series are trained on, or refused with the numbers needed; no untrained network is written."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carry.files import Series
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from tests.conftest import Run
from training.data.series import find_split, split_series

SMALL = ["--hidden", "8", "--no-baselines", "--windows", "20", "--rows", "8"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_walks(count: int, length: int) -> None:
    walks = 5 + np.random.default_rng(0).normal(0, 0.1, (count, length)).cumsum(axis=1)
    Path("walks.jsonl").write_text("\n".join(json.dumps({"values": walk.round(4).tolist()}) for walk in walks))


def train(carry: Run, *more: str) -> tuple[int, str, str]:
    return carry("train", "forecast", "walks.jsonl", "--name", "walks", *SMALL, *more)


def losses() -> list[float]:
    with Path("runs/walks/log.csv").open() as file:
        return [float(line["train_loss"]) for line in csv.DictReader(file)]


@pytest.mark.parametrize(("count", "length", "horizon"), [(10, 4, 1), (300, 4, 1), (10, 4, 6), (2, 3, 1), (40, 2, 1)])
def test_the_loss_falls(carry: Run, count: int, length: int, horizon: int) -> None:
    write_walks(count, length)
    status, _, err = train(
        carry, "--horizon", str(horizon), "--epochs", "8", "--learning-rate", "0.01", "--patience", "0"
    )
    assert status == 0
    assert 0 < losses()[-1] < losses()[0]
    measured = count >= 10 and length > horizon + 1
    assert bool(read_manifest(Path("models/walks/1"), ForecastManifest).metrics) == measured
    assert ("nothing was held out" in err) != measured


@pytest.mark.parametrize("values", [[[1.0]] * 20, [[3.0, 3.0, 3.0]] * 20, [[None, 2.0, None]]])
def test_series_without_anything_to_learn_are_refused(carry: Run, values: list[list[float | None]]) -> None:
    Path("walks.jsonl").write_text("\n".join(json.dumps({"values": row}) for row in values))
    status, out, err = train(carry, "--horizon", "1", "--epochs", "2")
    assert (status, "wrote" in out) == (2, False)
    words = " ".join(err.replace("\u2502", " ").split())
    assert "nothing to learn from" in words
    assert f"the longest has {sum(value is not None for value in values[0])} values" in words
    assert not Path("models").exists()


def test_short_series_are_held_out_whole() -> None:
    series = [Series(str(i), np.arange(4.0)[:, None]) for i in range(100)]
    parts = split_series(series, 1, 0.1, 0.2)
    ids = [{s.id for s in part} for part in (parts.train, [s for s, _ in parts.valid], [s for s, _ in parts.test])]
    assert [len(part) for part in ids] == [70, 10, 20]
    assert len(set.union(*ids)) == 100
    assert all((split.train_end, split.valid_end) == (3, 4) for _, split in parts.valid)
    assert all(split.valid_end == 3 for _, split in parts.test)


def test_every_other_value_missing_is_learnt_from(carry: Run) -> None:
    values = [float(i % 7) if i % 2 else None for i in range(60)]
    Path("walks.jsonl").write_text(json.dumps({"values": values}))
    assert train(carry, "--horizon", "2", "--epochs", "3")[0] == 0
    assert losses()[-1] > 0


@given(steps=st.integers(1, 500), horizon=st.integers(1, 50), valid=st.floats(0, 0.5), test=st.floats(0, 0.5))
def test_parts_follow_each_other_and_are_long_enough(steps: int, horizon: int, valid: float, test: float) -> None:
    cut = find_split(Series("a", np.zeros((steps, 1))), horizon, valid, test)
    if cut is not None:
        assert 0 <= cut.train_end <= cut.valid_end <= steps
        assert not test or steps - cut.valid_end >= horizon
        assert not valid or cut.valid_end - cut.train_end >= horizon
        assert cut.train_end >= steps - cut.train_end
