"""The application on a port of its own, for clients that are not ours."""

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
from service.workers.supervisor import listen

KEY = "a-key-of-this-test"


@contextmanager
def served(models: Path, **settings: Any) -> Iterator[str]:
    """Its address. It knows one key."""
    chosen = Settings(models_dir=models, api_keys=(SecretStr(KEY),), **settings)
    [sock] = listen("127.0.0.1", 0, 1)
    server = uvicorn.Server(
        uvicorn.Config(create_app(chosen), log_level="warning", access_log=False, **http_options(chosen))
    )
    running = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    running.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        running.join()
