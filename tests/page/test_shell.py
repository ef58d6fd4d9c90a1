"""The page as a whole, over its five tabs: what a person needs who comes with a keyboard, a key, or a telephone."""

from playwright.sync_api import Page, expect

from tests.page.conftest import TABS, open_tab


def test_each_tab_has_an_address(page: Page) -> None:
    for name, title in TABS.items():
        open_tab(page, name)
        expect(page.get_by_role("tab", selected=True)).to_have_text(title)
