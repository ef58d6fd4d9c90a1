"""Any schedule of joins, leaves, cancellations, deadlines and chunk sizes gives each request what it gets alone."""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.decode import MAX_ROWS, SLICE_STEPS, plan
from service.engine.prefill import MAX_PREFILL_ROWS
from service.engine.request import Request
from service.engine.runner import Runner
from service.engine.scheduler import Scheduler, Steps
from service.engine.sequence import PrefillResult, Task
from service.engine.fair_queue import FairQueue
from service.errors import DeadlineExceededError, NonFiniteOutputError
from service.forecast.manifest import ForecastManifest
from service.forecast.task import ForecastRequest, forecast
from service.manifest import Manifest
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams, controls, derived_seeds, uniforms
from service.text.task import DECODE_STEPS, GenerateRequest, generate, predict
from tests.builders import character_model, forecaster, open_scheduler, write_model
from training.onnx.layers import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "int8")


@cache
def folder(kind: str) -> Path:
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
    """A request, the turn at which it comes, and the one at which it is cancelled, or its time is up, if ever."""

    wish: Any
    turn: int
    leaves: int | None
    by: str
    group: str | None = None


def schedules(wishes: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Arrival]]:
    leaves = st.one_of(st.none(), st.none(), st.integers(0, 30))
    arrival = st.builds(
        Arrival,
        wishes,
        st.integers(0, 25),
        leaves,
        st.sampled_from(["cancelled", "deadline"]),
        st.sampled_from([None, "a", "b"]),
    )
    return st.lists(arrival, min_size=2, max_size=10)


def play(scheduler: Scheduler, arrivals: list[Arrival], task_of: Any) -> list[Any]:
    """Run a schedule; for each arrival its answer, its error, or None if it was cancelled."""
    requests: dict[int, Request] = {}
    turn = 0
    while len(requests) < len(arrivals) or scheduler.busy:
        for i, arrival in enumerate(arrivals):
            if arrival.turn == turn:
                requests[i] = Request(task_of(arrival.wish), 1, math.inf, arrival.group)
                scheduler.add(requests[i])
        for i, request in requests.items():
            leaves = arrivals[i].leaves
            if leaves is not None and turn >= arrivals[i].turn + leaves:
                if arrivals[i].by == "cancelled":
                    request.future.cancel()
                else:
                    request.deadline = scheduler._first_deadline = -math.inf
        scheduler.step()
        turn += 1
    outcomes = []
    for i in range(len(arrivals)):
        future = requests[i].future
        outcomes.append(None if future.cancelled() else future.exception() or future.result())
    return outcomes


def texts_alone(runner: Runner, decode: Runner, manifest: TextManifest, request: GenerateRequest) -> list[str]:
    """The plain way: read the prompt at once, then one character after the other, one text after the other."""
    tokens = manifest.tokenizer.tokenize(request.prompt or "\n").tokens
    (scores,), begun = runner.prefill({"tokens": tokens[None]}, np.array([len(tokens)]), runner.initial_states(1), ["logits"])
    texts = []
    for seed in derived_seeds(request.seed, request.n):
        seen = np.zeros(scores.shape, dtype=bool)
        seen[0, tokens] = True
        text, states = "", {**decode.initial_states(1), **begun, "logits": scores, "seen": seen}
        for position in range(len(tokens), len(tokens) + request.max_length):
            drawn = uniforms(np.array([[seed]]), np.array([[position]])) * np.float32(not request.params.greedy)
            inputs = {**controls([request.params], len(manifest.vocabulary)), "uniforms": drawn}
            inputs["given_tokens"] = np.array([[-1]])
            (token,), states = decode.run(inputs, states, ["tokens"])
            text += manifest.vocabulary[int(token[0, 0])]
            completed = max((len(stop) for stop in request.stop if text.endswith(stop)), default=0)
            if completed:
                text = text[:-completed]
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
def test_texts_are_what_they_are_alone(
    precision: Precision, arrivals: list[Arrival], chunk: int, rows: int, slice_steps: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.decode.MAX_ROWS", rows)
        patch.setattr("service.engine.decode.SLICE_STEPS", slice_steps)
        check_texts(precision, arrivals, chunk)


def check_texts(precision: Precision, arrivals: list[Arrival], chunk: int) -> None:
    manifest, runner, scheduler = open_scheduler(folder("text"), precision, chunk)
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer

    def task_of(wish: Any) -> Task[Any]:
        if isinstance(wish, GenerateRequest):
            rows, task = generate(tokenizer, wish)
            return returning(task, lambda: ["".join(row.text) for row in rows])
        return predict(tokenizer, *wish)

    for arrival, outcome in zip(arrivals, play(scheduler, arrivals, task_of), strict=True):
        if outcome is None or isinstance(outcome, DeadlineExceededError):
            assert arrival.leaves is not None
        elif isinstance(arrival.wish, GenerateRequest):
            assert scheduler._batch is not None
            assert outcome == texts_alone(runner, scheduler._batch._runner, manifest, arrival.wish)
        else:
            text, per_position = arrival.wish
            tokens = tokenizer.encode(text)[1]
            name = "logits_all" if per_position else "logits"
            (alone,), _ = runner.prefill({"tokens": tokens[None]}, np.array([len(tokens)]), runner.initial_states(1), [name])
            assert np.array_equal(outcome.scores, alone.reshape(outcome.scores.shape))


def returning(task: Task[Any], answer: Any) -> Task[Any]:
    yield from task
    return answer()


SERIES = st.builds(
    ForecastRequest,
    values=st.tuples(st.integers(0, 2**32), st.integers(1, 60)).map(
        lambda found: np.random.default_rng(found[0]).normal(10, 5, (found[1], 1)).cumsum(axis=0)
    ),
    horizon=st.integers(1, 12),
    levels=st.just((0.1, 0.5, 0.9)),
    include_history=st.booleans(),
)


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=20)
@given(arrivals=schedules(SERIES), chunk=st.integers(5, 64), spoilt=st.integers(0, 9))
def test_forecasts_are_what_they_are_alone_beside_one_that_is_not_finite(
    precision: Precision, arrivals: list[Arrival], chunk: int, spoilt: int
) -> None:
    manifest, _, scheduler = open_scheduler(folder("forecast"), precision, chunk)
    assert isinstance(manifest, ForecastManifest)
    bad = arrivals[spoilt % len(arrivals)]
    bad.wish.values[[0, -1], 0] = -1.7e308, 1.7e308  # no number can hold their difference
    outcomes = play(scheduler, arrivals, lambda wish: forecast(manifest, wish))
    for arrival, outcome in zip(arrivals, outcomes, strict=True):
        if outcome is None or isinstance(outcome, DeadlineExceededError):
            assert arrival.leaves is not None
            continue
        _, _, lonely = open_scheduler(folder("forecast"), precision, chunk)
        [alone] = play(lonely, [Arrival(arrival.wish, 0, None, "")], lambda wish: forecast(manifest, wish))
        assert isinstance(alone, NonFiniteOutputError) == (arrival is bad)
        if arrival is bad:
            assert isinstance(outcome, NonFiniteOutputError)
        else:
            assert np.array_equal(outcome.quantiles, alone.quantiles)
            if outcome.history is not None:
                assert np.array_equal(outcome.history, alone.history, equal_nan=True)


def test_scores_that_are_not_finite_end_their_text_only() -> None:
    manifest, _, scheduler = open_scheduler(folder("text"))
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer
    wishes = [GenerateRequest(prompt, 9, SamplingParams(), 5) for prompt in ("a", "b" * 200, "c")]

    def task_of(i: int) -> Task[Any]:
        rows, task = generate(tokenizer, wishes[i])
        return returning(spoilt(task) if i == 1 else task, lambda: "".join(rows[0].text))

    def spoilt(task: Task[Any]) -> Task[None]:
        """The same, of whose prompt the model makes nothing."""
        read = next(task)
        result: PrefillResult = yield read
        result.outputs["logits"][:] = np.nan
        decode = task.send(result)
        yield decode
        yield from task

    arrivals = [Arrival(i, i, None, "") for i in range(3)]
    first, second, third = play(scheduler, arrivals, task_of)
    assert isinstance(second, NonFiniteOutputError)
    alone = [play(scheduler, [Arrival(i, 0, None, "")], task_of)[0] for i in (0, 2)]
    assert [first, third] == alone


@given(lengths=st.lists(st.integers(1, 400), min_size=2, max_size=12))
def test_a_short_text_does_not_wait_for_the_long_ones_before_it(lengths: list[int]) -> None:
    """Of texts that come together, a text of one piece is read within one round of all of them."""
    manifest, _, scheduler = open_scheduler(folder("text"), chunk=16)
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer
    requests = [Request(predict(tokenizer, "a" * length, False), 1, math.inf) for length in lengths]
    last = Request(predict(tokenizer, "a", False), 1, math.inf)
    for request in (*requests, last):
        scheduler.add(request)
    turns = 0
    while not last.future.done():
        scheduler.step()
        turns += 1
    assert turns <= len(lengths) + 1


@given(
    running=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=6),
    waiting=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=10),
)
def test_each_group_has_its_share_of_the_rows(running: list[tuple[int, int]], waiting: list[tuple[int, int]]) -> None:
    rows, slice_steps = 6, 20
    turns: FairQueue[int] = FairQueue()
    for group, count in waiting:
        for item in range(count):
            turns.add(group, item)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.decode.MAX_ROWS", rows)
        patch.setattr("service.engine.decode.SLICE_STEPS", slice_steps)
        leaving, joining = plan(running, turns)
    there, before = dict(turns.groups()), Counter(group for group, _ in running)
    groups = there.keys() | before.keys()
    share = max(1, rows // max(1, len(groups)))
    after = before + Counter(joining) - Counter(running[i][0] for i in leaving)
    assert len(set(leaving)) == len(leaving)
    assert after.total() <= rows
    assert all(0 < count <= there[group] for group, count in joining.items())
    # Nobody makes room for nothing, or below their share but for those who have none.
    assert len(leaving) <= sum(joining.values())
    for group, ran in (running[i] for i in leaving):
        assert before[group] > share or (len(groups) > rows and ran >= slice_steps)
    if len(groups) <= rows:
        assert all(after[group] >= min(share, count) for group, count in there.items())
    # No row stays empty while somebody waits.
    assert after.total() == rows or joining == there or not there


def others(steps: Steps, own: Request) -> int:
    return sum(count for request, count in steps if request is not own)


@settings(max_examples=20)
@given(prompts=st.integers(50, 200), length=st.integers(1, 60), own=st.integers(1, 60))
def test_a_text_beside_many_of_one_caller_waits_for_a_bounded_number_of_their_steps(
    prompts: int, length: int, own: int
) -> None:
    manifest, _, scheduler = open_scheduler(folder("text"))
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer

    def request(seed: int, length: int, group: str | None) -> Request:
        wish = GenerateRequest("ab", length, SamplingParams(), seed)
        return Request(generate(tokenizer, wish)[1], 1, math.inf, group)

    many = [request(seed, length, "many") for seed in range(prompts)]
    for one in many:
        scheduler.add(one)
    scheduler.step()
    neighbour = request(0, own, None)
    scheduler.add(neighbour)
    waited = turns = 0
    while not neighbour.future.done():
        waited += others(scheduler.step(), neighbour)
        turns += 1
    # As many calls as it needs alone, each with as many rows as there may be; none takes more steps than it wants.
    assert turns <= own + 2 if length < own else turns <= math.ceil((2 + own) / DECODE_STEPS) + 1
    assert waited <= turns * MAX_ROWS * DECODE_STEPS
    while scheduler.busy:
        scheduler.step()
    assert all(one.future.result().position == 0 for one in many)


@settings(max_examples=10)
@given(callers=st.integers(MAX_ROWS, 3 * MAX_ROWS))
def test_with_more_callers_than_rows_each_waits_for_a_bounded_number_of_steps(callers: int) -> None:
    manifest, _, scheduler = open_scheduler(folder("text"))
    assert isinstance(manifest, TextManifest)
    tokenizer = manifest.tokenizer
    wish = GenerateRequest("ab", 400, SamplingParams(), 1)
    long = [Request(generate(tokenizer, wish)[1], 1, math.inf) for _ in range(callers)]
    for request in long:
        scheduler.add(request)
    scheduler.step()
    last = Request(generate(tokenizer, GenerateRequest("ab", 10, SamplingParams(), 1))[1], 1, math.inf)
    scheduler.add(last)
    waited = 0
    while not last.future.done():
        waited += others(scheduler.step(), last)
    rounds = math.ceil((callers + 1) / MAX_ROWS) + 1
    assert waited <= rounds * (SLICE_STEPS + DECODE_STEPS) * MAX_ROWS
    for request in long:
        request.future.cancel()
    scheduler.step()


@cache
def idle_forecaster() -> tuple[Manifest, Scheduler]:
    """One for all examples, each of which leaves it idle."""
    manifest, _, scheduler = open_scheduler(folder("forecast"))
    return manifest, scheduler


@settings(max_examples=10)
@given(series=st.integers(3 * MAX_PREFILL_ROWS + 1, 100), length=st.integers(1, 200), own=st.integers(1, 60))
def test_a_forecast_beside_many_of_one_caller_waits_for_one_call_of_theirs(series: int, length: int, own: int) -> None:
    manifest, scheduler = idle_forecaster()
    assert isinstance(manifest, ForecastManifest)

    def request(length: int, group: str | None) -> Request:
        wish = ForecastRequest(np.arange(length, dtype=float)[:, None], 2, (0.5,))
        return Request(forecast(manifest, wish), 1, math.inf, group)

    for _ in range(series):
        scheduler.add(request(length, "many"))
    scheduler.step()
    neighbour = request(own, None)
    scheduler.add(neighbour)
    waited = turns = 0
    while not neighbour.future.done():
        waited += others(scheduler.step(), neighbour)
        turns += 1
    assert turns <= 2
    assert waited <= turns * MAX_PREFILL_ROWS * length
    assert scheduler.busy
    while scheduler.busy:
        scheduler.step()
