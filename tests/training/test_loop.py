"""The training loop learns, resumes exactly and stops early; several processes train together."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import CHARACTERS, character_model
from training import loop
from training.checkpoint import RunError
from training.data import tbptt_batches as streams_module
from training.data.tbptt_batches import Segment, SeriesStream, TextStream
from training.loop import LoopConfig, Schedule, evaluate, fit
from training.nets.cells import LockedDropout
from training.nets.text import NgramFeatures, TextModel

TOKENS = CHARACTERS.encode("the cat sat on the mat and the dog sat on the cat. " * 40)[1]
CONFIG = LoopConfig(epochs=4, learning_rate=5e-3, patience=10, seed=3, precision="float32")


def streams() -> tuple[TextStream, TextStream]:
    return TextStream([TOKENS], 20, 8, 0.01), TextStream([TOKENS[:250], TOKENS[250:500]], 50, 2)


@pytest.mark.parametrize("muon", [False, True])
def test_training_lowers_the_loss_and_keeps_the_best_weights(tmp_path: Path, muon: bool) -> None:
    network = character_model()
    train, valid = streams()
    before = evaluate(network, valid)
    history = fit(network, train, valid, replace(CONFIG, muon=muon), tmp_path, {})
    best = min(epoch.valid_loss for epoch in history if epoch.valid_loss is not None)
    assert best < 0.7 * before
    assert evaluate(network, valid) == pytest.approx(best, rel=1e-5)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert len(lines) == 1 + len(history)


@pytest.mark.parametrize(("muon", "schedule"), [(False, "cosine"), (True, "wsd")])
def test_a_killed_and_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, muon: bool, schedule: Schedule
) -> None:
    config = replace(CONFIG, muon=muon, schedule=schedule, average=0.9)
    whole = character_model()
    fit(whole, *streams(), config, tmp_path / "whole", {})

    class KilledError(Exception):
        pass

    write_log = loop.write_log

    def killed(history: Any, path: Path) -> None:
        write_log(history, path)
        if len(history) == 2:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_log", killed)
        with pytest.raises(KilledError):
            fit(character_model(), *streams(), config, tmp_path / "killed", {})
    resumed = character_model()
    history = fit(resumed, *streams(), config, tmp_path / "killed", {})
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    for expected, actual in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, actual)


def test_with_the_schedule_wsd_the_rate_stays_and_falls_at_the_end(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=10, schedule="wsd")
    rates = [
        epoch.learning_rate / config.learning_rate for epoch in fit(character_model(), *streams(), config, tmp_path, {})
    ]
    assert rates[:6] == [1.0] * 6
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=0.03)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_missing_gpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no GPU"):
        fit(character_model(), *streams(), replace(CONFIG, device="cuda"), tmp_path, {})


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path) -> None:
    network = character_model()
    train, _ = streams()
    noise = TextStream([np.random.default_rng(0).integers(1, 50, 400)], 50, 2)
    config = replace(CONFIG, epochs=40, patience=1, learning_rate=2e-2)
    assert len(fit(network, train, noise, config, tmp_path, {})) < 40


def test_in_validation_documents_are_read_whole_from_a_fresh_state() -> None:
    documents = [TOKENS[:103], TOKENS[200:201], TOKENS[300:320], TOKENS[500:560]]
    read: list[list[int]] = []
    rows: dict[int, list[int]] = {}
    for batch in TextStream(documents, 7, 2).batches(None):
        inputs, targets = (argument.numpy() for argument in batch.arguments)
        for b in range(2):
            if batch.fresh[b]:
                rows[b] = [int(inputs[b, 0])]
                read.append(rows[b])
            rows[b] += targets[b][targets[b] >= 0].tolist()
        assert batch.weight == (targets >= 0).sum()
    assert sorted(read) == sorted(document.tolist() for document in documents if len(document) > 1)


def test_series_windows_follow_each_other_and_see_no_future() -> None:
    series = [Segment(np.arange(start, start + length, dtype=float)[:, None]) for start, length in ((0, 23), (100, 9))]
    stream = SeriesStream(series, horizon=3, context=5, rows=2, longest=100)
    read: dict[int, list[float]] = {0: [], 1: []}
    for batch in stream.batches(None):
        values, mask, targets, counted = batch.arguments
        for b in range(2):
            seen = values[b, :, 0][mask[b, :, 0] > 0]
            read[b] += seen.tolist()
            for t in range(int(mask[b].sum())):
                ahead = targets[b, t][counted[b, t] > 0]
                assert torch.equal(ahead, values[b, t, 0] + torch.arange(1, len(ahead) + 1))
    assert read == {0: list(range(23)), 1: list(range(100, 109))}


def test_validation_counts_only_what_follows_the_training_part() -> None:
    series = [Segment(np.arange(30.0)[:, None], count_from=19)]
    stream = SeriesStream(series, horizon=1, context=7, rows=1, longest=100)
    counted = [
        float(target)
        for batch in stream.batches(None)
        for target, counts in zip(batch.arguments[2].flatten(), batch.arguments[3].flatten(), strict=True)
        if counts
    ]
    assert counted == [float(value) for value in range(20, 30)]


SCRIPT = """
import sys, torch
from pathlib import Path
from tests.training.test_loop import CONFIG, streams
from tests.builders import character_model
from training.loop import fit
network = character_model()
fit(network, *streams(), CONFIG, Path(sys.argv[1]), {})
torch.save(network.state_dict(), Path(sys.argv[1]) / f"weights{torch.distributed.get_rank()}.pt")
"""


def test_processes_started_by_torchrun_train_one_network(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(script), str(tmp_path)], check=True, env=environment, capture_output=True)
    first, second = (torch.load(tmp_path / f"weights{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
    trained = character_model()
    trained.load_state_dict(first)
    assert isinstance(trained, TextModel)
    assert evaluate(trained, streams()[1]) < 0.7 * evaluate(character_model(), streams()[1])


@given(
    lengths=st.lists(st.integers(0, 30) | st.integers(0, 900), min_size=1, max_size=30).filter(any),
    rows=st.integers(1, 6),
    context=st.integers(2, 40),
    epochs=st.integers(1, 4),
    processes=st.integers(1, 3),
    lines=st.booleans(),
)
def test_each_reading_of_texts_has_every_character_as_a_target_once(
    lengths: list[int], rows: int, context: int, epochs: int, processes: int, lines: bool
) -> None:
    documents = np.split(np.arange(1, 1 + sum(lengths)), np.cumsum(lengths)[:-1])
    firsts = {int(document[0]) for document in documents if len(document)}
    total = max(1, sum(lengths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams_module, "EPOCH", total / epochs)
        patch.setattr(streams_module, "EPOCH_STEPS", 0)
        streams = [TextStream(documents, context, rows, 0.0, 7, (rank, processes)) for rank in range(processes)]
    for reading in range(2):
        targets: list[int] = []
        for stream in streams:
            assert stream.epochs == epochs
            for epoch in range(reading * epochs, (reading + 1) * epochs):
                following: dict[int, int] = {}
                for batch in stream.batches(np.random.default_rng(epoch), epoch):
                    inputs, expected = (argument.numpy() for argument in batch.arguments)
                    counted = expected >= 0
                    assert batch.weight == counted.sum() > 0
                    assert np.array_equal(inputs[counted] + 1, expected[counted])
                    assert firsts.isdisjoint(expected[counted].tolist())
                    for b in np.flatnonzero(counted.any(axis=1)).tolist():
                        if not batch.fresh[b]:
                            assert inputs[b, 0] == following[b]
                        assert int(inputs[b, 0]) not in firsts or bool(batch.fresh[b])
                        following[b] = int(expected[b][counted[b]][-1])
                    targets += expected[counted].tolist()
        assert sorted(targets) == sorted(set(range(1, 1 + sum(lengths))) - firsts)


def test_an_epoch_of_many_rows_has_no_fewer_steps() -> None:
    tokens = [np.tile(TOKENS, 6_000_000 // len(TOKENS))]
    few, many = TextStream(tokens, 128, 32), TextStream(tokens, 128, 96)
    assert few.epochs == 3
    assert many.epochs == 2
    assert 200 < many.steps < 300 < few.steps


def test_long_texts_are_begun_at_lines_too() -> None:
    text = "".join(f"line {i} of a text\n" for i in range(3000))
    tokens = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
    begun = [
        bytes(batch.arguments[0][b, :5].to(torch.uint8).tolist())
        for batch in TextStream([tokens], 32, 8, 0.0, ord("\n")).batches(np.random.default_rng(0), 0)
        for b in np.flatnonzero(batch.fresh.numpy())
    ]
    assert len(begun) > 50
    assert set(begun) == {b"line "}


def test_locked_dropout_hides_the_same_features_in_all_steps_and_none_outside_of_training() -> None:
    torch.manual_seed(0)
    dropout = LockedDropout(0.5)
    masked = dropout(torch.ones(4, 9, 32))
    assert torch.equal(masked, masked[:, :1].expand(-1, 9, -1))
    assert set(masked.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout.eval()(torch.ones(2, 3, 4)), torch.ones(2, 3, 4))


@given(seed=st.integers(0, 2**32), longest=st.integers(2, 6), cut=st.integers(1, 29))
def test_ngram_features_depend_on_the_last_tokens_and_on_no_older_one(seed: int, longest: int, cut: int) -> None:
    ngrams = NgramFeatures(longest, 4).eval()
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(0, 99, (2, 30)))
    start = torch.zeros(2, longest - 1, dtype=torch.int64)
    whole, after = ngrams(tokens, start)
    first, between = ngrams(tokens[:, :cut], start)
    second, end = ngrams(tokens[:, cut:], between)
    assert torch.equal(torch.cat([first, second], dim=1), whole)
    assert torch.equal(end, after)
    other = tokens.clone()
    other[:, 10] = (other[:, 10] + 1) % 99
    changed = (ngrams(other, start)[0] != whole).any(dim=2)
    assert not changed[:, :10].any()
    assert changed[:, 10 : 10 + longest].any(dim=0).all()
    assert not changed[:, 10 + longest :].any()
