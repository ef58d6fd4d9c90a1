"""Each request gets the answer that it gets alone, whatever requests join, leave or expire beside it."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.decode import MAX_ROWS, SLICE_STEPS, DecodeGraph, share_rows
from service.engine.fair_queue import FairQueue
from service.engine.prefill import MAX_PREFILL_ROWS
from service.engine.request import Request
from service.engine.runner import Runner
from service.engine.scheduler import Scheduler, StepCounts
from service.engine.sequence import PrefillResult, Task
from service.errors import DeadlineExceededError, NonFiniteOutputError
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest, forecast
from service.text.decoder import DECODE_STEPS
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams, controls, derived_seeds, uniforms
from service.text.scoring import predict
from service.text.task import GenerateRequest, generate
from tests.builders import Graphs, character_model, forecaster, new_scheduler, open_graphs, write_model
from training.onnx.layers import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "int8")


@cache
def graphs(kind: Literal["text", "forecast"], precision: Precision = "float32") -> Graphs:
    """The graphs of a small model, opened once."""
    return open_graphs(folder(kind), precision)


@cache
def folder(kind: Literal["text", "forecast"]) -> Path:
    network = character_model() if kind == "text" else forecaster()
    return write_model(network, Path(mkdtemp()), kind)


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.9, 0.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.3]),
    presence_penalty=st.sampled_from([0.0, 0.0, -1.5]),
)
GENERATE = st.builds(
    GenerateRequest,
    prompt=st.text("abc \n", max_size=60) | st.text("ab", min_size=125, max_size=140),
    max_length=st.integers(1, 25),
    params=PARAMS,
    seed=st.integers(0, 2**53),
    stop=st.lists(st.text("abe ", min_size=1, max_size=2), max_size=2).map(tuple),
    n=st.integers(1, 4),
)
PREDICT = st.tuples(st.text("abc \n", min_size=1, max_size=90), st.booleans())


@dataclass(frozen=True)
class Arrival:
    """What a request asks, at which step it arrives, and after how many it is cancelled or expires, if at all. Requests
    of one group may have several owners, which the service never sends."""

    content: Any
    step: int = 0
    steps_until_end: int | None = None
    end: Literal["cancelled", "expired"] = "cancelled"
    group: str | None = None
    owner: str = ""


def schedules(contents: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Arrival]]:
    arrival = st.builds(
        Arrival,
        contents,
        st.integers(0, 25),
        st.one_of(st.none(), st.none(), st.integers(0, 30)),
        st.sampled_from(["cancelled", "expired"]),
        st.sampled_from([None, "a", "b"]),
        st.sampled_from(["", "", "c", "d"]),
    )
    return st.lists(arrival, min_size=2, max_size=10)


def play(scheduler: Scheduler, arrivals: list[Arrival], make_task: Callable[[Any], Task[Any]]) -> list[Any]:
    """Run a schedule; the answer of each arrival, its error, or None if it was cancelled. The clock counts steps."""
    requests: dict[int, Request] = {}
    step = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.scheduler.monotonic", lambda: step)
        while len(requests) < len(arrivals) or scheduler.busy:
            for i, arrival in enumerate(arrivals):
                end = math.inf if arrival.steps_until_end is None else arrival.step + arrival.steps_until_end
                if arrival.step == step:
                    deadline = end - 0.5 if arrival.end == "expired" else math.inf
                    requests[i] = Request(make_task(arrival.content), 1, deadline, arrival.group, arrival.owner)
                    scheduler.add(requests[i])
                if arrival.end == "cancelled" and step >= end:
                    requests[i].future.cancel()
            scheduler.step()
            step += 1
    futures = [requests[i].future for i in range(len(arrivals))]
    return [None if future.cancelled() else future.exception() or future.result() for future in futures]


def texts_alone(runner: Runner, decode: Runner, manifest: TextManifest, request: GenerateRequest) -> list[str]:
    """The simplest way: prefill the prompt in one call, then decode one character at a time, one text at a time."""
    tokens = manifest.tokenizer.tokenize(request.prompt or "\n").ids
    (scores,), prompt_states = runner.prefill(
        {"tokens": tokens[None]}, np.array([len(tokens)]), runner.initial_states(1), ["logits"]
    )
    texts = []
    for seed in derived_seeds(request.seed, request.n):
        seen = np.zeros(scores.shape, dtype=bool)
        seen[0, tokens] = True
        text, states = "", {**decode.initial_states(1), **prompt_states, "logits": scores, "seen": seen}
        for position in range(len(tokens), len(tokens) + request.max_length):
            random = uniforms(np.array([[seed]]), np.array([[position]])) * np.float32(not request.params.greedy)
            inputs = {**controls([request.params], len(manifest.vocabulary)), "uniforms": random}
            inputs["given_tokens"] = np.array([[-1]])
            (token,), states = decode.run(inputs, states, ["tokens"])
            text += manifest.vocabulary[int(token[0, 0])]
            stop_length = max((len(stop) for stop in request.stop if text.endswith(stop)), default=0)
            if stop_length:
                text = text[:-stop_length]
                break
        texts.append(text)
    return texts


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=60)
@given(
    arrivals=schedules(GENERATE | PREDICT),
    chunk=st.integers(1, 70),
    rows=st.integers(1, 6) | st.just(MAX_ROWS),
    slice_steps=st.integers(1, 20),
)
def test_texts_are_the_same_alone_and_in_any_schedule(
    precision: Precision, arrivals: list[Arrival], chunk: int, rows: int, slice_steps: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.decode.MAX_ROWS", rows)
        patch.setattr("service.engine.decode.SLICE_STEPS", slice_steps)
        check_texts(precision, arrivals, chunk)


def check_texts(precision: Precision, arrivals: list[Arrival], chunk: int) -> None:
    manifest, runner, scheduler = new_scheduler(graphs("text", precision), chunk)
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer

    def make_task(content: Any) -> Task[Any]:
        if isinstance(content, GenerateRequest):
            rows, task = generate(tokenizer, content)
            return returning(task, lambda: ["".join(row.text) for row in rows])
        return predict(tokenizer, *content)

    for arrival, outcome in zip(arrivals, play(scheduler, arrivals, make_task), strict=True):
        if outcome is None or isinstance(outcome, DeadlineExceededError):
            assert arrival.steps_until_end is not None
        elif isinstance(arrival.content, GenerateRequest):
            assert outcome == texts_alone(runner, decode_runner(precision), manifest, arrival.content)
        else:
            text, per_position = arrival.content
            tokens = tokenizer.encode(text)[1]
            name = "logits_all" if per_position else "logits"
            (alone,), _ = runner.prefill(
                {"tokens": tokens[None]}, np.array([len(tokens)]), runner.initial_states(1), [name]
            )
            assert np.array_equal(outcome.scores, alone.reshape(outcome.scores.shape))


def decode_runner(precision: Precision) -> Runner:
    _, _, decode_graph = graphs("text", precision)
    assert isinstance(decode_graph, DecodeGraph)
    return decode_graph.runner


def returning(task: Task[Any], answer: Callable[[], Any]) -> Task[Any]:
    yield from task
    return answer()


SERIES = st.builds(
    ForecastRequest,
    values=st.tuples(st.integers(0, 2**32), st.integers(1, 60)).map(
        lambda draw: np.random.default_rng(draw[0]).normal(10, 5, (draw[1], 1)).cumsum(axis=0)
    ),
    horizon=st.integers(1, 12),
    levels=st.just((0.1, 0.5, 0.9)),
    include_history=st.booleans(),
)


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=20)
@given(arrivals=schedules(SERIES), chunk=st.integers(5, 64), bad_index=st.integers(0, 9))
def test_forecasts_are_the_same_alone_and_beside_one_that_is_not_finite(
    precision: Precision, arrivals: list[Arrival], chunk: int, bad_index: int
) -> None:
    manifest, _, scheduler = new_scheduler(graphs("forecast", precision), chunk)
    assert isinstance(manifest, ForecastManifest)
    bad = arrivals[bad_index % len(arrivals)]
    bad.content.values[[0, -1], 0] = -1.7e308, 1.7e308  # their difference overflows
    outcomes = play(scheduler, arrivals, lambda request: forecast(manifest, request))
    for arrival, outcome in zip(arrivals, outcomes, strict=True):
        if outcome is None or isinstance(outcome, DeadlineExceededError):
            assert arrival.steps_until_end is not None
            continue
        _, _, other_scheduler = new_scheduler(graphs("forecast", precision), chunk)
        [alone] = play(other_scheduler, [Arrival(arrival.content)], lambda request: forecast(manifest, request))
        assert isinstance(alone, NonFiniteOutputError) == (arrival is bad)
        if arrival is bad:
            assert isinstance(outcome, NonFiniteOutputError)
        else:
            assert np.array_equal(outcome.quantiles, alone.quantiles)
            if outcome.history is not None:
                assert np.array_equal(outcome.history, alone.history, equal_nan=True)


def test_scores_that_are_not_finite_end_only_their_text() -> None:
    manifest, _, scheduler = new_scheduler(graphs("text"))
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer
    requests = [GenerateRequest(prompt, 9, SamplingParams(), 5) for prompt in ("a", "b" * 200, "c")]

    def make_task(i: int) -> Task[Any]:
        rows, task = generate(tokenizer, requests[i])
        return returning(with_nan_scores(task) if i == 1 else task, lambda: "".join(rows[0].text))

    def with_nan_scores(task: Task[Any]) -> Task[None]:
        """The same task; its prefill results in scores that are not a number."""
        prefill = next(task)
        result: PrefillResult = yield prefill
        result.outputs["logits"][:] = np.nan
        decode = task.send(result)
        yield decode
        yield from task

    first, second, third = play(scheduler, [Arrival(i, i) for i in range(3)], make_task)
    assert isinstance(second, NonFiniteOutputError)
    alone = [play(scheduler, [Arrival(i)], make_task)[0] for i in (0, 2)]
    assert [first, third] == alone


@given(lengths=st.lists(st.integers(1, 400), min_size=2, max_size=12))
def test_a_short_text_does_not_wait_for_the_long_ones_before_it(lengths: list[int]) -> None:
    """A text of one chunk is prefilled within one round of the texts that arrive with it."""
    manifest, _, scheduler = new_scheduler(graphs("text"), chunk=16)
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer
    requests = [Request(predict(tokenizer, "a" * length, False), 1, math.inf) for length in lengths]
    last = Request(predict(tokenizer, "a", False), 1, math.inf)
    for request in (*requests, last):
        scheduler.add(request)
    steps = 0
    while not last.future.done():
        scheduler.step()
        steps += 1
    assert steps <= len(lengths) + 1


@given(
    running=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=6),
    waiting=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=10),
)
def test_each_group_gets_its_share_of_the_rows(running: list[tuple[int, int]], waiting: list[tuple[int, int]]) -> None:
    rows, slice_steps = 6, 20
    queue: FairQueue[int] = FairQueue()
    for group, count in waiting:
        for item in range(count):
            queue.append(group, item)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.decode.SLICE_STEPS", slice_steps)
        leaving, joining = share_rows(running, queue, rows)
    sizes, before = dict(queue.group_sizes()), Counter(group for group, _ in running)
    groups = sizes.keys() | before.keys()
    share = max(1, rows // max(1, len(groups)))
    after = before + Counter(joining) - Counter(running[i][0] for i in leaving)
    assert len(set(leaving)) == len(leaving)
    assert after.total() <= rows
    assert all(0 < count <= sizes[group] for group, count in joining.items())
    # A row leaves only if another joins, and only if its group has more than its share or has had its slice.
    assert len(leaving) <= sum(joining.values())
    for group, steps in (running[i] for i in leaving):
        assert before[group] > share or (len(groups) > rows and steps >= slice_steps)
    if len(groups) <= rows:
        assert all(after[group] >= min(share, count) for group, count in sizes.items())
    # No row stays empty while a row waits.
    assert after.total() == rows or joining == sizes or not sizes


def steps_of_others(steps: StepCounts, request: Request) -> int:
    return sum(count for other, count in steps if other is not request)


@settings(max_examples=20)
@given(prompts=st.integers(50, 200), length=st.integers(1, 60), neighbour_length=st.integers(1, 60))
def test_a_text_beside_many_of_one_caller_waits_for_a_bounded_number_of_their_steps(
    prompts: int, length: int, neighbour_length: int
) -> None:
    manifest, _, scheduler = new_scheduler(graphs("text"))
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer

    def make_request(seed: int, length: int, group: str | None) -> Request:
        task = generate(tokenizer, GenerateRequest("ab", length, SamplingParams(), seed))[1]
        return Request(task, 1, math.inf, group)

    many = [make_request(seed, length, "many") for seed in range(prompts)]
    for request in many:
        scheduler.add(request)
    scheduler.step()
    neighbour = make_request(0, neighbour_length, None)
    scheduler.add(neighbour)
    waited = steps = 0
    while not neighbour.future.done():
        waited += steps_of_others(scheduler.step(), neighbour)
        steps += 1
    # It needs as many calls as alone, each with at most MAX_ROWS rows; no call takes more steps than the shortest text.
    calls = neighbour_length + 2 if length < neighbour_length else math.ceil((2 + neighbour_length) / DECODE_STEPS) + 1
    assert steps <= calls
    assert waited <= steps * MAX_ROWS * DECODE_STEPS
    while scheduler.busy:
        scheduler.step()
    assert all(request.future.result().position == 0 for request in many)


@settings(max_examples=10)
@given(callers=st.integers(MAX_ROWS, 3 * MAX_ROWS))
def test_with_more_callers_than_rows_each_waits_for_a_bounded_number_of_steps(callers: int) -> None:
    manifest, _, scheduler = new_scheduler(graphs("text"))
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer

    def make_request(length: int) -> Request:
        return Request(generate(tokenizer, GenerateRequest("ab", length, SamplingParams(), 1))[1], 1, math.inf)

    many = [make_request(400) for _ in range(callers)]
    for request in many:
        scheduler.add(request)
    scheduler.step()
    last = make_request(10)
    scheduler.add(last)
    waited = 0
    while not last.future.done():
        waited += steps_of_others(scheduler.step(), last)
    rounds = math.ceil((callers + 1) / MAX_ROWS) + 1
    assert waited <= rounds * (SLICE_STEPS + DECODE_STEPS) * MAX_ROWS
    for request in many:
        request.future.cancel()
    scheduler.step()


@settings(max_examples=10)
@given(
    series=st.integers(3 * MAX_PREFILL_ROWS + 1, 100),
    length=st.integers(1, 200),
    neighbour_length=st.integers(1, 60),
)
def test_a_forecast_beside_many_of_one_caller_waits_for_one_call_of_theirs(
    series: int, length: int, neighbour_length: int
) -> None:
    manifest, _, scheduler = new_scheduler(graphs("forecast"))
    assert isinstance(manifest, ForecastManifest)

    def make_request(length: int, group: str | None) -> Request:
        task = forecast(manifest, ForecastRequest(np.arange(length, dtype=float)[:, None], 2, (0.5,)))
        return Request(task, 1, math.inf, group)

    for _ in range(series):
        scheduler.add(make_request(length, "many"))
    scheduler.step()
    neighbour = make_request(neighbour_length, None)
    scheduler.add(neighbour)
    waited = steps = 0
    while not neighbour.future.done():
        waited += steps_of_others(scheduler.step(), neighbour)
        steps += 1
    assert steps <= 2
    assert waited <= steps * MAX_PREFILL_ROWS * length
    assert scheduler.busy
    while scheduler.busy:
        scheduler.step()
