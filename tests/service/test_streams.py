"""Streams release the session's lock and the engine's work, however they end."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from service.app import create_app
from service.errors import DeadlineExceededError
from service.http import streaming
from service.sessions.sessions import Caller
from service.settings import Settings

LONG = 10**6


@pytest.fixture
def roomy(models: Path) -> Iterator[TestClient]:
    """The application with limits that allow texts that take minutes."""
    settings = Settings(models_dir=models, max_generated_length=LONG, max_waiting_steps=10 * LONG)
    with TestClient(create_app(settings)) as client:
        yield client


class Reader:
    """A client that reads so many messages of a stream, then none, and disconnects when `left` is set."""

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self.stuck = asyncio.Event()
        self.left = asyncio.Event()
        self._sent_body = False

    async def send(self, message: Message) -> None:
        self._messages -= 1
        if self._messages < 0:
            self.stuck.set()
            await asyncio.Event().wait()

    def receive(self, body: dict[str, Any]) -> Callable[[], Awaitable[Message]]:
        async def receive() -> Message:
            if not self._sent_body:
                self._sent_body = True
                return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
            await self.left.wait()
            return {"type": "http.disconnect"}

        return receive


@asynccontextmanager
async def stuck(app: Any, path: str, body: dict[str, Any], seconds: str | None = None) -> AsyncIterator[Reader]:
    """A stream whose client has stopped reading."""
    headers = [(b"content-type", b"application/json")]
    if seconds is not None:
        headers.append((b"x-request-timeout", seconds.encode()))
    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"}
    scope |= {"method": "POST", "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"root_path": "", "headers": headers}
    reader = Reader(2)
    running = asyncio.create_task(app(scope, reader.receive(body), reader.send))
    await asyncio.wait_for(reader.stuck.wait(), 10)
    yield reader
    reader.left.set()
    await asyncio.wait_for(running, 10)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "texts": ("/generate", {"prompt": "a", "max_length": LONG // 4, "n": 3, "stream": True}),
    "completions": ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": LONG // 8, "n": 2, "stream": True}),
    "chats": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "a"}], "max_tokens": LONG, "stream": True, "temperature": 2},
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_client_that_disconnects_without_reading_is_dropped_at_once(roomy: TestClient, name: str) -> None:
    app: Any = roomy.app
    path, body = STREAMS[name]
    engine = app.state.carry.registry.find("text").engine
    if name == "chats":
        body = {**body, "logit_bias": {"5": 100}}  # no turn ends

    async def play() -> None:
        with without_garbage_collection():
            async with stuck(app, path, body):
                assert engine.waiting_steps
            # The engine drops the request before its next call of the graph.
            while engine.waiting_steps:  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0)

    assert roomy.portal is not None
    roomy.portal.call(play)


def session_of(client: TestClient) -> str:
    session: str = client.post("/sessions", json={"prompt": "a"}).json()["id"]
    return session


async def is_free(app: Any, session: str, seconds: float) -> bool:
    """Whether another call can update the session within so many seconds."""
    try:
        async with app.state.carry.sessions.update(Caller(""), session, time.monotonic() + seconds):
            return True
    except DeadlineExceededError:
        return False


def test_a_disconnect_frees_the_session_at_once(roomy: TestClient) -> None:
    app: Any = roomy.app
    session = session_of(roomy)
    body = {"prompt": "b", "max_length": LONG, "session_id": session, "stream": True}

    async def play() -> None:
        with without_garbage_collection():
            async with stuck(app, "/generate", body):
                assert not await is_free(app, session, 0.05)
            assert await is_free(app, session, 0.05)

    assert roomy.portal is not None
    roomy.portal.call(play)
    assert roomy.get(f"/sessions/{session}").json()["version"] == 0


def test_a_stream_that_nobody_reads_ends_at_the_deadline(roomy: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the client stays connected: the next call of the session goes ahead."""
    monkeypatch.setattr(streaming, "DEADLINE_GRACE", 0.0)
    app: Any = roomy.app
    session = session_of(roomy)
    body = {"prompt": "b", "max_length": LONG, "session_id": session, "stream": True}

    async def play() -> None:
        async with stuck(app, "/generate", body, seconds="0.3"):
            assert await is_free(app, session, 10)

    assert roomy.portal is not None
    roomy.portal.call(play)
    engine = app.state.carry.registry.find("text").engine
    while engine.waiting_steps:
        pass
    moved = roomy.post("/generate", json={"prompt": "b", "max_length": 3, "session_id": session})
    assert moved.json()["session"]["version"] == 1
