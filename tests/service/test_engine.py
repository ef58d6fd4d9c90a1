"""What fails in an engine: whose fault it is, who is told, and that nobody waits for ever."""

import math
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
from service.engine.engine import Engine
from service.engine.request import Request
from service.engine.runner import Runner
from service.engine.sequence import Decode, Prefill, PrefillResult, Task
from service.errors import ModelFailedError, QueueFullError
from service.metrics import Metrics
from service.text.manifest import TextManifest
from service.text.sampling import SamplingParams
from service.text.task import GenerateRequest, generate
from service.workers.board import EXIT_BROKEN
from tests.builders import CHARACTERS, open_graphs
from tests.service.test_scheduler import folder

FORBIDDEN = int(CHARACTERS.tokens(["Z"])[0])


class Broken(Runner):
    """A graph that fails where a row holds a forbidden token, or `broken` says so."""

    broken = False

    def run(self, inputs: Any, states: Any, outputs: Any) -> Any:
        """As that of any runner."""
        if self.broken or any(np.any(inputs.get(name, 0) == FORBIDDEN) for name in ("tokens", "given_tokens")):
            raise ModelFailedError("the model failed to run")
        return super().run(inputs, states, outputs)


class Opened:
    """An engine on the small text model, both graphs of which can be broken."""

    def __init__(self, smoke_test: Callable[[], object] = lambda: None) -> None:
        manifest, _, decoding = open_graphs(folder("text"))
        assert isinstance(manifest, TextManifest)
        assert decoding is not None
        assert manifest.decode is not None
        self.tokenizer = manifest.tokenizer
        self.reading = Broken(folder("text"), manifest.graph, threads=1)
        self.decoding = Broken(folder("text"), manifest.decode, threads=1)
        self._decoder = decoding.decoder
        self.start(smoke_test)

    def start(self, smoke_test: Callable[[], object] = lambda: None) -> None:
        """A new engine, on a thread of its own."""
        self.died = threading.Event()
        self.engine = Engine(
            "test",
            self.reading,
            DecodeGraph(self.decoding, self._decoder),
            True,
            10_000,
            Metrics().engine("test"),
            smoke_test=smoke_test,
            on_thread_death=lambda _: self.died.set(),
        )

    def text(self, prompt: str = "a", length: int = 30, n: int = 1) -> "Future[list[str]]":
        rows, task = generate(self.tokenizer, GenerateRequest(prompt, length, SamplingParams(), 5, n=n))

        def told() -> Task[list[str]]:
            yield from task
            return ["".join(row.text) for row in rows]

        return self.engine.submit(told(), length * n + 1)

    def read(self, *tokens: int) -> "Future[Result]":
        def task() -> Task[PrefillResult]:
            result: PrefillResult = yield Prefill({"tokens": np.array([tokens])}, ("logits",))
            return result

        return self.engine.submit(task(), len(tokens))


@contextmanager
def opened(smoke_test: Callable[[], object] = lambda: None) -> Iterator[Opened]:
    one = Opened(smoke_test)
    yield one
    if not one.died.is_set():
        one.engine.close()


def until(true: Callable[[], bool]) -> None:
    patience = time.monotonic() + 30
    while not true():
        assert time.monotonic() < patience


@contextmanager
def held(engine: Engine) -> Iterator[None]:
    """Whatever is asked meanwhile comes to the engine all at once."""
    entered, go = threading.Event(), threading.Event()

    def task() -> Task[None]:
        entered.set()
        go.wait(30)
        yield from ()

    waiting = engine.submit(task(), 1)
    assert entered.wait(30)
    yield
    go.set()
    waiting.result(30)


def test_one_request_for_which_the_model_fails_harms_no_other_and_says_nothing_of_the_model() -> None:
    with opened() as one:
        alone = one.read(2, 3, 4).result(30), one.text("b").result(30)
        with held(one.engine):
            reads = [one.read(2, 3, 4) for _ in range(5)]
            bad = one.read(2, FORBIDDEN, 4)
            texts = [one.text("b") for _ in range(5)]
            bad_text = one.text("cZ")
        assert isinstance(bad.exception(30), ModelFailedError)
        for read in reads:
            assert np.array_equal(read.result(30).outputs["logits"], alone[0].outputs["logits"])
        assert [text.result(30) for text in texts] == [alone[1]] * 5
        assert isinstance(bad_text.exception(30), ModelFailedError)
        assert not one.engine.failed


def test_a_state_that_fits_no_graph_ends_its_request_only() -> None:
    with opened() as one:
        alone = one.read(2, 3, 4).result(30), one.text("b").result(30)

        def wrong(wish: Prefill | Decode) -> Task[None]:
            yield wish

        states: list[dict[str, Any]] = [{"nothing": np.zeros((1, 3))}, {"logits": np.zeros((1, 3), dtype=np.float32)}]
        states.append({"logits": np.zeros((1, CHARACTERS.size))})  # in double precision
        rows, _ = generate(one.tokenizer, GenerateRequest("a", 9, SamplingParams(), 5))
        with held(one.engine):
            reads = [one.read(2, 3, 4) for _ in range(3)]
            texts = [one.text("b") for _ in range(3)]
            bad = [one.engine.submit(wrong(Decode(rows, state)), 9) for state in states]
            bad.append(one.engine.submit(wrong(Prefill({"tokens": np.ones((1, 3), int)}, ("logits",), states[0])), 9))
        for failed in bad:
            assert failed.exception(30) is not None
        for read in reads:
            assert np.array_equal(read.result(30).outputs["logits"], alone[0].outputs["logits"])
        assert [text.result(30) for text in texts] == [alone[1]] * 3
        assert not one.engine.failed
        assert one.engine.waiting_steps == 0


@pytest.mark.parametrize("error", [ModelFailedError("the model failed to run"), KeyError("our own mistake")])
def test_a_failing_decode_ends_those_in_it_and_nobody_after(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise error

    with opened() as one:
        with monkeypatch.context() as patch:
            patch.setattr(one.decoding, "run", broken)
            for failed in (one.text(), one.text()):
                assert failed.exception(30) is error
        assert one.text().result(30)


@pytest.mark.parametrize("times", [1, 3])
def test_a_model_that_fails_its_smoke_test_is_not_ready_until_it_passes_one(times: int) -> None:
    """It recovers by itself: no request comes."""
    left = times

    def smoke_test() -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            one.reading.broken = left > 0
            raise ModelFailedError("the model failed to run")

    with opened(smoke_test) as one:
        one.reading.broken = True
        with held(one.engine):
            asked = [one.read(2, 3) for _ in range(3)]
        for failed in asked:
            assert isinstance(failed.exception(30), ModelFailedError)
        until(lambda: not one.engine.failed)
        assert left < 0
        assert one.read(2, 3).result(30)


def test_a_model_that_fails_for_ever_is_never_ready_though_some_steps_succeed() -> None:
    tested = threading.Semaphore(0)

    def smoke_test() -> None:
        tested.release()
        raise ModelFailedError("the model failed to run")

    with opened(smoke_test) as one:
        assert isinstance(one.read(FORBIDDEN).exception(30), ModelFailedError)
        assert one.engine.failed
        assert one.read(2).result(30)
        assert one.engine.failed
        for _ in range(2):
            assert tested.acquire(timeout=30)
        assert one.engine.failed


def test_a_thread_that_ends_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    with opened() as one:
        monkeypatch.setattr(one.engine._scheduler, "turn", broken)
        monkeypatch.setattr(one.engine._scheduler, "end_all", broken)
        one.read(2)
        assert one.died.wait(30)
        until(lambda: one.engine.failed)


def test_an_error_that_no_guard_expects_ends_the_thread_too() -> None:
    def task() -> Task[None]:
        yield from ()
        raise SystemExit

    with opened() as one:
        one.engine.submit(task(), 1)
        assert one.died.wait(30)


def test_a_process_ends_with_the_thread_of_an_engine() -> None:
    """With a status of its own, so that what supervises it replaces it, and nobody waits for the thread for ever."""
    code = (
        "from service.engine.engine import Engine\n"
        "from service.metrics import Metrics\n"
        "def task():\n"
        "    yield from ()\n"
        "    raise SystemExit\n"
        "Engine('test', None, None, True, 9, Metrics().engine('test')).submit(task(), 1).result()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert ended.returncode == EXIT_BROKEN
    assert b"an engine's thread ended" in ended.stdout + ended.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised amid a garbage collection
def test_whatever_fails_at_any_moment_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MemoryError is raised at the n-th call that the engine's thread makes, for every n: whoever it did not concern
    gets the right answer, and so does whoever comes afterwards."""
    parts = ("service/engine/", "service/text/task.py", "service/text/stopping.py")
    with opened() as one:
        texts, read = [one.text("a", 12, 2).result(30), one.text("b", 20).result(30)], one.read(2, 3, 4).result(30)
    n, raised, ended = 1, True, 0  # the first call is that of the guard itself
    monkeypatch.setattr("service.engine.engine.structlog", MagicMock())
    where = ""
    while raised:
        n, raised, left = n + 1, False, n + 1

        def injected(frame: FrameType, event: str, _: object) -> None:
            nonlocal left, raised, where
            if event == "call" and any(part in frame.f_code.co_filename for part in parts):
                left -= 1
                if not left:
                    raised, where = True, frame.f_code.co_qualname
                    raise MemoryError

        threading.setprofile(injected)  # of the engine's thread, which starts now
        try:
            one.start()
        finally:
            threading.setprofile(None)
        asked: list[Future[Any]] = [one.text("a", 12, 2), one.text("b", 20), one.read(2, 3, 4), one.read(2, 3, 4)]
        patience = time.monotonic() + 30
        while wait(asked, 0.2).not_done and not one.died.is_set():
            assert time.monotonic() < patience, where
        left = 0  # no more
        if one.died.is_set():
            ended += 1
            continue
        failed = [isinstance(future.exception(30), MemoryError) for future in asked]
        # The second text is never in one call with what is read.
        assert not (failed[1] and any(failed[2:])), where
        for i in range(2):
            assert failed[i] or asked[i].result() == texts[i], where
        for i in range(2, 4):
            assert failed[i] or np.array_equal(asked[i].result().outputs["logits"], read.outputs["logits"]), where
        assert one.text("b", 20).result(30) == texts[1], where
        batch = one.engine._scheduler._batch
        assert batch is not None
        one.engine.close()
        assert one.engine.waiting_steps == 0, where
        assert not batch, where
        assert not one.engine._scheduler._reads, where
    assert n > 100
    assert ended <= 5


def done(backlog: Backlog, group: str, steps: int) -> None:
    def task() -> Task[None]:
        yield from ()

    backlog.done([(Request(task(), steps, math.inf, group), steps)])


def test_a_group_counts_for_half_of_the_queue_at_most() -> None:
    backlog = Backlog(1000)
    backlog.admit("large", 900)
    backlog.admit("small", 500)  # half is left to it, whatever the other holds
    for group, steps in (("small", 501), ("third", 1), ("large", 101)):
        with pytest.raises(QueueFullError):
            backlog.admit(group, steps)
    done(backlog, "large", 500)
    backlog.admit("third", 100)
    done(backlog, "large", 400)
    done(backlog, "small", 500)
    done(backlog, "third", 100)
    assert (backlog.total, backlog._counted, backlog._steps) == (0, 0, {})
    backlog.admit("larger than all", 5000)
    backlog.admit("small", 500)


def test_when_to_come_back_is_about_what_is_left() -> None:
    backlog = Backlog(1000)
    backlog.admit("a", 1000)
    backlog.admit("b", 500)
    backlog.took(1.0, 100)
    told = []
    for _ in range(3):
        with pytest.raises(QueueFullError) as refused:
            backlog.admit("c", 700)
        told.append(refused.value.retry_after)
        done(backlog, "a", 300)
    assert told == [15, 12, 9]


def test_steps_that_are_done_do_not_wait_any_more() -> None:
    seen: list[int] = []
    with opened() as one:
        run = one.decoding.run

        def watched(*arguments: Any) -> Any:
            seen.append(one.engine.waiting_steps)
            return run(*arguments)

        one.decoding.run = watched  # type: ignore[assignment,method-assign]
        one.text(length=60).result(30)
        assert seen == [61, 45, 29, 13]
        assert one.engine.waiting_steps == 0
