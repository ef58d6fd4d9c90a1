"""The manifest of a model folder: the contract between training, which writes it, and the service, which reads it.

`models/<name>/<version>/manifest.json` holds the manifest of a kind of model, such as `ForecastManifest`, which extends
`Manifest`. This module imports nothing of ours and knows nothing of PyTorch, ONNX Runtime or HTTP.
"""

import errno
import hashlib
import math
import operator
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property, reduce
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
"""The manifest with a vocabulary of a million words takes a quarter of it."""
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"

MAX_SEQUENCE_BYTES = 16 * 2**20
"""Maximum of one sequence's state, and of its inputs and its outputs of one step. One call of the graph takes a hundred
sequences, and a state must fit into a request. The state of a model of a million words takes 5 MB."""

DType = Literal["float32", "float64", "int64", "uint8", "bool"]
Precision = Literal["float32", "int8"]
ITEM_BYTES: dict[DType, int] = {"float32": 4, "float64": 8, "int64": 8, "uint8": 1, "bool": 1}
Size = Annotated[int, Field(gt=0)]
MAX_AXES = 8

COUNTS = "counts"
"""A state of the decoding graph that each request starts anew, so that it is not part of a sequence's state."""

PER_STEP_OUTPUTS = frozenset({"logits_all", "one_step"})
"""Outputs with an axis T. The graph computes them only if its input `per_step` is true."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tensor(Frozen):
    """An input or output of a graph. `shape` leaves out axis 0, usually the batch; "T" is time, "B" the batch."""

    name: str
    dtype: DType
    shape: tuple[Size | Literal["T", "B"], ...] = Field(max_length=MAX_AXES)

    @property
    def step_bytes(self) -> int:
        """Bytes of one step of one sequence."""
        return ITEM_BYTES[self.dtype] * math.prod(size for size in self.shape if isinstance(size, int))


class State(Frozen):
    """A recurrent state tensor, which a sequence carries from one call to the next.

    `shape` is constant and that of one sequence, without axis 0 (the batch). The graph takes the tensor as input
    `name` and returns it as output `output`. A new sequence starts with every element at `initial`.
    """

    name: str
    output: str
    dtype: DType
    shape: tuple[Size, ...] = Field(max_length=MAX_AXES)
    initial: float = 0.0

    @property
    def sequence_bytes(self) -> int:
        """Bytes of one sequence."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)


class Weights(Frozen):
    """A file beside the manifest with large constants that several graphs share (ONNX's external data)."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.weights$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Graph(Frozen):
    """An ONNX file beside the manifest. If it has its constants in `weights`, its metadata has their sha256 as
    `weights_sha256`, so that its own sha256 covers both files."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.onnx$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weights: Weights | None = None
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[State, ...]
    max_steps: int = Field(gt=0, description="maximum time steps in one call of the graph; longer input goes in chunks")

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence."""
        return sum(state.sequence_bytes for state in self.state)

    @model_validator(mode="after")
    def _a_sequence_fits_into_memory(self) -> "Graph":
        inputs, outputs = (sum(tensor.step_bytes for tensor in tensors) for tensors in (self.inputs, self.outputs))
        for what, size in (("state", self.state_bytes), ("inputs", inputs), ("outputs", outputs)):
            if size > MAX_SEQUENCE_BYTES:
                raise ValueError(f"{size} bytes of {what} for one sequence; the maximum is {MAX_SEQUENCE_BYTES}")
        return self


class Int8(Frozen):
    """The same network with matrix products in int8.

    `loss`: the relative loss of quality on the test part (of bits per character, or of the scaled quantile loss); None
    without a test part. `speedup`: the time of float32 over that of int8, for a batch of 16 on the machine of the
    export. `default`: whether the service uses int8, unless the operator sets CARRY_PRECISION.
    """

    graph: Graph
    decode: Graph | None = Field(default=None, description="of a text model")
    loss: float | None
    speedup: float = Field(gt=0)
    default: bool


class DataSource(Frozen):
    """A file that the training used: to train, to choose the weights, or to measure."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Provenance(Frozen):
    """How the model was made, to make it again."""

    command: str
    seed: int
    created_at: str = Field(description="UTC, ISO 8601")
    duration_seconds: float = Field(ge=0)
    data: tuple[DataSource, ...]
    cell: str
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    parameters: int = Field(gt=0)
    versions: dict[str, str] = Field(description="python, torch, onnx, carry")

    @field_validator("created_at")
    @classmethod
    def _check_time(cls, created_at: str) -> str:
        datetime.fromisoformat(created_at)
        return created_at


@dataclass(frozen=True)
class Graphs:
    """A model's graphs in one precision: the graph that reads, and for a text model the graph that decodes."""

    precision: Precision
    graph: Graph
    decode: Graph | None = None

    @property
    def files(self) -> tuple[Graph, ...]:
        """All graphs."""
        return (self.graph,) if self.decode is None else (self.graph, self.decode)

    @property
    def state(self) -> tuple[State, ...]:
        """The tensors that a sequence carries from one call to the next."""
        return tuple(state for state in (self.decode or self.graph).state if state.name != COUNTS)

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of one sequence, in the graph that holds more."""
        return (self.decode or self.graph).state_bytes


class Manifest(Frozen):
    """The manifest of every model folder. Each kind of model adds its fields and its `kind`."""

    format: Literal[2] = 2
    kind: str
    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    description: str = ""
    graph: Graph
    int8: Int8 | None = None
    metrics: dict[str, float] = Field(description="on the test part; the card says how they are measured")
    provenance: Provenance

    @property
    def label(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"

    def graphs(self, precision: Precision) -> Graphs:
        """The graphs in a precision.

        Raises:
            ValueError: the model has no int8 graph.
        """
        if precision == "float32":
            return Graphs(precision, self.graph)
        if self.int8 is None:
            raise ValueError(f"{self.label} has no int8 graph")
        return Graphs(precision, self.int8.graph, self.int8.decode)


M = TypeVar("M", bound=Manifest)


def read_manifest(folder: Path, *kinds: type[M]) -> M:
    """Read and validate a model folder's manifest, of one of these kinds.

    Raises:
        OSError: it cannot be read.
        pydantic.ValidationError: it is not a valid manifest of these kinds (a `ValueError`).
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(folder / MANIFEST_FILE, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        if status.st_size > MAX_MANIFEST_BYTES:
            raise OSError(errno.EFBIG, f"it is larger than {MAX_MANIFEST_BYTES} bytes")
        return cast(M, _adapter(kinds).validate_json(file.read()))


@cache
def _adapter(kinds: tuple[type[Manifest], ...]) -> TypeAdapter[Any]:
    """Validates a manifest of one of these kinds, by its `kind`."""
    union: Any = reduce(operator.or_, kinds)
    if len(kinds) > 1:
        union = Annotated[union, Field(discriminator="kind")]
    return TypeAdapter(union)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
