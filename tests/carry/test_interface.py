"""One interface, two places: the same calls of a model in this process and of a service, on a real port."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import carry
from carry.answers import Forecast
from carry.exchange import Wire
from carry.interface import Interface, Session
from carry.transport import Http
from service.errors import (
    CarryError,
    InvalidRequestError,
    SessionNotFoundError,
    VersionMismatchError,
    VersionNotKeptError,
    WrongModelKindError,
)
from tests.served import KEY, served

STATE_KEY = "a-state-key-of-this-test"


class Places(NamedTuple):
    """The models of a folder, by name, in this process; and a service with them."""

    local: dict[str, carry.LocalModel]
    service: Interface


@pytest.fixture(scope="module")
def places(models: Path) -> Iterator[Places]:
    """Both with the same key for states."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARRY_STATE_KEY", STATE_KEY)
        local = {name: carry.load(name, models) for name in ("forecast", "weather", "text")}
        with served(models) as url:
            http = Http(url, Wire(api_key=KEY))
            yield Places(local, Interface(http))
            http.close()
    for model in local.values():
        model.close()


numbers = st.none() | st.floats(-1e6, 1e6) | st.integers(-1000, 1000)
series_lists = st.lists(numbers, min_size=1, max_size=40)


def outcome(call: Any, *arguments: Any, **options: Any) -> Any:
    """The answer of a call, or the kind, code and path of its error."""
    try:
        return call(*arguments, **options)
    except CarryError as error:
        return type(error), error.code, error.path


def same(first: Any, second: Any) -> None:
    """Assert that two answers are equal to the bit."""
    if isinstance(first, tuple):
        assert first == second
        return
    assert type(first) is type(second)
    for name, value in vars(first).items():
        other = getattr(second, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other)
        elif isinstance(value, dict):
            assert value.keys() == other.keys()
            for key in value:
                np.testing.assert_array_equal(value[key], other[key])
        elif isinstance(value, list) and value and hasattr(value[0], "median"):
            for window, other_window in zip(value, other, strict=True):
                same(window, other_window)
        else:
            assert value == other, name


@given(
    series=series_lists,
    horizon=st.integers(1, 12),
    levels=st.none() | st.lists(st.sampled_from([50, 80, 99.5]), min_size=1, max_size=2),
    season=st.none() | st.sampled_from([1, 7]),
    lower=st.none() | st.just(0.0),
)
def test_forecasts_are_equal_to_the_bit_in_both_places(
    places: Places, series: list[float | None], horizon: int, levels: list[float] | None, season: Any, lower: Any
) -> None:
    options = {"levels": levels, "season_length": season, "lower": lower, "include_history": True}
    options |= {"start": "2024-01-31", "freq": "D"}
    first = outcome(places.local["forecast"].forecast, series, horizon, **options)
    same(first, outcome(places.service.forecast, series, horizon, **options))


@given(series=series_lists, level=st.sampled_from([None, 60, 99]))
def test_anomalies_are_equal_to_the_bit_in_both_places(
    places: Places, series: list[float | None], level: float | None
) -> None:
    first = outcome(places.local["forecast"].anomalies, series, level=level)
    same(first, outcome(places.service.anomalies, series, level=level))


@given(series=series_lists, horizon=st.integers(1, 5), windows=st.integers(1, 4), step=st.none() | st.integers(1, 3))
def test_backtests_are_equal_to_the_bit_in_both_places(
    places: Places, series: list[float | None], horizon: int, windows: int, step: int | None
) -> None:
    first = outcome(places.local["forecast"].backtest, series, horizon, windows, step=step)
    same(first, outcome(places.service.backtest, series, horizon, windows, step=step))


@given(
    prompt=st.text("abc e\n", max_size=20),
    seed=st.integers(0, 2**63),
    n=st.integers(1, 3),
    logprobs=st.sampled_from([0, 3]),
    stop=st.sampled_from([[], ["a"]]),
)
def test_texts_are_equal_in_both_places_whole_and_streamed(
    places: Places, prompt: str, seed: int, n: int, logprobs: int, stop: list[str]
) -> None:
    local, service = places.local["text"], places.service
    first = local.generate(prompt, 20, seed=seed, n=n, logprobs=logprobs, stop=stop)
    second = service.generate(prompt, 20, seed=seed, n=n, logprobs=logprobs, stop=stop)
    same(first, second)
    assert first.text == first.texts[0]
    assert len(first.texts) == n
    for place in (local, service):
        pieces = [*place.generate(prompt, 20, seed=seed, n=n, stop=stop, stream=True)]
        assert "".join(pieces) == first.text


@given(text=st.text("abc e", max_size=20), top_k=st.integers(1, 4), per_position=st.booleans())
def test_predictions_are_equal_to_the_bit_in_both_places(
    places: Places, text: str, top_k: int, per_position: bool
) -> None:
    options: Any = {"per_position": per_position, "candidates": ["a", "be"]}
    first = places.local["text"].predict(text, top_k, **options)
    same(first, places.service.predict(text, top_k, **options))
    assert len(first.next) == top_k


def faces(places: Places, model: str) -> list[Interface]:
    """The same model in both places."""
    return [places.local[model], places.service]


def ahead(session: Session) -> list[list[float]]:
    """All numbers of a session's forecast, to compare."""
    forecast = session.forecast(5, quantiles=[0.1, 0.5, 0.9])
    return [forecast.median.tolist(), *(column.tolist() for column in forecast.quantiles.values())]


@given(series=st.lists(st.floats(-100, 100), min_size=2, max_size=12), data=st.data())
def test_a_session_is_equal_to_the_bit_in_both_places_after_the_same_calls(
    places: Places, series: list[float], data: Any
) -> None:
    sessions = [face.session(series) for face in faces(places, "forecast")]
    for action in data.draw(st.lists(st.sampled_from(["observe", "rewind", "several"]), max_size=5)):
        value = data.draw(st.floats(-100, 100))
        for session in sessions:
            match action:
                case "observe":
                    session.observe(value)
                case "several":
                    session.observe([value, None, 1.0])
                case "rewind" if session.version:
                    outcome(session.rewind)
        assert ahead(sessions[0]) == ahead(sessions[1])
        assert sessions[0].accuracy() == sessions[1].accuracy()
    assert sessions[0].position == sessions[1].position
    for session in sessions:
        session.close()


def test_a_series_in_pieces_is_the_whole_series(places: Places) -> None:
    series = [float(i % 5 + i / 10) for i in range(30)]
    for face in faces(places, "forecast"):
        whole = face.forecast(series, 5, quantiles=[0.1, 0.5, 0.9])
        with face.session(series[:10]) as session:
            session.observe(series[10:20])
            for value in series[20:]:
                session.observe(value)
            pieces = session.forecast(5, quantiles=[0.1, 0.5, 0.9])
        assert isinstance(whole, Forecast)
        np.testing.assert_allclose(pieces.median, whole.median, rtol=1e-5)


def test_a_text_in_pieces_is_the_whole_text(places: Places) -> None:
    for face in faces(places, "text"):
        whole = face.generate("abc abcabc", 20, seed=3)
        with face.session("abc ") as session:
            session.observe("abc")
            assert session.position == 7
            assert session.generate("abc", 20, seed=3).text == whole.text
            assert session.position == 30


def test_a_streamed_text_moves_the_session_to_its_end(places: Places) -> None:
    for face in faces(places, "text"):
        with face.session("abc ") as session, face.session("abc ") as other:
            streamed = "".join(session.generate("a", 12, seed=1, stream=True))
            assert streamed == other.generate("a", 12, seed=1).text
            assert session.position == other.position == 17
            assert session.generate(max_length=9, seed=2).text == other.generate(max_length=9, seed=2).text


def test_a_session_judges_new_values_as_the_whole_series_is_judged(places: Places) -> None:
    series = [*np.random.default_rng(6).normal(10, 1, 40).round(2), 30.0, 10.5, None, 9.5]
    for face in faces(places, "forecast"):
        whole = face.anomalies(series, level=95)
        with face.session(series[:30]) as session:
            verdicts = [*session.anomalies(series[30:38], 95).anomaly]
            for value in series[38:]:
                verdict = session.anomalies(value, level=95)
                verdicts += verdict.anomaly
                assert verdict.level == 95
            assert session.position == len(series)
            assert session.version == 7
        assert verdicts == whole.anomaly[30:]
        with face.session([1.0, 2.0]) as session:
            assert session.anomalies(3.0).level == 99


def test_a_session_says_how_accurate_its_forecasts_were(places: Places) -> None:
    for face in faces(places, "forecast"):
        with face.session([20.0, 21.0]) as session:
            assert session.accuracy() is None
            session.observe(23.0)
            before = session.accuracy()
            assert before is not None
            assert (before.values, [*before.coverage]) == (1, [50, 80, 95])
            assert before.mase >= 0
            assert before.scaled_quantile_loss > 0
            session.anomalies([22.0, 25.0, None])
            after = session.accuracy()
            assert after is not None
            assert after.values == 3
            with session.fork() as fork, face.session(state=session.export()) as copy:
                assert fork.accuracy() == copy.accuracy() == after
            session.rewind()
            assert session.accuracy() == before
    for face in faces(places, "text"):
        with face.session("abc", model="text") as text:
            assert text.accuracy() is None


def test_a_fork_leaves_its_session_as_it_is(places: Places) -> None:
    for face in faces(places, "forecast"):
        with face.session([1, 2, 4]) as session:
            before = ahead(session)
            with session.fork() as fork:
                assert ahead(fork) == before
                fork.observe([50, 60])
                assert ahead(fork) != before
                assert ahead(session) == before
                assert (session.version, session.position) == (0, 3)


def test_rewinding_undoes_one_change_after_the_other(places: Places) -> None:
    for face in faces(places, "forecast"):
        with face.session([1, 2, 4]) as session:
            states = [ahead(session)]
            for value in (8.0, 16.0, 32.0):
                session.observe(value)
                states.append(ahead(session))
            session.rewind()
            assert ahead(session) == states[2]
            session.rewind()
            assert ahead(session) == states[1]
            session.observe(16.0)
            assert ahead(session) == states[2]
            session.rewind(2)
            assert ahead(session) == states[0]
            assert session.position == 3
            with pytest.raises(InvalidRequestError, match="has not changed"):
                session.rewind()


def test_a_version_that_is_not_kept_any_more_is_an_error_in_both_places(places: Places) -> None:
    for face in faces(places, "forecast"):
        with face.session([1, 2]) as session:
            for value in range(9):
                session.observe(float(value))
            before = ahead(session)
            with pytest.raises(VersionNotKeptError):
                session.rewind(9)
            assert ahead(session) == before
            session.rewind(8)
            assert session.position == 3


def test_an_exported_state_goes_on_in_the_other_place(places: Places) -> None:
    local, service = faces(places, "forecast")
    for first, second in ((local, service), (service, local), (local, local)):
        with first.session([1, 2, 4, 8], season_length=1) as session:
            session.observe(3)
            with second.session(state=session.export()) as other:
                assert ahead(other) == ahead(session)
                assert other.position == 5
                session.observe([0, 1])
                other.restore(session.export())
                assert ahead(other) == ahead(session)


def test_a_damaged_state_is_refused_in_both_places(places: Places) -> None:
    for face in faces(places, "forecast"):
        with face.session([1, 2]) as session:
            state = session.export()
            for wrong in ("", "?", state[:40], "AAAA" + state[4:]):
                found = outcome(session.restore, wrong)
                assert found[1:] in (("state_refused", "$.state"), ("invalid_request", "$.state"))


def test_a_session_that_another_caller_moved_says_so(places: Places) -> None:
    for face in faces(places, "forecast"):
        with face.session([1, 2]) as session:
            same_session = Session(face._place, face._place.run(type(session._calls).attach(session.id)))
            same_session.observe(4)
            with pytest.raises(VersionMismatchError):
                session.observe(3)
            assert same_session.position == 3
            session._calls.version = same_session.version


def test_a_closed_session_is_gone_in_both_places(places: Places) -> None:
    for face in faces(places, "forecast"):
        session = face.session([1, 2])
        session.close()
        with pytest.raises(SessionNotFoundError):
            session.forecast(1)


@pytest.mark.parametrize(
    ("method", "arguments", "options"),
    [
        ("forecast", ([],), {}),
        ("forecast", ([1, "a"],), {}),
        ("forecast", ([1, float("inf")],), {}),
        ("forecast", ([None],), {}),
        ("forecast", ({"y": [1, True]},), {}),
        ("forecast", ([1, 2], 0), {}),
        ("forecast", ([1, 2], 2000), {}),
        ("forecast", ([1, 2],), {"levels": [99.99]}),
        ("forecast", ([1, 2],), {"levels": [80], "quantiles": [0.1]}),
        ("forecast", ([1, 2],), {"freq": "fortnight"}),
        ("forecast", ([1, 2],), {"start": "yesterday", "freq": "D"}),
        ("forecast", ([1, 2],), {"future": {"price": [1]}}),
        ("forecast", ([1, 2],), {"lower": 1, "upper": 0}),
        ("anomalies", ([1, 2],), {"level": 100}),
        ("backtest", ([1, 2], 5, 3), {}),
        ("generate", ("abc",), {"temperature": -1}),
        ("generate", ("abc", 100_000), {}),
        ("predict", ("abc", 0), {}),
        ("predict", ("abc",), {"candidates": [""]}),
        ("session", ([],), {}),
        ("session", ([1, 2],), {"season_length": 0}),
    ],
)
def test_what_is_refused_is_refused_alike_in_both_places(
    places: Places, method: str, arguments: Any, options: Any
) -> None:
    local = places.local["text" if method in ("generate", "predict") else "forecast"]
    kind, code, path = outcome(getattr(local, method), *arguments, **options)
    assert path is not None
    assert outcome(getattr(places.service, method), *arguments, **options) == (kind, code, path)


def test_a_call_of_another_kind_is_refused_in_both_places(places: Places) -> None:
    for face in (places.local["text"], places.service):
        with pytest.raises(WrongModelKindError):
            face.forecast([1, 2], model="text")


def test_an_option_that_does_not_exist_is_an_error(places: Places) -> None:
    for face in faces(places, "forecast"):
        with pytest.raises(TypeError, match="season_lenght"):
            face.forecast([1, 2], **{"season_lenght": 7})  # type: ignore[arg-type]  # a caller without a type checker


def test_of_several_series_the_good_ones_come_back(places: Places) -> None:
    data = [[1, 2, 3], [None], [4, 5], [1, "a"]]
    for face in faces(places, "forecast"):
        answers = face.forecast(data, 2)
        assert [answer is None for answer in answers] == [False, True, False, True]
        assert {i: error.code for i, error in answers.errors.items()} == dict.fromkeys((1, 3), "invalid_request")
        for i in (0, 2):
            same(answers[i], face.forecast(data[i], 2))


def test_features_are_series_by_name(places: Places) -> None:
    series = {"f0": np.array([1, 2, np.nan, 4]), "f1": ["a", None, "b", "c"]}
    future = {"f1": ["a", "b"]}
    first = places.local["weather"].forecast(series, 3, future=future)
    same(first, places.service.forecast(series, 3, model="weather", future=future))
    assert first.median.tolist() != places.local["weather"].forecast(series, 3).median.tolist()


@given(panel=st.lists(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=10), min_size=1, max_size=4))
def test_a_frame_has_the_same_answers_in_both_places(places: Places, panel: list[list[float]]) -> None:
    day = datetime(2024, 2, 27)
    rows = [(i, day + timedelta(k), y) for i, series in enumerate(panel) for k, y in enumerate(series)]
    frame = pl.DataFrame(rows, ["unique_id", "ds", "y"], orient="row")
    local, service = faces(places, "forecast")
    assert_frame_equal(local.forecast(frame, 3), service.forecast(frame, 3), check_exact=True)
    assert_frame_equal(local.anomalies(frame), service.anomalies(frame), check_exact=True)
    first, second = local.backtest(frame, 2, 2), service.backtest(frame, 2, 2)
    assert_frame_equal(first.forecasts, second.forecasts, check_exact=True)
    assert_frame_equal(first.metrics, second.metrics, check_exact=True)
