"""A sequence in pieces, cut anywhere and in any batch, is the sequence at once; and the codec of its state."""

import itertools
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.sequence import EMPTY_STATE, SequenceState, Task
from service.errors import InvalidRequestError, InvalidStateError, NonFiniteOutputError, SessionModelError
from service.forecast.kind import FORECAST
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest, forecast
from service.kind import codec_of
from service.sessions.state import StateCodec, sign_state, verify_state
from service.text.kind import TEXT
from service.text.manifest import TextManifest
from service.text.scoring import predict
from service.text.task import GenerateRequest, generate
from tests.builders import new_scheduler, run
from tests.service.test_scheduler import PARAMS, PRECISIONS, Arrival, graphs, play
from training.onnx.layers import Precision

STEP = st.builds(
    GenerateRequest,
    prompt=st.text("abc \n", max_size=30) | st.text("ab", min_size=125, max_size=140),
    max_length=st.integers(0, 40),
    params=PARAMS,
    seed=st.integers(0, 2**53),
    stop=st.lists(st.text("abet ", min_size=1, max_size=3), max_size=2).map(tuple),
) | st.tuples(st.text("abc \n?", max_size=40), st.booleans())
ALIVE = st.builds(Arrival, st.lists(STEP, min_size=1, max_size=5), st.integers(0, 20))


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=40)
@given(arrivals=st.lists(ALIVE, min_size=1, max_size=5), chunk=st.integers(1, 70))
def test_a_text_in_pieces_is_the_text_at_once(precision: Precision, arrivals: list[Arrival], chunk: int) -> None:
    """The generated text, the predictions and the state after each step, all to the bit."""
    manifest, _, scheduler = new_scheduler(graphs("text", precision), chunk)
    assert isinstance(manifest, TextManifest)
    tokenizer, codec = manifest.tokenizer, codec_of(TEXT, manifest, manifest.graphs(precision))

    def in_steps(steps: list[Any]) -> Task[list[tuple[str, Any]]]:
        state, results = codec.encode(EMPTY_STATE), []
        for step in steps:
            start = codec.decode(state)
            if isinstance(step, GenerateRequest):
                [row], task = generate(tokenizer, step, start, returns_state=True)
                after = yield from task
                results.append(("".join(row.text), codec.encode(after)))
            else:
                text, per_position = step
                scored = yield from predict(tokenizer, text, per_position, start)
                after = scored.after
                results.append((scored.scores[-1].tolist(), codec.encode(after)))
            state = codec.encode(after)
        return results

    for arrival, results in zip(arrivals, play(scheduler, arrivals, in_steps), strict=True):
        whole = ""
        for step, (answer, state) in zip(arrival.content, results, strict=True):
            if isinstance(step, GenerateRequest):
                assert isinstance(step.prompt, str)
                whole += step.prompt or ("\n" if step.max_length and not whole else "")
                if step.max_length:
                    once = GenerateRequest(whole, step.max_length, step.params, step.seed, step.stop)
                    [row], task = generate(tokenizer, once)
                    run(scheduler, task)
                    assert answer == "".join(row.text)
                whole += answer
            else:
                whole += step[0]
                assert answer == run(scheduler, predict(tokenizer, whole, False)).scores[-1].tolist()
            assert state == codec.encode(run(scheduler, predict(tokenizer, whole, False)).after)
            assert codec.decode(state).position == len(whole)


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    horizon=st.integers(1, 11),
    history=st.booleans(),
)
def test_a_series_in_pieces_is_the_series_at_once(
    precision: Precision, seed: int, cuts: list[int], horizon: int, history: bool
) -> None:
    manifest, _, scheduler = new_scheduler(graphs("forecast", precision))
    assert isinstance(manifest, ForecastManifest)
    codec, rng = codec_of(FORECAST, manifest, manifest.graphs(precision)), np.random.default_rng(seed)
    values = rng.normal(20, 5, (301, 1)).cumsum(axis=0)
    values[rng.random(301) < 0.1] = np.nan
    values[0] = 20.0
    levels = manifest.quantile_levels
    whole = run(scheduler, forecast(manifest, ForecastRequest(values, horizon, levels, history)))
    state, histories = codec.encode(EMPTY_STATE), []
    bounds = [0, *sorted(cut + 1 for cut in cuts), 301]
    for begin, end in itertools.pairwise(bounds):
        request = ForecastRequest(values[begin:end], horizon, levels, history)
        piece = run(scheduler, forecast(manifest, request, codec.decode(state)))
        state = codec.encode(piece.after)
        histories.append(piece.history)
    scale = np.nanstd(values)
    np.testing.assert_allclose(piece.quantiles, whole.quantiles, rtol=1e-4, atol=1e-4 * scale)
    again = run(scheduler, forecast(manifest, ForecastRequest(values[:0], horizon, levels), codec.decode(state)))
    assert np.array_equal(again.quantiles, piece.quantiles)
    assert codec.encode(again.after) == state
    if history:
        assert whole.history is not None
        joined = np.concatenate([part for part in histories if part is not None])
        np.testing.assert_allclose(joined, whole.history, rtol=1e-4, atol=1e-4 * scale)


def test_a_forecast_of_no_values_is_refused() -> None:
    manifest, _, scheduler = new_scheduler(graphs("forecast"))
    assert isinstance(manifest, ForecastManifest)
    with pytest.raises(InvalidRequestError, match="read no value yet; send at least one"):
        run(scheduler, forecast(manifest, ForecastRequest(np.empty((0, 1)), 3, manifest.quantile_levels)))


KEY = b"0123456789abcdef"


def text_state() -> tuple[StateCodec, bytes, SequenceState]:
    manifest, _, scheduler = new_scheduler(graphs("text"))
    assert isinstance(manifest, TextManifest)
    codec = codec_of(TEXT, manifest, manifest.graphs("float32"))
    after = run(scheduler, predict(manifest.tokenizer, "abc", False)).after
    return codec, codec.encode(after), after


@given(data=st.data())
def test_a_state_that_was_changed_in_any_way_is_refused(data: st.DataObject) -> None:
    codec, payload, _ = text_state()
    text = sign_state(payload, KEY)
    assert verify_state(text, KEY)[0] == payload
    with pytest.raises(InvalidStateError):
        verify_state(text, KEY[::-1])
    with pytest.raises(InvalidStateError):
        verify_state(text[: data.draw(st.integers(0, len(text) - 1))], KEY)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(exclude_characters=text[at]))
    changed = text[:at] + other + text[at + 1 :]
    # The last character of base64 may have unused bits.
    if at < len(text) - 1:
        with pytest.raises(InvalidStateError):
            verify_state(changed, KEY)
    # Also a signed state is refused if it is incomplete.
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(InvalidStateError):
        codec.decode(verify_state(sign_state(payload[:cut], KEY), KEY)[0])


def test_a_state_of_the_first_format_is_read() -> None:
    """It has no end of the text in its header."""
    codec, payload, after = text_state()
    assert payload[:6] == b"carry\x02"
    size = int.from_bytes(payload[6:10], "little")
    header = orjson.loads(payload[10 : 10 + size])
    assert header.pop("text_end") == "c"
    old = orjson.dumps(header)
    state = codec.decode_untrusted(b"carry\x01" + len(old).to_bytes(4, "little") + old + payload[10 + size :])
    assert state.text_end == ""
    assert state.position == after.position
    assert all(np.array_equal(state.states[name], array) for name, array in after.states.items())
    with pytest.raises(InvalidStateError, match="format"):
        codec.decode(b"carry\x04" + payload[6:])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_neither_encoded_nor_decoded(number: float) -> None:
    codec, payload, after = text_state()
    broken = {name: array.copy() for name, array in after.states.items()}
    broken["layer1_c"][0, 3] = number
    with pytest.raises(NonFiniteOutputError):
        codec.encode(SequenceState(after.position, broken))
    at = payload.index(after.states["layer1_c"].astype("<f4").tobytes()) + 12
    with pytest.raises(InvalidStateError, match="not finite"):
        codec.decode_untrusted(payload[:at] + np.float32(number).tobytes() + payload[at + 4 :])


def test_a_state_of_another_graph_is_refused() -> None:
    _, payload, _ = text_state()
    manifest, *_ = new_scheduler(graphs("text"))
    assert isinstance(manifest, TextManifest)
    with pytest.raises(SessionModelError, match="text@1"):
        codec_of(TEXT, manifest, manifest.graphs("int8")).decode(payload)


def test_a_state_holds_everything_that_a_graph_carries() -> None:
    _, runner, _ = new_scheduler(graphs("text"))
    _, _, after = text_state()
    assert set(after.states) == {"logits", "seen", *runner.initial_states(1)}
