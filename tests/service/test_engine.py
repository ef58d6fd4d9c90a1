"""Failures in an engine end only the requests at fault, and no request waits for ever."""

import math
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from service.engine.backlog import Backlog
from service.engine.decode import DecodeGraph
from service.engine.engine import DEAD_LOOKS, STUCK_LOOKS, Engine
from service.engine.request import Request
from service.engine.runner import Runner
from service.engine.sequence import Decode, Prefill, PrefillResult, Task
from service.errors import ModelFailedError, QueueFullError
from service.exit import EXIT_BROKEN
from service.metrics import Metrics
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams
from service.text.task import GenerateRequest, generate
from tests.builders import CHARACTERS, open_graphs
from tests.service.test_scheduler import folder

FORBIDDEN = int(CHARACTERS.ids(["Z"])[0])


class BreakableRunner(Runner):
    """A graph that fails if a row holds the forbidden token, or while `broken`."""

    broken = False

    def run(self, inputs: Any, states: Any, output_names: Any) -> Any:
        """Run the graph, or fail."""
        if self.broken or any(np.any(inputs.get(name, 0) == FORBIDDEN) for name in ("tokens", "given_tokens")):
            raise ModelFailedError("the model failed to run")
        return super().run(inputs, states, output_names)


class TextEngine:
    """An engine on the small text model; both of its graphs can be broken."""

    def __init__(self, smoke_test: Callable[[], object] = lambda: None) -> None:
        manifest, _, decode_graph = open_graphs(folder("text"))
        assert isinstance(manifest, TextManifest)
        assert decode_graph is not None
        assert manifest.decode is not None
        self.tokenizer = manifest.tokenizer
        self.runner = BreakableRunner(folder("text"), manifest.graph, threads=1)
        self.decode_runner = BreakableRunner(folder("text"), manifest.decode, threads=1)
        self._decoder = decode_graph.decoder
        self.start(smoke_test)

    def start(self, smoke_test: Callable[[], object] = lambda: None) -> None:
        """Start a new engine."""
        self.died = threading.Event()
        self.engine = Engine(
            "test",
            self.runner,
            DecodeGraph(self.decode_runner, self._decoder),
            True,
            10_000,
            Metrics().engine("test"),
            smoke_test=smoke_test,
            on_thread_death=lambda _: self.died.set(),
        )

    def text(self, prompt: str = "a", length: int = 30, n: int = 1) -> "Future[list[str]]":
        rows, generation = generate(self.tokenizer, GenerateRequest(prompt, length, SamplingParams(), 5, n=n))

        def task() -> Task[list[str]]:
            yield from generation
            return ["".join(row.text) for row in rows]

        return self.engine.submit(task(), length * n + 1)

    def prefill(self, *tokens: int) -> "Future[PrefillResult]":
        def task() -> Task[PrefillResult]:
            result: PrefillResult = yield Prefill({"tokens": np.array([tokens])}, ("logits",))
            return result

        return self.engine.submit(task(), len(tokens))


@contextmanager
def open_engine(smoke_test: Callable[[], object] = lambda: None) -> Iterator[TextEngine]:
    model = TextEngine(smoke_test)
    yield model
    if not model.died.is_set():
        model.engine.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


@contextmanager
def paused(engine: Engine) -> Iterator[None]:
    """The engine receives all requests of this context at once."""
    started, resume = threading.Event(), threading.Event()

    def task() -> Task[None]:
        started.set()
        resume.wait(30)
        yield from ()

    pause = engine.submit(task(), 1)
    assert started.wait(30)
    yield
    resume.set()
    pause.result(30)


def test_a_request_that_the_model_fails_for_affects_no_other_and_does_not_mark_the_model_as_failed() -> None:
    with open_engine() as model:
        alone = model.prefill(2, 3, 4).result(30), model.text("b").result(30)
        with paused(model.engine):
            prefills = [model.prefill(2, 3, 4) for _ in range(5)]
            bad = model.prefill(2, FORBIDDEN, 4)
            texts = [model.text("b") for _ in range(5)]
            bad_text = model.text("cZ")
        assert isinstance(bad.exception(30), ModelFailedError)
        for prefill in prefills:
            assert np.array_equal(prefill.result(30).outputs["logits"], alone[0].outputs["logits"])
        assert [text.result(30) for text in texts] == [alone[1]] * 5
        assert isinstance(bad_text.exception(30), ModelFailedError)
        assert not model.engine.failed


def test_a_state_that_does_not_fit_the_graph_ends_only_its_request() -> None:
    with open_engine() as model:
        alone = model.prefill(2, 3, 4).result(30), model.text("b").result(30)

        def task(command: Prefill | Decode) -> Task[None]:
            yield command

        states: list[dict[str, Any]] = [{"nothing": np.zeros((1, 3))}, {"logits": np.zeros((1, 3), dtype=np.float32)}]
        states.append({"logits": np.zeros((1, CHARACTERS.size))})  # in double precision
        rows, _ = generate(model.tokenizer, GenerateRequest("a", 9, SamplingParams(), 5))
        with paused(model.engine):
            prefills = [model.prefill(2, 3, 4) for _ in range(3)]
            texts = [model.text("b") for _ in range(3)]
            bad = [model.engine.submit(task(Decode(rows, state)), 9) for state in states]
            bad.append(model.engine.submit(task(Prefill({"tokens": np.ones((1, 3), int)}, ("logits",), states[0])), 9))
        for failed in bad:
            assert failed.exception(30) is not None
        for prefill in prefills:
            assert np.array_equal(prefill.result(30).outputs["logits"], alone[0].outputs["logits"])
        assert [text.result(30) for text in texts] == [alone[1]] * 3
        assert not model.engine.failed
        assert model.engine.waiting_steps == 0


@pytest.mark.parametrize("error", [ModelFailedError("the model failed to run"), KeyError("our own mistake")])
def test_a_failing_decode_ends_the_requests_in_it_and_none_after(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    with open_engine() as model:
        with monkeypatch.context() as patch:
            patch.setattr(model.decode_runner, "run", fail)
            for text in (model.text(), model.text()):
                assert text.exception(30) is error
        assert model.text().result(30)


@pytest.mark.parametrize("times", [1, 3])
def test_a_model_that_fails_its_smoke_test_has_failed_until_it_passes_one(times: int) -> None:
    """It recovers without another request."""
    failures_left = times

    def smoke_test() -> None:
        nonlocal failures_left
        failures_left -= 1
        if failures_left >= 0:
            model.runner.broken = failures_left > 0
            raise ModelFailedError("the model failed to run")

    with open_engine(smoke_test) as model:
        model.runner.broken = True
        with paused(model.engine):
            prefills = [model.prefill(2, 3) for _ in range(3)]
        for prefill in prefills:
            assert isinstance(prefill.exception(30), ModelFailedError)
        wait_until(lambda: not model.engine.failed)
        assert failures_left < 0
        assert model.prefill(2, 3).result(30)


def test_a_model_that_fails_every_smoke_test_has_failed_though_some_steps_succeed() -> None:
    tested = threading.Semaphore(0)

    def smoke_test() -> None:
        tested.release()
        raise ModelFailedError("the model failed to run")

    with open_engine(smoke_test) as model:
        assert isinstance(model.prefill(FORBIDDEN).exception(30), ModelFailedError)
        assert model.engine.failed
        assert model.prefill(2).result(30)
        assert model.engine.failed
        for _ in range(2):
            assert tested.acquire(timeout=30)
        assert model.engine.failed


def test_a_thread_that_ends_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with open_engine() as model:
        monkeypatch.setattr(model.engine.scheduler, "step", fail)
        monkeypatch.setattr(model.engine.scheduler, "fail_all", fail)
        model.prefill(2)
        assert model.died.wait(30)
        wait_until(lambda: model.engine.failed)


def test_an_error_outside_exception_ends_the_thread() -> None:
    def task() -> Task[None]:
        yield from ()
        raise SystemExit

    with open_engine() as model:
        model.engine.submit(task(), 1)
        assert model.died.wait(30)


def test_a_process_ends_with_its_engines_thread() -> None:
    """With its own exit status: the supervisor replaces the process, and no caller waits for ever."""
    code = (
        "from service.engine.engine import Engine\n"
        "from service.metrics import Metrics\n"
        "def task():\n"
        "    yield from ()\n"
        "    raise SystemExit\n"
        "Engine('test', None, None, True, 9, Metrics().engine('test')).submit(task(), 1).result()\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert process.returncode == EXIT_BROKEN
    assert b"an engine's thread ended" in process.stdout + process.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised amid a garbage collection
def test_a_failure_at_any_moment_leaves_no_request_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th call of the engine's thread raises MemoryError, for every n: the requests that it does not concern, and
    later ones, get the right answers."""
    parts = ("service/engine/", *(f"service/text/{name}.py" for name in ("decoder", "prefill", "stopping", "task")))
    with open_engine() as model:
        texts = [model.text("a", 12, 2).result(30), model.text("b", 20).result(30)]
        logits = model.prefill(2, 3, 4).result(30).outputs["logits"]
    n, raised, num_dead_threads = 1, True, 0  # the first call is the one that catches all errors
    monkeypatch.setattr("service.engine.engine.log", MagicMock())
    where = ""
    while raised:
        n, raised, calls_left = n + 1, False, n + 1

        def raise_at_nth_call(frame: FrameType, event: str, _: object) -> None:
            nonlocal calls_left, raised, where
            if event == "call" and any(part in frame.f_code.co_filename for part in parts):
                calls_left -= 1
                if not calls_left:
                    raised, where = True, frame.f_code.co_qualname
                    raise MemoryError

        # For the engine's thread, which starts now. It looks for a profile only after `start` has returned.
        threading.setprofile(raise_at_nth_call)
        try:
            model.start()
            pending: list[Future[Any]] = [model.text("a", 12, 2), model.text("b", 20)]
            pending += [model.prefill(2, 3, 4), model.prefill(2, 3, 4)]
            deadline = time.monotonic() + 30
            while wait(pending, 0.2).not_done and not model.died.is_set():
                assert time.monotonic() < deadline, where
        finally:
            threading.setprofile(None)
        calls_left = 0  # raise no more
        if model.died.is_set():
            num_dead_threads += 1
            continue
        failed = [isinstance(future.exception(30), MemoryError) for future in pending]
        # The second text is never in one call with a prefill.
        assert not (failed[1] and any(failed[2:])), where
        for i in range(2):
            assert failed[i] or pending[i].result() == texts[i], where
        for i in range(2, 4):
            assert failed[i] or np.array_equal(pending[i].result().outputs["logits"], logits), where
        assert model.text("b", 20).result(30) == texts[1], where
        model.engine.close()
        assert model.engine.waiting_steps == 0, where
        assert model.engine.scheduler.decode_batch is not None
        assert not model.engine.scheduler.decode_batch, where
        assert not model.engine.scheduler.prefill_queue, where
    assert n > 100
    assert num_dead_threads <= 5


def complete(backlog: Backlog, group: str, steps: int, owner: str = "") -> None:
    def task() -> Task[None]:
        yield from ()

    backlog.complete([(Request(task(), steps, math.inf, group, owner), steps)])


def test_a_group_counts_for_half_of_the_queue_at_most() -> None:
    backlog = Backlog(1000)
    backlog.admit("large", 900)
    backlog.admit("small", 500)  # the other half of the limit
    for group, steps in (("small", 501), ("third", 1), ("large", 101)):
        with pytest.raises(QueueFullError):
            backlog.admit(group, steps)
    complete(backlog, "large", 500)
    backlog.admit("third", 100)
    complete(backlog, "large", 400)
    complete(backlog, "small", 500)
    complete(backlog, "third", 100)
    assert (backlog.total, backlog.steps_by_group) == (0, {})
    backlog.admit("larger than the limit", 5000)
    backlog.admit("small", 500)
    with pytest.raises(QueueFullError):
        backlog.admit("third", 1)


def test_retry_after_is_the_time_that_the_waiting_steps_take() -> None:
    backlog = Backlog(1000)
    backlog.admit("a", 1000)
    backlog.admit("b", 500)
    backlog.record(1.0, 100)
    retry_after = []
    for _ in range(3):
        with pytest.raises(QueueFullError) as refusal:
            backlog.admit("c", 700)
        retry_after.append(refusal.value.retry_after)
        complete(backlog, "a", 300)
    assert retry_after == [15, 12, 9]


def test_steps_that_are_done_do_not_count_as_waiting() -> None:
    waiting: list[int] = []
    with open_engine() as model:
        run = model.decode_runner.run

        def run_and_record(*arguments: Any) -> Any:
            waiting.append(model.engine.waiting_steps)
            return run(*arguments)

        model.decode_runner.run = run_and_record  # type: ignore[assignment,method-assign]
        model.text(length=60).result(30)
        assert waiting == [61, 45, 29, 13]
        assert model.engine.waiting_steps == 0


def test_a_step_that_does_not_end_is_a_failure_and_later_a_death() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def task() -> Task[str]:
        begun.set()
        assert go_on.wait(60)
        yield from ()
        return "done"

    with open_engine() as model:
        answer = model.engine.submit(task(), 1)
        assert begun.wait(30)
        for _ in range(STUCK_LOOKS):
            assert not model.engine.failed
            model.engine.look()
        model.engine.look()
        assert model.engine.failed
        assert not model.died.is_set()
        for _ in range(DEAD_LOOKS):
            model.engine.look()
        assert model.died.is_set()
        go_on.set()
        assert answer.result(30) == "done"

        def recovers() -> bool:
            model.engine.look()
            return not model.engine.failed

        wait_until(recovers)
        model.died.clear()


def test_a_model_without_requests_runs_its_smoke_test_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.engine.IDLE_TEST_SECONDS", 0.01)
    tested = threading.Semaphore(0)
    with open_engine(tested.release):
        for _ in range(3):
            assert tested.acquire(timeout=30)


def test_a_task_settles_once_with_the_steps_that_did_not_run() -> None:
    def prefill() -> Task[None]:
        yield Prefill({"tokens": np.array([[1, 2, 3]])}, ("logits",))

    def failing() -> Task[None]:
        yield Prefill({"tokens": np.array([[1, 2]])}, ("logits",))
        raise ModelFailedError("at its end")

    settled: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()

    def submit(name: str, task: Task[None]) -> "Future[None]":
        return model.engine.submit(task, 10, on_settled=lambda steps: settled.put((name, steps)))

    with open_engine() as model:
        submit("early", prefill()).result(30)
        assert settled.get(timeout=30) == ("early", 7)
        with pytest.raises(ModelFailedError):
            submit("failed", failing()).result(30)
        assert settled.get(timeout=30) == ("failed", 8)
        with paused(model.engine):
            assert submit("cancelled", prefill()).cancel()
        assert settled.get(timeout=30) == ("cancelled", 10)
    assert settled.empty()
