"""The classifier: recurrent layers over a series or a text, pooled over time, and the scores of the classes.

Pooling is by running figures, so that the classes are known after every step, at constant cost: the last output, the
mean of all outputs and their maximum. With two directions, layers also read the sequence from its end: then it has to
be whole, and no state goes on.
"""

import torch
from torch import Tensor, nn

from training.nets.arithmetic import TorchBackend
from training.nets.cells import Cell, LockedDropout, Recurrent
from training.nets.scaling import StandardScaler

LOWEST = -1.0
"""No output of a cell is lower: the maximum of no outputs."""
EARLY = 0.25
"""Weight of the loss after a random earlier step, so that the classes are known before the end, too."""


class SeriesInput(nn.Module):
    """Series (B, T, F) and where they are observed, (B, T, F) -> scaled, with gaps filled forward, and whether each was
    observed."""

    def __init__(self, scaler: StandardScaler) -> None:
        super().__init__()
        self.scaler = scaler

    @property
    def width(self) -> int:
        """Numbers of a step."""
        return int(self.scaler.inputs)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """What the layers read, (B, T, width)."""
        nothing = torch.zeros(len(values), self.scaler.features, dtype=torch.float64, device=values.device)
        f = TorchBackend(values.device)
        inputs: Tensor = self.scaler.network_inputs(f, values, mask.double(), {"last": nothing})[0]
        return inputs


class TextInput(nn.Module):
    """Tokens (B, T) -> their embeddings. Token 0 is the unknown one."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.3)

    @property
    def width(self) -> int:
        """Numbers of a step."""
        return self.embedding.embedding_dim

    def forward(self, tokens: Tensor) -> Tensor:
        """What the layers read, (B, T, width)."""
        embedded: Tensor = self.embedding(tokens)
        return embedded


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """x (B, T, ...) with the first lengths[b] steps of each row in reverse."""
    steps = torch.arange(x.shape[1], device=x.device)[None]
    index = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return x.gather(1, index[:, :, None].expand_as(x))


class Classifier(nn.Module):
    """Scores (B, C) of the classes of a sequence. `temperature` divides them; calibration sets it after training (Guo
    et al., "On calibration of modern neural networks", 2017)."""

    temperature: Tensor

    def __init__(
        self,
        reader: SeriesInput | TextInput,
        cell: Cell,
        hidden: int,
        layers: int,
        dropout: float,
        classes: int,
        directions: int = 1,
    ) -> None:
        super().__init__()
        self.reader = reader
        self.recurrent = Recurrent(cell, reader.width, hidden, layers, dropout, locked=True)
        self.backward_layers = (
            Recurrent(cell, reader.width, hidden, layers, dropout, locked=True, prefix="backward")
            if directions == 2
            else None
        )
        self.dropout = LockedDropout(dropout)
        self.head = nn.Linear(3 * hidden * directions, classes)
        self.register_buffer("temperature", torch.ones(()))

    @property
    def stacks(self) -> list[Recurrent]:
        """The layers of each direction, in the order of the head's inputs."""
        return [self.recurrent] if self.backward_layers is None else [self.recurrent, self.backward_layers]

    def initial_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """Nothing: training reads whole sequences. The exported graph has a state."""
        return {}

    def pooled(self, inputs: tuple[Tensor, ...], lengths: Tensor) -> Tensor:
        """What the head reads after every step, (B, T, inputs). Of a row, the first lengths[b] steps count; with two
        directions, only the last of them, since layers read backwards from it."""
        x = self.reader(*inputs)
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        parts = []
        for stack in self.stacks:
            read = reverse(x, lengths) if stack is self.backward_layers else x
            hidden, _ = stack(read, stack.initial_state(len(x), x.device))
            parts += [hidden, hidden.cumsum(1) / count, hidden.cummax(1).values]
        return torch.cat(parts, 2)

    def scores(self, pooled: Tensor) -> Tensor:
        """pooled (..., inputs) -> the scores of the classes, (..., C)."""
        scores: Tensor = self.head(pooled) / self.temperature
        return scores

    def forward(
        self, labels: Tensor, weights: Tensor, smoothing: Tensor, lengths: Tensor, *arguments: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: the mean cross-entropy in nats, each sequence by its class's weight.

        labels (B,), weights (C,), smoothing () (Szegedy et al. 2016), lengths (B,); then the inputs, and the state,
        which is empty.
        """
        *inputs, _ = arguments
        pooled = self.dropout(self.pooled(tuple(inputs), lengths))
        loss = self._loss(pooled, lengths - 1, labels, weights, smoothing)
        if self.training and self.backward_layers is None:
            earlier = (torch.rand(len(lengths), device=lengths.device) * lengths).long()
            loss = loss + EARLY * self._loss(pooled, earlier, labels, weights, smoothing)
        return loss, {}

    def _loss(self, pooled: Tensor, at: Tensor, labels: Tensor, weights: Tensor, smoothing: Tensor) -> Tensor:
        """The loss after step at[b] of each row."""
        rows = pooled[torch.arange(len(at), device=at.device), at]
        rate = float(smoothing) if self.training else 0.0
        return nn.functional.cross_entropy(self.scores(rows).float(), labels, weights, label_smoothing=rate)
