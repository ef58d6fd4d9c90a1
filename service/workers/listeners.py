"""The listening sockets of the service: several on one port, and how they stop without losing a connection."""

import ctypes
import select
import socket
import struct
import sys
from contextlib import suppress

BACKLOG = 2048

_LINUX = sys.platform == "linux"
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_NO_NEW_CONNECTIONS = ctypes.create_string_buffer(
    b"".join(
        struct.pack("HBBI", *instruction)  # struct sock_filter: code, jump if true, jump if false, operand
        for instruction in (
            (0x30, 0, 0, 13),  # load byte 13 of the TCP header, its flags
            (0x54, 0, 0, 0x12),  # and (SYN | ACK)
            (0x15, 0, 1, 0x02),  # if SYN alone: the next instruction, else the one after it
            (0x06, 0, 0, 0),  # drop
            (0x06, 0, 0, 2**32 - 1),  # accept
        )
    )
)
"""A packet filter that drops the first packet of each new connection. The client sends it again after a second."""


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets on one port. The system spreads the connections over them; if it cannot, one socket.

    Raises:
        OSError: the address is not available.
    """
    first = _bound(host, port, shared=False)
    first.listen(BACKLOG)
    if count == 1 or not _LINUX:  # only Linux balances
        return [first]
    # While this socket listens without SO_REUSEPORT, no other service has the port. Now our own sockets may share it.
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sockets = [_bound(host, first.getsockname()[1], shared=True) for _ in range(count)]
    for listener in sockets:
        listener.listen(BACKLOG)
    first.close()
    return sockets


def _bound(host: str, port: int, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def pause(listener: socket.socket) -> None:
    """Let no new connection begin. Those that exist wait to be accepted, as do those whose handshake goes on.

    A socket that stops listening resets the connections that wait to be accepted. Without this pause, one could arrive
    between the last accept and the stop. Only Linux can pause, and some systems let root alone do it.
    """
    if _LINUX:
        program = struct.pack("HP", len(_NO_NEW_CONNECTIONS) // 8, ctypes.addressof(_NO_NEW_CONNECTIONS))
        with suppress(PermissionError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def has_waiting(listener: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def stop(listener: socket.socket) -> None:
    """Refuse new connections, for all processes that hold the socket."""
    with suppress(OSError):  # it is stopped already
        listener.shutdown(socket.SHUT_RDWR)


def resume(listener: socket.socket) -> None:
    """Listen again after `pause` and `stop`."""
    if _LINUX:
        with suppress(FileNotFoundError, PermissionError):  # it was not paused
            listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    listener.listen(BACKLOG)
