"""Makes pairs of a date as people write it, in thirteen European languages, and the same date in ISO 8601: what the
model `dates` learns from.

`python -m training.data.dates train > dates.tsv` writes the pairs to train on, `python -m training.data.dates unseen`
those to measure on: their formats occur in no pair to train on. A source can mean several dates; these rules decide:

- The day comes first (3/4/2021 is 3 April), unless that is no date (4/13/2021 is 13 April) or the year comes first.
- A year of two digits is 1969 to 2068 (as in POSIX), and comes last. A year that comes first has four digits.
- A weekday is read over, whether it is the date's or not.
"""

import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from random import Random

from training.data.date_names import DAYS_IN_WORDS, LANGUAGES, ROMAN, Language

PARTS = {"train": (1, 400_000), "unseen": (2, 5_000)}
"""The seed of each part and how many pairs it has."""

WITH_NAMES = (
    "{day} {month} {year}",
    "{day} {month}, {year}",
    "{ordinal} {month} {year}",
    "{day}-{month}-{year}",
    "{day}/{month}/{year}",
    "{day}.{month}.{year}",
    "{dd}{month}{year}",
    "{weekday} {day} {month} {year}",
    "{weekday}, {day} {month} {year}",
    "{weekday} {day}-{month}-{year}",
    "{weekday}, {month} {day}, {year}",
    "{weekday} {month} {day}, {year}",
    "{day} {month} {year} ({weekday})",
    "{day} {month} {year} {weekday}",
    "{month} {day}, {year}",
    "{month} {day} {year}",
    "{month}-{day}-{year}",
    "{month}/{day}/{year}",
    "{month}.{day}.{year}",
    "{yyyy} {month} {day}",
    "{yyyy}-{month}-{day}",
    "{yyyy}/{month}/{day}",
    "{yyyy}. {month} {day}",
    "({day} {month} {year})",
)
"""Formats with the name of the month, in any language."""
NUMERIC = (
    "{d}.{m}.{year}",
    "{d}/{m}/{year}",
    "{d}-{m}-{year}",
    "{d} {m} {year}",
    "{d}. {m}. {year}",
    "{d} / {m} / {year}",
    "{d} . {m} . {year}",
    "{d}/{m}-{year}",
    "{d}/{m} {year}",
    "{d},{m},{year}",
    "{yyyy}-{m}-{d}",
    "{yyyy}/{m}/{d}",
    "{yyyy} {m} {d}",
    "{yyyy}. {m}. {d}",
    "{yyyy} / {m} / {d}",
    "{yyyy}{mm}{dd}",
    "{weekday} {d}.{m}.{year}",
    "{weekday}, {d}/{m}/{year}",
    "{weekday} {d}/{m}/{year}",
    "{weekday} {d}-{m}-{year}",
    "{weekday} {yyyy}-{m}-{d}",
    "{d}/{m}/{year} ({weekday})",
    "{d}.{m}.{year}, {weekday}",
    "({d}.{m}.{year})",
    "{d} {roman} {year}",
    "{d}.{roman}.{year}",
    "{d}/{roman}/{year}",
)
MONTH_FIRST = ("{m}/{d}/{year}", "{m}-{d}-{year}", "{m}.{d}.{year}", "{m} {d} {year}", "{weekday}, {m}/{d}/{year}")
"""Formats of days after the twelfth only: their first number would else be the day."""
UNSEEN_WITH_NAMES = (
    "{weekday} {month} {day} {year}",
    "{weekday}, {day}-{month}-{year}",
    "{weekday}, {day} {month}, {year}",
    "{day} {month} {year}, {weekday}",
    "{day}, {month} {year}",
    "{day} / {month} / {year}",
    "{yyyy}.{month}.{day}",
    "{yyyy}, {month} {day}",
    "({weekday}) {day} {month} {year}",
)
UNSEEN_NUMERIC = (
    "{d} - {m} - {year}",
    "{d} {m}, {year}",
    "{weekday}, {d}.{m}.{year}",
    "{weekday}, {d}-{m}-{year}",
    "({weekday}) {d}/{m}/{year}",
    "{d}-{m}-{year}, {weekday}",
    "{yyyy}.{m}.{d}",
    "{weekday}, {yyyy}-{m}-{d}",
    "{d}-{roman}-{year}",
    "{weekday} {d} {roman} {year}",
)
UNSEEN_MONTH_FIRST = ("{weekday} {m}/{d}/{year}",)


def sample_pairs(seed: int, count: int, unseen: bool = False) -> Iterator[tuple[str, str]]:
    """Dates as people write them, each with the date in ISO 8601; `unseen`: in the formats that are held out."""
    rng = Random(seed)
    languages = list(LANGUAGES.values())
    for _ in range(count):
        language, day = rng.choice(languages), _day(rng)
        pattern = _pattern(rng, language, day, unseen)
        slipped = _slip(rng, pattern)
        if unseen or not is_unseen(slipped):
            pattern = slipped
        yield _mistype(rng, write_date(rng, language, day, pattern)), day.isoformat()


def is_unseen(pattern: str) -> bool:
    """Whether a format is held out, also where it writes its day, month or year otherwise."""
    return shape_of(pattern) in _UNSEEN_SHAPES


def shape_of(pattern: str) -> str:
    """A format without how its numbers and names are written."""
    for placeholder, general in _SHAPES.items():
        pattern = pattern.replace(placeholder, general)
    return pattern


_SHAPES = {
    "{ordinal}": "{d}",
    "{day}": "{d}",
    "{dd}": "{d}",
    "{mm}": "{m}",
    "{yyyy}": "{year}",
    "{weekday_name}": "{weekday}",
    "  ": " ",
}
_UNSEEN_SHAPES = {
    shape_of(pattern)
    for patterns in (
        UNSEEN_WITH_NAMES,
        UNSEEN_NUMERIC,
        UNSEEN_MONTH_FIRST,
        *(language.unseen for language in LANGUAGES.values()),
    )
    for pattern in patterns
}


def _day(rng: Random) -> date:
    """Of a year of the last and the next decades, or of any from 1000 to 2999."""
    first, last = (1930, 2050) if rng.random() < 0.75 else (1000, 2999)
    return date.fromordinal(rng.randint(date(first, 1, 1).toordinal(), date(last, 12, 31).toordinal()))


def _pattern(rng: Random, language: Language, day: date, unseen: bool) -> str:
    month_first = UNSEEN_MONTH_FIRST if unseen else MONTH_FIRST
    if day.day > 12 and rng.random() < 0.08:
        return rng.choice(month_first)
    groups: tuple[tuple[str, ...], ...] = (language.patterns, WITH_NAMES, NUMERIC)
    if unseen:
        groups = (language.unseen, UNSEEN_WITH_NAMES, UNSEEN_NUMERIC)
    return rng.choice(rng.choices(groups, (0.35, 0.4, 0.25))[0])


def write_date(rng: Random, language: Language, day: date, pattern: str) -> str:
    """A date in a format. Where the format leaves a choice, as between names and abbreviations, `rng` decides."""
    weekday = day.weekday() if rng.random() < 0.8 else rng.randrange(7)
    short, dotted = rng.random() < 0.4, rng.random() < 0.5

    def name(full: Sequence[str], abbreviations: Sequence[str]) -> str:
        return rng.choice(abbreviations) + "." * dotted if short else rng.choice(full)

    def year() -> str:
        if not 1969 <= day.year <= 2068 or rng.random() < 0.7:
            return f"{day.year}"
        return ("'" if rng.random() < 0.25 else "") + f"{day.year % 100:02}"

    def ordinal() -> str:
        if day.day == 1 and language.first and rng.random() < 0.5:
            return rng.choice(language.first)
        return f"{day.day}{language.ordinals.get(day.day, language.ordinals.get(0, ''))}"

    def padded(number: int) -> str:
        return f"{number:02}" if zeros else f"{number}"

    zeros = rng.random() < 0.5
    parts: dict[str, Callable[[], str]] = {
        "{weekday}": lambda: name(language.weekdays[weekday], language.short_weekdays[weekday]),
        "{weekday_name}": lambda: rng.choice(language.weekdays[weekday]),
        "{month}": lambda: name(language.months[day.month - 1], language.short_months[day.month - 1]),
        "{day}": lambda: padded(day.day) if rng.random() < 0.6 else ordinal(),
        "{ordinal}": ordinal,
        "{words}": lambda: DAYS_IN_WORDS[day.day - 1][0],
        "{d}": lambda: padded(day.day),
        "{m}": lambda: padded(day.month),
        "{dd}": lambda: f"{day.day:02}",
        "{mm}": lambda: f"{day.month:02}",
        "{roman}": lambda: ROMAN[day.month - 1][0],
        "{year}": year,
        "{yyyy}": lambda: f"{day.year:04}",
    }
    text = pattern
    for placeholder, written in parts.items():
        if placeholder in text:
            text = text.replace(placeholder, written())
    return text


def _slip(rng: Random, pattern: str) -> str:
    """The format with one of the liberties that people take with commas and spaces, in a quarter of the cases."""
    if rng.random() < 0.75:
        return pattern
    old, new = rng.choice(((" ", "  "), (", ", " "), (", ", ","), (", ", " , ")))
    pieces = pattern.split(old)
    cut = rng.randint(1, len(pieces))
    return old.join(pieces[:cut]) + (new if cut < len(pieces) else "") + old.join(pieces[cut:])


def _mistype(rng: Random, text: str) -> str:
    """The text with the liberties that people take with case, accents, dots and what stands around a date."""
    change = rng.random()
    if change < 0.15:
        text = text.lower()
    elif change < 0.27:
        text = text.upper()
    elif change < 0.35:
        text = text.title()
    elif change < 0.4:
        i = rng.randrange(len(text))
        text = text[:i] + text[i].swapcase() + text[i + 1 :]
    if rng.random() < 0.1:
        text = _without_accents(text)
    around = rng.random()
    if around < 0.04:
        text = text.replace(". ", " ", 1)
    elif around < 0.08:
        text = text.replace(". ", ".", 1)
    elif around < 0.12:
        text += rng.choice((".", ",", " ", ";", ":", " .", "!"))
    elif around < 0.14:
        text = rng.choice((" ", "  ", "- ", ", ")) + text
    return unicodedata.normalize("NFC", text)


def _without_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text.translate(_LETTERS))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


_LETTERS = str.maketrans("łŁøØ", "lLoO")
"""Letters that have no accent to take off, and what people write instead."""


def main(part: str) -> None:
    """Write a part as lines of a source, a tab and its target."""
    seed, count = PARTS[part]
    for source, target in sample_pairs(seed, count, unseen=part == "unseen"):
        sys.stdout.write(f"{source}\t{target}\n")


if __name__ == "__main__":
    main(sys.argv[1])
