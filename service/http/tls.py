"""The certificate for TLS, read again when its file changes. Knows nothing of HTTP."""

import os
import ssl
from pathlib import Path
from typing import NoReturn

import structlog

_Stamp = tuple[tuple[int, int, int], ...]


def open_certificate(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context that serves TLS with the certificate of these PEM files. At each connection it looks whether a file
    has changed. If the new files cannot be used, it goes on with the last certificate.

    Raises:
        OSError: the files cannot be read, are no certificate and key, or do not belong together.
    """
    stamp, current = _stamp(certificate, key), _load(certificate, key)

    def renew(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        nonlocal stamp, current
        try:
            if (now := _stamp(certificate, key)) != stamp:
                stamp, current = now, _load(certificate, key)
                structlog.get_logger().info("the certificate is renewed", file=str(certificate))
        except OSError as error:
            structlog.get_logger().error("the new certificate cannot be used", file=str(certificate), reason=str(error))
        connection.context = current

    context = _load(certificate, key)
    context.sni_callback = renew  # called without a name, too
    return context


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key, _no_password)
    return context


def _no_password() -> NoReturn:
    """Without this, OpenSSL would ask on the terminal."""
    raise OSError("the key has a password")


def _stamp(*files: Path) -> _Stamp:
    """What changes when a file is written or replaced."""
    return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in map(os.stat, files))
