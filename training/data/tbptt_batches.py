"""Batches for truncated backpropagation through time: rows of consecutive windows of series or texts.

Row b of a batch goes on where row b of the batch before stopped, from its state, unless `fresh` says that it starts
anew."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One window of every row: the arguments of the network's `forward`, and which rows (B,) start from a fresh
    state."""

    arguments: tuple[Tensor, ...]
    fresh: Tensor
    weight: int
    """Predictions that count in this batch, to average the loss."""


@dataclass(frozen=True)
class Segment:
    """A series (T, F), NaN = missing, and the first step after which predictions count (earlier ones warm up)."""

    values: NDArray[np.float64]
    count_from: int = 0


class SeriesStream:
    """Windows of `context` steps over many series, `rows` at a time; a row whose series ends takes the next one.

    An epoch takes each series once, in random order, and of a longer one a random segment of `longest` steps, so that
    a few long series do not drown the many short ones. The targets of a step are the `horizon` values that follow it.
    In training, a share `mask_rate` of the values is hidden, so that the network learns to live with gaps.
    """

    def __init__(
        self,
        series: Sequence[Segment],
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
        rows: list[Segment | None] = [None] * self.rows
        at = [0] * self.rows
        while True:
            fresh = np.zeros(self.rows, dtype=bool)
            for b in range(self.rows):
                row = rows[b]
                if row is None or at[b] >= len(row.values) - 1:
                    index = next(queue, None)
                    rows[b] = None if index is None else self._segment(self.series[index], rng)
                    at[b], fresh[b] = 0, True
            if all(row is None for row in rows):
                return
            yield self._window(rows, at, fresh, rng)
            at = [start + self.context for start in at]

    def _segment(self, series: Segment, rng: np.random.Generator | None) -> Segment:
        spare = len(series.values) - self.longest
        if rng is None or spare <= 0:
            return series
        start = int(rng.integers(0, spare + 1))
        return Segment(series.values[start : start + self.longest])

    def _window(
        self,
        rows: Sequence[Segment | None],
        at: Sequence[int],
        fresh: NDArray[np.bool_],
        rng: np.random.Generator | None,
    ) -> Batch:
        wide = np.full((self.rows, self.context + self.horizon, self.features), np.nan)
        counted = np.zeros((self.rows, self.context, self.horizon), dtype=bool)
        for b, row in enumerate(rows):
            if row is not None:
                part = row.values[at[b] : at[b] + self.context + self.horizon]
                wide[b, : len(part)] = part
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
"""Tokens of an epoch, about: after each epoch the loop measures on the validation part."""
EPOCH_STEPS = 240
"""Batches of an epoch, at least about: with the many rows that a GPU wants, an epoch has more tokens."""
MAX_SEGMENT_WINDOWS = 50
"""Windows over which a state is carried, at most: longer documents are cut where a line begins."""


class TextStream:
    """Windows of `context` tokens over documents (T,), `rows` side by side, each document from a fresh state, as the
    service reads a prompt.

    In training, long documents are cut at line starts (token `line_end` ends a line) into segments of all lengths from
    half a window up, each from a fresh state, too: so the network learns to begin anywhere, not only in a document that
    it has read for long. Each reading of the texts draws new segments. A few tokens are read as unknown (the targets
    stay), so that the network learns to go on after a token that it does not know. Texts of many millions of tokens are
    read once in several epochs. share: the index of this process and the number of processes; each reads its own
    segments.
    """

    def __init__(
        self,
        documents: Sequence[NDArray[np.int64]],
        context: int,
        rows: int,
        unknown_rate: float = 0.0,
        line_end: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.tokens = np.concatenate([*documents, np.empty(0, dtype=np.int64)])
        self.context = context
        self.unknown_rate = unknown_rate
        self.epochs = max(1, round(len(self.tokens) / max(EPOCH, EPOCH_STEPS * rows * context * share[1])))
        """Epochs in which the texts are read once."""
        ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
        self._documents = np.stack([np.concatenate([[0], ends])[:-1], ends], axis=1)
        self._line_starts = np.flatnonzero(self.tokens[:-1] == line_end) + 1 if line_end is not None else None
        self._share = share
        self._rows = rows
        segments = self._segments(0)
        self.rows = max(1, min(rows, len(segments) // self.epochs))
        windows = int(np.ceil((segments[:, 1] - segments[:, 0]) / context).sum())
        self.steps = max(1, round(windows / (self.rows * self.epochs * share[1])))
        """About how many batches an epoch has."""

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]:
        """The segments of an epoch; without `rng` each document whole, in order, nothing hidden."""
        if rng is None:
            segments = self._documents - [0, 1]
            segments = segments[segments[:, 1] > segments[:, 0]]
        else:
            reading, part = divmod(epoch, self.epochs)
            segments = self._segments(reading)
            first, end = (len(segments) * k // self.epochs for k in (part, part + 1))
            segments = segments[first:end][self._share[0] :: self._share[1]]
            # The longest of the last segments come first, so that all rows end at about the same time.
            last = segments[-3 * self.rows :]
            last[:] = last[np.argsort(last[:, 0] - last[:, 1], kind="stable")]
        yield from self._windows(segments, rng)

    def _windows(self, segments: NDArray[np.int64], rng: np.random.Generator | None) -> Iterator[Batch]:
        rows = max(1, min(self.rows, len(segments)))
        queue = iter(segments.tolist())
        at, end = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        while True:
            fresh = np.zeros(rows, dtype=bool)
            for b in np.flatnonzero(at >= end):
                following = next(queue, None)
                if following is not None:
                    at[b], end[b] = following
                    fresh[b] = True
            sizes = np.minimum(end - at, self.context)
            if not sizes.any():
                return
            index = at[:, None] + np.arange(sizes.max())
            inside = np.arange(sizes.max()) < sizes[:, None]
            inputs = np.where(inside, self.tokens[np.where(inside, index, 0)], 0)
            targets = np.where(inside, self.tokens[np.where(inside, index + 1, 0)], -1)
            if rng is not None:
                inputs[rng.random(inputs.shape) < self.unknown_rate] = 0
            yield Batch(
                arguments=(torch.from_numpy(inputs), torch.from_numpy(targets)),
                fresh=torch.from_numpy(fresh),
                weight=int(sizes.sum()),
            )
            at = at + sizes

    def _segments(self, reading: int) -> NDArray[np.int64]:
        """The starts and ends (N, 2) of the segments of one reading of all texts, in random order: they hold every
        token of a document but its last once as input, and every token but its first once as target."""
        rng = np.random.default_rng([len(self.tokens), reading])
        total, shortest = len(self.tokens), max(2, self.context // 2)
        per_row = total // (4 * self._rows * self._share[1])
        longest = max(2 * shortest, min(MAX_SEGMENT_WINDOWS * self.context, per_row))
        count = 2 + int(1.5 * total * np.log(longest / shortest) / (longest - shortest))
        lengths = np.exp(rng.uniform(np.log(shortest), np.log(longest), count))
        cuts = np.cumsum(lengths).astype(np.int64)
        cuts = cuts[cuts < total]
        document = np.searchsorted(self._documents[:, 1], cuts, side="right")
        sizes = self._documents[:, 1] - self._documents[:, 0]
        cuts = cuts[sizes[document] > 4 * self.context]
        if self._line_starts is not None and len(self._line_starts):
            following = np.searchsorted(self._line_starts, cuts)
            cuts = self._line_starts[following[following < len(self._line_starts)]]
        starts = np.unique(np.concatenate([self._documents[sizes > 0, 0], cuts]))
        ends = np.append(starts, total)[1:]
        ends = ends - np.isin(ends, self._documents[:, 1])  # a document's last token is a target only
        segments = np.stack([starts, ends], axis=1)[ends > starts]
        rng.shuffle(segments)
        return segments
