"""/docs and /redoc in a browser without internet: they show this service's OpenAPI document, with a key set, too."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.serving import Service
from tests.page.conftest import KEY, Visit


def test_swagger_ui_shows_the_routes_and_calls_them(page: Page, served: Service) -> None:
    page.goto("docs")
    operation = page.locator("#operations-operation-get_version")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".request-url")).to_contain_text(f"{served.url}/version")
    expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_redoc_shows_the_routes(page: Page) -> None:
    page.goto("redoc")
    expect(page.get_by_role("heading", name=re.compile(r"^Carry \("))).to_be_visible()
    expect(page.get_by_text("Forecast the values that follow a series, with quantiles.").first).to_be_visible()


@pytest.mark.parametrize("path", ["docs", "redoc"])
def test_the_api_pages_need_no_key_and_lead_back(visit: Visit, served_with_key: Service, path: str) -> None:
    with visit(served_with_key.url) as page:
        page.goto(path)
        expect(page.get_by_text("/forecast/batch").first).to_be_visible()
        page.get_by_role("navigation", name="Carry").get_by_role("link", name="Carry").click()
        expect(page).to_have_url(f"{served_with_key.url}/")


def test_swagger_ui_sends_the_key(visit: Visit, served_with_key: Service) -> None:
    with visit(served_with_key.url) as page:
        page.goto("docs")
        page.get_by_role("button", name="Authorize").click()
        page.get_by_label("auth-bearer-value").fill(KEY)
        page.get_by_role("button", name="Apply credentials").click()
        page.get_by_role("button", name="Close").last.click()
        operation = page.locator("#operations-models-list_models")
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
