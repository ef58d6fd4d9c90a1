"""A real Redis server for tests, on a socket in a folder of its own."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import pytest


class RedisServer:
    """Runs inside a `with` block. Acknowledged writes outlive `kill()`: they are there after `start()`."""

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
        """The number of its process."""
        return self._process.pid

    def start(self) -> None:
        """Start the server with its stored data; return once it accepts connections."""
        options = (
            f"--port 0 --unixsocket {self._socket} --dir {self._folder.name} --appendonly yes --appendfsync always"
        )
        self._process = subprocess.Popen([self._program, *options.split(), "--save", ""], stdout=subprocess.PIPE)
        output = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            output.append(line.decode())
            if b"ready to accept connections" in line.lower():
                return
        pytest.fail(f"redis-server ended:\n{''.join(output)}")

    def kill(self) -> None:
        """Kill the server as `kill -9` does."""
        self._process.kill()
        self._process.communicate()

    @property
    def _socket(self) -> Path:
        return Path(self._folder.name, "socket")
