"""A sequence's state as bytes, and back: what a store keeps, and, signed, what a caller may carry.

The bytes are b"carry" and the format's number, the length of a JSON header (uint32), the header, and the tensors one
after the other: little-endian, in the order and shapes that the model says. Nothing in them is ever executed. Format 2
has the end of a text in its header, which format 1 lacks.
"""

import base64
import binascii
import hmac
import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from service.engine.sequence import SequenceState
from service.errors import NonFiniteOutputError, SessionModelError, InvalidStateError
from service.manifest import State

_NAME = b"carry"
_MAGIC = _NAME + b"\x01"
_MAGIC_TEXT = _NAME + b"\x02"
_LENGTH = struct.Struct("<I")
_MAC = 32
"""Bytes of HMAC-SHA256 (RFC 2104)."""
_MAX_POSITION = 2**53
"""The largest number that every reader of JSON reads as it is."""


@dataclass(frozen=True, slots=True)
class Header:
    """Which model's graph a state belongs to, how many values or characters were read until it, and the end of the text
    that was read (SequenceState)."""

    model: str
    version: int
    sha256: str
    position: int
    text_end: str = ""


class StateCodec:
    """The states of one model, as it is served. `integers`: the least and the largest that its integers can be."""

    def __init__(
        self, name: str, version: int, sha256: str, tensors: Sequence[State], integers: tuple[int, int]
    ) -> None:
        self._header = Header(name, version, sha256, 0)
        # Those of one type stand together, so that one look each tells whether they are finite.
        self._tensors = sorted(
            ((t.name, np.dtype(t.dtype).newbyteorder("<"), (1, *t.shape), math.prod(t.shape)) for t in tensors),
            key=lambda tensor: tensor[1].str,
        )
        self._runs = [
            (dtype, sum(count for *_, count in run))
            for dtype, run in itertools.groupby(self._tensors, lambda tensor: tensor[1])
        ]
        self._size = sum(dtype.itemsize * count for dtype, count in self._runs)
        self._integers = integers

    @property
    def sha256(self) -> str:
        """Of the graph that the states belong to."""
        return self._header.sha256

    def encode(self, snapshot: SequenceState) -> bytes:
        """Where a sequence stands, as bytes.

        Raises:
            NonFiniteOutputError: the state is not finite: nothing could go on from there.
        """
        head = self._header
        fields = {"model": head.model, "version": head.version, "sha256": head.sha256, "position": snapshot.position}
        magic = _MAGIC
        if snapshot.text_end:
            magic, fields["text_end"] = _MAGIC_TEXT, snapshot.text_end
        header = orjson.dumps(fields)
        data = b""
        if snapshot.position:
            arrays = (snapshot.states[name].astype(dtype, copy=False) for name, dtype, *_ in self._tensors)
            data = b"".join(array.tobytes() for array in arrays)
            if not self._finite(data):
                raise NonFiniteOutputError("the model's state is not finite after this input")
        return b"".join((magic, _LENGTH.pack(len(header)), header, data))

    def accept(self, payload: bytes) -> SequenceState:
        """As `decode`, of what came from outside.

        Raises:
            InvalidStateError, SessionModelError: as `decode`; or it holds numbers that the model never makes.
        """
        snapshot = self.decode(payload)
        if snapshot.position and not self._finite(memoryview(payload)[-self._size :]):
            raise InvalidStateError("the state holds numbers that are not finite")
        for name, array in snapshot.states.items():
            if array.dtype.kind == "b":
                array, least, most = array.view(np.uint8), 0, 1
            elif array.dtype.kind == "i":
                least, most = self._integers
            else:
                continue
            if array.size and not least <= array.min() <= array.max() <= most:
                raise InvalidStateError(f"the state holds a `{name}` that the model never has")
        return snapshot

    def decode(self, payload: bytes) -> SequenceState:
        """Where the sequence stands whose bytes these are.

        Raises:
            InvalidStateError: they are not whole.
            SessionModelError: they are of another model, or of another version of it.
        """
        header, start = read_header(payload)
        own = self._header
        if (header.model, header.version, header.sha256) != (own.model, own.version, own.sha256):
            raise SessionModelError(
                f"the state is of {header.model}@{header.version}, graph {header.sha256[:12]}, and what is loaded "
                f"is {own.model}@{own.version}, graph {own.sha256[:12]}"
            )
        data = memoryview(payload)[start:]
        if len(data) != (self._size if header.position else 0):
            raise InvalidStateError("the state is not whole")
        if not header.position:
            return SequenceState(0, {})
        states, at = {}, 0
        for name, dtype, shape, count in self._tensors:
            states[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
            at += count * dtype.itemsize
        return SequenceState(header.position, states, header.text_end)

    def _finite(self, data: bytes | memoryview) -> bool:
        at = 0
        for dtype, count in self._runs:
            numbers = np.frombuffer(data, dtype, count, at)
            at += numbers.nbytes
            if dtype.kind == "f" and not np.isfinite(numbers).all():
                return False
        return True


def signed(payload: bytes, key: bytes) -> str:
    """The bytes of a state for a caller to carry: with an HMAC-SHA256, as URL-safe base64."""
    return base64.urlsafe_b64encode(payload + hmac.digest(key, payload, "sha256")).decode()


def verified(text: str, key: bytes) -> tuple[bytes, Header]:
    """The bytes of a state that a caller carried, and what they are of.

    Raises:
        InvalidStateError: this service did not sign them, or not these.
    """
    try:
        blob = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidStateError("not a state: no URL-safe base64") from None
    payload, mac = blob[:-_MAC], blob[-_MAC:]
    if not payload.startswith(_NAME):
        raise InvalidStateError("not a state of this service")
    if not hmac.compare_digest(mac, hmac.digest(key, payload, "sha256")):
        raise InvalidStateError("the state was changed or cut off, or signed with another key than this service's")
    return payload, read_header(payload)[0]


def read_header(payload: bytes) -> tuple[Header, int]:
    """What a state's bytes are of, and where its tensors begin.

    Raises:
        InvalidStateError: they are not whole, or of an unknown format.
    """
    start = len(_MAGIC) + _LENGTH.size
    if not payload.startswith((_MAGIC, _MAGIC_TEXT)):
        raise InvalidStateError("a state of a format that this version of the service does not know")
    try:
        end = start + _LENGTH.unpack_from(payload, len(_MAGIC))[0]
        header = Header(**orjson.loads(payload[start:end]))
    except (struct.error, ValueError, TypeError):
        raise InvalidStateError("the state is not whole") from None
    types = tuple(map(type, (header.model, header.version, header.sha256, header.position, header.text_end)))
    if types != (str, int, str, int, str) or not 0 <= header.position <= _MAX_POSITION:
        raise InvalidStateError("the state does not begin as those of a service do")
    return header, end
