"""Every command of README.md and docs/ prints what its page shows."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import running, settings_table
from tests.docs.answers import WIDTH, DifferentError, compare, layout, parse, shorten, write
from tests.docs.blocks import PAGES, ROOT, SHOWN, blocks
from tests.e2e.serving import Service

SERVES = "starts a service"
TRAINS = "trains a model; tests/e2e/test_train_to_answer.py does, in small"
DATA = "needs data that is not in this repository"
NOT_RUN = {
    "README.md": {"starts a service, or runs all tests": 1, TRAINS: 1},
    "docs/batch.md": {"needs an engine of its own; tests/clusters runs it": 5},
    "docs/decisions/0015-kinds-and-one-way-through.md": {"a sketch": 1},
    "docs/evaluation.md": {DATA: 3},
    "docs/index.md": {SERVES: 1},
    "docs/operating.md": {SERVES: 2, "needs Docker": 1, "needs a cluster": 1},
    "docs/training.md": {TRAINS: 4, DATA: 2},
}
"""The blocks that no test of this folder runs: for each page the reasons, and how many blocks have them."""
TYPED = re.compile(r"^\s*(?:\$ |(?:carry|curl|docker|kubectl|make|pip|python3?|torchrun) )", re.MULTILINE)
"""A line that a person may type."""
RUN = [
    page
    for page in PAGES
    if any(block.commands and block.reason is None for block in blocks((ROOT / page).read_text()))
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The service that the pages call."""
    with running.service() as started:
        yield started


@pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="curl is not installed")
@pytest.mark.parametrize("page", RUN)
def test_every_command_of_a_page_prints_what_the_page_shows(page: str, service: Service, tmp_path: Path) -> None:
    running.prepare(tmp_path, service)
    different = []
    for command, printed in running.run(list(blocks((ROOT / page).read_text())), service, tmp_path):
        try:
            compare(printed, command.answer)
        except DifferentError as error:
            different.append(f"{command.code.strip()}\n{error}")
    assert not different, "\n\n".join([*different, "python -m tests.docs.write writes the answers anew"])


def test_every_block_is_run_or_says_why_it_is_not() -> None:
    not_run = {}
    for page in PAGES:
        for block in blocks((ROOT / page).read_text()):
            assert block.language in {"console", "python", *SHOWN}, f"{page}: a block of {block.language!r}"
            if block.language in SHOWN:
                assert not TYPED.search(block.body), f"{page}: a command in a block that is not run:\n{block.body}"
            elif block.reason is None:
                assert not any(command.answer.strip() == "..." for command in block.commands), f"{page}: {block.body}"
            if block.language == "console":
                assert block.body.startswith("$ "), f"{page}: a console block begins with a dollar:\n{block.body}"
        reasons = Counter(block.reason for block in blocks((ROOT / page).read_text()) if block.reason is not None)
        if reasons:
            not_run[page] = dict(reasons)
    assert not_run == NOT_RUN


def test_the_page_of_settings_is_that_of_the_settings() -> None:
    assert settings_table.PAGE.read_text() == settings_table.page(), "python -m tests.docs.write"


def test_an_answer_may_leave_out_fields_items_and_letters() -> None:
    printed = json.dumps({"id": "0" * 32, "a": [1.00001, 2, 3, 4], "text": "abcdef", "none": None})
    shown = f'{{"id": "{"1" * 32}", "a": [1.0, ..., 4], "text": "abc...", ...}}'
    compare(printed, shown)
    for wrong in (
        shown.replace("1.0", "1.1"),
        shown.replace("4", "5"),
        shown.replace("abc", "abd"),
        shown.replace(", ...}", "}"),
        shown.replace('"text"', '"words"'),
    ):
        with pytest.raises(DifferentError):
            compare(printed, wrong)


def test_a_line_of_dots_stands_for_lines() -> None:
    compare("one 1.2345\ntwo\nthree\nfour", "one 1.23\n...\nfour")
    for wrong in ("one 1.24\n...\nfour", "one 1.23\n...\nfive", "one 1.23\nfour", "one\ntwo\n...\nthree\nfour\nfive"):
        with pytest.raises(DifferentError):
            compare("one 1.2345\ntwo\nthree\nfour", wrong)


def test_a_stream_is_compared_by_its_text() -> None:
    printed = 'data: {"text":"ab"}\n\ndata: {"text":"cd"}'
    compare(printed, 'data: {"text":"abc"}')
    with pytest.raises(DifferentError):
        compare(printed, 'data: {"text":"abd"}')


def test_an_answer_written_anew_shows_what_it_showed_before() -> None:
    printed = '{"a":[1.23456789,2.5,3.5,4.5,5.5],"b":null,"text":"a longer text","c":{"d":1,"e":2}}'
    assert write(printed, '{"text": "some...", "c": {"e": 0, ...}, ...}') == (
        '{"text": "a lo...", "c": {"e": 2, ...}, ...}\n'
    )
    new = write(printed, "")
    assert new == '{"a": [1.23457, 2.5, 3.5, ...], "text": "a longer text", "c": {"d": 1, "e": 2}, ...}\n'
    compare(printed, new)
    assert write("head\nb\nc\ntail", "head\n...\nend") == "head\n...\ntail\n"


def test_a_long_answer_is_laid_out_in_lines_that_a_page_can_show() -> None:
    value = {
        "numbers": [i / 7 for i in range(40)],
        "word": "x" * 50,
        "more": {"deep": [{"a": "y" * 60, "b": "z" * 60}]},
    }
    text = layout(shorten(value, {"numbers": [0.0] * 40}))
    assert max(map(len, text.splitlines())) <= WIDTH
    compare(json.dumps(value), text)
    assert parse(text)["word"] == value["word"]
