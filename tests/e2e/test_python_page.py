"""The code of docs/python.md runs, and prints what the page shows."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import SHIPPED
from tests.e2e.serving import Service
from tests.e2e.test_readme import PATIENCE, SEPARATOR, TOKEN, assert_same

PAGE = SHIPPED.parent / "docs/python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$(?:\n+^```\n(.*?)^```$)?", PAGE.read_text(), re.MULTILINE | re.DOTALL)
"""The code of each block, and what the page says that it prints."""
KEY = "a-key-of-sixteen-letters"


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """The output of each block. They run one after another in one program, with graphs in float32, so that they print
    the same on any processor."""
    program = "".join(f"{code}\nprint({SEPARATOR!r})\n" for code, _ in BLOCKS)
    with Service(SHIPPED, "memory://", api_keys=KEY, precision="float32") as service:
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", program.replace("http://localhost:8000", service.url)],
            cwd=PAGE.parent.parent,
            env=os.environ | {"CARRY_PRECISION": "float32"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    return result.stdout.split(SEPARATOR)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_prints_what_the_page_shows(number: int, printed: list[str]) -> None:
    assert_same(TOKEN.findall(printed[number].strip()), TOKEN.findall(BLOCKS[number][1].strip()))
