"""The two kinds of network that are trained: a quantile forecaster and a character model, each around any cell."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.cells import Cell, Recurrent
from training.scaling import CausalScaler, Scaled, StandardScaler

State = Mapping[str, Tensor]


class Forecaster(nn.Module):
    """Multi-horizon quantiles of the first feature, after every step (Wen et al., "A multi-horizon quantile recurrent
    forecaster", 2017).

    The head is linear in the hidden state, plus for each horizon a mixture of the last K values with weights that are
    themselves linear in the hidden state: an autoregression whose coefficients the network chooses at every step, so
    that a season need not pass through the hidden state. Without lags the second part is absent.
    """

    def __init__(
        self,
        scaler: StandardScaler | CausalScaler,
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
        self.mixing = nn.Linear(hidden, horizon * scaler.lags) if scaler.lags else None
        if self.mixing is not None:
            nn.init.zeros_(self.mixing.weight)
            nn.init.zeros_(self.mixing.bias)

    def fresh_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences of which nothing was seen yet."""
        scaler = {
            name: torch.zeros(batch, *shape, dtype=torch.float64, device=device)
            for name, shape in self.scaler.state_shapes.items()
        }
        return scaler | {
            name: torch.zeros(batch, self.recurrent.hidden, device=device) for name in self.recurrent.state_names
        }

    def raw(self, values: Tensor, mask: Tensor, state: State) -> tuple[Tensor, Scaled, dict[str, Tensor]]:
        """Values float64 (B, T, F), mask (B, T, F) -> raw quantiles (B, T, H, Q) in units of the scale, not sorted,
        with what the scaler said of each step, and the new state."""
        scaled, scaler_state = self.scaler(values, mask, state)
        hidden, recurrent_state = self.recurrent(scaled.inputs, state)
        raw = self.head(hidden).unflatten(2, (self.horizon, len(self.quantile_levels)))
        if self.mixing is not None:
            weights = self.mixing(hidden).unflatten(2, (self.horizon, self.scaler.lags))
            raw = raw + (weights @ scaled.lags[..., None])
        return raw, scaled, {**scaler_state, **recurrent_state}

    def forward(
        self, values: Tensor, mask: Tensor, targets: Tensor, target_mask: Tensor, state: State
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: the mean pinball loss in units of the scale.

        targets (B, T, H): the H values after each step; target_mask (B, T, H), 0 where there is none.
        """
        raw, scaled, after = self.raw(values, mask, state)
        unit = scaled.scale + 1e-30
        goal = ((targets - scaled.location) / unit).clamp(-100.0, 100.0).float()[..., None]
        levels = torch.tensor(self.quantile_levels, device=raw.device)
        error = goal - raw.float()
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(dim=-1)
        weight = target_mask * scaled.ready[..., None]
        return (pinball * weight).sum() / weight.sum().clamp(min=1.0), after

    def predict(self, values: Tensor, mask: Tensor, state: State) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantiles (B, H, Q) after the last step, those of the value after each step (B, T, Q), and the new state.

        Both in the units of the values and ascending along Q: sorting crossed quantiles never makes the pinball loss
        worse (Chernozhukov, Fernandez-Val and Galichon 2010).
        """
        raw, scaled, after = self.raw(values, mask, state)
        ordered = raw.sort(dim=-1).values.double()
        quantiles = scaled.location[:, -1:] + scaled.scale[:, -1:] * ordered[:, -1]
        return quantiles, scaled.location + scaled.scale * ordered[:, :, 0], after


class TextModel(nn.Module):
    """A character model: embedding, recurrent layers, scores of the next token. Token 0 is the unknown character."""

    def __init__(
        self,
        cell: Cell,
        vocabulary: int,
        embedding: int,
        hidden: int,
        layers: int,
        dropout: float,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.recurrent = Recurrent(cell, embedding, hidden, layers, dropout, weight_dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.3)

    def fresh_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences of which nothing was seen yet."""
        return {name: torch.zeros(batch, self.recurrent.hidden, device=device) for name in self.recurrent.state_names}

    def predict(self, tokens: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens (B, T) -> scores of the next token after each (B, T, V), and the new state."""
        hidden, after = self.recurrent(self.embedding(tokens), state)
        return self.head(self.dropout(hidden)), after

    def forward(self, tokens: Tensor, targets: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: mean cross-entropy in nats per character. Targets of -1 do not count."""
        logits, after = self.predict(tokens, state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)
        return loss, after
