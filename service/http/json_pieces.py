"""Large answers as JSON, written in pieces, so that nobody waits for the whole of one."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import Response
from starlette.responses import StreamingResponse

from service.http.offload import take_turns

PIECE = 5000
"""Numbers, or texts as long, of one piece: about half a millisecond."""


def json_pieces(value: Any) -> Iterator[bytes]:
    """A value of dicts, lists and arrays (of one axis), in pieces that together are its JSON."""
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
    """The answer, what is large in it as JSON already, written in turns with others.

    Raises:
        DeadlineExceededError: the deadline has passed.
    """
    written = dict(answer)
    for name, value in answer.items():
        if _size(value) > PIECE:
            written[name] = orjson.Fragment(b"".join([piece async for piece in take_turns(json_pieces(value), deadline)]))
    return written


async def large_json_answer(pieces: Iterator[bytes], deadline: float) -> Response:
    """An answer of JSON, written in turns with others, then sent piece by piece: never is there a second copy of it.

    Raises:
        DeadlineExceededError: the deadline has passed.
    """
    parts: list[bytes] = []
    waiting: list[bytes] = []
    async for piece in take_turns(pieces, deadline):
        waiting.append(piece)
        if len(waiting) >= 256:
            parts.append(b"".join(waiting))
            waiting = []
    parts.append(b"".join(waiting))
    length = str(sum(map(len, parts)))

    async def send() -> AsyncIterator[bytes]:
        parts.reverse()
        while parts:
            yield parts.pop()

    return StreamingResponse(send(), media_type="application/json", headers={"Content-Length": length})


def _size(value: Any) -> int:
    """How many numbers it is about; a text counts by its length."""
    if isinstance(value, Mapping):
        return len(value) + sum(map(_size, value.values()))
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, str):
        return 1 + len(value) // 64
    if isinstance(value, Sequence):
        # All items are alike: looking at the first tells whether they are numbers.
        return len(value) * _size(value[0]) if len(value) and _size(value[0]) <= 1 else 1 + sum(map(_size, value))
    return 1


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
