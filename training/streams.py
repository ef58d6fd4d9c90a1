"""Turns series and texts into rows of consecutive windows, for truncated backpropagation with the state carried over.

Row b of one batch goes on where row b of the batch before stopped, unless `fresh` says that it starts anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One window of every row: what the network's `forward` takes, and which rows (B,) start from a fresh state."""

    arguments: tuple[Tensor, ...]
    fresh: Tensor
    weight: int
    """Predictions that count in this batch, for averaging the loss."""


@dataclass(frozen=True)
class Stretch:
    """A series (T, F), NaN = missing, and the first step after which predictions count (earlier ones warm up)."""

    values: NDArray[np.float64]
    count_from: int = 0


class SeriesStream:
    """Windows of `context` steps over many series, `rows` at a time; whoever ends makes room for the next series.

    An epoch takes each series once, in random order, and of a longer one a random stretch of `longest` steps, so that
    a few long series do not drown the many short ones. The targets of a step are the `horizon` values that follow it.
    In training, a share `mask_rate` of the values is hidden, so that the network learns to live with gaps.
    """

    def __init__(
        self,
        series: Sequence[Stretch],
        horizon: int,
        context: int,
        rows: int,
        longest: int,
        mask_rate: float = 0.0,
    ) -> None:
        self.series = series
        self.horizon = horizon
        self.context = context
        self.rows = min(rows, len(series))
        self.longest = longest
        self.mask_rate = mask_rate
        self.features = series[0].values.shape[1]

    @property
    def steps(self) -> int:
        """About how many batches an epoch has."""
        windows = sum(-(-min(len(series.values), self.longest) // self.context) for series in self.series)
        return -(-windows // self.rows)

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]:
        """One pass; without `rng` in the given order, each series from its start and whole, nothing hidden."""
        order = rng.permutation(len(self.series)) if rng is not None else np.arange(len(self.series))
        queue = iter(order)
        reading: list[Stretch | None] = [None] * self.rows
        at = [0] * self.rows
        while True:
            fresh = np.zeros(self.rows, dtype=bool)
            for b in range(self.rows):
                row = reading[b]
                if row is None or at[b] >= len(row.values) - 1:
                    index = next(queue, None)
                    reading[b] = None if index is None else self._stretch(self.series[index], rng)
                    at[b], fresh[b] = 0, True
            if all(row is None for row in reading):
                return
            yield self._window(reading, at, fresh, rng)
            at = [start + self.context for start in at]

    def _stretch(self, series: Stretch, rng: np.random.Generator | None) -> Stretch:
        spare = len(series.values) - self.longest
        if rng is None or spare <= 0:
            return series
        start = int(rng.integers(0, spare + 1))
        return Stretch(series.values[start : start + self.longest])

    def _window(
        self,
        reading: Sequence[Stretch | None],
        at: Sequence[int],
        fresh: NDArray[np.bool_],
        rng: np.random.Generator | None,
    ) -> Batch:
        wide = np.full((self.rows, self.context + self.horizon, self.features), np.nan)
        counted = np.zeros((self.rows, self.context, self.horizon), dtype=bool)
        for b, row in enumerate(reading):
            if row is not None:
                piece = row.values[at[b] : at[b] + self.context + self.horizon]
                wide[b, : len(piece)] = piece
                counted[b, max(0, row.count_from - at[b]) :] = True
        values = wide[:, : self.context]
        shown = np.isfinite(values)
        if rng is not None and self.mask_rate > 0:
            shown &= rng.random(values.shape) >= self.mask_rate
        ahead = np.lib.stride_tricks.sliding_window_view(wide[:, 1:, 0], self.horizon, axis=1)[:, : self.context]
        counted &= np.isfinite(ahead)
        return Batch(
            arguments=(
                torch.from_numpy(np.where(shown, values, 0.0)),
                torch.from_numpy(shown.astype(np.float32)),
                torch.from_numpy(np.where(counted, ahead, 0.0)),
                torch.from_numpy(counted.astype(np.float32)),
            ),
            fresh=torch.from_numpy(fresh),
            weight=int(counted.sum()),
        )


EPOCH = 2_000_000
"""Tokens of a text that are trained on between two looks at the validation part, about."""


class TextStream:
    """Windows of `context` tokens over `rows` equal parts of a text, each part read from its start to its end.

    A long text takes several epochs to be read once. In training the cut between parts moves from one reading to the
    next, and a few tokens are read as unknown (the targets stay), so that the network learns to go on after one it does
    not know.
    """

    def __init__(self, tokens: NDArray[np.int64], context: int, rows: int, unknown_rate: float = 0.0) -> None:
        self.rows = min(rows, max(1, (len(tokens) - 1) // context))
        self.tokens = tokens
        self.context = context
        self.unknown_rate = unknown_rate
        self.epochs = max(1, round(len(tokens) / EPOCH))
        """Epochs in which the text is read once."""

    @property
    def steps(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.tokens) // (self.rows * self.context * self.epochs))

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]:
        """The part of the text that an epoch reads; without `rng` all of it, with fixed cuts and nothing hidden."""
        reading, part = divmod(epoch, self.epochs)
        shift = int(np.random.default_rng([len(self.tokens), reading]).integers(len(self.tokens)))
        tokens = self.tokens if rng is None else np.roll(self.tokens, -shift)
        inputs = tokens[:-1].copy()
        if rng is not None:
            inputs[rng.random(len(inputs)) < self.unknown_rate] = 0
        length = -(-len(inputs) // self.rows)
        padding = self.rows * length - len(inputs)
        rows = np.pad(inputs, (0, padding)).reshape(self.rows, length)
        targets = np.pad(tokens[1:], (0, padding), constant_values=-1).reshape(self.rows, length)
        first, end = (0, length) if rng is None else (length * k // self.epochs for k in (part, part + 1))
        for start in range(first, end, self.context):
            window = slice(start, min(start + self.context, end))
            yield Batch(
                arguments=(torch.from_numpy(rows[:, window].copy()), torch.from_numpy(targets[:, window].copy())),
                fresh=torch.full((self.rows,), start == first),
                weight=int((targets[:, window] >= 0).sum()),
            )
