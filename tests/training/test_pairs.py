"""Pairs of a source and a target: read, split, cut into batches, trained on, measured."""

import gzip
import itertools
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carry.files import DataError
from service.manifest import read_manifest
from service.text.manifest import Pairs, TextManifest
from service.unicode import nfc
from tests.builders import character_model, write_model
from tests.conftest import Run
from training.data.date_names import LANGUAGES
from training.data.dates import MONTH_FIRST, NUMERIC, WITH_NAMES, is_unseen, sample_pairs, write_date
from training.data.pairs import (
    MAX_TOKENS,
    EncodedPair,
    Pair,
    PairStream,
    encode_pairs,
    read_pair_parts,
    read_pairs,
)
from training.data.texts import learn_tokenizer
from training.evaluation.pairs import pair_scores
from training.recipes.text_start import usual_sizes_of_pairs

SIDES = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs", "M"]), min_size=1, max_size=12)
PAIRS = st.lists(st.builds(Pair, SIDES, SIDES), min_size=1, max_size=20)


def write(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return path


def test_pairs_are_read_as_lines_with_a_tab_as_json_lines_and_gzipped(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("one\tun\r\n\r\ntwo e\u0301\tdeux \u00e9\n".encode())
    (tmp_path / "b.jsonl").write_text('{"source": "three", "target": "trois", "note": 3}\n')
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(b"four\tquatre"))
    pairs = read_pairs([tmp_path / name for name in ("a.tsv", "b.jsonl", "c.tsv.gz")])
    assert pairs == [
        Pair("one", "un"),
        Pair("two \u00e9", "deux \u00e9"),
        Pair("three", "trois"),
        Pair("four", "quatre"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "one\tun\ntwo deux\n", r"a\.tsv, line 2: has no tab; needs a source, one tab and its target"),
        ("a.tsv", "one\tun\tuno\n", "line 1: has 2 tabs"),
        ("a.tsv", "one\t\n", "line 1: the target is empty"),
        ("a.tsv", "\n\none\tun\n\tdeux", "line 4: the source is empty"),
        ("a.tsv", "\n", "holds no pair"),
        ("a.tsv", f"one\t{'e' + chr(0x301) * 300}", "line 1: .*combining"),
        ("a.jsonl", '{"source": "one", "target": "un"}\n{"source": "two"}', "line 2: needs a JSON object with"),
        ("a.jsonl", '["one", "un"]', "line 1: needs a JSON object with the string fields `source` and `target`"),
        ("a.jsonl", '{"source": 1, "target": "un"}', "line 1: needs a JSON object"),
        ("a.jsonl", '{"source": "\\ud800", "target": "un"}', "line 1: needs a JSON object"),
        ("a.jsonl", '{"source": "a\\tb", "target": "un"}', "line 1: the source holds a tab or a line end"),
        ("a.jsonl", '{"source": "a", "target": "u\\nn"}', "line 1: the target holds a tab or a line end"),
        ("b.tsv", None, "no such file"),
    ],
)
def test_a_line_that_is_no_pair_is_refused_with_its_place(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_pairs([tmp_path / name])


def test_no_source_that_is_held_out_is_trained_on(tmp_path: Path) -> None:
    pairs = [(f"source {i % 70}", f"target {i}") for i in range(100)]
    parts = read_pair_parts([write(tmp_path / "a.tsv", pairs)], [], [], 0.1, 0.2, seed=1)
    sources = [{pair.source for pair in part} for part in (parts.train, parts.valid, parts.test)]
    assert [len(each) for each in sources] == [49, 7, 14]
    assert len(set.union(*sources)) == 70
    assert sum(map(len, (parts.train, parts.valid, parts.test))) == 100
    again = read_pair_parts([tmp_path / "a.tsv"], [], [], 0.1, 0.2, seed=1)
    assert again == parts
    assert read_pair_parts([tmp_path / "a.tsv"], [], [], 0.1, 0.2, seed=2).test != parts.test


def test_files_may_be_held_out_and_their_sources_are_left_out_of_training(tmp_path: Path) -> None:
    a = write(tmp_path / "a.tsv", [("one", "un"), ("two", "deux"), ("three", "trois")])
    b, c = write(tmp_path / "b.tsv", [("two", "zwei")]), write(tmp_path / "c.tsv", [("four", "quatre")])
    parts = read_pair_parts([a], [b], [c], 0.5, 0.5, seed=1)
    assert parts.train == [Pair("one", "un"), Pair("three", "trois")]
    assert (parts.valid, parts.test) == ([Pair("two", "zwei")], [Pair("four", "quatre")])
    assert (parts.test_files, parts.left_out) == (("c.tsv",), 1)


@pytest.mark.parametrize(("valid", "test", "missing"), [(0.5, 0.5, "train"), (0, 0.1, "choose"), (0.1, 0, "measure")])
def test_a_part_without_pairs_is_refused(tmp_path: Path, valid: float, test: float, missing: str) -> None:
    path = write(tmp_path / "a.tsv", [("one", "un"), ("two", "deux")])
    with pytest.raises(DataError, match=f"no pair is left to {missing}"):
        read_pair_parts([path], [], [], valid, test, seed=1)


def test_a_pair_that_is_too_long_is_refused_with_its_beginning() -> None:
    pair = Pair("x" * MAX_TOKENS, "y")
    with pytest.raises(DataError, match=r"a pair has 2,003 characters, at most 2,000 are trained on: 'xxx"):
        encode_pairs(learn_tokenizer([pair.text()], 1, "character", None), [pair])


@pytest.mark.parametrize("unit", ["character", "word"])
@given(pairs=PAIRS, rows=st.integers(1, 7), epoch=st.integers(0, 3), training=st.booleans())
@settings(max_examples=20)
def test_every_target_and_its_end_counts_once_after_its_source_and_nothing_else(
    unit: str, pairs: list[Pair], rows: int, epoch: int, training: bool
) -> None:
    pairs = [Pair(nfc(pair.source).strip() or "a", nfc(pair.target).strip() or "b") for pair in pairs]
    tokenizer = learn_tokenizer([pair.text() for pair in pairs], 1, unit, None)  # type: ignore[arg-type]
    stream = PairStream(encode_pairs(tokenizer, pairs), rows)
    read = []
    for batch in stream.batches(np.random.default_rng(0) if training else None, epoch):
        inputs, targets = (array.numpy() for array in batch.arguments)
        assert batch.fresh.all()
        assert batch.weight == (targets >= 0).sum()
        for row, expected in zip(inputs, targets, strict=True):
            steps = np.flatnonzero(expected >= 0)
            text = "".join(tokenizer.vocabulary[id] for id in row[: steps[-1] + 1])
            target = "".join(tokenizer.vocabulary[id] for id in expected[steps])
            assert (np.diff(steps) == 1).all()
            assert text + "\n" == "".join(tokenizer.vocabulary[id] for id in row[: steps[0] + 1]) + target
            source, _, written = text.partition("\t")
            assert target == written + "\n"
            read.append((source, written))
    assert sorted(read) == sorted((pair.source, pair.target) for pair in pairs)


def test_many_pairs_are_read_once_in_several_epochs_by_all_processes_together() -> None:
    pairs = [EncodedPair(np.array([*[1 + i % 7] * 200, i, 8]), 200) for i in range(10_000)]
    streams = [PairStream(pairs, 16, share=(rank, 2)) for rank in range(2)]
    assert streams[0].epochs == 2
    rng = np.random.default_rng(0)
    batches = [batch for stream in streams for epoch in (0, 1) for batch in stream.batches(rng, epoch)]
    numbers = [row[row >= 0][0] for batch in batches for row in batch.arguments[1].numpy()]
    assert sorted(numbers) == list(range(10_000))
    assert sum(1 for _ in streams[0].batches(rng, 0)) == pytest.approx(streams[0].steps, abs=2)


def test_some_tokens_of_the_sources_are_read_as_unknown_in_training_only() -> None:
    pairs = [EncodedPair(np.array([*[1] * 50, 2, 3, 4]), 51)] * 40
    stream = PairStream(pairs, 8, unknown_rate=0.1)
    hidden = np.concatenate([batch.arguments[0] for batch in stream.batches(np.random.default_rng(0))]) == 0
    assert 0.05 < hidden[:, :50].mean() < 0.15
    assert not hidden[:, 50:].any()
    assert not any((batch.arguments[0] == 0).any() for batch in stream.batches(None))


def test_neither_a_source_nor_the_neighbours_change_the_loss_of_a_target() -> None:
    network, rng = character_model(), np.random.default_rng(0)
    pairs = [EncodedPair(rng.integers(1, 20, length), length - 4) for length in (9, 14, 30)]
    with torch.no_grad():
        alone = [
            float(network(*batch.arguments, network.initial_state(1))[0])
            for pair in pairs
            for batch in PairStream([pair], 1).batches(None)
        ]
        [batch] = PairStream(pairs, 3).batches(None)
        together = float(network(*batch.arguments, network.initial_state(3))[0])
    assert together == pytest.approx(np.mean(alone), rel=1e-5)
    assert batch.weight == 12


@given(PAIRS)
def test_exact_texts_have_no_errors_and_empty_ones_have_an_error_for_each_character(pairs: list[Pair]) -> None:
    exact = pair_scores(pairs, [pair.target for pair in pairs], 0.0)
    assert exact == {"exact_match": 1.0, "character_error_rate": 0.0, "bits_per_character": 0.0}
    empty = pair_scores(pairs, [""] * len(pairs), 1.0)
    assert (empty["exact_match"], empty["character_error_rate"]) == (0.0, 1.0)


def test_an_edit_counts_once_and_the_end_of_a_target_is_predicted_too() -> None:
    pairs = [Pair("a", "abcd"), Pair("b", "abc")]
    scores = pair_scores(pairs, ["abd", "abc"], 9 * np.log(2))
    assert scores["exact_match"] == 0.5
    assert scores["character_error_rate"] == pytest.approx(1 / 7)
    assert scores["bits_per_character"] == pytest.approx(1.0)


@pytest.mark.parametrize(("pairs", "epochs"), [(100, 60), (10_000, 32), (400_000, 2)])
def test_the_fewer_pairs_the_more_epochs(pairs: int, epochs: int) -> None:
    assert usual_sizes_of_pairs(pairs, "character").epochs == epochs


WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf"}


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of three English numbers, in small or capital letters, and the same in German."""
    pairs = [
        (spelling(" ".join(numbers)), " ".join(WORDS[number] for number in numbers))
        for numbers in itertools.product(WORDS, repeat=3)
        for spelling in (str.lower, str.upper)
    ]
    return write(tmp_path_factory.mktemp("pairs") / "numbers.tsv", pairs)


SMALL = (
    "--unit",
    "word",
    "--hidden",
    "48",
    "--rows",
    "8",
    "--epochs",
    "16",
    "--dropout",
    "0",
    "--learning-rate",
    "1e-2",
)


def test_a_model_of_pairs_writes_the_targets_of_sources_that_it_never_saw(
    carry: Run, counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = carry("train", "text", "--pairs", str(counting), "--name", "numbers", *SMALL)
    assert status == 0, err
    assert "213 pairs to train on, 12 to choose the weights on, 25 to measure; the longest has 8 words" in err
    manifest = read_manifest(Path("models/numbers/1"), TextManifest)
    assert manifest.pairs == Pairs(separator="\t", end="\n")
    assert manifest.context == 8
    assert manifest.metrics["exact_match"] >= 0.9
    assert manifest.metrics["character_error_rate"] <= 0.05
    assert manifest.provenance.command == "carry train text --pairs numbers.tsv --name numbers " + " ".join(SMALL)
    card = Path("models/numbers/1/CARD.md").read_text(encoding="utf-8")
    assert f"| Carry | {manifest.metrics['exact_match']:.5g} |" in card
    assert "The first pairs of the test part, and what the model wrote" in card

    status, out, err = carry("evaluate", "numbers", str(counting), "--models-dir", "models", "--json")
    assert status == 0, err
    scores = json.loads(out)
    assert set(scores) == {"numbers", "numbers, int8"}
    assert scores["numbers"]["pairs"] == 250
    assert scores["numbers"]["exact_match"] >= 0.9
    assert scores["numbers"]["unknown_words"] == 0

    status, out, _ = carry("train", "text", "--pairs", str(counting), "--name", "numbers", *SMALL)
    assert (status, out) == (0, "")


def test_a_model_of_pairs_may_go_on_from_a_model_of_texts(
    carry: Run, counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("train", "text", "--pairs", str(counting), "--name", "numbers", "--epochs", "1")
    status, _, err = carry(*arguments, "--start-from", "text-fast")
    assert status == 0, err
    assert "carry: starting from the network and the characters of text-fast@1" in err
    manifest = read_manifest(Path("models/numbers/1"), TextManifest)
    assert "\t" in manifest.vocabulary
    assert "\t" not in manifest.replacements


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name files of texts, or files of pairs by --pairs"),
        (("letters.txt", "--pairs", "pairs.tsv"), "name files of texts, or files of pairs by --pairs"),
        (("--pairs", "pairs.tsv", "--lines"), "not of pairs: each is read whole"),
        (("--pairs", "pairs.tsv", "--context", "32"), "not of pairs: each is read whole"),
        (("--pairs", "pairs.tsv"), "no such file"),
        (("--pairs", "bad.tsv"), "line 1: has no tab"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    carry: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.tsv").write_text("one = un\n")
    status, _, err = carry("train", "text", *arguments, "--name", "numbers")
    assert status == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_models_with_and_without_pairs_are_not_compared(
    carry: Run, counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = learn_tokenizer(["\t\nabc"], 1, "character", None)
    network = character_model()
    network.head, network.embedding = torch.nn.Linear(24, tokenizer.size), torch.nn.Embedding(tokenizer.size, 8)
    write_model(network, Path("models"), "translator", tokenizer=tokenizer, pairs=Pairs())
    write_model(character_model(), Path("models"), "letters")
    status, _, err = carry("evaluate", "translator", "letters", str(counting), "--models-dir", "models")
    assert status == 2
    assert "letters@1 did not learn from pairs" in err
    status, _, err = carry("evaluate", "translator", str(counting), "--models-dir", "models", "--last", "0.1")
    assert status == 2
    assert "not of a text model of pairs" in err


def test_dates_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert list(sample_pairs(1, 50)) == list(sample_pairs(1, 50))
    assert list(sample_pairs(1, 50)) != list(sample_pairs(2, 50))


def test_no_format_to_train_on_is_one_to_measure_on() -> None:
    formats = [*WITH_NAMES, *NUMERIC, *MONTH_FIRST, *(each for one in LANGUAGES.values() for each in one.patterns)]
    assert [pattern for pattern in formats if is_unseen(pattern)] == []
    assert all(is_unseen(pattern) for one in LANGUAGES.values() for pattern in one.unseen)


@given(st.integers(0, 2**32), st.booleans())
def test_a_source_can_be_written_as_a_pair_and_its_target_is_a_date(seed: int, unseen: bool) -> None:
    for source, target in sample_pairs(seed, 5, unseen):
        assert source.strip()
        assert not {"\t", "\n"} & {*source}
        assert date.fromisoformat(target).year in range(1000, 3000)


@pytest.mark.parametrize("language", LANGUAGES)
@given(st.dates(date(1000, 1, 1), date(2999, 12, 31)), st.randoms(use_true_random=False))
@settings(max_examples=5)
def test_every_format_says_the_day_the_month_and_the_year(language: str, day: date, rng: Random) -> None:
    names = LANGUAGES[language]
    assert [len(each) for each in (names.months, names.short_months)] == [12, 12]
    assert [len(each) for each in (names.weekdays, names.short_weekdays)] == [7, 7]
    for pattern in (*names.patterns, *names.unseen, *WITH_NAMES, *NUMERIC):
        text = write_date(rng, names, day, pattern)
        assert "{" not in text
        assert f"{day.year % 100:02}" in text
        if pattern in NUMERIC and "{roman}" not in pattern:
            assert all(f"{number}" in text for number in (day.day, day.month))
