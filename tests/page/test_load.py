"""The tab Load: what the page makes of the service's metrics."""

import math
import re
import urllib.error
import urllib.request
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from tests.e2e.serving import Service, post
from tests.page.conftest import open_tab


def call(page: Page, function: str, *arguments: object) -> Any:
    """Call a function of the tab's module, in the browser."""
    script = f"async (given) => (await import('./page/load.js')).{function}(...given)"
    return page.evaluate(script, list(arguments))


def test_each_chart_has_a_line_and_its_newest_figure(page: Page, served: Service) -> None:
    panel = open_tab(page, "load")
    figures = panel.get_by_role("figure").filter(has_text="Requests a second")
    expect(figures).to_contain_text(re.compile(r"\d answered"))  # what comes before the second look counts in no rate
    post(f"{served.url}/forecast", {"series": [1, 2, 3], "horizon": 1})
    with pytest.raises(urllib.error.HTTPError):
        post(f"{served.url}/forecast", {"series": "none"})
    for title in ("Requests a second", "Latency", "Waiting steps", "Steps a second", "Batch", "Sessions"):
        expect(panel.get_by_role("figure").filter(has_text=title).locator("canvas")).to_be_visible()
    expect(figures).to_contain_text(re.compile(r"[1-9]\S* answered.*[1-9]\S* refused or failed"))
    expect(panel.get_by_role("figure").filter(has_text="Batch")).to_contain_text(re.compile(r"\d reading"))


@pytest.mark.parametrize(("status", "words"), [(403, "has not the scope “metrics”"), (404, "CARRY_METRICS_PORT")])
def test_where_the_metrics_cannot_be_read_the_tab_says_why(page: Page, status: int, words: str) -> None:
    problem = {"status": status, "code": "forbidden", "detail": "No."}
    page.route("**/metrics", lambda route: route.fulfill(status=status, json=problem))
    panel = open_tab(page, "load")
    expect(panel.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_figure_in_words_stands_above_each_chart(page: Page, served: Service) -> None:
    panel = open_tab(page, "load")
    latency = panel.get_by_role("figure").filter(has_text="Latency")
    expect(latency).to_contain_text("\u2013 half within")  # no second answer of the metrics yet
    post(f"{served.url}/forecast", {"series": [1, 2, 3], "horizon": 1})
    expect(latency).to_contain_text("ms half within")
    with urllib.request.urlopen(f"{served.url}/metrics") as answer:
        text = answer.read().decode()
    [sessions] = [line.split()[1] for line in text.splitlines() if line.startswith("carry_sessions ")]
    expect(panel.get_by_role("figure").filter(has_text="Sessions")).to_contain_text(f"{float(sessions):g} in the store")


def test_the_metrics_are_read_as_they_are_written(page: Page) -> None:
    registry = CollectorRegistry()
    counter = Counter("a", "Help.", ["route", "odd"], registry=registry)
    odd = 'a "quoted", {braced} \\ one'
    counter.labels("/x", odd).inc(2.5)
    open_tab(page, "load")
    samples = call(page, "parseMetrics", generate_latest(registry).decode() + "b 1e+06\nc -Inf\n")
    values = {sample["name"]: sample["value"] for sample in samples}
    assert (values["a_total"], values["b"], values["c"]) == (2.5, 1e6, -math.inf)
    [labels] = [sample["labels"] for sample in samples if sample["name"] == "a_total"]
    assert labels == {"route": "/x", "odd": odd}


def test_a_quantile_is_linear_within_its_bucket(page: Page) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("s", "Help.", buckets=(0.1, 0.2, 0.4), registry=registry)
    open_tab(page, "load")

    def quantile(q: float) -> float | None:
        samples = call(page, "parseMetrics", generate_latest(registry).decode())
        buckets = [sample for sample in samples if sample["name"] == "s_bucket"]
        value: float | None = call(page, "quantile", buckets, q)
        return value

    assert quantile(0.5) is None
    for seconds in (0.05, 0.15, 0.15, 0.3):
        histogram.observe(seconds)
    assert quantile(0.25) == pytest.approx(0.1)
    assert quantile(0.5) == pytest.approx(0.15)
    assert quantile(1) == pytest.approx(0.4)
    histogram.observe(9)
    assert quantile(1) == pytest.approx(0.4)  # the last bound: what is longer is not known
