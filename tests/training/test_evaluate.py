"""Measuring a model: the benchmarks' files, their definitions, and the model as it is served."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from carry import models
from carry.files import DataError, Series, read_series
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from tests.builders import CHARACTERS, character_model, forecaster, write_model
from tests.conftest import SHIPPED, Run
from training.evaluation.baselines import naive2
from training.evaluation.eval_windows import (
    EvalWindow,
    draw_series,
    is_benchmark,
    read_benchmark,
    rolling_windows,
    usual_horizon,
)
from training.evaluation.evaluate import ALL, MetricRow, across_files, evaluate_forecaster, evaluation_rows
from training.evaluation.forecasts import hinted_season
from training.evaluation.texts import evaluate_text
from training.nets.quantisation import round_matrices

MODEL = SHIPPED / "forecast/2"


def write_lines(path: Path, records: list[dict[str, object]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    """Two yearly series and a quarterly one, split as published."""
    records: list[dict[str, object]] = [
        {"id": "a", "freq": "Y", "season": 1, "train": [1, 3, 2, 4], "test": [6, 4]},
        {"id": "b", "freq": "Y", "season": 1, "train": [10, 12, 11, 13], "test": [13, 15]},
        {"id": "c", "freq": "Q", "season": 4, "train": [1, 2, 3, 4, 2, 3, 4, 5, 3, 4, None, 6], "test": [4, 5, 6]},
    ]
    return write_lines(tmp_path / "made.jsonl.gz", records)


def row_of(rows: list[MetricRow], group: str, method: str) -> MetricRow:
    return next(row for row in rows if (row.group, row.method) == (group, method))


def test_a_benchmark_keeps_its_own_split(competition: Path) -> None:
    assert is_benchmark(competition)
    windows = read_benchmark(competition)
    assert [(w.id, w.group, w.season, len(w.history), w.truth.tolist()) for w in windows] == [
        ("a", "Y", 1, 4, [6, 4]),
        ("b", "Y", 1, 4, [13, 15]),
        ("c", "Q", 4, 12, [4, 5, 6]),
    ]
    assert np.isnan(windows[2].history[10, 0])


def test_the_wide_files_of_m4_come_in_pairs(tmp_path: Path) -> None:
    train = tmp_path / "Weekly-train.csv"
    train.write_text('"V1","V2","V3","V4","V5"\n"W1","1","2","3","4"\n"W2","5","6","",""\n')
    assert is_benchmark(train)
    with pytest.raises(DataError, match="no such file"):
        read_benchmark(train)
    (tmp_path / "Weekly-test.csv").write_text('"V1","V2","V3"\n"W1","7","8"\n"W2","9","10"\n')
    windows = read_benchmark(train)
    assert [(w.id, w.season, w.group, w.history[:, 0].tolist(), w.truth.tolist()) for w in windows] == [
        ("W1", 1, "W", [1, 2, 3, 4], [7, 8]),
        ("W2", 1, "W", [5, 6], [9, 10]),
    ]


@pytest.mark.parametrize("line", ["{}", "[]", '{"train": [1, "x"], "test": [1]}', '{"train": [null], "test": [1]}'])
def test_a_line_that_is_no_benchmark_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"train": [1, 2], "test": [3]}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        read_benchmark(path)


def test_rolling_windows_end_with_the_series() -> None:
    times = pd.date_range("2024-01-01", periods=10, freq="D")
    series = Series("s", np.arange(20.0).reshape(10, 2), times, 7, "D")
    windows = rolling_windows([series, Series("short", np.ones((3, 1)))], 3, 2)
    assert [(w.id, w.group, w.season, len(w.history), w.truth.tolist()) for w in windows] == [
        ("s, 4", "D", 7, 4, [8, 10, 12]),
        ("s, 7", "D", 7, 7, [14, 16, 18]),
    ]
    assert windows[1].future is not None
    np.testing.assert_array_equal(windows[1].future, series.values[7:])


def test_naive2_repeats_a_season_only_where_there_is_one() -> None:
    factors = np.array([0.5, 1.0, 1.5, 1.0])
    seasonal = 100 * np.tile(factors, 6)
    flat = np.random.default_rng(0).normal(100, 1, 24)
    windows = [EvalWindow(str(i), y[:, None], np.zeros(6), 4) for i, y in enumerate((seasonal, flat, -seasonal))]
    forecasts = naive2(windows, 6)
    np.testing.assert_allclose(forecasts[0], 100 * np.resize(factors, 6))
    np.testing.assert_allclose(forecasts[1], flat[-1])
    np.testing.assert_allclose(forecasts[2], -seasonal[-1])


def test_measures_are_as_the_competitions_define_them(competition: Path) -> None:
    rows = evaluate_forecaster([MODEL], [competition])
    assert {row.group for row in rows} == {"Y", "Q", ALL}
    yearly = row_of(rows, "Y", "SeasonalNaive").scores
    # Both repeat the last value: 4 for 6 and 4, 13 for 13 and 15; the steps in sample are 2, 1, 2.
    assert yearly["series"] == 2
    assert yearly["mase"] == pytest.approx(1 / (5 / 3))
    assert yearly["smape"] == pytest.approx((200 * 2 / 10 / 2 + 200 * 2 / 28 / 2) / 2)
    assert yearly["owa"] == pytest.approx(1)
    # One season back: 3, 4, nothing (filled up to 5); a season's difference is 1, where both of its ends were seen.
    quarterly = row_of(rows, "Q", "SeasonalNaive").scores
    assert quarterly["mase"] == pytest.approx(1)
    overall = row_of(rows, ALL, "SeasonalNaive").scores
    assert overall["mase"] == pytest.approx((2 * yearly["mase"] + quarterly["mase"]) / 3)


def test_the_model_is_measured_with_its_coverage_and_time(competition: Path) -> None:
    rows = evaluate_forecaster([MODEL], [competition], limit=2)
    ours = row_of(rows, ALL, "forecast")
    assert ours.scores["series"] == 2
    assert ours.scores["seconds"] > 0
    assert set(ours.by_step) >= {50, 80}
    for interval, shares in ours.by_step.items():
        assert len(shares) == 3
        known = [share for share in shares if share is not None]
        assert min(known) <= ours.scores[f"coverage_{interval}"] <= max(known)
    lines = evaluation_rows(rows)
    assert set(lines["made, all: forecast"]) >= {"smape", "mase", "owa", "coverage_80", "least_80", "most_80"}


def test_plain_series_are_measured_at_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "days.csv"
    values = 10 + np.tile([1.0, 2, 3, 4, 5, 6, 7], 30)
    pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=210), "y": values}).to_csv(path, index=False)
    [ours, *_] = evaluate_forecaster([MODEL], [path], windows=2)
    assert (ours.file, ours.group, ours.scores["series"], ours.scores["windows"]) == ("days", "D", 1, 2)
    path.write_text("y\n1\n2\n")
    with pytest.raises(DataError, match="no series has values"):
        evaluate_forecaster([MODEL], [path])


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Ten daily and five quarterly series without a split; the daily ones name no season."""
    rng = np.random.default_rng(1)
    days = np.tile([1.0, 2, 3, 4, 5, 9, 8], 12)
    records: list[dict[str, object]] = [
        {"id": f"d{i}", "freq": "D", "values": (10 + days + rng.normal(0, 0.5, 84)).tolist()} for i in range(10)
    ]
    records += [
        {"id": f"q{i}", "freq": "Q", "season": 4, "values": rng.normal(9, 1, 40).cumsum().tolist()} for i in range(5)
    ]
    return write_lines(tmp_path / "mixed.jsonl.gz", records)


@pytest.mark.parametrize(
    ("season", "horizon"), [(1, 6), (4, 8), (5, 10), (7, 14), (12, 18), (24, 48), (52, 13), (288, 48)]
)
def test_a_season_has_its_usual_horizon(season: int, horizon: int) -> None:
    assert usual_horizon(season) == horizon


def test_a_collection_is_cut_by_season_and_told_apart_by_frequency(collection: Path) -> None:
    rows = evaluate_forecaster([MODEL], [collection], windows=2)
    for group, series, horizon in (("D", 10, 14), ("Q", 5, 8), (ALL, 15, 14)):
        row = row_of(rows, group, "forecast")
        assert (row.scores["series"], row.scores["windows"]) == (series, 2 * series)
        assert [len(shares) for shares in row.by_step.values()] == [horizon] * 3
    [longer, *_] = evaluate_forecaster([MODEL], [collection], horizon=20)
    assert [len(shares) for shares in longer.by_step.values()] == [20] * 3


def test_a_limit_draws_the_same_whole_series_each_time(collection: Path) -> None:
    series, _ = read_series([collection])
    drawn = [[each.id for each in draw_series(series, 6)] for _ in range(2)]
    assert drawn[0] == drawn[1] == sorted(set(drawn[0]))
    assert len(drawn[0]) == 6
    assert draw_series(series, 100) == series
    row = row_of(evaluate_forecaster([MODEL], [collection], limit=6, windows=3), ALL, "forecast")
    assert (row.scores["series"], row.scores["windows"]) == (6, 18)


def test_a_model_is_measured_with_and_without_a_hint_of_the_season(collection: Path) -> None:
    rows = evaluate_forecaster([MODEL], [collection], baselines=("theta",), hints=("usual", "none"))
    scores = {(row.method, row.hint): row.scores for row in rows if row.group == "D"}
    hinted, silent, theta = scores["forecast", "usual"], scores["forecast", "none"], scores["AutoTheta", None]
    assert hinted["mase_to_no_hint"] == pytest.approx(hinted["mase"] / silent["mase"])
    assert hinted["mase_to_best_fitted"] == pytest.approx(hinted["mase"] / theta["mase"])
    assert silent["relative_mae_to_best_fitted"] == pytest.approx(silent["relative_mae"] / theta["relative_mae"])
    assert {"mase_to_no_hint", "mase_to_best_fitted"}.isdisjoint(theta)
    assert "mixed, D: forecast, hint: none" in evaluation_rows(rows)


def test_a_hint_is_the_season_of_the_frequency_or_that_of_the_data_or_none() -> None:
    manifest = read_manifest(MODEL, ForecastManifest)
    hourly = EvalWindow("a", np.ones((9, 1)), np.ones(2), 24, "h")
    assert hinted_season(manifest, hourly, "usual") == (24, 168)
    assert hinted_season(manifest, hourly, "season") == (24,)
    assert hinted_season(manifest, hourly, "none") is None


@pytest.mark.parametrize("hints", ["usual,day", ""])
def test_an_unknown_hint_is_refused(carry: Run, collection: Path, hints: str) -> None:
    status, _, err = carry("evaluate", str(MODEL), str(collection), "--hints", hints)
    assert (status, "usual, season, none" in err) == (2, True)


def test_each_file_counts_alike_in_the_rows_over_all_files(competition: Path, collection: Path) -> None:
    rows = evaluate_forecaster([MODEL], [competition, collection])
    both = {row.method: row.scores for row in across_files(rows)}
    for method, scores in both.items():
        first, second = (row.scores for row in rows if (row.group, row.method) == (ALL, method))
        assert scores["mase"] == pytest.approx((first["mase"] + second["mase"]) / 2)
        assert scores["relative_mae"] == pytest.approx(math.sqrt(first["relative_mae"] * second["relative_mae"]))
        assert scores["series"] == 18
    assert both["SeasonalNaive"]["relative_mae"] == pytest.approx(1)
    assert across_files([row for row in rows if row.file == "made"]) == []


def test_baselines_without_an_error_leave_ratios_out(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "exact.jsonl.gz", [{"train": [1, 2, 1, 5, 5], "test": [5, 5]}])
    for row in evaluate_forecaster([MODEL], [path]):
        assert {"owa", "relative_mae"}.isdisjoint(row.scores)
        assert row.scores["series_without_ratio"] == 1


def test_a_service_that_does_not_answer_is_an_error(competition: Path) -> None:
    with pytest.raises(DataError, match="batch"):
        evaluate_forecaster([MODEL], [competition], url="http://127.0.0.1:1")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(character_model("gru"), tmp_path_factory.mktemp("models"), "text")


@pytest.mark.parametrize("option", [["--hints", "none"], ["--horizon", "3"], ["--id", "a"], ["--label", "kind"]])
def test_a_text_model_takes_no_options_of_series(carry: Run, text_model: Path, option: list[str]) -> None:
    status, _, err = carry("evaluate", str(text_model), "any.txt", *option)
    assert (status, "not of a text model" in err) == (2, True)


def nats_by_torch(text: str) -> float:
    """Of the network whose weights are rounded as an export rounds them."""
    tokens = torch.from_numpy(CHARACTERS.encode(text)[1])[None]
    network = character_model("gru")
    round_matrices(network)
    with torch.no_grad():
        logits, _ = network.predict(tokens[:, :-1], network.initial_state(1))
        return float(torch.nn.functional.cross_entropy(logits[0].double(), tokens[0, 1:], reduction="sum"))


def test_documents_cost_what_they_cost_alone_from_their_start(text_model: Path, tmp_path: Path) -> None:
    texts = ["the sea; the shore\u2026 " * 40, "she sells", "a", "By the sea, " * 300]
    named = [{"title": name, "text": text} for name, text in zip("abca", texts, strict=True)]
    path = tmp_path / "books.jsonl"
    path.write_text("\n".join(map(json.dumps, named)))
    rows = evaluate_text([text_model], [path])
    assert list(rows)[:5] == ["text", "text, 1. a", "text, 2. b", "text, 3. c", "text, 4. a"]
    lengths = [len(text.replace("\u2026", "...")) - 1 for text in texts]
    costs = [nats_by_torch(text) if len(text) > 1 else 0.0 for text in texts]
    for row, cost, length in zip(list(rows.values())[1:5], costs, lengths, strict=True):
        assert row["nats_per_character"] == pytest.approx(cost / max(1, length), rel=1e-5)
        assert row["characters"] == length
    total = rows["text"]
    assert total["bits_per_character"] == pytest.approx(sum(costs) / math.log(2) / sum(lengths), rel=1e-5)
    assert total["unknown_characters"] == 40  # the semicolons
    assert total["seconds"] > 0
    assert rows["text, int8"]["bits_per_character"] == pytest.approx(total["bits_per_character"], rel=0.02)


def test_the_last_share_of_a_text_begins_afresh(text_model: Path, tmp_path: Path) -> None:
    whole, end = tmp_path / "whole.txt", tmp_path / "end.txt"
    text = "she sells sea shells by the sea shore. " * 5
    whole.write_text(text)
    end.write_text(text[int(len(text) * 0.9) :])
    scores, expected = (
        evaluate_text([text_model], [whole], last=0.1)["text"],
        evaluate_text([text_model], [end])["text"],
    )
    assert scores["characters"] == expected["characters"]
    assert scores["bits_per_character"] == expected["bits_per_character"]
    with pytest.raises(DataError, match="too short"):
        evaluate_text([text_model], [whole], last=0.001)


def test_many_and_long_texts_are_read_in_pieces(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps({"text": "sea shells by the shore"[: 2 + i]}) for i in range(20)))
    whole = evaluate_text([text_model], [path])
    monkeypatch.setattr(models, "DOCUMENTS", 3)
    monkeypatch.setattr(models, "SCORES", 1000)
    cut = evaluate_text([text_model], [path])
    for name, row in whole.items():
        assert cut[name]["bits_per_character"] == pytest.approx(row["bits_per_character"], rel=1e-5)


def days(path: Path) -> Path:
    values = 10 + np.tile([1.0, 2, 3, 4, 5, 6, 7], 30) + np.random.default_rng(0).normal(0, 0.3, 210)
    table = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=210), "y": values, "day": np.arange(210) % 7})
    table.to_csv(path, index=False)
    return path


def test_models_are_measured_side_by_side_at_one_horizon(carry: Run, tmp_path: Path) -> None:
    write_model(forecaster(), tmp_path, "sales")
    write_model(forecaster(features=2), tmp_path, "weather")
    path = tmp_path / "days.csv"
    table = pd.read_csv(days(path)).rename(columns={"y": "value", "day": "f1"})
    manifest = read_manifest(tmp_path / "weather/1", ForecastManifest)
    table.columns = pd.Index(["ds", *manifest.features])
    table.to_csv(path, index=False)
    command = ["evaluate", "sales", str(tmp_path / "weather"), str(path), "--horizon", "24", "--baselines", "none"]
    status, out, err = carry(*command, "--models-dir", str(tmp_path), "--json")
    assert status == 0
    rows = {row["method"]: row for row in json.loads(out)}
    assert [*rows] == [
        *("sales", "sales, int8", "weather", "weather, int8"),
        *("the shipped forecast@2", "Naive", "SeasonalNaive"),
    ]
    assert {len(shares) for row in rows.values() for shares in row["by_step"].values()} == {24}
    assert {tuple(row["by_step"]) for row in rows.values()} == {("50", "80")}
    assert {row["scores"]["windows"] for row in rows.values()} == {1}
    assert rows["the shipped forecast@2"]["scores"]["mase"] < 0.7 * rows["Naive"]["scores"]["mase"]
    assert "carry: forecasting with weather" in err


def test_versions_of_a_model_are_told_apart(carry: Run, tmp_path: Path) -> None:
    for _ in range(2):
        write_model(forecaster(), tmp_path, "sales")
    words = ["evaluate", "sales@1", "sales@2", str(days(tmp_path / "d.csv")), "--target", "y", "--baselines", "none"]
    status, out, _ = carry(*words, "--models-dir", str(tmp_path))
    assert status == 0
    for label in ("sales@1", "sales@2", "sales@2, int8", "the shipped forecast@2"):
        assert f"| d, D: {label} |" in out


def test_the_shipped_model_is_not_compared_with_itself(carry: Run, tmp_path: Path) -> None:
    path = days(tmp_path / "d.csv")
    status, out, _ = carry("evaluate", "forecast", str(path), "--target", "y", "--baselines", "none")
    assert status == 0
    assert "the shipped" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["d.csv"], "d.csv is a file: name a model before it"),
        (["forecast"], "name a file to measure on after the models"),
        (["nothing", "d.csv"], "nothing is no model"),
        (["forecast", "text-fast", "d.csv"], "models of one kind are compared, not forecast@2 forecast"),
        (["forecast", "absent.csv"], "absent.csv: no such file"),
    ],
)
def test_words_that_name_no_model_or_no_file_are_named(
    carry: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    days(tmp_path / "d.csv")
    monkeypatch.chdir(tmp_path)
    status, _, err = carry("evaluate", *words)
    assert (status, said in " ".join(err.replace("\u2502", " ").split())) == (2, True)


def test_text_models_are_measured_beside_the_shipped_one(carry: Run, text_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("she sells sea shells by the sea shore.\n" * 3)
    status, out, _ = carry("evaluate", str(text_model), str(path))
    assert status == 0
    rows = [line.split("|")[1].strip() for line in out.splitlines()[2:]]
    assert rows == ["text", "text, int8", "the shipped text-fast@1"]
