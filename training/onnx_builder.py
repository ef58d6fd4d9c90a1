"""An ONNX graph being written, operator by operator. Knows nothing of networks, files or manifests."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
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

    def const(self, value: "NDArray[np.generic] | Tensor | float | int | list[int]", dtype: str | None = None) -> str:
        """A constant tensor, stored once however often it is used."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        array = np.asarray(array, dtype=dtype, order="C")
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"{self.prefix}const_{len(self._known)}"
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


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)
