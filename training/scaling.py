"""How raw values become a network's inputs, and its outputs raw values: causally, so that a series may come in pieces.

All of it is double precision, so that neither a large offset nor a long life of a session costs digits.
`onnx_forecast.py` writes the same arithmetic as ONNX operators.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

MAX_STEPS = 4096
"""Most time steps in one call. The weights DECAY**-MAX_STEPS must stay far inside the range of a double."""
REGISTER = 672
"""Values that a series carries: two weeks of half-hours."""
LONGEST_SEASON = REGISTER // 2
DECAY = 0.99
"""Per observed value: the running mean and scale look back over about 1 / (1 - DECAY) = 100 values."""
LAG_LIMIT = 1000.0
LEAST_UNIT = 1e-30
"""Of a series of zeros."""
CONSTANT_UNIT = 1e-9
"""Of a series that has not changed yet, in its own values: above the rounding errors of its sums."""
ROUNDING_UNIT = 1e-14
"""Of one that has: changes smaller than that, in its own values, are rounding errors of doubles."""
SQUASH = 8.0

ScalerState = Mapping[str, Tensor]


@dataclass(frozen=True)
class Scaled:
    """inputs (B, T, I) float32: the network's. location, scale (B, T, 1) float64: raw r means location + scale * r."""

    inputs: Tensor
    location: Tensor
    scale: Tensor


def squash(x: Tensor) -> Tensor:
    """Map the reals into (-SQUASH, SQUASH). Only exactly rounded operations: no answer depends on a row's place."""
    return x / (1.0 + x.abs() / SQUASH)


def _last_observed(x: Tensor, observed: Tensor, carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fill gaps forward: the newest observed value at each step, the one before it, and how many there were.

    x, observed (B, T, F), carried (B, F): the newest value before the first step. Observed values are written to slots
    by their rank, slot 0 holding the carried one, and read back by the count so far; gaps write to a slot nobody reads.
    """
    steps = x.shape[1]
    count = observed.cumsum(dim=1)
    rank = count.to(torch.int64)
    slots = torch.cat([carried[:, None], x.new_zeros(x.shape[0], steps + 1, x.shape[2])], dim=1)
    slots = slots.scatter(1, torch.where(observed > 0, rank, steps + 1), x)
    return slots.gather(1, rank), slots.gather(1, (rank - 1).clamp(min=0)), count


class StandardScaler(nn.Module):
    """Location and scale of each feature over the training part, as constants: for one kind of series.

    A gap is filled with the newest value, and an input says that it was one.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("location", location.to(torch.float64))
        self.register_buffer("scale", scale.to(torch.float64))
        self.features = len(location)
        self.inputs = 2 * self.features

    def forward(self, values: Tensor, mask: Tensor, state: ScalerState) -> tuple[Scaled, dict[str, Tensor]]:
        """values float64 (B, T, F), mask (B, T, F) with 1 = observed -> what the network reads, and the new state."""
        observed = mask.to(torch.float64)
        x = torch.where(observed > 0, (values - self.location) / self.scale, 0.0)
        filled, _, _ = _last_observed(x, observed, state["last"])
        batch, steps, _ = values.shape
        scaled = Scaled(
            inputs=torch.cat([filled, observed], dim=2).float(),
            location=self.location[:1].expand(batch, steps, 1),
            scale=self.scale[:1].expand(batch, steps, 1),
        )
        return scaled, {"last": filled[:, -1]}


@dataclass(frozen=True)
class Read:
    """What a `CausalScaler` found in a series, in the order of time: a window of what was carried, then the new steps.

    window (B, R + T): the target with gaps filled forward; observed (B, R + T): 1 where it was not a gap. sums
    (B, R + T + 1): running sums of the window since the first value. newest, mean, unit, age (B, T): the newest value,
    the running mean, the scale, how many steps have passed since the first value. season (B, 2). inputs (B, T, I)
    float32.
    """

    window: Tensor
    observed: Tensor
    sums: Tensor
    newest: Tensor
    mean: Tensor
    unit: Tensor
    age: Tensor
    season: Tensor
    inputs: Tensor


class CausalScaler(nn.Module):
    """Each series in its own running units, beside its own past seasons: for a global model of series of any unit and
    level, of which the season is told.

    The unit is the smaller of two running scales, the mean absolute difference of successive values and that of values
    one season apart, the denominator of MASE (Hyndman and Koehler 2006), both exponentially weighted so that they
    follow a series which changes. They are cumulative sums of values weighted by DECAY**-rank: exact, and without a
    loop. A register of the last `REGISTER` values gives what was one season ago, two, three.
    """

    inputs = 26
    powers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("powers", DECAY ** torch.arange(MAX_STEPS + 1, dtype=torch.float64), persistent=False)

    @property
    def state_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype, int]]:
        """Name -> shape per sequence, type and initial value of the state tensors."""
        figures = ("last", "count", "age", "mean_sum", "change_sum", "season_count", "season_sum")
        return {
            "season": ((2,), torch.int64, 1),
            **dict.fromkeys(figures, ((1,), torch.float64, 0)),
            "recent": ((REGISTER,), torch.float64, 0),
            "recent_observed": ((REGISTER,), torch.uint8, 0),
        }

    def _weight(self, count: Tensor) -> Tensor:
        """Sum of DECAY**i for i in [0, count), at least 1: what an exponentially weighted sum is divided by."""
        total = (1 - self.powers[count.clamp(0, MAX_STEPS).to(torch.int64)]) / (1 - DECAY)
        return total.clamp(min=1.0)

    def _running(self, carried: Tensor, x: Tensor, count: Tensor) -> Tensor:
        """An exponentially weighted sum after each step; `count` (B, T) of values so far decides the weights."""
        decay = self.powers[count.to(torch.int64)]
        return decay * (carried + (x / decay).cumsum(dim=1))

    def forward(self, values: Tensor, mask: Tensor, state: ScalerState) -> tuple[Read, dict[str, Tensor]]:
        """The target, float64 (B, T), and its mask (B, T), 1 = observed -> what was found, and the new state."""
        batch, steps = values.shape
        here = mask.to(torch.float64)
        x = torch.where(here > 0, values, 0.0)
        newest, previous, new = (part[..., 0] for part in _last_observed(x[..., None], here[..., None], state["last"]))
        count = state["count"] + new
        change = torch.where((here > 0) & (count >= 2), x - previous, 0.0)
        age = state["age"] + (count > 0).to(torch.float64).cumsum(dim=1)

        window = torch.cat([state["recent"], newest], dim=1)
        observed = torch.cat([state["recent_observed"].to(torch.float64), here], dim=1)
        place = torch.arange(REGISTER + steps, device=values.device)
        begun = torch.cat([(place[:REGISTER] >= REGISTER - state["age"]), count > 0], dim=1)
        # Plain sums: a reference that depends on where a call ends would let pieces round otherwise than the whole.
        sums = torch.where(begun, window, 0.0).cumsum(dim=1)
        sums = nn.functional.pad(sums, (1, 0))

        def ago(season: Tensor, lag: int, ahead: int = 0) -> tuple[Tensor, Tensor]:
            """The value at step t + ahead - lag * season for each t, and whether there is one (else the newest)."""
            at = place[REGISTER:] + ahead - lag * season
            known = observed.gather(1, at.clamp(min=0)) * (at >= 0)
            return torch.where(known > 0, window.gather(1, at.clamp(min=0)), newest), known

        first, second = state["season"][:, :1], state["season"][:, 1:]
        one_season_ago, known = ago(first, 1)
        both = here * known
        season_change = torch.where(both > 0, x - one_season_ago, 0.0)
        season_new = both.cumsum(dim=1)
        season_count = state["season_count"] + season_new

        change_sum = self._running(state["change_sum"], change.abs(), new)
        season_sum = self._running(state["season_sum"], season_change.abs(), season_new)
        mean_sum = self._running(state["mean_sum"], x, new)
        mean = mean_sum / self._weight(count)
        # After one value nothing is known of the scale: the size of the value itself stands in.
        scale = torch.where(count >= 2, change_sum / self._weight(count - 1), newest.abs())
        season_scale = torch.where(season_count >= 3, season_sum / self._weight(season_count), scale)
        unit = torch.minimum(scale, torch.maximum(season_scale, scale / 20))
        # What is divided by is never zero. However large the level of a series, its own changes are its unit.
        around = newest.abs()
        rounding = torch.where(scale > 0, ROUNDING_UNIT * around, CONSTANT_UNIT * around)
        unit = torch.maximum(unit, rounding) + LEAST_UNIT

        read = Read(window, observed, sums, newest, mean, unit, age, state["season"], values)
        at = place[REGISTER:].expand(batch, steps)
        level, before, _ = self._levels(read, at)
        several = (second > 1).to(torch.float64)
        ahead = [ago(first, 1, 1), ago(first, 2, 1), ago(second, 1, 1)]
        in_units = [
            newest - mean,
            level,
            before,
            change,
            newest - one_season_ago,
            ahead[0][0] - newest,
            ahead[1][0] - newest,
            (ahead[2][0] - newest) * several,
            (newest - ago(second, 1)[0]) * several,
        ]
        size = mean.abs() + unit
        m = first.to(torch.float64).expand(batch, steps)
        shares = [
            here,
            ahead[0][1],
            ahead[1][1],
            ahead[2][1] * several,
            several.expand(batch, steps),
            mean / size,
            unit / size,
            unit / (unit + 0.1 * size),
            unit / (unit + 0.01 * size),
            scale / (scale + season_scale + 1e-30),
            count / (count + 5.0),
            count / (count + 40.0),
            count / (count + 3.0 * m),
            1.0 / m,
            m / (m + 12.0),
            (newest == 0).to(torch.float64),
            m / (m + 60.0),
        ]
        inputs = torch.cat([squash(torch.stack(in_units, dim=2) / unit[..., None]), torch.stack(shares, dim=2)], dim=2)
        after = {
            "season": state["season"],
            "last": newest[:, -1:],
            "count": count[:, -1:],
            "age": age[:, -1:],
            "mean_sum": mean_sum[:, -1:],
            "change_sum": change_sum[:, -1:],
            "season_count": season_count[:, -1:],
            "season_sum": season_sum[:, -1:],
            "recent": window[:, -REGISTER:],
            "recent_observed": observed[:, -REGISTER:].to(torch.uint8),
        }
        return replace(read, inputs=inputs.float()), after

    def _levels(self, read: Read, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean over the season that ends at each step, the one before, and the one before that, less the newest
        value; `at` (B, P) are places in the window. A season not (wholly) seen counts as the part of it that was, or
        as the season after it."""
        m = read.season[:, :1]
        newest, age = (part.gather(1, at - REGISTER) for part in (read.newest, read.age))
        found: list[Tensor] = []
        for lag in range(3):
            ends, starts = (at + 1 - lag * m).clamp(min=0), (at + 1 - (lag + 1) * m).clamp(min=0)
            seen = torch.minimum(age - lag * m, m.to(torch.float64))
            total = read.sums.gather(1, ends) - read.sums.gather(1, starts)
            mean = total / seen.clamp(min=1.0) - newest
            enough = (seen >= 1) & ((lag + 1) * m <= REGISTER)
            found.append(torch.where(enough, mean, found[-1] if found else 0.0))
        return found[0], found[1], found[2]

    def candidates(self, read: Read, steps: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """What the value `ahead` (H,) steps after each of the `steps` (B, P) could be, by the same place in the seasons
        before, by level and by trend: (B, P, H, CANDIDATES) float32, relative to the newest value, in units of the
        scale; and features of each: (B, P, H, FEATURES) float32."""
        at = steps + REGISTER
        first, second = (read.season[:, i, None, None] for i in (0, 1))
        newest, mean, unit, age = (part.gather(1, steps) for part in (read.newest, read.mean, read.unit, read.age))
        whole = at[:, :, None] + ahead

        def flat(index: Tensor) -> Tensor:
            return index.clamp(min=0).flatten(1)

        values, flags = [], []
        for season, lag in ((first, 0), (first, 1), (first, 2), (second, 0), (second, 1)):
            place = whole - season * (torch.div(ahead + season - 1, season, rounding_mode="floor") + lag)
            value = read.window.gather(1, flat(place)).view(place.shape)
            known = read.observed.gather(1, flat(place)).view(place.shape) * (place >= 0)
            known = known if season is first else known * (second > 1)
            values.append(torch.where(known > 0, value - newest[:, :, None], 0.0))
            flags.append(known)
        newest, unit = newest[:, :, None], unit[:, :, None]
        level, before, earlier = (part[:, :, None] for part in self._levels(read, at))
        h = ahead.to(torch.float64)
        # The season before, grown as the level has: where seasons multiply.
        now, then = level + newest, before + newest
        similar = (now * then > 0) & (now.abs() < 4 * then.abs()) & (then.abs() < 4 * now.abs())
        ratio = torch.where(similar, now / then, 1.0)
        grown = torch.where(flags[0] > 0, (values[0] + newest) * ratio - newest, 0.0)
        growth = torch.where(flags[0] > 0, level - before, 0.0)
        growth_of_two = torch.where(flags[1] > 0, level - earlier, 0.0)
        recent = []
        for lag in (1, 2, 3, 6):
            value = read.window.gather(1, at - lag)[:, :, None]
            recent.append(torch.where(age[:, :, None] > lag, value - newest, 0.0).expand(whole.shape))
        possible = [
            torch.zeros_like(grown),
            *values,
            values[0] + growth,
            values[1] + growth_of_two,
            values[0] + 2 * growth,
            grown,
            level.expand(whole.shape),
            (mean[:, :, None] - newest).expand(whole.shape),
            recent[3] * (h / -6.0),
        ]
        found = torch.stack(possible + recent[:3], dim=3) / unit[..., None]
        periods = torch.div(ahead + first - 1, first, rounding_mode="floor").to(torch.float64).expand(whole.shape)
        phase = (h - (periods - 1) * first) / first
        more = torch.stack([*flags, 1 / periods, phase.expand(whole.shape)], dim=3)
        features = torch.cat([squash(found), more], dim=3).float()
        return found[..., :CANDIDATES].clamp(-LAG_LIMIT, LAG_LIMIT).float(), features


CANDIDATES = 13
FEATURES = CANDIDATES + 3 + 7


class Covariates(nn.Module):
    """Features beside the target, as constants of the training part say: numbers standardised, categories one by one.

    A gap is zeros, and an input says of each feature whether it was there.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, location: Tensor, scale: Tensor, sizes: tuple[int, ...], known_ahead: tuple[int, ...]) -> None:
        """location, scale (F - 1,): of each feature but the target. sizes: its number of categories, 0 where it is a
        number. known_ahead: which of the features, counted from 0, are known of the future."""
        super().__init__()
        self.register_buffer("location", location.to(torch.float64))
        self.register_buffer("scale", scale.to(torch.float64))
        self.sizes = sizes
        self.known_ahead = known_ahead
        self.width = self._width(range(len(sizes)))
        self.width_ahead = self._width(known_ahead)

    def _width(self, features: Iterable[int]) -> int:
        return sum(1 + max(1, self.sizes[i]) for i in features)

    def forward(self, values: Tensor, mask: Tensor, ahead: Tensor, ahead_mask: Tensor) -> Tensor:
        """Values and mask (B, T, F), known-ahead features of the next step (B, T, K) -> (B, T, width + width_ahead)."""
        here = self._encoded(values[..., 1:], mask[..., 1:], range(len(self.sizes)))
        return torch.cat([here, self.known(ahead, ahead_mask)], dim=2)

    def known(self, future: Tensor, mask: Tensor) -> Tensor:
        """Known-ahead features (..., K) -> (..., width_ahead)."""
        return self._encoded(future, mask, self.known_ahead)

    def _encoded(self, values: Tensor, mask: Tensor, features: Iterable[int]) -> Tensor:
        parts = [values.new_zeros(*values.shape[:-1], 0).float()]
        for column, i in enumerate(features):
            x, seen = values[..., column], mask[..., column].float()
            if self.sizes[i]:
                hot = x[..., None] == torch.arange(self.sizes[i], device=x.device)
                parts.append(hot.float() * seen[..., None])
            else:
                parts.append((squash((x - self.location[i]) / self.scale[i]).float() * seen)[..., None])
            parts.append(seen[..., None])
        return torch.cat(parts, dim=-1)
