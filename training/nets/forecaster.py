"""The forecaster of one kind of series, whose unit and level training knows: recurrent layers and a linear head."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.nets.arithmetic import Array, Backend, TorchBackend
from training.nets.cells import Cell, Recurrent
from training.nets.scaling import StandardScaler

State = Mapping[str, Tensor]


def pinball_loss(goal: Tensor, quantiles: Tensor, levels: tuple[float, ...]) -> Tensor:
    """goal (..., 1), quantiles (..., Q) -> the mean pinball loss over the levels (...)."""
    level = torch.tensor(levels, device=goal.device)
    error = goal - quantiles
    return torch.maximum(level * error, (level - 1) * error).mean(dim=-1)


class Forecaster(nn.Module):
    """Multi-horizon quantiles of the first feature after every step, linear in the hidden state (Wen et al., "A
    multi-horizon quantile recurrent forecaster", 2017)."""

    def __init__(
        self,
        scaler: StandardScaler,
        cell: Cell,
        hidden: int,
        layers: int,
        dropout: float,
        horizon: int,
        quantile_levels: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.scaler = scaler
        self.recurrent = Recurrent(cell, scaler.inputs, hidden, layers, dropout)
        self.horizon = horizon
        self.quantile_levels = quantile_levels
        self.head = nn.Linear(hidden, horizon * len(quantile_levels))

    def initial_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences before their first value."""
        last = torch.zeros(batch, self.scaler.features, dtype=torch.float64, device=device)
        return {"last": last, **self.recurrent.initial_state(batch, device)}

    def raw(self, values: Tensor, mask: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """Values float64 (B, T, F), mask (B, T, F) -> scaled quantiles (B, T, H, Q), which may cross, and the new
        state."""
        f = TorchBackend(values.device)
        inputs, newest = self.scaler.network_inputs(f, values, mask.double(), state)
        hidden, recurrent_state = self.recurrent(inputs, state)
        raw = self.head(hidden).unflatten(2, (self.horizon, len(self.quantile_levels)))
        return raw, {"last": newest[:, -1], **recurrent_state}

    def in_values(self, f: Backend[Any], raw: Array) -> Array:
        """Scaled quantiles (..., Q) -> ascending quantiles in the units of the values, float64.

        Sorting crossed quantiles never makes the pinball loss worse (Chernozhukov, Fernandez-Val and Galichon 2010).
        """
        location, scale = (float(part[0]) for part in (self.scaler.location, self.scaler.scale))
        return f.cast(f.sort(raw, len(self.quantile_levels)), "float64") * scale + location

    def forward(
        self, values: Tensor, mask: Tensor, targets: Tensor, target_mask: Tensor, state: State
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: the mean pinball loss of the scaled values.

        targets (B, T, H): the H values after each step; target_mask (B, T, H), 0 where there is none.
        """
        raw, after = self.raw(values, mask, state)
        location, scale = self.scaler.location[0], self.scaler.scale[0] + 1e-30
        goal = ((targets - location) / scale).clamp(-100.0, 100.0).float()[..., None]
        loss = pinball_loss(goal, raw.float(), self.quantile_levels)
        return (loss * target_mask).sum() / target_mask.sum().clamp(min=1.0), after

    def predict(self, values: Tensor, mask: Tensor, state: State) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantiles (B, H, Q) after the last step, those of the value after each step (B, T, Q), both in the units of
        the values and ascending, and the new state."""
        raw, after = self.raw(values, mask, state)
        quantiles = self.in_values(TorchBackend(values.device), raw)
        return quantiles[:, -1], quantiles[:, :, 0], after
