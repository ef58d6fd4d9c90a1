"""Scales and encodes the features beside the target for a network. Knows nothing of layers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.nets.arithmetic import Array, Backend, squash


class Covariates(nn.Module):
    """Features beside the target: numbers standardised by the training part, categories one-hot.

    A gap is zeros. Of each feature the network also reads whether it was observed.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, location: Tensor, scale: Tensor, sizes: tuple[int, ...], known_ahead: tuple[int, ...]) -> None:
        """location, scale (F - 1,): of each feature but the target. sizes: its number of categories, 0 for a number.
        known_ahead: indices of the features whose future is known."""
        super().__init__()
        self.register_buffer("location", location.to(torch.float64))
        self.register_buffer("scale", scale.to(torch.float64))
        self.sizes = sizes
        self.known_ahead = known_ahead
        self.width = self._width(range(len(sizes)))
        self.width_ahead = self._width(known_ahead)

    @classmethod
    def none(cls) -> "Covariates":
        """For a series without features."""
        return cls(torch.zeros(0), torch.ones(0), (), ())

    def _width(self, features: Iterable[int]) -> int:
        return sum(1 + max(1, self.sizes[i]) for i in features)

    def observed_inputs(self, f: Backend[Any], values: Array, mask: Array) -> list[Array]:
        """Values and mask (B, T, F) -> parts, `width` in all, along axis 2."""
        others = range(len(self.sizes))
        return self._encoded(f, values, mask, others, 2, 1)

    def known_inputs(self, f: Backend[Any], values: Array, mask: Array, axis: int) -> list[Array]:
        """Known-ahead features and their mask, K along `axis`, the last one -> parts, `width_ahead` in all."""
        return self._encoded(f, values, mask, self.known_ahead, axis, 0)

    def _encoded(
        self, f: Backend[Any], values: Array, mask: Array, features: Iterable[int], axis: int, first: int
    ) -> list[Array]:
        parts = []
        for column, i in enumerate(features, first):
            x = f.slice(values, axis, column, column + 1)
            observed = f.cast(f.slice(mask, axis, column, column + 1), "float32")
            if self.sizes[i]:
                categories = f.constant(list(range(self.sizes[i])), "float64")
                encoded = f.cast(f.abs(x - categories) < 0.5, "float32")
            else:
                encoded = f.cast(squash((x - float(self.location[i])) / float(self.scale[i]), f), "float32")
            parts += [encoded * observed, observed]
        return parts
