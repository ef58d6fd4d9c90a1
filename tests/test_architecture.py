"""docs/architecture.md names the functions that a request goes through. Here the requests are made, and compared."""

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx2
import pytest

from tests.served import KEY, served

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs/architecture.md").read_text()
LINE = re.compile(r"^\d+\. `(service/[^`]+\.py)` ((?:`[^`]+`(?:, | and )?)+)", re.M)

CALLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "`POST /forecast` with a session": ("/forecast", {"series": [3, 4, 6, 5, 7]}, {"series": [8], "horizon": 2}),
    "`POST /generate` with a session, streamed": (
        "/generate",
        {"prompt": "abc"},
        {"prompt": "ab", "max_length": 5, "stream": True},
    ),
}


class Tracer:
    """Notes each function of the service when it is called for the first time, on all threads."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str], None] = {}
        self.recording = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if self.recording and event == "call":
            code = frame.f_code
            if code.co_filename.startswith(f"{ROOT}/service/"):
                self.calls.setdefault((code.co_filename.removeprefix(f"{ROOT}/"), code.co_qualname))


@contextmanager
def traced() -> Iterator[Tracer]:
    """Threads that begin meanwhile are traced."""
    tracer = Tracer()
    threading.setprofile(tracer)
    try:
        yield tracer
    finally:
        threading.setprofile(None)
        sys.setprofile(None)


def documented_walk(title: str) -> list[tuple[str, list[str]]]:
    """The files of a walk, each with its functions."""
    section = DOCUMENT.split(f"### {title}\n")[1].split("\n#")[0]
    return [(file, re.findall("`([^`]+)`", functions)) for file, functions in LINE.findall(section)]


@pytest.mark.parametrize("title", CALLS)
def test_a_request_goes_through_the_documented_functions_in_order(title: str, models: Path, tmp_path: Path) -> None:
    route, first_input, body = CALLS[title]
    store = f"sqlite:///{tmp_path}/sessions.db"
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        traced() as tracer,
        served(models, session_store=store) as url,
        httpx2.Client(base_url=url, timeout=60) as client,  # the service starts slowly while it is traced
    ):
        session = client.post("/sessions", json=first_input, headers=headers).json()["id"]
        tracer.recording = True
        response = client.post(route, json=body | {"session_id": session}, headers=headers)
        tracer.recording = False
    assert response.status_code == 200, response.text
    calls = list(tracer.calls)
    walk = documented_walk(title)
    assert len(walk) > 10
    missing = [(file, function) for file, functions in walk for function in functions if (file, function) not in calls]
    assert not missing, calls
    firsts = [calls.index((file, functions[0])) for file, functions in walk]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("title", CALLS)
def test_no_file_is_entered_twice_on_the_way_down(title: str) -> None:
    section = DOCUMENT.split(f"### {title}\n")[1].split("And back")[0]
    files = [file for file, _ in LINE.findall(section)]
    assert len(files) == len(set(files))
