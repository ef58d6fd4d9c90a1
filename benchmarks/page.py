"""The page as a visitor meets it: Lighthouse's scores, and the time from a fresh clone to a forecast in the browser.

`make bench-page` runs it, in about five minutes. It needs git, Node.js and Chromium; Lighthouse is installed into a
temporary folder. Ends with one JSON line; all else goes to standard error.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import expect, sync_playwright

from service.machine import available_cores
from tests.page.browser import find_browser, launch

HERE = Path(__file__).parents[1]
LIGHTHOUSE = "lighthouse@12.8.2"
"""The newest that runs on Node.js 20."""
CATEGORIES = ("performance", "accessibility", "best-practices")
FORMS = {"desktop": ("--preset=desktop",), "phone": ()}
"""Lighthouse's own conditions: a phone's processor is four times slower, and its network has 1.6 Mbit/s."""
RUNS = 3
"""Of each form; the median counts. Other programs on the machine only make a page slower."""
PATIENCE = 900
"""Seconds until a step fails."""


@contextmanager
def served(command: tuple[str, ...], folder: Path) -> Iterator[tuple[str, float]]:
    """The service, started by a command in a folder. Yields its URL and the seconds until it was ready.

    Raises:
        RuntimeError: it was not ready in time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "CARRY_PORT": str(port),
        "CARRY_LOG_LEVEL": "warning",
        "CARRY_SESSION_STORE": f"sqlite:///{folder}/page.db",
    }
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | settings, stdout=sys.stderr, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{port}"
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() - start > PATIENCE:
                raise RuntimeError(f"`{' '.join(command)}` did not start the service")
            time.sleep(0.1)
        yield f"{url}/", time.monotonic() - start
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
            return True
    except OSError:
        return False


def time_to_forecast(folder: Path, browser: str) -> Mapping[str, float]:
    """Seconds from `make run` in a fresh clone of this checkout to a forecast in the browser, and their parts."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(HERE), str(clone)], check=True)
    with sync_playwright() as playwright:
        page = launch(playwright, browser).new_page()
        began = time.time()
        start = time.monotonic()
        with served(("make", "run"), clone) as (url, ready):
            page.goto(url)
            # The page forecasts its first sample by itself.
            chart = page.get_by_role("img", name="history and forecast")
            expect(chart).to_be_visible(timeout=1000 * PATIENCE)
            expect(page.get_by_role("status").filter(has_text="expects")).to_be_visible(timeout=1000 * PATIENCE)
            seen = time.monotonic() - start
        set_up = (clone / ".venv" / "installed").stat().st_mtime - began
    parts = {"setup": set_up, "start": ready - set_up, "page": seen - ready, "all": seen}
    return {name: round(part, 1) for name, part in parts.items()}


def lighthouse(url: str, folder: Path, browser: str) -> Mapping[str, Mapping[str, float]]:
    """The median scores, 0 to 100, by form and category."""
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", LIGHTHOUSE], cwd=folder, check=True, stdout=sys.stderr
    )
    return {form: _scores(url, folder, browser, options) for form, options in FORMS.items()}


def _scores(url: str, folder: Path, browser: str, options: tuple[str, ...]) -> Mapping[str, float]:
    reports: list[dict[str, Any]] = []
    for _ in range(RUNS):
        output = subprocess.run(
            [
                folder / "node_modules" / ".bin" / "lighthouse",
                url,
                "--quiet",
                "--no-enable-error-reporting",
                "--output=json",
                f"--only-categories={','.join(CATEGORIES)}",
                "--chrome-flags=--headless=new --no-sandbox",
                *options,
            ],
            env=os.environ | {"CHROME_PATH": browser},
            check=True,
            stdout=subprocess.PIPE,
            timeout=PATIENCE,
        ).stdout
        reports.append(json.loads(output))
        print(_described(reports[-1]), file=sys.stderr)  # noqa: T201
    return {name: sorted(_score(report, name) for report in reports)[RUNS // 2] for name in CATEGORIES}


def _score(report: dict[str, Any], category: str) -> float:
    return round(100 * float(report["categories"][category]["score"]))


def _described(report: dict[str, Any]) -> str:
    """The scores, and what costs performance."""
    audits = report["audits"]
    metrics = ("first-contentful-paint", "largest-contentful-paint", "total-blocking-time", "cumulative-layout-shift")
    return "  ".join(
        [f"{name} {_score(report, name)}" for name in CATEGORIES]
        + [f"{name} {audits[name].get('displayValue')}" for name in metrics]
    )


def main() -> None:
    browser = find_browser()
    if browser is None:
        raise SystemExit("no Chromium on the PATH: `make chromium` installs it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load = os.getloadavg()[0]
        seconds = time_to_forecast(folder, browser)
        with served((str(HERE / ".venv" / "bin" / "carry"), "serve"), folder) as (url, _):
            scores = lighthouse(url, folder, browser)
    result = {"seconds_to_forecast": seconds, "lighthouse": scores, "cores": available_cores(), "load_before": load}
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main()
