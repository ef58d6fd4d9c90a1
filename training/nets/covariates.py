"""Features beside the target, as a network reads them. Knows nothing of layers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.nets.arithmetic import Backend, squash

Array = Any
"""A tensor of the backend."""


class Covariates(nn.Module):
    """Features beside the target, as constants of the training part say: numbers standardised, categories one by one.

    A gap is zeros, and an input says of each feature whether it was there.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, location: Tensor, scale: Tensor, sizes: tuple[int, ...], known_ahead: tuple[int, ...]) -> None:
        """location, scale (F - 1,): of each feature but the target. sizes: its number of categories, 0 where it is a
        number. known_ahead: which of the features, counted from 0, are known of the future."""
        super().__init__()
        self.register_buffer("location", location.to(torch.float64))
        self.register_buffer("scale", scale.to(torch.float64))
        self.sizes = sizes
        self.known_ahead = known_ahead
        self.width = self._width(range(len(sizes)))
        self.width_ahead = self._width(known_ahead)

    @classmethod
    def none(cls) -> "Covariates":
        """Of a series without features."""
        return cls(torch.zeros(0), torch.ones(0), (), ())

    def _width(self, features: Iterable[int]) -> int:
        return sum(1 + max(1, self.sizes[i]) for i in features)

    def read(self, f: Backend[Any], values: Array, mask: Array) -> list[Array]:
        """Values and mask (B, T, F) -> parts, `width` in all, along axis 2."""
        others = range(len(self.sizes))
        return self._encoded(f, values, mask, others, 2, 1)

    def known(self, f: Backend[Any], values: Array, mask: Array, axis: int) -> list[Array]:
        """Known-ahead features and their mask, K along the axis, the last -> parts, `width_ahead` in all."""
        return self._encoded(f, values, mask, self.known_ahead, axis, 0)

    def _encoded(
        self, f: Backend[Any], values: Array, mask: Array, features: Iterable[int], axis: int, first: int
    ) -> list[Array]:
        parts = []
        for column, i in enumerate(features, first):
            x = f.cut(values, axis, column, column + 1)
            seen = f.cast(f.cut(mask, axis, column, column + 1), "float32")
            if self.sizes[i]:
                categories = f.constant(list(range(self.sizes[i])), "float64")
                found = f.cast(f.absolute(x - categories) < 0.5, "float32")
            else:
                found = f.cast(squash((x - float(self.location[i])) / float(self.scale[i]), f), "float32")
            parts += [found * seen, seen]
        return parts
