"""The tab Forecast in a browser. What it shows is computed again from the answers of the API and the data."""

import csv
import io
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.e2e.serving import Service
from tests.page.conftest import KEY, PATIENCE, Visit, open_tab
from tests.page.samples import FOLDER, made

ROOT = Path(__file__).parents[2]
LEVELS = [95, 80, 50, 20]
SAMPLES = {  # how the page reads a column of a sample: file, start, frequency, horizon
    "co2": ("co2", "1959-01-01", "M", 24),
    "requests": ("requests", "2026-03-02T00:00:00", "H", 48),
    "bread": ("demand", "2026-01-05", "D", 28),
    "coffee": ("demand", "2026-01-05", "D", 28),
    "umbrellas": ("demand", "2026-01-05", "D", 28),
}

NONE = "\u2013"
"""What the page writes where there is no number."""

Values = list[float | None]


@pytest.fixture
def tab(page: Page) -> Locator:
    """The tab, when its first sample is forecast."""
    panel = open_tab(page, "forecast")
    expect(said(panel, "The next 24 months.")).to_be_visible()
    return panel


def said(panel: Locator, words: str) -> Locator:
    """What the tab announces with these words."""
    return panel.get_by_role("status").filter(has_text=words)


def sample(name: str) -> dict[str, Any]:
    """A column of a sample, as a request has it."""
    file, start, freq, horizon = SAMPLES[name]
    rows = csv.DictReader((FOLDER / f"{file}.csv").read_text().splitlines())
    values = [float(row[name]) if row[name] else None for row in rows]
    return {"series": values, "start": start, "freq": freq, "horizon": horizon, "levels": LEVELS}


def choose(panel: Locator, name: str) -> None:
    """Show a column of a sample."""
    panel.get_by_label("Data", exact=True).select_option(SAMPLES[name][0])
    if SAMPLES[name][0] == "demand":
        panel.get_by_label("Show", exact=True).select_option(name)
    expect(panel.get_by_role("heading", name=name, exact=True)).to_be_visible()


def paste(panel: Locator, text: str) -> None:
    """Paste a CSV."""
    panel.get_by_label("CSV", exact=True).fill(text)


def figure(panel: Locator, name: str) -> Locator:
    """The number under this name."""
    return panel.locator("dl > div", has=panel.page.get_by_text(name, exact=True)).locator("dd")


def legend(panel: Locator, name: str) -> Locator:
    """The entry of a line in the legend of the chart."""
    return panel.locator(".u-series:visible").filter(has_text=name)


def ask(service: Service, route: str, **body: Any) -> Any:
    """The answer of the API."""
    answer = httpx2.post(f"{service.url}/{route}", json=body, timeout=PATIENCE / 1000)
    assert answer.status_code == 200, answer.text
    return answer.json()


def edges(answer: dict[str, Any], level: float) -> tuple[list[float], list[float]]:
    """The quantiles at both ends of an interval."""
    by_level = {round(float(name), 6): numbers for name, numbers in answer["quantiles"].items()}
    return by_level[round((100 - level) / 200, 6)], by_level[round((100 + level) / 200, 6)]


def numbers_of_table(panel: Locator) -> list[list[str]]:
    """The cells of the table of the forecast, without the times."""
    panel.get_by_text("Table", exact=True).click()
    rows = panel.get_by_role("region", name="Table of the forecast").locator("tbody tr")
    return [row.locator("td").all_inner_texts() for row in rows.all()]


def assert_shown(shown: Sequence[str], numbers: Sequence[float]) -> None:
    """The page shows these numbers, to six digits."""
    assert [float(text) for text in shown] == pytest.approx(list(numbers), rel=1e-5, abs=1e-9)


# A first look


def test_a_sample_is_forecast_when_the_page_opens(tab: Locator, served: Service) -> None:
    answer = ask(served, "forecast", **sample("co2"))
    lower, upper = edges(answer, 95)
    expect(said(tab, "The next")).to_have_text(
        f"The next 24 months. For Dec 1970 Carry expects {answer['median'][-1]:.2f}".rstrip("0")
        + f", and with 95 % probability between {lower[-1]:.2f} and {upper[-1]:.2f}."
    )
    expect(figure(tab, "Values read")).to_have_text("120")
    expect(figure(tab, "Season that weighed most")).to_have_text("12 months")
    columns = list(zip(*numbers_of_table(tab), strict=True))
    for shown, numbers in zip(columns, (answer["median"], lower, upper), strict=True):
        assert_shown(shown, numbers)


def test_the_cursor_reads_the_values_of_the_chart(tab: Locator, served: Service) -> None:
    answer = ask(served, "forecast", **sample("co2"))
    plot = tab.locator(".u-over")
    box = plot.bounding_box()
    assert box is not None
    plot.hover(position={"x": box["width"] - 1, "y": 40})
    lower, upper = edges(answer, 80)
    expect(legend(tab, "Time")).to_contain_text("Dec 1970")
    expect(legend(tab, "Median")).to_contain_text(f"{answer['median'][-1]:.6g}")
    expect(legend(tab, "80 %")).to_contain_text(f"{lower[-1]:.6g} to {upper[-1]:.6g}")
    plot.hover(position={"x": 1, "y": 40})
    expect(legend(tab, "Time")).to_contain_text("Jan 1959")
    expect(legend(tab, "Value")).to_contain_text("315.42")


def test_dragging_zooms_and_a_double_click_shows_all(tab: Locator) -> None:
    expect(figure(tab, "Anomalies, outside of 99 %")).to_be_visible()
    picture = "() => document.querySelector('#panel-forecast canvas').toDataURL()"
    page, box = tab.page, tab.locator(".u-over").bounding_box()
    assert box is not None
    whole = page.evaluate(picture)
    page.mouse.move(box["x"] + 100, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 60, steps=5)
    page.mouse.up()
    page.wait_for_function(f"before => ({picture})() !== before", arg=whole)
    page.mouse.dblclick(box["x"] + 200, box["y"] + 50)
    page.wait_for_function(f"before => ({picture})() === before", arg=whole)


def test_the_chart_follows_light_and_dark_and_its_width(tab: Locator) -> None:
    expect(figure(tab, "Anomalies, outside of 99 %")).to_be_visible()
    page = tab.page
    picture = "() => document.querySelector('#panel-forecast canvas').toDataURL()"
    light = page.evaluate(picture)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => ({picture})() !== before", arg=light)
    page.set_viewport_size({"width": 600, "height": 800})
    page.wait_for_function("() => document.querySelector('#panel-forecast .uplot').offsetWidth < 600")


def test_a_phone_shows_the_forecast_before_the_controls(visit: Visit, served: Service) -> None:
    with visit(served.url, viewport={"width": 380, "height": 800}) as page:
        panel = open_tab(page, "forecast")
        expect(said(panel, "The next 24 months.")).to_be_visible()
        chart, text = panel.get_by_role("img").bounding_box(), panel.get_by_label("CSV", exact=True).bounding_box()
        assert chart is not None
        assert text is not None
        assert chart["y"] < text["y"]


# The settings


def test_the_sliders_ask_for_another_horizon_and_level(tab: Locator, served: Service) -> None:
    tab.get_by_label("Horizon").press("ArrowRight")
    expect(said(tab, "The next 25 months.")).to_be_visible()
    tab.get_by_label("Outermost interval").press("Home")
    expect(said(tab, "with 50 % probability")).to_be_visible()
    expect(legend(tab, "80 %")).to_have_count(0)
    answer = ask(served, "forecast", **sample("co2") | {"horizon": 25, "levels": [50, 20]})
    lower, upper = edges(answer, 50)
    columns = list(zip(*numbers_of_table(tab), strict=True))
    for shown, numbers in zip(columns, (answer["median"], lower, upper), strict=True):
        assert_shown(shown, numbers)


def test_a_slider_that_moves_often_asks_once(tab: Locator) -> None:
    bodies: list[Any] = []
    tab.page.on(
        "request", lambda request: bodies.append(request.post_data_json) if request.url.endswith("/forecast") else None
    )
    tab.get_by_label("Horizon").evaluate(
        """slider => { for (let value = 2; value < 40; value += 1) {
            slider.value = value;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
        } }"""
    )
    expect(said(tab, "The next 39 months.")).to_be_visible()
    assert [body["horizon"] for body in bodies] == [39]


def test_a_new_request_aborts_the_one_before(tab: Locator) -> None:
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    tab.page.route("**/forecast", hold_the_first)
    with tab.page.expect_event("requestfailed") as failed:
        with tab.page.expect_request("**/forecast"):
            tab.get_by_label("Horizon").press("ArrowRight")
        tab.get_by_label("Horizon").press("ArrowRight")
    assert failed.value.failure == "net::ERR_ABORTED"
    held[0].abort()
    expect(said(tab, "The next 26 months.")).to_be_visible()


def test_what_the_service_refuses_is_explained_until_it_is_mended(visit: Visit) -> None:
    with (
        Service(ROOT / "models", "memory://", max_horizon=60, max_series_length=200) as service,
        visit(service.url) as page,
    ):
        panel = open_tab(page, "forecast")
        expect(said(panel, "The next 24 months.")).to_be_visible()
        panel.get_by_label("Horizon").fill("61")
        result = panel.get_by_role("region", name="Result")
        expect(result.get_by_role("alert")).to_contain_text("at most 60")
        panel.get_by_label("Horizon").fill("60")
        expect(said(panel, "The next 60 months.")).to_be_visible()
        expect(panel.get_by_role("alert")).to_have_count(0)
        choose(panel, "requests")
        expect(result.get_by_role("alert")).to_contain_text("at most 200 values")


# Hold-out


def naive(values: Values, horizon: int, season: int, level: float) -> tuple[Values, float]:
    """The seasonal naive forecast of the last values, and the half width of its interval within the first season."""
    past = values[:-horizon]
    forecast: Values = []
    for step in range(horizon):
        at = len(past) + step
        while at >= len(past) or (at >= 0 and past[at] is None):
            at -= season
        forecast.append(past[at] if at >= 0 else None)
    changes = sorted(
        abs(now - before)
        for now, before in zip(past[season:], past, strict=False)
        if now is not None and before is not None
    )
    return forecast, changes[min(len(changes) - 1, math.floor(level / 100 * len(changes)))]


def mase(forecast: Values, values: Values, season: int) -> float:
    """Mean absolute error, over the mean absolute seasonal difference before."""
    past, actual = values[: -len(forecast)], values[-len(forecast) :]

    def mean(left: Values, right: Values) -> float:
        pairs = [abs(a - b) for a, b in zip(left, right, strict=False) if a is not None and b is not None]
        return sum(pairs) / len(pairs)

    return mean(actual, forecast) / mean(past[season:], past)


def share(values: Values, lower: Values, upper: Values) -> str:
    """The share of values between two others, in percent."""
    inside = [
        low <= value <= high
        for value, low, high in zip(values, lower, upper, strict=True)
        if value is not None and low is not None and high is not None
    ]
    return f"{math.floor(100 * sum(inside) / len(inside) + 0.5)} %"


def assert_hold_out(panel: Locator, service: Service, request: dict[str, Any]) -> tuple[float, float]:
    """The figures of the hold-out are those of the API's forecast, of its truth, and of the better naive forecast.
    Returns both MASE."""
    values, horizon, level = request["series"], request["horizon"], 95
    answer = ask(service, "cross_validation", windows=1, **request)
    [window], seasons = answer["windows"], answer["season_length"]
    actual = values[-horizon:]
    assert window["actual"] == actual
    ours = mase(window["median"], values, seasons[0])
    expect(figure(panel, "MASE of Carry")).to_have_text(f"{ours:.2f}")
    lower, upper = edges(window, level)
    expect(figure(panel, f"True values in the {level} % interval")).to_have_text(share(actual, [*lower], [*upper]))

    rivals = [(mase(naive(values, horizon, season, level)[0], values, seasons[0]), season) for season in seasons]
    theirs, season = min(rivals)
    expect(figure(panel, "MASE of the seasonal naive")).to_have_text(f"{theirs:.2f}")
    forecast, width = naive(values, horizon, season, level)
    widths = [width * math.sqrt(1 + step // season) for step in range(horizon)]
    low = [None if f is None else f - w for f, w in zip(forecast, widths, strict=True)]
    high = [None if f is None else f + w for f, w in zip(forecast, widths, strict=True)]
    expect(figure(panel, "In the interval of the naive")).to_have_text(share(actual, low, high))
    rows = numbers_of_table(panel)
    assert_shown([row[0] for row in rows], window["median"])
    for column, numbers in ((3, actual), (4, forecast)):
        assert [row[column] for row in rows] == [NONE if n is None else f"{n:.6g}" for n in numbers]
    return ours, theirs


@pytest.mark.parametrize("name", SAMPLES)
def test_a_hold_out_compares_with_the_seasonal_naive_forecast(tab: Locator, served: Service, name: str) -> None:
    choose(tab, name)
    tab.get_by_label("Hold out the last").check()
    ours, theirs = assert_hold_out(tab, served, sample(name))
    assert ours < theirs
    smaller = f"the error is {math.floor(100 * (1 - ours / theirs) + 0.5)} % smaller."
    expect(said(tab, f"Carry did not see the last {SAMPLES[name][3]}")).to_contain_text(smaller)
    expect(said(tab, "Its forecast is closer")).to_be_visible()
    expect(legend(tab, "True value")).to_be_visible()
    expect(legend(tab, "Seasonal naive")).to_be_visible()


def test_a_hold_out_says_so_if_the_naive_forecast_is_better(tab: Locator, served: Service) -> None:
    noise = random.Random(6)
    values = [round(noise.gauss(20, 3), 2) for _ in range(56)]
    values += values[-7:]  # as the week before: no forecast can be better than the naive one
    days = [str(date(2024, 1, 1) + timedelta(days=day)) for day in range(63)]
    paste(tab, "day,sold\n" + "\n".join(f"{day},{value}" for day, value in zip(days, values, strict=True)))
    tab.get_by_label("Horizon").fill("7")
    tab.get_by_label("Hold out the last 7").check()
    request = {"series": values, "start": days[0], "freq": "D", "horizon": 7, "levels": LEVELS}
    ours, theirs = assert_hold_out(tab, served, request)
    assert theirs == 0 < ours
    expect(said(tab, "is closer to them: the error is 100 % smaller.")).to_contain_text("Repeating the last 7 days")


def test_a_hold_out_without_a_scale_calls_neither_better(tab: Locator) -> None:
    paste(tab, "\n".join(["7"] * 30))
    tab.get_by_label("Hold out the last 10").check()
    expect(said(tab, "There is nothing to scale errors by")).to_be_visible()
    expect(figure(tab, "MASE of Carry")).to_have_text(NONE)


def test_a_hold_out_of_the_whole_series_is_explained(tab: Locator) -> None:
    paste(tab, "1\n2\n3\n4\n5\n6")
    tab.get_by_label("Horizon").fill("6")
    tab.get_by_label("Hold out the last 6").check()
    expect(tab.get_by_role("alert")).to_contain_text("7")
    tab.get_by_label("Horizon").fill("5")
    expect(said(tab, "Carry did not see the last 5 values.")).to_be_visible()


# Anomalies


def test_anomalies_are_marked_and_counted_until_they_are_not_wanted(tab: Locator, served: Service) -> None:
    choose(tab, "requests")
    verdicts = ask(served, "anomalies", **{k: sample("requests")[k] for k in ("series", "freq")}, level=99)["anomaly"]
    assert {278, 396} <= {i for i, verdict in enumerate(verdicts) if verdict}  # the outage and the rush
    expect(figure(tab, "Anomalies, outside of 99 %")).to_have_text(str(sum(map(bool, verdicts))))
    expect(legend(tab, "Anomaly")).to_be_visible()
    tab.get_by_label("Mark anomalies").uncheck()
    expect(figure(tab, "Anomalies, outside of 99 %")).to_have_count(0)
    expect(legend(tab, "Anomaly")).to_have_count(0)


# Other data


@pytest.mark.parametrize(
    ("text", "values", "horizon"),
    [
        ("3\n4\n\n6\nNA\n8\n9\n7", [3, 4, 6, None, 8, 9, 7], 2),
        ("5", [5], 1),
        ("7\n7\n7\n7\n7\n7", [7] * 6, 2),
        ("1e-9\n2e-9\n3e-9\n4e-9\n5e-9\n6e-9", [1e-9, 2e-9, 3e-9, 4e-9, 5e-9, 6e-9], 2),
        ("1e20\n2e20\n-3e20", [1e20, 2e20, -3e20], 1),
    ],
    ids=["missing", "one value", "constant", "tiny", "huge"],
)
def test_odd_series_are_forecast(tab: Locator, served: Service, text: str, values: Values, horizon: int) -> None:
    paste(tab, text)
    expect(figure(tab, "Values read")).to_have_text(str(len(values)))
    answer = ask(served, "forecast", series=values, horizon=horizon, levels=LEVELS)
    shown = [row[0] for row in numbers_of_table(tab)]
    assert [float(text) for text in shown] == pytest.approx(answer["median"], rel=1e-3)


def test_a_series_without_numbers_is_explained_at_the_data(tab: Locator) -> None:
    data = tab.get_by_role("region", name="Series to forecast")
    paste(tab, "name,note\na,b\nc,d")
    expect(data.get_by_role("alert")).to_have_text("No column holds numbers.")
    paste(tab, "a,b\n1,\n2,NA\n4,")
    expect(data.get_by_role("alert")).to_have_count(0)
    expect(tab.get_by_role("heading", name="a", exact=True)).to_be_visible()


def test_what_was_read_and_left_out_is_listed(tab: Locator) -> None:
    paste(tab, "Datum;Umsatz;Notiz\n31.01.2024;1.234,5;a\n29.02.2024;x;b\n31.03.2024;1.300;c\n30.04.2024;1.310;d")
    notes = tab.get_by_role("list", name="How the text was read")
    expect(notes).to_contain_text("“Datum” is read as D/M/Y.")
    expect(notes).to_contain_text("Numbers are read with a decimal comma.")
    expect(notes).to_contain_text("Left out: “x” in row 2, Umsatz, which is no number.")
    expect(notes).to_contain_text("Left out: “Notiz”, which holds no series.")
    expect(figure(tab, "Values read")).to_have_text("4")
    expect(said(tab, "The next 1 month. For May 2024")).to_be_visible()


def test_a_file_is_chosen_or_dropped(tab: Locator, tmp_path: Path) -> None:
    file = tmp_path / "sales.csv"
    file.write_text("date,sales\n2024-01-01,3\n2024-01-02,4\n2024-01-03,6\n")
    tab.get_by_label("CSV file").set_input_files(file)
    expect(tab.get_by_role("heading", name="sales")).to_be_visible()
    expect(tab.get_by_label("Data", exact=True)).to_have_value("own")
    data = tab.page.evaluate_handle(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["drop\\n1\\n2\\n4"], "d.csv"));
            return data;
        }"""
    )
    tab.locator(".split").dispatch_event("drop", {"dataTransfer": data})
    expect(tab.get_by_role("heading", name="drop")).to_be_visible()
    expect(tab.get_by_label("CSV", exact=True)).to_have_value("drop\n1\n2\n4")


def test_a_hundred_thousand_values_are_forecast_and_drawn(tab: Locator, tmp_path: Path) -> None:
    noise = random.Random(3)
    file = tmp_path / "long.csv"
    file.write_text("load\n" + "\n".join(f"{50 + i % 24 + noise.gauss(0, 1):.2f}" for i in range(100_000)))
    tab.get_by_label("CSV file").set_input_files(file)
    expect(figure(tab, "Values read")).to_have_text("100,000")
    expect(figure(tab, "Season that weighed most")).to_contain_text("24")
    expect(figure(tab, "Anomalies, outside of 99 %, in the newest 10,000")).to_be_visible()
    tab.get_by_role("button", name="All").click()
    tab.locator(".u-over").hover(position={"x": 1, "y": 40})
    expect(legend(tab, "Number").locator("td")).to_have_text("1")


# To take away


def test_all_forecasts_are_saved_and_those_that_fail_are_listed(tab: Locator, served: Service) -> None:
    file = "day,item,sold\n" + "".join(
        f"2024-01-0{day},{item},{'' if item == 'none' else day * size}\n"
        for item, size in (('"a, b"', 1), ("none", 0), ("c", 3))
        for day in range(1, 7)
    )
    paste(tab, file)
    expect(said(tab, "The next 2 days.")).to_be_visible()
    with tab.page.expect_download() as download:
        tab.get_by_role("button", name="Save all 3 forecasts as CSV").click()
    expect(said(tab, "2 of 3 series are in the file.")).to_be_visible()
    expect(tab.get_by_role("list", name="Series without a forecast")).to_contain_text("none: holds no number")
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    for name, size in (("a, b", 1), ("c", 3)):
        series = [day * size for day in range(1, 7)]
        answer = ask(served, "forecast", series=series, start="2024-01-01", freq="D", horizon=2, levels=LEVELS)
        part = [row for row in rows if row["unique_id"] == name]
        assert [row["ds"] for row in part] == answer["timestamps"]
        assert [float(row["median"]) for row in part] == answer["median"]
        for level in LEVELS:
            lower, upper = edges(answer, level)
            assert [float(row[f"lo-{level}"]) for row in part] == lower
            assert [float(row[f"hi-{level}"]) for row in part] == upper
    assert len(rows) == 4


def snippets(panel: Locator) -> dict[str, str]:
    """The calls that the tab shows, by name."""
    panel.get_by_text("The same as curl, Python, nixtla").click()
    return {name: panel.get_by_label(name, exact=True).inner_text() for name in ("curl", "Python", "nixtla")}


def run(command: list[str], cwd: Path, **variables: str) -> str:
    """What a command prints."""
    process = subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, timeout=PATIENCE / 1000
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def run_python(code: str, expression: str, cwd: Path, **variables: str) -> Any:
    """The value of an expression after the code, as JSON."""
    code += f"\nimport json; print('\\n' + json.dumps({expression}))"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return json.loads(run([sys.executable, "-c", code], cwd, PYTHONPATH=path, **variables).splitlines()[-1])


@pytest.mark.parametrize("name", ["co2", "coffee"])
def test_the_calls_elsewhere_give_the_figures_of_the_page(
    tab: Locator, served: Service, name: str, tmp_path: Path
) -> None:
    choose(tab, name)
    expect(said(tab, "The next")).to_be_visible()
    calls, shown = snippets(tab), [row[0] for row in numbers_of_table(tab)]
    assert_shown(shown, json.loads(run(["bash", "-c", calls["curl"]], tmp_path))["median"])
    assert_shown(shown, run_python(calls["Python"], "answer.median.tolist()", tmp_path))
    nixtla = calls["nixtla"].replace("print(client", "table = (client")
    median = run_python(nixtla, "table['TimeGPT'].tolist()", tmp_path)
    assert [float(text) for text in shown] == pytest.approx(median, rel=1e-3)  # the client sends single precision


def test_the_calls_elsewhere_hold_out_as_the_page_does(tab: Locator, tmp_path: Path) -> None:
    tab.get_by_label("Hold out the last").check()
    expect(figure(tab, "MASE of Carry")).to_be_visible()
    calls, shown = snippets(tab), figure(tab, "MASE of Carry").inner_text()
    assert f"{json.loads(run(['bash', '-c', calls['curl']], tmp_path))['metrics']['mase']:.2f}" == shown
    mase_of_python = run_python(calls["Python"], "answer.metrics['mase']", tmp_path)
    assert f"{mase_of_python:.2f}" == shown
    medians = [float(row[0]) for row in numbers_of_table(tab)]
    nixtla = calls["nixtla"].replace("print(client", "table = (client")
    assert medians == pytest.approx(run_python(nixtla, "table['TimeGPT'].tolist()", tmp_path), rel=1e-3)


def test_the_calls_elsewhere_read_a_long_series_from_a_file(tab: Locator, tmp_path: Path) -> None:
    choose(tab, "requests")
    expect(said(tab, "The next 48 hours.")).to_be_visible()
    calls, shown = snippets(tab), [row[0] for row in numbers_of_table(tab)]
    with tab.page.expect_download() as download:
        tab.get_by_role("button", name="Save request.json").click()
    assert download.value.suggested_filename == "request.json"
    download.value.save_as(tmp_path / "request.json")
    assert_shown(shown, json.loads(run(["bash", "-c", calls["curl"]], tmp_path))["median"])
    assert_shown(shown, run_python(calls["Python"], "answer.median.tolist()", tmp_path))


def test_the_calls_elsewhere_take_the_key_from_the_environment(
    visit: Visit, served_with_key: Service, tmp_path: Path
) -> None:
    with visit(served_with_key.url) as page:
        panel = open_tab(page, "forecast")
        page.get_by_label("Key", exact=True).fill(KEY)
        page.get_by_role("button", name="Use key").click()
        expect(said(panel, "The next 24 months.")).to_be_visible()
        calls, shown = snippets(panel), [row[0] for row in numbers_of_table(panel)]
        assert all(KEY not in text for text in calls.values())
        assert_shown(shown, json.loads(run(["bash", "-c", calls["curl"]], tmp_path, CARRY_API_KEY=KEY))["median"])
        assert_shown(shown, run_python(calls["Python"], "answer.median.tolist()", tmp_path, CARRY_API_KEY=KEY))


# The reader of CSV


@pytest.fixture
def reader(page: Page) -> Callable[[str], Any]:
    """Reads a text with the page's module; a text that it refuses gives the message."""
    page.goto("./#session")  # a tab that asks the service for nothing yet

    def read(text: str) -> Any:
        return page.evaluate(
            """async (text) => {
                const { readCsv, CsvError } = await import("./page/csv.js");
                try {
                    return readCsv(text);
                } catch (error) {
                    if (error instanceof CsvError) return error.message;
                    throw error;
                }
            }""",
            text,
        )

    return read


READINGS: dict[str, tuple[str, dict[str, Values]]] = {
    "one column": ("1\n2.5\n3", {"values": [1, 2.5, 3]}),
    "one column with a name": ("y\n1\n2", {"y": [1, 2]}),
    "a line": ("3, 4, null, 5", {"values": [3, 4, None, 5]}),
    "a JSON list": ("[3,4,null,5]", {"values": [3, 4, None, 5]}),
    "wide": ("day,a,b\n2024-01-01,1,2\n2024-01-02,3,\n", {"a": [1, 3], "b": [2, None]}),
    "wide without names": ("2024-01-01,1,2\n2024-01-02,3,4", {"column 2": [1, 3], "column 3": [2, 4]}),
    "long": ("ds,id,y\n2024-01-01,A,1\n2024-01-02,A,2\n2024-01-01,B,3\n2024-01-02,B,4", {"A": [1, 2], "B": [3, 4]}),
    "long with several values": (
        "ds,id,y,z\n2024-01-01,A,1,5\n2024-01-02,A,2,6\n2024-01-01,B,3,7\n2024-01-02,B,4,8",
        {"A, y": [1, 2], "A, z": [5, 6], "B, y": [3, 4], "B, z": [7, 8]},
    ),
    "long without times": ("id;y\nA;1\nA;2\nB;3\nB;4", {"A": [1, 2], "B": [3, 4]}),
    "semicolons and decimal commas": ("d;v\n2024-01-01;1.234,5\n2024-01-02;-2,5", {"v": [1234.5, -2.5]}),
    "tabs, the first cell empty": ("\ta\n2024-01-01\t1\n2024-01-02\t2", {"a": [1, 2]}),
    "quotes": ('d,"a ""b"", c"\n2024-01-01,"1,234.5"\n2024-01-02,"2"', {'a "b", c': [1234.5, 2]}),
    "Windows line ends and a byte order mark": ("\ufeffd,v\r\n2024-01-01,1\r\n2024-01-02,2\r\n", {"v": [1, 2]}),
    "a column that counts": (",v\n0,5\n1,7\n2,9", {"v": [5, 7, 9]}),
    "rows out of order": ("d,v\n2024-01-02,2\n2024-01-01,1", {"v": [1, 2]}),
    "a time without a row": ("d,v\n2024-01-01,1\n2024-01-02,2\n2024-01-04,4", {"v": [1, 2, None, 4]}),
    "signs, blanks and exponents": ("v\n+1\n-2e3\n1 234\n.5", {"v": [1, -2000, 1234, 0.5]}),
}


@pytest.mark.parametrize(("text", "series"), READINGS.values(), ids=READINGS)
def test_the_page_reads(reader: Callable[[str], Any], text: str, series: dict[str, Values]) -> None:
    assert {each["id"]: each["values"] for each in reader(text)["series"]} == series


@pytest.mark.parametrize(
    ("times", "start", "freq"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-03"], "2024-01-01", "D"),
        (["31/01/2024", "29/02/2024", "31/03/2024"], "2024-01-31", "M"),
        (["1/31/2024", "2/29/2024", "3/31/2024"], "2024-01-31", "M"),
        (["2024-01", "2024-04", "2024-07"], "2024-01-01", "Q"),
        (["1990", "1991", "1992"], "1990-01-01", "Y"),
        (["2024-01-01", "2024-01-08", "2024-01-15"], "2024-01-01", "W"),
        (["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-11"], "2024-01-04", "B"),
        (["1960-01-07", "1960-01-08", "1960-01-11", "1960-01-12", "1960-01-14"], "1960-01-07", "B"),
        (["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 02:00"], "2024-01-01T00:00:00", "H"),
        (["2024-01-01T00:00:00Z", "2024-01-01T00:15:00Z", "2024-01-01T00:45:00Z"], "2024-01-01T00:00:00", "15min"),
        (["2024-01-01T00:00:00+02:00", "2024-01-01T00:00:30+02:00"], "2023-12-31T22:00:00", "30S"),
        (["2024-01-01", "2024-01-03", "2024-06-09"], None, None),
    ],
)
def test_the_page_finds_the_frequency(
    reader: Callable[[str], Any], times: list[str], start: str | None, freq: str | None
) -> None:
    table = reader("time,v\n" + "".join(f"{time},{i}\n" for i, time in enumerate(times)))
    [series] = table["series"]
    assert (series["start"], series["freq"]) == (start, freq)
    assert [value for value in series["values"] if value is not None] == list(range(len(times)))
    assert (series["timestamps"] is None) == (freq is None)
    assert any("uneven" in note for note in table["notes"]) == (freq is None)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("d,v\n13/02/2024,1\n14/02/2024,2", "“d” is read as D/M/Y."),
        ("d,v\n02/13/2024,1\n02/14/2024,2", "“d” is read as M/D/Y."),
        ("d,v\n01/02/2024,1\n02/02/2024,2", "“d” is read as D/M/Y; no day is above 12, so they might be M/D/Y."),
        ("d;v\n2024-01-01;1,5\n2024-01-02;2", "Numbers are read with a decimal comma."),
        ("d,v\n2024-01-01,1\n2024-01-02,1\n2024-01-05,2", "v: no row for 2 of its times; they are missing values."),
    ],
)
def test_the_page_says_what_it_took(reader: Callable[[str], Any], text: str, note: str) -> None:
    assert note in reader(text)["notes"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n3\n4,5", "Left out: 1 rows that have not 2 cells."),
        ("v\n1\n2x\n3", "Left out: “2x” in row 2, v, which is no number."),
        ("v;w\n1,5;1\n1.23;2\n2,5;3", "Left out: “1,5” in row 1, v, which is no number."),
        ("d,v\n13/02/2024,1\n02/14/2024,2\n15/02/2024,3", "Left out: “02/14/2024” in row 2, d, which is no date."),
        ("d,v\n2024-02-28,1\n2024-02-30,2\n2024-03-01,3", "Left out: “2024-02-30” in row 2, d, which is no date."),
        ("d,v,note\n2024-01-01,1,x\n2024-01-02,2,y", "Left out: “note”, which holds no series."),
        (
            "d,id,v\n2024-01-01,A,1\n2024-01-02,A,2\n2024-01-01,B,5\n2024-01-01,B,6\n2024-01-02,B,7",
            "B: its times are uneven or stand twice, and not used; the values are in their order.",
        ),
    ],
)
def test_the_page_says_what_it_left_out(reader: Callable[[str], Any], text: str, reason: str) -> None:
    assert reason in reader(text)["notes"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "There are no values to read."),
        ("\n \n", "There are no values to read."),
        ("hello world", "No column holds numbers."),
        ("a,b\nx,y\n", "No column holds numbers."),
        ('a,b\n1,"2\n3,4', "A quotation mark is not closed."),
        (
            "d,v\n2024-01-01,1\n2024-01-01,2",
            "Several rows have the same time, and no column of text names the series.",
        ),
    ],
)
def test_the_page_refuses(reader: Callable[[str], Any], text: str, reason: str) -> None:
    assert reader(text) == reason


# The samples


def test_the_samples_are_those_of_their_script() -> None:
    assert {name: (FOLDER / name).read_text() for name in made()} == made()
    assert (FOLDER / "co2.csv").read_text() == (ROOT / "examples" / "co2.csv").read_text()
