"""What a command says while it works: lines elsewhere than on a terminal, and none unless a command asks for them."""

import logging

import pytest

from training import progress
from training.progress import SECONDS, say, to_stderr, track


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_long_stage_has_a_line_every_few_seconds_and_at_each_milestone(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with to_stderr(), track(4) as update:
        for step in range(4):
            clock.now += 0.6 * SECONDS
            update(step, f"step {step} [of] 4")
        update(4, "done", always=True)
    assert capsys.readouterr().err.splitlines() == ["carry: step 1 [of] 4", "carry: step 3 [of] 4", "carry: done"]


def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    with to_stderr():
        say("a " * 200)
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_is_said_unless_a_command_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    with to_stderr():
        pass
    say("reading")
    with track(1) as update:
        update(1, "done", always=True)
    assert capsys.readouterr() == ("", "")


def test_warnings_of_this_package_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    with to_stderr():
        logging.getLogger("training.evaluation.baselines").warning("%d of %d fits failed", 1, 2)
    assert capsys.readouterr().err == "carry: 1 of 2 fits failed\n"
