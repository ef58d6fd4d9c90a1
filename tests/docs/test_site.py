"""The site of the papers builds without a warning and reaches no other host; every link leads somewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/results/README.md")
"""Pages that are not in the site."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Fetched(HTMLParser):
    """Collects what a browser fetches for a page by itself, and what draws with a library of another host."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.classes |= set((values.get("class") or "").split())
        if tag in {"script", "img", "iframe", "source"} and (address := values.get("src")):
            self.addresses.append(address)
        if tag == "link" and values.get("rel") != "canonical" and (address := values.get("href")):
            self.addresses.append(address)


def test_the_site_has_every_page_and_fetches_nothing_from_other_hosts(site: Path) -> None:
    pages = {page for page in PAGES if page.startswith("docs/")}
    for page in pages:
        html = (site / page.removeprefix("docs/")).with_suffix(".html").read_text()
        fetched = Fetched()
        fetched.feed(html)
        assert fetched.addresses
        assert not [address for address in fetched.addresses if "//" in address], page
        assert not {"mermaid", "arithmatex"} & fetched.classes, f"{page}: the theme draws these from another host"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", style.read_text()), style


def test_the_list_of_decisions_has_each_of_them() -> None:
    listed = re.findall(r"\((\d{4}-[^)]+\.md)\)", (ROOT / "docs/decisions/index.md").read_text())
    assert listed == sorted(path.name for path in (ROOT / "docs/decisions").glob("0*.md"))


@pytest.mark.parametrize("page", OUTSIDE)
def test_every_link_outside_of_the_site_leads_to_a_file_and_a_heading(page: str) -> None:
    text = CODE.sub("", (ROOT / page).read_text())
    for link in LINK.findall(text):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in {slug(heading) for heading in HEADING.findall(target.read_text())}, f"{page}: {link}"


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
