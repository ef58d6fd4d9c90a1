"""The browser that shows the page: Chromium, or Chrome, as the machine has it."""

import shutil

from playwright.sync_api import Browser, Playwright

COMMANDS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """The path of the browser; None if there is none on the PATH."""
    return next(filter(None, map(shutil.which, COMMANDS)), None)


def launch(playwright: Playwright, executable: str) -> Browser:
    """Start the browser. It resolves no name and reaches no address but this machine's."""
    return playwright.chromium.launch(
        executable_path=executable, args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    )
