"""What a person does in each tab, until it has shown its results: as tests use it, and the pictures of the papers."""

import re

from playwright.sync_api import Page, expect

from tests.page.conftest import open_tab


def use_forecast(page: Page) -> None:
    """The sample's last two years, held out: forecast and truth; its table, and the same call elsewhere."""
    panel = open_tab(page, "forecast")
    panel.get_by_role("checkbox", name="Hold out").check()
    expect(panel.get_by_role("region", name="Result")).to_contain_text("Carry did not see the last 24 months.")
    panel.get_by_text("Table", exact=True).click()
    panel.get_by_text("The same as curl", exact=False).click()
    expect(panel.get_by_label("curl", exact=True)).to_contain_text("/cross_validation")


def use_session(page: Page) -> None:
    """A session with some values, and a copy of it that goes another way."""
    panel = open_tab(page, "session")
    panel.get_by_label("Speed").select_option("As it answers")
    panel.get_by_role("button", name="Start the replay").click()
    session = panel.get_by_role("article").first
    expect(session).to_contain_text(re.compile(r"Value [3-9]\d is"))
    panel.get_by_role("button", name="Pause").click()
    session.get_by_role("button", name="What if").click()
    what_if = panel.get_by_role("article").nth(1)
    expect(what_if.get_by_role("group", name="Versions")).to_be_visible()
    panel.get_by_role("slider").fill("30")
    panel.get_by_role("button", name="Step").click()
    expect(what_if).to_contain_text("version")


def use_text(page: Page) -> None:
    """A text that the model wrote on, and what else it expected at one place."""
    panel = open_tab(page, "text")
    panel.get_by_role("button", name="Write on").click()
    expect(panel.get_by_role("status").filter(has_text="Wrote 200 characters")).to_be_visible()
    panel.get_by_role("option").nth(2).hover()
    expect(panel.get_by_role("group", name="Alternatives")).to_be_visible()


def use_classes(page: Page) -> None:
    """A text and its language, with the language after each character; and the same call elsewhere."""
    panel = open_tab(page, "classes")
    panel.get_by_label("Model").select_option("languages@1")
    expect(panel.get_by_role("status").first).to_contain_text("German")
    expect(panel.get_by_role("img")).to_be_visible()
    panel.get_by_text("The same as curl, Python").click()
    expect(panel.get_by_label("curl", exact=True)).to_contain_text("/classify")


def use_models(page: Page) -> None:
    """The cards of the models."""
    panel = open_tab(page, "models")
    expect(panel.get_by_role("heading", name="text-fast")).to_be_visible()


def use_load(page: Page) -> None:
    """The figures of the service."""
    panel = open_tab(page, "load")
    expect(panel.get_by_role("heading").first).to_be_visible()


USES = {
    "forecast": use_forecast,
    "session": use_session,
    "text": use_text,
    "classes": use_classes,
    "models": use_models,
    "load": use_load,
}
