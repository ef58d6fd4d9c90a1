"""The forecaster of any series: recurrent layers over patches of a series in its own units, and a head that attends
over lags of a register. It needs no season.

For each lag, running sums tell how well the series repeats itself after so many steps. A small network, shared by all
lags, gives each lag a weight. A candidate for a value is the weighted mean of the values a whole number of lags before
it. A season that a caller gives is a feature of the lags that it divides: a hint, not a switch.

The arithmetic is written once, over a backend (`arithmetic.py`): PyTorch trains with it, and the same functions write
the ONNX graph (`training/onnx/forecast.py`). It uses only exactly rounded operations, products and sums in order, so
that no answer depends on a row's place in a batch.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.nets.arithmetic import Array, Backend, TorchBackend, positive, squash, sum_last
from training.nets.candidates import (
    BY_LAG,
    LAG_FEATURES,
    LIMIT,
    OTHERS,
    SELECTED,
    SELECTED_FEATURES,
    Place,
    by_lag,
    lag_features,
    plain,
    selected,
)
from training.nets.cells import Cell, Recurrent
from training.nets.covariates import Covariates
from training.nets.forecaster import pinball_loss
from training.nets.series_scan import (
    LAGS,
    PATCH,
    RULES,
    SHARES,
    STEP_INPUTS,
    TINY,
    Scan,
    open_patch,
    patches,
    read_so_far,
    rows_of,
    scan_series,
    state_after,
    state_shapes,
)

HEADS = 6
LAG_WIDTH = 32
WIDTH = 128
SCALES = 2 + RULES + SELECTED
CANDIDATES = BY_LAG * HEADS + OTHERS
CHANGING = CANDIDATES + 2 * SELECTED + 2
"""Features that differ by step ahead, without those of covariates."""
STILL = HEADS + SELECTED_FEATURES * SELECTED + SCALES - 1 + SHARES + 4
"""Features that all steps ahead share, without the open patch."""
MAX_LOSS = 50.0
LONGEST_HINT = int(LAGS[-1])
"""Values in the longest season that a caller can give."""
LEAD = 1e-4
"""By how much, as a share, the best lag must outweigh the second one for rounding not to choose between them."""
HIDDEN = "hidden"
"""The state that holds the recurrent layers' output of the last whole patch."""


@dataclass(frozen=True)
class HeadOutput:
    """quantiles (B, P, H, Q), relative to the newest value (B, P, 1), in units (B, P, 1); weights of the lags (B, P,
    HEADS, K)."""

    quantiles: Array
    newest: Array
    unit: Array
    weights: Array


class Prediction(NamedTuple):
    """Quantiles (B, H, Q) after the last step, and those of the value after each step (B, T, Q), in the units of the
    values; decided (B, T): whether more than rounding chose the selected lags; and the new state."""

    quantiles: Tensor
    one_step: Tensor
    decided: Tensor
    state: dict[str, Tensor]


class GlobalForecaster(nn.Module):
    """Quantiles of any of the next steps of any series.

    `widening` (LONGEST_HINT + 1,): a factor on the distances between quantiles, by the season that the caller gives;
    set it after training.
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

    def initial_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences before their first value."""
        scan_state = {
            name: torch.full((batch, *shape), initial, dtype=getattr(torch, dtype), device=device)
            for name, (shape, dtype, initial) in state_shapes(self.step_inputs).items()
        }
        hidden = torch.zeros(batch, self.recurrent.hidden, device=device)
        return scan_state | {HIDDEN: hidden} | self.recurrent.initial_state(batch, device)

    def forecast_at(
        self,
        f: Backend[Any],
        scan: Scan,
        at: Array,
        hidden: Array,
        opened: Array,
        ahead: NDArray[np.int64],
        future: Sequence[Array] = (),
    ) -> HeadOutput:
        """Quantiles of the values `ahead` (H,) steps after each of the steps `at` (B, P).

        hidden (B, P, hidden): the recurrent layers' output of the last whole patch. opened: the state of the open
        patch. future: the known-ahead features of the steps ahead, parts along axis 3 of (B, P, H, ...).
        """
        with torch.no_grad():
            place = Place.of(f, scan, at)
            features, variance, drift, usable = lag_features(f, place, scan.season)
        weights, scores = self._attention(f, features, usable, hidden)
        with torch.no_grad():
            repeated, drifting, lag_ago = by_lag(f, place, drift, ahead)
            best = f.argmax(f.slice(scores, 2, 0, SELECTED), 3)  # (B, P, SELECTED)
            exact, phases = selected(f, place, best, ahead)
            parametric = f.concat([exact, plain(f, place, ahead)], 3) / f.unsqueeze(place.unit, 3)
            parametric = f.cast(f.minimum(f.maximum(parametric, -LIMIT), LIMIT), "float32")
            scaled = f.cast(f.minimum(variance, 1e6), "float32")
            rows = f.gather(f.reshape(features, 0, -1), self._selected_features(f, best))
            scales = f.sqrt(
                f.reshape(f.gather(f.reshape(scaled, 0, -1), self._selected_lags(f, best)), 0, -1, SELECTED)
            )
            others = f.cast(f.concat([place.unit / place.unit, place.missed / place.unit], 2), "float32")
        mean = f.matmul(weights, repeated)  # (B, P, HEADS, H)
        anchored = mean - f.matmul(weights, lag_ago)
        drifted = mean + f.matmul(weights, drifting)
        varied = f.matmul(f.slice(weights, 2, 0, 1), f.unsqueeze(scaled, 3))  # (B, P, 1, 1)
        varied = f.sqrt(f.reshape(varied, 0, -1, 1) + 1e-8)
        scales = f.minimum(f.concat([others, scales, varied], 2), 100.0)
        by_weights = f.transpose(f.concat([mean, anchored, drifted], 2), 0, 1, 3, 2)
        candidates = f.minimum(f.maximum(f.concat([by_weights, parametric], 3), -LIMIT), LIMIT)
        h = ahead.astype(np.float64)
        distance = f.constant(np.stack([h / 48, 1 / h], 1), "float64") + 0.0 * f.slice(phases, 3, 0, 1)
        changing = f.concat([squash(candidates, f), f.cast(f.concat([phases, distance], 3), "float32"), *future], 3)
        hinted = f.cast(f.unsqueeze(scan.season, 1) > 1, "float64") + 0.0 * place.age
        ages = f.concat([place.age / (place.age + 24.0), place.age / (place.age + 200.0), hinted], 2)
        spread = f.slice(scales, 2, 1, None)
        shared = [
            f.reshape(f.max(weights, 3), 0, -1, HEADS),
            f.reshape(rows, 0, -1, SELECTED_FEATURES * SELECTED),
            spread / (spread + 1.0),
            rows_of(f, scan.shares, at, SHARES),
            f.cast(ages, "float32"),
            open_patch(f, scan, opened, at, self.step_inputs),
        ]
        x = f.linear(hidden, self.from_hidden.weight, self.from_hidden.bias)
        x = x + f.linear(f.concat(shared, 2), self.from_still.weight)
        x = f.unsqueeze(x, 2) + f.linear(changing, self.from_changing.weight)
        x = f.relu(x + f.take(f.parameter(self.from_ahead), (ahead - 1).tolist(), 0))
        x = x + f.relu(f.linear(x, self.between.weight, self.between.bias))
        widening = f.take(f.parameter(self.widening), f.minimum(scan.season, LONGEST_HINT), 0)
        widening = f.reshape(f.slice(widening, 1, 0, 1), 0, 1, 1, 1)
        quantiles = self._quantiles(f, f.linear(x, self.head.weight, self.head.bias), candidates, scales, widening)
        return HeadOutput(quantiles, place.newest, place.unit, weights)

    def _attention(self, f: Backend[Any], features: Array, usable: Array, hidden: Array) -> tuple[Array, Array]:
        """Weights of the lags, (B, P, HEADS, K), and their scores."""
        x = f.linear(features, self.lag_in.weight, self.lag_in.bias)
        x = f.relu(x + f.unsqueeze(f.linear(hidden, self.lag_hidden.weight), 2))
        scores = f.transpose(f.linear(x, self.lag_out.weight, self.lag_out.bias), 0, 1, 3, 2)
        scores = f.where(f.unsqueeze(usable, 2) > 0.0, scores, -1e4)
        return f.softmax(scores), scores

    def _selected_features(self, f: Backend[Any], best: Array) -> Array:
        """The indices of the best lags' first features among all features of all lags of all steps."""
        starts = f.unsqueeze(f.reshape(self._selected_lags(f, best) * LAG_FEATURES, 0, -1), 2)
        return f.reshape(starts + f.constant(np.arange(SELECTED_FEATURES), "int64"), 0, -1, SELECTED_FEATURES)

    def _selected_lags(self, f: Backend[Any], best: Array) -> Array:
        """The indices of the best lags among all lags of all steps: (B, P, SELECTED)."""
        return best + f.unsqueeze(f.reshape(f.positions(best, 1), 1, -1) * len(LAGS), 2)

    def _quantiles(self, f: Backend[Any], raw: Array, candidates: Array, scales: Array, widening: Array) -> Array:
        levels, middle = len(self.quantile_levels), self.quantile_levels.index(0.5)
        begin = [0, CANDIDATES, CANDIDATES + 1, CANDIDATES + 1 + SCALES, CANDIDATES + 1 + SCALES + levels]
        mix, shift, scale_mix, distances = (f.slice(raw, 3, a, b) for a, b in itertools.pairwise(begin))
        size = sum_last(f.softmax(scale_mix) * f.unsqueeze(scales, 2), SCALES, f)
        median = sum_last(f.softmax(mix) * candidates, CANDIDATES, f) + shift * size
        distances = positive(distances, f)
        distances = f.slice(distances, 3, 1, None) * (f.slice(distances, 3, 0, 1) * (size + 1e-6) * widening)
        # A product with this matrix sums the distances from the median outwards, both ways.
        outwards = np.zeros((levels - 1, levels))
        for q in range(levels):
            outwards[q:middle, q] = -1.0
            outwards[middle:q, q] = 1.0
        return median + f.matmul(distances, f.constant(outwards, "float32"))

    def scan(
        self, f: Backend[Any], inputs: Mapping[str, Array], observed: Array, state: Mapping[str, Array]
    ) -> tuple[Scan, dict[str, Array]]:
        """`scan_series` with the covariates. inputs: by their names in the graph. observed (B, T): where the target
        is."""
        values, mask = inputs["values"], inputs["mask"]
        scan, carried = scan_series(f, f.reshape(f.slice(values, 2, 0, 1), 0, -1), observed, state)
        parts = self.covariates.observed_inputs(f, values, mask)
        if self.covariates.known_ahead:
            parts += self.covariates.known_inputs(f, inputs["ahead"], inputs["ahead_mask"], 2)
        return (replace(scan, steps=f.concat([scan.steps, *parts], 2)) if parts else scan), carried

    def known_inputs(self, f: Backend[Any], values: Array, mask: Array) -> list[Array]:
        """Known-ahead features and their mask (B, P, H, K), as `forecast_at` takes them."""
        return self.covariates.known_inputs(f, values, mask, 3)

    def _hidden(self, scan: Scan, at: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The recurrent layers' output of the last whole patch at each of the steps `at` (B, P), and their state after
        the last patch."""
        f = TorchBackend(at.device)
        layer_inputs = patches(f, scan, state["open"], self.step_inputs)
        patch_index = read_so_far(scan, at, f) // PATCH
        count = int(patch_index.max())
        outputs, after = self.recurrent(layer_inputs[:, : max(1, count)], state)
        if not count:
            after = {name: state[name] for name in after}
        outputs = torch.cat([state[HIDDEN][:, None], outputs], 1)
        hidden = outputs.gather(1, patch_index[..., None].expand(-1, -1, outputs.shape[2]))
        return hidden, {**after, HIDDEN: hidden[:, -1]}

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
        counts; future, future_mask (B, P, H, K): their known-ahead features; season (B, 2): the hint.
        """
        f = TorchBackend(values.device)
        state = {**state, "season": season}
        inputs = {"values": values, "mask": mask, "ahead": ahead, "ahead_mask": ahead_mask}
        with torch.no_grad():
            scan, _ = self.scan(f, inputs, mask[..., 0].double(), state)
        hidden, _ = self._hidden(scan, steps, state)
        known = self.known_inputs(f, future, future_mask)
        output = self.forecast_at(f, scan, steps, hidden, state["open"], distances.numpy(force=True), known)
        units = (output.unit / scale).float()[..., None]
        goal = ((targets - output.newest) / scale).clamp(-300.0, 300.0).float()[..., None]
        loss = pinball_loss(goal, output.quantiles * units, self.quantile_levels).clamp(max=MAX_LOSS)
        return (loss * weight).sum() / weight.sum().clamp(min=1.0), dict(state)

    def predict(
        self, values: Tensor, mask: Tensor, state: Mapping[str, Tensor], known: Sequence[Tensor] = ()
    ) -> Prediction:
        """The forecasts after the values. All rows have the same open patch.

        known: with known-ahead features, the graph's inputs ahead, ahead_mask, future and future_mask.
        """
        f = TorchBackend(values.device)
        batch, steps = values.shape[:2]
        inputs = {"values": values, "mask": mask} | dict(zip(("ahead", "ahead_mask"), known[:2], strict=False))
        scan, carried = self.scan(f, inputs, mask[..., 0].double(), state)
        every_step = torch.arange(steps, device=values.device).expand(batch, steps)
        hidden, after = self._hidden(scan, every_step, state)

        def outputs(at: Tensor, horizon: int, future: Sequence[Tensor]) -> tuple[Tensor, HeadOutput]:
            parts = self.known_inputs(f, *future) if future else []
            hidden_at = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2]))
            ahead = np.arange(1, horizon + 1)
            output = self.forecast_at(f, scan, at, hidden_at, state["open"], ahead, parts)
            return in_values(f, scan, at, output), output

        end = every_step[:, -1:]
        last, _ = outputs(end, self.horizon, [part[:, None] for part in known[2:]])
        one_step, output = outputs(every_step, 1, [part[:, :, None] for part in known[:2]])
        best, second = output.weights[:, :, :SELECTED].topk(2).values.unbind(-1)
        decided = (best > second * (1.0 + LEAD)).all(-1)
        after = {**state_after(f, scan, carried, end, state, self.step_inputs), **after}
        return Prediction(last[:, 0], one_step[:, :, 0], decided, after)


def in_values(f: Backend[Any], scan: Scan, at: Array, output: HeadOutput) -> Array:
    """Quantiles (B, P, H, Q) in the units of the values; at least 0 if all values so far were counts."""
    unit = f.where(output.unit > TINY, output.unit, 0.0)  # of a series of zeros, every quantile is 0
    raw = f.unsqueeze(output.newest, 3) + f.unsqueeze(unit, 3) * f.cast(output.quantiles, "float64")
    whole = f.unsqueeze(f.unsqueeze(f.take_along(scan.whole, at), 2), 3)
    return f.where(whole > 0.0, f.maximum(raw, 0.0), raw)


def heaviest_lags(f: Backend[Any], output: HeadOutput) -> Array:
    """The shortest lag that weighs at least half as much as the heaviest one, over all heads, and the heaviest lag, (B,
    P, 2) int64: a season, and perhaps a longer one."""
    weights = f.reshape(f.sum(output.weights, 2), 0, -1, len(LAGS))
    heavy = f.cast(weights * 2.0 >= f.max(weights, 2), "float32")
    lags = f.constant(LAGS, "int64")
    return f.concat([f.unsqueeze(f.take(lags, f.argmax(part, 2), 0), 2) for part in (heavy, weights)], 2)
