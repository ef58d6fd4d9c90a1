"""The times of series: in their zone, at their frequency, without gaps; the same for every verb."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from carry.files import DataError, Series, find_categories, read_series
from carry.forecast_file import ForecastOptions, as_json, forecast_file, forecast_table
from service.forecast.manifest import ForecastManifest
from service.settings import Settings
from tests.conftest import SHIPPED, Run
from training.evaluation import evaluate
from training.recipes import forecast as train_forecast


def days(count: int) -> pd.DataFrame:
    times = pd.date_range("2024-01-01", periods=count, freq="D")
    values = 50 + 10.0 * (times.dayofweek.to_numpy() == 5) + np.arange(count) / 10
    return pd.DataFrame({"ds": times, "y": values, "warm": np.arange(count) % 5})


def test_every_verb_reads_the_same_series(
    tmp_path: Path, carry: Run, manifest: ForecastManifest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = days(120)
    closed = (table["ds"].dt.dayofweek == 6) & (np.arange(120) < 119)
    table.loc[118:, "y"] = np.nan
    shop, cells = tmp_path / "shop.csv", tmp_path / "cells.csv"
    table[~closed].to_csv(shop, index=False)
    table.assign(y=table["y"].mask(closed)).to_csv(cells, index=False)
    read: list[Series] = []

    def record(series: list[Series], *_: Any) -> list[Any]:
        read.extend(series)
        raise DataError("enough")

    for path in (shop, cells):
        read += forecast_file(path, manifest, settings, ForecastOptions(3, target="y")).series
        with monkeypatch.context() as patch:
            patch.setattr(train_forecast, "train", record)
            patch.setattr(evaluate, "rolling_windows", record)
            for verb in (["train", "forecast", "--name", "shop"], ["evaluate", str(SHIPPED / "forecast/2")]):
                status, _, err = carry(*verb, str(path), "--target", "y")
                assert (status, "enough" in err) == (2, True)
    assert len(read) == 6
    for series in read:
        assert (series.freq, series.season, len(series.values)) == ("D", 7, 118)
        np.testing.assert_array_equal(series.values, read[0].values)
        assert series.times is not None
        assert list(series.times) == list(table["ds"][:118])


@pytest.mark.parametrize("verb", [["forecast"], ["train", "forecast", "--name", "x"], ["evaluate"]])
@pytest.mark.parametrize("long", [False, True])
def test_every_verb_refuses_a_time_that_occurs_twice(tmp_path: Path, carry: Run, verb: list[str], long: bool) -> None:
    rows = ["2024-10-20 01:00", "2024-10-20 02:00", "2024-10-20 02:00", "2024-10-20 03:00"]
    path = tmp_path / "autumn.csv"
    ids = ("unique_id,", "a,") if long else ("", "")
    path.write_text(f"{ids[0]}ds,y\n" + "".join(f"{ids[1]}{time},{i}\n" for i, time in enumerate(rows)))
    model = [str(SHIPPED / "forecast/2")] if verb == ["evaluate"] else []
    status, _, err = carry(*verb, *model, str(path))
    assert status == 2
    words = " ".join(err.replace("\u2502", " ").split())
    assert "2024-10-20 02:00:00" in words
    assert "is in line 3 and line 4" in words


@pytest.mark.parametrize("features", [False, True])
def test_rows_without_a_target_at_the_end_are_the_future(
    tmp_path: Path, manifest: ForecastManifest, settings: Settings, features: bool
) -> None:
    data = days(60)
    data.loc[50:, "y"] = np.nan
    whole, past = tmp_path / "whole.csv", tmp_path / "past.csv"
    data.to_csv(whole, index=False)
    data[:50].to_csv(past, index=False)
    options = ForecastOptions(5, target="y")
    table, expected = (forecast_table(forecast_file(path, manifest, settings, options)) for path in (whole, past))
    pd.testing.assert_frame_equal(table.drop(columns="unique_id"), expected.drop(columns="unique_id"))
    assert f"{table['ds'][0]:%Y-%m-%d}" == "2024-02-20"
    if features:
        [series] = read_series([whole], "y", ["warm"])[0]
        assert series.values.shape == (50, 2)
        np.testing.assert_array_equal(series.future, [[np.nan, i % 5] for i in range(50, 60)])


@pytest.mark.parametrize(("freq", "first"), [("h", "2024-03-31T00:00:00+01:00"), ("D", "2024-03-31T00:00:00+01:00")])
def test_forecasts_come_back_in_the_zone_over_a_change_of_clocks(
    tmp_path: Path, manifest: ForecastManifest, settings: Settings, freq: str, first: str
) -> None:
    times = pd.date_range(
        end="2024-03-30 23:00" if freq == "h" else "2024-03-30", periods=60, freq=freq, tz="Europe/Berlin"
    )
    pd.DataFrame({"ds": times, "y": np.arange(60.0)}).to_parquet(tmp_path / "a.parquet")
    table = forecast_table(forecast_file(tmp_path / "a.parquet", manifest, settings, ForecastOptions(4)))
    following = [time.isoformat() for time in table["ds"]]
    expected = {
        "h": [first, "2024-03-31T01:00:00+01:00", "2024-03-31T03:00:00+02:00", "2024-03-31T04:00:00+02:00"],
        "D": [first, "2024-04-01T00:00:00+02:00", "2024-04-02T00:00:00+02:00", "2024-04-03T00:00:00+02:00"],
    }
    assert following == expected[freq]
    assert expected[freq][2] in as_json(table)


def test_hours_with_an_offset_keep_it(tmp_path: Path, manifest: ForecastManifest, settings: Settings) -> None:
    times = pd.date_range("2025-01-01", periods=200, freq="h", tz="Europe/Berlin")
    pd.DataFrame({"ds": [str(time) for time in times], "y": np.arange(200) % 24}).to_csv(
        tmp_path / "a.csv", index=False
    )
    table = forecast_table(forecast_file(tmp_path / "a.csv", manifest, settings, ForecastOptions(2)))
    assert table.to_csv(index=False).splitlines()[1].split(",")[1] == "2025-01-09 08:00:00+01:00"


def test_categories_that_are_numbers_are_read_as_written(tmp_path: Path) -> None:
    gap, whole, zeros = (tmp_path / name for name in ("gap.csv", "whole.csv", "zeros.csv"))
    gap.write_text("date,y,promo\n2024-01-01,1,1\n2024-01-02,2,\n2024-01-03,3,2\n")
    whole.write_text("date,y,promo\n2024-01-01,1,1\n2024-01-02,2,2\n2024-01-03,3,2\n")
    zeros.write_text("date,y,promo\n2024-01-01,1,01\n2024-01-02,2,02\n2024-01-03,3,02\n")
    pd.read_csv(gap).to_parquet(tmp_path / "gap.parquet")
    assert find_categories([gap], ["promo"]) == find_categories([whole], ["promo"]) == {"promo": ("1", "2")}
    assert find_categories([tmp_path / "gap.parquet"], ["promo"]) == {"promo": ("1", "2")}
    assert find_categories([zeros], ["promo"]) == {"promo": ("01", "02")}
    categories = find_categories([gap], ["promo"])
    for path, expected in ((gap, [0, np.nan, 1]), (whole, [0, 1, 1]), (tmp_path / "gap.parquet", [0, np.nan, 1])):
        [series] = read_series([path], "y", ["promo"], categories)[0]
        np.testing.assert_array_equal(series.values[:, 1], expected)
