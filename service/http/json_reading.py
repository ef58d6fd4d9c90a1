"""Reads the JSON of large bodies piece by piece, so that others may use the event loop in between.

In a large body, nearly all is long lists of numbers, which cost the most for each byte. These are taken out and parsed
in pieces; what is left is small, and is parsed at once. Each piece goes through orjson, so that what is accepted, and
what it means, is the same as for a small body.
"""

import gc
import re
import secrets
from collections.abc import Iterator
from typing import Any

import orjson

from service.http.offload import take_turns

LARGE = 2**18
"""Bytes of a body from which on it is read so."""
LONG = 2**10
"""Bytes of a list from which on it is taken out."""
PIECE = 2**16
"""Bytes that are searched, or parsed, at once."""

_MARKS = re.compile(rb'[\\"\[\]{}]')
_BACKSLASH, _QUOTE, _BEGIN, _END = rb"\"[]"


async def read_json(body: bytes) -> Any:
    """What the body says.

    Raises:
        ValueError: it is not JSON.
    """
    if len(body) < LARGE:
        return _parsed(body)
    lists: list[list[Any]] = []
    rest: list[bytes] = []
    done = 0
    name = secrets.token_hex(16)  # no body has it
    async for place in take_turns(_long_lists(body)):
        if place is None:
            continue
        begin, end = place
        items: list[Any] = []
        async for piece in take_turns(_pieces(body, begin + 1, end - 1)):
            items += _parsed(b"[" + piece + b"]")
        rest += [body[done:begin], orjson.dumps({name: len(lists)})]
        lists.append(items)
        done = end
    read = [_parsed(b"".join([*rest, body[done:]]))]
    if lists:
        async for _ in take_turns(_put_back(read, lists, name)):
            pass
    return read[0]


def _parsed(text: bytes) -> Any:
    """Without collections of garbage on the way: of many small lists, they would take three quarters of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(text)
    finally:
        if collects:
            gc.enable()


def _long_lists(body: bytes) -> Iterator[tuple[int, int] | None]:
    """Where long lists without texts, lists and objects begin and end; None between the parts of the search."""
    in_text, begin, after_escape = False, -1, 0
    for start in range(0, len(body), PIECE):
        yield None
        for found in _MARKS.finditer(body, start, start + PIECE):
            at = found.start()
            if at < after_escape:
                continue
            mark = body[at]
            if in_text:
                if mark == _BACKSLASH:
                    after_escape = at + 2
                in_text = mark != _QUOTE
            elif mark == _BEGIN:
                begin = at
            else:
                if mark == _END and 0 <= begin <= at - LONG:
                    yield begin, at + 1
                in_text, begin = mark == _QUOTE, -1


def _pieces(body: bytes, begin: int, end: int) -> Iterator[bytes]:
    """The items of a list, some at a time, as they stand there.

    Raises:
        ValueError: its last item is missing.
    """
    at = begin
    while at >= 0:
        comma = body.find(b",", at + PIECE, end)
        piece = body[at : comma if comma >= 0 else end]
        if at > begin and not piece.strip():
            raise ValueError("an item is missing")
        yield piece
        at = comma + 1 or -1


def _put_back(read: list[Any], lists: list[list[Any]], name: str) -> Iterator[None]:
    """Put the lists in where objects with that name stand for them."""
    left: list[Any] = [read]
    while left:
        holder = left.pop()
        for key, item in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(item, dict) and name in item:
                holder[key] = lists[item[name]]
            elif isinstance(item, dict | list):
                left.append(item)
            yield
