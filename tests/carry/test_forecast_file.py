"""From files to tables and pictures: the same forecasts as over HTTP."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from carry import forecast_file as verb
from carry.files import DataError
from carry.forecast_file import ForecastOptions, forecast_file, forecast_table, preview, write_picture, write_table
from service.forecast.manifest import ForecastManifest
from service.settings import Settings


def months(count: int, start: str = "2015-01-01") -> pd.DatetimeIndex:
    return pd.date_range(start, periods=count, freq="MS")


def sales(count: int, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, 2, count)
    values = 100 + np.arange(count) + 20 * np.sin(np.arange(count) * np.pi / 6) + noise
    return [round(float(value), 3) for value in values]


def write_long(path: Path, lengths: dict[str, int]) -> Path:
    parts = [
        pd.DataFrame({"unique_id": id, "ds": months(count), "y": sales(count, seed)})
        for seed, (id, count) in enumerate(lengths.items())
    ]
    table = pd.concat(parts)
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    return path


def test_forecasts_are_those_of_the_service(
    tmp_path: Path, shipped: TestClient, manifest: ForecastManifest, settings: Settings
) -> None:
    lengths = {"a": 60, "b": 3, "c": 47}
    forecasts = forecast_file(write_long(tmp_path / "a.csv", lengths), manifest, settings, ForecastOptions(30, (80,)))
    for seed, (quantiles, times) in enumerate(zip(forecasts.quantiles, forecasts.times, strict=True)):
        series = sales([*lengths.values()][seed], seed)
        body = {"series": series, "horizon": 30, "levels": [80], "start": "2015-01-01", "freq": "MS"}
        answer = shipped.post("/forecast", json=body).json()
        expected = np.array([answer["quantiles"]["0.1"], answer["median"], answer["quantiles"]["0.9"]]).T
        assert isinstance(quantiles, np.ndarray)
        np.testing.assert_allclose(quantiles, expected, rtol=1e-12)
        assert [f"{time:%Y-%m-%d}" for time in times] == answer["timestamps"]


def test_several_processes_forecast_as_one_does(
    tmp_path: Path, manifest: ForecastManifest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_long(tmp_path / "a.parquet", {"a": 60, "b": 5, "c": 40, "d": 12})
    alone = forecast_table(forecast_file(path, manifest, settings, ForecastOptions(5)))
    monkeypatch.setattr(verb, "WORTH_PROCESSES", 0)
    together = forecast_file(path, manifest, settings.model_copy(update={"processes": 2}), ForecastOptions(5))
    pd.testing.assert_frame_equal(forecast_table(together), alone)


def test_a_missing_row_is_a_missing_value(tmp_path: Path, manifest: ForecastManifest, settings: Settings) -> None:
    values = sales(40)
    table = pd.DataFrame({"ds": months(40), "y": values})
    table.drop(index=[7, 20]).to_csv(tmp_path / "rows.csv", index=False)
    table.loc[[7, 20], "y"] = np.nan
    table.to_csv(tmp_path / "cells.csv", index=False)
    rows, cells = (
        forecast_table(forecast_file(tmp_path / name, manifest, settings, ForecastOptions(4)))
        for name in ("rows.csv", "cells.csv")
    )
    pd.testing.assert_frame_equal(rows, cells)
    assert rows["ds"].dt.strftime("%Y-%m-%d").tolist() == ["2018-05-01", "2018-06-01", "2018-07-01", "2018-08-01"]


def test_times_without_a_frequency_are_refused(tmp_path: Path, manifest: ForecastManifest, settings: Settings) -> None:
    path = tmp_path / "a.csv"
    path.write_text("ds,y\n2024-01-01 00:00:01,1\n2024-02-07 03:11:00,2\n2024-05-01 11:00:07,3\n")
    for freq in (None, "D"):
        with pytest.raises(DataError, match="frequency"):
            forecast_file(path, manifest, settings, ForecastOptions(2, freq=freq))


def test_ids_come_back_as_they_were(tmp_path: Path, manifest: ForecastManifest, settings: Settings) -> None:
    ids = ["007", "7", "1E5", "NA", "None", "True", "a/b"]
    path = tmp_path / "ids.csv"
    rows = [f"{id},{time:%Y-%m-%d},{value}" for id in ids for time, value in zip(months(6), sales(6), strict=True)]
    path.write_text("unique_id,ds,y\n" + "\n".join(rows))
    forecasts = forecast_file(path, manifest, settings, ForecastOptions(2))
    assert forecast_table(forecasts)["unique_id"].tolist() == [id for id in ids for _ in range(2)]
    numbers = pd.DataFrame({"unique_id": np.repeat([5, 70], 6), "ds": np.tile(months(6), 2), "y": sales(12)})
    numbers.to_parquet(tmp_path / "ids.parquet")
    table = forecast_table(forecast_file(tmp_path / "ids.parquet", manifest, settings, ForecastOptions(1)))
    assert table["unique_id"].tolist() == [5, 70]
    assert pd.api.types.is_integer_dtype(table["unique_id"])


def test_several_columns_that_name_a_series_come_back(
    tmp_path: Path, manifest: ForecastManifest, settings: Settings
) -> None:
    names = [("01", "x"), ("01", "y"), ("02", "x")]
    rows = [f"{time:%Y-%m-%d},{store},{item},{i}" for i, time in enumerate(months(8)) for store, item in names]
    (tmp_path / "shops.csv").write_text("date,store,item,sales\n" + "\n".join(rows))
    table = forecast_table(forecast_file(tmp_path / "shops.csv", manifest, settings, ForecastOptions(1)))
    assert [*table.columns[:4]] == ["unique_id", "store", "item", "ds"]
    assert table[["store", "item"]].agg(tuple, axis=1).tolist() == names
    assert table["unique_id"].tolist() == ["01/x", "01/y", "02/x"]


def test_the_series_that_fail_are_listed_and_the_report_says_what_was_read(
    tmp_path: Path, manifest: ForecastManifest, settings: Settings
) -> None:
    rows = [f"a,2024-01-{day:02},{day}" for day in range(1, 15)] + ["b,2024-01-01,", "b,2024-01-02,"]
    (tmp_path / "l.csv").write_text("unique_id,ds,y\n" + "\n".join(rows))
    forecasts = forecast_file(tmp_path / "l.csv", manifest, settings, ForecastOptions(2))
    assert forecast_table(forecasts)["unique_id"].tolist() == ["a", "a"]
    assert [(failure.id, failure.reason) for failure in forecasts.failures] == [("b", "it holds no value at all")]
    report = "\n".join(forecasts.report())
    assert "l.csv: 16 rows, 1 series, D, 2024-01-01 to 2024-01-14" in report
    assert "missing in `y`: 2 empty" in report


def test_times_go_on_as_the_file_counts_them(tmp_path: Path, manifest: ForecastManifest, settings: Settings) -> None:
    for content, expected in (
        ("ds,y\n1,1\n2,2\n4,4\n5,5\n6,6\n", [7, 8]),
        ("year,y\n1990,1\n1991,2\n1992,3\n1993,5\n", [1994, 1995]),
        ("y\n1\n2\n3\n", [1, 2]),
    ):
        (tmp_path / "t.csv").write_text(content)
        forecasts = forecast_file(tmp_path / "t.csv", manifest, settings, ForecastOptions(2))
        assert forecast_table(forecasts)["ds"].tolist() == expected


def test_a_table_is_written_and_a_picture_drawn(tmp_path: Path, manifest: ForecastManifest, settings: Settings) -> None:
    path = write_long(tmp_path / "a.csv", {"a": 30, "b": 40})
    forecasts = forecast_file(path, manifest, settings, ForecastOptions(30, (50, 80), non_negative=True))
    table = forecast_table(forecasts)
    assert [*table.columns] == ["unique_id", "ds", "median", "lo-80", "hi-80", "lo-50", "hi-50"]
    assert (table["lo-80"] <= table["lo-50"]).all()
    assert (table["lo-80"] >= 0).all()
    write_table(table, tmp_path / "out.csv")
    write_table(table, tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out.csv", parse_dates=["ds"]), table, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out.parquet"), table, check_dtype=False)
    write_picture(forecasts, tmp_path / "fan.png")
    assert (tmp_path / "fan.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "fan.csv").exists()
    assert "and 12 more" in preview(table)
    with pytest.raises(DataError, match="cannot be written"):
        write_table(table, tmp_path / "nowhere/out.csv")
    with pytest.raises(DataError, match="cannot be written"):
        write_picture(forecasts, tmp_path / "fan.xyz")
