"""Writes the answers of the papers anew: `python -m tests.docs.write [PAGE...]`.

Runs every block, and where it prints something else than its page shows, writes what it printed into the page. JSON is
laid out anew, too: to show less of an answer, remove fields or items and leave `...` in their place. Also writes the
tables of settings into docs/operating.md. Read the change before you commit it.
"""

import sys
import tempfile
from pathlib import Path

from tests.docs import running, settings_table
from tests.docs.answers import DifferentError, compare, write
from tests.docs.blocks import PAGES, ROOT, blocks
from tests.e2e.serving import Service


def rewrite(page: str, service: Service) -> int:
    """Write the answers of a page anew. Returns how many have changed."""
    path = ROOT / page
    text = path.read_text()
    with tempfile.TemporaryDirectory() as folder:
        running.prepare(Path(folder), service)
        printed = running.run(list(blocks(text)), service, Path(folder))
    changed = 0
    for command, output in sorted(printed, key=lambda pair: pair[0].at, reverse=True):
        try:
            compare(output, command.answer)
        except DifferentError:
            changed += 1
        else:
            if not command.answer.startswith("{"):
                continue
        answer = write(output, command.answer)
        start, end = command.at
        if start == end and text[:end].endswith("```"):  # Python that printed nothing before
            answer = f"\n\n```text\n{answer}```"
        text = text[:start] + answer + text[end:]
    path.write_text(text)
    return changed


def main() -> None:
    """Write the pages named on the command line, or all."""
    settings_table.write()
    with running.service() as service:
        for page in sys.argv[1:] or PAGES:
            sys.stdout.write(f"{page}: {rewrite(page, service)} answers written anew\n")


if __name__ == "__main__":
    main()
