"""A real Redis server for tests, on a socket in a folder of its own."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import pytest


class RedisServer:
    """Runs in the `with` block; what it acknowledged outlives `kill()` and is there after `start()`."""

    def __enter__(self) -> "RedisServer":
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("these tests need a real Redis: apt-get install redis-server")
        self._program = program
        self._folder = tempfile.TemporaryDirectory(prefix="redis")
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """For open_store."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def start(self) -> None:
        """Start it, again with what it kept; returns when it accepts connections."""
        options = (
            f"--port 0 --unixsocket {self._socket} --dir {self._folder.name} --appendonly yes --appendfsync always"
        )
        self._process = subprocess.Popen([self._program, *options.split(), "--save", ""], stdout=subprocess.PIPE)
        said = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said.append(line.decode())
            if b"ready to accept connections" in line.lower():
                return
        pytest.fail(f"redis-server ended:\n{''.join(said)}")

    def kill(self) -> None:
        """As `kill -9` does."""
        self._process.kill()
        self._process.communicate()

    @property
    def _socket(self) -> Path:
        return Path(self._folder.name, "socket")
