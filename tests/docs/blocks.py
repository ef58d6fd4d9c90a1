"""Finds the blocks of a page: what a person may type, and what the page says that it prints.

Three kinds of block: `console` (lines that begin with a dollar are commands, and the lines after one are its answer),
`python` (a `text` block right after one is what it prints), and blocks that are only shown. A comment before a block,
`<!-- not run: why -->`, says that no test runs it. Knows nothing of running.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))))
SHOWN = {"text", "json", "yaml"}
"""Languages of blocks that are only shown."""

_BLOCK = re.compile(
    r"^(?:(?P<indent> *)<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^(?P<margin> *)```(?P<language>[^\n]*)\n(?P<body>.*?)^(?P=margin)```$",
    re.MULTILINE | re.DOTALL,
)
_COMMAND = re.compile(r"^\$ ((?:\\\n|'[^']*'|[^\n'])*\n?)", re.MULTILINE)
"""A command ends with its line, unless that ends with a backslash or within single quotes."""


@dataclass(frozen=True)
class Command:
    """A command of a page, or its Python code. `answer` is what the page says that it prints; `at` is where that stands
    in the page, from and to."""

    code: str
    answer: str
    at: tuple[int, int]


@dataclass(frozen=True)
class Block:
    """One fenced block. `commands` are those of a `console` block, or the code of a `python` block."""

    language: str
    body: str
    reason: str | None
    """Why no test runs it; None if one does."""
    commands: list[Command] = field(default_factory=list)


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page, in its order."""
    found = list(_BLOCK.finditer(text))
    outputs: set[int] = set()
    for i, match in enumerate(found):
        if i in outputs:
            continue
        commands = []
        if match["language"] == "console":
            commands = list(_console(match["body"], match.start("body")))
        elif match["language"] == "python":
            following = found[i + 1] if i + 1 < len(found) else None
            end = match.end()
            commands = [Command(match["body"], "", (end, end))]
            if following and following["language"] == "text" and not text[end : following.start()].strip():
                outputs.add(i + 1)
                commands = [Command(match["body"], following["body"], following.span("body"))]
        yield Block(match["language"], match["body"], match["reason"], commands)


def _console(body: str, start: int) -> Iterator[Command]:
    found = list(_COMMAND.finditer(body))
    for match, after in zip(found, [*(m.start() for m in found[1:]), len(body)], strict=True):
        yield Command(match[1].rstrip("\n"), body[match.end() : after], (start + match.end(), start + after))
