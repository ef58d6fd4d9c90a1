"""Arithmetic that is written once, and computed by PyTorch or written into an ONNX graph.

A network's function takes a backend and tensors of it, which have Python's operators. What operators cannot say, the
backend can. Both compute the same: exactly rounded operations, products and sums in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.onnx.operations import DTYPES, Builder, Value, joined

Constant = NDArray[Any] | list[int] | list[float]
T = TypeVar("T")


class Backend(Protocol[T]):
    """`axis` counts from 0; a number may stand for either operand, but not for both."""

    def constant(self, x: Constant, dtype: str) -> T: ...
    def parameter(self, x: torch.Tensor) -> T: ...
    def cast(self, x: T, dtype: str) -> T: ...
    def where(self, condition: T, yes: T | float, no: T | float) -> T: ...
    def maximum(self, x: T, y: T | float) -> T: ...
    def minimum(self, x: T, y: T | float) -> T: ...
    def absolute(self, x: T) -> T: ...
    def floor(self, x: T) -> T: ...
    def sqrt(self, x: T) -> T: ...
    def steps(self, x: T, axis: int) -> T:
        """0, 1, ... as many as there are along the axis."""

    def cumsum(self, x: T, axis: int) -> T: ...
    def total(self, x: T, axis: int) -> T:
        """The sum along an axis, which stays, of length 1."""

    def average(self, x: T, axis: int) -> T: ...
    def largest(self, x: T, axis: int) -> T: ...
    def argmax(self, x: T, axis: int) -> T: ...
    def median(self, x: T, size: int) -> T:
        """Of `size`, an odd number, along the last axis, which stays, of length 1."""

    def join(self, parts: Sequence[T], axis: int) -> T: ...
    def cut(self, x: T, axis: int, start: int, end: int | None, step: int = 1) -> T: ...
    def take(self, x: T, index: T | list[int], axis: int) -> T:
        """Whole slices of x."""

    def gather(self, x: T, index: T) -> T:
        """x (B, W), index (B, ...) -> as the index."""

    def along(self, x: T, index: T) -> T:
        """x (B, W, ...), index (B, P, ...) of as many axes -> as the index, each element taken along axis 1."""

    def scatter(self, x: T, index: T, values: T) -> T:
        """x (B, W, ...) with the values at these places along axis 1."""

    def expand(self, x: T, axis: int) -> T: ...
    def reshape(self, x: T, *shape: int) -> T:
        """0 leaves an axis as it is, -1 is what is left."""

    def transpose(self, x: T, *axes: int) -> T: ...
    def matmul(self, x: T, y: T) -> T: ...
    def linear(self, x: T, weight: torch.Tensor, bias: torch.Tensor | None = None) -> T: ...
    def softmax(self, x: T) -> T:
        """Along the last axis."""

    def relu(self, x: T) -> T: ...


SQUASH = 8.0


def squash(x: Any, f: Backend[Any]) -> Any:
    """Map the reals into (-SQUASH, SQUASH)."""
    return x / (f.absolute(x) / SQUASH + 1.0)


def positive(x: Any, f: Backend[Any]) -> Any:
    """A smooth map of the reals onto the positive ones."""
    return f.where(x > 0.0, x + 1.0, 1.0 / (1.0 - f.minimum(x, 0.0)))


AT_ONCE = 16
"""Numbers that processors add at once, at most."""


def sum_last(x: Any, width: int, f: Backend[Any]) -> Any:
    """The sum along the last of four axes, of `width`, which stays, of length 1. ONNX Runtime adds a row in another
    order where it begins elsewhere within what processors load at once; so each is made as long as a multiple of
    that."""
    missing = -width % AT_ONCE
    parts = [x]
    while missing:
        parts.append(f.cut(x, 3, 0, min(missing, width)) * 0.0)
        missing -= min(missing, width)
    return f.total(f.join(parts, 3) if len(parts) > 1 else x, 3)


_TORCH = {name: getattr(torch, name) for name in ("float32", "float64", "int64", "bool", "uint8")}


class Torch:
    """Computes at once."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device

    def constant(self, x: Any, dtype: str) -> torch.Tensor:
        return torch.as_tensor(np.asarray(x), dtype=_TORCH[dtype], device=self.device)

    def parameter(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def cast(self, x: torch.Tensor, dtype: str) -> torch.Tensor:
        return x.to(_TORCH[dtype])

    def where(self, condition: torch.Tensor, yes: Any, no: Any) -> torch.Tensor:
        return torch.where(condition, yes, no)

    def maximum(self, x: torch.Tensor, y: Any) -> torch.Tensor:
        return torch.maximum(x, y) if isinstance(y, torch.Tensor) else x.clamp(min=y)

    def minimum(self, x: torch.Tensor, y: Any) -> torch.Tensor:
        return torch.minimum(x, y) if isinstance(y, torch.Tensor) else x.clamp(max=y)

    def absolute(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()

    def floor(self, x: torch.Tensor) -> torch.Tensor:
        return x.floor()

    def sqrt(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt()

    def steps(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return torch.arange(x.shape[axis], device=x.device)

    def cumsum(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.cumsum(axis)

    def total(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.sum(axis, keepdim=True)

    def average(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.mean(axis, keepdim=True)

    def largest(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.amax(axis, keepdim=True)

    def argmax(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.argmax(axis)

    def median(self, x: torch.Tensor, size: int) -> torch.Tensor:
        return x.median(-1, keepdim=True).values

    def join(self, parts: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        return torch.cat(list(parts), axis)

    def cut(self, x: torch.Tensor, axis: int, start: int, end: int | None, step: int = 1) -> torch.Tensor:
        return x[(slice(None),) * axis + (slice(start, end, step),)]

    def take(self, x: torch.Tensor, index: Any, axis: int) -> torch.Tensor:
        index = torch.as_tensor(index, device=self.device)
        found = x.index_select(axis, index.flatten())
        return found.view(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])

    def gather(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.gather(1, index.flatten(1)).view(index.shape)

    def along(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.gather(1, index)

    def scatter(self, x: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return x.scatter(1, index, values)

    def expand(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.unsqueeze(axis)

    def reshape(self, x: torch.Tensor, *shape: int) -> torch.Tensor:
        return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])

    def transpose(self, x: torch.Tensor, *axes: int) -> torch.Tensor:
        return x.permute(axes)

    def matmul(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.matmul(x, y)

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return nn.functional.linear(x, weight, bias)

    def softmax(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1)

    def relu(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


@dataclass(frozen=True)
class Parameters:
    """Of a network: their names by where they are in memory, and those written as constants, by these."""

    names: dict[int, str]
    written: dict[int, str]

    @classmethod
    def of(cls, network: nn.Module) -> "Parameters":
        """Those of a network, and its buffers."""
        tensors = [*network.named_parameters(), *network.named_buffers()]
        return cls({tensor.data_ptr(): name for name, tensor in tensors}, {})

    def constant(self, g: Builder, parameter: torch.Tensor, value: torch.Tensor) -> str:
        """The name of the constant that a parameter is, as `value`, in the graph."""
        place = parameter.data_ptr()
        if place not in self.written:
            self.written[place] = g.const(value, name=self.names.get(place))
        return self.written[place]


class Onnx:
    """Writes operators into a graph. A network's parameters are constants of their own names, once."""

    def __init__(self, g: Builder, parameters: "Parameters | None" = None) -> None:
        self.g = g
        self.parameters = parameters or Parameters({}, {})

    def within(self, g: Builder) -> "Onnx":
        """For a branch of the graph, which sees the parameters that were written before it."""
        return Onnx(g, self.parameters)

    def _made(self, kind: str, like: Value, *inputs: str, dtype: str = "", **attributes: Any) -> Value:
        return Value(self.g, self.g.op(kind, *inputs, **attributes), dtype or like.dtype)

    def _name(self, x: "Value | float", like: Value) -> str:
        return x.name if isinstance(x, Value) else self.g.const(x, like.dtype)

    def constant(self, x: Any, dtype: str) -> Value:
        return Value(self.g, self.g.const(np.asarray(x), dtype), dtype)

    def parameter(self, x: torch.Tensor) -> Value:
        return Value(self.g, self.parameters.constant(self.g, x, x), "float32")

    def cast(self, x: Value, dtype: str) -> Value:
        return x if x.dtype == dtype else self._made("Cast", x, x.name, dtype=dtype, to=DTYPES[dtype])

    def where(self, condition: Value, yes: Any, no: Any) -> Value:
        like = yes if isinstance(yes, Value) else no
        return self._made("Where", like, condition.name, self._name(yes, like), self._name(no, like))

    def maximum(self, x: Value, y: Any) -> Value:
        return self._made("Max", x, x.name, self._name(y, x))

    def minimum(self, x: Value, y: Any) -> Value:
        return self._made("Min", x, x.name, self._name(y, x))

    def absolute(self, x: Value) -> Value:
        return self._made("Abs", x, x.name)

    def floor(self, x: Value) -> Value:
        return self._made("Floor", x, x.name)

    def sqrt(self, x: Value) -> Value:
        return self._made("Sqrt", x, x.name)

    def steps(self, x: Value, axis: int) -> Value:
        size = self.g.op("Squeeze", self.g.shape_of(x.name, axis))
        return Value(self.g, self.g.op("Range", self.g.const(0), size, self.g.const(1)), "int64")

    def cumsum(self, x: Value, axis: int) -> Value:
        return self._made("CumSum", x, x.name, self.g.const(axis))

    def total(self, x: Value, axis: int) -> Value:
        return self._made("ReduceSum", x, x.name, self.g.const([axis]), keepdims=1)

    def average(self, x: Value, axis: int) -> Value:
        return self._made("ReduceMean", x, x.name, self.g.const([axis]), keepdims=1)

    def largest(self, x: Value, axis: int) -> Value:
        return self._made("ReduceMax", x, x.name, self.g.const([axis]), keepdims=1)

    def argmax(self, x: Value, axis: int) -> Value:
        return self._made("ArgMax", x, x.name, dtype="int64", axis=axis, keepdims=0)

    def median(self, x: Value, size: int) -> Value:
        ordered = self.g.ops("TopK", x.name, self.g.const([size]), names=[None, None], axis=-1, largest=0, sorted=1)[0]
        return self._made("Gather", x, ordered, self.g.const([size // 2]), axis=-1)

    def join(self, parts: Sequence[Value], axis: int) -> Value:
        return joined(parts, axis)

    def cut(self, x: Value, axis: int, start: int, end: int | None, step: int = 1) -> Value:
        last = np.iinfo(np.int64).max if end is None else end
        places = [self.g.const([number]) for number in (start, last, axis, step)]
        return self._made("Slice", x, x.name, *places)

    def take(self, x: Value, index: Any, axis: int) -> Value:
        at = index.name if isinstance(index, Value) else self.g.const(np.asarray(index), "int64")
        return self._made("Gather", x, x.name, at, axis=axis)

    def gather(self, x: Value, index: Value) -> Value:
        flat = self._made("Reshape", index, index.name, self.g.const([0, -1]))
        found = self.g.op("GatherElements", x.name, flat.name, axis=1)
        return self._made("Reshape", x, found, self.g.op("Shape", index.name))

    def along(self, x: Value, index: Value) -> Value:
        return self._made("GatherElements", x, x.name, index.name, axis=1)

    def scatter(self, x: Value, index: Value, values: Value) -> Value:
        return self._made("ScatterElements", x, x.name, index.name, values.name, axis=1)

    def expand(self, x: Value, axis: int) -> Value:
        return x.unsqueeze(axis)

    def reshape(self, x: Value, *shape: int) -> Value:
        return self._made("Reshape", x, x.name, self.g.const(list(shape)))

    def transpose(self, x: Value, *axes: int) -> Value:
        return self._made("Transpose", x, x.name, perm=list(axes))

    def matmul(self, x: Value, y: Value) -> Value:
        return self._made("MatMul", x, x.name, y.name)

    def linear(self, x: Value, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Value:
        found = self._made("MatMul", x, x.name, self.parameters.constant(self.g, weight, weight.T))
        return found if bias is None else self._made("Add", x, found.name, self.parameters.constant(self.g, bias, bias))

    def softmax(self, x: Value) -> Value:
        return self._made("Softmax", x, x.name, axis=-1)

    def relu(self, x: Value) -> Value:
        return self._made("Relu", x, x.name)
