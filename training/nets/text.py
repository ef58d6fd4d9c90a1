"""The character or word model: embedding, features of n-grams, recurrent layers, scores of the next token."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.nets.arithmetic import Array, Backend, TorchBackend
from training.nets.cells import Cell, LockedDropout, Recurrent

State = Mapping[str, Tensor]

NGRAM_FEATURES = 16
"""Features of an n-gram of each length."""
FEATURE_STEPS = 32
"""A trained network's feature is a whole number of 1 / FEATURE_STEPS: so coarse, a table of features packs well."""
BUCKETS = 65_521
"""Rows of the table for the n-grams of each length: a prime, so that two n-grams share a row by chance only."""


class NgramFeatures(nn.Module):
    """Learnt features of the last 2, 3, ... `longest` tokens; the hash of each n-gram is a row of a table.

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

    def windows(self, f: Backend[Any], tokens: Array, history: Array) -> Array:
        """The last tokens at each step, (B, T, longest).

        tokens (B, T); history (B, longest - 1 + T): the same tokens after longest - 1 older ones.
        """
        index = f.unsqueeze(f.positions(tokens, 1), 1) + f.constant(np.arange(self.longest)[None], "int64")
        return f.take(history, index, 1)

    def rows(self, f: Backend[Any], windows: Array) -> Array:
        """Windows (..., longest) -> the row of each n-gram in the table, (..., longest - 1)."""
        rows = f.matmul(windows, f.parameter(self.multiples)) % BUCKETS
        return rows + f.constant(BUCKETS * np.arange(self.longest - 1), "int64")

    def forward(self, tokens: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T), those before them (B, longest - 1) -> features (B, T, width) in [-1, 1], and the last tokens.

        Outside of training they are rounded to whole numbers of 1 / FEATURE_STEPS, as which they are exported.
        """
        f = TorchBackend(tokens.device)
        history = torch.cat([recent, tokens], dim=1)
        rows = self.rows(f, self.windows(f, tokens, history))
        features = torch.tanh(self.table(rows)).flatten(2)
        rounded = features if self.training else torch.round(FEATURE_STEPS * features) / FEATURE_STEPS
        return rounded, history[:, tokens.shape[1] :]


class TextModel(nn.Module):
    """Scores of the next token after every token. Token 0 is the unknown character or word.

    With `ngrams`, the first layer and the head also read features of the last 2 to `ngrams` tokens.
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
        """Widths of what the first layer reads: the embedding, and the features of the n-grams."""
        return self.embedding.embedding_dim, *([self.ngrams.width] if self.ngrams else [])

    @property
    def head_widths(self) -> tuple[int, ...]:
        """Widths of what the head reads: the last layer's outputs, and the features of the n-grams."""
        return self.recurrent.hidden, *([self.ngrams.width] if self.ngrams else [])

    def initial_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences before their first token."""
        state = self.recurrent.initial_state(batch, device)
        if self.ngrams is not None:
            state["recent"] = torch.zeros(batch, self.ngrams.longest - 1, dtype=torch.int64, device=device)
        return state

    def predict(self, tokens: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens (B, T) -> scores of the next token after each (B, T, V), and the new state."""
        x, features, recent = self.layer_inputs(tokens, state)
        hidden, after = self.recurrent(x, state)
        return self.head(torch.cat([self.dropout(hidden), *features], dim=2)), {**after, **recent}

    def layer_inputs(self, tokens: Tensor, state: State) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """Tokens (B, T) -> what the first layer reads (B, T, inputs); with n-grams also their features, which the head
        reads too, and the new state of the last tokens."""
        x = self.embedding(tokens)
        if self.ngrams is None:
            return x, [], {}
        features, recent = self.ngrams(tokens, state["recent"])
        return torch.cat([x, features], dim=2), [features], {"recent": recent}

    def add_tokens(self, count: int) -> None:
        """Add tokens at the end of the vocabulary. The network reads each like the unknown token and expects it like
        the mean of the known ones, until training says more."""
        with torch.no_grad():
            read, weight, bias = self.embedding.weight, self.head.weight, self.head.bias
            self.embedding = nn.Embedding(read.shape[0] + count, read.shape[1])
            self.embedding.weight.copy_(torch.cat([read, read[:1].expand(count, -1)]))
            self.head = nn.Linear(weight.shape[1], weight.shape[0] + count)
            self.head.weight.copy_(torch.cat([weight, weight[1:].mean(dim=0, keepdim=True).expand(count, -1)]))
            self.head.bias.copy_(torch.cat([bias, bias[1:].mean().expand(count)]))

    def forward(self, tokens: Tensor, targets: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: mean cross-entropy in nats per token. Targets of -1 do not count."""
        logits, after = self.predict(tokens, state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)
        return loss, after
