"""The application on a port, for real HTTP clients."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import SecretStr

from service.app import create_app
from service.http.protocol import http_options
from service.settings import Settings
from service.workers.listeners import listen

KEY = "a-key-of-this-test"


@contextmanager
def served(models: Path, **settings: Any) -> Iterator[str]:
    """The URL of the application, which has one API key."""
    chosen = Settings(models_dir=models, api_keys=(SecretStr(KEY),), **settings)
    [listener] = listen("127.0.0.1", 0, 1)
    server = uvicorn.Server(
        uvicorn.Config(create_app(chosen), log_level="warning", access_log=False, **http_options(chosen))
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
