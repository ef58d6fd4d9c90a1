"""Arrow record batches in, record batches out: the same forecasts as over HTTP, whatever the layout and the types."""

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from carry import batch
from carry.arrow.columns import find_columns, whole_series
from carry.batch import BatchOptions, forecast_batches, forecast_table, open_forecaster, output_schema
from service.errors import InvalidRequestError
from tests.conftest import SHIPPED

OPTIONS = BatchOptions(5, models_dir=SHIPPED)


def options(**changes: Any) -> BatchOptions:
    return BatchOptions(**{"horizon": 5, "models_dir": SHIPPED, **changes})


def sales(count: int, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, 2, count)
    return [round(float(value), 3) for value in 100 + np.arange(count) + 20 * np.sin(np.arange(count)) + noise]


def long(series: dict[Any, tuple[str, str, list[float]]]) -> pa.Table:
    """id -> first time, frequency, values."""
    frames = [
        pd.DataFrame({"unique_id": id, "ds": pd.date_range(start, periods=len(values), freq=freq), "y": values})
        for id, (start, freq, values) in series.items()
    ]
    return pa.Table.from_pandas(pd.concat(frames), preserve_index=False)


MIXED = {
    "a": ("2020-01-01", "MS", sales(50)),
    "b": ("2023-05-01 07:00", "h", sales(70, 1)),
    "c": ("2022-01-03", "B", sales(33, 2)),
    "007": ("1990-03-31", "QE-MAR", sales(3, 3)),
}


def rows_of(table: pa.Table, id: object) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["unique_id"] == id]


def test_forecasts_equal_those_over_http_to_the_bit(shipped: TestClient) -> None:
    table = forecast_table(long(MIXED), OPTIONS)
    assert table["error"].null_count == table.num_rows == 5 * len(MIXED)
    for id, (start, freq, values) in MIXED.items():
        body = {"series": values, "horizon": 5, "levels": [80, 95], "start": start.replace(" ", "T"), "freq": freq}
        answer = shipped.post("/forecast", json=body).json()
        rows = rows_of(table, id)
        assert [row["median"] for row in rows] == answer["median"]
        for name, level in {"lo-95": "0.025", "lo-80": "0.1", "hi-80": "0.9", "hi-95": "0.975"}.items():
            assert [row[name] for row in rows] == answer["quantiles"][level]
        assert [row["ds"].isoformat()[: len(time)] for row, time in zip(rows, answer["timestamps"], strict=True)] == (
            answer["timestamps"]
        )


def test_a_missing_time_is_a_missing_value(shipped: TestClient) -> None:
    whole = long({"a": ("2020-01-01", "D", sales(40))})
    table = forecast_table(whole.take(pa.array([i for i in range(40) if i not in (7, 8)])), OPTIONS)
    series: list[float | None] = [*sales(40)]
    series[7:9] = [None, None]
    answer = shipped.post("/forecast", json={"series": series, "horizon": 5, "freq": "D"}).json()
    assert table["median"].to_pylist() == answer["median"]


def test_options_mean_what_they_mean_over_http(shipped: TestClient) -> None:
    values = [max(value - 120, 0.0) for value in sales(40)]
    chosen = options(levels=(50.0,), season_length=(4,), non_negative=True)
    table = forecast_table(long({"a": ("2020-01-01", "D", values)}), chosen)
    body = {"series": values, "horizon": 5, "levels": [50], "season_length": 4, "non_negative": True}
    answer = shipped.post("/forecast", json=body).json()
    assert table.schema.names == ["unique_id", "ds", "median", "lo-50", "hi-50", "error"]
    assert table["lo-50"].to_pylist() == answer["quantiles"]["0.25"]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 7), st.integers(1, 200), st.data())
def test_where_blocks_end_depends_on_the_series_alone(
    lengths: list[int], max_series: int, max_values: int, data: st.DataObject
) -> None:
    table = pa.table({"unique_id": np.repeat(np.arange(len(lengths)), lengths), "y": np.arange(float(sum(lengths)))})
    columns = find_columns(table.schema)
    cuts = sorted(data.draw(st.sets(st.integers(0, table.num_rows))))
    pieces = [table.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, table.num_rows], strict=True)]
    batches = [batch for piece in pieces for batch in piece.combine_chunks().to_batches()]
    blocks = [*whole_series(batches, columns, max_series, max_values)]
    assert pa.Table.from_batches(blocks).equals(table)
    expected: list[list[int]] = [[]]
    for length in lengths:
        if expected[-1] and (len(expected[-1]) == max_series or sum(expected[-1]) >= max_values):
            expected.append([])
        expected[-1].append(length)
    assert [len(block) for block in blocks] == [sum(block) for block in expected]


def test_batches_of_any_size_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    table = long(MIXED)
    whole = forecast_table(table, OPTIONS)
    monkeypatch.setattr(batch, "BLOCK_SERIES", 2)
    for size in (1, 7, 64):
        pieces = [piece for start in range(0, len(table), size) for piece in table.slice(start, size).to_batches()]
        assert pa.Table.from_batches(forecast_batches(pieces, OPTIONS)).equals(whole)


def in_lists(table: pa.Table) -> pa.Table:
    grouped = table.group_by("unique_id", use_threads=False).aggregate([("ds", "list"), ("y", "list")])
    return grouped.rename_columns({"ds_list": "ds", "y_list": "y"}).select(["unique_id", "ds", "y"])


def test_a_row_for_each_series_gives_the_same_forecasts() -> None:
    table = long(MIXED)
    lists = forecast_table(in_lists(table), OPTIONS)
    assert lists.schema.field("ds").type == pa.list_(table.schema.field("ds").type)
    assert lists["unique_id"].to_pylist() == [*MIXED]
    from_lists = forecast_table(in_lists(table), options(output="long"))
    from_long = forecast_table(table, OPTIONS)
    assert from_lists.equals(from_long)
    assert forecast_table(table, options(output="lists")).equals(lists)


def test_a_start_and_a_frequency_stand_for_times() -> None:
    table = pa.table(
        {
            "unique_id": [*MIXED],
            "start": pa.array([pd.Timestamp(start) for start, _, _ in MIXED.values()], pa.timestamp("ns")),
            "freq": [freq for _, freq, _ in MIXED.values()],
            "y": [values for _, _, values in MIXED.values()],
        }
    )
    assert forecast_table(table, options(output="long")).equals(forecast_table(long(MIXED), OPTIONS))


@pytest.mark.parametrize(
    "id", [pa.string(), pa.large_string(), pa.int64(), pa.int16(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize(
    "time",
    [pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ms", "Europe/Berlin"), pa.date32(), pa.date64(), pa.string()],
)
def test_ids_and_times_keep_their_types(id: pa.DataType, time: pa.DataType) -> None:
    table = long({"007": ("2024-01-01", "D", sales(20)), "008": ("2024-01-01", "D", sales(30))})
    days = table["ds"].cast(pa.timestamp("us")).cast(pa.date32())
    stamps = days.cast(pa.timestamp("ms")) if pa.types.is_timestamp(time) else days
    if getattr(time, "tz", None):
        stamps = pa.compute.assume_timezone(stamps, time.tz)
    names = (
        table["unique_id"].cast(pa.string()).dictionary_encode() if pa.types.is_dictionary(id) else table["unique_id"]
    )
    typed = pa.table({"unique_id": names.cast(id), "ds": stamps.cast(time), "y": table["y"]})
    forecasts = forecast_table(typed, options(horizon=2))
    assert forecasts.schema.field("unique_id").type == id
    assert forecasts.schema.field("ds").type == time
    assert forecasts["unique_id"].to_pylist() == typed["unique_id"].take([0, 0, 20, 20]).to_pylist()
    assert [str(when)[:10] for when in forecasts["ds"].to_pylist()] == [
        "2024-01-21",
        "2024-01-22",
        "2024-01-31",
        "2024-02-01",
    ]


@pytest.mark.parametrize(
    "number", [pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.decimal128(30, 2), pa.float64()]
)
@pytest.mark.parametrize("lists", [None, pa.list_, pa.large_list, lambda type: pa.list_(type, 20)])
def test_numbers_may_have_any_type(number: pa.DataType, lists: Any) -> None:
    y = pa.array([float(i % 7) for i in range(20)]).cast(pa.float32()).cast(number)
    table = pa.table({"unique_id": ["a"] * 20, "y": y})
    if lists is not None:
        table = pa.table({"unique_id": ["a"], "y": pa.array([y.to_pylist()], lists(number))})
    expected = forecast_table(pa.table({"unique_id": ["a"] * 20, "y": y.cast(pa.float64())}), OPTIONS)
    assert forecast_table(table, options(output="long")).equals(expected)


def test_a_day_counts_by_the_clock_and_an_hour_by_the_time_that_passes() -> None:
    zone = "Europe/Berlin"  # its clocks change on 31 March 2024
    days = pd.date_range("2024-03-01", periods=30, freq="D", tz=zone)
    hours = pd.date_range("2024-03-29 00:00", periods=49, freq="h", tz=zone)
    frames = [
        pd.DataFrame({"unique_id": id, "ds": ds, "y": sales(len(ds))}) for id, ds in {"d": days, "h": hours}.items()
    ]
    table = forecast_table(pa.Table.from_pandas(pd.concat(frames), preserve_index=False), OPTIONS)
    assert [str(row["ds"]) for row in rows_of(table, "d")][1:3] == [
        "2024-04-01 00:00:00+02:00",
        "2024-04-02 00:00:00+02:00",
    ]
    assert [row["ds"].hour for row in rows_of(table, "h")] == [1, 3, 4, 5, 6]


@pytest.mark.parametrize("separator", [" ", "T"])
def test_times_as_text_come_back_as_they_were_written(separator: str) -> None:
    texts = [f"2024-01-01{separator}{hour:02}:00:00" for hour in range(20)]
    table = forecast_table(pa.table({"unique_id": ["a"] * 20, "ds": texts, "y": sales(20)}), options(horizon=1))
    assert table["ds"].to_pylist() == [f"2024-01-01{separator}20:00:00"]


def test_a_table_without_times_has_steps() -> None:
    table = forecast_table(pa.table({"unique_id": ["a"] * 20, "y": sales(20)}), options(horizon=2))
    assert table["ds"].to_pylist() == [1, 2]


def test_rows_of_a_series_are_sorted_by_time() -> None:
    table = long({"a": ("2024-01-01", "D", sales(20)), "b": ("2024-01-01", "D", sales(20, 1))})
    shuffled = table.take([*np.random.default_rng(0).permutation(20), *range(20, 40)])
    assert forecast_table(shuffled, OPTIONS).equals(forecast_table(table, OPTIONS))


BAD: dict[str, tuple[list[str | None], list[float | None], str]] = {
    "empty": (["2024-01-01", "2024-01-02"], [None, None], "holds no number"),
    "infinite": (["2024-01-01", "2024-01-02"], [1.0, float("inf")], "has a value that is not finite"),
    "timeless": (["2024-01-01", None], [1.0, 2.0], "a time is missing"),
    "twice": (["2024-01-01", "2024-01-01"], [1.0, 2.0], "has two values at 2024-01-01"),
    "once": (["2024-01-01"], [1.0], "has one value, whose time alone shows no frequency"),
    "late": (["9999-12-29", "9999-12-30"], [1.0, 2.0], "leave the calendar"),
}


def with_bad_series() -> pa.Table:
    days = [f"2024-01-{day:02}" for day in range(1, 21)]
    ids, times, values = ["good"] * 20, list[str | None](days), list[float | None](sales(20))
    for id, (bad_times, bad_values, _) in BAD.items():
        ids += [id] * len(bad_times)
        times += bad_times
        values += bad_values
    dates = pa.array(times).cast(pa.date32())
    return pa.table(
        {
            "unique_id": [*ids, *["also good"] * 20],
            "ds": pa.chunked_array([dates, pa.array(days).cast(pa.date32())]),
            "y": [*values, *sales(20)],
        }
    )


@pytest.mark.parametrize("lists", [False, True])
def test_series_that_cannot_be_forecast_say_why_and_the_others_are_forecast(lists: bool) -> None:
    table = in_lists(with_bad_series()) if lists else with_bad_series()
    forecasts = forecast_table(table, OPTIONS)
    for id, (_, _, reason) in BAD.items():
        [row] = rows_of(forecasts, id)
        assert reason in row["error"]
        assert row["ds"] is None
        assert row["median"] is None
    good = [row["median"] for id in ("good", "also good") for row in rows_of(forecasts, id)]
    assert good[: len(good) // 2] == good[len(good) // 2 :]
    assert len(good) == (2 if lists else 10)


def test_lists_may_be_empty_missing_or_of_another_length_than_their_times() -> None:
    days = pa.array([[19000, 19001, 19002], [19000], [], None, [19000, 19001, 19002]], pa.list_(pa.int32()))
    times = days.cast(pa.list_(pa.date32()))
    y = pa.array([[1.0, 2.0, 3.0], [1.0, 2.0], [], None, [1.0, 2.0, 3.0]])
    table = forecast_table(pa.table({"unique_id": [*"abcde"], "ds": times, "y": y}), OPTIONS)
    assert table["error"].to_pylist() == [
        None,
        "ds and y have different lengths",
        "has no value",
        "has no value",
        None,
    ]
    assert table["median"][0] == table["median"][4]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"id": [1], "y": [1.0]}, "needs one column unique_id; the table has: id, y"),
        ({"unique_id": [1], "y": ["x"]}, "y must hold numbers"),
        ({"unique_id": [[1]], "y": [1.0]}, "unique_id must hold text, numbers"),
        ({"unique_id": [1], "ds": [1.5], "y": [1.0]}, "ds must hold timestamps"),
        ({"unique_id": [1], "ds": [[1]], "y": [1.0]}, "ds must be a list exactly where y is one"),
        ({"unique_id": [1, None], "y": [1.0, 2.0]}, "unique_id is missing in row 2"),
        ({"unique_id": [1], "ds": ["1.2.2024"], "y": [1.0]}, "times as text must be ISO 8601"),
    ],
)
def test_a_table_that_holds_no_series_is_refused(table: dict[str, list[Any]], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        forecast_table(pa.table(table), OPTIONS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"horizon": 0}, "at least 1"),
        ({"levels": (120.0,)}, "between 0 and 100"),
        ({"levels": (99.99,)}, "too far in the tails"),
        ({"season_length": (10_000,)}, "takes seasons of at most"),
        ({"freq": "fortnight"}, "not a frequency"),
    ],
)
def test_an_option_that_is_out_of_range_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        forecast_table(long(MIXED), options(**changes))


def test_an_empty_stream_gives_nothing_and_an_empty_table_its_schema() -> None:
    table = long(MIXED)
    assert [*forecast_batches([], OPTIONS)] == []
    assert forecast_table(table.slice(0, 0), OPTIONS).schema == output_schema(table.schema, OPTIONS)


def test_a_process_opens_a_model_once() -> None:
    assert open_forecaster(SHIPPED, "forecast") is open_forecaster(SHIPPED, "forecast")


def test_a_batch_needs_no_pandas() -> None:
    script = f"""
import importlib.abc, sys
class NoPandas(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, NoPandas())
from pathlib import Path
import pyarrow as pa
from carry.batch import BatchOptions, forecast_table
table = pa.table({{"unique_id": ["a"] * 9, "ds": pa.array(range(9), pa.date32()), "y": [float(i) for i in range(9)]}})
print(forecast_table(table, BatchOptions(2, models_dir=Path({str(SHIPPED)!r})))["ds"].to_pylist())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[datetime.date(1970, 1, 10), datetime.date(1970, 1, 11)]\n"
