"""The page over HTTP: its files, their headers, and what an operator may turn off. tests/page has it in a browser."""

import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from service.app import create_app
from service.card import MAX_PICTURE_BYTES, PNG, pictures_of
from service.http.page import FOLDER, MEDIA_TYPES, PAGES, page_files
from service.settings import Settings
from tests.conftest import SHIPPED

VENDOR = FOLDER / "vendor"
FILES = page_files()
KEY = "a-key-of-the-page"


def ours() -> list[Path]:
    """The files of the page that we wrote."""
    return [path for path in FOLDER.rglob("*") if path.is_file() and VENDOR not in path.parents]


@pytest.mark.parametrize("path", FILES)
def test_each_file_is_served_with_its_type_and_a_strict_policy(client: TestClient, path: str) -> None:
    answer = client.get(path, headers={"accept-encoding": "identity"})
    assert answer.status_code == 200
    assert answer.content == FILES[path].read_bytes()
    assert answer.headers["content-type"] == MEDIA_TYPES[FILES[path].suffix]
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    styles = policy.pop("style-src")
    assert styles == ("'self' 'unsafe-inline'" if path in ("/docs", "/redoc") else "'self'")
    assert policy.pop("img-src") == "'self' data:"
    assert {policy.pop(name) for name in ("script-src", "connect-src")} == {"'self'"}
    assert set(policy) == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert set(policy.values()) == {"'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_every_file_in_the_folder_is_served_but_the_script_that_makes_samples() -> None:
    files = {path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files == set(FILES.values())


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/docs"])
def test_head_answers_as_get_without_the_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    of_the_request = {"x-request-id": "", "server-timing": ""}
    assert {**head.headers} | of_the_request == {**get.headers} | of_the_request


def test_a_browser_keeps_a_file_until_it_changes(client: TestClient) -> None:
    first = client.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get("/page/app.js", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    assert client.get("/page/app.js", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5, br", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("", False),
    ],
)
def test_a_file_is_compressed_for_clients_that_accept_it(
    client: TestClient, accepted: str, is_compressed: bool
) -> None:
    headers = {"accept-encoding": accepted}
    with client.stream("GET", "/page/app.js", headers=headers) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding") == ("gzip" if is_compressed else None)
    assert answer.headers["vary"] == "Accept-Encoding"
    assert (gzip.decompress(raw) if is_compressed else raw) == (FOLDER / "app.js").read_bytes()
    assert answer.headers["etag"].endswith('-gzip"') == is_compressed


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/",
        "/page/nothing.js",
        "/page/index.html",
        "/page/docs.html",
        "/page/vendor",
        "/page/../app.py",
        "/page/..%2f..%2fsetup.py",
        "/page/%2e%2e/settings.py",
        "/page//etc/passwd",
        "/page/app.js%00",
        "/page/" + "x" * 10_000,
    ],
)
def test_another_path_below_the_page_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "route_not_found"


def test_a_file_cannot_be_changed(client: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, "/page/app.js").status_code == 405


@pytest.fixture(scope="module")
def with_key(models: Path) -> Iterator[TestClient]:
    """The application with one API key."""
    with TestClient(create_app(Settings(models_dir=models, api_keys=(SecretStr(KEY),)))) as client:
        yield client


def test_the_page_opens_without_a_key_and_nothing_else_does(with_key: TestClient) -> None:
    for path in (*FILES, "/openapi.json"):
        assert with_key.get(path).status_code == 200, path
        for other in (f"{path}x", f"{path.rstrip('/')}/x", f"/page{path}x", f"/X{path}"):
            assert with_key.get(other).status_code == 401, other
    for path in ("/models", "/page/nothing.js", "/page/../models", "/page/..%2fmodels", "/page/app.js%2f..%2f/models"):
        assert with_key.get(path).status_code == 401, path
        assert with_key.get(path, headers={"authorization": f"Bearer {KEY}"}).status_code in (200, 404), path


def test_an_operator_may_turn_the_pages_off(models: Path) -> None:
    off = Settings(models_dir=models, page="off", api_keys=(SecretStr(KEY),))
    with TestClient(create_app(off), follow_redirects=False) as client:
        answer = client.get("/")
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"name", "version", "openapi"}
        assert client.get(answer.json()["openapi"]).json()["info"]["title"] == "Carry"
        for path in FILES.keys() - {"/"}:
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"authorization": f"Bearer {KEY}"}).status_code == 404


def test_the_page_works_behind_a_prefix(models: Path) -> None:
    """Each address in the files is relative, so that a browser finds it wherever the page is."""
    for file in ours():
        if file.suffix in (".html", ".js", ".css"):
            text = file.read_text()
            assert not re.findall(r"""(?:href|src|from|import|url)\s*[=(]?\s*["'](?:/|https?:)""", text), file.name
    with TestClient(create_app(Settings(models_dir=models)), root_path="/prefix") as client:
        for path in FILES:
            assert client.get(path).status_code == 200
            assert client.get(f"/prefix{path}").status_code == 200


@pytest.mark.parametrize("name", PAGES.values())
def test_no_page_has_a_script_or_style_of_its_own(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    for script in re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL):
        assert " src=" in script[0]
        assert not script[1].strip()


def test_the_vendored_files_are_those_of_their_packages() -> None:
    """As npm has them: each is its package's file, but for the edits that vendor.json names."""
    listed = json.loads((VENDOR / "vendor.json").read_text())
    assert {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()} == {
        "vendor.json",
        *(entry["file"] for entry in listed),
    }
    for entry in listed:
        content = (VENDOR / entry["file"]).read_text()
        for edit in entry.get("edits", []):
            assert content.count(edit["to"]) == 1
            content = content.replace(edit["to"], edit["from"])
        assert hashlib.sha256(content.encode()).hexdigest() == entry["sha256"], entry["file"]
    for package in {entry["package"] for entry in listed}:
        files = [entry["file"] for entry in listed if entry["package"] == package]
        assert any("LICENSE" in file for file in files), package


def test_a_picture_of_a_model_is_sent_as_the_card_shows_it() -> None:
    with TestClient(create_app(Settings(models_dir=SHIPPED))) as client:
        listed = client.get("/models").json()["models"]
        assert {model["name"]: len(model["pictures"]) for model in listed}["sine"] == 3
        for model in listed:
            card = (SHIPPED / model["name"] / str(model["version"]) / "CARD.md").read_text()
            assert card.count("](pictures/") == len(model["pictures"]) > 0
            for picture in model["pictures"]:
                assert f"![{picture['caption']}](pictures/{picture['name']})" in card
                answer = client.get(f"/models/{model['name']}@{model['version']}/pictures/{picture['name']}")
                assert answer.headers["content-type"] == "image/png"
                assert answer.headers["x-content-type-options"] == "nosniff"
                file = SHIPPED / model["name"] / str(model["version"]) / "pictures" / picture["name"]
                assert answer.content == file.read_bytes()


def test_only_the_pictures_of_the_card_are_sent_and_only_png(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "text", tmp_path / "text")
    folder = tmp_path / "text/1"
    (folder / "pictures").mkdir(exist_ok=True)
    names = ("good", "hidden", "text", "linked", "folder", "gone", "large")
    shown = [f"![The {name} one.](pictures/{name}.png)" for name in names if name != "hidden"]
    outside = "![x](pictures/../model.png) ![x](../../x.png) ![x](pictures/a/b.png) ![x](pictures/x.svg)"
    (folder / "CARD.md").write_text("\n".join([*shown, outside]))
    for name in ("good", "hidden"):
        (folder / f"pictures/{name}.png").write_bytes(PNG + b"...")
    (folder / "pictures/text.png").write_bytes(b"a secret")
    (folder / "pictures/linked.png").symlink_to(folder / "manifest.json")
    (folder / "pictures/folder.png").mkdir()
    (folder / "pictures/large.png").write_bytes(PNG + bytes(MAX_PICTURE_BYTES))
    with TestClient(create_app(Settings(models_dir=tmp_path))) as client:
        [model] = client.get("/models").json()["models"]
        listed = [{"name": f"{name}.png", "caption": f"The {name} one."} for name in names if name != "hidden"]
        assert model["pictures"] == listed
        assert client.get("/models/text/pictures/good.png").content == PNG + b"..."
        for name in (*(f"{name}.png" for name in names if name != "good"), "..%2fmanifest.json", "good.png%2f", "x"):
            answer = client.get(f"/models/text/pictures/{name}")
            assert answer.status_code == 404, name
            assert answer.json()["code"] in ("picture_not_found", "route_not_found")
        assert client.get("/models/other/pictures/good.png").json()["code"] == "model_not_found"
        assert client.get("/models/text@2/pictures/good.png").json()["code"] == "model_not_found"


def test_a_folder_without_a_card_has_no_pictures(tmp_path: Path) -> None:
    assert pictures_of(tmp_path) == ()
    (tmp_path / "CARD.md").write_bytes(b"![\xff](pictures/a.png) \xff")
    assert [picture.read() for picture in pictures_of(tmp_path)] == [None]


API_PAGES = {"docs.html", "redoc.html", "api-pages.js", "api-pages.css"}
MAX_LINES = 2_109
"""Lines of our own that make the page at `/`. Decision 18 wants 1,500, and says what stands in the way."""


def test_the_page_stays_short() -> None:
    """Its own source: neither libraries and samples, nor the API pages."""
    files = [path for path in ours() if path.suffix in (".html", ".css", ".js") and path.name not in API_PAGES]
    assert sum(len(path.read_text().splitlines()) for path in files) <= MAX_LINES
    assert max(len(line) for path in files for line in path.read_text().splitlines()) <= 120


def test_the_page_stays_small() -> None:
    """All that the page at `/` may load, as it is sent: its modules, the libraries and the samples."""
    page = [path for path in FILES.values() if path.name not in API_PAGES and VENDOR / "api" not in path.parents]
    assert sum(len(gzip.compress(path.read_bytes())) for path in page) < 150_000
