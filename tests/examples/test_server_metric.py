"""examples/server-metric: the README's commands, and a watch that is stopped at any moment and goes on."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import carry
from tests.conftest import SHIPPED
from tests.e2e.serving import Service
from tests.examples.conftest import EXAMPLES, check_readme, program

FOLDER = EXAMPLES / "server-metric"
watch = program("server-metric/watch.py")
LEARN, ROWS = 20, 60
"""Few rows are enough to see that nothing is lost: at a level of 50, every other value is out of the ordinary."""


def rows() -> list[Any]:
    """The first rows, with a missing value."""
    with open(FOLDER / "metrics.csv", newline="") as file:
        rows = [(row["time"], row["metric"], float(row["value"])) for row in csv.DictReader(file)][: 2 * ROWS]
    return [watch.Row(time, metric, None if i == 90 else value) for i, (time, metric, value) in enumerate(rows)]


def announced(
    url: str, file: Path, capsys: pytest.CaptureFixture[str], count: int = 2 * ROWS, at_once: int = 10
) -> list[str]:
    """What a new watch prints about the first rows."""
    with carry.Client(url) as client:
        watching = watch.Watch(client, file, level=50, learn=LEARN)
        for first in range(0, count, at_once):
            watching.read(rows()[first : min(first + at_once, count)])
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def uninterrupted(served: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a watch prints that nobody stops."""
    lines = announced(served.url, tmp_path / "uninterrupted.json", capsys)
    assert len(lines) > 20
    return lines


def test_the_readme_prints_what_it_shows(served: Service, tmp_path: Path) -> None:
    check_readme("server-metric", served, tmp_path)


def test_a_watch_that_is_started_again_goes_on_and_repeats_nothing(
    served: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], uninterrupted: list[str]
) -> None:
    file = tmp_path / "sessions.json"
    first = announced(served.url, file, capsys, count=81)
    assert first
    assert announced(served.url, file, capsys, count=81) == []
    assert first + announced(served.url, file, capsys) == uninterrupted


def test_values_that_were_judged_and_not_announced_are_judged_again(
    served: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], uninterrupted: list[str]
) -> None:
    file = tmp_path / "sessions.json"
    first = announced(served.url, file, capsys, count=80)
    values = [row.value for row in rows()[80:90] if row.metric == "requests"]
    with carry.Client(served.url) as client:
        client.attach(json.loads(file.read_text())["requests"]["session"]).anomalies(values, level=50)
    assert first + announced(served.url, file, capsys) == uninterrupted


def test_values_one_by_one_are_judged_as_many_at_once(
    served: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], uninterrupted: list[str]
) -> None:
    assert announced(served.url, tmp_path / "sessions.json", capsys, at_once=1) == uninterrupted


def test_a_session_that_is_gone_begins_anew_and_says_so(
    served: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sessions.json"
    announced(served.url, file, capsys, count=80)
    seen = json.loads(file.read_text())
    with carry.Client(served.url) as client:
        client.attach(seen["latency"]["session"]).close()
        watching = watch.Watch(client, file, level=50, learn=LEARN)
        watching.read(rows()[80:])
    printed = capsys.readouterr()
    assert printed.err == "latency: the service has no session of it any more, and learns it anew\n"
    # 20 of its 20 further values are learnt from.
    assert {line.split()[1] for line in printed.out.splitlines()} == {"requests"}
    assert json.loads(file.read_text())["latency"]["values"] == ROWS - 40


def test_a_watch_waits_for_a_service_that_is_killed_and_started_again(tmp_path: Path, uninterrupted: list[str]) -> None:
    lines = [f"{time},{metric},{'' if value is None else value}\n" for time, metric, value in rows()]
    with Service(SHIPPED, f"sqlite:///{tmp_path}/sessions.db", precision="float32") as service:
        command = [
            sys.executable,
            str(FOLDER / "watch.py"),
            "-",
            "--url",
            service.url,
            "--level=50",
            f"--learn={LEARN}",
        ]
        with subprocess.Popen(
            command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as watching:
            assert watching.stdin is not None
            assert watching.stdout is not None
            watching.stdin.write("".join(["time,metric,value\n", *lines]))
            watching.stdin.close()
            printed = [watching.stdout.readline() for _ in range(5)]
            service.kill()
            service.start()
            printed += watching.stdout
            assert watching.wait() == 0
    assert [line.rstrip("\n") for line in printed] == uninterrupted
