"""Answers in fewer bytes: the same answer, whatever the client accepts."""

import gzip
import http.client
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from service.app import create_app
from service.http.compression import LARGE_BYTES, MIN_BYTES, CompressionMiddleware, best_coding
from service.http.page import FOLDER
from service.settings import Settings
from tests.served import KEY, served

CODINGS = st.sampled_from(["gzip", "x-gzip", "zstd", "br", "deflate", "identity", "*", "GZIP", ""])
WEIGHTS = st.sampled_from(["", ";q=0", ";q=1", "; q=0.5", ";q=0.001", " ; q=1.000", ";q=2", ";q=", ";", ";level=1"])
HEADERS = st.lists(st.tuples(CODINGS, WEIGHTS).map("".join), max_size=4).map(",".join)


@pytest.fixture(scope="module")
def app(models: Path) -> Iterator[TestClient]:
    """The application, with no small limit."""
    with TestClient(create_app(Settings(models_dir=models)), raise_server_exceptions=False) as client:
        yield client


def read(answer: httpx2.Response) -> tuple[str, bytes]:
    """The coding of an answer, and its bytes as they were before."""
    raw = b"".join(answer.iter_raw())
    assert "content-length" not in answer.headers or len(raw) == int(answer.headers["content-length"])
    coding = answer.headers.get("content-encoding", "identity")
    if coding == "zstd":
        return coding, zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    return coding, gzip.decompress(raw) if coding == "gzip" else raw


def sends(pieces: Sequence[bytes], media_type: str = "application/json") -> TestClient:
    """A client of an application that sends these pieces, with their length."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % sum(map(len, pieces)))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for i, piece in enumerate(pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": i + 1 < len(pieces)})

    return TestClient(CompressionMiddleware(answer))


@given(
    HEADERS | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")),
    st.lists(st.integers(0, 3 * LARGE_BYTES // 2).map(random.Random(1).randbytes), min_size=1, max_size=4),
)
def test_every_answer_is_the_same_whatever_the_client_accepts(accepted: str, pieces: list[bytes]) -> None:
    headers = {"Accept-Encoding": accepted.encode("latin-1")}
    with sends(pieces).stream("GET", "/", headers=headers) as answer:  # type: ignore[arg-type]
        coding, whole = read(answer)
    is_large = len(whole) >= MIN_BYTES
    assert whole == b"".join(pieces)
    assert coding == ((best_coding(accepted) if is_large else None) or "identity")
    assert answer.headers.get("vary") == ("Accept-Encoding" if is_large else None)


@given(HEADERS | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")))
def test_no_header_fails_a_call(app: TestClient, accepted: str) -> None:
    headers = {"Accept-Encoding": accepted.encode("latin-1")}
    with app.stream("GET", "/openapi.json", headers=headers) as answer:  # type: ignore[arg-type]
        assert answer.status_code == 200
        coding, whole = read(answer)
    assert coding == (best_coding(accepted) or "identity")
    assert whole == app.get("/openapi.json").content


def test_events_and_pictures_are_sent_as_they_are() -> None:
    for media_type in ("text/event-stream; charset=utf-8", "image/png"):
        with sends([b" " * MIN_BYTES], media_type).stream("GET", "/", headers={"Accept-Encoding": "gzip"}) as answer:
            assert read(answer) == ("identity", b" " * MIN_BYTES)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.5, gzip", "gzip"),
        ("GZIP;Q=0.3", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0, *", None),
        ("zstd;q=0, *", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0, gzip;q=0.001", "gzip"),
        ("br, deflate", None),
        ("gzip;q=1.001", None),
    ],
)
def test_the_client_chooses_the_coding(accepted: str, coding: str | None) -> None:
    assert best_coding(accepted) == coding


@given(st.text())
def test_any_header_names_a_coding_or_none(accepted: str) -> None:
    assert best_coding(accepted) in ("gzip", "zstd", None)


def test_an_answer_with_an_etag_is_sent_as_it_is_and_files_are_compressed_once(app: TestClient) -> None:
    headers = {"Accept-Encoding": "gzip"}
    session = app.post("/sessions", json={"series": [1, 2]}).json()["id"]
    body = {"series": [3], "horizon": 500, "session_id": session}
    answer = app.post("/forecast", json=body, headers=headers)
    assert len(answer.content) > MIN_BYTES
    assert answer.headers["etag"] == '"1"'
    assert "content-encoding" not in answer.headers
    with app.stream("GET", "/page/app.js", headers=headers) as file:
        assert read(file) == ("gzip", (FOLDER / "app.js").read_bytes())


def test_head_and_old_clients_agree_with_the_whole_answer(models: Path) -> None:
    """Through uvicorn; the second answer is sent in pieces."""
    batch = {"requests": [{"series": [i, 2, 3], "horizon": 48} for i in range(20)]}
    headers = {"Accept-Encoding": "gzip", "Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with served(models) as url, httpx2.Client(base_url=url, headers=headers, timeout=60) as client:
        whole, head = client.get("/openapi.json"), client.head("/openapi.json")
        for name in ("content-length", "content-encoding", "vary", "content-type"):
            assert head.headers[name] == whole.headers[name]
        assert (whole.headers["content-encoding"], head.content) == ("gzip", b"")
        assert client.post("/forecast/batch", json=batch).headers["content-encoding"] == "gzip"
        for path, body in (("/openapi.json", None), ("/forecast/batch", json.dumps(batch))):
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
            connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
            connection.request("POST" if body else "GET", path, body, headers)
            answer = connection.getresponse()
            raw = answer.read()
            assert answer.headers["content-encoding"] == "gzip"
            assert "transfer-encoding" not in answer.headers
            assert len(raw) == int(answer.headers["content-length"])
            assert gzip.decompress(raw).startswith(b"{")
            connection.close()
