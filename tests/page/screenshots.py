"""The pictures of the page in README and docs, from a running service: docs/images/page-<tab>.png.

`make screenshots` runs it, in about four minutes: the picture of the tab Load shows real traffic, which it sends. The
same page gives the same pictures, but for times, and what depends on them.
"""

import itertools
import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import SHIPPED
from tests.e2e.serving import Service
from tests.page.browser import find_browser, launch
from tests.page.conftest import PATIENCE, open_tab
from tests.page.use import use_models, use_text

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SIZE = (1280, 800)
COLOURS = 256
"""Of a picture. Few enough for a small file, and no difference is seen."""
TRAFFIC_SECONDS = 160.0
QUIET_SECONDS = 40.0
"""After every so many seconds of traffic there is more of it, or less."""
HOURS = 168
"""Values of the session at first: a week."""
SURPRISE = "miniature"
"""The text that is shown goes on with this word."""
STEPS = 14
"""Values that arrive one by one before the copy, and again after it."""


def show_forecast(page: Page) -> None:
    """The forecast of two years of the sample that it has not seen, over the truth."""
    panel = open_tab(page, "forecast")
    panel.get_by_role("checkbox", name="Hold out").check()
    expect(panel.get_by_role("region", name="Result")).to_contain_text("Carry did not see the last 24 months.")


def show_session(page: Page, requests: list[str]) -> None:
    """A session, and a copy of it in which more requests arrive. `requests`: the values that are replayed."""
    panel = open_tab(page, "session")
    # Whole weeks, so that the replay goes on in step.
    panel.get_by_label("Or type new values").fill(" ".join(requests[-HOURS:]))
    panel.get_by_role("button", name="Send").click()
    session, copy = panel.get_by_role("article").first, panel.get_by_role("article").nth(1)
    expect(session).to_contain_text(f"Value {HOURS} is")
    step = panel.get_by_role("button", name="Step")
    for i in range(STEPS):
        step.click()
        expect(session).to_contain_text(f"Value {HOURS + i + 1} is")
    session.get_by_role("button", name="What if").click()
    expect(copy).to_contain_text(f"Value {HOURS + STEPS} is")
    panel.get_by_role("slider").fill("30")
    for i in range(STEPS):
        step.click()
        for each in (session, copy):
            expect(each).to_contain_text(f"Value {HOURS + STEPS + i + 1} is")


def show_text(page: Page) -> None:
    """What else the model expected, at a character that surprised it."""
    panel = open_tab(page, "text")
    next_character = panel.get_by_role("group", name="Next character").get_by_role("button").first
    before = next_character.inner_text()
    use_text(page)
    expect(next_character).not_to_have_text(before, use_inner_text=True)
    text = panel.get_by_role("textbox").input_value()
    page.mouse.move(0, 0)
    panel.get_by_role("option").nth(text.index(SURPRISE)).hover()
    expect(panel.get_by_role("group", name="Alternatives")).to_be_visible()


def show_classes(page: Page) -> None:
    """The language of a text, after each of its characters."""
    panel = open_tab(page, "classes")
    panel.get_by_label("Model").select_option("languages@1")
    expect(panel.get_by_role("status").first).to_contain_text("German")
    panel.get_by_role("img").hover()


def show_models(page: Page) -> None:
    """The cards of the models, with their pictures."""
    use_models(page)
    for picture in page.get_by_role("region", name="Models").get_by_role("button", name="Enlarge").all():
        box = picture.bounding_box()
        if box is not None and box["y"] < SIZE[1]:
            expect(picture.locator("img")).to_be_visible()
    page.evaluate("""Promise.all([...document.images]
        .filter(image => image.checkVisibility() && image.getBoundingClientRect().top < innerHeight)
        .map(image => image.decode()))""")


def show_load(page: Page) -> None:
    """What the traffic until now did."""
    panel = open_tab(page, "load")
    expect(panel.get_by_role("figure").filter(has_text="Latency")).to_contain_text("ms half within")


@contextmanager
def traffic(url: str) -> Iterator[None]:
    """Forecasts and texts by callers whose number changes from one to four."""
    ended = threading.Event()
    start = time.monotonic()

    def call(caller: int) -> None:
        for i in itertools.count():
            while (time.monotonic() - start) // QUIET_SECONDS % 4 < caller:
                if ended.wait(0.2):
                    return
            if ended.wait(0.05):
                return
            series = [100 + 20 * ((i + j) % 12) + (7 * j) % 11 for j in range(60 + 30 * caller)]
            if i % 3:
                _post(f"{url}/forecast", {"series": series, "horizon": 24})
            else:
                _post(f"{url}/generate", {"prompt": "The old house ", "max_length": 40, "seed": i})

    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(4)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        ended.set()
        for caller in callers:
            caller.join()


def _post(url: str, body: dict[str, object]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def save(page: Page, name: str) -> None:
    """The window as it is, in few colours."""
    picture = Image.open(BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    path = IMAGES / f"page-{name}.png"
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{os.path.relpath(path)}: {path.stat().st_size // 1000} kB")  # noqa: T201


def main() -> None:
    browser = find_browser()
    if browser is None:
        raise SystemExit("no Chromium on the PATH: `make chromium` installs it")
    expect.set_options(timeout=PATIENCE)
    with (
        TemporaryDirectory() as folder,
        Service(SHIPPED, f"sqlite:///{folder}/sessions.db") as service,
        sync_playwright() as playwright,
        launch(playwright, browser) as chromium,
    ):
        page = chromium.new_page(
            base_url=f"{service.url}/",
            viewport={"width": SIZE[0], "height": SIZE[1]},
            color_scheme="light",
            reduced_motion="reduce",
            locale="en-GB",
            timezone_id="UTC",
        )
        page.set_default_timeout(PATIENCE)
        show_forecast(page)
        page.mouse.move(0, 0)
        save(page, "forecast")
        with urllib.request.urlopen(f"{service.url}/page/samples/requests.csv") as sample:
            requests = [line.split(",")[-1] for line in sample.read().decode().splitlines()[1:]]
        show_session(page, requests)
        page.mouse.move(0, 0)
        save(page, "session")
        show_text(page)
        save(page, "text")
        show_classes(page)
        save(page, "classes")
        page.mouse.move(0, 0)
        show_models(page)
        save(page, "models")
        with traffic(service.url):
            page.wait_for_timeout(1000 * TRAFFIC_SECONDS)
            show_load(page)
        save(page, "load")


if __name__ == "__main__":
    main()
