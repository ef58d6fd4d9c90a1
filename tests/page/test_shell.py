"""The page as a whole, over its tabs: what a person needs who comes with a keyboard, a key, or a telephone."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.e2e.serving import Service
from tests.page.axe import severe_faults
from tests.page.conftest import KEY, TABS, Visit, open_tab
from tests.page.use import USES

VENDOR = Path(__file__).parent / "vendor"
PREFIX = "/behind/a/proxy"
PHONE: dict[str, Any] = {"viewport": {"width": 380, "height": 800}, "is_mobile": True, "has_touch": True}


# The harness itself


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ("<img src='https://example.com/x.png'>", "another host: https://example.com/x.png"),
        ("<script>console.error('a complaint')</script>", "console: a complaint"),
        ("<script>console.warn('a warning')</script>", "console: a warning"),
        ("<script>throw new Error('nobody caught it')</script>", "exception: nobody caught it"),
        ("<script>Promise.reject(new Error('nobody waited'))</script>", "exception: nobody waited"),
    ],
)
def test_a_complaint_of_a_page_fails_its_test(visit: Visit, served: Service, html: str, fault: str) -> None:
    def show() -> None:
        with visit(served.url) as page:
            page.set_content(html, wait_until="networkidle")

    with pytest.raises(AssertionError, match=fault):
        show()


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("document.body.append(Object.assign(document.createElement('script'), { text: '0' }))", "Security Policy"),
        ("import('./page/nothing.js').catch(() => {})", "status 404: .*/page/nothing.js"),
    ],
)
def test_what_a_page_must_not_load_fails_its_test(visit: Visit, served: Service, script: str, fault: str) -> None:
    def show() -> None:
        with visit(served.url) as page:
            page.goto("./")
            page.evaluate(script)

    with pytest.raises(AssertionError, match=fault):
        show()


def test_the_vendored_axe_is_that_of_its_package() -> None:
    [axe] = json.loads((VENDOR / "vendor.json").read_text())
    assert hashlib.sha256((VENDOR / axe["file"]).read_bytes()).hexdigest() == axe["sha256"]
    assert f"axe v{axe['version']}" in (VENDOR / axe["file"]).read_text()[:20]


# Tabs and keyboard


def selected(page: Page) -> Locator:
    """The link of the tab that is shown."""
    return page.locator("nav a[aria-current=page]")


def test_each_tab_has_an_address(page: Page) -> None:
    for name, title in TABS.items():
        open_tab(page, name)
        expect(selected(page)).to_have_text(title)
        expect(page.locator("main > section:visible")).to_have_count(1)


def test_an_address_without_a_tab_shows_the_first(page: Page) -> None:
    for address in ("./", "./#no-tab"):
        page.goto(address)
        expect(selected(page)).to_have_text("Forecast")


def test_going_back_shows_the_tab_before(page: Page) -> None:
    open_tab(page, "forecast")
    page.get_by_role("link", name="Models").click()
    expect(page).to_have_url(f"{page.url.split('#')[0]}#models")
    page.go_back()
    expect(selected(page)).to_have_text("Forecast")


def test_the_first_key_leads_past_the_header(page: Page) -> None:
    open_tab(page, "forecast")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


# The API key


def test_a_service_without_keys_asks_for_none(page: Page) -> None:
    for name in TABS:
        open_tab(page, name)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_service_with_keys_asks_for_one_and_refuses_a_wrong_one(visit: Visit, served_with_key: Service) -> None:
    with visit(served_with_key.url) as page:
        panel = open_tab(page, "models")
        dialog = page.get_by_role("dialog", name="API key")
        expect(dialog).to_contain_text("The service wants a key.")
        dialog.get_by_label("Key", exact=True).fill("a-key-that-nobody-has")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("one of the service's API keys")
        page.get_by_role("button", name="API key").click()
        dialog.get_by_label("Key", exact=True).fill(KEY)
        dialog.get_by_role("button", name="Use key").click()
        expect(panel.get_by_role("article").first).to_contain_text("forecast")
        expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("name", USES)
def test_a_tab_works_with_a_key(visit: Visit, served_with_key: Service, name: str) -> None:
    with visit(served_with_key.url) as page:
        open_tab(page, name)
        page.get_by_role("dialog").get_by_label("Key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)
        USES[name](page)


def test_the_key_is_kept_for_this_window_only(visit: Visit, served_with_key: Service) -> None:
    with visit(served_with_key.url) as page:
        panel = open_tab(page, "models")
        page.get_by_role("dialog").get_by_label("Key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        expect(panel.get_by_role("article").first).to_contain_text("forecast")
        page.reload()
        expect(panel.get_by_role("article").first).to_contain_text("forecast")
        assert KEY in page.evaluate("JSON.stringify(sessionStorage)")
        assert KEY not in page.evaluate("JSON.stringify(localStorage)")
        assert page.evaluate("indexedDB.databases()") == []
        assert page.context.cookies() == []
        assert KEY not in page.url
        other = page.context.new_page()
        open_tab(other, "models")
        expect(other.get_by_role("dialog")).to_contain_text("The service wants a key.")


def test_without_the_key_the_page_says_what_is_missing(visit: Visit, served_with_key: Service) -> None:
    with visit(served_with_key.url) as page:
        open_tab(page, "forecast")
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("alert").first).to_contain_text("API key")


# What a person does in each tab


@pytest.mark.parametrize("name", USES)
def test_a_tab_has_no_fault_for_people_who_see_hear_or_move_differently(page: Page, name: str) -> None:
    USES[name](page)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert severe_faults(page) == []


@pytest.mark.parametrize("name", USES)
def test_nothing_scrolls_sideways_on_a_phone(visit: Visit, served: Service, name: str) -> None:
    with visit(served.url, **PHONE) as page:
        USES[name](page)
        assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [380, 380]
        assert severe_faults(page) == []


@pytest.mark.parametrize("name", USES)
def test_a_tab_works_behind_a_prefix(visit: Visit, served: Service, name: str) -> None:
    outside: list[str] = []

    def without_prefix(route: Route) -> None:
        """As a proxy does that knows the service by a path of its own."""
        path = urlsplit(route.request.url).path
        if path.startswith(f"{PREFIX}/"):
            route.continue_(url=f"{served.url}{path.removeprefix(PREFIX)}")
        else:
            outside.append(path)
            route.abort()

    with visit(f"{served.url}{PREFIX}") as page:
        page.route("**", without_prefix)
        USES[name](page)
    assert outside == []


def test_a_forecast_is_made_without_a_mouse(page: Page) -> None:
    panel = open_tab(page, "forecast")
    result = panel.get_by_role("region", name="Result")
    expect(result).to_contain_text("The next 24 months.")
    press_tab_until(page, panel.get_by_label("Data"))
    page.keyboard.type("A shop")
    expect(result).to_contain_text(re.compile(r"The next \d+ days"))
    press_tab_until(page, panel.get_by_label("Horizon"))
    page.keyboard.press("Home")
    press_tab_until(page, panel.get_by_role("checkbox", name="Hold out"))
    page.keyboard.press("Space")
    expect(result).to_contain_text("Carry did not see the last day.")


def press_tab_until(page: Page, control: Locator) -> None:
    """Press the tab key until the control has the focus, as a person does who sees where it is.

    Raises:
        AssertionError: fifty times were not enough.
    """
    for _ in range(50):
        page.keyboard.press("Tab")
        if control.evaluate("control => control === document.activeElement"):
            return
    raise AssertionError("the tab key does not lead there")
