"""Data frames of pandas, polars and pyarrow as series, and answers as frames of the same kind."""

import warnings
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import carry
from carry.times.grids import frequency, time_grid
from service.errors import CarryError, InvalidRequestError
from tests.conftest import SHIPPED

Make = Callable[[dict[str, Any]], Any]
KINDS: dict[str, Make] = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}


@pytest.fixture(scope="module")
def model(models: Path) -> Iterator[carry.LocalModel]:
    with carry.load("forecast", models) as opened:
        yield opened


@pytest.fixture(scope="module")
def weather(models: Path) -> Iterator[carry.LocalModel]:
    """Takes two features, f0 and f1."""
    with carry.load("weather", models) as opened:
        yield opened


def days(count: int, step: int = 1) -> list[datetime]:
    return [datetime(2024, 1, 30) + timedelta(step * i) for i in range(count)]


def columns(frame: Any) -> dict[str, list[Any]]:
    """The columns of a frame as lists."""
    return {name: column.to_list() for name, column in nw.from_native(frame).to_dict(as_series=True).items()}


values = st.lists(st.none() | st.floats(-1e4, 1e4), min_size=2, max_size=12).filter(lambda items: any(items))


@pytest.mark.parametrize("kind", KINDS)
@given(panel=st.lists(values, min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_a_frame_has_the_forecasts_of_its_series_one_by_one(
    model: carry.LocalModel, kind: str, panel: list[list[float | None]], seed: int
) -> None:
    rows = [(f"s{i}", day, y) for i, series in enumerate(panel) for day, y in zip(days(99), series, strict=False)]
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    ids, times, ys = zip(*shuffled, strict=True)
    frame = KINDS[kind]({"unique_id": ids, "ds": times, "y": np.array(ys, dtype=np.float64)})
    found = columns(model.forecast(frame, 3, levels=[80]))
    order = dict.fromkeys(ids)
    assert found["unique_id"] == [id for id in order for _ in range(3)]
    for k, id in enumerate(order):
        series = panel[int(id[1:])]
        alone = model.forecast(series, 3, levels=[80], freq="D")
        assert found["median"][3 * k : 3 * k + 3] == alone.median.tolist()
        assert found["lo-80"][3 * k : 3 * k + 3] == alone.quantiles[0.1].tolist()
        assert found["hi-80"][3 * k : 3 * k + 3] == alone.quantiles[0.9].tolist()
        expected = days(len(series) + 3)[-3:]
        assert [time.replace(tzinfo=None) for time in found["ds"][3 * k : 3 * k + 3]] == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ids", "times"),
    [
        (["a", "b"], days(6)),
        ([7, 8], [time.date() for time in days(6)]),
        (["007", "NA"], list(range(10, 16))),
        ([True, False], [time.replace(tzinfo=ZoneInfo("Europe/Berlin")) for time in days(6)]),
        (["a", "b"], [time.isoformat() for time in days(6)]),
        (["a", "b"], [str(time.date()) for time in days(6)]),
    ],
)
def test_the_kind_of_frame_and_its_types_come_back(
    model: carry.LocalModel, kind: str, ids: list[Any], times: list[Any]
) -> None:
    frame = KINDS[kind](
        {"unique_id": [ids[0]] * 6 + [ids[1]] * 6, "ds": times * 2, "y": [1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6]}
    )
    before = nw.from_native(frame).schema
    backtest = model.backtest(frame, 1, 2)
    for answer in (model.forecast(frame, 2), model.anomalies(frame), backtest.forecasts, backtest.metrics):
        assert type(answer) is type(frame)
        after = nw.from_native(answer).schema
        assert {name: after[name] for name in ("unique_id", "ds") if name in after} == {
            name: before[name] for name in ("unique_id", "ds") if name in after
        }
        for column in (nw.from_native(answer)["unique_id"], nw.from_native(answer)["unique_id"]):
            assert {*column.to_list()} == {*ids}
    written = columns(frame)["ds"]
    assert columns(backtest.forecasts)["ds"] == written[4:6] * 2
    assert columns(backtest.forecasts)["cutoff"] == written[3:5] * 2
    ahead = columns(model.forecast(frame, 1))["ds"]
    assert ahead == columns(KINDS[kind]({"ds": [_next(times)] * 2}))["ds"]
    assert columns(model.anomalies(frame))["ds"] == columns(frame)["ds"]
    assert columns(model.anomalies(frame))["y"] == columns(frame)["y"]


def _next(times: list[Any]) -> Any:
    """The value after the last of daily or whole times, as they are written."""
    if isinstance(times[-1], str):
        following = datetime.fromisoformat(times[-1]) + timedelta(1)
        return following.isoformat() if "T" in times[-1] else str(following.date())
    return times[-1] + (1 if isinstance(times[-1], int) else timedelta(1))


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_nulls_and_nan_are_missing_values(model: carry.LocalModel, kind: str) -> None:
    series: list[float | None] = [1, 2, None, 4, None, 6, 5, 4]
    with_gap = [(day, y) for i, (day, y) in enumerate(zip(days(8), series, strict=True)) if i != 2]
    frame = KINDS[kind]({"ds": [day for day, _ in with_gap], "y": [y for _, y in with_gap]})
    alone = model.forecast(series, 3, freq="D")
    assert columns(model.forecast(frame, 3))["median"] == alone.median.tolist()
    judged = columns(model.anomalies(frame))
    expected = model.anomalies(series, freq="D")
    places = [0, 1, 3, 4, 5, 6, 7]
    verdicts = [None if item is None or item is pd.NA else item for item in judged["anomaly"]]
    assert verdicts == [expected.anomaly[i] for i in places]
    np.testing.assert_array_equal(np.array(judged["median"], float), expected.median[places])


def test_pandas_own_types_are_read_and_come_back(model: carry.LocalModel) -> None:
    frame = pd.DataFrame({"unique_id": pd.Categorical(["b"] * 4 + ["a"] * 4), "ds": days(4) * 2, "y": range(8)})
    frame["y"] = frame["y"].astype("Int64")
    frame.loc[1, "y"] = pd.NA
    frame.index = pd.Index(range(50, 58))
    answer = model.forecast(frame, 2)
    assert answer["unique_id"].dtype == frame["unique_id"].dtype
    assert answer["unique_id"].tolist() == ["b", "b", "a", "a"]
    assert answer["median"].tolist()[:2] == model.forecast([0, None, 2, 3], 2, freq="D").median.tolist()
    verdicts = model.anomalies(frame, level=1)
    assert len(verdicts[verdicts["anomaly"]]) == verdicts["anomaly"].sum() > 0  # a missing verdict selects nothing
    decimals = frame.assign(y=pd.Series([Decimal(i) for i in range(8)], index=frame.index, dtype="object"))
    assert model.forecast(decimals, 2)["median"].tolist()[2:] == answer["median"].tolist()[2:]


def test_columns_may_have_other_names(model: carry.LocalModel) -> None:
    frame = pl.DataFrame({"shop": ["a"] * 4, "day": days(4), "sales": [1, 2, 3, 4]})
    answer = model.forecast(frame, 1, id_column="shop", time_column="day", target="sales", quantiles=[0.25, 0.5])
    assert answer.columns == ["shop", "day", "median", "q-0.25", "q-0.5"]


def test_a_frame_without_ids_is_one_series(model: carry.LocalModel) -> None:
    answer = model.forecast(pl.DataFrame({"ds": days(4), "y": [1, 2, 3, 4]}), 2, levels=[50])
    assert answer.columns == ["ds", "median", "lo-50", "hi-50"]


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_the_model_are_read_and_other_columns_are_not(weather: carry.LocalModel, kind: str) -> None:
    f1 = ["a", "b", None, "c"]
    frame = KINDS[kind]({"ds": days(4), "y": [1.0, 2, 3, 4], "f1": f1, "note": ["x", "y", "z", "x"]})
    alone = weather.forecast({"f0": [1, 2, 3, 4], "f1": f1}, 2, freq="D")
    assert columns(weather.forecast(frame, 2))["median"] == alone.median.tolist()


def test_the_future_of_features_is_a_frame_that_goes_on(weather: carry.LocalModel) -> None:
    ids, f1 = ["s"] * 4 + ["t"] * 4, ["a", "b", "c", "a"] * 2
    frame = pl.DataFrame({"unique_id": ids, "ds": days(4) * 2, "y": range(8), "f1": f1})
    future = pl.DataFrame({"unique_id": ["s"] * 3, "ds": days(7)[4:], "f1": ["c", "c", "b"]}).reverse()
    answer = weather.forecast(frame, 3, future=future)["median"].to_list()
    series = [{"f0": [0, 1, 2, 3], "f1": f1[:4]}, {"f0": [4, 5, 6, 7], "f1": f1[4:]}]
    expected = [
        weather.forecast(series[0], 3, freq="D", future={"f1": ["c", "c", "b"]}),
        weather.forecast(series[1], 3, freq="D"),
    ]
    assert answer == [*expected[0].median, *expected[1].median]
    assert answer != weather.forecast(frame, 3)["median"].to_list()
    with pytest.raises(InvalidRequestError, match="right after the last value"):
        weather.forecast(frame, 3, future=future.with_columns(pl.col("ds") + timedelta(1)))


def test_the_good_series_come_back_and_the_others_are_listed(model: carry.LocalModel) -> None:
    ids = ["good"] * 4 + ["empty"] * 4 + ["double"] * 4 + ["fine"] * 4
    times = days(4) * 2 + [days(1)[0]] * 2 + days(2) + days(4)
    ys = [1.0, 2, 3, 4] + [None] * 4 + [1, 2, 3, 4] * 2
    frame = pl.DataFrame({"unique_id": ids, "ds": times, "y": ys})
    with pytest.warns(carry.SkippedSeriesWarning, match="2 of 4 series are left out: empty: .*; double: ") as caught:
        answer = model.forecast(frame, 2)
    assert answer["unique_id"].to_list() == ["good"] * 2 + ["fine"] * 2
    assert caught[0].filename == __file__
    warning = caught[0].message
    assert isinstance(warning, carry.SkippedSeriesWarning)
    assert {id: type(error) for id, error in warning.errors.items()} == dict.fromkeys(
        ("empty", "double"), InvalidRequestError
    )
    for bad in ("empty", "double"):
        with pytest.raises(CarryError):
            model.forecast(frame.filter(pl.col("unique_id") == bad), 2)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"ds": days(3), "x": [1, 2, 3]}, "there is no column 'y', only: ds, x"),
        ({"unique_id": ["a"] * 3, "y": [1, 2, 3]}, "there is no column 'ds'"),
        ({"ds": days(3), "y": ["a", "b", "c"]}, "holds no numbers"),
        ({"ds": days(3), "y": [1, float("inf"), 2]}, "row 1 is infinite"),
        ({"ds": ["2024-01-01", "today", "2024-01-03"], "y": [1, 2, 3]}, "row 1 is no time: 'today'"),
        ({"ds": [*days(2), None], "y": [1, 2, 3]}, "row 2 has no time"),
        ({"unique_id": ["a", None, "a"], "ds": days(3), "y": [1, 2, 3]}, "row 1 has no id"),
        ({"ds": [datetime(2024, 1, 1), datetime(2024, 1, 5), datetime(2024, 2, 9)], "y": [1, 2, 3]}, "no frequency"),
        ({"ds": [*days(5), datetime(9024, 1, 1)], "y": [1, 2, 3, 4, 5, 6]}, "lie too far apart"),
    ],
)
def test_what_is_wrong_with_a_frame_is_named(model: carry.LocalModel, frame: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        model.forecast(pl.DataFrame(frame, strict=False), 2)


def test_no_row_is_an_error(model: carry.LocalModel) -> None:
    with pytest.raises(InvalidRequestError, match="no row"):
        model.forecast(pl.DataFrame({"ds": [], "y": []}), 2)


def test_what_is_no_series_is_an_error(model: carry.LocalModel) -> None:
    for data in ("abc", 3, None, object()):
        with pytest.raises(InvalidRequestError, match="data frames of pandas, polars or pyarrow"):
            model.forecast(data, 2)


@pytest.mark.parametrize(
    ("times", "freq"),
    [
        (pd.date_range("2024-01-31", periods=9, freq="D"), "D"),
        (pd.date_range("2024-01-31", periods=9, freq="2D"), "2D"),
        (pd.date_range("2024-01-05", periods=9, freq="W-FRI"), "W"),
        (pd.date_range("2024-01-05", periods=9, freq="4W-FRI"), "4W"),
        (pd.date_range("2024-01-05", periods=9, freq="B"), "B"),
        (pd.date_range("2024-01-31", periods=9, freq="ME"), "ME"),
        (pd.date_range("2024-01-01", periods=9, freq="MS"), "MS"),
        (pd.date_range("2024-01-01", periods=9, freq="BMS"), "BMS"),
        (pd.date_range("2024-01-01", periods=9, freq="BME"), "BME"),
        (pd.date_range("2024-01-15", periods=1) + pd.to_timedelta(0, "D"), None),
        (pd.DatetimeIndex([datetime(2024, month, 15) for month in range(1, 9)]), "M"),
        (pd.date_range("2024-02-29", periods=9, freq="QE-FEB"), "QE-FEB"),
        (pd.date_range("2024-02-01", periods=9, freq="QS-FEB"), "QS-FEB"),
        (pd.date_range("2024-01-01", periods=9, freq="YS"), "YS-JAN"),
        (pd.date_range("2024-06-30", periods=9, freq="YE-JUN"), "YE-JUN"),
        (pd.date_range("2024-01-01", periods=9, freq="6MS"), "6MS"),
        (pd.date_range("2024-01-31 07:30", periods=9, freq="h"), "h"),
        (pd.date_range("2024-01-31", periods=9, freq="15min"), "15min"),
        (pd.date_range("2024-01-31", periods=9, freq="30s"), "30s"),
        (pd.date_range("2024-01-31 12:00", periods=9, freq="D"), "D"),
        (pd.DatetimeIndex(["2024-01-01", "2024-01-05", "2024-02-09"]), None),
    ],
)
def test_the_frequency_is_found_in_the_times(times: pd.DatetimeIndex, freq: str | None) -> None:
    microseconds = times.as_unit("us").asi8
    assert frequency(microseconds, microseconds) == freq


FREQUENCIES = ("D", "W-WED", "B", "ME", "MS", "BME", "QE-DEC", "QS-OCT", "YE-JUN", "h", "15min", "7D", "2MS", "90s")


@given(
    freq=st.sampled_from(FREQUENCIES),
    start=st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
    dropped=st.sets(st.integers(1, 28), max_size=10),
    zone=st.sampled_from([None, "Europe/Berlin", "America/New_York", "UTC"]),
)
def test_a_regular_grid_with_gaps_goes_on_as_pandas_would(
    freq: str, start: datetime, dropped: set[int], zone: str | None
) -> None:
    grid = pd.date_range(start.replace(microsecond=0), periods=33, freq=freq)
    if freq not in ("h", "15min", "90s"):
        grid = grid.normalize() + pd.Timedelta(hours=12)  # an hour that no change of clocks touches
    if zone is not None:
        by_passing = freq in ("h", "15min", "90s")
        grid = grid.tz_localize("UTC").tz_convert(zone) if by_passing else grid.tz_localize(zone)
    kept = [i for i in range(30) if i not in dropped]
    naive = grid.tz_localize(None).as_unit("us").asi8
    passing = (grid if zone is None else grid.tz_convert("UTC").tz_localize(None)).as_unit("us").asi8
    found = time_grid(naive[kept], passing[kept], freq)
    assert found.indices.tolist() == kept
    clock = naive if found.by_wall else passing
    assert found.after(3).tolist() == clock[30:].tolist()


def test_days_at_midnight_stay_days_when_clocks_change(model: carry.LocalModel) -> None:
    zone = ZoneInfo("Europe/Berlin")
    times = [datetime(2024, 3, 25, tzinfo=zone) + timedelta(i) for i in range(6)]  # clocks change on March 31
    answer = model.forecast(pl.DataFrame({"ds": times, "y": [1, 2, 3, 4, 5, 6]}), 3)
    assert answer["ds"].to_list() == [datetime(2024, 3, 31, tzinfo=zone) + timedelta(i) for i in range(3)]


def test_hours_go_on_through_a_change_of_clocks(model: carry.LocalModel) -> None:
    times = pd.date_range("2024-10-26 20:00", periods=6, freq="h", tz="Europe/Berlin")
    answer = model.forecast(pd.DataFrame({"ds": times, "y": range(6)}), 4)
    expected = pd.date_range("2024-10-26 20:00", periods=10, freq="h", tz="Europe/Berlin")[6:]
    assert answer["ds"].tolist() == expected.tolist()
    assert len({*answer["ds"].dt.tz_convert("UTC")}) == 4


def test_a_short_series_has_the_frequency_of_the_others(model: carry.LocalModel) -> None:
    frame = pl.DataFrame(
        {
            "unique_id": ["long"] * 9 + ["new", "two", "two"],
            "ds": [*days(9), *days(1), days(1)[0], days(4)[3]],
            "y": range(12),
        }
    )
    answer = model.forecast(frame, 1)
    assert answer["ds"].to_list() == [days(10)[9], days(2)[1], days(5)[4]]
    for id, series in (("new", [9]), ("two", [10, None, None, 11])):
        median = answer.filter(pl.col("unique_id") == id)["median"].to_list()
        assert median == model.forecast(series, 1, freq="D").median.tolist()


def test_a_named_frequency_is_taken_where_the_times_allow_it(model: carry.LocalModel) -> None:
    every_other = pl.DataFrame({"ds": days(5, 2), "y": [1, 2, 3, 4, 5]})
    assert model.forecast(every_other, 1)["ds"].to_list() == [days(6, 2)[-1]]
    assert model.forecast(every_other, 1, freq="D")["ds"].to_list() == [days(10)[-1]]
    with pytest.raises(InvalidRequestError, match="not among the times of the frequency MS"):
        model.forecast(
            every_other.with_columns(ds=pl.Series([date(2024, 1, day) for day in (1, 3, 5, 7, 9)])), freq="MS"
        )


def test_the_shipped_model_forecasts_a_frame() -> None:
    frame = pl.DataFrame({"ds": days(28), "y": [10 + 5 * (i % 7 == 0) for i in range(28)]})
    with carry.load("forecast", SHIPPED) as model, warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = model.forecast(frame, 7)
    assert answer["median"].arg_max() == 0
    assert ((answer["lo-95"] <= answer["lo-80"]) & (answer["hi-80"] <= answer["hi-95"])).all()


def test_an_option_that_means_nothing_for_the_data_is_an_error(model: carry.LocalModel) -> None:
    frame = pl.DataFrame({"ds": days(4), "y": [1, 2, 3, 4]})
    for options in ({"start": "2024-01-01"}, {"include_history": True}):
        with pytest.raises(InvalidRequestError, match="plain series") as raised:
            model.forecast(frame, 2, **options)
        assert raised.value.path == f"$.{next(iter(options))}"
    with pytest.raises(InvalidRequestError, match="names a column of a data frame"):
        model.anomalies([1, 2, 3], target="sales")


def test_numbers_of_numpy_and_a_single_level_are_as_good_as_lists_of_python(model: carry.LocalModel) -> None:
    frame = pl.DataFrame({"ds": days(4), "y": [1, 2, 3, 4]})
    expected = model.forecast(frame, 2, levels=[80], season_length=7)
    options: dict[str, Any] = {"horizon": np.int64(2), "levels": np.float64(80), "season_length": np.int64(7)}
    assert model.forecast(frame, **options).equals(expected)
