"""Compresses the answers that are stored for repetitions of a call. Decompression restores them to the byte."""

import asyncio

import zstandard

from service.errors import LimitExceededError

MAX_BYTES = 4 * 2**20
"""Most bytes of one compressed answer."""

_MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of a compressed answer (RFC 8878). An uncompressed one begins with "[", the bracket of its head."""
_WORTHWHILE = 1024
_LARGE = 2**18
"""Compressing this many bytes takes a millisecond: larger answers are compressed in a thread."""


async def compress(answer: bytes) -> bytes:
    """Compress an answer; a short one stays as it is.

    Raises:
        LimitExceededError: the compressed answer is too large to store.
    """
    if len(answer) < _WORTHWHILE:
        return answer
    data = _compress(answer) if len(answer) < _LARGE else await asyncio.to_thread(_compress, answer)
    if len(data) > MAX_BYTES:
        raise LimitExceededError(
            f"the answer is too large to store for a repetition of the call: {len(data)} bytes compressed, at most "
            f"{MAX_BYTES}; nothing was changed: ask for less in one call, or send it without this header",
            "Idempotency-Key",
        )
    return data


async def decompress(data: bytes) -> bytes:
    """Restore an answer."""
    if not data.startswith(_MAGIC):
        return data
    return _decompress(data) if len(data) < _LARGE // 8 else await asyncio.to_thread(_decompress, data)


def _compress(answer: bytes) -> bytes:
    return zstandard.compress(answer)


def _decompress(data: bytes) -> bytes:
    return zstandard.decompress(data)
