"""Any schedule of joins, leaves, cancellations, deadlines and chunk sizes gives each request what it gets alone."""

import math
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.engine import Engine
from service.engine.runner import Runner
from service.engine.scheduler import Request, Scheduler
from service.engine.sequence import Read, Result, Snapshot, Task
from service.errors import DeadlineExceededError, ModelFailedError, NotPredictableError
from service.forecasting import ForecastRequest, forecast
from service.generation import GenerateRequest, generate, predict
from service.manifest import ForecastManifest, Graph, TextManifest
from service.metrics import Metrics
from service.sampling import SamplingParams, controls, derived_seeds, uniforms
from service.tokenizer import Tokenizer
from tests.builders import character_model, forecaster, open_scheduler, write_model
from training.onnx_layers import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "int8")


@cache
def folder(kind: str) -> Path:
    network = character_model() if kind == "text" else forecaster()
    return write_model(network, Path(mkdtemp()), kind)


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
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


def schedules(wishes: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Arrival]]:
    leaves = st.one_of(st.none(), st.none(), st.integers(0, 30))
    arrival = st.builds(Arrival, wishes, st.integers(0, 25), leaves, st.sampled_from(["cancelled", "deadline"]))
    return st.lists(arrival, min_size=2, max_size=10)


def play(scheduler: Scheduler, arrivals: list[Arrival], task_of: Any) -> list[Any]:
    """Run a schedule; for each arrival its answer, its error, or None if it was cancelled."""
    requests: dict[int, Request] = {}
    turn = 0
    while len(requests) < len(arrivals) or scheduler.busy:
        for i, arrival in enumerate(arrivals):
            if arrival.turn == turn:
                requests[i] = Request(task_of(arrival.wish), 1, math.inf)
                scheduler.add(requests[i])
        for i, request in requests.items():
            leaves = arrivals[i].leaves
            if leaves is not None and turn >= arrivals[i].turn + leaves:
                if arrivals[i].by == "cancelled":
                    request.future.cancel()
                else:
                    request.deadline = -math.inf
        scheduler.turn()
        turn += 1
    outcomes = []
    for i in range(len(arrivals)):
        future = requests[i].future
        outcomes.append(None if future.cancelled() else future.exception() or future.result())
    return outcomes


def texts_alone(runner: Runner, decode: Runner, manifest: TextManifest, request: GenerateRequest) -> list[str]:
    """The plain way: read the prompt at once, then one character after the other, one text after the other."""
    tokens = Tokenizer.of(manifest).tokenize(request.prompt or "\n").tokens
    (scores,), begun = runner.read({"tokens": tokens[None]}, np.array([len(tokens)]), runner.fresh(1), ["logits"])
    texts = []
    for seed in derived_seeds(request.seed, request.n):
        seen = np.zeros(scores.shape, dtype=bool)
        seen[0, tokens] = True
        text, states = "", {**begun, "logits": scores, "seen": seen}
        for position in range(len(tokens), len(tokens) + request.max_length):
            drawn = uniforms(np.array([[seed]]), np.array([[position]])) * np.float32(request.params.temperature > 0)
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
@given(arrivals=schedules(GENERATE | PREDICT), chunk=st.integers(1, 70))
def test_texts_are_what_they_are_alone(precision: Precision, arrivals: list[Arrival], chunk: int) -> None:
    manifest, runner, scheduler = open_scheduler(folder("text"), precision, chunk)
    assert isinstance(manifest, TextManifest)
    tokenizer = Tokenizer.of(manifest)

    def task_of(wish: Any) -> Task[Any]:
        if isinstance(wish, GenerateRequest):
            rows, task = generate(tokenizer, wish)
            return returning(task, lambda: ["".join(row.text) for row in rows])
        return predict(tokenizer, *wish)

    for arrival, outcome in zip(arrivals, play(scheduler, arrivals, task_of), strict=True):
        if outcome is None or isinstance(outcome, DeadlineExceededError):
            assert arrival.leaves is not None
        elif isinstance(arrival.wish, GenerateRequest):
            assert scheduler._decoding is not None
            assert outcome == texts_alone(runner, scheduler._decoding.runner, manifest, arrival.wish)
        else:
            text, per_position = arrival.wish
            tokens = tokenizer.encode(text)[1]
            name = "logits_all" if per_position else "logits"
            (alone,), _ = runner.read({"tokens": tokens[None]}, np.array([len(tokens)]), runner.fresh(1), [name])
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
        assert isinstance(alone, NotPredictableError) == (arrival is bad)
        if arrival is bad:
            assert isinstance(outcome, NotPredictableError)
        else:
            assert np.array_equal(outcome.quantiles, alone.quantiles)
            if outcome.history is not None:
                assert np.array_equal(outcome.history, alone.history, equal_nan=True)


class Failing(Runner):
    """A graph that cannot be run when a row holds a forbidden token."""

    def read(self, inputs: Any, lengths: Any, states: Any, outputs: Any) -> Any:
        if (inputs["tokens"] == 1).any():
            raise ModelFailedError("the model failed to run")
        return super().read(inputs, lengths, states, outputs)


def test_a_step_that_fails_ends_those_in_it_and_nobody_after() -> None:
    manifest, _, scheduler = open_scheduler(folder("text"))
    graph: Graph = manifest.graph
    scheduler._runner = Failing(folder("text"), graph, threads=1)

    def read(token: int) -> Task[Result]:
        result: Result = yield Read({"tokens": np.full((1, 3), token)}, ("logits",))
        return result

    [failed] = play(scheduler, [Arrival(1, 0, None, "")], read)
    assert isinstance(failed, ModelFailedError)
    assert scheduler.failed
    [answered] = play(scheduler, [Arrival(2, 0, None, "")], read)
    assert isinstance(answered, Result)
    assert not scheduler.failed


def test_scores_that_are_not_finite_end_their_text_only() -> None:
    manifest, _, scheduler = open_scheduler(folder("text"))
    assert isinstance(manifest, TextManifest)
    tokenizer = Tokenizer.of(manifest)
    wishes = [GenerateRequest(prompt, 9, SamplingParams(), 5) for prompt in ("a", "b" * 200, "c")]

    def task_of(i: int) -> Task[Any]:
        rows, task = generate(tokenizer, wishes[i])
        return returning(spoilt(task) if i == 1 else task, lambda: "".join(rows[0].text))

    def spoilt(task: Task[Any]) -> Task[None]:
        """The same, of whose prompt the model makes nothing."""
        read = next(task)
        result: Result = yield read
        result.outputs["logits"][:] = np.nan
        decode = task.send(result)
        yield decode
        yield from task

    arrivals = [Arrival(i, i, None, "") for i in range(3)]
    first, second, third = play(scheduler, arrivals, task_of)
    assert isinstance(second, NotPredictableError)
    alone = [play(scheduler, [Arrival(i, 0, None, "")], task_of)[0] for i in (0, 2)]
    assert [first, third] == alone


@given(lengths=st.lists(st.integers(1, 400), min_size=2, max_size=12))
def test_a_short_text_does_not_wait_for_the_long_ones_before_it(lengths: list[int]) -> None:
    """Of texts that come together, a text of one piece is read within one round of all of them."""
    manifest, _, scheduler = open_scheduler(folder("text"), chunk=16)
    assert isinstance(manifest, TextManifest)
    tokenizer = Tokenizer.of(manifest)
    requests = [Request(predict(tokenizer, "a" * length, False), 1, math.inf) for length in lengths]
    last = Request(predict(tokenizer, "a", False), 1, math.inf)
    for request in (*requests, last):
        scheduler.add(request)
    turns = 0
    while not last.future.done():
        scheduler.turn()
        turns += 1
    assert turns <= len(lengths) + 1


@pytest.mark.parametrize("error", [ModelFailedError("the model failed to run"), KeyError("our own mistake")])
def test_a_failing_decode_ends_those_in_it_and_nobody_after(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, runner, scheduler = open_scheduler(folder("text"))
    assert isinstance(manifest, TextManifest)
    assert scheduler._decoding is not None
    engine = Engine("test", runner, scheduler._decoding, True, 1000, Metrics().engine("test"))
    tokenizer = Tokenizer.of(manifest)

    def asked() -> "Future[Snapshot]":
        return engine.submit(generate(tokenizer, GenerateRequest("a", 30, SamplingParams(), 5))[1], 31)

    def broken(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(scheduler._decoding.runner, "run", broken)
        for failed in (asked(), asked()):
            assert failed.exception(timeout=20) is error
    assert asked().result(timeout=20).position == 0
    engine.close()
