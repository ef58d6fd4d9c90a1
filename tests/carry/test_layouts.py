"""Which columns of a table are its times, its series and their names; and what the report says of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carry.files import DataError, Reading, ReadOptions, Series, read_files

MONTHS = [f"2024-{month:02}-01" for month in range(1, 9)]
DAYS = [f"2024-01-{day:02}" for day in range(1, 22)]
nan = float("nan")


def read(folder: Path, content: str, **options: Any) -> Reading:
    (folder / "file.csv").write_text(content)
    return read_files([folder / "file.csv"], ReadOptions(**options))


def by_id(reading: Reading) -> dict[str, Series]:
    return {series.id: series for series in reading.series}


def values(series: Series) -> list[float]:
    return [float(value) for value in series.values[:, 0]]


def test_a_column_is_a_number_of_rows_by_its_values_not_by_its_name(tmp_path: Path) -> None:
    rows = [f"{i + 1},{month},{10 + 3 * i},{20 - i},{i * i}" for i, month in enumerate(MONTHS)]
    reading = read(tmp_path, "No,date,NO,Index,index\n" + "\n".join(rows))
    assert [*by_id(reading)] == ["NO", "Index", "index"]
    assert reading.reports[0].ignored == {"No": "numbers of rows"}


def test_countries_whose_values_count_are_series(tmp_path: Path) -> None:
    rows = [f"{month},{i},{i + 1},{i + 2},{i + 3}" for i, month in enumerate(MONTHS, 1)]
    assert [*by_id(read(tmp_path, "date,DK,NO,SE,FI\n" + "\n".join(rows)))] == ["DK", "NO", "SE", "FI"]


@pytest.mark.parametrize("header", ["rownames", "", "Unnamed: 0", "index", "id"])
def test_numbers_of_rows_in_the_first_column_are_not_forecast(tmp_path: Path, header: str) -> None:
    rows = [f"{i},{month},{7 * i}" for i, month in enumerate(MONTHS)]
    reading = read(tmp_path, f"{header},date,y\n" + "\n".join(rows))
    assert [*by_id(reading)] == ["y"]
    assert [*reading.reports[0].ignored.values()] == ["numbers of rows"]


def test_parts_of_the_times_are_not_forecast(tmp_path: Path) -> None:
    rows = [f"{day},2024,1,{i + 1},{i % 7},{3 * i}" for i, day in enumerate(DAYS)]
    reading = read(tmp_path, "date,year,month,day,weekday,y\n" + "\n".join(rows))
    assert [*by_id(reading)] == ["y"]
    assert reading.reports[0].ignored["day"] == "the day of the time"
    reading = read(tmp_path, "year,month,day,y\n" + "\n".join(f"2024,1,{i + 1},{3 * i}" for i in range(21)))
    assert [(series.id, series.freq) for series in reading.series] == [("y", "D")]


def test_the_year_is_the_time(tmp_path: Path) -> None:
    reading = read(tmp_path, "year,y\n" + "\n".join(f"{year},{year % 7}" for year in range(1990, 2010)))
    [series] = reading.series
    assert (series.id, series.freq, len(series.values)) == ("y", "YS", 20)


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    rows = [f"{day},{i},text{i},TRUE,,{day}T00:00" for i, day in enumerate(DAYS)]
    reading = read(tmp_path, "date,y,note,open,nothing,stamp\n" + "\n".join(rows))
    assert reading.reports[0].ignored == {
        "note": "text",
        "open": "true or false",
        "nothing": "no value",
        "stamp": "other times",
    }


def test_a_column_of_numbers_with_a_text_is_a_series_that_fails(tmp_path: Path) -> None:
    rows = [f"{day},{'oops' if i == 5 else i},{2 * i}" for i, day in enumerate(DAYS)]
    reading = read(tmp_path, "date,price,volume\n" + "\n".join(rows))
    assert [*by_id(reading)] == ["volume"]
    [failure] = reading.failures
    assert failure.id == "price"
    assert "'oops' in line 7 is no number" in failure.reason


def test_thousands_and_marks_of_missing_values_are_read_and_said(tmp_path: Path) -> None:
    reading = read(
        tmp_path, 'date,a,b\n2024-01-01,"1,100",-\n2024-02-01,"1,200",2\n2024-03-01,"1,300",n.a.\n2024-04-01,,4\n'
    )
    series = by_id(reading)
    assert values(series["a"]) == [1100, 1200, 1300]
    np.testing.assert_array_equal(series["b"].values[:, 0], [nan, 2, nan, 4])
    assert reading.reports[0].missing == {"a": {"": 1}, "b": {"-": 1, "n.a.": 1}}


def test_a_number_that_stands_for_missing_is_said_and_can_be_kept(tmp_path: Path) -> None:
    rows = [f"{day},{-200 if i in (3, 4) else 2 + i % 3}" for i, day in enumerate(DAYS)]
    reading = read(tmp_path, "date,CO\n" + "\n".join(rows))
    assert np.isnan(reading.series[0].values[[3, 4], 0]).all()
    assert any("-200 stands for a missing value" in note for note in reading.reports[0].notes)
    kept = read(tmp_path, "date,CO\n" + "\n".join(rows), missing=("none",))
    assert values(kept.series[0])[3] == -200


def panel(*names: str) -> list[str]:
    return [f"{day},{name},{i + 10 * j}" for i, day in enumerate(DAYS) for j, name in enumerate(names)]


@pytest.mark.parametrize("name", ["unique_id", "item_id", "Symbol", "store", "anything"])
@pytest.mark.parametrize("ids", [("a", "b"), ("007", "7"), ("1E5", "NA"), ("None", "True"), ("1", "2")])
def test_columns_that_name_series_are_found_and_their_cells_stay(
    tmp_path: Path, name: str, ids: tuple[str, str]
) -> None:
    reading = read(tmp_path, f"date,{name},sales\n" + "\n".join(panel(*ids)))
    assert tuple(by_id(reading)) == ids
    assert values(by_id(reading)[ids[1]]) == [i + 10 for i in range(21)]
    assert reading.reports[0].layout.startswith(f"long: `{name}` names the series")


def test_several_columns_may_name_a_series(tmp_path: Path) -> None:
    rows = [f"{day},{s},{i},{s * i + d}" for d, day in enumerate(DAYS) for s in (1, 2) for i in (1, 2, 3)]
    content = "date,store,item,sales\n" + "\n".join(rows)
    reading = read(tmp_path, content)
    assert [*by_id(reading)] == ["1/1", "1/2", "1/3", "2/1", "2/2", "2/3"]
    assert reading.series[0].key == ("1", "1")
    assert [*by_id(read(tmp_path, content, id=("item", "store")))][1] == "2/1"


def test_each_column_of_a_panel_is_a_series_unless_one_is_asked_for(tmp_path: Path) -> None:
    rows = [f"{day},{symbol},{i},{100 + i}" for i, day in enumerate(DAYS) for symbol in ("A", "B")]
    content = "Date,Symbol,Open,Close\n" + "\n".join(rows)
    assert [*by_id(read(tmp_path, content))] == ["A/Open", "B/Open", "A/Close", "B/Close"]
    reading = read(tmp_path, content, target="Close")
    assert [*by_id(reading)] == ["A", "B"]
    assert reading.reports[0].ignored["Open"] == "not asked for"


def test_times_that_repeat_without_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the time 2024-01-01 is in line 2 and line 3; .* --id NAME"):
        read(tmp_path, "date,sales\n2024-01-01,1\n2024-01-01,2\n2024-01-02,3\n2024-01-03,4\n")


def test_rows_that_repeat_as_a_whole_count_once(tmp_path: Path) -> None:
    reading = read(tmp_path, "date,y\n2024-01-01,1\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n")
    assert values(reading.series[0]) == [1, 2, 3]
    assert reading.reports[0].duplicates == 1
    assert any("1 row repeats another" in line for line in reading.reports[0].lines())


def test_dates_may_name_the_columns(tmp_path: Path) -> None:
    for times in (
        MONTHS,
        ["1/22/20", "1/23/20", "1/24/20"],
        ["2019", "2020", "2021"],
        ["Jan 2020", "Feb 2020", "Mar 2020"],
    ):
        lines = [",".join(["Page", *times]), *(f"{page},{','.join(map(str, range(len(times))))}" for page in "abc")]
        reading = read(tmp_path, "\n".join(lines))
        assert [*by_id(reading)] == ["a", "b", "c"]
        assert values(reading.series[0]) == [*range(len(times))]
        assert reading.series[0].freq is not None


def test_of_a_row_a_series_what_is_no_time_is_said(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        "Province/State,Country/Region,Lat,Long,1/22/20,1/23/20,1/24/20\n"
        ",Afghanistan,33.9,67.7,0,0,1\nHubei,China,30.9,112.2,444,444,549\nBeijing,China,40.1,116.4,14,22,36\n",
    )
    assert [*by_id(reading)] == ["Afghanistan", "Hubei/China", "Beijing/China"]
    assert set(reading.reports[0].ignored) == {"Lat", "Long"}


def test_numbers_may_name_the_columns_of_a_row_a_series(tmp_path: Path) -> None:
    lines = ["V1,V2,V3,V4,V5", "Y1,1,2,3,4", "Y2,5,6,,", "Y3,7,,9,10"]
    reading = read(tmp_path, "\n".join(lines))
    assert {id: values(series) for id, series in by_id(reading).items() if id != "Y3"} == {
        "Y1": [1, 2, 3, 4],
        "Y2": [5, 6],
    }
    lines = ["id,item_id,d_1,d_2,d_3", "a_1,a,1,2,3", "a_2,a,4,5,6"]
    assert [*by_id(read(tmp_path, "\n".join(lines)))] == ["a_1", "a_2"]


def test_columns_that_are_numbered_are_series_where_no_column_names_the_rows(tmp_path: Path) -> None:
    assert [*by_id(read(tmp_path, "V1,V2,V3\n1,2,3\n4,5,7\n8,9,1\n"))] == ["V1", "V2", "V3"]
    days = "\n".join(f"{day},{i},{2 * i},{3 * i}" for i, day in enumerate(DAYS))
    assert [*by_id(read(tmp_path, f"date,s1,s2,s3\n{days}"))] == ["s1", "s2", "s3"]


def test_months_may_stand_across_and_years_down(tmp_path: Path) -> None:
    months = "Jan,Feb,Mar,Apr,May,Jun,Jul,Aug,Sep,Oct,Nov,Dec"
    reading = read(
        tmp_path, f"Year,{months},Annual\n2001,{','.join(map(str, range(12)))},9\n2002,12,13,14,,,,,,,,,,9\n"
    )
    [series] = reading.series
    assert values(series) == [*range(15)]
    assert series.times is not None
    assert (str(series.times[0].date()), str(series.times[-1].date()), series.season) == (
        "2001-01-01",
        "2002-03-01",
        12,
    )
    assert reading.reports[0].ignored == {"Annual": "no month"}


def test_years_may_stand_across_and_months_down(tmp_path: Path) -> None:
    for months in (["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], range(1, 13)):
        lines = ["month,2019,2020", *(f"{month},{i},{12 + i if i < 5 else ''}" for i, month in enumerate(months))]
        [series] = read(tmp_path, "\n".join(lines)).series
        assert values(series) == [*range(17)]
        assert series.freq == "MS"


def test_gaps_are_missing_values_and_counted(tmp_path: Path) -> None:
    rows = [f"{day},{i}" for i, day in enumerate(DAYS) if i not in (3, 4, 9)]
    reading = read(tmp_path, "date,y\n" + "\n".join(rows))
    assert np.flatnonzero(np.isnan(reading.series[0].values[:, 0])).tolist() == [3, 4, 9]
    assert "  gaps: 3 times without a row: missing values" in reading.reports[0].lines()


def test_an_hour_that_comes_twice_is_read_where_the_clocks_are_known(tmp_path: Path) -> None:
    hours = [f"2024-10-26 {hour:02}:00" for hour in range(24)]
    hours += [f"2024-10-27 {hour:02}:00" for hour in (0, 1, 2, 2, *range(3, 24))]
    reading = read(tmp_path, "ds,load\n" + "\n".join(f"{time},{i}" for i, time in enumerate(hours)))
    assert values(reading.series[0]) == [*range(49)]
    assert any("comes twice, as clocks of Europe/Berlin" in note for note in reading.reports[0].notes)


def test_a_time_far_from_all_others_is_refused_and_named(tmp_path: Path) -> None:
    times = [f"{year}-{month:02}-15" for year in range(1984, 2024) for month in range(1, 13)]
    times[300] = "2204-05-15"
    content = "ds,y\n" + "\n".join(f"{time},{i}" for i, time in enumerate(times))
    with pytest.raises(DataError, match="its time 2204-05-15 is 2165 steps after 2023-12-15"):
        read(tmp_path, content)
    assert len(read(tmp_path, content, freq="M").series[0].values) == 2645


def test_a_line_of_totals_is_left_out_and_said(tmp_path: Path) -> None:
    reading = read(tmp_path, "ds,y\n" + "\n".join(f"{month},{i}" for i, month in enumerate(MONTHS)) + "\nTotal,28\n")
    assert values(reading.series[0]) == [*range(8)]
    assert any("line 10 ('Total')" in note for note in reading.reports[0].notes)
