"""Arithmetic written into an ONNX graph: the operations of `training/nets/arithmetic.py` as operators.

`Value` is a tensor of a graph with Python's operators; `OnnxBackend` has all other operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from training.onnx.operations import DTYPES, Builder


@dataclass(frozen=True)
class Value:
    """A tensor of a graph being written: `a * b + 1.0` adds the operators to `g`. Numbers become constants of the
    tensor's type."""

    g: Builder
    name: str
    dtype: str

    def within(self, g: Builder) -> "Value":
        """The same tensor, for operators of a branch of the graph."""
        return Value(g, self.name, self.dtype)

    def as_output(self, name: str) -> "Value":
        """The same tensor as an output of the graph."""
        return Value(self.g, self.g.op("Identity", self.name, name=name), self.dtype)

    def name_of(self, x: "Value | float") -> str:
        """The name of a tensor, or of a number as a constant of this tensor's type."""
        return x.name if isinstance(x, Value) else self.g.const(x, self.dtype)

    def _op(self, kind: str, *inputs: "Value | float", dtype: str = "") -> "Value":
        names = [self.name_of(x) for x in inputs]
        return Value(self.g, self.g.op(kind, *names), dtype or self.dtype)

    def __add__(self, other: "Value | float") -> "Value":
        return self._op("Add", self, other)

    def __sub__(self, other: "Value | float") -> "Value":
        return self._op("Sub", self, other)

    def __mul__(self, other: "Value | float") -> "Value":
        return self._op("Mul", self, other)

    def __truediv__(self, other: "Value | float") -> "Value":
        """Whole numbers are rounded towards zero."""
        return self._op("Div", self, other)

    def __radd__(self, other: float) -> "Value":
        return self + other

    def __rmul__(self, other: float) -> "Value":
        return self * other

    def __rsub__(self, other: float) -> "Value":
        return self._op("Sub", other, self)

    def __rtruediv__(self, other: float) -> "Value":
        return self._op("Div", other, self)

    def __neg__(self) -> "Value":
        return self._op("Neg", self)

    def __floordiv__(self, other: "Value | float") -> "Value":
        """Of whole numbers that are not negative."""
        return self._op("Div", self, other)

    def __mod__(self, other: "Value | float") -> "Value":
        """Of whole numbers that are not negative."""
        return self._op("Mod", self, other)

    def __gt__(self, other: "Value | float") -> "Value":
        return self._op("Greater", self, other, dtype="bool")

    def __ge__(self, other: "Value | float") -> "Value":
        return self._op("GreaterOrEqual", self, other, dtype="bool")

    def __le__(self, other: "Value | float") -> "Value":
        return self._op("LessOrEqual", self, other, dtype="bool")

    def __lt__(self, other: "Value | float") -> "Value":
        return self._op("Less", self, other, dtype="bool")

    def __and__(self, other: "Value") -> "Value":
        return self._op("And", self, other)


@dataclass(frozen=True)
class Parameters:
    """A network's parameters: `names` by their address in memory, and in `written` the names of those that the graph
    holds already."""

    names: dict[int, str]
    written: dict[int, str]

    @classmethod
    def of(cls, network: nn.Module) -> "Parameters":
        """The parameters and the buffers of a network."""
        tensors = [*network.named_parameters(), *network.named_buffers()]
        return cls({tensor.data_ptr(): name for name, tensor in tensors}, {})

    def constant(self, g: Builder, parameter: torch.Tensor, value: torch.Tensor) -> str:
        """The name of the constant that holds a parameter, as `value`."""
        address = parameter.data_ptr()
        if address not in self.written:
            self.written[address] = g.const(value, name=self.names.get(address))
        return self.written[address]


class OnnxBackend:
    """Writes operators into a graph. Each parameter of a network is one constant, which has the parameter's name."""

    def __init__(self, g: Builder, parameters: Parameters | None = None) -> None:
        self.g = g
        self.parameters = parameters or Parameters({}, {})

    def within(self, g: Builder) -> "OnnxBackend":
        """For a branch of the graph, which sees the parameters that were written before it."""
        return OnnxBackend(g, self.parameters)

    def _op(self, kind: str, like: Value, *inputs: str, dtype: str = "", **attributes: Any) -> Value:
        return Value(self.g, self.g.op(kind, *inputs, **attributes), dtype or like.dtype)

    def constant(self, x: Any, dtype: str) -> Value:
        return Value(self.g, self.g.const(np.asarray(x), dtype), dtype)

    def parameter(self, x: torch.Tensor) -> Value:
        return Value(self.g, self.parameters.constant(self.g, x, x), str(x.dtype).removeprefix("torch."))

    def cast(self, x: Value, dtype: str) -> Value:
        return x if x.dtype == dtype else self._op("Cast", x, x.name, dtype=dtype, to=DTYPES[dtype])

    def where(self, condition: Value, yes: Any, no: Any) -> Value:
        like = yes if isinstance(yes, Value) else no
        return self._op("Where", like, condition.name, like.name_of(yes), like.name_of(no))

    def maximum(self, x: Value, y: Any) -> Value:
        return self._op("Max", x, x.name, x.name_of(y))

    def minimum(self, x: Value, y: Any) -> Value:
        return self._op("Min", x, x.name, x.name_of(y))

    def abs(self, x: Value) -> Value:
        return self._op("Abs", x, x.name)

    def floor(self, x: Value) -> Value:
        return self._op("Floor", x, x.name)

    def sqrt(self, x: Value) -> Value:
        return self._op("Sqrt", x, x.name)

    def positions(self, x: Value, axis: int) -> Value:
        return Value(self.g, self.g.positions(x.name, axis), "int64")

    def cumsum(self, x: Value, axis: int) -> Value:
        return self._op("CumSum", x, x.name, self.g.const(axis))

    def sum(self, x: Value, axis: int) -> Value:
        return self._op("ReduceSum", x, x.name, self.g.const([axis]), keepdims=1)

    def mean(self, x: Value, axis: int) -> Value:
        return self._op("ReduceMean", x, x.name, self.g.const([axis]), keepdims=1)

    def max(self, x: Value, axis: int) -> Value:
        return self._op("ReduceMax", x, x.name, self.g.const([axis]), keepdims=1)

    def argmax(self, x: Value, axis: int) -> Value:
        return self._op("ArgMax", x, x.name, dtype="int64", axis=axis, keepdims=0)

    def median(self, x: Value, size: int) -> Value:
        return self._op("Gather", x, self.sort(x, size).name, self.g.const([size // 2]), axis=-1)

    def sort(self, x: Value, size: int) -> Value:
        names = self.g.ops("TopK", x.name, self.g.const([size]), names=[None, None], axis=-1, largest=0, sorted=1)
        return Value(self.g, names[0], x.dtype)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        return self._op("Concat", parts[0], *(part.name for part in parts), axis=axis)

    def slice(self, x: Value, axis: int, start: int, end: int | None, step: int = 1) -> Value:
        last = np.iinfo(np.int64).max if end is None else end
        bounds = [self.g.const([number]) for number in (start, last, axis, step)]
        return self._op("Slice", x, x.name, *bounds)

    def take(self, x: Value, index: Any, axis: int) -> Value:
        at = index.name if isinstance(index, Value) else self.g.const(np.asarray(index), "int64")
        return self._op("Gather", x, x.name, at, axis=axis)

    def gather(self, x: Value, index: Value) -> Value:
        flat = self.reshape(index, 0, -1)
        elements = self.g.op("GatherElements", x.name, flat.name, axis=1)
        return self._op("Reshape", x, elements, self.g.op("Shape", index.name))

    def take_along(self, x: Value, index: Value) -> Value:
        return self._op("GatherElements", x, x.name, index.name, axis=1)

    def scatter(self, x: Value, index: Value, values: Value) -> Value:
        return self._op("ScatterElements", x, x.name, index.name, values.name, axis=1)

    def unsqueeze(self, x: Value, axis: int) -> Value:
        return self._op("Unsqueeze", x, x.name, self.g.const([axis]))

    def reshape(self, x: Value, *shape: int) -> Value:
        return self._op("Reshape", x, x.name, self.g.const(list(shape)))

    def transpose(self, x: Value, *axes: int) -> Value:
        return self._op("Transpose", x, x.name, perm=list(axes))

    def matmul(self, x: Value, y: Value) -> Value:
        return self._op("MatMul", x, x.name, y.name)

    def linear(self, x: Value, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Value:
        product = self._op("MatMul", x, x.name, self.parameters.constant(self.g, weight, weight.T))
        return product if bias is None else product + self.parameter(bias)

    def softmax(self, x: Value) -> Value:
        return self._op("Softmax", x, x.name, axis=-1)

    def relu(self, x: Value) -> Value:
        return self._op("Relu", x, x.name)


def before_end(f: OnnxBackend) -> Value:
    """Which steps (B, T) come before a row's end, 1 or 0. Steps past it count as missing, so that running figures do
    not change."""
    steps = f.reshape(f.positions(Value(f.g, "mask", "float32"), 1), 1, -1)
    return f.cast(steps < f.unsqueeze(Value(f.g, "lengths", "int64"), 1), "float64")
