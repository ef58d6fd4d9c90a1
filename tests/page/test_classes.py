"""The tab "Classes" in a browser: its figures are those of POST /classify."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.builders import forecaster, write_model
from tests.classify.classifiers import CLASSES, classifier, write_classifier
from tests.e2e.serving import PATIENCE, Service, post
from tests.page.axe import severe_faults
from tests.page.conftest import TABS, Visit, open_tab

TABLE = "height,speed,day\n9,1,mon\n8,4,tue\n8,,wed\n2,7,thu\n"
SERIES = {"speed": [1, 4, None, 7], "height": [9, 8, 8, 2]}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with classifiers of texts, of series, and of whole series, and a forecaster."""
    folder = tmp_path_factory.mktemp("classifiers")
    write_classifier(classifier(text=True), folder / "models", "moods")
    write_classifier(classifier(), folder / "models", "moves")
    write_classifier(classifier(features=1, directions=2), folder / "models", "whole")
    write_model(forecaster(), folder / "models", "forecast")
    with Service(folder / "models", f"sqlite:///{folder}/sessions.db") as service:
        yield service


@pytest.fixture
def page(visit: Visit, classifiers: Service) -> Iterator[Page]:
    """A page of this service."""
    with visit(classifiers.url) as page:
        yield page


@pytest.fixture
def panel(page: Page) -> Locator:
    """The tab, once it has classified its sample."""
    panel = open_tab(page, "classes")
    expect(panel.get_by_role("status")).to_contain_text("after 39 steps")
    return panel


def field(panel: Locator) -> Locator:
    return panel.get_by_role("textbox")


def expect_classes(panel: Locator, answer: dict[str, Any]) -> None:
    """The probabilities of an answer, the most probable first; and since when it has been that class."""
    labels = panel.get_by_role("group", name="Probabilities").locator("label")
    names = [f"{name} {100 * share:.1f} %" for name, share in answer["probabilities"].items()]
    expect(labels).to_have_text(names, use_inner_text=True)
    words = f"{answer['label']}: {100 * answer['probabilities'][answer['label']]:.1f} % after {answer['steps']} steps"
    if answer["per_step"]:
        leaders = [max(step) == step[0] for step in zip(*answer["per_step"].values(), strict=True)]
        since = len(leaders) - leaders[::-1].index(False) + 1 if False in leaders else 1
        words += f", since step {since}" if since > 1 else ", from the first step on"
    expect(panel.get_by_role("status").first).to_have_text(f"{words}.")


def classify(service: Service, **body: Any) -> dict[str, Any]:
    """The answer of the service."""
    return post(f"{service.url}/classify", body)


def test_a_text_has_its_classes_as_it_is_typed(panel: Locator, classifiers: Service) -> None:
    for text in ("a fine day", "a fine day\nof café and \U0001f600", "b"):
        field(panel).fill(text)
        expect_classes(panel, classify(classifiers, model="moods", text=text, per_step=True))
    expect(panel.get_by_role("img", name="Probabilities after each step")).to_be_visible()
    for name in CLASSES:
        expect(panel.locator(".u-legend")).to_contain_text(name)


def test_the_cursor_shows_the_classes_after_a_step(panel: Locator, classifiers: Service) -> None:
    text = "a fine day"
    field(panel).fill(text)
    answer = classify(classifiers, model="moods", text=text, per_step=True)
    expect_classes(panel, answer)
    plot = panel.locator(".u-over")
    width = plot.evaluate("plot => plot.clientWidth")
    plot.hover(position={"x": 3 / 9 * width, "y": 20})
    legend = panel.locator(".u-legend")
    expect(legend).to_contain_text("4 i")
    for name, shares in answer["per_step"].items():
        expect(legend).to_contain_text(re.compile(rf"{name}\s*{100 * shares[3]:.1f} %"))


def test_a_table_is_read_by_the_names_of_its_columns(panel: Locator, classifiers: Service) -> None:
    panel.get_by_label("Model").select_option("moves@1")
    expect(panel.get_by_text("A row for each step: speed, height.")).to_be_visible()
    field(panel).fill(TABLE)
    answer = classify(classifiers, model="moves", series=SERIES, per_step=True)
    expect_classes(panel, answer)
    expect(panel.locator(".u-legend")).to_contain_text("speed")
    field(panel).fill("1\n2\n3")
    expect(panel.get_by_role("alert")).to_have_text("The model reads 2 columns of numbers: speed, height.")
    field(panel).fill("1 9\n4 8\n")
    expect(panel.get_by_role("alert")).to_be_visible()
    panel.get_by_label("Model").select_option("moods@1")
    expect(panel.get_by_role("status")).to_contain_text("after 39 steps")


def test_of_a_model_that_reads_both_ways_the_end_alone_is_shown(panel: Locator, classifiers: Service) -> None:
    panel.get_by_label("Model").select_option("whole@1")
    field(panel).fill("3 1 4 1 5 9")
    expect_classes(panel, classify(classifiers, model="whole", series=[3, 1, 4, 1, 5, 9]))
    expect(panel.get_by_role("img")).to_have_count(0)


def test_the_same_request_runs_elsewhere(page: Page, panel: Locator, classifiers: Service) -> None:
    panel.get_by_label("Model").select_option("moves@1")
    field(panel).fill(TABLE)
    answer = classify(classifiers, model="moves", series=SERIES)
    expect(panel.get_by_role("status").first).to_contain_text(f"{answer['label']}: ")
    panel.get_by_text("The same as curl, Python").click()
    code = {label: panel.get_by_label(label, exact=True).inner_text() for label in ("curl", "Python")}
    commands = ["bash", "-c", code["curl"]], [sys.executable, "-c", code["Python"]]
    curl, python = (
        subprocess.run(command, capture_output=True, encoding="utf-8", timeout=PATIENCE, check=True).stdout
        for command in commands
    )
    assert json.loads(curl) == answer
    assert python.strip() == answer["label"]


def test_without_a_classifier_there_is_no_such_tab(visit: Visit, tmp_path: Path) -> None:
    write_model(forecaster(), tmp_path / "models", "forecast")
    with (
        Service(tmp_path / "models", f"sqlite:///{tmp_path}/sessions.db") as service,
        visit(service.url) as page,
    ):
        page.goto("./#classes")
        expect(page.get_by_role("link", name=TABS["forecast"], exact=True)).to_have_attribute("aria-current", "page")
        expect(page.get_by_role("link", name=TABS["classes"], exact=True)).to_have_count(0)
        expect(page.get_by_role("region", name=TABS["forecast"], exact=True)).to_be_visible()


def test_everything_can_be_seen_and_is_named(page: Page, panel: Locator) -> None:
    panel.get_by_text("The same as curl, Python").click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert severe_faults(page) == []


def test_a_phone_scrolls_nothing_sideways(visit: Visit, classifiers: Service) -> None:
    with visit(classifiers.url, viewport={"width": 380, "height": 800}, is_mobile=True, has_touch=True) as page:
        panel = open_tab(page, "classes")
        expect(panel.get_by_role("status")).to_contain_text("after 39 steps")
        panel.get_by_text("The same as curl, Python").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 380
