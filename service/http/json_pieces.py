"""Large answers as JSON, written in pieces, so that other requests use the event loop in between."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import Response
from starlette.responses import StreamingResponse

from service.http.offload import take_turns

PIECE = 5000
"""Numbers in a piece, which takes about half a millisecond to write. A text counts by its length."""


def json_pieces(value: Any) -> Iterator[bytes]:
    """A value of dicts, lists and one-dimensional arrays as JSON, in pieces."""
    if _size(value) <= PIECE:
        yield _dumps(value)
    elif isinstance(value, Mapping):
        for i, (name, item) in enumerate(value.items()):
            yield (b"," if i else b"{") + _dumps(name) + b":"
            yield from json_pieces(item)
        yield b"}"
    elif len(value) and _size(value[0]) > 1:
        for i, item in enumerate(value):
            yield b"," if i else b"["
            yield from json_pieces(item)
        yield b"]"
    else:
        for first in range(0, len(value), PIECE):
            piece = _dumps(value[first : first + PIECE])[1:-1]
            yield (b"," if first else b"[") + piece
        yield b"]"


async def json_fragments(answer: Mapping[str, Any], deadline: float) -> Mapping[str, Any]:
    """The answer, with its large fields already as JSON.

    Raises:
        DeadlineExceededError: the deadline has passed.
    """
    fragments = dict(answer)
    for name, value in answer.items():
        if _size(value) > PIECE:
            pieces = [piece async for piece in take_turns(json_pieces(value), deadline)]
            fragments[name] = orjson.Fragment(b"".join(pieces))
    return fragments


async def large_json_answer(pieces: Iterator[bytes], deadline: float) -> Response:
    """A JSON answer of these pieces. They are sent one by one, so that there is no second copy of the answer.

    Raises:
        DeadlineExceededError: the deadline has passed.
    """
    parts: list[bytes] = []
    buffer: list[bytes] = []
    async for piece in take_turns(pieces, deadline):
        buffer.append(piece)
        if len(buffer) >= 256:
            parts.append(b"".join(buffer))
            buffer = []
    parts.append(b"".join(buffer))
    length = str(sum(map(len, parts)))

    async def send() -> AsyncIterator[bytes]:
        parts.reverse()
        while parts:
            yield parts.pop()

    return StreamingResponse(send(), media_type="application/json", headers={"Content-Length": length})


def _size(value: Any) -> int:
    """About how many numbers a value has; a text counts by its length."""
    if isinstance(value, Mapping):
        return sum(1 + (item.size if isinstance(item, np.ndarray) else _size(item)) for item in value.values())
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, str):
        return 1 + len(value) // 64
    if isinstance(value, Sequence):
        # The items of a list are alike: if the first is a number, all are.
        return len(value) * _size(value[0]) if len(value) and _size(value[0]) <= 1 else 1 + sum(map(_size, value))
    return 1


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
