"""The tab Models: what a person reads of each model, its pictures, what was refused, and the reload."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.serving import Service
from tests.page.conftest import KEY, Visit, open_tab


def test_each_model_has_a_card_in_words(page: Page) -> None:
    panel = open_tab(page, "models")
    expect(panel.get_by_text("10 loaded.")).to_be_visible()
    expect(panel.get_by_role("article")).to_have_count(10)
    text = panel.get_by_role("article", name="text@1")
    expect(text.get_by_text("Continues English prose: learnt from 584 works published up to 1928.")).to_be_visible()
    expect(text.get_by_role("definition")).to_have_text(["1.38"])
    expect(text.get_by_text("as if 2.6 of them were equally likely")).to_be_visible()
    expect(text.get_by_text(re.compile("^(float32|int8)$"))).to_be_visible()
    forecast = panel.get_by_role("article", name="forecast@2")
    expect(forecast.get_by_text("default", exact=True)).to_be_visible()
    expect(forecast.get_by_text("MASE, M3, all")).to_be_visible()
    forecast.get_by_text("All figures").click()
    expect(forecast.get_by_role("row", name="sMAPE, % Hourly, hourly 8.3")).to_be_visible()
    languages = panel.get_by_role("article", name="languages@1")
    expect(languages.get_by_role("term")).to_have_text(["of the sequences in the right class"])
    expect(languages.get_by_role("definition")).to_have_text(["94.4 %"])


def test_a_picture_is_shown_large_with_its_caption(page: Page) -> None:
    card = open_tab(page, "models").get_by_role("article", name="text@1")
    card.get_by_role("button", name="Enlarge: A line of the test part").click()
    dialog = page.get_by_role("dialog", name="A line of the test part")
    picture = dialog.get_by_role("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 1000
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


@pytest.fixture(scope="module")
def folder(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small models, to change."""
    return Path(shutil.copytree(models, tmp_path_factory.mktemp("page") / "models"))


@pytest.fixture(scope="module")
def changing(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of these models, with an API key."""
    with Service(folder, f"sqlite:///{tmp_path_factory.mktemp('page')}/sessions.db", api_keys=KEY) as service:
        yield service


def test_a_reload_says_what_changed_and_what_was_refused(visit: Visit, changing: Service, folder: Path) -> None:
    with visit(changing.url) as page:
        panel = open_tab(page, "models")
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_label("Key").fill(KEY)
        dialog.get_by_role("button", name="Use key").click()
        expect(panel.get_by_role("article")).to_have_count(3)
        reload = panel.get_by_role("button", name="Reload")
        status = panel.get_by_role("status")

        reload.click()
        expect(status).to_have_text("Nothing has changed.")

        shutil.rmtree(folder / "weather")
        (folder / "text/1/model.onnx").write_bytes(b"damaged")
        reload.click()
        expect(status).to_have_text("Unloaded: text@1, weather@1.")
        expect(panel.get_by_role("article")).to_have_count(1)
        refused = panel.get_by_role("list").filter(has_text="text@1")
        expect(refused).to_contain_text("model.onnx is not the file that was exported")
