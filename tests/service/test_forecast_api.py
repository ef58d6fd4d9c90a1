"""POST /forecast, through the real application."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

SERIES = [10.0, 11, 12.5, None, 12, 13, 14, 13.5, 15]


def post(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post("/forecast", json=body)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_forecast_has_ascending_quantiles_for_every_step(client: TestClient) -> None:
    answer = post(client, series=SERIES, horizon=3)
    assert answer["model"] == {"name": "forecast", "version": 1}
    assert list(answer["quantiles"]) == ["0.1", "0.5", "0.9"]
    rows = np.array(list(answer["quantiles"].values()))
    assert rows.shape == (3, 3)
    assert (np.diff(rows, axis=0) >= 0).all()
    assert answer["median"] == answer["quantiles"]["0.5"]


@pytest.mark.parametrize("horizon", [4, 5, 9, 100])
def test_a_longer_horizon_begins_with_the_shorter_one(client: TestClient, horizon: int) -> None:
    short = post(client, series=SERIES, horizon=4)["median"]
    longer = post(client, series=SERIES, horizon=horizon)["median"]
    assert len(longer) == horizon
    assert longer[:4] == short


def test_quantiles_between_the_models_levels_lie_between_its_quantiles(client: TestClient) -> None:
    quantiles = post(client, series=SERIES, horizon=2)["quantiles"]
    answer = post(client, series=SERIES, horizon=2, quantiles=[0.3, 0.1])["quantiles"]
    assert list(answer) == ["0.1", "0.3"]
    assert answer["0.1"] == quantiles["0.1"]
    assert np.allclose(answer["0.3"], (np.array(quantiles["0.1"]) + quantiles["0.5"]) / 2)


def test_levels_are_central_intervals(client: TestClient) -> None:
    quantiles = post(client, series=SERIES, horizon=2)["quantiles"]
    assert post(client, series=SERIES, horizon=2, levels=[80])["quantiles"] == {
        "0.1": quantiles["0.1"],
        "0.9": quantiles["0.9"],
    }


def test_history_is_the_one_step_forecast_of_each_value(client: TestClient) -> None:
    answer = post(client, series=SERIES, horizon=1, include_history=True)["history"]["quantiles"]["0.5"]
    assert len(answer) == len(SERIES)
    assert answer[0] is None
    for length in (1, 4, 8):
        alone = post(client, series=SERIES[:length], horizon=1)["median"][0]
        assert answer[length] == pytest.approx(alone, rel=1e-4)


def test_timestamps_follow_the_series(client: TestClient) -> None:
    answer = post(client, series=SERIES, horizon=3, start="2024-01-31", freq="M")
    assert answer["timestamps"] == ["2024-10-31", "2024-11-30", "2024-12-31"]


def test_non_negative_raises_every_number_to_zero(client: TestClient) -> None:
    series = [0.1, -3, 0.2, -4, 0, -5]
    assert min(post(client, series=series, horizon=5)["quantiles"]["0.1"]) < 0
    answer = post(client, series=series, horizon=5, non_negative=True, include_history=True)
    numbers = [*answer["median"], *answer["quantiles"]["0.1"], *answer["history"]["quantiles"]["0.1"][1:]]
    assert min(numbers) >= 0


def test_non_negative_is_an_alias_of_a_lower_bound_of_zero(client: TestClient) -> None:
    body: dict[str, Any] = {"series": [0.1, -3, 0.2, -4, 0, -5], "horizon": 5, "include_history": True}
    bounded = post(client, **body, lower=0)
    assert post(client, **body, non_negative=True) == bounded
    assert post(client, **body, non_negative=True, lower=0) == bounded
    assert "-0.0" not in str(bounded)


WIDE = [0.1, -30, 2, -40, 12, -5, 60]
MANY_LEVELS = [0.001, 0.02, 0.1, 0.25, 0.3, 0.5, 0.62, 0.9, 0.95, 0.999]


@given(lower=st.none() | st.floats(-80, 60), width=st.none() | st.floats(1e-3, 100), horizon=st.integers(1, 12))
def test_bounds_clip_what_is_answered_and_change_nothing_else(
    client: TestClient, lower: float | None, width: float | None, horizon: int
) -> None:
    """At every level, between those of the model and in the tails, and beyond the model's own horizon."""
    upper = None if width is None else (lower or 0.0) + width
    body: dict[str, Any] = {"series": WIDE, "horizon": horizon, "quantiles": MANY_LEVELS, "include_history": True}
    free, bounded = post(client, **body), post(client, **body, lower=lower, upper=upper)
    low, high = -np.inf if lower is None else lower, np.inf if upper is None else upper

    def clipped(numbers: list[float | None]) -> list[float | None]:
        return [number if number is None else min(max(number, low), high) for number in numbers]

    assert bounded["median"] == clipped(free["median"])
    assert bounded["quantiles"] == {level: clipped(row) for level, row in free["quantiles"].items()}
    assert bounded["history"]["quantiles"] == {
        level: clipped(row) for level, row in free["history"]["quantiles"].items()
    }
    assert (np.diff([*bounded["quantiles"].values()], axis=0) >= 0).all()


def test_bounds_of_a_session_hold_for_one_call(client: TestClient) -> None:
    session = client.post("/sessions", json={"series": WIDE[:3]}).json()["id"]
    bounded = post(client, session_id=session, series=WIDE[3:6], horizon=5, lower=0, upper=1)
    assert 0 <= min(bounded["quantiles"]["0.1"]) <= max(bounded["quantiles"]["0.9"]) <= 1
    free = post(client, session_id=session, series=WIDE[6:], horizon=5)
    for level, row in post(client, series=WIDE, horizon=5)["quantiles"].items():
        assert free["quantiles"][level] == pytest.approx(row, rel=1e-12)


@given(horizon=st.integers(1, 30), data=st.data())
def test_steps_from_one_on_are_the_end_of_the_whole_answer_to_the_bit(
    client: TestClient, horizon: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(1, horizon))
    body: dict[str, Any] = {
        "series": SERIES,
        "start": "2024-01-31",
        "freq": "M",
        "include_history": True,
        "horizon": horizon,
    }
    body |= data.draw(st.sampled_from([{}, {"levels": [99, 33]}, {"lower": 11.5}]))
    whole, end = post(client, **body), post(client, **body, from_step=first)
    assert (whole["from_step"], end["from_step"]) == (1, first)
    expected = whole | {
        "from_step": first,
        "median": whole["median"][first - 1 :],
        "quantiles": {level: row[first - 1 :] for level, row in whole["quantiles"].items()},
        "timestamps": whole["timestamps"][first - 1 :],
    }
    assert end == expected


def test_a_session_stands_where_it_would_whichever_steps_are_answered(client: TestClient) -> None:
    session = client.post("/sessions", json={"series": SERIES[:4]}).json()["id"]
    post(client, session_id=session, series=SERIES[4:6], horizon=9, from_step=9)
    whole = post(client, series=SERIES, horizon=3)
    assert post(client, session_id=session, series=SERIES[6:], horizon=3)["median"] == whole["median"]


def test_bounds_and_steps_of_a_batch_may_stand_once_beside_its_requests(client: TestClient) -> None:
    """Of `lower` and `non_negative`, what an item says replaces both."""
    items: list[dict[str, Any]] = [{}, {"lower": -1, "from_step": 2}, {"non_negative": True}, {"upper": -7}]
    requests = [{"series": WIDE, **item} for item in items]
    body: dict[str, Any] = {"requests": requests, "horizon": 6, "from_step": 5, "lower": -8, "upper": 3, "levels": [99]}
    results = client.post("/forecast/batch", json=body).json()["results"]
    for item, answer in zip(items, results, strict=True):
        shared: dict[str, Any] = {"horizon": 6, "from_step": 5, "lower": -8, "upper": 3, "levels": [99]}
        if "non_negative" in item:
            del shared["lower"]
        assert answer == post(client, series=WIDE, **(shared | item))
    assert [len(answer["median"]) for answer in results] == [2, 5, 2, 2]
    assert [min(answer["quantiles"]["0.005"]) for answer in results] == [-8, -1, 0, -8]


def test_several_features_by_name(client: TestClient) -> None:
    series = {"f1": ["a", "b", None, "c"], "f0": [1, 2, 3, 4]}
    answer = post(client, model="weather", series=series, horizon=9)
    swapped = post(client, model="weather", series=dict(reversed(series.items())), horizon=9)
    assert answer == swapped
    others = series | {"f1": ["c", "a", "c", "a"]}
    assert answer["median"] != post(client, model="weather", series=others, horizon=9)["median"]


def test_a_constant_series_is_forecast_to_stay(client: TestClient) -> None:
    assert post(client, series=[7.5] * 30, horizon=6)["median"] == pytest.approx([7.5] * 6, rel=1e-6)


@pytest.mark.parametrize("value", [5.0, 0.1, -1e12, 1e-9, 0.0])
def test_of_a_constant_series_so_are_all_quantiles(shipped: TestClient, value: float) -> None:
    """To a millionth, and in order, also between levels and far beyond the horizon."""
    levels = [0.1, 0.11, 0.2, 0.37, 0.5, 0.501, 0.77, 0.9]
    answer = post(shipped, series=[value] * 50, horizon=480, quantiles=levels)
    rows = np.array([*answer["quantiles"].values()])
    np.testing.assert_allclose(rows, value, rtol=1e-6, atol=1e-12 * abs(value) + 1e-25)
    assert (np.diff(rows, axis=0) >= 0).all()


@given(
    shift=st.sampled_from([0.0, 1e3, -1e6]),
    scale=st.sampled_from([1e-3, 1.0, 1e5]),
    steps=st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=8, max_size=20),
)
def test_the_unit_of_a_series_does_not_matter(
    client: TestClient, shift: float, scale: float, steps: list[float]
) -> None:
    """Not shifts: the level over the scale is one of the inputs. But units, far above the 1e-30 that a scale is held
    above."""
    series = (np.cumsum(steps) + shift).tolist()
    one = np.array(post(client, series=series, horizon=4)["median"])
    other = np.array(post(client, series=(np.array(series) * scale).tolist(), horizon=4)["median"])
    size = 1e-3 * (np.ptp(series) + 1e-9 * abs(shift) + 1e-12)
    np.testing.assert_allclose(other / scale, one, atol=size, rtol=1e-6)


@given(
    steps=st.lists(st.integers(-20, 20), min_size=5, max_size=60).filter(lambda steps: any(steps[1:])),
    digits=st.integers(8, 12),
    unit=st.sampled_from([1.0, 100.0, 2.0**-20, 1e6]),
)
def test_a_forecast_moves_with_the_level_of_its_series(
    shipped: TestClient, steps: list[int], digits: int, unit: float
) -> None:
    """As far as doubles have digits for both: counters, and stamps of time, are far above their steps. Below a ratio of
    1e6, the level counts as a size to grow in proportion to."""

    def relative_to(level: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        series = [unit * (level + value) for value in np.cumsum(steps).tolist()]
        answer = post(shipped, series=series, horizon=12, quantiles=[0.1, 0.5, 0.9])
        return np.array([*answer["quantiles"].values()]) / unit - level

    near, far = relative_to(1e7), relative_to(10.0**digits)
    np.testing.assert_allclose(far, near, atol=0.01 * (np.ptp(near) + 1) + 2e-13 * 10.0**digits)


def test_a_counter_goes_on_by_its_own_steps(shipped: TestClient) -> None:
    stamps = [1_700_000_000_000 + 100 * i for i in range(6)]
    median = np.array(post(shipped, series=stamps, horizon=3)["median"])
    assert (np.abs(median - stamps[-1]) < 400).all()
    assert (np.diff([stamps[-1], *median]) > 0).all()


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("values", [[3], [3, 4], [3, 3, 5], [7.5] * 30, [0] * 20, [0, 0, 3, 0, 0, 0, 1, 0, 0, 2] * 4])
def test_any_short_constant_or_sparse_series_of_any_size_has_finite_ascending_quantiles(
    shipped: TestClient, unit: float, values: list[float]
) -> None:
    series = [value * unit for value in values]
    answer = post(shipped, series=series, horizon=60, include_history=True, non_negative=True)
    rows = np.array([*answer["quantiles"].values()])
    assert np.isfinite(rows).all()
    assert (np.diff(rows, axis=0) >= 0).all()
    assert rows.min() >= 0
    history = np.array([row[1:] for row in answer["history"]["quantiles"].values()], dtype=np.float64)
    assert np.isfinite(history).all()
    assert max(map(abs, answer["median"])) <= 100 * max(series) + 1e-9 * unit


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "empty": ({"series": []}, "$.series", "at least one"),
    "only nulls": ({"series": [None, None]}, "$.series", "only nulls"),
    "a string": ({"series": "1,2,3"}, "$.series", "list"),
    "null": ({"series": None}, "$.series", "list"),
    "a string inside": ({"series": [1, "2"]}, "$.series[1]", "finite number"),
    "a boolean inside": ({"series": [1, True]}, "$.series[1]", "finite number"),
    "a list inside": ({"series": [1, [2]]}, "$.series[1]", "finite number"),
    "too large a number": ({"series": [1, 1e31]}, "$.series[1]", "less than or equal to"),
    "an integer without end": ({"series": [10**400]}, "$.series[0]", "finite number"),
    "too long": ({"series": [1.0] * 5001}, "$.series", "at most 5000"),
    "no series": ({}, "$.series", "required"),
    "no features": ({"series": {}}, "$.series", "at least one"),
    "horizon zero": ({"series": [1], "horizon": 0}, "$.horizon", "greater than or equal to 1"),
    "horizon too far": ({"series": [1], "horizon": 101}, "$.horizon", "at most 100"),
    "horizon a fraction": ({"series": [1], "horizon": 1.5}, "$.horizon", "integer"),
    "a step of zero": ({"series": [1], "from_step": 0}, "$.from_step", "greater than or equal to 1"),
    "a step beyond the horizon": (
        {"series": [1], "horizon": 4, "from_step": 5},
        "$.from_step",
        "at most the horizon, 4",
    ),
    "a step that is a fraction": ({"series": [1], "from_step": 1.5}, "$.from_step", "integer"),
    "a bound that is no number": ({"series": [1], "lower": "0"}, "$.lower", "number"),
    "a bound too large": ({"series": [1], "upper": 1e31}, "$.upper", "less than or equal to"),
    "bounds that are equal": ({"series": [1], "lower": 2, "upper": 2}, "$.upper", "greater than the lower bound, 2"),
    "bounds in the wrong order": ({"series": [1], "lower": 2, "upper": -1}, "$.upper", "greater than the lower bound"),
    "an upper bound of zero, non-negative": (
        {"series": [1], "non_negative": True, "upper": 0},
        "$.upper",
        "greater than the lower bound, 0",
    ),
    "two lower bounds": ({"series": [1], "non_negative": True, "lower": -1}, "$.lower", "`non_negative`"),
    "unknown field": ({"series": [1], "horizons": 3}, "$.horizons", "not permitted"),
    "a level outside": ({"series": [1], "quantiles": [0.0005]}, "$.quantiles", "0.001 to 0.999"),
    "an interval outside": ({"series": [1], "levels": [99.9]}, "$.levels", "99.8 %"),
    "both": ({"series": [1], "levels": [80], "quantiles": [0.5]}, "$.levels", "not both"),
    "start alone": ({"series": [1], "start": "2024-01-01"}, "$.freq", "both"),
    "a bad start": ({"series": [1], "start": "yesterday", "freq": "D"}, "$.start", "ISO 8601"),
    "a bad freq": ({"series": [1], "start": "2024-01-01", "freq": "fortnight"}, "$.freq", "accepted"),
    "past the calendar": ({"series": [1], "start": "9999-06-01", "freq": "Y"}, "$.start", "9999"),
    "a feature missing": ({"series": {"f0": [1]}, "model": "weather"}, "$.series.f1", "missing"),
    "a feature too many": (
        {"series": {"f0": [1], "f1": [None], "x": [1]}, "model": "weather"},
        "$.series.x",
        "unknown",
    ),
    "unequal features": ({"series": {"f0": [1, 2], "f1": ["a"]}, "model": "weather"}, "$.series.f1", "has 1 values"),
    "one list for two": ({"series": [1, 2], "model": "weather"}, "$.series", "f0, f1"),
    "a text model": ({"series": [1], "model": "text"}, "$.model", "is a text model"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_field_and_what_is_accepted(client: TestClient, name: str) -> None:
    body, path, message = BAD[name]
    response = client.post("/forecast", json=body)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422
    assert problem["request_id"] == response.headers["x-request-id"]
    errors = {error["path"]: error["message"] for error in problem["errors"]}
    assert message in errors[path]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_know_are_refused(client: TestClient, literal: str) -> None:
    response = client.post(
        "/forecast", content=f'{{"series":[1,{literal}]}}', headers={"content-type": "application/json"}
    )
    assert response.status_code == 422
    assert response.json()["errors"][0]["path"] == "$.series[1]"


@pytest.mark.parametrize("body", [b"", b"{", b"[[[[", b"\xff\xfe", b"[" * 50_000, b'{"series": [1,]}', b"nul"])
def test_a_body_that_is_no_json_is_refused(client: TestClient, body: bytes) -> None:
    response = client.post("/forecast", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("model", "status"), [("nobody", 404), ("forecast@7", 404), ("forecast@1", 200)])
def test_models_are_found_by_name_and_version(client: TestClient, model: str, status: int) -> None:
    post(client, status, series=[1, 2], model=model)


def test_a_body_over_the_limit_is_refused_by_its_length_and_by_its_bytes(client: TestClient) -> None:
    body = b"[" + b"1," * 60_000 + b"1]"
    whole = client.post("/forecast", content=body)
    streamed = client.post("/forecast", content=(body[i : i + 1000] for i in range(0, len(body), 1000)))
    for response in (whole, streamed):
        assert response.status_code == 413
        assert response.json()["code"] == "body_too_large"


@given(body=st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["series", "horizon", "model", "levels", "freq", "start", "x"]), inner, max_size=5
    ),
    max_leaves=12,
))  # fmt: skip
def test_no_body_whatever_makes_the_service_fail(client: TestClient, body: Any) -> None:
    import json

    content = json.dumps(body)  # NaN and Infinity too
    for route in ("/forecast", "/generate", "/predict"):
        response = client.post(route, content=content, headers={"content-type": "application/json"})
        assert response.status_code in (200, 400, 404, 422)
