"""The tab Load: what the page makes of the service's metrics."""

import math
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


def test_requests_are_counted_by_route_and_status(page: Page, served: Service) -> None:
    panel = open_tab(page, "load")
    post(f"{served.url}/forecast", {"series": [1, 2, 3], "horizon": 1})
    with pytest.raises(urllib.error.HTTPError):
        post(f"{served.url}/forecast", {"series": "none"})
    row = panel.get_by_role("row", name="POST /forecast", exact=False).filter(has_text="422: ")
    expect(row).to_contain_text("200: ")
    expect(row).to_contain_text("ms")
    expect(panel.get_by_role("row", name="/metrics")).to_have_count(0)
    for title in ("Requests a second", "Latency", "Waiting steps", "Steps a second", "Sessions"):
        expect(panel.get_by_role("figure").filter(has_text=title).locator("canvas")).to_be_visible()


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
