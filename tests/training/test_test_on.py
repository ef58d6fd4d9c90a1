"""Forecasters that are measured on a file of their own."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carry.files import DataError, Series
from service.forecast.manifest import ForecastManifest
from service.manifest import read_manifest
from tests.conftest import Run
from training.recipes.forecast import follow_on

DAYS = pd.date_range("2024-01-01", periods=40)
SMALL = ["--horizon", "1", "--hidden", "4", "--context", "8", "--epochs", "2", "--no-baselines"]


def series(id: str, first: int, last: int) -> Series:
    return Series(id, np.arange(first, last, dtype=float)[:, None], DAYS[first:last], 7, "D")


def test_a_series_that_goes_on_is_forecast_from_its_first_value() -> None:
    joined, split = follow_on([series("a", 0, 30), series("b", 0, 30)], series("a", 32, 40), 60)
    assert split.valid_end == 30
    assert np.array_equal(joined.values[:, 0], [*range(30), np.nan, np.nan, *range(32, 40)], equal_nan=True)
    assert joined.times is not None
    assert joined.times.equals(DAYS)


def test_the_only_series_of_both_files_goes_on_under_another_name() -> None:
    joined, split = follow_on([series("train", 0, 30)], series("test", 30, 40), 60)
    assert (joined.id, len(joined.values), split.valid_end) == ("test", 40, 30)


def test_of_a_whole_series_only_the_new_values_are_measured() -> None:
    joined, split = follow_on([series("a", 0, 30)], series("a", 0, 40), 60)
    assert (len(joined.values), split.valid_end) == (40, 30)
    with pytest.raises(DataError, match="trained on all times of the series a"):
        follow_on([series("a", 0, 30)], series("a", 5, 25), 60)


@pytest.mark.parametrize(("context", "start"), [(8, 8), (60, 20)])
def test_a_series_by_itself_is_forecast_after_the_first_values(context: int, start: int) -> None:
    alone = Series("c", np.arange(40.0)[:, None])
    for trained_on in ([series("a", 0, 30)], [series("a", 0, 30), series("b", 0, 30)]):
        measured, split = follow_on(trained_on, alone, context)
        assert measured is alone
        assert split.valid_end == start


def test_the_card_measures_the_file_in_a_table_and_a_picture(
    carry: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sales = pd.DataFrame({"date": DAYS, "sales": 10 + np.sin(np.arange(40))})
    sales[:30].to_csv("train.csv", index=False)
    sales[30:].to_csv("test.csv", index=False)
    command = ["train", "forecast", "train.csv", "--name", "sales", "--test-on", "test.csv", *SMALL]
    status, _, err = carry(*command)
    assert status == 0
    assert "carry: test.csv: 10 rows, 1 series, D, 2024-01-31 to 2024-02-09\n" in err
    folder = Path("models/sales/1")
    assert "10 windows of the test part" in (folder / "CARD.md").read_text()
    assert len((folder / "pictures/test.csv").read_text().splitlines()) == 11
    manifest = read_manifest(folder, ForecastManifest)
    assert [source.file for source in manifest.provenance.data] == ["train.csv", "test.csv"]
    assert "nothing to do" in carry(*command)[2]
    sales[30:35].to_csv("test.csv", index=False)
    assert "test.csv has changed: training anew" in carry(*command)[2]
    status, _, err = carry("train", "forecast", "train.csv", "--name", "x", "--test-on", "train.csv", *SMALL)
    assert (status, "is among the files to train on" in " ".join(err.replace("│", " ").split())) == (2, True)
