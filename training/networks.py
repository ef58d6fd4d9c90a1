"""The two kinds of network that are trained: a quantile forecaster and a character model, each around any cell."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training.cells import Cell, LockedDropout, Recurrent
from training.scaling import (
    CANDIDATES,
    FEATURES,
    LEAST_UNIT,
    CausalScaler,
    Covariates,
    Read,
    Scaled,
    StandardScaler,
)

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

    def raw(self, values: Tensor, mask: Tensor, state: State) -> tuple[Tensor, Scaled, dict[str, Tensor]]:
        """Values float64 (B, T, F), mask (B, T, F) -> raw quantiles (B, T, H, Q) in units of the scale, not sorted,
        with what the scaler said of each step, and the new state."""
        scaled, scaler_state = self.scaler(values, mask, state)
        hidden, recurrent_state = self.recurrent(scaled.inputs, state)
        raw = self.head(hidden).unflatten(2, (self.horizon, len(self.quantile_levels)))
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
        return (pinball * target_mask).sum() / target_mask.sum().clamp(min=1.0), after

    def predict(self, values: Tensor, mask: Tensor, state: State) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantiles (B, H, Q) after the last step, those of the value after each step (B, T, Q), and the new state.

        Both in the units of the values and ascending along Q: sorting crossed quantiles never makes the pinball loss
        worse (Chernozhukov, Fernandez-Val and Galichon 2010).
        """
        raw, scaled, after = self.raw(values, mask, state)
        ordered = raw.sort(dim=-1).values.double()
        quantiles = scaled.location[:, -1:] + scaled.scale[:, -1:] * ordered[:, -1]
        return quantiles, scaled.location + scaled.scale * ordered[:, :, 0], after


class GlobalForecaster(nn.Module):
    """Quantiles of any of the next steps, of any series: recurrent layers over a series in its own units
    (`CausalScaler`), and a head that is asked for each step ahead by itself.

    The head knows candidates for the value it is asked for: the newest, those at the same place in the seasons before,
    plain and grown, the level, the trend. It gives each a share of the median, a correction to it, and the distances
    between successive quantiles, which are positive, so that they never cross. So it repeats a season exactly, however
    large. `widening` is a factor on these distances, to be set after training: series of kinds that were not trained on
    go astray farther than those that were.
    """

    def __init__(
        self,
        covariates: Covariates,
        cell: Cell,
        hidden: int,
        layers: int,
        dropout: float,
        horizon: int,
        quantile_levels: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.scaler = CausalScaler()
        self.covariates = covariates
        inputs = CausalScaler.inputs + covariates.width + covariates.width_ahead
        self.recurrent = Recurrent(cell, inputs, hidden, layers, dropout, residual=True)
        self.horizon = horizon
        self.quantile_levels = quantile_levels
        self.widening = 1.0
        self.from_hidden = nn.Linear(hidden, WIDTH)
        self.from_features = nn.Linear(FEATURES + covariates.width_ahead, WIDTH, bias=False)
        self.from_ahead = nn.Parameter(torch.zeros(horizon, WIDTH))
        self.between = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CANDIDATES + len(quantile_levels) + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def fresh_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences of which nothing was seen yet, without a season."""
        scaler = {
            name: torch.full((batch, *shape), initial, dtype=dtype, device=device)
            for name, (shape, dtype, initial) in self.scaler.state_shapes.items()
        }
        return scaler | self.recurrent.fresh_state(batch, device)

    def read(
        self, values: Tensor, mask: Tensor, ahead: Tensor, ahead_mask: Tensor, state: State
    ) -> tuple[Tensor, Read, dict[str, Tensor]]:
        """Values float64 (B, T, F), mask (B, T, F), known-ahead features of the next step and their mask (B, T, K) ->
        hidden (B, T, hidden), what the scaler found, new state."""
        read, scaler_state = self.scaler(values[..., 0], mask[..., 0], state)
        more = self.covariates(values, mask, ahead, ahead_mask)
        hidden, recurrent_state = self.recurrent(torch.cat([read.inputs, more], dim=2), state)
        return hidden, read, {**scaler_state, **recurrent_state}

    def ask(
        self, hidden: Tensor, read: Read, steps: Tensor, ahead: Tensor, future: Tensor, future_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantiles of the values `ahead` (H,) steps after each of `steps` (B, P), given the features known of them
        (B, P, H, K): (B, P, H, Q), relative to the newest value (B, P), in units (B, P)."""
        candidates, features = self.scaler.candidates(read, steps, ahead)
        features = torch.cat([features, self.covariates.known(future, future_mask)], dim=3)
        at = hidden.gather(1, steps[..., None].expand(-1, -1, hidden.shape[2]))
        x = self.from_hidden(at)[:, :, None] + self.from_features(features) + self.from_ahead[ahead - 1]
        x = torch.relu(x)
        x = x + torch.relu(self.between(x))
        # Not in bfloat16: a season may be hundreds of units.
        with torch.autocast(x.device.type, enabled=False):
            found = self.head(x.float())
        weights, shifts = found.split([CANDIDATES, len(self.quantile_levels) + 1], dim=3)
        middle = self.quantile_levels.index(0.5)
        median = (torch.softmax(weights, dim=3) * candidates).sum(dim=3, keepdim=True) + shifts[..., :1]
        apart = self.widening * positive(shifts[..., 1:2]) * positive(shifts[..., 2:])
        below, above = apart[..., :middle].flip(3).cumsum(dim=3).flip(3), apart[..., middle:].cumsum(dim=3)
        quantiles = torch.cat([median - below, median, median + above], dim=3)
        # Zeros are followed by zeros.
        return quantiles, read.newest.gather(1, steps), read.unit.gather(1, steps) - LEAST_UNIT

    def forward(
        self,
        values: Tensor,
        mask: Tensor,
        ahead: Tensor,
        ahead_mask: Tensor,
        steps: Tensor,
        distances: Tensor,
        targets: Tensor,
        weight: Tensor,
        future: Tensor,
        future_mask: Tensor,
        scale: Tensor,
        season: Tensor,
        state: State,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: the mean pinball loss in units of `scale` (B,), a series' mean seasonal difference.

        targets, weight (B, P, H): the values at the `distances` (H,) after each of `steps` (B, P), and how much each
        counts; future (B, P, H, K): the features known of them.
        """
        hidden, read, after = self.read(values, mask, ahead, ahead_mask, {**state, "season": season})
        quantiles, newest, unit = self.ask(hidden, read, steps, distances, future, future_mask)
        units = (unit / scale[:, None]).float()[:, :, None, None]
        goal = ((targets - newest[:, :, None]) / scale[:, None, None]).clamp(-300.0, 300.0).float()[..., None]
        levels = torch.tensor(self.quantile_levels, device=goal.device)
        error = goal - quantiles.float() * units
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(dim=-1).clamp(max=LARGEST_LOSS)
        return (pinball * weight).sum() / weight.sum().clamp(min=1.0), after

    def predict(
        self, values: Tensor, mask: Tensor, state: State, known: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantiles (B, H, Q) after the last step, those of the value after each step (B, T, Q), in the units of the
        values, and the new state. `known`, with known-ahead features: what the exported graph takes as ahead,
        ahead_mask, future and future_mask."""
        batch, steps = values.shape[:2]
        sizes = (steps, steps, self.horizon, self.horizon)
        nothing = [part.new_zeros(batch, size, 0) for size, part in zip(sizes, (values, mask) * 2, strict=True)]
        ahead, ahead_mask, future, future_mask = known or nothing
        hidden, read, after = self.read(values, mask, ahead, ahead_mask, state)

        def ask(at: Tensor, horizon: int, future: Tensor, mask: Tensor) -> Tensor:
            distances = torch.arange(1, horizon + 1, device=values.device)
            quantiles, newest, unit = self.ask(hidden, read, at, distances, future, mask)
            return newest[..., None, None] + unit[..., None, None] * quantiles.double()

        every = torch.arange(steps, device=values.device).expand(batch, steps)
        last = ask(every[:, -1:], self.horizon, future[:, None], future_mask[:, None])[:, 0]
        return last, ask(every, 1, ahead[:, :, None], ahead_mask[:, :, None])[:, :, 0], after


WIDTH = 128
LARGEST_LOSS = 50.0


def positive(x: Tensor) -> Tensor:
    """A smooth map of the reals onto the positive ones, of exactly rounded operations only."""
    return torch.where(x > 0, 1.0 + x, 1.0 / (1.0 - x.clamp(max=0.0)))


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
