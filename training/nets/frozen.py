"""A classifier over the states of a model that is trained already, a forecaster of any series or a text model: its
recurrent layers stay as they are, and only a linear head learns (of forecasters: Auer et al., "Pre-trained forecasting
models: strong zero-shot feature extractors for time series classification", 2025, arXiv:2510.26777).

The head reads, of every layer, the last output, and the mean, the maximum and the minimum of all outputs so far. They
are known after every step, at constant cost.
"""

import torch
from torch import Tensor, nn

from training.nets.arithmetic import TorchBackend
from training.nets.cells import Recurrent
from training.nets.global_forecaster import GlobalForecaster
from training.nets.series_scan import PATCH, STEP_INPUTS, level_shapes, patches, read_so_far, scan_level
from training.nets.text import TextModel

POOLS = 4
"""Numbers that the head reads of each unit: the last output, the mean, the maximum, and that of the negated outputs."""


class FrozenSeries(nn.Module):
    """The layers of a forecaster of any series. Each of `features` is read as a series of its own, in its own units.

    They read PATCH values at a time: what came since the last whole patch does not count yet.
    """

    def __init__(self, forecaster: GlobalForecaster, features: int) -> None:
        super().__init__()
        self.recurrent: Recurrent = forecaster.recurrent
        self.features = features
        self.requires_grad_(False)

    @property
    def width(self) -> int:
        """Numbers that the head reads."""
        return self.features * POOLS * len(self.recurrent.layers) * self.recurrent.hidden

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Series (B, T, F) and where they are observed, (B, T, F) -> what the head reads after every step, (B, T,
        width), and where the layers had read anything by then, (B, T, width)."""
        batch, steps, features = values.shape
        x, observed = (part.double().transpose(1, 2).reshape(-1, steps) for part in (values, mask))
        f = TorchBackend(values.device)
        state = {
            name: torch.full((len(x), *shape), initial, dtype=getattr(torch, dtype), device=x.device)
            for name, (shape, dtype, initial) in level_shapes(STEP_INPUTS).items()
        }
        level, _ = scan_level(f, x, observed, state)
        pooled = pool(self.recurrent, patches(f, level, state["open"], STEP_INPUTS))
        at = torch.arange(steps, device=x.device)[None]
        count = read_so_far(level, at, f) // PATCH
        index = (count - 1).clamp(min=0)[:, :, None].expand(-1, -1, pooled.shape[2])
        known = (count > 0)[:, :, None].expand(index.shape)

        def by_row(part: Tensor) -> Tensor:
            return part.view(batch, features, steps, -1).transpose(1, 2).flatten(2)

        return by_row(pooled.gather(1, index)), by_row(known)


class FrozenText(nn.Module):
    """The layers of a text model, as it is read from its folder."""

    def __init__(self, model: TextModel) -> None:
        super().__init__()
        self.model = model
        del model.head  # of the next token
        self.requires_grad_(False)

    @property
    def recurrent(self) -> Recurrent:
        """The recurrent layers."""
        return self.model.recurrent

    @property
    def width(self) -> int:
        """Numbers that the head reads."""
        return POOLS * len(self.recurrent.layers) * self.recurrent.hidden

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) -> as `FrozenSeries.forward`."""
        pooled = pool(self.recurrent, self.model.layer_inputs(tokens, self.model.initial_state(len(tokens)))[0])
        return pooled, torch.ones_like(pooled, dtype=torch.bool)


def pool(recurrent: Recurrent, x: Tensor) -> Tensor:
    """What the layers read, (B, N, inputs) -> the pooled outputs of all layers after each of it, (B, N, width)."""
    outputs = torch.cat(recurrent.run(x, recurrent.initial_state(len(x), x.device))[2], 2)
    count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
    largest = torch.cat([outputs, -outputs], 2).cummax(1).values
    return torch.cat([outputs, outputs.cumsum(1) / count, largest], 2)


class FrozenClassifier(nn.Module):
    """Scores (B, C) of the classes of a sequence, from the states of layers that do not learn.

    The head reads them less `center`, their mean over the training part: before the layers have read anything, the
    scores are the head's biases. `temperature` divides the scores; calibration sets it.
    """

    center: Tensor
    temperature: Tensor

    def __init__(self, trunk: FrozenSeries | FrozenText, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.width, classes)
        self.register_buffer("center", torch.zeros(trunk.width))
        self.register_buffer("temperature", torch.ones(()))

    @property
    def recurrent(self) -> Recurrent:
        """The recurrent layers."""
        return self.trunk.recurrent

    def scores(self, *inputs: Tensor) -> Tensor:
        """The inputs of the trunk -> the scores of the classes after every step, (B, T, C)."""
        pooled, known = self.trunk(*inputs)
        scores: Tensor = self.head(torch.where(known, pooled - self.center, 0.0)) / self.temperature
        return scores
