"""The operations that a network's arithmetic is written over, and PyTorch's implementation of them.

A function of a network takes a backend and tensors of it, which have Python's operators; the backend has the operations
that Python's operators lack. `training/onnx/backend.py` implements the same operations by writing them into a graph.
Both compute the same: exactly rounded operations, products and sums in order.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Constant = NDArray[Any] | list[int] | list[float]
Array = Any
"""A tensor of a backend."""
T = TypeVar("T")


class Backend(Protocol[T]):
    """`axis` counts from 0; a number may stand for either operand, but not for both."""

    def constant(self, x: Constant, dtype: str) -> T: ...
    def parameter(self, x: torch.Tensor) -> T: ...
    def cast(self, x: T, dtype: str) -> T: ...
    def where(self, condition: T, yes: T | float, no: T | float) -> T: ...
    def maximum(self, x: T, y: T | float) -> T: ...
    def minimum(self, x: T, y: T | float) -> T: ...
    def abs(self, x: T) -> T: ...
    def floor(self, x: T) -> T: ...
    def sqrt(self, x: T) -> T: ...
    def positions(self, x: T, axis: int) -> T:
        """0, 1, ... up to the length of the axis."""

    def cumsum(self, x: T, axis: int) -> T: ...
    def sum(self, x: T, axis: int) -> T:
        """The sum along an axis, which stays, of length 1; as do `mean` and `max`."""

    def mean(self, x: T, axis: int) -> T: ...
    def max(self, x: T, axis: int) -> T: ...
    def argmax(self, x: T, axis: int) -> T: ...
    def median(self, x: T, size: int) -> T:
        """Of `size`, an odd number, along the last axis, which stays, of length 1."""

    def sort(self, x: T, size: int) -> T:
        """Ascending along the last axis, of length `size`."""

    def concat(self, parts: Sequence[T], axis: int) -> T: ...
    def slice(self, x: T, axis: int, start: int, end: int | None, step: int = 1) -> T: ...
    def take(self, x: T, index: T | list[int], axis: int) -> T:
        """Whole slices of x."""

    def gather(self, x: T, index: T) -> T:
        """x (B, W), index (B, ...) -> as the index."""

    def take_along(self, x: T, index: T) -> T:
        """x (B, W, ...), index (B, P, ...) of as many axes -> as the index, each element taken along axis 1."""

    def scatter(self, x: T, index: T, values: T) -> T:
        """x (B, W, ...) with the values at these places along axis 1."""

    def unsqueeze(self, x: T, axis: int) -> T: ...
    def reshape(self, x: T, *shape: int) -> T:
        """0 keeps the size of an axis, -1 infers it."""

    def transpose(self, x: T, *axes: int) -> T: ...
    def matmul(self, x: T, y: T) -> T: ...
    def linear(self, x: T, weight: torch.Tensor, bias: torch.Tensor | None = None) -> T: ...
    def softmax(self, x: T) -> T:
        """Along the last axis."""

    def relu(self, x: T) -> T: ...


SQUASH = 8.0


def squash(x: Array, f: Backend[Any]) -> Array:
    """Map the reals into (-SQUASH, SQUASH)."""
    return x / (f.abs(x) / SQUASH + 1.0)


def positive(x: Array, f: Backend[Any]) -> Array:
    """A smooth map of the reals onto the positive reals."""
    return f.where(x > 0.0, x + 1.0, 1.0 / (1.0 - f.minimum(x, 0.0)))


SIMD_WIDTH = 16
"""Most numbers that a processor adds at once."""


def sum_last(x: Array, width: int, f: Backend[Any]) -> Array:
    """The sum along the last of four axes, of `width`, which stays, of length 1.

    ONNX Runtime adds a row in an order that depends on where the row begins within what the processor loads at once.
    Each row is therefore padded with zeros to a multiple of SIMD_WIDTH.
    """
    missing = -width % SIMD_WIDTH
    parts = [x]
    while missing:
        parts.append(f.slice(x, 3, 0, min(missing, width)) * 0.0)
        missing -= min(missing, width)
    return f.sum(f.concat(parts, 3) if len(parts) > 1 else x, 3)


_TORCH = {name: getattr(torch, name) for name in ("float32", "float64", "int64", "bool", "uint8")}


class TorchBackend:
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

    def abs(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()

    def floor(self, x: torch.Tensor) -> torch.Tensor:
        return x.floor()

    def sqrt(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt()

    def positions(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return torch.arange(x.shape[axis], device=x.device)

    def cumsum(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.cumsum(axis)

    def sum(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.sum(axis, keepdim=True)

    def mean(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.mean(axis, keepdim=True)

    def max(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.amax(axis, keepdim=True)

    def argmax(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.argmax(axis)

    def median(self, x: torch.Tensor, size: int) -> torch.Tensor:
        return x.median(-1, keepdim=True).values

    def sort(self, x: torch.Tensor, size: int) -> torch.Tensor:
        return x.sort(dim=-1).values

    def concat(self, parts: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        return torch.cat(list(parts), axis)

    def slice(self, x: torch.Tensor, axis: int, start: int, end: int | None, step: int = 1) -> torch.Tensor:
        return x[(slice(None),) * axis + (slice(start, end, step),)]

    def take(self, x: torch.Tensor, index: Any, axis: int) -> torch.Tensor:
        index = torch.as_tensor(index, device=self.device)
        rows = x.index_select(axis, index.flatten())
        return rows.view(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])

    def gather(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.gather(1, index.flatten(1)).view(index.shape)

    def take_along(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.gather(1, index)

    def scatter(self, x: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return x.scatter(1, index, values)

    def unsqueeze(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.unsqueeze(axis)

    def reshape(self, x: torch.Tensor, *shape: int) -> torch.Tensor:
        return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])

    def transpose(self, x: torch.Tensor, *axes: int) -> torch.Tensor:
        return x.permute(axes)

    def matmul(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # PyTorch has no product of whole numbers on a GPU.
        return torch.matmul(x, y) if x.is_floating_point() else (x.unsqueeze(-1) * y).sum(dim=-2)

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return nn.functional.linear(x, weight, bias)

    def softmax(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1)

    def relu(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)
