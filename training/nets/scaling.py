"""How raw values become a network's inputs, and its outputs raw values: causally, so that a series may come in pieces.

Written once, over a backend (`arithmetic.py`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.nets.arithmetic import Backend

MAX_STEPS = 4096
"""Most time steps in one call. DECAY**-MAX_STEPS (series_scan.py) must stay far inside the range of a double."""

Array = Any
"""A tensor of the backend."""


def last_observed(f: Backend[Any], x: Array, observed: Array, carried: Array) -> tuple[Array, Array, Array]:
    """Fill gaps forward: the newest observed value at each step, the one before it, and how many there were, int64.

    x, observed (B, T, ...), carried (B, 1, ...): the newest value before the first step. Observed values are written to
    slots by their rank, slot 0 holding the carried one, and read back by the count so far; gaps write to a slot nobody
    reads.
    """
    rank = f.cast(f.cumsum(observed, 1), "int64")
    spare = f.largest(f.steps(x, 1) + 1, 0)
    slots = f.join([carried, x * 0.0, carried], 1)
    slots = f.scatter(slots, f.where(observed > 0.0, rank, spare), x)
    return f.along(slots, rank), f.along(slots, f.maximum(rank - 1, 0)), rank


class StandardScaler(nn.Module):
    """Location and scale of each feature over the training part, as constants: for one kind of series.

    A gap is filled with the newest value, and an input says that it was one.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("location", location.to(torch.float64))
        self.register_buffer("scale", scale.to(torch.float64))
        self.features = len(location)
        self.inputs = 2 * self.features

    def read(self, f: Backend[Any], values: Array, observed: Array, state: Mapping[str, Array]) -> tuple[Array, Array]:
        """Values (B, T, F) and where they are observed, 1 or 0, both float64 -> what the network reads, (B, T, I)
        float32, and the newest value after each step, (B, T, F)."""
        location, scale = (f.constant(part.numpy(force=True), "float64") for part in (self.location, self.scale))
        x = f.where(observed > 0.0, (values - location) / scale, 0.0)
        filled, _, _ = last_observed(f, x, observed, f.expand(state["last"], 1))
        return f.cast(f.join([filled, observed], 2), "float32"), filled
