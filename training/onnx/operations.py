"""An ONNX graph being written, operator by operator. Knows nothing of networks, files or manifests."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from torch import Tensor

OPSET = 21
IR_VERSION = 10

BOOL, F32, F64, I32, I64, U8 = (
    TensorProto.BOOL,
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
)
DTYPES = {"float32": F32, "float64": F64, "int64": I64, "uint8": U8, "bool": BOOL}

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


@dataclass
class Builder:
    """A graph being written: `op` adds a node and returns the name of its result, `const` adds a constant."""

    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    _known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: Any) -> str:
        """Add one node; its (first) output is called `name`, or something unique."""
        return self.ops(kind, *inputs, names=[name] if name else [None] * outputs, **attributes)[0]

    def ops(self, kind: str, *inputs: str, names: list[str | None], **attributes: Any) -> list[str]:
        """Add one node with several outputs."""
        outputs = [name or f"{self.prefix}{kind.lower()}_{len(self.nodes)}_{i}" for i, name in enumerate(names)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def const(
        self,
        value: "NDArray[np.generic] | Tensor | float | int | list[int]",
        dtype: str | None = None,
        name: str | None = None,
    ) -> str:
        """A constant tensor, stored once however often it is used, and called `name` if it is new."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        array = np.asarray(array, dtype=dtype, order="C")
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name or f"{self.prefix}const_{len(self._known)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def shape_of(self, x: str, axis: int) -> str:
        """The length of one axis, as a tensor of shape (1,)."""
        return self.op("Shape", x, start=axis, end=axis + 1)


@dataclass(frozen=True)
class Port:
    """An input or output of the graph; `shape` without axis 0, the batch (or None: there is none). A fresh state is
    `initial` everywhere."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    initial: float = 0.0
    axis: str | None = "B"

    def info(self) -> onnx.ValueInfoProto:
        shape = self.shape if self.axis is None else [self.axis, *self.shape]
        return helper.make_tensor_value_info(self.name, DTYPES[self.dtype], shape)


LENGTHS = Port("lengths", "int64", ())
PER_STEP = Port("per_step", "bool", (), axis=None)


def if_wanted(g: Builder, port: Port, build: Callable[[Builder], str]) -> None:
    """An output of every step, made by `build` if `per_step` says so, else with no steps in it.

    ONNX Runtime computes every output of a graph, whichever are fetched; only a branch not taken costs nothing.
    """

    def nothing(b: Builder) -> str:
        sizes = [b.shape_of("lengths", 0), *(b.const([size if isinstance(size, int) else 0]) for size in port.shape)]
        zero = helper.make_tensor("zero", DTYPES[port.dtype], [1], [0])
        return b.op("ConstantOfShape", b.op("Concat", *sizes, axis=0), value=zero)

    either(g, PER_STEP.name, lambda b: [build(b)], lambda b: [nothing(b)], [(DTYPES[port.dtype], port.name)])


def either(
    g: Builder,
    condition: str,
    yes: Callable[[Builder], list[str]],
    no: Callable[[Builder], list[str]],
    results: Sequence[tuple[int, str | None]],
) -> list[str]:
    """What `yes` writes where the condition holds, else what `no` writes; of each result, type and name."""
    branches = {}
    for branch, build in (("then_branch", yes), ("else_branch", no)):
        b = Builder(prefix=f"{g.prefix}{branch}_{len(g.nodes)}_")
        outputs = [
            helper.make_tensor_value_info(made, dtype, None) for made, (dtype, _) in zip(build(b), results, strict=True)
        ]
        branches[branch] = helper.make_graph(b.nodes, branch, [], outputs, b.constants)
    return g.ops("If", condition, names=[name for _, name in results], **branches)


@dataclass(frozen=True)
class ExportedGraph:
    """The ONNX model, its inputs and outputs besides the state, and the state as pairs of (input, output)."""

    model: onnx.ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    state: tuple[tuple[Port, Port], ...]


def finish(
    g: Builder, inputs: tuple[Port, ...], outputs: tuple[Port, ...], state: list[tuple[Port, Port]]
) -> ExportedGraph:
    """The graph written in `g`, with these ports; `state` in pairs of (before, after).

    Raises:
        onnx.checker.ValidationError: it is not a valid graph.
    """
    before, after = [pair[0] for pair in state], [pair[1] for pair in state]
    graph = helper.make_graph(
        g.nodes,
        "carry",
        [port.info() for port in (*inputs, *before)],
        [port.info() for port in (*outputs, *after)],
        g.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == CONTRIB for node in _nodes(graph)):
        opsets.append(helper.make_opsetid(CONTRIB, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return ExportedGraph(model, inputs, outputs, tuple(state))


_PAGE = 4096
"""Bytes, to a multiple of which large constants in a file are aligned, so that they can be mapped into memory."""
_SMALL, _LINE = 128, 64
"""Bytes: constants below the first stay in their graphs; those below a page are aligned to the second."""


def share_weights(models: Sequence[onnx.ModelProto], path: Path) -> str:
    """Move the larger constants of several models to one file, each once, and note in each model what the file's sha256
    is, which is returned. The models are then to be saved beside it."""
    places: dict[bytes, int] = {}
    tensors = [tensor for model in models for tensor in _constants(model.graph) if len(tensor.raw_data) >= _SMALL]
    with path.open("wb") as file:
        for tensor in sorted(tensors, key=lambda tensor: -len(tensor.raw_data)):
            content = tensor.raw_data
            if content not in places:
                places[content] = file.tell()
                file.write(content + bytes(-len(content) % (_PAGE if len(content) >= _PAGE else _LINE)))
            set_external_data(tensor, path.name, offset=places[content], length=len(content))
            tensor.ClearField("raw_data")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for model in models:
        helper.set_model_props(model, {"weights_sha256": digest})
    return digest


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from _constants(attribute.g)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


@dataclass(frozen=True)
class Value:
    """A tensor of a graph being written, with Python's arithmetic: `a * b + 1.0` adds the operators to `g`. Numbers
    become constants of the tensor's own type."""

    g: Builder
    name: str
    dtype: str

    def within(self, g: Builder) -> "Value":
        """The same tensor, for operators of a branch of the graph."""
        return Value(g, self.name, self.dtype)

    def _made(self, kind: str, *inputs: str, dtype: str = "", **attributes: Any) -> "Value":
        return Value(self.g, self.g.op(kind, *inputs, **attributes), dtype or self.dtype)

    def _named(self, other: "Value | float") -> str:
        return other.name if isinstance(other, Value) else self.g.const(other, self.dtype)

    def __add__(self, other: "Value | float") -> "Value":
        return self._made("Add", self.name, self._named(other))

    def __sub__(self, other: "Value | float") -> "Value":
        return self._made("Sub", self.name, self._named(other))

    def __mul__(self, other: "Value | float") -> "Value":
        return self._made("Mul", self.name, self._named(other))

    def __truediv__(self, other: "Value | float") -> "Value":
        """Of whole numbers: rounded towards zero."""
        return self._made("Div", self.name, self._named(other))

    def __radd__(self, other: float) -> "Value":
        return self + other

    def __rmul__(self, other: float) -> "Value":
        return self * other

    def __rsub__(self, other: float) -> "Value":
        return self._made("Sub", self._named(other), self.name)

    def __rtruediv__(self, other: float) -> "Value":
        return self._made("Div", self._named(other), self.name)

    def __neg__(self) -> "Value":
        return self._made("Neg", self.name)

    def __floordiv__(self, other: "Value | float") -> "Value":
        """Of whole numbers that are not negative."""
        return self._made("Div", self.name, self._named(other))

    def __mod__(self, other: "Value | float") -> "Value":
        """Of whole numbers that are not negative."""
        return self._made("Mod", self.name, self._named(other))

    def __gt__(self, other: "Value | float") -> "Value":
        return self._made("Greater", self.name, self._named(other), dtype="bool")

    def __ge__(self, other: "Value | float") -> "Value":
        return self._made("GreaterOrEqual", self.name, self._named(other), dtype="bool")

    def __le__(self, other: "Value | float") -> "Value":
        return self._made("LessOrEqual", self.name, self._named(other), dtype="bool")

    def __lt__(self, other: "Value | float") -> "Value":
        return self._made("Less", self.name, self._named(other), dtype="bool")

    def __and__(self, other: "Value") -> "Value":
        return self._made("And", self.name, other.name)

    def equal(self, other: "Value | float") -> "Value":
        """Where both are the same."""
        return self._made("Equal", self.name, self._named(other), dtype="bool")

    def abs(self) -> "Value":
        """Without the sign."""
        return self._made("Abs", self.name)

    def least(self, bound: "Value | float") -> "Value":
        """No less than the bound."""
        return self._made("Max", self.name, self._named(bound))

    def most(self, bound: "Value | float") -> "Value":
        """No more than the bound."""
        return self._made("Min", self.name, self._named(bound))

    def where(self, yes: "Value | float", no: "Value | float") -> "Value":
        """One or the other by this condition; at least one of both is a tensor."""
        like = yes if isinstance(yes, Value) else no
        assert isinstance(like, Value)
        return self._made("Where", self.name, like._named(yes), like._named(no), dtype=like.dtype)

    def to(self, dtype: str) -> "Value":
        """The same numbers in another type."""
        return self if dtype == self.dtype else self._made("Cast", self.name, dtype=dtype, to=DTYPES[dtype])

    def cumsum(self, axis: int = 1, reverse: bool = False) -> "Value":
        """Running sums."""
        return self._made("CumSum", self.name, self.g.const(axis), reverse=int(reverse))

    def gather(self, index: "Value") -> "Value":
        """One element along axis 1 for each of the index, whose shape is the result's."""
        return self._made("GatherElements", self.name, index.name, axis=1)

    def take(self, indices: "int | list[int] | Value", axis: int) -> "Value":
        """The slices at these places of an axis."""
        index = indices.name if isinstance(indices, Value) else self.g.const(indices)
        return self._made("Gather", self.name, index, axis=axis)

    def unsqueeze(self, *axes: int) -> "Value":
        """With axes of length 1 put in."""
        return self._made("Unsqueeze", self.name, self.g.const(list(axes)))

    def reshape(self, *shape: int) -> "Value":
        """In another shape; 0 leaves an axis as it is, -1 is what is left."""
        return self._made("Reshape", self.name, self.g.const(list(shape)))

    def called(self, name: str) -> "Value":
        """The same tensor as an output of the graph."""
        return Value(self.g, self.g.op("Identity", self.name, name=name), self.dtype)


def joined(values: Sequence[Value], axis: int) -> Value:
    """Tensors one behind the other along an axis."""
    first = values[0]
    return Value(first.g, first.g.op("Concat", *(value.name for value in values), axis=axis), first.dtype)
