"""The forecaster of any series: recurrent layers over patches of a series in its own units, and a head that attends
over lags of a register. Nothing in it is told, or has to settle, a season.

For each lag, running sums tell how well the series repeats itself after so many steps. A small network, shared by all
lags, gives each lag a weight; a candidate for a value is the weighted mean of what came a whole number of lags before
it. A season that a caller tells is a feature of the lags that it divides: a hint, no switch.

The arithmetic is written once, over a backend (`arithmetic.py`): PyTorch trains with it, and the same functions write
the ONNX graph (`onnx_forecast.py`). Only exactly rounded operations, products and sums in order, so that no answer
depends on a row's place in a batch.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.nets.arithmetic import Backend, Torch, positive, squash, sum_last
from training.nets.candidates import (
    BY_LAG,
    LAG_FEATURES,
    LIMIT,
    OTHERS,
    OWN_FEATURES,
    SELECTED,
    Place,
    by_lag,
    lag_features,
    plain,
    selected,
)
from training.nets.cells import Cell, Recurrent
from training.nets.covariates import Covariates
from training.nets.series_scan import (
    LAGS,
    LEAST,
    PATCH,
    RULES,
    SHARES,
    STEP_INPUTS,
    Array,
    Scan,
    open_patch,
    patches,
    read_so_far,
    rows_of,
    scan,
    state_after,
    state_shapes,
)

HEADS = 6
LAG_WIDTH = 32
WIDTH = 128
SCALES = 2 + RULES + SELECTED
CANDIDATES = BY_LAG * HEADS + OTHERS
CHANGING = CANDIDATES + 2 * SELECTED + 2
"""Features of each step ahead, and"""
STILL = HEADS + OWN_FEATURES * SELECTED + SCALES - 1 + SHARES + 4
"""of all of them, but for those that covariates add, and the open patch."""
LARGEST_LOSS = 50.0
LONGEST_HINT = int(LAGS[-1])
"""Values in the longest season that can be told."""
HIDDEN = "hidden"
"""What the recurrent layers said of the last whole patch, as state."""


@dataclass(frozen=True)
class Asked:
    """quantiles (B, P, H, Q), relative to the newest value (B, P, 1), in units (B, P, 1); the weights of the lags,
    (B, P, HEADS, K)."""

    quantiles: Array
    newest: Array
    unit: Array
    weights: Array


class GlobalForecaster(nn.Module):
    """Quantiles of any of the next steps of any series. `widening` (LONGEST_HINT + 1,): a factor on the distances
    between quantiles by the season that is told, to be set after training."""

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
        self.covariates = covariates
        self.horizon = horizon
        self.quantile_levels = quantile_levels
        self.widening: Tensor
        self.register_buffer("widening", torch.ones(LONGEST_HINT + 1), persistent=False)
        self.step_inputs = STEP_INPUTS + covariates.width + covariates.width_ahead
        inputs = PATCH * self.step_inputs + SHARES
        self.recurrent = Recurrent(cell, inputs, hidden, layers, dropout, residual=True)
        self.lag_in = nn.Linear(LAG_FEATURES, LAG_WIDTH)
        self.lag_hidden = nn.Linear(hidden, LAG_WIDTH, bias=False)
        self.lag_out = nn.Linear(LAG_WIDTH, HEADS)
        self.from_hidden = nn.Linear(hidden, WIDTH)
        self.from_still = nn.Linear(STILL + (PATCH - 1) * (self.step_inputs + 1), WIDTH, bias=False)
        self.from_changing = nn.Linear(CHANGING + covariates.width_ahead, WIDTH, bias=False)
        self.from_ahead = nn.Parameter(torch.zeros(horizon, WIDTH))
        self.between = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CANDIDATES + 1 + SCALES + len(quantile_levels))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.lag_out.weight, std=0.5)

    def fresh_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences of which nothing was seen yet."""
        own = {
            name: torch.full((batch, *shape), initial, dtype=getattr(torch, dtype), device=device)
            for name, (shape, dtype, initial) in state_shapes(self.step_inputs).items()
        }
        hidden = torch.zeros(batch, self.recurrent.hidden, device=device)
        return own | {HIDDEN: hidden} | self.recurrent.fresh_state(batch, device)

    def ask(
        self,
        f: Backend[Any],
        found: Scan,
        at: Array,
        hidden: Array,
        opened: Array,
        ahead: NDArray[np.int64],
        future: Sequence[Array] = (),
    ) -> Asked:
        """Quantiles of the values `ahead` (H,) steps after each of the steps `at` (B, P), given what the recurrent
        layers said of the last whole patch, (B, P, hidden), and the known-ahead features of these steps, parts along
        axis 3 of (B, P, H, ...)."""
        with torch.no_grad():
            place = Place.of(f, found, at)
            features, variance, drift, usable = lag_features(f, place, found.season)
        weights, scores = self._attention(f, features, usable, hidden)
        with torch.no_grad():
            repeated, drifting, begun = by_lag(f, place, drift, ahead)
            best = f.argmax(f.cut(scores, 2, 0, SELECTED), 3)  # (B, P, SELECTED)
            exact, within = selected(f, place, best, ahead)
            parametric = f.join([exact, plain(f, place, ahead)], 3) / f.expand(place.unit, 3)
            parametric = f.cast(f.minimum(f.maximum(parametric, -LIMIT), LIMIT), "float32")
            scaled = f.cast(f.minimum(variance, 1e6), "float32")
            rows = f.gather(f.reshape(features, 0, -1), self._own(f, best))
            scales = f.sqrt(f.reshape(f.gather(f.reshape(scaled, 0, -1), self._chosen(f, best)), 0, -1, SELECTED))
            others = f.cast(f.join([place.unit / place.unit, place.missed / place.unit], 2), "float32")
        c = f.matmul(weights, repeated)  # (B, P, A, H)
        anchored = c - f.matmul(weights, begun)
        drifted = c + f.matmul(weights, drifting)
        varied = f.matmul(f.cut(weights, 2, 0, 1), f.expand(scaled, 3))  # (B, P, 1, 1)
        varied = f.sqrt(f.reshape(varied, 0, -1, 1) + 1e-8)
        scales = f.minimum(f.join([others, scales, varied], 2), 100.0)
        by_weights = f.transpose(f.join([c, anchored, drifted], 2), 0, 1, 3, 2)
        candidates = f.minimum(f.maximum(f.join([by_weights, parametric], 3), -LIMIT), LIMIT)
        h = ahead.astype(np.float64)
        distance = f.constant(np.stack([h / 48, 1 / h], 1), "float64") + 0.0 * f.cut(within, 3, 0, 1)
        changing = f.join([squash(candidates, f), f.cast(f.join([within, distance], 3), "float32"), *future], 3)
        told = f.cast(f.expand(found.season, 1) > 1, "float64") + 0.0 * place.age
        known = f.join([place.age / (place.age + 24.0), place.age / (place.age + 200.0), told], 2)
        spread = f.cut(scales, 2, 1, None)
        still = [
            f.reshape(f.largest(weights, 3), 0, -1, HEADS),
            f.reshape(rows, 0, -1, OWN_FEATURES * SELECTED),
            spread / (spread + 1.0),
            rows_of(f, found.shares, at, SHARES),
            f.cast(known, "float32"),
            open_patch(f, found, opened, at, self.step_inputs),
        ]
        x = f.linear(hidden, self.from_hidden.weight, self.from_hidden.bias)
        x = x + f.linear(f.join(still, 2), self.from_still.weight)
        x = f.expand(x, 2) + f.linear(changing, self.from_changing.weight)
        x = f.relu(x + f.take(f.parameter(self.from_ahead), (ahead - 1).tolist(), 0))
        x = x + f.relu(f.linear(x, self.between.weight, self.between.bias))
        widening = f.take(f.parameter(self.widening), f.minimum(found.season, LONGEST_HINT), 0)
        widening = f.reshape(f.cut(widening, 1, 0, 1), 0, 1, 1, 1)
        quantiles = self._quantiles(f, f.linear(x, self.head.weight, self.head.bias), candidates, scales, widening)
        return Asked(quantiles, place.newest, place.unit, weights)

    def _attention(self, f: Backend[Any], features: Array, usable: Array, hidden: Array) -> tuple[Array, Array]:
        """Weights of the lags, (B, P, HEADS, K), and their scores."""
        x = f.linear(features, self.lag_in.weight, self.lag_in.bias)
        x = f.relu(x + f.expand(f.linear(hidden, self.lag_hidden.weight), 2))
        scores = f.transpose(f.linear(x, self.lag_out.weight, self.lag_out.bias), 0, 1, 3, 2)
        scores = f.where(f.expand(usable, 2) > 0.0, scores, -1e4)
        return f.softmax(scores), scores

    def _own(self, f: Backend[Any], best: Array) -> Array:
        """Where the first features of the best lags are among all features of all lags of all steps."""
        places = self._chosen(f, best) * LAG_FEATURES
        return f.reshape(
            f.expand(f.reshape(places, 0, -1), 2) + f.constant(np.arange(OWN_FEATURES), "int64"), 0, -1, OWN_FEATURES
        )

    def _chosen(self, f: Backend[Any], best: Array) -> Array:
        """Where the best lags are among all lags of all steps: (B, P, SELECTED)."""
        return best + f.expand(f.reshape(f.steps(best, 1), 1, -1) * len(LAGS), 2)

    def _quantiles(self, f: Backend[Any], raw: Array, candidates: Array, scales: Array, widening: Array) -> Array:
        levels, middle = len(self.quantile_levels), self.quantile_levels.index(0.5)
        begin = [0, CANDIDATES, CANDIDATES + 1, CANDIDATES + 1 + SCALES, CANDIDATES + 1 + SCALES + levels]
        mix, shift, scale_mix, apart = (f.cut(raw, 3, a, b) for a, b in itertools.pairwise(begin))
        size = sum_last(f.softmax(scale_mix) * f.expand(scales, 2), SCALES, f)
        median = sum_last(f.softmax(mix) * candidates, CANDIDATES, f) + shift * size
        apart = positive(apart, f)
        apart = f.cut(apart, 3, 1, None) * (f.cut(apart, 3, 0, 1) * (size + 1e-6) * widening)
        # Running sums by products: from the middle outwards, both ways.
        outwards = np.zeros((levels - 1, levels))
        for q in range(levels):
            outwards[q:middle, q] = -1.0
            outwards[middle:q, q] = 1.0
        return median + f.matmul(apart, f.constant(outwards, "float32"))

    def scan(
        self, f: Backend[Any], given: Mapping[str, Array], here: Array, state: Mapping[str, Array]
    ) -> tuple[Scan, dict[str, Array]]:
        """`scan` of the inputs by their names in the graph; `here` (B, T): where the target is observed."""
        values, mask = given["values"], given["mask"]
        found, carried = scan(f, f.reshape(f.cut(values, 2, 0, 1), 0, -1), here, state)
        more = self.covariates.read(f, values, mask)
        if self.covariates.known_ahead:
            more += self.covariates.known(f, given["ahead"], given["ahead_mask"], 2)
        return (replace(found, steps=f.join([found.steps, *more], 2)) if more else found), carried

    def known(self, f: Backend[Any], values: Array, mask: Array) -> list[Array]:
        """Known-ahead features and their mask (B, P, H, K), as `ask` takes them."""
        return self.covariates.known(f, values, mask, 3)

    def _hidden(self, found: Scan, at: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What the recurrent layers said of the last whole patch after each of `at` (B, P), and their state after the
        last of them all."""
        f = Torch(at.device)
        read = patches(f, found, state["open"], self.step_inputs)
        done = torch.div(read_so_far(found, at, f), PATCH, rounding_mode="floor")
        most = int(done.max())
        every, after = self.recurrent(read[:, : max(1, most)], state)
        if not most:
            after = {name: state[name] for name in after}
        every = torch.cat([state[HIDDEN][:, None], every], 1)
        found_there = every.gather(1, done[..., None].expand(-1, -1, every.shape[2]))
        return found_there, {**after, HIDDEN: found_there[:, -1]}

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
        state: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss: the mean pinball loss in units of `scale` (B, P, H), a series' mean seasonal difference.

        targets, weight (B, P, H): the values at the `distances` (H,) after each of `steps` (B, P), and how much each
        counts; future (B, P, H, K): the features known of them; season (B, 2): what is told.
        """
        f = Torch(values.device)
        state = {**state, "season": season}
        given = {"values": values, "mask": mask, "ahead": ahead, "ahead_mask": ahead_mask}
        with torch.no_grad():
            found, _ = self.scan(f, given, mask[..., 0].double(), state)
        hidden, _ = self._hidden(found, steps, state)
        known = self.known(f, future, future_mask)
        asked = self.ask(f, found, steps, hidden, state["open"], distances.numpy(force=True), known)
        units = (asked.unit / scale).float()[..., None]
        goal = ((targets - asked.newest) / scale).clamp(-300.0, 300.0).float()[..., None]
        levels = torch.tensor(self.quantile_levels, device=goal.device)
        error = goal - asked.quantiles * units
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(-1).clamp(max=LARGEST_LOSS)
        return (pinball * weight).sum() / weight.sum().clamp(min=1.0), dict(state)

    def predict(
        self, values: Tensor, mask: Tensor, state: Mapping[str, Tensor], known: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantiles (B, H, Q) after the last step, those of the value after each step (B, T, Q), in the units of the
        values, and the new state; each row's whole patches end together. `known`, with known-ahead features: what the
        exported graph takes as ahead, ahead_mask, future and future_mask."""
        f = Torch(values.device)
        batch, steps = values.shape[:2]
        given = {"values": values, "mask": mask} | dict(zip(("ahead", "ahead_mask"), known[:2], strict=False))
        found, carried = self.scan(f, given, mask[..., 0].double(), state)
        every = torch.arange(steps, device=values.device).expand(batch, steps)
        hidden, after = self._hidden(found, every, state)

        def ask(at: Tensor, horizon: int, future: Sequence[Tensor]) -> Tensor:
            parts = self.known(f, *future) if future else []
            ahead = np.arange(1, horizon + 1)
            picked = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2]))
            asked = self.ask(f, found, at, picked, state["open"], ahead, parts)
            raw: Tensor = in_values(f, found, at, asked)
            return raw

        end = every[:, -1:]
        last = ask(end, self.horizon, [part[:, None] for part in known[2:]])[:, 0]
        each = ask(every, 1, [part[:, :, None] for part in known[:2]])[:, :, 0]
        return last, each, {**state_after(f, found, carried, end, state, self.step_inputs), **after}


def in_values(f: Backend[Any], found: Scan, at: Array, asked: Asked) -> Array:
    """Quantiles (B, P, H, Q) in the units of the values; at least 0 where all values were counts."""
    unit = f.where(asked.unit > LEAST, asked.unit, 0.0)  # of zeros, as yet, nothing else is known
    raw = f.expand(asked.newest, 3) + f.expand(unit, 3) * f.cast(asked.quantiles, "float64")
    whole = f.expand(f.expand(f.along(found.whole, at), 2), 3)
    return f.where(whole > 0.0, f.maximum(raw, 0.0), raw)


def weighed_most(f: Backend[Any], asked: Asked) -> Array:
    """The shortest of the lags that weigh at least half of the most, over all heads, and the one that weighs most,
    (B, P, 2) int64: a season, and perhaps a longer one."""
    weights = f.reshape(f.total(asked.weights, 2), 0, -1, len(LAGS))
    heavy = f.cast(weights * 2.0 >= f.largest(weights, 2), "float32")
    lags = f.constant(LAGS, "int64")
    return f.join([f.expand(f.take(lags, f.argmax(part, 2), 0), 2) for part in (heavy, weights)], 2)
