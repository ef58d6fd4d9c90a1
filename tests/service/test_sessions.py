"""The rules of sessions: locks and deadlines, clocks, and replayed answers."""

import asyncio
import math
import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DeadlineExceededError
from service.metrics import Metrics
from service.sessions.memory import MemoryStore
from service.sessions.sessions import Caller, ReplayedError, Sessions
from service.sessions.steady_clock import BELIEVED_AFTER, SteadyClock
from tests.stores import LIMITS

ANYBODY = Caller("")
MODEL = ("text", 1, "0")


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def sessions_in_memory(clock: Clock | None = None) -> Sessions:
    return Sessions(MemoryStore(LIMITS, 2**20, lambda: None), Metrics().sessions, 1000, 100, None, clock or Clock())


async def create_session(sessions: Sessions) -> str:
    """Create a session; return its id."""
    session = sessions.new(ANYBODY, MODEL, 0, 100)
    await sessions.create(ANYBODY, session, b"0", None)
    return session.id


async def replayed_answer(sessions: Sessions, caller: Caller) -> bytes:
    """The answer that the store has for a repetition of a call."""
    with pytest.raises(ReplayedError) as replayed:
        await sessions.check_replay(caller)
    return replayed.value.answer


async def ticks(count: int) -> None:
    """Let the event loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_call_that_comes_as_the_lock_is_handed_over_waits_no_longer_than_its_deadline() -> None:
    async def main() -> None:
        sessions = sessions_in_memory()
        id = await create_session(sessions)
        end = asyncio.Event()

        async def hold(deadline: float) -> None:
            async with sessions.update(ANYBODY, id, deadline):
                await end.wait()

        async with sessions.update(ANYBODY, id, math.inf):
            waiting = asyncio.create_task(hold(math.inf))
            await ticks(3)
            # It will find the lock free, but promised to the waiting call.
            late = asyncio.create_task(hold(time.monotonic() + 0.01))
        done, _ = await asyncio.wait([late], timeout=10)
        end.set()
        await waiting
        assert done == {late}
        assert isinstance(late.exception(), DeadlineExceededError)

    asyncio.run(main())


@dataclass(frozen=True)
class Plan:
    """What one call does. `starts`: ticks before it comes; `holds`: ticks that it has the session; `patient`: waits as
    long as it takes, or not at all; `cancelled`: ticks after which it is cancelled, if it has not ended."""

    starts: int
    holds: int
    patient: bool
    cancelled: int


plans = st.builds(Plan, st.integers(0, 8), st.integers(0, 4), st.booleans(), st.integers(1, 30))


@given(st.lists(plans, max_size=8))
def test_one_call_at_a_time_has_the_session_however_calls_end(plans: list[Plan]) -> None:
    async def main() -> None:
        sessions = sessions_in_memory()
        id = await create_session(sessions)
        inside = 0

        async def call(plan: Plan) -> None:
            nonlocal inside
            await ticks(plan.starts)
            deadline = math.inf if plan.patient else time.monotonic() - 1
            async with sessions.update(ANYBODY, id, deadline):
                inside += 1
                try:
                    assert inside == 1
                    await ticks(plan.holds)
                finally:
                    inside -= 1

        async def cancel(task: asyncio.Task[None], after: int) -> None:
            await ticks(after)
            task.cancel()

        calls = [asyncio.create_task(call(plan)) for plan in plans]
        cancelling = [cancel(task, plan.cancelled) for task, plan in zip(calls, plans, strict=True)]
        outcomes, _ = await asyncio.gather(asyncio.gather(*calls, return_exceptions=True), asyncio.gather(*cancelling))
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, DeadlineExceededError | asyncio.CancelledError), outcome
        # The next call has the session at once.
        async with sessions.update(ANYBODY, id, time.monotonic() - 1):
            assert inside == 0

    asyncio.run(main())


def test_a_clock_that_goes_back_shortens_no_session() -> None:
    async def main() -> None:
        clock = Clock()
        sessions = sessions_in_memory(clock)
        id = await create_session(sessions)
        clock.now -= 30 * 86_400
        async with sessions.update(ANYBODY, id, math.inf) as update:
            await update.commit(update.next_version(1), b"1", None)
        clock.now += 30 * 86_400
        assert (await sessions.get(ANYBODY, id))[1] == b"1"

    asyncio.run(main())


def test_a_clock_that_jumps_ahead_and_is_put_right_ends_no_session() -> None:
    async def main() -> None:
        clock = Clock()
        sessions = sessions_in_memory(clock)
        id = await create_session(sessions)
        clock.now += 3 * 86_400
        await sessions.sweep()
        await sessions.measure()
        clock.now -= 3 * 86_400
        assert (await sessions.get(ANYBODY, id))[1] == b"0"

    asyncio.run(main())


def test_a_steady_clock_believes_a_jump_that_lasts() -> None:
    clock, elapsed = Clock(1000.0), Clock(0.0)
    steady = SteadyClock(clock, elapsed)

    def passes(seconds: float) -> float:
        clock.now += seconds
        elapsed.now += seconds
        return steady()

    assert passes(30) == 1030
    clock.now += 10  # a clock may be put right by a little
    assert passes(30) == 1070
    clock.now -= 500
    assert passes(30) == 600
    clock.now += 86_400
    assert passes(30) == 630
    assert passes(BELIEVED_AFTER - 1) == 630 + BELIEVED_AFTER - 1
    assert passes(1) == clock.now
    clock.now += 86_400
    assert passes(30) == clock.now - 86_400
    clock.now -= 86_400
    assert passes(30) == clock.now


def test_a_large_answer_is_stored_compressed_and_replayed_to_the_byte() -> None:
    answer = b'[200,{}]\n{"logprobs":[' + b",".join(b"%d.5" % n for n in range(200_000)) + b"]}"

    async def main() -> None:
        sessions = sessions_in_memory()
        keyed = Caller("", "key", "fingerprint")
        await sessions.create(keyed, sessions.new(keyed, MODEL, 0, 100), b"0", answer)
        assert await replayed_answer(sessions, keyed) == answer
        await sessions.measure()

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 300_000])
def test_answers_of_any_size_are_replayed_to_the_byte(size: int) -> None:
    async def main() -> None:
        sessions = sessions_in_memory()
        keyed = Caller("", "key", "fingerprint")
        answer = b"[" + b"\x00\xff" * size
        await sessions.create(keyed, sessions.new(keyed, MODEL, 0, 100), b"0", answer)
        assert await replayed_answer(sessions, keyed) == answer

    asyncio.run(main())
