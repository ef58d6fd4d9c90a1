"""Forecasts of small series that a new user might send first, and whose continuation a person can see.

The bounds are generous: a forecast that a person would accept keeps them, not only the best one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """series, and the `truth` (horizon,); max_error: of the median, at the mean. fields: other fields of the request.
    rises: the median ends above the last value, and above its first. within: the range of the median and of the
    interval of 80 %. width: the smallest and largest width of that interval at the last step."""

    series: Sequence[float | None]
    truth: Floats
    max_error: float
    fields: dict[str, Any] = field(default_factory=dict)
    rises: bool = False
    within: tuple[float, float] = (-np.inf, np.inf)
    width: tuple[float, float] = (0.0, np.inf)


def case(signal: Any, horizon: int, max_error: float, noise: float = 0.0, **properties: Any) -> Case:
    """The signal's last `horizon` values are the truth. Those before them, with noise, are the series."""
    numbers = np.asarray(signal, dtype=np.float64)
    before = len(numbers) - horizon
    series = numbers[:before] + np.random.default_rng(0).normal(0, noise, before)
    return Case(series.round(4).tolist(), numbers[before:], max_error, **properties)


def share_of(signal: Any, horizon: int, share: float) -> float:
    """A share of the mean size of the signal's last values."""
    return share * float(np.abs(np.asarray(signal)[-horizon:]).mean())


def wave(length: int, period: float, level: float = 0.0, amplitude: float = 1.0) -> Floats:
    values: Floats = level + amplitude * np.sin(2 * np.pi * np.arange(length) / period)
    return values


def line(start: float, slope: float, length: int) -> Floats:
    values: Floats = start + slope * np.arange(length, dtype=np.float64)
    return values


def growth(start: float, factor: float, length: int) -> Floats:
    values: Floats = start * factor ** np.arange(length, dtype=np.float64)
    return values


def repeated(pattern: Sequence[float], length: int) -> Floats:
    return np.resize(np.array(pattern, dtype=np.float64), length)


COUNTS = (0.0, np.inf)
FIRST_WEEK = [12.0, 15, 17, 20, 22, 26, 28]
NEXT_WEEKS = line(30.7, 2.7, 14)
SHOP_WEEK = [10.0, 12, 13, 12, 15, 25, 30]
DAYS = np.arange(1385)
SHOP = (
    114.5
    * (1 + 0.3 * np.sin(2 * np.pi * (DAYS - 80) / 365.25))
    * repeated([0.7, 0.8, 0.875, 0.875, 1.05, 1.4, 1.3], 1385)
)
HOURS = wave(672, 24, 100, 20) + np.where(np.arange(672) % 168 >= 120, 10.0, 0.0)
MONTHLY_GROWTH = growth(100, 1.02, 96) * wave(96, 12, 1, 0.3)
RARE = [0.0] * 15 + [4.0] + [0.0] * 13 + [1.0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4] + [0.0] * 19 + [4.0] + [0.0] * 9 + [3.0]
AROUND_100 = np.random.default_rng(1).normal(100, 2, 80).round(2)
# Airline passengers in thousands, by month from 1949 on (Box and Jenkins).
PASSENGERS = [
    112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118, 115, 126, 141, 135, 125, 149, 170, 170,
    158, 133, 114, 140, 145, 150, 178, 163, 172, 178, 199, 199, 184, 162, 146, 166, 171, 180, 193, 181,
    183, 218, 230, 242, 209, 191, 172, 194, 196, 196, 236, 235, 229, 243, 264, 272, 237, 211, 180, 201,
    204, 188, 235, 227, 234, 264, 302, 293, 259, 229, 203, 229, 242, 233, 267, 269, 270, 315, 364, 347,
    312, 274, 237, 278, 284, 277, 317, 313, 318, 374, 413, 405, 355, 306, 271, 306, 315, 301, 356, 348,
    355, 422, 465, 467, 404, 347, 305, 336, 340, 318, 362, 348, 363, 435, 491, 505, 404, 359, 310, 337,
]  # fmt: skip

CASES: dict[str, Case] = {
    # Lines, with a frequency or without.
    "a first week that rises, in days": Case(FIRST_WEEK, NEXT_WEEKS, 7, {"freq": "D"}, rises=True),
    "a first week that rises, without a frequency": Case(FIRST_WEEK, NEXT_WEEKS[:7], 5, rises=True),
    "12 months of a line": case(line(100, 10, 18), 6, 8, fields={"freq": "MS"}, rises=True),
    "8 months of a line": case(line(100, 10, 14), 6, 10, fields={"freq": "MS"}, rises=True),
    "13 months of a line": case(line(100, 10, 19), 6, 8, fields={"freq": "MS"}, rises=True),
    "24 hours of a line": case(line(100, 10, 30), 6, 10, fields={"freq": "h"}, rises=True),
    "24 hours of a line, without a frequency": case(line(100, 10, 30), 6, 10, rises=True),
    "40 days of a noisy line": case(
        line(100, 1, 68), 28, 5, noise=3, fields={"freq": "D", "start": "2026-01-05"}, rises=True
    ),
    "a noisy line, 48 ahead": case(line(0, 2, 150), 48, 4, noise=3, rises=True, width=(0, 40)),
    "an exact line of 100 values": case(line(1, 1, 148), 48, 1.5, rises=True, width=(0, 12)),
    # Waves of any period.
    "sin(0), ..., sin(35)": case(np.sin(np.arange(72)), 36, 0.1),
    "sin(0), ..., sin(59)": case(np.sin(np.arange(108)), 48, 0.15),
    "a wave of period 10.3": case(wave(109, 10.3), 48, 0.15),
    "a wave of period 13.7": case(wave(130, 13.7), 48, 0.15),
    "two periods of 24": case(wave(72, 24, 50, 10), 24, 2),
    "a noisy wave of period 31.4": case(wave(248, 31.4), 48, 0.12, noise=0.2),
    "a noisy wave of period 62.8": case(wave(248, 62.8), 48, 0.12, noise=0.2),
    "a noisy wave of period 100": case(wave(248, 100), 48, 0.12, noise=0.2),
    # Growth and decay.
    "5 % a month": case(
        growth(100, 1.05, 84), 24, share_of(growth(100, 1.05, 84), 24, 0.08), fields={"freq": "MS"}, rises=True
    ),
    "3 % a step": case(growth(100, 1.03, 100), 24, share_of(growth(100, 1.03, 100), 24, 0.03), rises=True),
    "20 % a step": case(growth(10, 1.2, 32), 12, share_of(growth(10, 1.2, 32), 12, 0.15), rises=True),
    "doubling": case(growth(1, 2, 14), 4, share_of(growth(1, 2, 14), 4, 0.25), rises=True),
    "halving": case(growth(1024, 0.5, 16), 8, 1, within=(0, 40)),
    "2 % a month with a season that grows": case(
        MONTHLY_GROWTH, 24, share_of(MONTHLY_GROWTH, 24, 0.06), fields={"freq": "MS", "start": "2020-01-01"}
    ),
    "a trend and a season": case(
        line(0, 1, 72) + wave(72, 12, 0, 10), 24, 2, fields={"freq": "MS", "start": "2020-01-01"}
    ),
    "triangular numbers": case(np.cumsum(np.arange(1, 19)), 6, 8, rises=True),
    # Levels, and changes of level.
    "an outlier at the end": Case([*AROUND_100[:60], 300.0], np.full(12, 100.0), 10, within=(0, 310)),
    "a new level for twelve values": Case([*AROUND_100, *AROUND_100[:12] + 100], np.full(24, 200.0), 5, width=(0, 50)),
    "a step up at the end": Case([10.0] * 30 + [20.0], np.full(6, 15.0), 7.5, within=(5, 40)),
    "a logistic curve at its end": case(100 / (1 + np.exp(6 - np.arange(84) / 5)), 24, 1.5, width=(0, 25)),
    "a percentage at 100": case(np.minimum(line(80, 0.5, 72), 100), 12, 0.5, fields={"upper": 100}, within=(90, 100)),
    "a percentage at 100, without a frequency": case(np.minimum(line(80, 0.5, 72), 100), 12, 0.5, within=(90, 101)),
    # Long seasons.
    "a year of days": case(wave(1340, 365.25, 20, 10), 180, 3, noise=1, fields={"freq": "D", "start": "2023-01-01"}),
    "a shop's week and year": case(SHOP, 90, 8, noise=3, fields={"freq": "D", "start": "2023-01-02"}),
    "days and weeks of hours": case(HOURS, 168, 2.5, noise=2, fields={"freq": "h", "start": "2026-01-05"}),
    # A day of minutes is longer than the model looks back: only its next hour has to be right.
    "three days of minutes": case(
        wave(4380, 1440, 100, 20), 60, 3, noise=2, fields={"freq": "min", "start": "2026-01-05"}
    ),
    # Counts.
    "rare events": Case([*RARE, *RARE[::-1]], np.zeros(24), 1, within=(0, 5)),
    "zeros, then a one": Case([0.0] * 40 + [1.0], np.zeros(12), 0.3, within=(0, 2)),
    # A zero alone does not even show a unit: its interval may be empty.
    "a zero": Case([0.0], np.zeros(6), 1e-9, within=COUNTS),
    # Hardly any values.
    "three equal values": Case([100.0] * 3, np.full(6, 100.0), 1, width=(1e-3, 100)),
    "one value": Case([100.0], np.full(6, 100.0), 2, width=(1, np.inf)),
    # Missing values.
    "thirty nulls before a line": Case([None] * 30 + [3.0, 4.0, 5.0, 6.0], line(7, 1, 4), 1, rises=True),
    "ten nulls after a line": Case([*line(10, 0.5, 50).tolist(), *[None] * 10], line(40, 0.5, 5), 1, width=(0, 10)),
    # Other first series of a new user.
    "1 to 5": case(line(1, 1, 8), 3, 0.8, rises=True),
    "1 to 10": case(line(1, 1, 15), 5, 1, rises=True),
    "-1 to -10": case(line(-1, -1, 15), 5, 1),
    "a countdown": case(line(100, -5, 16), 5, 4, within=COUNTS),
    "ten times the same": case(np.full(15, 42.0), 5, 0.01),
    "squares": case(np.arange(1, 14) ** 2, 3, 12, rises=True),
    "Fibonacci's numbers": Case([1.0, 1, 2, 3, 5, 8, 13, 21, 34, 55], np.array([89.0, 144]), 25, rises=True),
    "on and off": case(repeated([1, 0], 28), 8, 0.2, within=COUNTS),
    "1, 2, 3, again and again": case(repeated([1, 2, 3], 21), 6, 0.3, within=COUNTS),
    "a sawtooth": case(repeated([0, 1, 2, 3, 4, 5, 6], 49), 14, 0.7, within=COUNTS),
    "a square wave": case(repeated([0] * 5 + [10] * 5, 60), 20, 1.5, within=COUNTS),
    "two values": Case([10.0, 12.0], np.full(3, 13.0), 3, within=(0, 30)),
    "three years of temperatures": case(wave(48, 12, 10, 10), 12, 1.5, noise=0.8, fields={"freq": "MS"}),
    "an office's visitors, none at weekends": case(
        repeated([120, 130, 125, 128, 110, 0, 0], 42), 14, 8, fields={"freq": "D"}, within=(0, 200)
    ),
    "three weeks of weekdays": case(repeated([20, 22, 25, 24, 30], 20), 5, 2, fields={"freq": "B"}),
    "quarters with a trend": case(repeated([10, 20, 30, 15], 16) + line(0, 0.5, 16), 4, 2, fields={"freq": "QS"}),
    "years of 2 % growth": case(growth(1000, 1.02, 20), 5, 30, fields={"freq": "Y"}, rises=True),
    "airline passengers": case(PASSENGERS, 24, 25, fields={"freq": "MS", "start": "1949-01-01"}, within=COUNTS),
    "a wave of 12, with a season of 7": case(wave(96, 12, 50, 10), 24, 2, fields={"season_length": 7}),
    "a line, with a season of 12": case(line(5, 3, 36), 12, 6, fields={"season_length": 12}, rises=True),
}


MISSED = {
    "a first week that rises, in days": 12,
    "a noisy wave of period 100": 0.13,
    "halving": 2,
    "2 % a month with a season that grows": 55,
    "a shop's week and year": 20,
    "Fibonacci's numbers": 36,
}
"""Cases with a larger error than a person would accept (docs/evaluation.md), and the error that they may have."""


def post(client: TestClient, route: str, **body: Any) -> dict[str, Any]:
    response = client.post(route, json=body)
    assert response.status_code < 300, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("name", CASES)
def test_a_series_goes_on_as_a_person_sees_it(shipped: TestClient, name: str) -> None:
    it = CASES[name]
    answer = post(shipped, "/forecast", series=it.series, horizon=len(it.truth), levels=[80], **it.fields)
    median, low, high = (np.array(row) for row in (answer["median"], *answer["quantiles"].values()))
    assert np.abs(median - it.truth).mean() <= MISSED.get(name, it.max_error), np.round(median, 3)
    assert (np.diff([low, median, high], axis=0) >= 0).all()
    assert it.within[0] <= low.min() <= high.max() <= it.within[1], np.round([low, high], 3)
    assert it.width[0] <= high[-1] - low[-1] <= it.width[1]
    if it.rises:
        last = next(value for value in reversed(it.series) if value is not None)
        assert median[-1] > max(last, median[0]), np.round(median, 3)


def test_a_session_that_begins_with_one_value_forecasts_as_one_call_over_all(shipped: TestClient) -> None:
    """Such as a sensor's, with default settings."""
    it = case(repeated(SHOP_WEEK, 217), 7, 1, noise=0.5)
    session = post(shipped, "/sessions", series=it.series[:1])["id"]
    pieces = post(shipped, "/forecast", session_id=session, series=it.series[1:], horizon=7)["median"]
    whole = post(shipped, "/forecast", series=it.series, horizon=7)["median"]
    np.testing.assert_allclose(pieces, whole, rtol=1e-4)
    assert np.abs(np.array(pieces) - it.truth).mean() <= it.max_error
