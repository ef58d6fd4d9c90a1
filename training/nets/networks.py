"""Two kinds of network that are trained: a forecaster of one kind of series, and a character model, each around any
cell."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from training.nets.arithmetic import Torch
from training.nets.cells import Cell, LockedDropout, Recurrent
from training.nets.scaling import StandardScaler

State = Mapping[str, Tensor]


class Forecaster(nn.Module):
    """Multi-horizon quantiles of the first feature, after every step (Wen et al., "A multi-horizon quantile recurrent
    forecaster", 2017), linear in the hidden state: for one kind of series, whose unit and level training knew.
    """

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

    def fresh_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences of which nothing was seen yet."""
        last = torch.zeros(batch, self.scaler.features, dtype=torch.float64, device=device)
        return {"last": last, **self.recurrent.fresh_state(batch, device)}

    def raw(self, values: Tensor, mask: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """Values float64 (B, T, F), mask (B, T, F) -> raw quantiles (B, T, H, Q) in units of the scale, not sorted, and
        the new state."""
        inputs, newest = self.scaler.read(Torch(values.device), values, mask.double(), state)
        hidden, recurrent_state = self.recurrent(inputs, state)
        raw = self.head(hidden).unflatten(2, (self.horizon, len(self.quantile_levels)))
        return raw, {"last": newest[:, -1], **recurrent_state}

    def forward(
        self, values: Tensor, mask: Tensor, targets: Tensor, target_mask: Tensor, state: State
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: the mean pinball loss in units of the scale.

        targets (B, T, H): the H values after each step; target_mask (B, T, H), 0 where there is none.
        """
        raw, after = self.raw(values, mask, state)
        location, scale = self.scaler.location[0], self.scaler.scale[0] + 1e-30
        goal = ((targets - location) / scale).clamp(-100.0, 100.0).float()[..., None]
        levels = torch.tensor(self.quantile_levels, device=raw.device)
        error = goal - raw.float()
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(dim=-1)
        return (pinball * target_mask).sum() / target_mask.sum().clamp(min=1.0), after

    def predict(self, values: Tensor, mask: Tensor, state: State) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantiles (B, H, Q) after the last step, those of the value after each step (B, T, Q), and the new state.

        Both in the units of the values and ascending along Q: sorting crossed quantiles never makes the pinball loss
        worse (Chernozhukov, Fernandez-Val and Galichon 2010).
        """
        raw, after = self.raw(values, mask, state)
        ordered = self.scaler.location[0] + self.scaler.scale[0] * raw.sort(dim=-1).values.double()
        return ordered[:, -1], ordered[:, :, 0], after


NGRAM_FEATURES = 16
"""Features of an n-gram of each length."""
FEATURE_STEPS = 32
"""Of a trained network, such a feature is a whole number of this part of 1: so coarse, a table of them packs well."""
BUCKETS = 65_521
"""Rows of the table for the n-grams of each length: a prime, so that any two share a row by chance only."""


class NgramFeatures(nn.Module):
    """Learnt features of the last 2, 3, ... `longest` tokens, each n-gram looked up in a table by its hash.

    They tell the recurrent layers how words are spelt, which these would otherwise spend their units on, and cost a
    look-up, not a product (hash embeddings: Svenstrup et al. 2017; of n-grams: Bojanowski et al. 2017).
    """

    def __init__(self, longest: int, features: int) -> None:
        super().__init__()
        self.longest = longest
        # Sums of random multiples of the tokens, modulo a prime: universal hashing (Carter and Wegman 1979).
        multiples = np.random.default_rng(0).integers(1, BUCKETS, (longest, longest - 1))
        older = np.arange(longest)[:, None] < longest - np.arange(2, longest + 1)
        multiples[older] = 0
        self.multiples: Tensor
        self.register_buffer("multiples", torch.from_numpy(multiples))
        self.table = nn.Embedding((longest - 1) * BUCKETS, features)
        nn.init.normal_(self.table.weight, std=0.1)

    @property
    def width(self) -> int:
        """Features of a step, over all lengths."""
        return (self.longest - 1) * self.table.embedding_dim

    def forward(self, tokens: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T), those before them (B, longest - 1) -> features (B, T, width) in [-1, 1], and the last tokens.

        Once trained they are rounded to whole numbers of 1 / FEATURE_STEPS, as which they are exported.
        """
        every = torch.cat([recent, tokens], dim=1)
        window = every.unfold(1, self.longest, 1)
        rows = (window[..., None] * self.multiples).sum(dim=2) % BUCKETS
        rows = rows + BUCKETS * torch.arange(self.longest - 1, device=rows.device)
        features = torch.tanh(self.table(rows)).flatten(2)
        rounded = features if self.training else torch.round(FEATURE_STEPS * features) / FEATURE_STEPS
        return rounded, every[:, tokens.shape[1] :]


class TextModel(nn.Module):
    """A character model: embedding, recurrent layers, scores of the next token. Token 0 is the unknown character.

    With `ngrams`, the first layer and the scores are also given features of the last 2 to `ngrams` tokens.
    """

    def __init__(
        self,
        cell: Cell,
        vocabulary: int,
        embedding: int,
        hidden: int,
        layers: int,
        dropout: float,
        weight_dropout: float = 0.0,
        residual: bool = False,
        ngrams: int = 0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.ngrams = NgramFeatures(ngrams, NGRAM_FEATURES) if ngrams else None
        width = self.ngrams.width if self.ngrams else 0
        self.recurrent = Recurrent(
            cell, embedding + width, hidden, layers, dropout, weight_dropout, residual, locked=True
        )
        self.dropout = LockedDropout(dropout)
        self.head = nn.Linear(hidden + width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.3)

    @property
    def input_widths(self) -> tuple[int, ...]:
        """What the first layer reads: the features of the embedding, and those of the n-grams."""
        return self.embedding.embedding_dim, *([self.ngrams.width] if self.ngrams else [])

    @property
    def head_widths(self) -> tuple[int, ...]:
        """What the head reads: the last layer's outputs, and the features of the n-grams."""
        return self.recurrent.hidden, *([self.ngrams.width] if self.ngrams else [])

    def fresh_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences of which nothing was seen yet."""
        state = self.recurrent.fresh_state(batch, device)
        if self.ngrams is not None:
            state["recent"] = torch.zeros(batch, self.ngrams.longest - 1, dtype=torch.int64, device=device)
        return state

    def predict(self, tokens: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens (B, T) -> scores of the next token after each (B, T, V), and the new state."""
        x = self.embedding(tokens)
        if self.ngrams is None:
            hidden, after = self.recurrent(x, state)
            return self.head(self.dropout(hidden)), after
        features, recent = self.ngrams(tokens, state["recent"])
        hidden, after = self.recurrent(torch.cat([x, features], dim=2), state)
        return self.head(torch.cat([self.dropout(hidden), features], dim=2)), {**after, "recent": recent}

    def forward(self, tokens: Tensor, targets: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: mean cross-entropy in nats per token. Targets of -1 do not count."""
        logits, after = self.predict(tokens, state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)
        return loss, after
