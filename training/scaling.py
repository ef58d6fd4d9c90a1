"""How raw values become a network's inputs, and its outputs raw values: causally, so that a series may come in pieces.

All of it is double precision, so that neither a large offset nor a long life of a session costs digits. `export.py`
writes the same arithmetic as ONNX operators.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MAX_STEPS = 4096
"""Most time steps in one call. The weights DECAY**-MAX_STEPS must stay far inside the range of a double."""
DECAY = 0.99
"""Per observed value: the running mean and scale look back over about 1 / (1 - DECAY) = 100 values."""
LAG_LIMIT = 100.0
SQUASH = 8.0

ScalerState = Mapping[str, Tensor]


@dataclass(frozen=True)
class Scaled:
    """What a scaler says of each step.

    inputs: (B, T, I) float32, the network's inputs. lags: (B, T, K) float32, the target's last K values relative to
    its newest, in units of the scale. location, scale: (B, T, 1) float64: a raw output r means location + scale * r.
    ready: (B, T), False while too little was seen for the scale to mean anything.
    """

    inputs: Tensor
    lags: Tensor
    location: Tensor
    scale: Tensor
    ready: Tensor


def squash(x: Tensor) -> Tensor:
    """Map the reals into (-SQUASH, SQUASH). Only exactly rounded operations: no answer depends on a row's place."""
    return x / (1.0 + x.abs() / SQUASH)


def _last_observed(x: Tensor, observed: Tensor, carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fill gaps forward: the newest observed value at each step, the one before it, and how many there were.

    x, observed (B, T, F), carried (B, F): the newest value before the first step. Observed values are written to slots
    by their rank, slot 0 holding the carried one, and read back by the count so far; gaps write to a slot nobody reads.
    """
    steps = x.shape[1]
    count = observed.cumsum(dim=1)
    rank = count.to(torch.int64)
    slots = torch.cat([carried[:, None], x.new_zeros(x.shape[0], steps + 1, x.shape[2])], dim=1)
    slots = slots.scatter(1, torch.where(observed > 0, rank, steps + 1), x)
    return slots.gather(1, rank), slots.gather(1, (rank - 1).clamp(min=0)), count


class StandardScaler(nn.Module):
    """Location and scale of each feature over the training part, as constants: for one kind of series.

    A gap is filled with the newest value, and an input says that it was one.
    """

    lags = 0
    location: Tensor
    scale: Tensor

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("location", location.to(torch.float64))
        self.register_buffer("scale", scale.to(torch.float64))
        self.features = len(location)
        self.inputs = 2 * self.features

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape per sequence of the state tensors, float64, starting at zero."""
        return {"last": (self.features,)}

    def forward(self, values: Tensor, mask: Tensor, state: ScalerState) -> tuple[Scaled, dict[str, Tensor]]:
        """values float64 (B, T, F), mask (B, T, F) with 1 = observed -> what the network reads, and the new state."""
        observed = mask.to(torch.float64)
        x = torch.where(observed > 0, (values - self.location) / self.scale, 0.0)
        filled, _, _ = _last_observed(x, observed, state["last"])
        batch, steps, _ = values.shape
        scaled = Scaled(
            inputs=torch.cat([filled, observed], dim=2).float(),
            lags=values.new_zeros(batch, steps, 0).float(),
            location=self.location[:1].expand(batch, steps, 1),
            scale=self.scale[:1].expand(batch, steps, 1),
            ready=torch.ones(batch, steps, dtype=torch.bool, device=values.device),
        )
        return scaled, {"last": filled[:, -1]}


class CausalScaler(nn.Module):
    """Running location and scale of each series by itself: for a global model of series of any unit and level.

    The location is the newest value; the scale is the mean absolute difference of successive observed values, the
    denominator of MASE (Hyndman and Koehler 2006), here exponentially weighted so that it follows a series which
    changes. Both sums are cumulative sums of values weighted by DECAY**-rank: exact, and without a loop.
    """

    powers: Tensor

    def __init__(self, features: int, lags: int) -> None:
        super().__init__()
        self.features = features
        self.lags = lags
        self.inputs = features * (5 + lags)
        self.register_buffer("powers", DECAY ** torch.arange(MAX_STEPS + 1, dtype=torch.float64), persistent=False)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape per sequence of the state tensors, float64, starting at zero."""
        per_feature = dict.fromkeys(("last", "observed", "steps", "mean_sum", "change_sum"), (self.features,))
        return {**per_feature, "recent": (self.lags + 1, self.features)}

    def _weight(self, count: Tensor) -> Tensor:
        """Sum of DECAY**i for i in [0, count): what an exponentially weighted sum of `count` values is divided by."""
        return (1 - self.powers[count.clamp(0, MAX_STEPS).to(torch.int64)]) / (1 - DECAY)

    def forward(self, values: Tensor, mask: Tensor, state: ScalerState) -> tuple[Scaled, dict[str, Tensor]]:
        """values float64 (B, T, F), mask (B, T, F) with 1 = observed -> what the network reads, and the new state."""
        steps = values.shape[1]
        observed = mask.to(torch.float64)
        x = torch.where(observed > 0, values, 0.0)
        newest, previous, count = _last_observed(x, observed, state["last"])
        total = state["observed"][:, None] + count
        change = torch.where((observed > 0) & (total >= 2), x - previous, 0.0)

        decay = self.powers[count.to(torch.int64)]
        change_sum = decay * (state["change_sum"][:, None] + (change.abs() / decay).cumsum(dim=1))
        mean_sum = decay * (state["mean_sum"][:, None] + (x / decay).cumsum(dim=1))
        mean = mean_sum / self._weight(total).clamp(min=1.0)
        # After one value nothing is known of the scale: the size of the value itself stands in.
        scale = torch.where(total >= 2, change_sum / self._weight(total - 1).clamp(min=1.0), newest.abs())
        # What is divided by: never zero, and above the rounding error of a constant series.
        unit = scale + 1e-12 * newest.abs() + 1e-30

        age = state["steps"][:, None] + (total > 0).to(torch.float64).cumsum(dim=1)
        # A window of the last lags + 1 filled values before, and then these: lag k of step t is at lags + 1 + t - k.
        recent = torch.cat([state["recent"], newest], dim=1)
        ago = torch.arange(1, self.lags + 1, device=values.device)
        at = self.lags + 1 + torch.arange(steps, device=values.device)[:, None] - ago
        known = age[:, :, None] > ago[:, None]
        lagged = torch.where(known, (recent[:, at] - newest[:, :, None]) / unit[:, :, None], 0.0)

        scaled = Scaled(
            inputs=torch.cat(
                [
                    squash((newest - mean) / unit),
                    squash(change / unit),
                    observed,
                    mean / (mean.abs() + unit),
                    total / (total + 20.0),
                    squash(lagged).flatten(2),
                ],
                dim=2,
            ).float(),
            lags=lagged[..., 0].clamp(-LAG_LIMIT, LAG_LIMIT).float(),
            location=newest[..., :1],
            scale=scale[..., :1],
            ready=(total[..., 0] >= 3) & (scale[..., 0] > 0),
        )
        after = {
            "last": newest[:, -1],
            "observed": total[:, -1],
            "steps": age[:, -1],
            "mean_sum": mean_sum[:, -1],
            "change_sum": change_sum[:, -1],
            "recent": recent[:, -(self.lags + 1) :],
        }
        return scaled, after
