"""The commands of README.md print what README.md shows."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from service.engine.runner import int8_is_exact
from tests.conftest import SHIPPED
from tests.e2e.serving import CARRY, Service

README = SHIPPED.parent / "README.md"
PATIENCE = 300.0
"""Seconds for all commands together."""
SEPARATOR = "\x1e"
CHANCE = re.compile(r'[0-9a-f]{32}|(?<="created":)\d+|\d{4}-\d\d-\d\dT[\d:.]+\+00:00')
"""Ids and times."""
TOKEN = re.compile(r"-?\d+\.\d+(?:e-?\d+)?|\s+|.")

pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="curl is not installed"),
    pytest.mark.skipif(not int8_is_exact(), reason="with float32, the texts differ"),
]


@dataclass(frozen=True)
class Example:
    """A command, and its output."""

    command: str
    printed: str


def examples(text: str) -> Iterator[Example]:
    """The lines of code blocks that begin with a dollar, each with its output: the lines up to the next dollar."""
    for block in re.findall(r"^```\n(\$ .*?)^```$", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield Example(command, printed)


EXAMPLES = list(examples(README.read_text()))


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """The output of each command. They run one after another in one shell."""
    with Service(SHIPPED, "memory://") as service:
        script = "".join(f"{example.command}\nprintf '\\036'\n" for example in EXAMPLES)
        result = subprocess.run(
            ["bash", "-c", script.replace("http://localhost:8000", service.url)],
            cwd=README.parent,
            env=os.environ | {"PATH": f"{CARRY.parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    return result.stdout.split(SEPARATOR)[:-1]


@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=[example.command[:70] for example in EXAMPLES])
def test_a_command_prints_what_the_readme_shows(number: int, printed: list[str]) -> None:
    output, expected = printed[number].strip(), EXAMPLES[number].printed.strip()
    if expected.startswith("data: "):
        output, expected = same_length(streamed_text(output), streamed_text(expected))
    output, expected = (CHANCE.sub("*", text) for text in (output, expected))
    # README.md leaves out the text at three dots.
    beginning, *others = (part.strip() for part in expected.split("..."))
    tokens, expected_tokens = TOKEN.findall(output), TOKEN.findall(beginning)
    assert_same(tokens[: len(expected_tokens)], expected_tokens)
    assert others or len(tokens) == len(expected_tokens)
    assert all(other in output for other in others)


def assert_same(tokens: list[str], expected: list[str]) -> None:
    """The tokens are the same, except for the last digits of numbers, which depend on the processor."""
    assert list(map(number_or_text, tokens)) == [
        pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value
        for value in map(number_or_text, expected)
    ]


def number_or_text(token: str) -> float | str:
    """A token to compare. The width of a column varies, so white space counts as one space."""
    if token.isspace():
        return " "
    return float(token) if "." in token and token != "." else token


def streamed_text(stream: str) -> str:
    """The text of a stream. How it is cut into events depends on timing."""
    frames = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    texts = [choice["text"] for frame in frames for choice in frame.get("choices", [frame])]
    assert any(texts)
    return "".join(texts)


def same_length(*texts: str) -> list[str]:
    """The beginnings of the texts, as long as the shortest text."""
    return [text[: min(map(len, texts))] for text in texts]
