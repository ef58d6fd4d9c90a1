"""dateutil and dateparser on dates as people write them.

Runs in an environment of its own. Reads a JSON list of texts from standard input, and answers with a line of JSON: by
parser, the dates in ISO 8601 (null where it reads none) and the milliseconds that each text took.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import dateparser
from dateutil import parser

LANGUAGES = ["en", "de", "fr", "es", "it", "pt", "nl", "pl", "sv", "da", "nb", "fi", "cs"]
SETTINGS = {"DATE_ORDER": "DMY", "PREFER_LOCALE_DATE_ORDER": False, "REQUIRE_PARTS": ["day", "month", "year"]}


def by_dateutil(text: str) -> datetime:
    """The day first, as in the other parsers."""
    return parser.parse(text, dayfirst=True)


def by_dateparser(text: str) -> datetime | None:
    """In the languages of the pairs, the day first."""
    found: datetime | None = dateparser.parse(text, languages=LANGUAGES, settings=SETTINGS)
    return found


def measure(parse: Callable[[str], datetime | None], texts: list[str]) -> dict[str, object]:
    """What a parser reads, and how long it takes."""
    dates: list[str | None] = []
    started = time.perf_counter()
    for text in texts:
        dates.append(None)
        with suppress(ValueError, OverflowError):
            date = parse(text)
            dates[-1] = date.date().isoformat() if date else None
    return {"dates": dates, "ms": 1000 * (time.perf_counter() - started) / len(texts)}


if __name__ == "__main__":
    texts = json.load(sys.stdin)
    parsers = {"dateutil": by_dateutil, "dateparser": by_dateparser}
    sys.stdout.write(json.dumps({name: measure(parse, texts) for name, parse in parsers.items()}) + "\n")
