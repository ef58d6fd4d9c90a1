"""How well the one-step forecasts of a sequence met the values that came next, in a few numbers of its state.

Their sums fade: what a value adds is halved every `HALF_LIFE` values. So they tell of the present, and take no more
room after a million values than after ten. Errors are divided by the mean absolute change from each value to the next,
which fades alike: by the error of a forecast that repeats the last value. This is the mean absolute scaled error of
Hyndman and Koehler (2006, "Another look at measures of forecast accuracy"), over a window that fades. So series of any
size compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from service.forecast.intervals import Floats, interpolation, interval_to_quantiles, rounding_of
from service.kind import SessionAccuracy

HALF_LIFE = 100
"""In scored values. The share inside an interval of 80 % is then known to 2.4 points (its standard error)."""
INTERVALS = (50, 80, 95)
"""The central intervals whose coverage is measured, in percent."""
SIZE = 7 + len(INTERVALS)
"""Numbers that a state has for its accuracy: how many values were scored; the fading sums of weights, absolute changes,
absolute errors, quantile losses, and values inside each interval; whether a value was seen, and the last one."""

_DECAY: float = 0.5 ** (1 / HALF_LIFE)
_NO_CHANGE = 1e-300
"""Where the sum of changes has faded to this, there is nothing left to scale by; a smaller one is no exact number."""
_ENDS = tuple(sorted(end for level in INTERVALS for end in interval_to_quantiles(level)))
"""The levels of the intervals' ends: the lower ones, from the widest interval to the narrowest, then the upper ones."""


@dataclass(frozen=True)
class Scores:
    """The values that one call scored: how many, the sum of their absolute errors, each divided by the mean absolute
    change at its time, and how many were inside each interval, by its level."""

    values: int = 0
    scaled_error: float = 0.0
    inside: Mapping[int, int] = field(default_factory=dict)


NO_SCORES = Scores()


def read_accuracy(numbers: Floats, known: Sequence[float]) -> SessionAccuracy | None:
    """What the numbers (SIZE,) of a state say; None before the first scored value. known: the model's levels, of which
    one alone has no intervals."""
    values, weight, change, error, loss, *inside, _, _ = numbers.tolist()
    if not weight:
        return None
    coverage = {str(level): number / weight for level, number in zip(INTERVALS, inside, strict=True)}
    return SessionAccuracy(
        values=int(values),
        mase=error / change if change > _NO_CHANGE else None,
        scaled_quantile_loss=loss / change if change > _NO_CHANGE else None,
        coverage=coverage if len(known) > 1 else {},
    )


def score(before: Floats, target: Floats, one_step: Floats, known: tuple[float, ...]) -> tuple[Floats, Scores]:
    """Score the first N of the values (T,) that a sequence reads, NaN = missing, by their one-step forecasts (N, Q) at
    the levels `known`. before: the numbers (SIZE,) of its state, zeros if it has none yet. Returns them after the
    values.

    A value is not scored if no value was seen before it, or if the series has not changed yet: there is nothing to
    scale by. Gives the same numbers to the bit however the values are cut.
    """
    count, *sums, is_seen, last = before.tolist()
    rows: list[int] = []
    changes: list[float] = []
    for row, value in enumerate(target.tolist()):
        if value != value:
            continue
        if is_seen and row < len(one_step) and (count or rows or value != last):
            rows.append(row)
            changes.append(abs(value - last))
        is_seen, last = 1.0, value
    if not rows:
        return np.array([count, *sums, is_seen, last]), NO_SCORES
    if len(rows) == 1:  # the usual case: without arrays of one number, it takes a quarter of the time
        judged = [[each] for each in _judge(float(target[rows[0]]), one_step[rows[0]].tolist(), known)]
    else:
        judged = [each.tolist() for each in _judge(target[rows], [*one_step[rows].T], known)]
    columns = ([1.0] * len(rows), changes, *judged)
    totals = [[*accumulate(column, _fade, initial=total)] for column, total in zip(columns, sums, strict=True)]
    after = np.array([count + len(rows), *(column[-1] for column in totals), is_seen, last])
    errors, _, *inside = judged
    scaled_error = sum(map(_scaled, errors, totals[0][1:], totals[1][1:]))
    return after, Scores(len(rows), scaled_error, dict(zip(INTERVALS, map(int, map(sum, inside)), strict=True)))


def _judge(value: Any, forecasts: Sequence[Any], known: tuple[float, ...]) -> list[Any]:
    """What forecasts at the levels `known` are worth: the absolute error of the median, the quantile loss, and for each
    interval, whether the value is inside, as 0.0 or 1.0. A number, or for N values of each level an array (N,)."""
    tolerance = rounding_of(value)
    loss = error = value * 0.0
    for level, forecast in zip(known, forecasts, strict=True):
        gap = value - forecast
        gap = gap * (abs(gap) > tolerance)
        loss = loss + gap * (level - (gap < 0))
        if level == 0.5:
            error = abs(gap)
    inside = []
    ends = [forecasts[low] + share * (forecasts[high] - forecasts[low]) for low, high, share in _ends(known)]
    for lower, upper in zip(reversed(ends[: len(INTERVALS)]), ends[len(INTERVALS) :], strict=True):
        inside.append(((value >= lower - tolerance) & (value <= upper + tolerance)) * 1.0)
    return [error, 2 * loss / len(known), *inside]


@lru_cache(maxsize=64)
def _ends(known: tuple[float, ...]) -> list[tuple[int, int, float]]:
    """For each end of an interval, the two known levels to interpolate between, and the share of the way. Of one level
    alone: that one."""
    if len(known) == 1:
        return [(0, 0, 0.0)] * len(_ENDS)
    return list(zip(*(numbers.tolist() for numbers in interpolation(known, _ENDS)), strict=True))


def _fade(total: float, number: float) -> float:
    return total * _DECAY + number


def _scaled(error: float, weight: float, change: float) -> float:
    return error * weight / change if change > _NO_CHANGE else 0.0
