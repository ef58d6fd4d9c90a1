"""Scales raw values for a network and fills gaps: causally, so that a series may come in pieces.

Written once, over a backend (`arithmetic.py`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.nets.arithmetic import Array, Backend

MAX_STEPS = 4096
"""Most time steps in one call. DECAY**-MAX_STEPS (series_scan.py) must stay far inside the range of a double."""


def fill_forward(f: Backend[Any], x: Array, observed: Array, carried: Array) -> tuple[Array, Array, Array]:
    """Fill gaps with the newest observed value. Returns that value at each step, the one before it, and the count of
    observed values, int64.

    x, observed (B, T, ...); carried (B, 1, ...): the newest value before the first step. Each observed value is written
    to the slot of its rank, slot 0 holds the carried value, and each step reads the slot of the count so far. Gaps
    write to a spare slot.
    """
    rank = f.cast(f.cumsum(observed, 1), "int64")
    spare = f.max(f.positions(x, 1) + 1, 0)
    slots = f.concat([carried, x * 0.0, carried], 1)
    slots = f.scatter(slots, f.where(observed > 0.0, rank, spare), x)
    return f.take_along(slots, rank), f.take_along(slots, f.maximum(rank - 1, 0)), rank


class StandardScaler(nn.Module):
    """Location and scale of each feature over the training part, as constants: for one kind of series.

    The network reads each feature scaled, with gaps filled forward, and whether it was observed.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("location", location.to(torch.float64))
        self.register_buffer("scale", scale.to(torch.float64))
        self.features = len(location)
        self.inputs = 2 * self.features

    def network_inputs(
        self, f: Backend[Any], values: Array, observed: Array, state: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """Values (B, T, F) and where they are observed, 1 or 0, both float64 -> what the network reads, (B, T, I)
        float32, and the newest scaled value after each step, (B, T, F)."""
        location, scale = (f.constant(part.numpy(force=True), "float64") for part in (self.location, self.scale))
        x = f.where(observed > 0.0, (values - location) / scale, 0.0)
        filled, _, _ = fill_forward(f, x, observed, f.unsqueeze(state["last"], 1))
        return f.cast(f.concat([filled, observed], 2), "float32"), filled
