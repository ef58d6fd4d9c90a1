"""Parses large JSON bodies in pieces, so that other requests use the event loop in between.

Large bodies consist mostly of long lists of numbers. These lists are cut out and parsed in pieces; the small rest is
parsed at once. orjson parses every piece, so a large body means the same as a small one.
"""

import gc
import re
import secrets
from collections.abc import Iterator
from typing import Any

import orjson

from service.http.offload import take_turns

LARGE = 2**18
"""Bytes of a body that is parsed in pieces."""
LONG = 2**10
"""Bytes of a list that is cut out."""
PIECE = 2**16
"""Bytes to search or parse at once."""

_MARKS = re.compile(rb'[\\"\[\]{}]')
_BACKSLASH, _QUOTE, _BEGIN, _END = rb"\"[]"


async def read_json(body: bytes) -> Any:
    """Parse a body.

    Raises:
        ValueError: it is not JSON.
    """
    if len(body) < LARGE:
        return _loads(body)
    lists: list[list[Any]] = []
    rest: list[bytes] = []
    parsed_to = 0
    marker = secrets.token_hex(16)  # a key that no body has
    async for span in take_turns(_long_lists(body)):
        if span is None:
            continue
        begin, end = span
        items: list[Any] = []
        async for piece in take_turns(_pieces(body, begin + 1, end - 1)):
            items += _loads(b"[" + piece + b"]")
        rest += [body[parsed_to:begin], orjson.dumps({marker: len(lists)})]
        lists.append(items)
        parsed_to = end
    root = [_loads(b"".join([*rest, body[parsed_to:]]))]
    if lists:
        async for _ in take_turns(_put_back(root, lists, marker)):
            pass
    return root[0]


def _loads(text: bytes) -> Any:
    """Parse without garbage collections: with many small lists, they take three quarters of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(text)
    finally:
        if was_enabled:
            gc.enable()


def _long_lists(body: bytes) -> Iterator[tuple[int, int] | None]:
    """Begin and end of each long list of numbers (or null, true, false). None after each searched piece."""
    in_text, begin, after_escape = False, -1, 0
    for start in range(0, len(body), PIECE):
        yield None
        for match in _MARKS.finditer(body, start, start + PIECE):
            at = match.start()
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
    """The items of a list as JSON, a piece at a time.

    Raises:
        ValueError: an item is missing.
    """
    at = begin
    while at >= 0:
        comma = body.find(b",", at + PIECE, end)
        piece = body[at : comma if comma >= 0 else end]
        if at > begin and not piece.strip():
            raise ValueError("an item is missing")
        yield piece
        at = comma + 1 or -1


def _put_back(root: list[Any], lists: list[list[Any]], marker: str) -> Iterator[None]:
    """Replace each object with the marker by the list that was cut out there."""
    stack: list[Any] = [root]
    while stack:
        parent = stack.pop()
        for key, item in parent.items() if isinstance(parent, dict) else enumerate(parent):
            if isinstance(item, dict) and marker in item:
                parent[key] = lists[item[marker]]
            elif isinstance(item, dict | list):
                stack.append(item)
            yield
