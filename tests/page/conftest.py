"""A real browser on a real service: Chromium, driven by Playwright, on `carry serve` with the shipped models.

Whatever a page complains about fails its test: an error in the console, an exception that nobody caught, a violation
of the Content-Security-Policy, a file that is missing, and each request to another host, which is also blocked.
Nothing here knows what is in the tabs.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    WebError,
    expect,
    sync_playwright,
)

from tests.conftest import SHIPPED
from tests.e2e.serving import Service
from tests.page.browser import COMMANDS, find_browser, launch

KEY = "a-key-of-the-page-tests"
PATIENCE = 60_000.0
"""Milliseconds to wait for what a page shall show, before a test fails. A busy machine is slow."""
TABS = {
    "forecast": "Forecast",
    "session": "Live session",
    "text": "Text",
    "classes": "Classes",
    "models": "Models",
    "load": "Load",
}
"""The tabs: what stands behind the # of the address, and the title."""

_REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
Visit = Callable[..., AbstractContextManager[Page]]


# For the package, not the session: while Playwright runs, no other test of the process can start an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The browser, which every test of the package shares."""
    executable = find_browser()
    if executable is None:
        reason = f"THE PAGE IS NOT TESTED: none of {', '.join(COMMANDS)} is on the PATH; `make chromium` installs it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright, launch(playwright, executable) as browser:
        yield browser


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the shipped models, without API keys; `url` has no slash at its end."""
    with Service(SHIPPED, f"sqlite:///{tmp_path_factory.mktemp('page')}/sessions.db") as service:
        yield service


@pytest.fixture(scope="package")
def served_with_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the shipped models and one API key, KEY."""
    with Service(SHIPPED, f"sqlite:///{tmp_path_factory.mktemp('page')}/sessions.db", api_keys=KEY) as service:
        yield service


@pytest.fixture
def visit(browser: Browser) -> Visit:
    """Opens a browser window of its own, without cookies and storage: `with visit(service.url) as page: ...`.

    Options are those of Playwright's `new_context`. At the end nothing that the page did may be a fault.
    """

    @contextmanager
    def visit(url: str, **options: object) -> Iterator[Page]:
        defaults = {"base_url": f"{url}/", "viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
        context = browser.new_context(**{**defaults, **options})  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        faults = _collect_faults(context)
        try:
            yield context.new_page()
        finally:
            context.close()
        assert faults == []

    return visit


@pytest.fixture
def page(visit: Visit, served: Service) -> Iterator[Page]:
    """A page of the service without API keys."""
    with visit(served.url) as page:
        yield page


def open_tab(page: Page, name: str) -> Locator:
    """Open a tab by its address, and return its panel once it is shown. `name`: a key of TABS."""
    page.goto(f"./#{name}")
    link = page.get_by_role("link", name=TABS[name], exact=True)
    expect(link).to_have_attribute("aria-current", "page")
    panel = page.get_by_role("region", name=TABS[name], exact=True)
    expect(panel).to_be_visible()
    return panel


def _collect_faults(context: BrowserContext) -> list[str]:
    faults: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        # Chromium reports violations of the policy here, too. A refusal of the API is none of the page's faults.
        if message.type in ("error", "warning") and not _REFUSED.match(message.text):
            faults.append(f"console: {message.text}")

    def on_error(error: WebError) -> None:
        faults.append(f"exception: {error.error}")

    def on_request(request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            faults.append(f"another host: {request.url}")

    def on_response(response: Response) -> None:
        is_file = response.request.resource_type not in ("fetch", "xhr", "eventsource")
        if response.status >= (400 if is_file else 500):
            faults.append(f"status {response.status}: {response.url}")

    context.on("console", on_console)
    context.on("weberror", on_error)
    context.on("request", on_request)
    context.on("response", on_response)
    return faults
