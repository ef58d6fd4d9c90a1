"""A listening socket ends, also where it may not be paused."""

import socket

import pytest

from service.workers import listeners


class Unprivileged(socket.socket):
    """A socket of a user who may set no filter."""

    def setsockopt(self, *arguments: object) -> None:
        """Refuse."""
        raise PermissionError(1, "Operation not permitted")


def test_a_user_who_may_not_pause_a_listener_may_stop_it() -> None:
    with Unprivileged(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listeners.pause(listener)
        listeners.stop(listener)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname())
        listeners.resume(listener)


def test_a_paused_listener_listens_again() -> None:
    [listener] = listeners.listen("127.0.0.1", 0, 1)
    with listener:
        listeners.pause(listener)
        listeners.resume(listener)
        with socket.create_connection(listener.getsockname(), timeout=30):
            assert listeners.has_waiting(listener)
