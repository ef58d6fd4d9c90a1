"""A page of another origin calls the service from a real browser."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.served import KEY, served

CALL = """async ([url, key]) => {
    const headers = {"Authorization": `Bearer ${key}`, "Content-Type": "application/json", "Idempotency-Key": "once"};
    const body = JSON.stringify({series: [1, 2, 3]});
    const answer = await fetch(`${url}/sessions`, {method: "POST", headers, body});
    const refused = await fetch(`${url}/sessions`, {method: "POST", body});
    return [answer.status, answer.headers.get("location"), answer.headers.get("x-request-id"), refused.status];
}"""


@pytest.fixture
def page_elsewhere() -> Iterator[str]:
    """The origin of an empty page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_page_calls_the_service_only_if_its_origin_is_allowed(
    browser: Browser, models: Path, page_elsewhere: str
) -> None:
    page = browser.new_page()
    page.goto(page_elsewhere)
    with served(models, cors_origins=(page_elsewhere,)) as url:
        status, location, request_id, refused = page.evaluate(CALL, [url, KEY])
    assert (status, refused) == (201, 401)
    assert location.startswith("/sessions/")
    assert request_id
    with served(models) as url:
        reason = page.evaluate(f"args => ({CALL})(args).catch(String)", [url, KEY])
    assert reason == "TypeError: Failed to fetch"
    page.close()
