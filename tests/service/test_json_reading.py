"""A large body, parsed in pieces, means the same as a small one."""

import asyncio
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http import json_reading
from service.http.json_reading import read_json

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        | st.lists(st.integers() | st.none(), min_size=20, max_size=60)
    ),
)
TEXTS = st.one_of(
    VALUES.map(lambda value: json.dumps(value).encode()),
    VALUES.map(lambda value: json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.text(alphabet='[]{}",:\\ 01en', max_size=80).map(str.encode),
    st.binary(max_size=40),
)


@pytest.fixture(autouse=True)
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("LARGE", 0), ("LONG", 8), ("PIECE", 16)):
        monkeypatch.setattr(json_reading, name, size)


def _or_error(body: bytes, parse: Any) -> Any:
    try:
        return repr(parse(body))
    except ValueError:
        return ValueError


def _in_pieces(body: bytes) -> Any:
    return asyncio.run(read_json(body))


@settings(max_examples=500)
@given(TEXTS)
def test_a_body_means_the_same_in_pieces(body: bytes) -> None:
    assert _or_error(body, _in_pieces) == _or_error(body, orjson.loads)


@settings(max_examples=300)
@given(VALUES, st.data())
def test_a_broken_body_stays_broken(value: Any, data: st.DataObject) -> None:
    body = bytearray(json.dumps(value).encode())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from([b"", b",", b"]", b'"', b"\\", b"["]))
    assert _or_error(bytes(body), _in_pieces) == _or_error(bytes(body), orjson.loads)


@pytest.mark.parametrize("end", [b",]", b", ]", b",,1]", b" 1]", b"]]", b"}", b",1"])
def test_a_missing_or_extra_item_is_refused(end: bytes) -> None:
    for count in range(1, 40):
        with pytest.raises(ValueError, match=r"item|comma|unexpected|value"):
            _in_pieces(b"[" + b",".join([b"1"] * count) + end)


def test_a_list_inside_a_text_stays_text() -> None:
    text = r"\"[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\\" * 3
    body = json.dumps({"prompt": text, "series": list(range(99))}).encode()
    assert _in_pieces(body) == {"prompt": text, "series": list(range(99))}
