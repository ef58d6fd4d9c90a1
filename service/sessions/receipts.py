"""The answers that are kept for a repetition of a call, in as few bytes as they can be: compressed.

A repetition is answered to the byte what the call was answered, so nothing may be left out.
"""

import asyncio

import zstandard

from service.errors import LimitExceededError

MAX_BYTES = 4 * 2**20
"""Most that one answer may take, compressed."""

_MAGIC = b"\x28\xb5\x2f\xfd"
"""Of a compressed one (RFC 8878). An answer as it is begins with the bracket of its head."""
_WORTHWHILE = 1024
_LARGE = 2**18
"""Bytes that take a millisecond: more are compressed beside the event loop."""


async def pack(answer: bytes) -> bytes:
    """An answer as it is kept.

    Raises:
        LimitExceededError: it is too large to be kept.
    """
    if len(answer) < _WORTHWHILE:
        return answer
    packed = _compressed(answer) if len(answer) < _LARGE else await asyncio.to_thread(_compressed, answer)
    if len(packed) > MAX_BYTES:
        raise LimitExceededError(
            f"the answer is too large to be kept for a repetition of the call: {len(packed)} bytes compressed, at most "
            f"{MAX_BYTES}; nothing was changed: ask for less in one call, or send it without this header",
            "Idempotency-Key",
        )
    return packed


async def unpack(packed: bytes) -> bytes:
    """The answer, to the byte."""
    if not packed.startswith(_MAGIC):
        return packed
    return _restored(packed) if len(packed) < _LARGE // 8 else await asyncio.to_thread(_restored, packed)


def _compressed(answer: bytes) -> bytes:
    return zstandard.compress(answer)


def _restored(packed: bytes) -> bytes:
    return zstandard.decompress(packed)
