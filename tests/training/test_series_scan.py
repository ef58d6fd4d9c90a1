"""The scan of a series and the candidates: against plain arithmetic, and in pieces."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.nets.arithmetic import TorchBackend
from training.nets.candidates import GROWTHS, OTHERS, SELECTED, WINDOWS, Place, by_lag, lag_features, plain, selected
from training.nets.series_scan import (
    LAG_DECAYS,
    LAGS,
    STEP_INPUTS,
    Scan,
    lag_figures,
    scan_series,
    state_after,
    state_shapes,
)

F = TorchBackend()
AHEAD = np.arange(1, 25)


def fresh(rows: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.full((rows, *shape), initial, dtype=getattr(torch, dtype))
        for name, (shape, dtype, initial) in state_shapes(STEP_INPUTS).items()
    }


def scanned(values: NDArray[np.float64], state: dict[str, torch.Tensor] | None = None) -> tuple[Scan, dict[str, Any]]:
    """The scan of values (B, T), NaN = missing, and the state after them."""
    state = state or fresh(len(values))
    observed = torch.from_numpy(np.isfinite(values).astype(np.float64))
    scan, carried = scan_series(F, torch.from_numpy(np.nan_to_num(values)), observed, state)
    end = torch.full((len(values), 1), values.shape[1] - 1)
    return scan, state_after(F, scan, carried, end, state, STEP_INPUTS)


def at_end(values: NDArray[np.float64]) -> tuple[Place, Scan]:
    scan, _ = scanned(values)
    return Place.of(F, scan, torch.full((len(values), 1), values.shape[1] - 1)), scan


@given(seed=st.integers(0, 2**32), steps=st.integers(2, 60), gaps=st.floats(0, 0.7), data=st.data())
def test_pieces_leave_the_state_that_the_whole_does(seed: int, steps: int, gaps: float, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    values = 100 + rng.normal(size=(1, steps)).cumsum(axis=1)
    values[rng.random((1, steps)) < gaps] = np.nan
    _, whole = scanned(values)
    cuts = sorted(data.draw(st.sets(st.integers(1, steps - 1), max_size=4)))
    state, start = fresh(1), 0
    for end in [*cuts, steps]:
        _, state = scanned(values[:, start:end], state)
        start = end
    for name, expected in whole.items():
        np.testing.assert_allclose(state[name], expected, rtol=1e-6, atol=1e-9, err_msg=name)


@given(seed=st.integers(0, 2**32), steps=st.integers(2, 90))
def test_sums_of_a_lag_are_those_of_its_differences(seed: int, steps: int) -> None:
    values = np.random.default_rng(seed).normal(size=(1, steps))
    scan, _ = scanned(values)
    sums, squares = (part[0, 0].numpy() for part in lag_figures(F, scan, torch.tensor([[steps - 1]])))
    for d, decay in enumerate(LAG_DECAYS):
        for i, lag in enumerate(LAGS[steps > LAGS]):
            differences = values[0, lag:] - values[0, :-lag]
            weights = decay ** np.arange(len(differences))[::-1]
            at = d * len(LAGS) + i
            np.testing.assert_allclose(sums[at], weights @ differences, atol=1e-9)
            np.testing.assert_allclose(squares[at], weights @ differences**2, atol=1e-9)


@pytest.mark.parametrize("season", [4, 7, 12, 24])
def test_a_lag_at_which_a_series_repeats_itself_has_no_variance_whatever_its_trend(season: int) -> None:
    shape = np.random.default_rng(season).normal(size=season)
    values = np.tile(shape, 5)[None] + 0.7 * np.arange(5 * season)
    place, scan = at_end(values)
    _, variance, drift, usable = lag_features(F, place, scan.season)
    best = int(np.where(usable[0, 0] > 0, variance[0, 0], np.inf).argmin())
    assert LAGS[best] % season == 0
    repeated, drifting, _ = by_lag(F, place, drift, AHEAD)
    at = LAGS.tolist().index(season)
    going_on = (repeated + drifting)[0, 0, at] * place.unit[0, 0] + place.newest[0, 0]
    truth = shape[(5 * season + AHEAD - 1) % season] + 0.7 * (5 * season + AHEAD - 1)
    np.testing.assert_allclose(going_on, truth, rtol=1e-3)


def rule(values: NDArray[np.float64], column: int) -> NDArray[np.float64]:
    """One of the candidates by rule, in the units of the values."""
    place, _ = at_end(values[None])
    candidate: NDArray[np.float64] = (plain(F, place, AHEAD)[0, 0, :, column] + place.newest[0, 0]).numpy()
    return candidate


@pytest.mark.parametrize("n", range(len(WINDOWS)))
@pytest.mark.parametrize("missing", [0, 6])
def test_a_line_goes_on(n: int, missing: int) -> None:
    line = 5 - 0.25 * np.arange(160)
    values = np.concatenate([line[: 160 - missing], np.full(missing, np.nan)])
    np.testing.assert_allclose(rule(values, len(WINDOWS) + n), 5 - 0.25 * (159 + AHEAD), rtol=1e-9)


@pytest.mark.parametrize("n", range(len(GROWTHS)))
@pytest.mark.parametrize("factor", [2.0, 0.5, 1.03])
def test_growth_goes_on(n: int, factor: float) -> None:
    values = 3 * factor ** np.arange(40.0)
    np.testing.assert_allclose(rule(values, 2 * len(WINDOWS) + n), 3 * factor ** (39 + AHEAD), rtol=1e-9)


def test_a_rule_that_holds_never_misses_and_another_does() -> None:
    t = np.arange(30.0)
    series = {"line": 5 - 0.25 * t, "parabola": (t + 1) * (t + 2) / 2, "growth": 3 * 1.2**t}
    missed = {name: at_end(values[None])[0].missed[0, 0].numpy() for name, values in series.items()}
    units = {name: float(at_end(values[None])[0].unit[0, 0, 0]) for name, values in series.items()}
    for i, name in enumerate(series):
        assert missed[name][i] < 1e-12 * units[name]
    assert missed["parabola"][0] > 0.01 * units["parabola"]
    assert missed["growth"][1] > 0.001 * units["growth"]
    assert missed["line"][2] > 0.001 * units["line"]


def test_a_lag_that_repeats_a_series_to_the_last_bits_has_the_same_variance_whatever_the_rounding() -> None:
    """A smaller variance would be one of rounding errors, which differ in a series that comes in pieces."""
    line: NDArray[np.float64] = 0.1 * np.arange(150.0)
    noisy: NDArray[np.float64] = line + 1e-13 * np.sin(np.arange(150.0))
    places = [at_end(values[None]) for values in (line, noisy)]
    first, second = (lag_features(F, place, scan.season)[0] for place, scan in places)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_parabola_goes_on() -> None:
    t = np.arange(12.0)
    np.testing.assert_allclose(rule((t + 1) * (t + 2) / 2, -1), (12 + AHEAD) * (13 + AHEAD) / 2, rtol=1e-9)


def test_a_season_that_grows_by_a_factor_goes_on() -> None:
    t = np.arange(60)
    values = 100 * 1.02**t * (1 + 0.2 * np.sin(2 * np.pi * t / 12))
    place, _ = at_end(values[None])
    best = torch.full((1, 1, SELECTED), LAGS.tolist().index(12))
    candidates, _ = selected(F, place, best, AHEAD)
    grown = candidates[0, 0, :, 5 * SELECTED] + place.newest[0, 0]
    later = 59 + AHEAD
    np.testing.assert_allclose(grown, 100 * 1.02**later * (1 + 0.2 * np.sin(2 * np.pi * later / 12)), rtol=1e-6)


def test_there_are_as_many_candidates_as_the_head_reads() -> None:
    place, _ = at_end(np.arange(9.0)[None])
    best = torch.zeros(1, 1, SELECTED, dtype=torch.int64)
    assert selected(F, place, best, AHEAD)[0].shape[3] + plain(F, place, AHEAD).shape[3] == OTHERS
