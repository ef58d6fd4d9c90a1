"""Writes an ONNX graph, operator by operator. Knows nothing of networks or manifests."""

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
    """A graph being written: `op` adds a node and returns the name of its result; `const` adds a constant."""

    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    _known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add one node and return the name of its output: `name`, or a unique one."""
        return self.ops(kind, *inputs, names=[name], **attributes)[0]

    def ops(self, kind: str, *inputs: str, names: list[str | None], **attributes: Any) -> list[str]:
        """Add one node with several outputs; None for a unique name."""
        outputs = [name or f"{self.prefix}{kind.lower()}_{len(self.nodes)}_{i}" for i, name in enumerate(names)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def const(
        self,
        value: "NDArray[np.generic] | Tensor | float | int | list[int]",
        dtype: str | None = None,
        name: str | None = None,
    ) -> str:
        """A constant tensor. Equal constants are stored once; the first one decides the name."""
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

    def positions(self, x: str, axis: int) -> str:
        """0, 1, ... up to the length of one axis."""
        return self.op("Range", self.const(0), self.op("Squeeze", self.shape_of(x, axis)), self.const(1))


@dataclass(frozen=True)
class Port:
    """An input or output of the graph. `axis` names axis 0, or is None if there is none; `shape` are the other axes.
    `initial` is the value of a fresh state."""

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


def optional_output(g: Builder, port: Port, build: Callable[[Builder], str]) -> None:
    """An output of every step: what `build` writes if the input `per_step` is true, else a tensor of no steps.

    ONNX Runtime computes every output of a graph, whichever the caller fetches; only an untaken branch costs nothing.
    """

    def no_steps(b: Builder) -> str:
        sizes = [b.shape_of("lengths", 0), *(b.const([size if isinstance(size, int) else 0]) for size in port.shape)]
        zero = helper.make_tensor("zero", DTYPES[port.dtype], [1], [0])
        return b.op("ConstantOfShape", b.op("Concat", *sizes, axis=0), value=zero)

    if_else(g, PER_STEP.name, lambda b: [build(b)], lambda b: [no_steps(b)], [(DTYPES[port.dtype], port.name)])


def if_else(
    g: Builder,
    condition: str,
    yes: Callable[[Builder], list[str]],
    no: Callable[[Builder], list[str]],
    results: Sequence[tuple[int, str | None]],
) -> list[str]:
    """What `yes` writes if the condition is true, else what `no` writes; `results`: type and name of each."""
    branches = {}
    for branch, build in (("then_branch", yes), ("else_branch", no)):
        b = Builder(prefix=f"{g.prefix}{branch}_{len(g.nodes)}_")
        outputs = [
            helper.make_tensor_value_info(name, dtype, None) for name, (dtype, _) in zip(build(b), results, strict=True)
        ]
        branches[branch] = helper.make_graph(b.nodes, branch, [], outputs, b.constants)
    return g.ops("If", condition, names=[name for _, name in results], **branches)


@dataclass(frozen=True)
class ExportedGraph:
    """The ONNX model, its inputs and outputs beside the state, and the state as pairs of (input, output)."""

    model: onnx.ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    state: tuple[tuple[Port, Port], ...]


def finish(
    g: Builder, inputs: tuple[Port, ...], outputs: tuple[Port, ...], state: list[tuple[Port, Port]]
) -> ExportedGraph:
    """The graph in `g` with these ports; `state` in pairs of (before, after).

    Raises:
        onnx.checker.ValidationError: the graph is not valid.
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
"""Bytes. Large constants begin at a multiple, so that they can be mapped into memory."""
_LINE = 64
"""Bytes. Constants smaller than a page begin at a multiple."""
_SMALL = 128
"""Bytes. Smaller constants stay in their graphs."""


def share_weights(models: Sequence[onnx.ModelProto], path: Path) -> str:
    """Move the larger constants of several models to one file, equal ones once, write the file's sha256 into each
    model, and return it. Save the models beside the file."""
    offsets: dict[bytes, int] = {}
    tensors = [tensor for model in models for tensor in _constants(model.graph) if len(tensor.raw_data) >= _SMALL]
    with path.open("wb") as file:
        for tensor in sorted(tensors, key=lambda tensor: -len(tensor.raw_data)):
            content = tensor.raw_data
            if content not in offsets:
                offsets[content] = file.tell()
                file.write(content + bytes(-len(content) % (_PAGE if len(content) >= _PAGE else _LINE)))
            set_external_data(tensor, path.name, offset=offsets[content], length=len(content))
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
