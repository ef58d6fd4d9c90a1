"""A season is found where there is one, and hardly ever where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from starlette.testclient import TestClient

from service.seasons import enough_for, find_season
from service.timestamps import seasons_of

Floats = NDArray[np.float64]


def seasonal(season: int, cycles: int, noise: float, seed: int = 0) -> Floats:
    """A random shape repeated on a random walk; the noise in units of the shape's deviation."""
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=season)
    shape = (shape - shape.mean()) / shape.std()
    values = np.tile(shape, cycles)
    return values + noise * rng.normal(size=len(values)) + 0.1 * rng.normal(size=len(values)).cumsum()


@pytest.mark.parametrize("season", [4, 5, 7, 10, 12, 20, 24, 48, 52, 96, 168, 336])
def test_a_clear_season_is_found(season: int) -> None:
    found = [find_season(seasonal(season, 6, 0.3, seed), 336)[-1] for seed in range(20)]
    assert found.count(season) >= 17


@pytest.mark.parametrize("made", ["noise", "walk", "trend", "autoregression"])
@pytest.mark.parametrize("length", [24, 80, 300])
def test_where_there_is_no_season_hardly_ever_one_is_found(made: str, length: int) -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(200):
        noise = rng.normal(size=length)
        values = {"noise": noise, "walk": noise.cumsum(), "trend": noise + np.arange(length) ** 2 / 9}.get(made)
        if values is None:
            values = np.convolve(noise, 0.8 ** np.arange(30))[:length]
        found.append(find_season(values, 336))
    assert found.count((1,)) >= 194


def test_hours_of_a_day_and_days_of_a_week_are_two_seasons() -> None:
    day, week = np.sin(np.arange(24) / 24 * 2 * np.pi), np.repeat([0, 0, 0, 0, 0, 2, 2.5], 24)
    values = np.tile(np.tile(day, 7) + week, 5) + 0.1 * np.random.default_rng(1).normal(size=840)
    assert find_season(values, 168) == (24, 168)
    assert find_season(values, 100) == (24,)


def test_gaps_level_shifts_and_spikes_do_not_hide_a_season() -> None:
    rng = np.random.default_rng(2)
    values = seasonal(12, 10, 0.3)
    values[60:] += 50
    values[[17, 95]] = 300
    values[rng.random(120) < 0.25] = np.nan
    values[40:50] = np.nan
    assert find_season(values, 100) == (12,)


@given(
    season=st.sampled_from([4, 7, 12]),
    scale=st.sampled_from([1e-9, 1.0, 1e9]),
    shift=st.sampled_from([0.0, -5.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_the_unit_and_the_level_do_not_matter(season: int, scale: float, shift: float, seed: int) -> None:
    values = seasonal(season, 6, 0.5, seed)
    assert find_season((values + shift) * scale, 24) == find_season(values, 24)


@given(
    values=st.lists(st.none() | st.floats(-1e30, 1e30) | st.sampled_from([0.0, 1.0]), max_size=60),
    longest=st.integers(1, 400),
)
def test_any_series_has_an_answer_within_the_longest(values: list[float | None], longest: int) -> None:
    found = find_season(np.array(values, dtype=np.float64), longest)
    assert 1 <= len(found) <= 2
    assert 1 <= min(found) <= max(found) <= longest


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2, 1], [7.5] * 200, [0.0, 1.0] * 3])
def test_constant_and_very_short_series_have_none(values: list[float]) -> None:
    assert find_season(np.array(values), 24) == (1,)


@pytest.mark.parametrize(
    ("freq", "seasons"),
    [
        ("Y", (1,)),
        ("5Y", (1,)),
        ("QS-DEC", (4,)),
        ("M", (12,)),
        ("ME", (12,)),
        ("2M", (6,)),
        ("W-SUN", (52,)),
        ("D", (7,)),
        ("B", (5,)),
        ("h", (24, 168)),
        ("30min", (48, 336)),
        ("15T", (96, 672)),
        ("24H", (7,)),
        ("7H", None),
        ("2D", None),
    ],
)
def test_a_frequency_has_its_usual_seasons(freq: str, seasons: tuple[int, ...] | None) -> None:
    assert seasons_of(freq) == seasons


RAMPS = {"a week": ([12, 15, 17, 20, 22, 26, 28], "D"), "a year": (list(range(100, 220, 10)), "MS"),
         "eight months": (list(range(100, 180, 10)), "MS"), "a day": (list(range(100, 340, 10)), "h"),
         "five quarters": ([10, 12, 14, 16, 18], "QS")}  # fmt: skip


@pytest.mark.parametrize("ramp", RAMPS)
def test_what_only_rose_in_its_first_season_does_not_return_to_its_beginning(shipped: TestClient, ramp: str) -> None:
    series, freq = RAMPS[ramp]
    answer = shipped.post("/forecast", json={"series": series, "freq": freq, "horizon": 3}).json()
    assert answer["season_length"] == [1]
    assert min(answer["median"]) > series[-2]


def test_a_season_that_is_told_by_itself_is_obeyed_and_so_is_that_of_a_session(shipped: TestClient) -> None:
    series, freq = RAMPS["a year"]
    told = {"series": series, "freq": freq, "horizon": 3, "season_length": 12}
    assert shipped.post("/forecast", json=told).json()["season_length"] == [12]
    goes_on = {"series": [1.5], "freq": "MS", "horizon": 3, "state": ""}
    assert shipped.post("/forecast", json=goes_on).json()["season_length"] == [12]


@given(count=st.integers(1, 60), season=st.sampled_from([4, 7, 12, 24]), months=st.booleans())
def test_two_seasons_are_always_enough_and_one_of_months_never(count: int, season: int, months: bool) -> None:
    ramp, wave = np.arange(float(count)), np.sin(np.arange(count) * 2 * np.pi / season)
    assert enough_for(season, wave, months) or (months and count <= season) or count < 2 * season
    if count >= 2 * season:
        assert enough_for(season, ramp, months)
    if months and count <= season:
        assert not enough_for(season, wave, months)
    if not months and count < season:
        assert enough_for(season, ramp, months)
    assert enough_for(1, ramp, months)
