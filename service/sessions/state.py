"""Encodes the state of a sequence as bytes for a store, and signs the bytes for a caller.

The bytes are b"carry" and the format's number, the length of a JSON header (uint32), the header, and the tensors one
after the other: little-endian, in the shapes of the model, ordered by type. Nothing in them is ever executed. Format 2
has the end of a text in its header; format 1 has not. Format 3 also has, after the others, the tensors that earlier
releases did not write.
"""

import base64
import binascii
import hmac
import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.engine.sequence import SequenceState
from service.errors import InvalidStateError, NonFiniteOutputError, SessionModelError
from service.manifest import State

_NAME = b"carry"
_MAGIC = _NAME + b"\x01"
_MAGIC_TEXT = _NAME + b"\x02"
_MAGIC_ADDED = _NAME + b"\x03"
_LENGTH = struct.Struct("<I")
_MAC = 32
"""Bytes of HMAC-SHA256 (RFC 2104)."""
_MAX_POSITION = 2**53
"""The largest integer that every JSON reader reads exactly."""


@dataclass(frozen=True, slots=True)
class Header:
    """The graph that a state belongs to (`model`, `version`, `sha256`), the values or characters read so far
    (`position`), and the end of the text that was read (`SequenceState`)."""

    model: str
    version: int
    sha256: str
    position: int
    text_end: str = ""


class StateCodec:
    """Encodes and decodes the states of one loaded model. `integers`: the smallest and the largest that its integer
    tensors may hold. `added`: tensors that a state of an earlier release lacks."""

    def __init__(
        self,
        name: str,
        version: int,
        sha256: str,
        tensors: Sequence[State],
        integers: tuple[int, int],
        added: Sequence[State] = (),
    ) -> None:
        self._header = Header(name, version, sha256, 0)
        self._first, self._all = _Layout(tensors), _Layout(tensors, added)
        self._added = [tensor.name for tensor in added]
        self._integers = integers

    @property
    def sha256(self) -> str:
        """The sha256 of the graph that the states belong to."""
        return self._header.sha256

    def encode(self, state: SequenceState) -> bytes:
        """Encode a state.

        Raises:
            NonFiniteOutputError: the state is not finite, so no call could resume from it.
        """
        head = self._header
        fields = {"model": head.model, "version": head.version, "sha256": head.sha256, "position": state.position}
        magic = _MAGIC
        if state.text_end:
            magic, fields["text_end"] = _MAGIC_TEXT, state.text_end
        layout = self._first
        if self._added and all(name in state.states for name in self._added):
            magic, layout = _MAGIC_ADDED, self._all
        header = orjson.dumps(fields)
        data = b""
        if state.position:
            arrays = (state.states[name].astype(dtype, copy=False) for name, dtype, *_ in layout.tensors)
            data = b"".join(array.tobytes() for array in arrays)
            if not layout.is_finite(data):
                raise NonFiniteOutputError("the model's state is not finite after this input")
        return b"".join((magic, _LENGTH.pack(len(header)), header, data))

    def decode_untrusted(self, payload: bytes) -> SequenceState:
        """As `decode`, for bytes from outside the service.

        Raises:
            InvalidStateError: also if the state holds numbers that the model never produces.
            SessionModelError: as `decode`.
        """
        state = self.decode(payload)
        layout = self._layout_of(payload)
        if state.position and not layout.is_finite(memoryview(payload)[-layout.size :]):
            raise InvalidStateError("the state holds numbers that are not finite")
        for name, array in state.states.items():
            if array.dtype.kind == "b":
                array, minimum, maximum = array.view(np.uint8), 0, 1
            elif array.dtype.kind == "i":
                minimum, maximum = self._integers
            else:
                continue
            if array.size and not minimum <= array.min() <= array.max() <= maximum:
                raise InvalidStateError(f"the state's `{name}` has a value that the model never produces")
        return state

    def decode(self, payload: bytes) -> SequenceState:
        """Decode a state.

        Raises:
            InvalidStateError: the bytes are incomplete.
            SessionModelError: the state is of another model, or of another version of it.
        """
        header, start = read_header(payload)
        loaded = self._header
        if (header.model, header.version, header.sha256) != (loaded.model, loaded.version, loaded.sha256):
            raise SessionModelError(
                f"the state is of {header.model}@{header.version}, graph {header.sha256[:12]}; the loaded model is "
                f"{loaded.model}@{loaded.version}, graph {loaded.sha256[:12]}"
            )
        data, layout = memoryview(payload)[start:], self._layout_of(payload)
        if len(data) != (layout.size if header.position else 0):
            raise InvalidStateError("the state is incomplete")
        if not header.position:
            return SequenceState(0, {})
        states, offset = {}, 0
        for name, dtype, shape, count in layout.tensors:
            states[name] = np.frombuffer(data, dtype, count, offset).reshape(shape)
            offset += count * dtype.itemsize
        return SequenceState(header.position, states, header.text_end)

    def _layout_of(self, payload: bytes) -> "_Layout":
        return self._all if payload.startswith(_MAGIC_ADDED) else self._first


class _Layout:
    """Where the tensors of a state are in its bytes: one after the other, `added` after the others. tensors: their
    names, types, shapes and how many numbers they have; size: bytes."""

    def __init__(self, tensors: Sequence[State], added: Sequence[State] = ()) -> None:
        # Tensors of one type lie together: one check for each type finds numbers that are not finite.
        self.tensors = [*_by_type(tensors), *_by_type(added)]
        self._runs = [
            (dtype, sum(count for *_, count in run))
            for dtype, run in itertools.groupby(self.tensors, lambda tensor: tensor[1])
        ]
        self.size = sum(dtype.itemsize * count for dtype, count in self._runs)

    def is_finite(self, data: bytes | memoryview) -> bool:
        """Whether all numbers of the tensors in `data` are finite."""
        offset = 0
        for dtype, count in self._runs:
            numbers = np.frombuffer(data, dtype, count, offset)
            offset += numbers.nbytes
            if dtype.kind == "f" and not np.isfinite(numbers).all():
                return False
        return True


def _by_type(tensors: Sequence[State]) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
    described = [(t.name, np.dtype(t.dtype).newbyteorder("<"), (1, *t.shape), math.prod(t.shape)) for t in tensors]
    return sorted(described, key=lambda tensor: tensor[1].str)


def sign_state(payload: bytes, key: bytes) -> str:
    """Sign an encoded state with HMAC-SHA256, for a caller to keep; as URL-safe base64."""
    return base64.urlsafe_b64encode(payload + hmac.digest(key, payload, "sha256")).decode()


def verify_state(text: str, key: bytes) -> tuple[bytes, Header]:
    """The encoded state in a signed one, and its header.

    Raises:
        InvalidStateError: this service did not sign these bytes.
    """
    payload, mac = split_signed(text)
    if not hmac.compare_digest(mac, hmac.digest(key, payload, "sha256")):
        raise InvalidStateError("the state was changed or cut off, or was signed with another key")
    return payload, read_header(payload)[0]


def split_signed(text: str) -> tuple[bytes, bytes]:
    """The encoded state in a signed one, and its signature, which is not checked.

    Raises:
        InvalidStateError: it is no state.
    """
    try:
        blob = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidStateError("not a state: it is not URL-safe base64") from None
    payload, mac = blob[:-_MAC], blob[-_MAC:]
    if not payload.startswith(_NAME):
        raise InvalidStateError("not a state of this service")
    return payload, mac


def read_header(payload: bytes) -> tuple[Header, int]:
    """The header of an encoded state, and the offset of its tensors.

    Raises:
        InvalidStateError: the bytes are incomplete, or of an unknown format.
    """
    start = len(_MAGIC) + _LENGTH.size
    if not payload.startswith((_MAGIC, _MAGIC_TEXT, _MAGIC_ADDED)):
        raise InvalidStateError("this version of the service does not know the format of the state")
    try:
        end = start + _LENGTH.unpack_from(payload, len(_MAGIC))[0]
        header = Header(**orjson.loads(payload[start:end]))
    except (struct.error, ValueError, TypeError):
        raise InvalidStateError("the state is incomplete") from None
    types = tuple(map(type, (header.model, header.version, header.sha256, header.position, header.text_end)))
    if types != (str, int, str, int, str) or not 0 <= header.position <= _MAX_POSITION:
        raise InvalidStateError("the header of the state has a field of the wrong type or range")
    return header, end
